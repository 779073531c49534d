use crate::process::{Serve, chatpulse, client, tool};

#[test]
fn every_subcommand_has_help_with_an_example() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["demo"][..],
        &["serve"],
        &["producer"],
        &["enricher"],
        &["sink"],
        &["reports"],
        &["migrate"],
        &["replay"],
        &["audit"],
        &["docs"],
        &["bench", "capacity"],
        &["bench", "record-mix"],
        &["bench", "growth"],
        &["tenant", "add"],
        &["tenant", "token", "add"],
        &["report", "tenant-health"],
        &["report", "conversations"],
    ] {
        let output = tool(&[args, &["--help"]].concat(), folder.path());
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && help.contains("chatpulse "),
            "{args:?}: {help}"
        );
        assert!(help.contains("Example"), "{args:?} has no example: {help}");
    }
}

#[test]
fn a_configuration_error_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("chatpulse.toml"),
        "[kafka]\nbootsrap = 'x'",
    )
    .unwrap();
    let output = tool(&["migrate"], folder.path());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("bootsrap"),
        "{error}"
    );
}

#[test]
fn the_data_dictionary_is_printed_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("chatpulse.toml");
    std::fs::write(config, "[clickhouse]\nbi_database = 'shop_views'").unwrap();
    let markdown = tool(&["docs"], folder.path()).stdout;
    let markdown = String::from_utf8(markdown).unwrap();
    assert!(markdown.contains("Database `shop_views`"), "{markdown}");
    let json = tool(&["docs", "--json"], folder.path()).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["database"], "shop_views");
    for view in json["views"].as_array().unwrap() {
        let heading = format!("\n## {}\n", view["name"].as_str().unwrap());
        assert!(markdown.contains(&heading), "{heading}");
    }
}

#[test]
fn a_user_for_an_analyst_without_password_is_refused_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let output = tool(&["migrate", "--bi-user", "anna"], folder.path());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("CHATPULSE__CLICKHOUSE__BI_PASSWORD"),
        "{error}"
    );
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused_and_the_first_stops_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let serve = Serve::start(&data_dir);
    let second = chatpulse("serve", &data_dir).output().unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(
        !second.status.success() && error.contains("--data-dir"),
        "{error}"
    );
    for (server, path) in [(&serve.producer, "/readyz"), (&serve.dashboard, "/readyz")] {
        let answer = client()
            .get(format!("{server}{path}"))
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{server}{path}: {answer:?}");
    }
    let metrics = client()
        .get(format!("{}/metrics", serve.producer))
        .send()
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    for stage in ["producer", "enricher", "sink"] {
        assert!(
            metrics.contains(&format!("chatpulse_{stage}_")),
            "no {stage} in {metrics}"
        );
    }
    serve.terminate();
}
