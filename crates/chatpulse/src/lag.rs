//! How far a stage's group is behind its topic, as metrics and for readiness: a stage can answer
//! every request and still stand still.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chatpulse_kafka::{Admin, PartitionLag};
use prometheus::{IntGaugeVec, Opts, Registry};
use tokio_util::sync::CancellationToken;

/// How often the broker is asked.
const INTERVAL: Duration = Duration::from_secs(10);
/// A partition with waiting records that has not moved for so long stands still.
const STILL: Duration = Duration::from_secs(60);

/// The lag of one group in one topic. Clones share it.
#[derive(Clone)]
pub(crate) struct LagWatch {
    group: String,
    topic: Arc<str>,
    gauge: IntGaugeVec,
    partitions: Arc<Mutex<BTreeMap<i32, Seen>>>,
}

/// A partition when it last moved.
struct Seen {
    committed: Option<i64>,
    waiting: u64,
    moved: Instant,
}

impl LagWatch {
    /// Registers the gauge of `stage`.
    pub(crate) fn new(
        registry: &Registry,
        stage: &str,
        group: String,
        topic: Arc<str>,
    ) -> Result<Self, prometheus::Error> {
        let options = Opts::new(
            format!("chatpulse_{stage}_lag_records"),
            "Records that the stage's group has not finished, of all instances together.",
        );
        let gauge = IntGaugeVec::new(options, &["partition"])?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(Self {
            group,
            topic,
            gauge,
            partitions: Arc::default(),
        })
    }

    /// Asks the broker again and again until `stop`. A broker that does not answer is told by
    /// readiness itself.
    pub(crate) async fn run(&self, admin: &Admin, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            match admin.lag(&self.group, &self.topic).await {
                Ok(lag) => self.note(Instant::now(), &lag),
                Err(error) => tracing::debug!(%error, group = self.group, "lag is not known"),
            }
        }
    }

    fn note(&self, now: Instant, lag: &[PartitionLag]) {
        let mut partitions = self.lock();
        for partition in lag {
            let waiting = partition.records();
            self.gauge
                .with_label_values(&[&partition.partition.to_string()])
                .set(i64::try_from(waiting).unwrap_or(i64::MAX));
            let seen = partitions.entry(partition.partition).or_insert(Seen {
                committed: partition.committed,
                waiting,
                moved: now,
            });
            if waiting == 0 || seen.waiting == 0 || seen.committed != partition.committed {
                seen.moved = now;
            }
            seen.committed = partition.committed;
            seen.waiting = waiting;
        }
    }

    /// One line for every partition that stands still.
    pub(crate) fn faults(&self, now: Instant) -> Vec<String> {
        self.lock()
            .iter()
            .filter(|(_, seen)| seen.waiting > 0 && now - seen.moved >= STILL)
            .map(|(partition, seen)| {
                format!(
                    "{}[{partition}] has not moved for {} s, and {} records wait: see the log of the instance that has it",
                    self.topic,
                    (now - seen.moved).as_secs(),
                    seen.waiting
                )
            })
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, Seen>> {
        self.partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag(committed: Option<i64>, high: i64) -> [PartitionLag; 1] {
        [PartitionLag {
            partition: 3,
            low: 0,
            high,
            committed,
        }]
    }

    #[test]
    fn a_partition_stands_still_when_records_wait_and_nothing_is_finished() {
        let registry = Registry::new();
        let watch = LagWatch::new(&registry, "test", "g".into(), "t".into()).unwrap();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        watch.note(start, &lag(None, 0));
        watch.note(after(100), &lag(None, 5));
        assert!(watch.faults(after(159)).is_empty(), "it had nothing to do");
        watch.note(after(160), &lag(None, 9));
        let faults = watch.faults(after(160));
        assert!(
            faults.len() == 1 && faults[0].contains("t[3]") && faults[0].contains("9 records"),
            "{faults:?}"
        );
        watch.note(after(170), &lag(Some(4), 9));
        assert!(watch.faults(after(200)).is_empty(), "it moved");
        assert_eq!(watch.gauge.with_label_values(&["3"]).get(), 5);
    }
}
