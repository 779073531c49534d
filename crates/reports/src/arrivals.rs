//! What arrived of one page session: for a website owner who tries the snippet out.

use chatpulse_store::{SessionEvent, StoreError};
use jiff::{Timestamp, ToSpan as _};
use serde::Serialize;

use crate::Reports;
use crate::period::timestamp;

/// How a session begins that the page "Is it working?" asks the snippet to take.
const CHECK: &str = "check-";
/// Digits after that.
const CHECK_DIGITS: usize = 16;

/// A page session that was asked for, to be told from those of visitors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check(String);

impl Check {
    /// A new one.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; CHECK_DIGITS / 2];
        getrandom::fill(&mut bytes)?;
        Ok(Self(format!("{CHECK}{:016x}", u64::from_be_bytes(bytes))))
    }

    /// Reads one; a visitor's session is none.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(CHECK)?;
        let good = digits.len() == CHECK_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
        good.then(|| Self(text.to_owned()))
    }

    /// The session's id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arrival {
    /// Partition of chat.raw.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
    /// When it was received.
    pub received_at: Timestamp,
    /// Number in the session, from 1.
    pub sequence: Option<i64>,
    /// Source.
    pub source: String,
    /// The vendor's event name; empty where it has none.
    pub source_event: String,
    /// Neutral type.
    pub event_type: String,
    /// accepted, duplicate or rejected.
    pub outcome: String,
    /// Why it was rejected; else empty.
    pub reason: String,
    /// What was wrong and what to do; else empty.
    pub detail: String,
}

impl From<SessionEvent> for Arrival {
    fn from(row: SessionEvent) -> Self {
        Self {
            partition: row.partition,
            offset: row.offset,
            received_at: timestamp(row.received_ms),
            sequence: row.sequence,
            source: row.source,
            source_event: row.source_event,
            event_type: row.event_type,
            outcome: row.outcome,
            reason: row.reason,
            detail: row.detail,
        }
    }
}

impl Reports {
    /// The newest events of a check within the last two hours, newest first, at most so many.
    pub async fn arrivals(
        &self,
        tenant: &str,
        check: &Check,
        limit: u32,
    ) -> Result<Vec<Arrival>, StoreError> {
        let now = Timestamp::now();
        let window = chatpulse_store::Window {
            since_ms: (now - 2.hours()).as_millisecond(),
            // What arrives while this is asked.
            until_ms: (now + 1.hour()).as_millisecond(),
        };
        let session = (tenant, check.as_str());
        let found = self.store.session_events(session, window, limit).await?;
        Ok(found.into_iter().map(Arrival::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_read_and_a_visitors_session_is_not() {
        let check = Check::new().unwrap();
        assert_eq!(Check::parse(check.as_str()), Some(check.clone()));
        assert_ne!(Check::new().unwrap(), check);
        for other in [
            "",
            "check-",
            "2eed8349e87c5270b39430e7454199fe",
            "check-0123456789abcde'",
        ] {
            assert_eq!(Check::parse(other), None, "{other}");
        }
    }
}
