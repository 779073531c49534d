//! A day and a week of traffic, made by rules: the same for the same `now`.
//!
//! Tenant acme: Watermelon works, Autochat is half refused since the last hours, Userlike stopped.
//! Tenant blumenhaus: all is well. Tenant "quiet": sent until two days ago.

use chatpulse_model::{
    Actor, Delivery, DeliveryResult, DestinationKind, Event, EventType, FailureClass, Outcome,
    RejectReason, TimeBasis, delivery::DestinationState,
};
use chatpulse_store::EventRow;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// A tenant's name that tries to be more than a name.
pub(crate) const HOSTILE: &str = "<img src=x onerror=alert(1)>\u{202e}'\"&/..?#";

/// An outcome and when it could be asked for.
pub(crate) struct Row {
    pub(crate) event: Event,
    pub(crate) inserted_at: i64,
}

impl Row {
    pub(crate) fn to_json(&self) -> String {
        let Value::Object(mut row) = serde_json::to_value(EventRow::from(&self.event)).unwrap()
        else {
            panic!("a row is an object")
        };
        let time = |ms: i64| Value::from(format!("{}.{:03}", ms / 1_000, ms % 1_000));
        row.insert("occurred_at".into(), time(self.event.occurred_at));
        row.insert("received_at".into(), time(self.event.received_at));
        row.insert("inserted_at".into(), time(self.inserted_at));
        row.insert("properties".into(), Value::Object(Map::new()));
        Value::Object(row).to_string()
    }
}

struct Maker {
    rows: Vec<Row>,
    random: ChaCha8Rng,
}

impl Maker {
    /// Adds an event that took its time to come and to be stored.
    fn add(&mut self, event: Event) {
        let way = 40 + self.random.random_range(0..120) + self.tail(900);
        self.add_after(event, way);
    }

    fn add_after(&mut self, event: Event, way: i64) {
        let offset = self.rows.len() as i64;
        let received_at = event.occurred_at + way;
        let inserted_at = received_at + 250 + self.random.random_range(0..300) + self.tail(1_500);
        self.rows.push(Row {
            event: Event {
                offset,
                event_id: format!("e{offset}"),
                received_at,
                ..event
            },
            inserted_at,
        });
    }

    /// Now and then something takes long.
    fn tail(&mut self, most: i64) -> i64 {
        if self.random.random_bool(0.04) {
            self.random.random_range(0..most)
        } else {
            0
        }
    }

    fn last(&mut self) -> &mut Event {
        let last = self.rows.len() - 1;
        &mut self.rows[last].event
    }

    fn copy_of_last(&mut self) {
        let last = &self.rows[self.rows.len() - 1];
        let (event, inserted_at) = (last.event.clone(), last.inserted_at + 1_500);
        self.rows.push(Row {
            event: Event {
                offset: self.rows.len() as i64,
                outcome: Outcome::Duplicate,
                received_at: event.received_at + 1_200,
                ..event
            },
            inserted_at,
        });
    }

    fn reject(&mut self, event: Event, reason: RejectReason, detail: &str) {
        self.add(Event {
            outcome: Outcome::Rejected,
            reason: Some(reason),
            detail: Some(detail.into()),
            rejected_bytes: Some(180 + event.occurred_at % 400),
            rejected_sha256: Some(format!("{:016x}", event.occurred_at).repeat(4)),
            event_type: EventType::Unknown,
            conversation_id: None,
            ..event
        });
    }
}

/// All of it, in the 8 days before `now`.
pub(crate) fn traffic(now: i64) -> Vec<Row> {
    let mut maker = Maker {
        rows: Vec::new(),
        random: ChaCha8Rng::seed_from_u64(4),
    };
    let now = now - 5 * SECOND;
    for hours_ago in (0..192).rev() {
        let hour = now - (hours_ago + 1) * HOUR;
        // More by day than by night; the older days are there to be compared with.
        let of_day = ((hour / HOUR) % 24) as f64;
        let busy = 1.0
            - ((of_day - 14.0) / 24.0 * std::f64::consts::TAU)
                .cos()
                .mul_add(-0.5, 0.5);
        let visits = if hours_ago < 72 {
            4.0 + 22.0 * busy
        } else {
            1.0 + 3.0 * busy
        };
        for visit in 0..visits as i64 {
            let at = hour + maker.random.random_range(0..50 * MINUTE);
            watermelon(&mut maker, ("acme", at, now), visit);
            if visit % 2 == 0 {
                watermelon(&mut maker, ("blumenhaus", at, now), visit);
            }
            autochat(&mut maker, at, hours_ago < 3);
            if hours_ago > 6 && visit % 3 == 0 {
                userlike(&mut maker, at);
            }
            if hours_ago > 48 && visit % 4 == 0 {
                let event = base("quiet", "algomo", at);
                maker.add(named(event, "message_sent", EventType::MessageSent));
            }
        }
    }
    let event = base(HOSTILE, "watermelon", now - 10 * MINUTE);
    let hostile = "<script>alert(1)</script>".repeat(8);
    maker.add(Event {
        widget_id: Some(hostile.clone()),
        language: Some("\u{202e}<b>".into()),
        documented: false,
        ..named(event.clone(), &hostile, EventType::Custom)
    });
    maker.reject(event, RejectReason::InvalidJson, &hostile);
    maker.rows
}

fn base(tenant: &str, source: &str, at: i64) -> Event {
    Event {
        partition: 0,
        offset: 0,
        outcome: Outcome::Accepted,
        reason: None,
        detail: None,
        rejected_bytes: None,
        rejected_sha256: None,
        tenant: tenant.into(),
        source: source.into(),
        write_key_id: "web".into(),
        source_event: String::new(),
        event_type: EventType::Custom,
        actor: Actor::System,
        documented: true,
        event_id: String::new(),
        occurred_at: at,
        time_basis: TimeBasis::Native,
        received_at: at,
        conversation_id: None,
        session_id: None,
        sequence: None,
        visitor: None,
        widget_id: None,
        platform: None,
        language: None,
        link: None,
        page_url: None,
        sdk: None,
        reported_total: None,
        score: None,
        score_kind: None,
        goal: None,
        properties: Default::default(),
        message_number: None,
        phase: None,
        response_time_ms: None,
        message_gap: None,
        replay_of: None,
    }
}

fn named(event: Event, name: &str, event_type: EventType) -> Event {
    Event {
        source_event: name.into(),
        event_type,
        ..event
    }
}

/// A visit of the widget; most lead to a conversation with the bot, some to a human.
fn watermelon(maker: &mut Maker, (tenant, at, now): (&str, i64, i64), visit: i64) {
    let conversation = format!("{tenant}-{at}-{visit}");
    let widget = ["shop", "help", "checkout"][(visit % 3) as usize];
    let language = ["de", "en", "nl"][(visit % 7 / 3) as usize];
    let visitor = Event {
        conversation_id: Some(conversation),
        session_id: Some(format!("s-{at}-{visit}")),
        widget_id: Some(widget.into()),
        language: Some(language.into()),
        actor: Actor::Visitor,
        ..base(tenant, "watermelon", at)
    };
    let mut sequence = 0;
    let mut number = 0;
    let mut say = |maker: &mut Maker, after: i64, name: &str, event_type: EventType, actor| {
        if at + after > now {
            return;
        }
        sequence += 1;
        // One in fifty is lost on its way out of the browser.
        if maker.random.random_bool(0.02) {
            return;
        }
        if event_type == EventType::MessageSent {
            number += 1;
        }
        maker.add(Event {
            occurred_at: at + after,
            actor,
            sequence: Some(sequence),
            message_number: (event_type == EventType::MessageSent).then_some(number),
            reported_total: (event_type == EventType::MessageSent).then_some(number),
            ..named(visitor.clone(), name, event_type)
        });
        if maker.random.random_bool(0.03) {
            maker.copy_of_last();
        }
    };
    say(
        maker,
        0,
        "widget_loaded",
        EventType::WidgetLoaded,
        Actor::System,
    );
    say(
        maker,
        3 * SECOND,
        "widget_opened",
        EventType::WidgetOpened,
        Actor::Visitor,
    );
    if visit % 5 == 4 {
        return;
    }
    let (message, answer) = ("widget_message_sent", "widget_agent_message_sent");
    say(
        maker,
        20 * SECOND,
        message,
        EventType::MessageSent,
        Actor::Visitor,
    );
    let thinking = maker.random.random_range(900..4_000);
    say(
        maker,
        20 * SECOND + thinking,
        answer,
        EventType::MessageSent,
        Actor::Bot,
    );
    say(
        maker,
        60 * SECOND,
        message,
        EventType::MessageSent,
        Actor::Visitor,
    );
    if visit % 9 != 1 {
        say(
            maker,
            62 * SECOND,
            answer,
            EventType::MessageSent,
            Actor::Bot,
        );
    }
    if visit % 4 == 2 {
        let request = "widget_handoff_requested";
        say(
            maker,
            90 * SECOND,
            request,
            EventType::HandoffRequested,
            Actor::Visitor,
        );
        if visit % 3 != 1 {
            let wait = maker.random.random_range(20..400) * SECOND;
            let (joined, left) = ("widget_user_joined", "widget_user_left");
            let human = "widget_message_user_sent";
            say(
                maker,
                90 * SECOND + wait,
                joined,
                EventType::AgentJoined,
                Actor::Agent,
            );
            say(
                maker,
                100 * SECOND + wait,
                human,
                EventType::MessageSent,
                Actor::Agent,
            );
            say(
                maker,
                400 * SECOND + wait,
                left,
                EventType::AgentLeft,
                Actor::Agent,
            );
        }
    }
    if visit % 6 != 5 {
        let ended = "widget_conversation_archived";
        say(
            maker,
            15 * MINUTE,
            ended,
            EventType::ConversationEnded,
            Actor::System,
        );
    }
    if visit % 17 == 3 {
        let late = Event {
            occurred_at: at + 2 * MINUTE,
            ..named(
                visitor.clone(),
                "widget_email_clicked",
                EventType::LinkClicked,
            )
        };
        if at + 30 * MINUTE < now {
            maker.add_after(late, 20 * MINUTE);
        }
    }
    if visit == 6 {
        let odd = Event {
            documented: false,
            ..named(visitor, "widget_confetti_shown", EventType::Custom)
        };
        maker.add(odd);
    }
}

/// Outcomes without messages; refused in part while `broken`.
fn autochat(maker: &mut Maker, at: i64, broken: bool) {
    let event = Event {
        conversation_id: Some(format!("a-{at}")),
        ..base("acme", "autochat", at)
    };
    if broken && at % 5 < 2 {
        let detail = "\"timestamp\" is text that is no time; send milliseconds or RFC 3339";
        let refused = named(event, "appointment_scheduled", EventType::Unknown);
        maker.reject(refused, RejectReason::InvalidTime, detail);
        return;
    }
    // From the page and from the vendor's server, but for one in fifty that never came from the page.
    let by_page = Event {
        sdk: Some("chatpulse.js/1".into()),
        ..named(event.clone(), "lead_qualified", EventType::LeadQualified)
    };
    if at % 50 == 0 {
        maker.add(named(event, "lead_qualified", EventType::LeadQualified));
        maker.copy_of_last();
    } else {
        maker.add(by_page);
        maker.copy_of_last();
        maker.last().sdk = None;
    }
}

fn userlike(maker: &mut Maker, at: i64) {
    let event = Event {
        conversation_id: Some(format!("u-{at}")),
        ..base("acme", "userlike", at)
    };
    let first = named(
        event.clone(),
        "message_operator_terminating",
        EventType::MessageSent,
    );
    maker.add(Event {
        actor: Actor::Visitor,
        ..first
    });
    let answer = named(event, "message_client_terminating", EventType::MessageSent);
    maker.add(Event {
        actor: Actor::Agent,
        occurred_at: at + 45 * SECOND,
        ..answer
    });
}

/// Where acme's events go, since ten days: the CRM fails now and then, Meta gets what is consented to, and the
/// warehouse has been disabled three hours ago.
pub(crate) fn destinations(now: i64) -> Vec<(i64, DestinationState)> {
    let state = |destination: &str, kind| DestinationState {
        tenant: "acme".into(),
        destination: destination.into(),
        kind,
        address: "ab".into(),
        event_types: Vec::new(),
        is_configured: true,
        failing_since: None,
        disabled_at: None,
        reason: None,
    };
    let leads = |destination: &str, kind| DestinationState {
        event_types: vec!["lead.qualified".into()],
        ..state(destination, kind)
    };
    let long_ago = now - 240 * HOUR;
    let warehouse = state("warehouse", DestinationKind::Webhook);
    vec![
        (long_ago, state("crm", DestinationKind::Webhook)),
        (long_ago, leads("meta", DestinationKind::Meta)),
        (long_ago, warehouse.clone()),
        (
            now - 3 * HOUR,
            DestinationState {
                failing_since: Some(now - 123 * HOUR),
                disabled_at: Some(now - 3 * HOUR),
                reason: Some("failing".into()),
                ..warehouse
            },
        ),
    ]
}

/// What came of acme's events of the last three days there.
pub(crate) fn deliveries(rows: &[Row], now: i64) -> Vec<Delivery> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut turns = Vec::new();
    let accepted = rows.iter().map(|row| &row.event).filter(|event| {
        event.tenant == "acme"
            && event.outcome == Outcome::Accepted
            && event.received_at > now - 72 * HOUR
    });
    for event in accepted {
        let turn = |destination: &str, kind, wait: i64| Delivery {
            delivery_id: format!("msg_{:032x}", event.offset * 31 + destination.len() as i64),
            tenant: "acme".into(),
            destination: destination.into(),
            kind,
            source: event.source.clone(),
            event_type: event.event_type.as_str().into(),
            event_id: event.event_id.clone(),
            partition: 0,
            offset: event.offset,
            occurred_at: event.occurred_at,
            received_at: event.received_at,
            attempt: 1,
            at: event.received_at + 120 + wait,
            duration_ms: Some(40 + event.offset % 90),
            result: DeliveryResult::Delivered,
            failure: None,
            status: Some(200),
            detail: None,
            next_at: None,
            replayed: false,
        };
        let failed = |turn: Delivery, class: FailureClass, detail: &str| Delivery {
            result: DeliveryResult::Retrying,
            failure: Some(class),
            status: None,
            detail: Some(detail.into()),
            next_at: Some(turn.at + 5 * SECOND),
            ..turn
        };
        let crm = turn("crm", DestinationKind::Webhook, 0);
        if random.random_bool(0.02) {
            let detail = format!("TLS: {HOSTILE} is no name");
            turns.push(failed(crm.clone(), FailureClass::Tls, &detail));
            if event.received_at < now - MINUTE {
                turns.push(Delivery {
                    attempt: 2,
                    ..turn("crm", DestinationKind::Webhook, 6 * SECOND)
                });
            }
        } else {
            turns.push(crm);
        }
        if event.event_type == EventType::LeadQualified {
            let meta = turn("meta", DestinationKind::Meta, 10);
            turns.push(if event.offset % 3 == 0 {
                Delivery {
                    result: DeliveryResult::Withheld,
                    failure: Some(FailureClass::ConsentUnknown),
                    duration_ms: None,
                    status: None,
                    detail: Some("no request is made without consent".into()),
                    ..meta
                }
            } else {
                meta
            });
        }
        let warehouse = turn("warehouse", DestinationKind::Webhook, 0);
        let disabled = event.received_at > now - 3 * HOUR;
        turns.push(Delivery {
            result: DeliveryResult::GivenUp,
            next_at: None,
            duration_ms: (!disabled).then_some(5_000),
            ..match disabled {
                true => failed(
                    warehouse,
                    FailureClass::Disabled,
                    "the destination is disabled (failing)",
                ),
                false => failed(
                    warehouse,
                    FailureClass::Timeout,
                    "no end within 5s (connecting)",
                ),
            }
        });
    }
    turns
}
