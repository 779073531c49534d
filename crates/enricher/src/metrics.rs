use chatpulse_model::{Event, Outcome};
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// What an enricher counts. Labels are bounded: outcomes and partitions.
#[derive(Clone, Debug)]
pub struct Metrics {
    outcomes: IntCounterVec,
    conversations: IntGaugeVec,
    event_ids: IntGaugeVec,
    replayed: IntCounterVec,
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
        Ok(Self {
            outcomes,
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

    pub(crate) fn state(&self, partition: &str, conversations: usize, event_ids: usize) {
        self.conversations
            .with_label_values(&[partition])
            .set(conversations as i64);
        self.event_ids
            .with_label_values(&[partition])
            .set(event_ids as i64);
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
