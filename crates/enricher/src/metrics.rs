use std::time::{Duration, SystemTime};

use chatpulse_model::{Event, Outcome};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// What an enricher counts. Labels are bounded: outcomes and partitions.
#[derive(Clone, Debug)]
pub struct Metrics {
    outcomes: IntCounterVec,
    conversations: IntGaugeVec,
    event_ids: IntGaugeVec,
    replayed: IntCounterVec,
    checkpoint_offset: IntGaugeVec,
    checkpoint_time: IntGaugeVec,
    checkpoint_bytes: IntGaugeVec,
    restored_offset: IntGaugeVec,
    checkpoint_seconds: HistogramVec,
    checkpoint_failures: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help, label| {
            let metric = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name, help| {
            let metric = IntGaugeVec::new(Opts::new(name, help), &["partition"])?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let outcomes = counter(
            "chatpulse_enricher_outcomes_total",
            "Outcomes confirmed by the broker.",
            "outcome",
        )?;
        for name in OUTCOMES {
            // Shown as 0 from the start: a counter that is absent cannot be told from a stage that is.
            outcomes.with_label_values(&[name]);
        }
        let checkpoint_failures = counter(
            "chatpulse_enricher_checkpoint_failures_total",
            "Checkpoints that could not be stored, and such that were passed over when loading.",
            "step",
        )?;
        for step in [Step::Store, Step::Load] {
            checkpoint_failures.with_label_values(&[step.name()]);
        }
        let checkpoint_seconds = HistogramVec::new(
            HistogramOpts::new(
                "chatpulse_enricher_checkpoint_seconds",
                "Time of a checkpoint's steps: encode holds its partition up, store does not, load is part of a start.",
            )
            .buckets(vec![0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0]),
            &["step"],
        )?;
        registry.register(Box::new(checkpoint_seconds.clone()))?;
        Ok(Self {
            outcomes,
            checkpoint_failures,
            checkpoint_seconds,
            checkpoint_offset: gauge(
                "chatpulse_enricher_checkpoint_offset",
                "Raw offset of the newest checkpoint stored by this process.",
            )?,
            checkpoint_time: gauge(
                "chatpulse_enricher_checkpoint_timestamp_seconds",
                "When it was stored; time() minus this is its age.",
            )?,
            checkpoint_bytes: gauge("chatpulse_enricher_checkpoint_bytes", "Its size.")?,
            restored_offset: gauge(
                "chatpulse_enricher_restored_offset",
                "Raw offset of the checkpoint that the partition started from; 0 when from none.",
            )?,
            replayed: counter(
                "chatpulse_enricher_replayed_total",
                "Raw records read again to rebuild state, without writing.",
                "partition",
            )?,
            conversations: gauge(
                "chatpulse_enricher_conversations",
                "Conversations in memory.",
            )?,
            event_ids: gauge(
                "chatpulse_enricher_event_ids",
                "Event ids in memory for dedup.",
            )?,
        })
    }

    /// Outcomes confirmed so far.
    pub fn confirmed(&self) -> u64 {
        OUTCOMES
            .iter()
            .map(|name| self.outcomes.with_label_values(&[name]).get())
            .sum()
    }

    pub(crate) fn tally(&self, tally: Tally) {
        for (name, count) in OUTCOMES.iter().zip(tally.0) {
            self.outcomes.with_label_values(&[name]).inc_by(count);
        }
    }

    pub(crate) fn replayed(&self, partition: &str, count: u64) {
        self.replayed.with_label_values(&[partition]).inc_by(count);
    }

    pub(crate) fn restored(&self, partition: &str, offset: i64) {
        self.restored_offset
            .with_label_values(&[partition])
            .set(offset);
    }

    pub(crate) fn stored(&self, partition: &str, offset: i64, bytes: usize) {
        let label = &[partition];
        self.checkpoint_offset.with_label_values(label).set(offset);
        self.checkpoint_bytes
            .with_label_values(label)
            .set(bytes as i64);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.checkpoint_time
            .with_label_values(label)
            .set(now.as_secs() as i64);
    }

    pub(crate) fn checkpoint_took(&self, step: Step, took: Duration) {
        let seconds = self.checkpoint_seconds.with_label_values(&[step.name()]);
        seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn checkpoint_failed(&self, step: Step) {
        self.checkpoint_failures
            .with_label_values(&[step.name()])
            .inc();
    }

    pub(crate) fn state(&self, partition: &str, conversations: usize, event_ids: usize) {
        self.conversations
            .with_label_values(&[partition])
            .set(conversations as i64);
        self.event_ids
            .with_label_values(&[partition])
            .set(event_ids as i64);
    }
}

/// Steps of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Encode,
    Store,
    Load,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Store => "store",
            Self::Load => "load",
        }
    }
}

const OUTCOMES: [&str; 3] = ["accepted", "duplicate", "rejected"];

/// Outcomes by kind, counted apart from the registry so that one batch touches it once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally([u64; 3]);

impl Tally {
    pub(crate) fn add(&mut self, event: &Event) {
        let kind = match event.outcome {
            Outcome::Accepted => 0,
            Outcome::Duplicate => 1,
            Outcome::Rejected => 2,
        };
        self.0[kind] += 1;
    }
}
