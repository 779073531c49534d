//! What can go wrong outside the pure core.

/// Why a measurement cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CapacityError {
    /// A part of the system under test does not answer, or answers nonsense.
    #[error("{what} at {address} does not answer as it should: {reason}")]
    Part {
        /// The part.
        what: &'static str,
        /// Where it was asked.
        address: String,
        /// What came instead.
        reason: String,
    },
    /// The source of the load ended.
    #[error(
        "the generator of events has ended before the load was sent: a fault of chatpulse, please report it"
    )]
    FeedEnded,
    /// What was sent does not arrive.
    #[error(
        "only {stored} of {sent} events have come through and nothing has moved for {seconds} s: see the log of the stages"
    )]
    Stalled {
        /// Outcomes of the last stage.
        stored: u64,
        /// Events that were acknowledged.
        sent: u64,
        /// How long nothing moved.
        seconds: u64,
    },
}
