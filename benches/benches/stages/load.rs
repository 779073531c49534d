//! What goes through the stages: simulated traffic of all five vendors, ten tenants.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use chatpulse_kafka::{Publisher, PublisherSettings, Record, Topics};
use chatpulse_model::{
    RawEvent,
    avro::{Codec, Framing},
    source::{Catalog, DEFAULT_MAX_ITEM_BYTES, Pseudonyms, Receipt},
};
use chatpulse_simulator::{FaultRates, Item, Options, Pace, Simulator};
use sha2::{Digest as _, Sha256};

use crate::machine::Ground;

const TENANTS: usize = 10;
const SALT: &str = "a salt for benches only";

pub(crate) fn tenant(number: usize) -> String {
    format!("tenant-{number}")
}

pub(crate) fn write_key(number: usize) -> String {
    format!("cpw_a-key-for-benches-{number}")
}

/// The same items in every process and round, but for their times.
pub(crate) fn items(events: u64) -> Simulator {
    Simulator::new(Options {
        seed: 1,
        events,
        tenants: (0..TENANTS).map(tenant).collect(),
        base_time_ms: jiff::Timestamp::now().as_millisecond(),
        pace: Pace::Historic,
        run_id: "bench".to_owned(),
        faults: FaultRates::default(),
    })
}

/// Whole requests, of up to `batch` items of one tenant and source each.
pub(crate) fn requests(events: u64, batch: usize) -> Vec<Vec<u8>> {
    let mut open: BTreeMap<(usize, &str), Vec<Item>> = BTreeMap::new();
    let mut requests = Vec::new();
    for item in items(events) {
        let key = (item.tenant, item.source);
        let items = open.entry(key).or_default();
        items.push(item);
        if items.len() == batch {
            requests.push(request(&std::mem::take(items)));
        }
    }
    requests.extend(
        open.values()
            .filter(|items| !items.is_empty())
            .map(|items| request(items)),
    );
    requests
}

fn request(items: &[Item]) -> Vec<u8> {
    let bodies: Vec<&str> = items.iter().map(|item| item.body.as_str()).collect();
    let body = bodies.join("\n");
    let (source, key) = (items[0].source, write_key(items[0].tenant));
    format!(
        "POST /v1/events/{source} HTTP/1.1\r\nhost: collect.example.com\r\nauthorization: Bearer {key}\r\n\
         content-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Tenants without limits.
pub(crate) fn tenants_file(ground: &Ground) -> Result<String> {
    let path = ground.path("tenants.toml");
    let mut text = String::new();
    for number in 0..TENANTS {
        text += &format!(
            "[[tenant]]\nid = \"{}\"\nsalt = \"{SALT}\"\n\
             [[tenant.write_keys]]\nid = \"web\"\nsha256 = \"{:x}\"\n\
             [tenant.limits]\nrequests_per_second = 1000000000\nburst = 1000000000\n",
            tenant(number),
            Sha256::digest(write_key(number)),
        );
    }
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// Raw records as the producer writes them.
pub(crate) async fn fill(ground: &Ground, topics: &Topics, events: u64) -> Result<()> {
    let (kafka, topic) = (ground.kafka("fill"), topics.raw.clone());
    tokio::task::spawn_blocking(move || -> Result<()> {
        let codec = Codec::<RawEvent>::new(Framing::SingleObject)?;
        let pseudonyms = Pseudonyms::new(SALT.as_bytes())?;
        let publisher = Publisher::new(&kafka, &PublisherSettings::default())?;
        let names: Vec<String> = (0..TENANTS).map(tenant).collect();
        let mut items = items(events).peekable();
        while items.peek().is_some() {
            let mut records = Vec::new();
            for item in items.by_ref().take(20_000) {
                let receipt = Receipt {
                    tenant: &names[item.tenant],
                    write_key_id: "web",
                    received_at: jiff::Timestamp::now().as_millisecond(),
                    pseudonyms: &pseudonyms,
                    max_item_bytes: DEFAULT_MAX_ITEM_BYTES,
                };
                let definition = Catalog::builtin().get(item.source).expect("built in");
                let admitted = definition.admit(item.body.as_bytes(), &receipt);
                records.push(Record {
                    key: admitted.key,
                    payload: codec.encode(&admitted.record)?,
                    ..Record::default()
                });
            }
            let patience = Duration::from_secs(60);
            let publication = publisher.publish_waiting(&topic, records, patience);
            let outcomes = publication.wait(patience);
            ensure!(
                outcomes.is_ok_and(|all| all.iter().all(Result::is_ok)),
                "the broker takes all"
            );
        }
        Ok(())
    })
    .await?
}
