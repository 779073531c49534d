use std::{collections::BTreeSet, path::Path};

use crate::process::{Serve, add_tenant, client};

/// Rounds of sending that end in kill -9.
const KILLS: usize = 4;
/// Requests in a round; the kill comes somewhere among them.
const REQUESTS: usize = 60;
/// Events in a request.
const BATCH: usize = 25;

fn item(id: usize) -> String {
    format!(
        r#"{{"native":{{"event":"widget_message_sent","widget_platform":"web","widet_conversation_id":"c{}","timestamp":{},"total_messages":1}},"context":{{"event_id":"e{id}"}}}}"#,
        id % 97,
        jiff::Timestamp::now().as_millisecond(),
    )
}

/// With partitions side by side, where more can go wrong than in the one that is the default here.
fn serve(data_dir: &Path) -> Serve {
    Serve::start_with(data_dir, &[("CHATPULSE__KAFKA__PARTITIONS", "4")])
}

/// Posts one batch; true when it was acknowledged.
async fn post(client: &reqwest::Client, producer: &str, key: &str, ids: &[usize]) -> bool {
    let body = ids
        .iter()
        .map(|&id| item(id))
        .collect::<Vec<_>>()
        .join("\n");
    let answer = client
        .post(format!("{producer}/v1/events/watermelon"))
        .bearer_auth(key)
        .header("content-type", "application/x-ndjson")
        .body(body)
        .send()
        .await;
    answer.is_ok_and(|answer| answer.status() == 202)
}

/// What the sender did not get an answer for it sends again, as pages do. At the end every
/// acknowledged event is accepted once, and nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_loses_no_acknowledged_event_and_doubles_none() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let key = add_tenant(&data_dir);
    let client = client();

    let mut acknowledged = BTreeSet::new();
    let mut unanswered: Vec<Vec<usize>> = Vec::new();
    let mut next_id = 0;
    for round in 0..KILLS {
        let mut serve = serve(&data_dir);
        let producer = serve.producer.clone();
        let mut batches = std::mem::take(&mut unanswered);
        batches.extend((0..REQUESTS).map(|_| {
            next_id += BATCH;
            (next_id - BATCH..next_id).collect()
        }));
        // Another place each time: in the middle of the sending, by count and not by the clock.
        let kill_after = REQUESTS / (round + 2);
        for (count, batch) in batches.iter().enumerate() {
            if count < kill_after && post(&client, &serve.producer, &key, batch).await {
                acknowledged.extend(batch.iter().copied());
            } else {
                unanswered.push(batch.clone());
            }
        }
        // Some requests are under way when the process dies.
        let under_way = unanswered
            .iter()
            .take(8)
            .map(|batch| post(&client, &producer, &key, batch));
        let under_way = futures::future::join_all(under_way);
        tokio::pin!(under_way);
        let started = futures::poll!(&mut under_way);
        assert!(started.is_pending());
        tokio::task::yield_now().await;
        serve.kill();
        under_way.await;
    }

    let serve = serve(&data_dir);
    for batch in &unanswered {
        assert!(
            post(&client, &serve.producer, &key, batch).await,
            "the last sending is answered"
        );
        acknowledged.extend(batch.iter().copied());
    }
    assert_eq!(acknowledged.len(), next_id);

    let accepted = "SELECT count() FROM events WHERE outcome = 'accepted'";
    serve.wait_until(accepted, &next_id.to_string()).await;
    let ids = serve
        .query("SELECT event_id FROM events WHERE outcome = 'accepted' ORDER BY event_id")
        .await;
    let ids: Vec<usize> = ids.lines().map(|id| id[1..].parse().unwrap()).collect();
    assert_eq!(ids.len(), next_id, "an event is stored twice");
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), acknowledged);
    let messages = "SELECT sum(total_messages) FROM conversations WHERE tenant = 'acme'";
    // A block is in the table before the views have it; what a view lost or doubled stays so.
    serve.wait_until(messages, &next_id.to_string()).await;

    let (audit, balanced) = serve.tool(&["audit", "--json"], &[]);
    assert!(balanced, "{audit}");
    assert!(audit.contains("\"raw_records_under_way\": 0"), "{audit}");
    serve.terminate();
}
