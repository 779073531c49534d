use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Builds on a loaded machine are slow.
const DEADLINE: Duration = Duration::from_secs(120);

/// The benchmark on embedded engines with a load that any machine carries.
fn bench(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatpulse"));
    command
        .args([
            "bench",
            "capacity",
            "--json",
            "--batch",
            "5",
            "--tenants",
            "2",
        ])
        .args(["--partitions", "2", "--warm-up", "200ms", "--work-dir"])
        .arg(folder)
        .args(args)
        .current_dir(folder);
    command
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Processes that work in `folder`, by what they were started with.
fn left_in(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let mut left = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let told = ["cmdline", "environ"].map(|file| {
            let bytes = std::fs::read(entry.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        });
        if told.iter().any(|text| text.contains(folder)) {
            left.push(told[0].clone());
        }
    }
    left
}

fn nothing_is_left(folder: &Path) {
    assert_eq!(left_in(folder), Vec::<String>::new());
    let files = std::fs::read_dir(folder).unwrap().flatten();
    let folders: Vec<_> = files
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.path())
        .collect();
    assert!(folders.is_empty(), "{folders:?}");
}

/// The benchmark has children and makes runs, by its own word.
fn until_it_measures(child: &mut Child) -> BufReader<std::process::ChildStderr> {
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("run 1:") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended");
        eprint!("bench: {line}");
    }
    stderr
}

#[test]
fn a_small_load_gives_a_report_of_all_parts_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("capacity.html");
    let output = bench(
        folder.path(),
        &["--rate", "60/s", "--run", "3s", "--levels", "50"],
    )
    // What voids a run is tested elsewhere; a loaded machine must not.
    .args([
        "--max-generator-lag",
        "1h",
        "--project",
        "5000/s",
        "--retention",
        "30d",
    ])
    .arg("--html")
    .arg(&page)
    .output()
    .unwrap();
    let report = json(&output);
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    nothing_is_left(folder.path());

    assert_eq!(report["measured"], "whole pipeline");
    assert_eq!(report["partial"], Value::Null);
    assert_eq!(report["load"]["partitions"], 2);
    let run = &report["runs"][0];
    assert_eq!(run["offered"], 60.0);
    assert_eq!(run["refused"], serde_json::json!({}));
    assert_eq!(run["windows"].as_array().unwrap().len(), 10);
    assert_eq!(run["markers_not_seen"], 0);
    for latency in ["send_to_acknowledged", "send_to_queryable", "generator_lag"] {
        assert!(
            run[latency]["n"].as_u64().unwrap() > 0,
            "{latency}: {run:#}"
        );
        assert!(run[latency]["p50_ms"].as_f64().is_some());
        assert_eq!(run[latency]["p999_ms"], Value::Null, "of so few values");
    }
    let parts = run["cost"].as_array().unwrap().iter();
    let parts: Vec<&str> = parts.map(|part| part["part"].as_str().unwrap()).collect();
    let all = [
        "producer",
        "enricher",
        "sink",
        "broker",
        "clickhouse",
        "generator",
    ];
    assert_eq!(parts, all);
    for part in run["cost"].as_array().unwrap() {
        assert!(
            part["peak_memory_bytes"].as_u64().unwrap() > 1 << 20,
            "{part}"
        );
        assert!(part["cpu_seconds"].as_f64().is_some(), "{part}");
    }
    for size in [
        "wire",
        "kafka_raw",
        "kafka_events",
        "kafka_disk",
        "clickhouse",
    ] {
        assert!(
            report["bytes"][size].as_f64().unwrap() > 10.0,
            "{size}: {report:#}"
        );
    }
    // Whether a debug build on a loaded machine carries it is no matter here; that the parts of the
    // report agree about it is.
    let sustained = run["verdict"] == "sustained";
    let rate = &report["sustainable"]["events_per_second"];
    assert_eq!(rate.as_f64(), sustained.then_some(60.0));
    assert_eq!(output.status.code(), Some(if sustained { 0 } else { 1 }));
    let levels = report["levels"].as_array().unwrap().len();
    assert_eq!(levels, usize::from(sustained));
    assert_eq!(report["projection"].is_object(), sustained);

    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("</html>"));
    assert!(!page.contains("http://") && !page.contains("<script"));
}

#[test]
fn a_generator_that_fell_behind_voids_the_run_and_gives_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(
        folder.path(),
        &["--stage", "producer", "--rate", "60/s", "--run", "1s"],
    )
    // No clock is as quick as that.
    .args(["--max-generator-lag", "0s"])
    .output()
    .unwrap();
    let report = json(&output);
    assert_eq!(report["runs"][0]["verdict"], "void", "{report:#}");
    let why = report["runs"][0]["why"].as_str().unwrap();
    assert!(why.contains("fell behind"), "{why}");
    assert_eq!(report["sustainable"]["events_per_second"], Value::Null);
    assert_eq!(report["sustainable"]["ceiling"], "generator");
    assert_eq!(report["levels"], serde_json::json!([]));
    assert_eq!(output.status.code(), Some(1));
    nothing_is_left(folder.path());
}

#[test]
fn an_interrupted_search_gives_what_it_has_as_partial_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = bench(folder.path(), &["--stage", "producer", "--run", "1s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = until_it_measures(&mut child);
    let pid = child.id().to_string();
    let told = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(told.success());
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    let output = child.wait_with_output().unwrap();
    let report = json(&output);
    assert_eq!(report["partial"], "it was interrupted");
    assert!(!report["runs"].as_array().unwrap().is_empty());
    assert_eq!(output.status.code(), Some(1));
    nothing_is_left(folder.path());
}

#[test]
fn a_benchmark_that_is_killed_takes_its_children_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = bench(folder.path(), &["--stage", "producer", "--run", "1s"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _stderr = until_it_measures(&mut child);
    assert!(left_in(folder.path()).len() > 1, "it has no children");
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + DEADLINE;
    while !left_in(folder.path()).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", left_in(folder.path()));
        std::thread::sleep(Duration::from_millis(50));
    }
}
