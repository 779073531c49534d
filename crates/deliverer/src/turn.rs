//! What a turn of a delivery leads to: its record, and its next turn. Pure.

use std::{sync::Arc, time::Duration};

use chatpulse_model::{
    Delivery, DeliveryResult, DestinationKind, Event, FailureClass, delivery::Retry,
};

use crate::{
    destination::delivery_id,
    failure::{Ending, Failure, Verdict, verdict},
    schedule::{Pause, Schedule},
};

/// A delivery at the beginning of a turn.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) event: Arc<Event>,
    /// The event as it stands in `chat.events`.
    pub(crate) framed: Arc<[u8]>,
    pub(crate) destination: Arc<str>,
    pub(crate) kind: DestinationKind,
    /// Turns it had before.
    pub(crate) attempts: i32,
    pub(crate) replayed: bool,
    /// What is known of consent; see [`Retry::consent`].
    pub(crate) consent: Option<bool>,
}

/// When a turn was, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// Milliseconds since the epoch.
    pub(crate) at: i64,
    /// Of the request, if one was made.
    pub(crate) took: Option<Duration>,
}

/// A waiting delivery, and where it waits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) step: usize,
    pub(crate) retry: Retry,
}

/// Details are cut to so many characters.
const MAX_DETAIL: usize = 300;

impl Turn {
    /// The record of this turn, and the next one if there is to be one. `random` is from 0 to 1.
    pub(crate) fn end(
        &self,
        ending: &Ending,
        span: Span,
        (schedule, random): (&Schedule, f64),
    ) -> (Delivery, Option<Waiting>) {
        let attempt = self.attempts.saturating_add(1);
        let failure = match ending {
            Ending::Delivered { .. } => None,
            Ending::Failed(failure) => Some(failure),
        };
        let next = |failure: &Failure| {
            let turns = usize::try_from(attempt).unwrap_or(usize::MAX);
            schedule.after(turns, failure.retry_after, random)
        };
        let (result, pause) = match failure.map(|failure| (verdict(failure.class), failure)) {
            None => (DeliveryResult::Delivered, None),
            Some((Verdict::Withhold, _)) => (DeliveryResult::Withheld, None),
            Some((Verdict::GiveUp | Verdict::Disable, _)) => (DeliveryResult::GivenUp, None),
            Some((Verdict::Retry, failure)) => match next(failure) {
                Some(pause) => (DeliveryResult::Retrying, Some(pause)),
                None => (DeliveryResult::GivenUp, None),
            },
        };
        let waiting = pause.map(|pause| {
            self.waiting(
                attempt,
                pause,
                (span.at, failure.map(|failure| failure.class)),
            )
        });
        let event = &self.event;
        let delivery = Delivery {
            delivery_id: delivery_id(
                (&event.tenant, &self.destination),
                (&event.source, &event.event_id),
            ),
            tenant: event.tenant.clone(),
            destination: self.destination.to_string(),
            kind: self.kind,
            source: event.source.clone(),
            event_type: event.event_type.as_str().to_owned(),
            event_id: event.event_id.clone(),
            partition: event.partition,
            offset: event.offset,
            occurred_at: event.occurred_at,
            received_at: event.received_at,
            attempt,
            at: span.at,
            duration_ms: span.took.map(millis),
            result,
            failure: failure.map(|failure| failure.class),
            status: match ending {
                Ending::Delivered { status } => Some((*status).into()),
                Ending::Failed(failure) => failure.status.map(i32::from),
            },
            detail: failure.map(|failure| failure.detail.chars().take(MAX_DETAIL).collect()),
            next_at: waiting.as_ref().map(|waiting| waiting.retry.due_at),
            replayed: self.replayed,
        };
        (delivery, waiting)
    }

    /// The same turn later, because its destination takes none now.
    pub(crate) fn postponed(
        &self,
        (now, wait, last): (i64, Duration, Option<FailureClass>),
        (schedule, random): (&Schedule, f64),
    ) -> Waiting {
        let pause = schedule.postponed(wait, random);
        self.waiting(self.attempts, pause, (now, last))
    }

    fn waiting(
        &self,
        attempts: i32,
        pause: Pause,
        (now, last): (i64, Option<FailureClass>),
    ) -> Waiting {
        Waiting {
            step: pause.step,
            retry: Retry {
                tenant: self.event.tenant.clone(),
                destination: self.destination.to_string(),
                kind: self.kind,
                attempts,
                due_at: now.saturating_add(millis(pause.wait)),
                last,
                replayed: self.replayed,
                event: self.framed.to_vec(),
                consent: self.consent,
            },
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::event;

    fn turn(attempts: i32) -> Turn {
        Turn {
            event: Arc::new(event()),
            framed: Arc::from([1, 2, 3]),
            destination: "crm".into(),
            kind: DestinationKind::Webhook,
            attempts,
            replayed: false,
            consent: Some(true),
        }
    }

    fn end(attempts: i32, ending: &Ending) -> (Delivery, Option<Waiting>) {
        let span = Span {
            at: 1_000,
            took: Some(Duration::from_millis(31)),
        };
        turn(attempts).end(ending, span, (&Schedule::default(), 0.0))
    }

    fn failed(class: FailureClass) -> Ending {
        Ending::Failed(Failure::new(class, "x".repeat(1_000)))
    }

    #[test]
    fn a_delivered_turn_is_the_last() {
        let (delivery, waiting) = end(1, &Ending::Delivered { status: 204 });
        assert_eq!(delivery.result, DeliveryResult::Delivered);
        assert_eq!((delivery.attempt, delivery.status), (2, Some(204)));
        assert_eq!(delivery.duration_ms, Some(31));
        assert_eq!(waiting, None);
    }

    #[test]
    fn a_failed_turn_leads_to_the_next_and_the_seventh_to_the_end() {
        for attempts in 0..7 {
            let (delivery, waiting) = end(attempts, &failed(FailureClass::Http5xx));
            assert_eq!(delivery.failure, Some(FailureClass::Http5xx));
            assert_eq!(delivery.detail.unwrap().len(), 300);
            assert_eq!(delivery.next_at, waiting.as_ref().map(|w| w.retry.due_at));
            match (attempts, waiting) {
                (6, None) => assert_eq!(delivery.result, DeliveryResult::GivenUp),
                (_, Some(waiting)) => {
                    assert_eq!(delivery.result, DeliveryResult::Retrying);
                    assert_eq!(waiting.step, attempts as usize + 1);
                    assert_eq!(waiting.retry.attempts, attempts + 1);
                    assert_eq!(waiting.retry.event, [1, 2, 3]);
                    assert_eq!(waiting.retry.consent, Some(true));
                }
                (_, None) => panic!("given up early"),
            }
        }
    }

    #[test]
    fn every_class_ends_or_goes_on_and_only_consent_withholds() {
        for &class in FailureClass::ALL {
            let (delivery, waiting) = end(0, &failed(class));
            assert_eq!(
                delivery.result == DeliveryResult::Retrying,
                waiting.is_some()
            );
            assert_eq!(
                delivery.result == DeliveryResult::Withheld,
                class.as_str().starts_with("consent")
            );
        }
    }

    #[test]
    fn a_postponed_turn_is_not_counted() {
        let schedule = Schedule::default();
        let postponed = |seconds| {
            let wait = Duration::from_secs(seconds);
            turn(3).postponed((1_000, wait, None), (&schedule, 0.0))
        };
        let waiting = postponed(0);
        assert_eq!((waiting.step, waiting.retry.attempts), (1, 3));
        assert_eq!(waiting.retry.due_at, 6_000);
        assert_eq!(postponed(60).step, 2);
        assert_eq!(postponed(1_000_000).step, 6);
    }
}
