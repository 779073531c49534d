use serde_json::Value;

use crate::process::chatpulse;

/// Runs a judged demo and gives its verdict.
fn judged(data_dir: &std::path::Path, events: u64, seed: u64) -> Value {
    let output = chatpulse("demo", data_dir)
        .args(["--events", &events.to_string(), "--seed", &seed.to_string()])
        .args(["--exit", "--json"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let verdict: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {:?} {stderr}", output.stdout));
    assert!(output.status.success(), "{verdict:#} {stderr}");
    verdict
}

#[test]
fn a_demo_balances_and_equals_the_truth_on_an_empty_folder_and_on_the_full_one() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    for seed in [1, 2] {
        let verdict = judged(&data_dir, 6_000, seed);
        assert_eq!(verdict["sent"], 6_000);
        assert_eq!(verdict["stored"], 6_000);
        assert_eq!(verdict["balanced"], true);
        assert_eq!(verdict["equals_truth"], true);
        for what in ["accepted", "duplicate"] {
            assert!(
                verdict[what].as_u64().unwrap() > 0,
                "no {what}: {verdict:#}"
            );
        }
        assert!(!verdict["rejected"].as_object().unwrap().is_empty());
    }
}
