//! Keeps a stage running: a group that failed for a passing reason is joined again.

use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

use crate::error::{Disposition, GroupError};

/// An error that knows what is to be done about it.
pub trait Classified: Error + Send + Sync + 'static {
    /// What to do.
    fn disposition(&self) -> Disposition;
}

impl<E: Classified> GroupError<E> {
    /// What to do about it. A panic or an early end is a fault of ours that a restart may survive.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Kafka(error) => error.disposition(),
            Self::Task { source, .. } => source.disposition(),
            Self::Ended { .. } | Self::Panicked { .. } => Disposition::Retry,
        }
    }
}

/// A run that lasted longer counts as recovered, and the next failure starts with a short wait.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// Runs `group` (a call of [`run_group`](crate::run_group) with all that it needs made anew) until
/// `shutdown`, again after each passing failure, with growing pauses from 100 ms to 10 s.
///
/// # Errors
/// The first failure whose disposition is [`Disposition::Fatal`].
pub async fn supervise<E, F>(
    group: impl Fn() -> F,
    shutdown: &CancellationToken,
) -> Result<(), GroupError<E>>
where
    E: Classified,
    F: Future<Output = Result<(), GroupError<E>>>,
{
    let pauses = || {
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(10))
            .with_jitter()
            .without_max_times()
            .build()
    };
    let mut pause = pauses();
    loop {
        let started = Instant::now();
        let Err(error) = group().await else {
            return Ok(());
        };
        if error.disposition() == Disposition::Fatal || shutdown.is_cancelled() {
            return Err(error);
        }
        if started.elapsed() > RECOVERED_AFTER {
            pause = pauses();
        }
        let wait = pause.next().unwrap_or(Duration::from_secs(10));
        tracing::warn!(
            error = &error as &dyn Error,
            ?wait,
            "stage failed and starts again"
        );
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}
