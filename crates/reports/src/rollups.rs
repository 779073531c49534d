//! Keeps the roll-ups current, from which reports are made.

use std::{convert::Infallible, time::Duration};

use chatpulse_store::Store;
use jiff::Timestamp;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};
use tokio::time::Instant;

/// A run is followed by a pause of at least so many times its length: the job takes at most a fifth of
/// the time, however much there is to do.
const REST: u32 = 4;

/// What the job counts.
#[derive(Clone, Debug)]
pub struct RollUpMetrics {
    seconds: Histogram,
    hours: IntCounter,
    failures: IntCounter,
    last: IntGauge,
}

impl RollUpMetrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets = prometheus::exponential_buckets(0.01, 4.0, 8)?;
        let seconds = HistogramOpts::new(
            "chatpulse_reports_rollup_seconds",
            "How long a run of the roll-up job took.",
        );
        let metrics = Self {
            seconds: Histogram::with_opts(seconds.buckets(buckets))?,
            hours: IntCounter::new(
                "chatpulse_reports_rollup_hours_total",
                "Hours of conversations computed, per tenant and source.",
            )?,
            failures: IntCounter::new(
                "chatpulse_reports_rollup_failures_total",
                "Runs that ClickHouse did not let end; the next one does their work.",
            )?,
            last: IntGauge::new(
                "chatpulse_reports_rollup_last_timestamp_seconds",
                "When the last run that ended began; seconds since the Unix epoch.",
            )?,
        };
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.hours.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        registry.register(Box::new(metrics.last.clone()))?;
        Ok(metrics)
    }
}

/// Rolls up what changed, again and again, `every` so often. A run that fails is repeated: what it had
/// done stays right. Several processes may do so at the same time.
pub async fn keep_rolled_up(store: Store, every: Duration, metrics: RollUpMetrics) -> Infallible {
    loop {
        let (started, now) = (Instant::now(), Timestamp::now());
        match store.roll_up(now.as_millisecond()).await {
            Ok(done) => {
                metrics.hours.inc_by(done.hours);
                metrics.last.set(now.as_second());
                tracing::debug!(?done, took = ?started.elapsed(), "rolled up");
            }
            Err(error) => {
                metrics.failures.inc();
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "the roll-ups are behind: reports show older figures");
            }
        }
        let took = started.elapsed();
        metrics.seconds.observe(took.as_secs_f64());
        tokio::time::sleep(every.max(took * REST)).await;
    }
}
