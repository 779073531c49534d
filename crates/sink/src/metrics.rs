use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

/// What a sink counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    stored: IntCounter,
    repeated: IntCounter,
    lost: IntCounter,
    undecodable: IntCounter,
    refused: IntCounter,
    cuts: IntCounter,
    retries: IntCounter,
    waiting: IntGauge,
    rows: Histogram,
    insert: Histogram,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let histogram = |name, help, buckets| {
            let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let waiting = IntGauge::new(
            "chatpulse_sink_waiting_for_operator",
            "Partitions that stand still until an operator mends the store: see the log.",
        )?;
        registry.register(Box::new(waiting.clone()))?;
        Ok(Self {
            stored: counter(
                "chatpulse_sink_stored_total",
                "Outcomes that the store confirmed.",
            )?,
            repeated: counter(
                "chatpulse_sink_repeated_total",
                "Outcomes dropped because a writer wrote them again.",
            )?,
            lost: counter(
                "chatpulse_sink_outcomes_lost_total",
                "Raw offsets without an outcome, stored as rejections (outcome_lost).",
            )?,
            undecodable: counter(
                "chatpulse_sink_undecodable_total",
                "Records of chat.events that are no outcomes, noted in undecodable_outcomes.",
            )?,
            refused: counter(
                "chatpulse_sink_refused_total",
                "Outcomes that the store refused, stored as rejections (refused_by_store).",
            )?,
            cuts: counter(
                "chatpulse_sink_cuts_total",
                "Blocks cut in half because the store refused one of their rows.",
            )?,
            waiting,
            retries: counter("chatpulse_sink_retries_total", "Inserts tried again.")?,
            rows: histogram(
                "chatpulse_sink_batch_rows",
                "Outcomes per insert.",
                prometheus::exponential_buckets(1.0, 4.0, 9)?,
            )?,
            insert: histogram(
                "chatpulse_sink_insert_seconds",
                "Time from sending a block to the store's answer, views included.",
                prometheus::exponential_buckets(0.002, 2.0, 14)?,
            )?,
        })
    }

    /// Outcomes confirmed by the store so far.
    pub fn stored(&self) -> u64 {
        self.stored.get()
    }

    pub(crate) fn inserted(&self, rows: usize, took: Duration) {
        self.stored.inc_by(rows as u64);
        self.rows.observe(rows as f64);
        self.insert.observe(took.as_secs_f64());
    }

    pub(crate) fn retried(&self) {
        self.retries.inc();
    }

    pub(crate) fn repeated(&self) {
        self.repeated.inc();
    }

    pub(crate) fn lost(&self, offsets: i64) {
        self.lost.inc_by(u64::try_from(offsets).unwrap_or(0));
    }

    pub(crate) fn undecodable(&self, records: usize) {
        self.undecodable.inc_by(records as u64);
    }

    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    pub(crate) fn cut(&self) {
        self.cuts.inc();
    }

    pub(crate) fn waits_for_operator(&self, waits: bool) {
        self.waiting.add(if waits { 1 } else { -1 });
    }
}
