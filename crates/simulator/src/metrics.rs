//! The ground truth: facts of one conversation → its part in every metric → sums and quantiles.
//!
//! Written from the metric definitions alone, without the pipeline's code, by looping over each
//! conversation's events, so that it can judge the pipeline. Where a definition leaves room, this is
//! how it is read:
//!
//! - *Closed* (C): an explicit close exists, also when the visitor came back after it, or the last
//!   event is at least 24 h before the as-of time.
//! - A close by silence is judged at the as-of time and has no time of its own. Handle time,
//!   resolution time and reopen rate therefore use explicit closes only, and are n/a where the source
//!   shows none. The close of a reopening is the first one; "after" is strict, "at least 7 days old"
//!   counts from the close, and the numerator is taken from the denominator.
//! - *Started by a human*: the first agent message is before every visitor and bot message.
//! - *Human*: a join or an agent message.
//! - *Unanswered*: no bot or agent message at or after the last visitor message ("not before").
//! - *Handle time*: each join runs to the first leave, return to the bot or close at or after it; a
//!   join that none follows has no length and is left out. A conversation counts where it has at
//!   least one such interval.
//! - *Time to human*: the first join at or after the first request; where there is none, the first
//!   agent message at or after it; where that is missing too, the request is unanswered.
//! - Durations are taken over all conversations that have both ends, not over B or C.
//!
//! What LoyJoy cannot show: B needs a bot message or a handoff request, and none of LoyJoy's events
//! proves either (`welcome_sent` tells of a fixed greeting, not of an answer, and no later bot message
//! is reported). B is thus not empty but unseen, and every rate over B or C is n/a, as for Algomo,
//! Autochat and Userlike. Its human part, closes and NPS are seen. A page session stands for its
//! conversations, so a visitor who comes back days later begins another one: reopening is n/a.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::script::{DAY, Kind};
use crate::vendors::Source;

/// An accepted event of a conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fact {
    /// When it happened, milliseconds since the Unix epoch.
    pub(crate) at: i64,
    pub(crate) kind: Kind,
    /// The browser's count of messages, where the event reports it.
    pub(crate) total: Option<u32>,
}

/// A rate as an exact fraction; n/a where `den` is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Ratio {
    /// Conversations that have the property.
    pub num: u64,
    /// Conversations that could have it.
    pub den: u64,
}

/// A distribution of durations in milliseconds, interpolated between the nearest ranks as
/// ClickHouse's `quantileExactInclusive` and Excel's `PERCENTILE.INC` do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Durations {
    /// How many durations there are.
    pub n: u64,
    /// Quantile 0.5; none where `n` is 0.
    pub median_ms: Option<f64>,
    /// Quantile 0.9; none where `n` is 0.
    pub p90_ms: Option<f64>,
    /// Quantile 0.95; none where `n` is 0.
    pub p95_ms: Option<f64>,
}

impl Durations {
    fn of(mut values: Vec<i64>) -> Self {
        values.sort_unstable();
        Durations {
            n: values.len() as u64,
            median_ms: quantile(&values, 0.5),
            p90_ms: quantile(&values, 0.9),
            p95_ms: quantile(&values, 0.95),
        }
    }
}

fn quantile(sorted: &[i64], level: f64) -> Option<f64> {
    let last = *sorted.last()?;
    // The rank counts from 1, as in ClickHouse, so that both round alike.
    let rank = level * (sorted.len() - 1) as f64 + 1.0;
    let below = rank as usize;
    let Some(&above) = sorted.get(below) else {
        return Some(last as f64);
    };
    let value = sorted[below - 1];
    Some(value as f64 + (rank - below as f64) * (above - value) as f64)
}

/// Distinct messages by actor; none where the source does not show that actor's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Messages {
    /// Messages of visitors.
    pub visitor: Option<u64>,
    /// Messages of the bot.
    pub bot: Option<u64>,
    /// Messages of human agents.
    pub agent: Option<u64>,
    /// All that the source shows; none where it shows none of the three.
    pub total: Option<u64>,
}

/// Reported less received messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MessageGap {
    /// Conversations for which a total was reported.
    pub conversations: u64,
    /// Sum of their reported totals.
    pub reported: u64,
    /// Sum of reported − received over them.
    pub gap: i64,
}

/// The conversations of C by outcome; each is in exactly one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// A request, and a human.
    pub handed_off: u64,
    /// A request, and no human.
    pub requested_unserved: u64,
    /// A human, and no request.
    pub human_intervened: u64,
    /// The last visitor message unanswered.
    pub abandoned: u64,
    /// Positive feedback or an explicit resolve; always 0, no source shows either.
    pub bot_resolved: u64,
    /// All others.
    pub contained_assumed: u64,
}

/// Scores of a 0 to 10 survey.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Nps {
    /// Scores 9 and 10.
    pub promoters: u64,
    /// Scores 0 to 6.
    pub detractors: u64,
    /// All scores.
    pub n: u64,
}

/// Every metric of one tenant and source, over all conversations of the run, judged at the base
/// time. `None` is n/a: the source cannot show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceMetrics {
    /// Distinct conversation ids among the accepted events.
    pub conversations: u64,
    /// Messages by actor.
    pub messages: Messages,
    /// Messages lost on the way.
    pub message_gap: Option<MessageGap>,
    /// B: conversations with the bot.
    pub bot_conversations: Option<u64>,
    /// C: the closed ones of B.
    pub closed_bot_conversations: Option<u64>,
    /// C by outcome.
    pub outcomes: Option<Outcomes>,
    /// B with a request ÷ B.
    pub handoff_request_rate: Option<Ratio>,
    /// Handed off or human intervened ÷ C.
    pub handoff_rate: Option<Ratio>,
    /// Resolved or contained ÷ C.
    pub containment_rate: Option<Ratio>,
    /// Resolved ÷ C.
    pub bot_resolution_rate: Option<Ratio>,
    /// First visitor message → first bot or agent message.
    pub first_response_any: Option<Durations>,
    /// Start of waiting → first agent message.
    pub first_response_human: Option<Durations>,
    /// First request → first human.
    pub time_to_human: Option<Durations>,
    /// Conversations whose request no human followed.
    pub unanswered_requests: Option<u64>,
    /// Time with a human, per conversation.
    pub handle_time: Option<Durations>,
    /// Start → first close.
    pub resolution_time: Option<Durations>,
    /// Taken up again within 7 days ÷ closed at least 7 days ago.
    pub reopen_rate: Option<Ratio>,
    /// Ratings of at least 4 of 5 ÷ ratings.
    pub csat: Option<Ratio>,
    /// Scores by group.
    pub nps: Option<Nps>,
}

/// What a source lets be seen.
#[derive(Default)]
struct Sight {
    /// Its own id of a conversation, by which one is known again days later.
    conversation: bool,
    visitor: bool,
    bot: bool,
    agent: bool,
    reported: bool,
    request: bool,
    join: bool,
    close: bool,
    nps: bool,
}

impl Sight {
    fn of(source: Source) -> Self {
        let blind = Sight::default();
        match source {
            Source::Algomo => Sight {
                conversation: true,
                visitor: true,
                ..blind
            },
            Source::Autochat => Sight {
                conversation: true,
                request: true,
                ..blind
            },
            Source::LoyJoy => Sight {
                visitor: true,
                join: true,
                close: true,
                nps: true,
                ..blind
            },
            Source::Userlike => Sight {
                conversation: true,
                visitor: true,
                agent: true,
                ..blind
            },
            Source::Watermelon => Sight {
                conversation: true,
                visitor: true,
                bot: true,
                agent: true,
                reported: true,
                request: true,
                join: true,
                close: true,
                nps: false,
            },
        }
    }
}

/// Sums over the conversations of one tenant and source.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    conversations: u64,
    visitor: u64,
    bot: u64,
    agent: u64,
    gap: MessageGap,
    bot_conversations: u64,
    requested: u64,
    outcomes: Outcomes,
    first_response_any: Vec<i64>,
    first_response_human: Vec<i64>,
    time_to_human: Vec<i64>,
    unanswered_requests: u64,
    handle_time: Vec<i64>,
    resolution_time: Vec<i64>,
    reopened: Ratio,
    nps: Nps,
}

impl Tally {
    /// Judges one conversation; nothing where none of its events was received.
    pub(crate) fn add(&mut self, facts: &[Fact], as_of: i64) {
        let Some(started_at) = facts.iter().map(|fact| fact.at).min() else {
            return;
        };
        let last_event_at = facts.iter().map(|fact| fact.at).max().unwrap_or(started_at);
        let visitor = times(facts, &[Kind::VisitorMessage]);
        let bot = times(facts, &[Kind::BotMessage]);
        let agent = times(facts, &[Kind::AgentMessage]);
        let answers = times(facts, &[Kind::BotMessage, Kind::AgentMessage]);
        let requests = times(facts, &[Kind::HandoffRequested]);
        let joins = times(facts, &[Kind::HumanJoined]);
        let closes = times(facts, &[Kind::Closed]);
        let ends = times(facts, &[Kind::HumanLeft, Kind::BotResumed, Kind::Closed]);

        self.conversations += 1;
        self.visitor += visitor.len() as u64;
        self.bot += bot.len() as u64;
        self.agent += agent.len() as u64;
        if let Some(reported) = facts.iter().filter_map(|fact| fact.total).max() {
            let received = visitor.len() + bot.len() + agent.len();
            self.gap.conversations += 1;
            self.gap.reported += u64::from(reported);
            self.gap.gap += i64::from(reported) - received as i64;
        }

        let requested = !requests.is_empty();
        let started_by_human = agent
            .first()
            .is_some_and(|first| visitor.iter().chain(&bot).all(|at| first < at));
        if !visitor.is_empty() && (!bot.is_empty() || requested) && !started_by_human {
            self.bot_conversations += 1;
            self.requested += u64::from(requested);
            if !closes.is_empty() || as_of - last_event_at >= DAY {
                let human = !joins.is_empty() || !agent.is_empty();
                let answered = visitor
                    .last()
                    .is_none_or(|last| answers.iter().any(|at| at >= last));
                let outcome = match (requested, human, answered) {
                    (true, true, _) => &mut self.outcomes.handed_off,
                    (true, false, _) => &mut self.outcomes.requested_unserved,
                    (false, true, _) => &mut self.outcomes.human_intervened,
                    (false, false, false) => &mut self.outcomes.abandoned,
                    (false, false, true) => &mut self.outcomes.contained_assumed,
                };
                *outcome += 1;
            }
        }

        if let Some(&asked) = visitor.first() {
            self.first_response_any
                .extend(not_before(&answers, asked).map(|at| at - asked));
        }
        if let Some(&waiting) = requests.first().or(visitor.first()) {
            self.first_response_human
                .extend(not_before(&agent, waiting).map(|at| at - waiting));
        }
        if let Some(&request) = requests.first() {
            match not_before(&joins, request).or(not_before(&agent, request)) {
                Some(human) => self.time_to_human.push(human - request),
                None => self.unanswered_requests += 1,
            }
        }
        self.handle_time.extend(handle_time(&joins, &ends));
        if let Some(&close) = closes.first() {
            self.resolution_time.push(close - started_at);
            if as_of - close >= 7 * DAY {
                self.reopened.den += 1;
                let again = visitor
                    .iter()
                    .any(|&at| at > close && at - close <= 7 * DAY);
                self.reopened.num += u64::from(again);
            }
        }
        for fact in facts {
            if let Kind::Nps(score) = fact.kind {
                self.nps.n += 1;
                self.nps.promoters += u64::from(score >= 9);
                self.nps.detractors += u64::from(score <= 6);
            }
        }
    }

    /// The metrics that the source lets be seen; none where there is no conversation.
    pub(crate) fn finish(self, source: Source) -> Option<SourceMetrics> {
        if self.conversations == 0 {
            return None;
        }
        let sight = Sight::of(source);
        let bot_seen = sight.visitor && (sight.bot || sight.request);
        let outcomes = self.outcomes;
        let closed = outcomes.handed_off
            + outcomes.requested_unserved
            + outcomes.human_intervened
            + outcomes.abandoned
            + outcomes.bot_resolved
            + outcomes.contained_assumed;
        let of_closed = |num| bot_seen.then_some(Ratio { num, den: closed });
        Some(SourceMetrics {
            conversations: self.conversations,
            messages: Messages {
                visitor: sight.visitor.then_some(self.visitor),
                bot: sight.bot.then_some(self.bot),
                agent: sight.agent.then_some(self.agent),
                total: (sight.visitor || sight.bot || sight.agent)
                    .then_some(self.visitor + self.bot + self.agent),
            },
            message_gap: sight.reported.then_some(self.gap),
            bot_conversations: bot_seen.then_some(self.bot_conversations),
            closed_bot_conversations: bot_seen.then_some(closed),
            outcomes: bot_seen.then_some(outcomes),
            handoff_request_rate: bot_seen.then_some(Ratio {
                num: self.requested,
                den: self.bot_conversations,
            }),
            handoff_rate: of_closed(outcomes.handed_off + outcomes.human_intervened),
            containment_rate: of_closed(outcomes.bot_resolved + outcomes.contained_assumed),
            // No source shows positive feedback or an explicit resolve.
            bot_resolution_rate: None,
            first_response_any: (sight.visitor && (sight.bot || sight.agent))
                .then(|| Durations::of(self.first_response_any)),
            first_response_human: (sight.visitor && sight.agent)
                .then(|| Durations::of(self.first_response_human)),
            time_to_human: (sight.request && sight.join).then(|| Durations::of(self.time_to_human)),
            unanswered_requests: (sight.request && sight.join).then_some(self.unanswered_requests),
            handle_time: sight.join.then(|| Durations::of(self.handle_time)),
            resolution_time: sight.close.then(|| Durations::of(self.resolution_time)),
            reopen_rate: (sight.close && sight.visitor && sight.conversation)
                .then_some(self.reopened),
            // No source gives a rating's value.
            csat: None,
            nps: sight.nps.then_some(self.nps),
        })
    }
}

/// Metrics per source name, of the sources that have a conversation.
pub(crate) fn finish(tallies: BTreeMap<Source, Tally>) -> BTreeMap<&'static str, SourceMetrics> {
    tallies
        .into_iter()
        .filter_map(|(source, tally)| Some((source.name(), tally.finish(source)?)))
        .collect()
}

/// When events of the given kinds happened, sorted.
fn times(facts: &[Fact], kinds: &[Kind]) -> Vec<i64> {
    let mut times: Vec<i64> = facts
        .iter()
        .filter(|fact| kinds.contains(&fact.kind))
        .map(|fact| fact.at)
        .collect();
    times.sort_unstable();
    times
}

/// The first of the sorted times that is not before the given one.
fn not_before(times: &[i64], start: i64) -> Option<i64> {
    times.iter().copied().find(|&at| at >= start)
}

/// Length of the union of the intervals from each join to the first end not before it.
fn handle_time(joins: &[i64], ends: &[i64]) -> Option<i64> {
    let mut covered_to = i64::MIN;
    let mut length = None;
    for &join in joins {
        let Some(end) = not_before(ends, join) else {
            continue;
        };
        let from = join.max(covered_to);
        *length.get_or_insert(0) += (end - from).max(0);
        covered_to = covered_to.max(end);
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(of: &[(i64, Kind)]) -> Vec<Fact> {
        of.iter()
            .map(|&(at, kind)| Fact {
                at,
                kind,
                total: None,
            })
            .collect()
    }

    fn judged(of: &[(i64, Kind)], as_of: i64) -> SourceMetrics {
        let mut tally = Tally::default();
        tally.add(&facts(of), as_of);
        tally.finish(Source::Watermelon).expect("one conversation")
    }

    #[test]
    fn quantiles_interpolate_as_percentile_inc_does() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[7], 0.95), Some(7.0));
        assert_eq!(quantile(&[1, 2, 3, 4], 0.5), Some(2.5));
        assert_eq!(
            quantile(&[0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100], 0.9),
            Some(90.0)
        );
        assert_eq!(quantile(&[0, 10], 0.95), Some(9.5));
    }

    #[test]
    fn overlapping_humans_count_once_and_a_join_without_end_not_at_all() {
        assert_eq!(handle_time(&[10, 20], &[50]), Some(40));
        assert_eq!(handle_time(&[10, 60], &[50, 65]), Some(45));
        assert_eq!(handle_time(&[10], &[5]), None);
        assert_eq!(handle_time(&[10, 60], &[50]), Some(40));
        assert_eq!(handle_time(&[10], &[10]), Some(0));
    }

    #[test]
    fn outcomes_are_exclusive_and_in_the_order_of_the_definition() {
        use Kind::{
            AgentMessage, BotMessage, Closed, HandoffRequested, HumanJoined, VisitorMessage,
        };
        let start = [(0, VisitorMessage), (1, BotMessage)];
        let outcome = |more: &[(i64, Kind)]| {
            let all: Vec<_> = start.iter().chain(more).copied().collect();
            judged(&all, 100).outcomes.expect("seen")
        };
        let none = Outcomes::default();
        let served = [(2, HandoffRequested), (3, HumanJoined), (9, Closed)];
        assert_eq!(
            outcome(&served),
            Outcomes {
                handed_off: 1,
                ..none
            }
        );
        let unserved = [(2, HandoffRequested), (3, VisitorMessage), (9, Closed)];
        assert_eq!(
            outcome(&unserved),
            Outcomes {
                requested_unserved: 1,
                ..none
            }
        );
        let unasked = [(2, AgentMessage), (3, VisitorMessage), (9, Closed)];
        assert_eq!(
            outcome(&unasked),
            Outcomes {
                human_intervened: 1,
                ..none
            }
        );
        let left_alone = [(3, VisitorMessage), (9, Closed)];
        assert_eq!(
            outcome(&left_alone),
            Outcomes {
                abandoned: 1,
                ..none
            }
        );
        let answered_at_once = [(3, VisitorMessage), (3, BotMessage), (9, Closed)];
        assert_eq!(
            outcome(&answered_at_once),
            Outcomes {
                contained_assumed: 1,
                ..none
            }
        );
        assert_eq!(outcome(&[]), none, "still open");
    }

    #[test]
    fn a_conversation_is_closed_by_24_hours_of_silence() {
        let talk = [(0, Kind::VisitorMessage), (1, Kind::BotMessage)];
        assert_eq!(judged(&talk, DAY).closed_bot_conversations, Some(0));
        assert_eq!(judged(&talk, DAY + 1).closed_bot_conversations, Some(1));
        assert_eq!(
            judged(&talk, DAY + 1)
                .resolution_time
                .map(|durations| durations.n),
            Some(0)
        );
    }

    #[test]
    fn what_a_human_started_is_no_conversation_with_the_bot() {
        let outbound = [
            (0, Kind::AgentMessage),
            (1, Kind::VisitorMessage),
            (2, Kind::BotMessage),
        ];
        assert_eq!(judged(&outbound, 10).bot_conversations, Some(0));
        assert_eq!(judged(&outbound[1..], 10).bot_conversations, Some(1));
    }

    #[test]
    fn responses_are_never_counted_from_before_the_question() {
        let greeted = [
            (0, Kind::BotMessage),
            (5, Kind::VisitorMessage),
            (9, Kind::BotMessage),
        ];
        let metrics = judged(&greeted, 10);
        assert_eq!(
            metrics.first_response_any.and_then(|any| any.median_ms),
            Some(4.0)
        );
        let joined_before = [
            (0, Kind::VisitorMessage),
            (1, Kind::HumanJoined),
            (2, Kind::HandoffRequested),
            (8, Kind::AgentMessage),
        ];
        let metrics = judged(&joined_before, 10);
        assert_eq!(
            metrics.time_to_human.and_then(|time| time.median_ms),
            Some(6.0)
        );
        let unanswered = judged(&joined_before[..3], 10);
        assert_eq!(unanswered.unanswered_requests, Some(1));
    }

    #[test]
    fn reopening_counts_within_7_days_of_closes_that_are_7_days_old() {
        let again = |after: i64| {
            [
                (0, Kind::VisitorMessage),
                (10, Kind::Closed),
                (10 + after, Kind::VisitorMessage),
            ]
        };
        let rate = |after: i64, as_of: i64| judged(&again(after), as_of).reopen_rate;
        assert_eq!(rate(DAY, 7 * DAY + 10), Some(Ratio { num: 1, den: 1 }));
        assert_eq!(rate(7 * DAY, 9 * DAY), Some(Ratio { num: 1, den: 1 }));
        assert_eq!(rate(7 * DAY + 1, 9 * DAY), Some(Ratio { num: 0, den: 1 }));
        assert_eq!(
            rate(DAY, 7 * DAY + 9),
            Some(Ratio { num: 0, den: 0 }),
            "not yet 7 days old"
        );
    }
}
