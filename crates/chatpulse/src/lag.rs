//! How far a stage's group is behind its topic, as metrics, for readiness, and for the dashboard: a stage
//! can answer every request and still stand still.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chatpulse_kafka::{Admin, PartitionLag};
use chatpulse_reports::StageLag;
use jiff::Timestamp;
use prometheus::{IntGaugeVec, Opts, Registry};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the broker is asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// A partition with waiting records that has not moved for so long stands still.
const STILL: Duration = Duration::from_secs(60);

/// The lag of one group in one topic. Clones share it.
#[derive(Clone)]
pub(crate) struct LagWatch {
    stage: &'static str,
    group: String,
    topic: Arc<str>,
    gauge: IntGaugeVec,
    partitions: Arc<Mutex<BTreeMap<i32, Seen>>>,
    board: watch::Sender<Vec<StageLag>>,
    /// A stage that an installation may do without: a group that never finished anything is none.
    is_optional: bool,
}

/// A partition when it last moved.
struct Seen {
    committed: Option<i64>,
    waiting: u64,
    moved: Instant,
}

impl LagWatch {
    /// Registers the gauge of `stage`, whose `group` reads `topic`.
    pub(crate) fn new(
        registry: &Registry,
        stage: &'static str,
        (group, topic): (String, Arc<str>),
        board: watch::Sender<Vec<StageLag>>,
    ) -> Result<Self, prometheus::Error> {
        let options = Opts::new(
            format!("chatpulse_{stage}_lag_records"),
            "Records that the stage's group has not finished, of all instances together.",
        );
        let gauge = IntGaugeVec::new(options, &["partition"])?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(Self {
            stage,
            group,
            topic,
            gauge,
            partitions: Arc::default(),
            board,
            is_optional: false,
        })
    }

    /// The same for a stage that an installation may do without.
    pub(crate) fn optional(self) -> Self {
        Self {
            is_optional: true,
            ..self
        }
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
                Ok(lag) => self.hear(Instant::now(), &lag),
                Err(error) => tracing::debug!(%error, group = self.group, "lag is not known"),
            }
        }
    }

    fn hear(&self, now: Instant, lag: &[PartitionLag]) {
        let is_there = lag.iter().any(|partition| partition.committed.is_some());
        if is_there || !self.is_optional {
            self.note(now, lag);
            self.show(now);
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

    /// Puts what was noted on the board, in the place of what it said before.
    fn show(&self, now: Instant) {
        let lag = StageLag {
            stage: self.stage.to_owned(),
            topic: self.topic.to_string(),
            as_of: Timestamp::now(),
            partitions: self
                .lock()
                .iter()
                .map(|(partition, seen)| partition_lag(*partition, seen, now))
                .collect(),
        };
        self.board.send_modify(|stages| {
            match stages.iter_mut().find(|known| known.stage == lag.stage) {
                Some(known) => *known = lag,
                None => stages.push(lag),
            }
            stages.sort_by(|a, b| a.stage.cmp(&b.stage));
        });
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

fn partition_lag(partition: i32, seen: &Seen, now: Instant) -> chatpulse_reports::PartitionLag {
    let still = now - seen.moved;
    chatpulse_reports::PartitionLag {
        partition,
        records: seen.waiting,
        still_seconds: (seen.waiting > 0 && still >= STILL).then_some(still.as_secs()),
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
        let watch = LagWatch::new(
            &registry,
            "test",
            ("g".into(), "t".into()),
            watch::Sender::default(),
        )
        .unwrap();
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

        watch.show(after(200));
        watch.show(after(240));
        let board = watch.board.borrow();
        let [stage] = board.as_slice() else {
            panic!("{board:?}")
        };
        let shown = &stage.partitions[0];
        assert_eq!(
            (shown.partition, shown.records, shown.still_seconds),
            (3, 5, Some(70))
        );
    }

    #[test]
    fn a_stage_that_an_installation_does_without_is_no_fault_until_it_has_begun() {
        let board = watch::Sender::default();
        let reads = ("g".into(), "t".into());
        let watch = LagWatch::new(&Registry::new(), "test", reads, board.clone());
        let watch = watch.unwrap().optional();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        watch.hear(start, &lag(None, 5));
        watch.hear(after(100), &lag(None, 9));
        assert!(watch.faults(after(200)).is_empty() && board.borrow().is_empty());
        watch.hear(after(200), &lag(Some(1), 9));
        watch.hear(after(300), &lag(Some(1), 9));
        assert_eq!(watch.faults(after(300)).len(), 1);
        assert_eq!(board.borrow().len(), 1);
    }
}
