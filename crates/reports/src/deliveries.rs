//! Deliveries: do a tenant's events reach its own receivers, webhooks, GA4 and Meta?

use std::collections::{BTreeMap, BTreeSet};

use chatpulse_store::{
    AcceptedPoint, DeliveryFigures, DeliveryPoint, DestinationInfo, FailedTurn, FailedTurnCursor,
    PendingDeliveries, StoreError, Unit,
};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Reports;
use crate::health::{Percentiles, percentiles};
use crate::period::{Period, Span, timestamp, unit_schema};
use crate::text::duration;
use crate::verdict::{Judgement, Sent, Verdict, judge_sent};

/// How many failures are listed.
const RECENT_FAILURES: u32 = 20;

/// The report on a tenant's deliveries.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Deliveries {
    /// Tenant.
    pub tenant: String,
    /// Turns that began in it are counted.
    pub window: Span,
    /// The unit of time in which they are looked at, at whose start the window begins.
    #[schema(schema_with = unit_schema)]
    pub unit: Unit,
    /// What they came to.
    #[serde(flatten)]
    pub outgoing: Outgoing,
}

/// What a tenant's deliveries came to.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Outgoing {
    /// The worst of the destinations.
    pub judgement: Judgement,
    /// What the tenant should know: destinations that are disabled, or fail for long.
    pub notices: Vec<Notice>,
    /// All destinations together.
    pub total: Sending,
    /// Per destination, by name: those that are configured, and others with deliveries in the window.
    pub destinations: Vec<DestinationHealth>,
    /// Per destination and neutral type, by name.
    pub types: Vec<DestinationTypeHealth>,
    /// Turns that did not deliver by class, most first.
    pub failures: Vec<FailureCount>,
    /// The newest turns that did not deliver, newest first, without secrets and content.
    pub recent_failures: Vec<FailedDelivery>,
}

/// What the tenant should know of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Notice {
    /// Destination.
    pub destination: String,
    /// Since when it holds.
    pub since: Timestamp,
    /// What it is, and what to do.
    pub text: String,
}

/// What was sent, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Sending {
    /// Turns of deliveries: delivered + retrying + given_up + withheld.
    pub turns: u64,
    /// Turns with a request.
    pub attempts: u64,
    /// Requests that the receiver answered with success.
    pub delivered: u64,
    /// Requests that did not deliver.
    pub failed: u64,
    /// Turns that did not deliver and are followed by another.
    pub retrying: u64,
    /// Deliveries given up; they can be replayed.
    pub given_up: u64,
    /// Not sent for want of consent.
    pub withheld: u64,
    /// Turns that did not deliver, by class.
    pub failures: BTreeMap<String, u64>,
    /// Deliveries that wait for their next turn now, whenever they began.
    pub pending: u64,
    /// When the event of the oldest of these was received; null where none waits.
    pub oldest_pending: Option<Timestamp>,
    /// Duration of the requests that delivered; null where none did.
    pub request_ms: Option<Percentiles>,
    /// Received to delivered, retries included and replays not; null where nothing was delivered.
    pub delivered_ms: Option<Percentiles>,
    /// Start of the last unit with a turn; null where there was none in the window.
    pub last: Option<Timestamp>,
}

/// Deliveries to one destination.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DestinationHealth {
    /// The tenant's own name for it.
    pub destination: String,
    /// webhook, ga4 or meta.
    pub kind: String,
    /// Neutral types that it gets; empty: all.
    pub event_types: Vec<String>,
    /// Whether it is in the tenants file, and enabled there.
    pub configured: bool,
    /// Since when it is: what was accepted from then on is owed to it.
    pub since: Option<Timestamp>,
    /// First failure after the last success, once that has lasted a minute.
    pub failing_since: Option<Timestamp>,
    /// When it was disabled; null where it is not.
    pub disabled_since: Option<Timestamp>,
    /// Why: gone (the receiver answered 410) or failing (for days).
    pub disabled_reason: Option<String>,
    /// Events of its types that were accepted in the window while it was configured, by whole units of time;
    /// null where it is not configured.
    pub expected: Option<u64>,
    /// All types together.
    #[serde(flatten)]
    pub sending: Sending,
    /// The verdict.
    pub judgement: Judgement,
}

/// Deliveries of one event type to one destination.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DestinationTypeHealth {
    /// Destination.
    pub destination: String,
    /// Neutral type.
    pub event_type: String,
    /// As of its destination.
    pub expected: Option<u64>,
    /// What was sent.
    #[serde(flatten)]
    pub sending: Sending,
    /// The verdict.
    pub judgement: Judgement,
}

/// Turns of one class of failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FailureCount {
    /// Class: dns, connect, tls, timeout, protocol, blocked, redirect, gone, rate_limited, refused, http_4xx,
    /// http_5xx and http_other with a request; circuit_open, disabled, removed, invalid, consent_unknown and
    /// consent_declined without.
    pub failure: String,
    /// How many turns.
    pub turns: u64,
}

/// A turn that did not deliver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FailedDelivery {
    /// When it began.
    pub at: Timestamp,
    /// Destination.
    pub destination: String,
    /// Neutral type of the event.
    pub event_type: String,
    /// Stable id of the delivery, which the receiver sees.
    pub delivery_id: String,
    /// Which turn of the delivery it was, from 1.
    pub attempt: i32,
    /// retrying, given_up or withheld.
    pub result: String,
    /// Class of the failure.
    pub failure: String,
    /// HTTP status; null where there was no answer.
    pub status: Option<i32>,
    /// What happened, without secrets and content.
    pub detail: Option<String>,
    /// Duration of the request; milliseconds; null where none was made.
    pub duration_ms: Option<i64>,
    /// When the next turn is due; null where none follows.
    pub next_at: Option<Timestamp>,
    /// Partition of its record in chat.deliveries.
    pub partition: i32,
    /// Offset there.
    pub offset: i64,
}

/// Deliveries over time. A unit without a turn has no point.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct OutgoingSeries {
    /// Tenant.
    pub tenant: String,
    /// Turns that began in it are counted.
    pub window: Span,
    /// The unit of time of each point.
    #[schema(schema_with = unit_schema)]
    pub unit: Unit,
    /// Per destination, by time.
    pub destinations: Vec<DestinationSeries>,
    /// Per destination and neutral type, by time.
    pub types: Vec<DestinationTypeSeries>,
}

/// One destination over time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DestinationSeries {
    /// Destination.
    pub destination: String,
    /// By time.
    pub points: Vec<SentPoint>,
}

/// One event type of one destination over time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DestinationTypeSeries {
    /// Destination.
    pub destination: String,
    /// Neutral type.
    pub event_type: String,
    /// By time.
    pub points: Vec<SentPoint>,
}

/// One unit of time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SentPoint {
    /// Start of the unit.
    pub at: Timestamp,
    /// Turns with a request.
    pub attempts: u64,
    /// Requests that the receiver answered with success.
    pub delivered: u64,
    /// Requests that did not deliver.
    pub failed: u64,
    /// Deliveries given up.
    pub given_up: u64,
    /// Not sent for want of consent.
    pub withheld: u64,
    /// Turns that did not deliver, by class.
    pub failures: BTreeMap<String, u64>,
    /// Duration of the requests that delivered; null where none did.
    pub request_ms: Option<Percentiles>,
    /// Received to delivered; null where nothing was delivered.
    pub delivered_ms: Option<Percentiles>,
}

impl FailedDelivery {
    /// Its place in the list.
    pub fn cursor(&self) -> FailedTurnCursor {
        FailedTurnCursor {
            at_ms: self.at.as_millisecond(),
            log_partition: self.partition,
            log_offset: self.offset,
        }
    }
}

impl From<FailedTurn> for FailedDelivery {
    fn from(turn: FailedTurn) -> Self {
        Self {
            at: timestamp(turn.at_ms),
            destination: turn.destination,
            event_type: turn.event_type,
            delivery_id: turn.delivery_id,
            attempt: turn.attempt,
            result: turn.result,
            failure: turn.failure,
            status: turn.status,
            detail: turn.detail,
            duration_ms: turn.duration_ms,
            next_at: turn.next_at_ms.map(timestamp),
            partition: turn.log_partition,
            offset: turn.log_offset,
        }
    }
}

impl From<DeliveryPoint> for SentPoint {
    fn from(point: DeliveryPoint) -> Self {
        Self {
            at: timestamp(point.at_ms),
            attempts: point.attempts,
            delivered: point.delivered,
            failed: point.failed,
            given_up: point.given_up,
            withheld: point.withheld,
            failures: point.failures.into_iter().collect(),
            request_ms: percentiles(&point.request_ms),
            delivered_ms: percentiles(&point.delay_ms),
        }
    }
}

impl Reports {
    /// Asks the store what the tenant's deliveries came to in the period, and judges.
    pub async fn deliveries(&self, tenant: &str, period: Period) -> Result<Deliveries, StoreError> {
        let span = period.delivery();
        let outgoing = self.outgoing(tenant, period).await?;
        Ok(Deliveries {
            tenant: tenant.to_owned(),
            window: span.window.into(),
            unit: span.unit,
            outgoing: outgoing.unwrap_or_else(|| outgoing_of(tenant, Found::default())),
        })
    }

    /// What the tenant's deliveries came to; `None` where it has no destinations and nothing was delivered.
    pub(crate) async fn outgoing(
        &self,
        tenant: &str,
        period: Period,
    ) -> Result<Option<Outgoing>, StoreError> {
        let store = &self.store;
        let destinations = store.destinations(tenant).await?;
        // Every destination is told of before it gets anything.
        if destinations.is_empty() {
            return Ok(None);
        }
        let span = period.delivery();
        let (figures, pending, accepted, failures) = tokio::try_join!(
            store.delivery_figures(tenant, span),
            store.pending_deliveries(tenant),
            store.accepted_by_type(tenant, span),
            store.failed_turns(tenant, span.window, (None, RECENT_FAILURES)),
        )?;
        let found = Found {
            asked_ms: period.asked_ms(),
            destinations,
            figures,
            pending,
            accepted,
            failures,
        };
        let outgoing = outgoing_of(tenant, found);
        Ok((!outgoing.destinations.is_empty()).then_some(outgoing))
    }

    /// Deliveries of the tenant over time.
    pub async fn deliveries_series(
        &self,
        tenant: &str,
        period: Period,
    ) -> Result<OutgoingSeries, StoreError> {
        let span = period.delivery();
        let (destinations, types) = tokio::try_join!(
            self.store.delivery_series(tenant, span),
            self.store.delivery_type_series(tenant, span),
        )?;
        let series = |points: &[DeliveryPoint]| points.iter().cloned().map(Into::into).collect();
        Ok(OutgoingSeries {
            tenant: tenant.to_owned(),
            window: span.window.into(),
            unit: span.unit,
            destinations: destinations
                .chunk_by(|a, b| a.destination == b.destination)
                .map(|points| DestinationSeries {
                    destination: points[0].destination.clone(),
                    points: series(points),
                })
                .collect(),
            types: types
                .chunk_by(|a, b| (&a.destination, &a.event_type) == (&b.destination, &b.event_type))
                .map(|points| DestinationTypeSeries {
                    destination: points[0].destination.clone(),
                    event_type: points[0].event_type.clone(),
                    points: series(points),
                })
                .collect(),
        })
    }

    /// Turns of the period that did not deliver, newest first, after a place in that list, at most so many.
    pub async fn failed_deliveries(
        &self,
        tenant: &str,
        period: Period,
        part: (Option<&FailedTurnCursor>, u32),
    ) -> Result<Vec<FailedDelivery>, StoreError> {
        let window = period.delivery().window;
        let found = self.store.failed_turns(tenant, window, part).await?;
        Ok(found.into_iter().map(FailedDelivery::from).collect())
    }
}

/// What the store says, to be judged.
#[derive(Default)]
struct Found {
    asked_ms: i64,
    destinations: Vec<DestinationInfo>,
    figures: Vec<DeliveryFigures>,
    pending: Vec<PendingDeliveries>,
    accepted: Vec<AcceptedPoint>,
    failures: Vec<FailedTurn>,
}

impl Found {
    /// What was sent to a destination and of a type; of all where there is none.
    fn sending(&self, destination: Option<&str>, event_type: Option<&str>) -> Sending {
        let figures = self.figures.iter().find(|of| {
            (of.destination.as_deref(), of.event_type.as_deref()) == (destination, event_type)
        });
        let pending = || {
            self.pending.iter().filter(|of| {
                destination.is_none_or(|wanted| wanted == of.destination)
                    && event_type.is_none_or(|wanted| wanted == of.event_type)
            })
        };
        let mut sending = figures.map_or_else(Sending::default, |of| Sending {
            turns: of.turns,
            attempts: of.attempts,
            delivered: of.delivered,
            failed: of.failed,
            retrying: of.retrying,
            given_up: of.given_up,
            withheld: of.withheld,
            failures: of.failures.iter().cloned().collect(),
            request_ms: percentiles(&of.request_ms),
            delivered_ms: percentiles(&of.delay_ms),
            last: Some(timestamp(of.last_ms)),
            ..Sending::default()
        });
        sending.pending = pending().map(|of| of.pending).sum();
        sending.oldest_pending = pending()
            .map(|of| of.oldest_received_ms)
            .min()
            .map(timestamp);
        sending
    }

    /// Events that a destination was owed, by the units of time that lie whole within its being configured.
    fn expected(&self, of: &DestinationInfo, event_type: Option<&str>) -> Option<u64> {
        let since_ms = of.since_ms?;
        let wanted = |point: &&AcceptedPoint| {
            point.at_ms >= since_ms
                && event_type.is_none_or(|wanted| wanted == point.event_type)
                && (of.event_types.is_empty() || of.event_types.contains(&point.event_type))
        };
        Some(
            self.accepted
                .iter()
                .filter(wanted)
                .map(|point| point.accepted)
                .sum(),
        )
    }

    fn judge(&self, sending: &Sending, expected: Option<u64>, disabled: Option<&str>) -> Judgement {
        let waiting_ms = sending
            .oldest_pending
            .map(|oldest| self.asked_ms.saturating_sub(oldest.as_millisecond()));
        judge_sent(&Sent {
            turns: sending.turns,
            attempts: sending.attempts,
            delivered: sending.delivered,
            failed: sending.failed,
            given_up: sending.given_up,
            withheld: sending.withheld,
            pending: sending.pending,
            waiting_ms,
            delivered_p95_ms: sending.delivered_ms.map(|ms| ms.p95),
            expected: expected.unwrap_or(0),
            disabled,
        })
    }
}

fn outgoing_of(tenant: &str, found: Found) -> Outgoing {
    let destinations: Vec<DestinationHealth> = found
        .destinations
        .iter()
        .map(|of| destination(of, &found))
        .filter(|of| of.configured || of.sending.turns > 0 || of.sending.pending > 0)
        .collect();
    let mut failures: Vec<FailureCount> = found
        .sending(None, None)
        .failures
        .into_iter()
        .map(|(failure, turns)| FailureCount { failure, turns })
        .collect();
    failures.sort_by_key(|of| std::cmp::Reverse(of.turns));
    Outgoing {
        judgement: overall(&destinations),
        notices: destinations
            .iter()
            .filter_map(|of| notice(tenant, of))
            .collect(),
        total: found.sending(None, None),
        types: destinations
            .iter()
            .flat_map(|of| types(of, &found))
            .collect(),
        destinations,
        failures,
        recent_failures: found
            .failures
            .into_iter()
            .map(FailedDelivery::from)
            .collect(),
    }
}

fn overall(destinations: &[DestinationHealth]) -> Judgement {
    match destinations.iter().max_by_key(|of| of.judgement.verdict) {
        None => Judgement {
            verdict: Verdict::Healthy,
            reason: "no destination is configured".to_owned(),
            threshold: None,
        },
        Some(worst) => Judgement {
            reason: format!("{}: {}", worst.destination, worst.judgement.reason),
            ..worst.judgement.clone()
        },
    }
}

fn destination(of: &DestinationInfo, found: &Found) -> DestinationHealth {
    let sending = found.sending(Some(&of.destination), None);
    let expected = found.expected(of, None);
    let disabled = disabled(of);
    DestinationHealth {
        destination: of.destination.clone(),
        kind: of.kind.clone(),
        event_types: of.event_types.clone(),
        configured: of.is_configured,
        since: of.since_ms.map(timestamp),
        failing_since: of.failing_since_ms.map(timestamp),
        disabled_since: of.disabled_at_ms.map(timestamp),
        disabled_reason: of.reason.clone(),
        expected,
        judgement: found.judge(&sending, expected, disabled.as_deref()),
        sending,
    }
}

/// Since when a configured destination is disabled, and why.
fn disabled(of: &DestinationInfo) -> Option<String> {
    let at_ms = of.disabled_at_ms.filter(|_| of.is_configured)?;
    let since = timestamp(at_ms).strftime("%Y-%m-%d %H:%M").to_string();
    Some(match (of.reason.as_deref(), of.failing_since_ms) {
        (Some("gone"), _) => {
            format!("disabled since {since} UTC: the receiver answered 410, it wants no more")
        }
        (_, Some(failing_ms)) => format!(
            "disabled since {since} UTC, after {} of failure",
            lasted(at_ms - failing_ms)
        ),
        (_, None) => format!("disabled since {since} UTC"),
    })
}

/// `5 days`; of less than two days more exactly.
fn lasted(ms: i64) -> String {
    const DAY_MS: i64 = 86_400_000;
    match ms / DAY_MS {
        days @ 2.. => format!("{days} days"),
        _ => duration(ms as f64),
    }
}

fn notice(tenant: &str, of: &DestinationHealth) -> Option<Notice> {
    if !of.configured {
        return None;
    }
    let of_destination = |since: Timestamp, text: String| Notice {
        destination: of.destination.clone(),
        since,
        text,
    };
    match (of.disabled_since, of.failing_since) {
        (Some(since), _) => Some(of_destination(
            since,
            format!(
                "{}. What comes is given up. When the receiver is well: chatpulse deliveries enable {tenant} {}, \
                 then chatpulse deliveries replay.",
                of.judgement.reason, of.destination
            ),
        )),
        (None, Some(since)) => Some(of_destination(
            since,
            format!(
                "fails without a success since {} UTC; one that goes on failing for days is disabled",
                since.strftime("%Y-%m-%d %H:%M")
            ),
        )),
        (None, None) => None,
    }
}

fn types(of: &DestinationHealth, found: &Found) -> Vec<DestinationTypeHealth> {
    let info = found
        .destinations
        .iter()
        .find(|info| info.destination == of.destination);
    let sent = found
        .figures
        .iter()
        .filter(|row| row.destination.as_deref() == Some(&of.destination))
        .filter_map(|row| row.event_type.as_deref());
    let waiting = found
        .pending
        .iter()
        .filter(|row| row.destination == of.destination)
        .map(|row| row.event_type.as_str());
    let owed = found
        .accepted
        .iter()
        .filter(|row| {
            of.since
                .is_some_and(|since| row.at_ms >= since.as_millisecond())
        })
        .filter(|row| of.event_types.is_empty() || of.event_types.contains(&row.event_type))
        .map(|row| row.event_type.as_str());
    let names: BTreeSet<&str> = sent.chain(waiting).chain(owed).collect();
    names
        .into_iter()
        .map(|event_type| {
            let sending = found.sending(Some(&of.destination), Some(event_type));
            let expected = info.and_then(|info| found.expected(info, Some(event_type)));
            let disabled = info.and_then(disabled);
            DestinationTypeHealth {
                destination: of.destination.clone(),
                event_type: event_type.to_owned(),
                expected,
                judgement: found.judge(&sending, expected, disabled.as_deref()),
                sending,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_254_000_000;
    const DAY: i64 = 86_400_000;

    fn info(name: &str) -> DestinationInfo {
        DestinationInfo {
            destination: name.into(),
            kind: "webhook".into(),
            event_types: Vec::new(),
            is_configured: true,
            since_ms: Some(NOW - 10 * DAY),
            failing_since_ms: None,
            disabled_at_ms: None,
            reason: None,
        }
    }

    fn figures(destination: Option<&str>, delivered: u64, failed: u64) -> DeliveryFigures {
        DeliveryFigures {
            destination: destination.map(Into::into),
            event_type: None,
            turns: delivered + failed,
            attempts: delivered + failed,
            delivered,
            retrying: failed,
            given_up: 0,
            withheld: 0,
            failed,
            failures: vec![("timeout".into(), failed)],
            request_ms: Vec::new(),
            delay_ms: Vec::new(),
            last_ms: NOW,
        }
    }

    fn accepted(event_type: &str, at_ms: i64, accepted: u64) -> AcceptedPoint {
        AcceptedPoint {
            at_ms,
            event_type: event_type.into(),
            accepted,
        }
    }

    fn found() -> Found {
        Found {
            asked_ms: NOW,
            ..Found::default()
        }
    }

    #[test]
    fn a_tenant_is_as_well_as_its_worst_destination_and_is_told_of_the_disabled() {
        let outgoing = outgoing_of(
            "acme",
            Found {
                destinations: vec![
                    info("crm"),
                    DestinationInfo {
                        failing_since_ms: Some(NOW - 6 * DAY),
                        disabled_at_ms: Some(NOW - DAY),
                        reason: Some("failing".into()),
                        ..info("erp")
                    },
                    DestinationInfo {
                        is_configured: false,
                        ..info("left-and-silent")
                    },
                ],
                figures: vec![figures(None, 10, 0), figures(Some("crm"), 10, 0)],
                ..found()
            },
        );
        assert_eq!(outgoing.destinations.len(), 2);
        assert_eq!(outgoing.destinations[0].judgement.verdict, Verdict::Healthy);
        assert_eq!(outgoing.judgement.verdict, Verdict::Failing);
        assert_eq!(
            outgoing.judgement.reason,
            "erp: disabled since 2026-11-20 09:40 UTC, after 5 days of failure"
        );
        assert_eq!(outgoing.notices.len(), 1);
        assert_eq!(outgoing.notices[0].since.as_millisecond(), NOW - DAY);
        assert!(
            outgoing.notices[0]
                .text
                .contains("deliveries enable acme erp")
        );
    }

    #[test]
    fn only_what_a_destination_was_configured_for_is_expected_of_it() {
        let of = DestinationInfo {
            event_types: vec!["lead.qualified".into()],
            since_ms: Some(NOW - 90_000),
            ..info("crm")
        };
        let found = Found {
            accepted: vec![
                accepted("lead.qualified", NOW - 120_000, 100),
                accepted("lead.qualified", NOW - 60_000, 7),
                accepted("message.sent", NOW - 60_000, 50),
            ],
            ..found()
        };
        assert_eq!(found.expected(&of, None), Some(7));
        assert_eq!(found.expected(&of, Some("message.sent")), Some(0));
        let silent = destination(&of, &found);
        assert_eq!(silent.judgement.verdict, Verdict::Silent);
        assert_eq!(
            found.expected(
                &DestinationInfo {
                    since_ms: None,
                    ..of
                },
                None
            ),
            None
        );
    }

    #[test]
    fn what_waits_since_before_the_window_is_told_of_its_destination_and_type() {
        let pending = |destination: &str, event_type: &str, pending| PendingDeliveries {
            destination: destination.into(),
            event_type: event_type.into(),
            pending,
            oldest_received_ms: NOW - DAY,
        };
        let found = Found {
            destinations: vec![
                info("crm"),
                // It has left, and what it was handed before is still under way.
                DestinationInfo {
                    is_configured: false,
                    since_ms: None,
                    ..info("left")
                },
            ],
            pending: vec![
                pending("crm", "goal.met", 4),
                pending("crm", "message.sent", 3),
                pending("left", "message.sent", 2),
            ],
            ..found()
        };
        let outgoing = outgoing_of("acme", found);
        assert_eq!(outgoing.total.pending, 9);
        let waiting = |of: &DestinationHealth| (of.destination.clone(), of.sending.pending);
        let destinations: Vec<_> = outgoing.destinations.iter().map(waiting).collect();
        assert_eq!(destinations, [("crm".into(), 7), ("left".into(), 2)]);
        let types = outgoing.types.iter();
        let types: Vec<_> = types.map(|of| of.sending.pending).collect();
        assert_eq!(types, [4, 3, 2]);
        assert_eq!(outgoing.judgement.verdict, Verdict::Degraded);
        assert_eq!(
            outgoing.total.request_ms, None,
            "of nothing there is no latency"
        );
    }
}
