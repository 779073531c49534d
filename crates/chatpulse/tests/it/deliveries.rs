//! Events on their way to twenty receivers of every behaviour, kill -9 in the middle.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use chatpulse_deliverer::destination::delivery_id;
use chatpulse_kafka::{KafkaConfig, PartitionReader, TopicPartition};
use chatpulse_model::{
    Delivery,
    avro::{Codec, Framing},
};

use crate::{
    process::{Serve, add_tenant, client},
    receiver::{Behaviour, Receiver},
};

const EVENTS: usize = 200;
const BATCH: usize = 20;
/// More than is replayed at once.
const MANY: usize = 600;
const KILLS: usize = 2;
/// Requests under way at once to one receiver.
const CONCURRENCY: usize = 4;
const PARTITIONS: i32 = 1;
/// Long enough on a loaded machine: what never works is disabled after 45 s. What works half of the time
/// must have a success in every such time, the restarts within it.
const DEADLINE: Duration = Duration::from_secs(300);

const SETTINGS: &str = r#"
[deliverer]
allow_networks = ["127.0.0.1/32"]
pauses = ["300ms", "1s", "2s"]
breaker_pause = "200ms"
breaker_max_pause = "2s"
disable_after = "45s"
"#;

struct Site {
    /// With those that are on loopback.
    receivers: BTreeMap<&'static str, Receiver>,
    /// The others.
    addresses: BTreeMap<&'static str, String>,
}

impl Site {
    async fn start() -> Self {
        use Behaviour as B;
        let ms = Duration::from_millis;
        let inner = Receiver::start(B::Fast).await;
        let plain = Receiver::start(B::Plain).await;
        let mut receivers = BTreeMap::new();
        for (name, behaviour) in [
            ("fast-1", B::Fast),
            ("fast-2", B::Fast),
            ("fast-3", B::Fast),
            ("slow-1", B::Slow(ms(30))),
            ("slow-2", B::Slow(ms(150))),
            ("hanging-1", B::Hanging),
            ("hanging-2", B::Hanging),
            ("half-1", B::HalfBroken),
            ("half-2", B::HalfBroken),
            ("broken", B::Broken),
            ("limiting", B::RateLimiting),
            ("gone", B::Gone),
            ("refusing", B::Refusing),
            ("redirecting", B::Redirecting(inner.port)),
            ("dripping", B::Dripping),
            ("closing", B::Closing),
        ] {
            receivers.insert(name, Receiver::start(behaviour).await);
        }
        let addresses = [
            ("tls", format!("https://127.0.0.1:{}/", plain.port)),
            ("dns", "https://no-such-host.invalid/".to_owned()),
            ("metadata", "http://169.254.169.254/latest".to_owned()),
            ("private", "http://[::ffff:10.0.0.1]/".to_owned()),
        ];
        receivers.insert("inner", inner);
        Self {
            receivers,
            addresses: addresses.into(),
        }
    }

    fn destinations(&self) -> BTreeMap<&'static str, String> {
        let on_loopback = self.receivers.iter().filter(|(name, _)| **name != "inner");
        on_loopback
            .map(|(name, receiver)| (*name, receiver.url()))
            .chain(
                self.addresses
                    .iter()
                    .map(|(name, url)| (*name, url.clone())),
            )
            .collect()
    }

    fn configure(&self, folder: &Path) {
        std::fs::write(folder.join("chatpulse.toml"), SETTINGS).unwrap();
        let key = folder.join("key");
        std::fs::write(&key, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let tenants = folder.join("data/tenants.toml");
        let mut text = std::fs::read_to_string(&tenants).unwrap();
        for (name, url) in self.destinations() {
            text.push_str(&format!(
                "\n[[tenant.destinations]]\nid = \"{name}\"\nkind = \"webhook\"\nurl = \"{url}\"\n\
                 secrets = [{{ file = {key:?} }}]\nallow_http = true\ntimeout = \"1s\"\n"
            ));
        }
        std::fs::write(tenants, text).unwrap();
    }
}

fn item(id: usize) -> String {
    format!(
        r#"{{"native":{{"event":"widget_message_sent","widget_platform":"web","widget_conversation_id":"c{}","timestamp":{},"total_messages":1}},"context":{{"event_id":"e{id}"}}}}"#,
        id % 17,
        jiff::Timestamp::now().as_millisecond(),
    )
}

async fn post(serve: &Serve, key: &str, ids: std::ops::Range<usize>) {
    let body: Vec<String> = ids.map(item).collect();
    let answer = client()
        .post(format!("{}/v1/events/watermelon", serve.producer))
        .bearer_auth(key)
        .header("content-type", "application/x-ndjson")
        .body(body.join("\n"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202);
}

fn payloads(serve: &Serve, topic: &str) -> Vec<Vec<u8>> {
    let config = KafkaConfig::new(&serve.kafka, "test");
    let mut payloads = Vec::new();
    for partition in 0..PARTITIONS {
        let partition = TopicPartition::new(topic, partition);
        let mut reader = PartitionReader::new(&config, partition).unwrap();
        let ends = reader.watermarks().unwrap();
        let batch = reader.read_range(ends.low..ends.high, DEADLINE).unwrap();
        payloads.extend(batch.iter().map(|record| record.payload.unwrap().to_vec()));
    }
    payloads
}

fn deliveries(serve: &Serve) -> Vec<Delivery> {
    let codec = Codec::<Delivery>::new(Framing::SingleObject).unwrap();
    payloads(serve, "chat.deliveries")
        .iter()
        .map(|payload| codec.decode(payload).unwrap())
        .collect()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !tokio::task::block_in_place(&condition) {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Ids of deliveries by destination.
type Ids = BTreeMap<String, BTreeSet<String>>;

fn ids(deliveries: &[Delivery], which: impl Fn(&Delivery) -> bool) -> Ids {
    let mut ids = Ids::new();
    for delivery in deliveries.iter().filter(|delivery| which(delivery)) {
        let of_destination = ids.entry(delivery.destination.clone()).or_default();
        of_destination.insert(delivery.delivery_id.clone());
    }
    ids
}

fn count(ids: &Ids) -> usize {
    ids.values().map(BTreeSet::len).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_ends_at_each_of_twenty_receivers_and_the_counts_are_what_they_saw() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let key = add_tenant(&data_dir);
    let site = Site::start().await;
    site.configure(folder.path());
    let destinations = site.destinations();
    assert_eq!(destinations.len(), 20);

    let mut serve = Serve::start(&data_dir);
    // From the first cursors on nothing is passed over.
    until("cursors of all partitions", || {
        payloads(&serve, "chat.deliveries.cursors").len() >= PARTITIONS as usize
    })
    .await;
    let half = EVENTS / 2;
    for from in (0..half).step_by(BATCH) {
        post(&serve, &key, from..from + BATCH).await;
    }
    let some = half / 2;
    until("the fast have some", || {
        site.receivers["fast-1"].seen().taken.len() >= some
    })
    .await;
    serve.kill();
    // Two of them work when it comes back.
    site.receivers["hanging-2"].mend();
    let mut serve = Serve::start(&data_dir);
    for from in (half..EVENTS).step_by(BATCH) {
        post(&serve, &key, from..from + BATCH).await;
    }
    until("the fast have nearly all", || {
        site.receivers["fast-2"].seen().taken.len() >= EVENTS - BATCH
    })
    .await;
    serve.kill();
    let serve = Serve::start(&data_dir);
    until("every delivery ends", || {
        count(&ids(&deliveries(&serve), |one| one.result.is_final())) == 20 * EVENTS
    })
    .await;

    let records = deliveries(&serve);
    let expected: Ids = destinations
        .keys()
        .map(|name| {
            let id = |number| delivery_id(("acme", name), ("watermelon", &format!("e{number}")));
            ((*name).to_owned(), (0..EVENTS).map(id).collect())
        })
        .collect();
    let ended = ids(&records, |one| one.result.is_final());
    assert_eq!(
        ended, expected,
        "no delivery is missing, and none is invented"
    );

    let delivered = ids(&records, |one| one.failure.is_none());
    let requested = |name: &str| {
        let made = |one: &&Delivery| one.destination == name && one.duration_ms.is_some();
        records.iter().filter(made).count()
    };
    let mut table = String::new();
    for name in destinations.keys() {
        let of_name = delivered.get(*name).cloned().unwrap_or_default();
        let seen = site.receivers.get(name).map(Receiver::seen);
        let taken: BTreeSet<String> = seen
            .iter()
            .flat_map(|seen| seen.taken.keys().cloned())
            .collect();
        assert!(
            of_name.is_subset(&taken),
            "{name}: recorded, and never taken"
        );
        // What it took when we were killed before its answer was recorded was tried again. A receiver that
        // then refused it four times has it all the same, and nobody but itself can know.
        let unknown = taken.difference(&of_name).count();
        let may_be_unknown = match name.starts_with("half") {
            true => KILLS * CONCURRENCY,
            false => 0,
        };
        assert!(
            unknown <= may_be_unknown,
            "{name}: {unknown} taken, not recorded"
        );
        let requests = seen.map(|seen| seen.requests.values().sum::<usize>());
        let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
        for one in records.iter().filter(|one| one.destination == *name) {
            let class = one.failure.map_or("delivered", |class| class.as_str());
            *classes.entry(class).or_default() += 1;
        }
        table.push_str(&format!(
            "{name:<12} delivered {:>3} of {EVENTS}, requests recorded {:>3}, seen {:>4}; {classes:?}\n",
            of_name.len(),
            requested(name),
            requests.map_or("-".to_owned(), |count| count.to_string()),
        ));
        if let Some(requests) = requests {
            let recorded = requested(name);
            // Connections that fail before the request are recorded, and not seen.
            let unseen = records
                .iter()
                .filter(|one| one.destination == *name && one.status.is_none())
                .count();
            assert!(recorded - unseen.min(recorded) <= requests, "{name}");
        }
    }
    eprintln!("{table}");
    for name in ["fast-1", "fast-2", "fast-3", "slow-1", "slow-2", "limiting"] {
        assert_eq!(
            delivered[name].len(),
            EVENTS,
            "{name}
{table}"
        );
    }
    // Four turns, of which about every second fails: one of sixteen is given up.
    for name in ["half-1", "half-2"] {
        assert!(
            delivered[name].len() > EVENTS / 2,
            "{name}
{table}"
        );
    }
    assert!(
        site.receivers["inner"].seen().requests.is_empty(),
        "a redirect was followed"
    );
    assert_eq!(site.receivers["gone"].seen().taken.len(), 0);

    // ClickHouse says the same.
    let rows = records.len().to_string();
    serve
        .wait_until("SELECT count() FROM deliveries FINAL", &rows)
        .await;
    let states = "SELECT count() FROM delivery_states WHERE is_final";
    serve.wait_until(states, &(20 * EVENTS).to_string()).await;
    let sum = "SELECT sum(turns) FROM delivery_health";
    serve.wait_until(sum, &rows).await;
    let took = count(&delivered).to_string();
    let states = "SELECT count() FROM delivery_states WHERE result = 'delivered'";
    serve.wait_until(states, &took).await;

    // And it knows the destinations, and which were disabled.
    let configured = "SELECT count() FROM destination_states WHERE is_configured";
    serve.wait_until(configured, "20").await;
    let gone = "SELECT destination FROM destination_states WHERE reason = 'gone' AND disabled_at IS NOT NULL";
    serve.wait_until(gone, "gone").await;
    serve
        .wait_until(
            "SELECT sum(turns) FROM delivery_rollup FINAL WHERE unit = 'day'",
            &rows,
        )
        .await;

    // No secret is kept anywhere.
    let detail = serve
        .query("SELECT groupUniqArray(detail) FROM deliveries")
        .await;
    for secret in ["hunter2", "whsec_", "MfKQ"] {
        assert!(!detail.contains(secret), "{detail}");
    }
    serve.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_delivered_when_it_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let key = add_tenant(&data_dir);
    let gone = Receiver::start(Behaviour::Gone).await;
    let site = Site {
        addresses: [("crm", gone.url())].into(),
        receivers: BTreeMap::new(),
    };
    // The first destination comes while it runs.
    std::fs::write(folder.path().join("chatpulse.toml"), SETTINGS).unwrap();
    let serve = Serve::start(&data_dir);
    assert!(payloads(&serve, "chat.deliveries.cursors").is_empty());
    site.configure(folder.path());
    until("cursors of all partitions", || {
        payloads(&serve, "chat.deliveries.cursors").len() >= PARTITIONS as usize
    })
    .await;
    let began = jiff::Timestamp::now();
    post(&serve, &key, 0..MANY).await;
    let given_up = "SELECT count() FROM delivery_states WHERE result = 'given_up'";
    serve.wait_until(given_up, &MANY.to_string()).await;

    let file = data_dir.join("tenants.toml");
    let variables = [("CHATPULSE__PRODUCER__TENANTS_FILE", file.to_str().unwrap())];
    let tool = |args: &[&str]| serve.tool(args, &variables);
    let (list, success) = tool(&["deliveries", "list", "--json"]);
    assert!(success);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 100);
    assert_eq!(list[0]["failure"], "disabled", "the latest first");
    assert!(!list.to_string().contains("hunter2"));

    let (report, success) = tool(&[
        "report",
        "deliveries",
        "--tenant",
        "acme",
        "--format",
        "json",
    ]);
    assert!(success);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let crm = &report["destinations"][0];
    assert_eq!(crm["given_up"], MANY, "{report:#}");
    assert_eq!(crm["judgement"]["verdict"], "failing");
    assert_eq!(crm["disabled_reason"], "gone");
    let notice = report["notices"][0]["text"].as_str().unwrap();
    assert!(notice.contains("answered 410"), "{notice}");
    for format in ["md", "csv", "html"] {
        let (text, success) = tool(&[
            "report",
            "deliveries",
            "--tenant",
            "acme",
            "--format",
            format,
        ]);
        assert!(
            success && text.contains("crm") && text.contains("gone"),
            "{format}: {text}"
        );
        assert!(!text.contains("hunter2"));
    }

    // By when the events were received.
    let found = |from: jiff::Timestamp, to: jiff::Timestamp| {
        let (from, to) = (from.to_string(), to.to_string());
        let (found, success) = tool(&[
            "deliveries",
            "replay",
            "--dry-run",
            "--from",
            &from,
            "--to",
            &to,
        ]);
        assert!(success);
        found
    };
    let (minute, now) = (jiff::SignedDuration::from_mins(1), jiff::Timestamp::now());
    let all = found(began, now);
    assert!(
        all.starts_with(&format!("{MANY} deliveries, 0 could be")),
        "{all}"
    );
    assert!(all.contains("left: the destination is disabled"), "{all}");
    assert!(found(began - minute, began).starts_with("0 deliveries"));
    assert!(found(now, now + minute).starts_with("0 deliveries"));

    gone.mend();
    let (_, success) = tool(&["deliveries", "enable", "acme", "crm"]);
    assert!(success);
    let (dry, _) = tool(&["deliveries", "replay", "--dry-run"]);
    assert_eq!(
        dry.trim(),
        format!("{MANY} deliveries, {MANY} could be replayed")
    );
    assert_eq!(gone.seen().taken.len(), 0);
    let (summary, success) = tool(&["deliveries", "replay", "--tenant", "acme"]);
    assert!(success);
    assert_eq!(
        summary.trim(),
        format!("{MANY} deliveries, {MANY} replayed")
    );
    let delivered = "SELECT count() FROM delivery_states WHERE result = 'delivered'";
    serve.wait_until(delivered, &MANY.to_string()).await;
    assert_eq!(gone.seen().taken.len(), MANY);
    let (none, _) = tool(&["deliveries", "replay"]);
    assert_eq!(none.trim(), "0 deliveries, 0 replayed");

    // Blocked here: the tool's own configuration allows no network.
    let (taken, success) = tool(&["deliveries", "test", "acme", "crm"]);
    assert!(!success);
    assert!(taken.contains("blocked"), "{taken}");
    serve.terminate();
}
