use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, Registry};

/// What a sink counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    stored: IntCounter,
    repeated: IntCounter,
    skipped: IntCounter,
    retries: IntCounter,
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
        Ok(Self {
            stored: counter(
                "chatpulse_sink_stored_total",
                "Outcomes that the store confirmed.",
            )?,
            repeated: counter(
                "chatpulse_sink_repeated_total",
                "Outcomes dropped because a writer wrote them again.",
            )?,
            skipped: counter(
                "chatpulse_sink_skipped_raw_offsets_total",
                "Holes found in the raw offsets of outcomes: run `chatpulse audit`.",
            )?,
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

    pub(crate) fn gap(&self) {
        self.skipped.inc();
    }
}
