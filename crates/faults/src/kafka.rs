//! Apache Kafka by the script in deploy/kafka, each broker behind a proxy that can break.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use chatpulse_faults::proxy::tcp::{Mode, TcpProxy};
use chatpulse_kafka::{
    KafkaConfig, PartitionReader, Publisher, PublisherSettings, Record, TopicPartition,
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use tokio::process::Command;

use crate::process::{free_ports, loopback};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/kafka/kafka");
/// Ports that the script takes for each broker; the first is for clients.
const PORTS_PER_BROKER: u16 = 3;
/// Partitions of each topic.
pub(crate) const PARTITIONS: i32 = 4;
const CONFIRMED_WITHIN: Duration = Duration::from_secs(30);

/// A cluster, running.
pub(crate) struct Kafka {
    folder: PathBuf,
    brokers: u16,
    proxies: Vec<TcpProxy>,
}

impl Kafka {
    /// Starts `brokers` brokers with their data in `folder`.
    pub(crate) async fn start(folder: &Path, brokers: u16) -> anyhow::Result<Self> {
        let base = free_ports(PORTS_PER_BROKER * brokers);
        let mut proxies = Vec::new();
        for broker in 0..brokers {
            let target = loopback(base + PORTS_PER_BROKER * broker);
            proxies.push(TcpProxy::start(loopback(free_ports(1)), target).await?);
        }
        let advertised: Vec<String> = proxies
            .iter()
            .map(|proxy| proxy.address().port().to_string())
            .collect();
        let kafka = Self {
            folder: folder.to_owned(),
            brokers,
            proxies,
        };
        let (count, base, advertised) =
            (brokers.to_string(), base.to_string(), advertised.join(","));
        let first = [
            "--brokers",
            &count,
            "--port",
            &base,
            "--advertised",
            &advertised,
        ];
        kafka.script("start", &first).await?;
        Ok(kafka)
    }

    /// Number of brokers.
    pub(crate) fn brokers(&self) -> u16 {
        self.brokers
    }

    /// Where clients connect first, through the proxies.
    pub(crate) fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self
            .proxies
            .iter()
            .map(|proxy| proxy.address().to_string())
            .collect();
        addresses.join(",")
    }

    /// Sets what the proxies of all brokers do.
    pub(crate) fn traffic(&self, mode: Mode) {
        for proxy in &self.proxies {
            proxy.set(mode);
        }
    }

    /// Kills a broker, counted from 1, or all.
    pub(crate) async fn kill(&self, broker: Option<u16>) -> anyhow::Result<()> {
        self.on("kill", broker).await
    }

    /// Starts a broker, counted from 1, or all that are down, and waits until they answer.
    pub(crate) async fn restart(&self, broker: Option<u16>) -> anyhow::Result<()> {
        self.on("start", broker).await
    }

    /// Writes records to partitions in turn, and waits until the
    /// brokers have confirmed.
    pub(crate) async fn publish(&self, topic: &str, payloads: Vec<Vec<u8>>) -> anyhow::Result<()> {
        let config = KafkaConfig::new(self.bootstrap(), "chatpulse-faults");
        let records = payloads
            .into_iter()
            .enumerate()
            .map(|(number, payload)| Record {
                partition: i32::try_from(number).ok().map(|number| number % PARTITIONS),
                payload,
                ..Record::default()
            });
        let (topic, records) = (topic.to_owned(), records.collect());
        let sent = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
            let publisher = Publisher::new(&config, &PublisherSettings::default())?;
            let publication = publisher.publish_waiting(&topic, records, CONFIRMED_WITHIN);
            let outcomes = publication
                .wait(CONFIRMED_WITHIN)
                .map_err(|_| anyhow::anyhow!("records for {topic} are not confirmed"))?;
            outcomes
                .into_iter()
                .try_for_each(|outcome| outcome.map(drop))?;
            Ok(())
        });
        sent.await?
    }

    /// Waits until every partition of a topic has a record.
    pub(crate) async fn filled(&self, topic: String) -> anyhow::Result<()> {
        let config = KafkaConfig::new(self.bootstrap(), "chatpulse-faults");
        let waited = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
            let deadline = Instant::now() + CONFIRMED_WITHIN;
            for partition in 0..PARTITIONS {
                let partition = TopicPartition::new(topic.as_str(), partition);
                let reader = PartitionReader::new(&config, partition)?;
                // A topic that was just made has no leader for a moment.
                while !reader.watermarks().is_ok_and(|ends| ends.high > 0) {
                    ensure!(Instant::now() < deadline, "nothing is written to {topic}");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            Ok(())
        });
        waited.await?
    }

    /// Deletes a topic, and waits until it is gone.
    pub(crate) async fn delete_topic(&self, topic: &str) -> anyhow::Result<()> {
        let admin = self.admin()?;
        for deleted in admin.delete_topics(&[topic], &AdminOptions::new()).await? {
            deleted.map_err(|(topic, code)| anyhow::anyhow!("cannot delete {topic}: {code}"))?;
        }
        let deadline = Instant::now() + CONFIRMED_WITHIN;
        loop {
            let metadata = admin.inner().fetch_metadata(None, CONFIRMED_WITHIN)?;
            if metadata.topics().iter().all(|found| found.name() != topic) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{topic} is still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Deletes all records of a topic; it keeps its offsets.
    pub(crate) async fn delete_records(&self, topic: &str) -> anyhow::Result<()> {
        let mut ends = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            ends.add_partition_offset(topic, partition, Offset::End)?;
        }
        let admin = self.admin()?;
        let deleted = admin.delete_records(&ends, &AdminOptions::new()).await?;
        deleted.elements().iter().try_for_each(|one| one.error())?;
        Ok(())
    }

    /// As an independent witness, which does what chatpulse never would.
    fn admin(&self) -> anyhow::Result<AdminClient<DefaultClientContext>> {
        let mut config = ClientConfig::new();
        Ok(config.set("bootstrap.servers", self.bootstrap()).create()?)
    }

    async fn on(&self, command: &str, broker: Option<u16>) -> anyhow::Result<()> {
        match broker {
            Some(broker) => {
                self.script(command, &["--broker", &broker.to_string()])
                    .await
            }
            None => self.script(command, &[]).await,
        }
    }

    async fn script(&self, command: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let output = Command::new(SCRIPT)
            .arg(command)
            .arg(&self.folder)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await
            .with_context(|| format!("cannot run {SCRIPT}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kafka {command}: {}", said.trim());
        Ok(())
    }
}

impl Drop for Kafka {
    /// The script's brokers do not die with the harness.
    fn drop(&mut self) {
        let killed = std::process::Command::new(SCRIPT)
            .arg("kill")
            .arg(&self.folder)
            .status();
        if let Err(error) = killed {
            crate::output::note(&format!(
                "cannot stop Kafka in {}: {error}",
                self.folder.display()
            ));
        }
    }
}
