//! Read tokens from the command line to an answer of the API.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{Serve, add_tenant, client, tool};

async fn get(serve: &Serve, token: &str, path: &str) -> (u16, Value) {
    let answer = client()
        .get(format!("{}{path}", serve.dashboard))
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (
        status,
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")),
    )
}

/// Asks again until the tenants file has been looked at.
async fn wait_for(serve: &Serve, token: &str, expected: u16) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (status, answer) = get(serve, token, "/v1/tenants").await;
        if status == expected {
            return answer;
        }
        assert!(Instant::now() < deadline, "still {status}: {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_reads_its_tenant_from_when_it_is_added_until_it_is_revoked() {
    const OPERATOR: &str = "operators-token-for-this-test-alone";
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let write_key = add_tenant(&data_dir);
    let variables = [("CHATPULSE__REPORTS__OPERATOR_TOKEN", OPERATOR)];
    let serve = Serve::start_with(&data_dir, &variables);

    let file = data_dir.join("tenants.toml");
    let path = file.to_str().unwrap();
    let add = [
        "tenant",
        "token",
        "add",
        "acme",
        "--id",
        "support",
        "--tenants",
        path,
    ];
    let added = tool(&add, folder.path());
    assert!(added.status.success(), "{added:?}");
    let token = String::from_utf8(added.stdout).unwrap().trim().to_owned();
    assert!(token.starts_with("cpr_"), "{token}");
    assert!(
        !tool(&add, folder.path()).status.success(),
        "the name is taken"
    );
    assert!(!std::fs::read_to_string(&file).unwrap().contains(&token));

    let own = serde_json::json!({"operator": false, "tenants": [{"tenant": "acme"}]});
    assert_eq!(wait_for(&serve, &token, 200).await, own);
    let (status, health) = get(&serve, &token, "/v1/tenant-health").await;
    assert_eq!(
        (status, &health["judgement"]["verdict"]),
        (200, &"silent".into())
    );
    assert_eq!(get(&serve, &token, "/v1/pipeline").await.0, 403);
    assert_eq!(get(&serve, OPERATOR, "/v1/pipeline").await.0, 200);
    assert_eq!(
        get(&serve, OPERATOR, "/v1/tenant-health?tenant=acme")
            .await
            .0,
        200
    );

    // A write key does not read, and a read token does not write.
    assert_eq!(get(&serve, &write_key, "/v1/tenants").await.0, 401);
    let sent = client()
        .post(format!("{}/v1/events/watermelon", serve.producer))
        .bearer_auth(&token)
        .body("{}")
        .send();
    assert_eq!(sent.await.unwrap().status(), 401);

    let text = std::fs::read_to_string(&file).unwrap();
    let id = "id = \"support\"\n";
    assert!(text.contains(id), "{text}");
    std::fs::write(&file, text.replace(id, &format!("{id}revoked = true\n"))).unwrap();
    let problem = wait_for(&serve, &token, 401).await;
    assert_eq!(problem["type"], "urn:chatpulse:problem:revoked-token");
    serve.terminate();
}

#[test]
fn an_operator_token_that_is_too_short_is_refused_at_start_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_chatpulse"))
        .arg("reports")
        .env("CHATPULSE__REPORTS__OPERATOR_TOKEN", "hunter2")
        .env("CHATPULSE__REPORTS__LISTEN", "127.0.0.1:0")
        .current_dir(folder.path())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("reports.operator_token"),
        "{error}"
    );
    assert!(
        error.contains("32") && !error.contains("hunter2"),
        "{error}"
    );
}
