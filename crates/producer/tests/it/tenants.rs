//! The tenants file while the producer runs.

use chatpulse_producer::tenants::{TenantsFile, new_tenant};

use crate::support::{KEY, event, start, tenants_toml, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_added_may_send_without_a_restart() {
    let producer = start().await;
    let (entry, key) = new_tenant("fresh").unwrap();
    let call = || {
        producer
            .post(event("c"))
            .header("Authorization", &format!("Bearer {}", key.expose()))
    };
    call().send().await.problem(401, "unknown-write-key");
    TenantsFile::append(&producer.config.tenants_file, &entry).unwrap();
    until(async || call().send().await.status == 202).await;
    producer.post(event("c")).send().await.confirmed();
    assert_eq!(
        producer.metric("chatpulse_producer_tenants").await,
        Some(3.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_stops_working_without_a_restart() {
    let producer = start().await;
    producer.post(event("c")).send().await.confirmed();
    let text = tenants_toml("").replacen("id = \"web\"", "id = \"web\"\nrevoked = true", 1);
    std::fs::write(&producer.config.tenants_file, text).unwrap();
    until(async || producer.post(event("c")).send().await.status == 401).await;
    producer
        .post(event("c"))
        .send()
        .await
        .problem(401, "revoked-write-key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_keeps_the_old_tenants_and_is_counted() {
    let producer = start().await;
    let refused = "chatpulse_producer_tenants_reloads_total{result=\"refused\"}";
    let broken = ["[[tenant]]\nid = 7", "", &tenants_toml("burts = 3")];
    for (index, text) in broken.into_iter().enumerate() {
        std::fs::write(&producer.config.tenants_file, text).unwrap();
        let times = (index + 1) as f64;
        until(async || producer.metric(refused).await >= Some(times)).await;
        producer.post(event("c")).send().await.confirmed();
    }
    std::fs::remove_file(&producer.config.tenants_file).unwrap();
    until(async || producer.metric(refused).await >= Some(4.0)).await;
    producer.post(event("c")).send().await.confirmed();

    std::fs::write(&producer.config.tenants_file, tenants_toml("")).unwrap();
    let applied = "chatpulse_producer_tenants_reloads_total{result=\"applied\"}";
    until(async || producer.metric(applied).await == Some(1.0)).await;
    let logs = crate::support::logs();
    assert!(logs.contains("burts") && logs.contains("the old one stays"));
    assert!(!logs.contains(KEY));
}
