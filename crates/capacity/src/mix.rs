//! A tenant's own mix of events as load: how often each event comes, and its shape, with nothing of its content.
//!
//! ```text
//! mix file: counts, shares, templates ─► draw an event, a conversation ─► template with fresh ids ─► feed
//! ```
//!
//! Events are drawn independently of each other, by their counts. Conversations are as long as recorded in the mean;
//! which event follows which is not recorded.

use std::{collections::BTreeMap, sync::Arc};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::feed::{FeedOptions, Item};

/// The form of the file.
const FORMAT: u32 = 1;
/// More events than any tenant has.
const MOST_EVENTS: usize = 10_000;
/// Larger than what a producer takes by default.
const LARGEST_TEMPLATE: usize = 64 * 1024;
/// Conversations of each source that are under way at a time.
const OPEN: usize = 256;
/// Events lie so far before the moment of sending, at most; milliseconds.
const AGE_MS: i64 = 2_000;

/// What templates hold in place of what is fresh in each event. In quotes they stand for a text, but for
/// [`place::TIME_MS`] and [`place::SEQUENCE`], which become numbers and take the quotes with them.
pub mod place {
    /// Id of the event.
    pub const EVENT_ID: &str = "{{event_id}}";
    /// Id of the conversation.
    pub const CONVERSATION_ID: &str = "{{conversation_id}}";
    /// Id of the page session.
    pub const SESSION_ID: &str = "{{session_id}}";
    /// Number in the page session.
    pub const SEQUENCE: &str = "{{sequence}}";
    /// Milliseconds since the Unix epoch.
    pub const TIME_MS: &str = "{{time_ms}}";
}

/// A recorded mix.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Form of the file, 1.
    pub format: u32,
    /// Events of a conversation in the mean.
    pub events_per_conversation: f64,
    /// Share of items that are copies of one sent before.
    pub duplicates: f64,
    /// Share of items that are refused.
    pub rejected: f64,
    /// Every event that came.
    pub events: Vec<MixEvent>,
}

/// An event of a mix.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixEvent {
    /// Source in the path of the request.
    pub source: String,
    /// The vendor's name for it; for people.
    pub name: String,
    /// How often it came.
    pub count: u64,
    /// The item, with the names of [`place`] where something fresh belongs.
    pub template: String,
}

/// Why a mix cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MixError {
    /// It is no mix.
    #[error("the mix cannot be read: {0}")]
    Syntax(#[from] serde_json::Error),
    /// It says something impossible.
    #[error("the mix cannot be used: {0}")]
    Invalid(String),
}

impl Mix {
    /// The form that this program writes and reads.
    pub const FORMAT: u32 = FORMAT;

    /// Reads and checks a mix.
    ///
    /// # Errors
    /// [`MixError`] with what is wrong.
    pub fn parse(text: &str) -> Result<Self, MixError> {
        let mix: Self = serde_json::from_str(text)?;
        let fault = mix.fault();
        fault.map_or(Ok(mix), |fault| Err(MixError::Invalid(fault)))
    }

    fn fault(&self) -> Option<String> {
        if self.format != FORMAT {
            return Some(format!("its format is {} and not {FORMAT}", self.format));
        }
        if self.events.is_empty() || self.events.len() > MOST_EVENTS {
            return Some(format!(
                "it has {} events: 1 to {MOST_EVENTS}",
                self.events.len()
            ));
        }
        if !(1.0..=1e9).contains(&self.events_per_conversation) {
            return Some("events_per_conversation must be at least 1".into());
        }
        for (name, share) in [("duplicates", self.duplicates), ("rejected", self.rejected)] {
            if !(0.0..=0.9).contains(&share) {
                return Some(format!("{name} must be from 0 to 0.9"));
            }
        }
        if self.events.iter().all(|event| event.count == 0) {
            return Some("no event has a count".into());
        }
        self.events.iter().find_map(|event| {
            let source = event.source.bytes();
            let named = !event.source.is_empty()
                && source
                    .into_iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            let name: String = event.name.chars().take(80).collect();
            if !named {
                return Some(format!("the source of {name:?} is no name of a source"));
            }
            if event.template.len() > LARGEST_TEMPLATE {
                return Some(format!(
                    "the template of {name:?} is larger than {LARGEST_TEMPLATE} bytes"
                ));
            }
            let filled = fill(&event.template, &Fresh::default());
            match serde_json::from_str::<serde_json::Value>(&filled) {
                Ok(value) if value.is_object() => None,
                _ => Some(format!("the template of {name:?} is no JSON object")),
            }
        })
    }
}

/// What is fresh in an event.
#[derive(Debug, Clone, Default)]
struct Fresh {
    event: String,
    conversation: String,
    session: String,
    sequence: u64,
    time_ms: i64,
}

fn fill(template: &str, fresh: &Fresh) -> String {
    let text = template
        .replace(
            &format!("\"{}\"", place::TIME_MS),
            &fresh.time_ms.to_string(),
        )
        .replace(
            &format!("\"{}\"", place::SEQUENCE),
            &fresh.sequence.to_string(),
        )
        .replace(place::EVENT_ID, &fresh.event)
        .replace(place::CONVERSATION_ID, &fresh.conversation)
        .replace(place::SESSION_ID, &fresh.session);
    // One line, as items of NDJSON must be.
    text.replace(['\n', '\r'], " ")
}

/// Items of a mix without end.
pub(crate) struct Mixer {
    options: FeedOptions,
    mix: Arc<Mix>,
    rng: ChaCha8Rng,
    /// Sum of the counts up to each event.
    sums: Vec<u64>,
    sources: Vec<Arc<str>>,
    open: BTreeMap<Arc<str>, Vec<Conversation>>,
    numbers: u64,
    last: BTreeMap<(usize, Arc<str>), String>,
}

#[derive(Debug, Clone)]
struct Conversation {
    number: u64,
    tenant: usize,
    events: u64,
}

impl Mixer {
    /// Of options that have a mix.
    pub(crate) fn new(options: FeedOptions) -> Self {
        let empty = Mix {
            format: FORMAT,
            events_per_conversation: 1.0,
            duplicates: 0.0,
            rejected: 0.0,
            events: Vec::new(),
        };
        let mix = options.mix.clone().unwrap_or_else(|| Arc::new(empty));
        let add = |sum: &mut u64, event: &MixEvent| {
            *sum = sum.saturating_add(event.count);
            Some(*sum)
        };
        Self {
            rng: ChaCha8Rng::seed_from_u64(options.seed),
            sums: mix.events.iter().scan(0, add).collect(),
            sources: mix
                .events
                .iter()
                .map(|event| event.source.as_str().into())
                .collect(),
            open: BTreeMap::new(),
            numbers: 0,
            last: BTreeMap::new(),
            options,
            mix,
        }
    }

    /// A conversation of the source: one under way, or a new one in its place.
    fn conversation(&mut self, source: &Arc<str>) -> Conversation {
        let ends = self.rng.random_bool(1.0 / self.mix.events_per_conversation);
        let slot = self.rng.random_range(0..OPEN);
        let tenant = self.rng.random_range(0..self.options.tenants.max(1));
        self.numbers += 1;
        let fresh = Conversation {
            number: self.numbers,
            tenant,
            events: 0,
        };
        let open = self.open.entry(Arc::clone(source)).or_default();
        let slot = slot.min(open.len());
        match open.get_mut(slot) {
            None => open.push(fresh),
            Some(old) if ends => *old = fresh,
            Some(_) => {}
        }
        open[slot].events += 1;
        open[slot].clone()
    }
}

impl Iterator for Mixer {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let total = *self.sums.last()?;
        let drawn = self.rng.random_range(0..total.max(1));
        let index = self.sums.partition_point(|sum| *sum <= drawn);
        let source = Arc::clone(self.sources.get(index)?);
        let conversation = self.conversation(&source);
        let tenant = conversation.tenant;
        if self.rng.random_bool(self.mix.rejected) {
            let body = format!(r#"{{"malformed":{}}}"#, self.numbers);
            return Some((tenant, source, body));
        }
        let key = (tenant, Arc::clone(&source));
        if self.rng.random_bool(self.mix.duplicates)
            && let Some(body) = self.last.get(&key)
        {
            return Some((tenant, source, body.clone()));
        }
        let run = &self.options.run_id;
        let number = conversation.number;
        let fresh = Fresh {
            event: format!("{run}-e{}", self.numbers),
            conversation: format!("{run}-c{number}"),
            session: format!("{run}-s{number}"),
            sequence: conversation.events,
            time_ms: self.options.now_ms - self.rng.random_range(0..AGE_MS),
        };
        let body = fill(&self.mix.events[index].template, &fresh);
        self.last.insert(key, body.clone());
        Some((tenant, source, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix() -> Mix {
        let event = |name: &str, count| MixEvent {
            source: "watermelon".into(),
            name: name.into(),
            count,
            template: format!(
                r#"{{"native":{{"event":"{name}","id":"{{{{conversation_id}}}}","timestamp":"{{{{time_ms}}}}"}},"context":{{"event_id":"{{{{event_id}}}}","sequence":"{{{{sequence}}}}"}}}}"#
            ),
        };
        Mix {
            format: FORMAT,
            events_per_conversation: 8.0,
            duplicates: 0.1,
            rejected: 0.05,
            events: vec![event("a", 300), event("b", 100), event("never", 0)],
        }
    }

    fn items(mix: Mix, count: usize) -> Vec<Item> {
        let options = FeedOptions {
            seed: 3,
            run_id: "r".into(),
            tenants: 2,
            batch: 1,
            expected: 1.0,
            now_ms: 1_795_000_000_000,
            mix: Some(Arc::new(mix)),
        };
        Mixer::new(options).take(count).collect()
    }

    #[test]
    fn shares_of_a_mix_come_out_as_they_were_recorded() {
        let items = items(mix(), 40_000);
        let share = |text: &str| {
            let with = items.iter().filter(|item| item.2.contains(text)).count();
            with as f64 / items.len() as f64
        };
        let events = 1.0 - share("malformed");
        assert!((share("malformed") - 0.05).abs() < 0.01);
        assert!((share(r#""event":"a""#) / events - 0.75).abs() < 0.02);
        assert_eq!(share("never"), 0.0);
        let field = |item: &Item, path: &str| {
            let value: serde_json::Value = serde_json::from_str(&item.2).unwrap();
            value.pointer(path).map(ToString::to_string)
        };
        let distinct = |path: &str| {
            let found = items.iter().filter_map(|item| field(item, path));
            found.collect::<std::collections::BTreeSet<_>>().len() as f64
        };
        let ids = distinct("/context/event_id");
        let sent = events * items.len() as f64;
        assert!((1.0 - ids / sent - 0.1).abs() < 0.02, "duplicates");
        assert!((ids / distinct("/native/id") / 8.0 - 1.0).abs() < 0.2);
        assert!(
            field(&items[0], "/native/timestamp")
                .unwrap()
                .parse::<i64>()
                .is_ok()
        );
    }

    #[test]
    fn a_mix_is_read_as_it_was_written_and_a_broken_one_is_refused() {
        let text = serde_json::to_string(&mix()).unwrap();
        assert_eq!(Mix::parse(&text).unwrap().events.len(), 3);
        let broken = |change: fn(&mut Mix)| {
            let mut mix = mix();
            change(&mut mix);
            Mix::parse(&serde_json::to_string(&mix).unwrap())
                .unwrap_err()
                .to_string()
        };
        assert!(broken(|mix| mix.events.clear()).contains("0 events"));
        assert!(broken(|mix| mix.duplicates = 2.0).contains("duplicates"));
        assert!(
            broken(|mix| mix.events_per_conversation = 0.0).contains("events_per_conversation")
        );
        assert!(broken(|mix| mix.events[0].source = "a/b?c".into()).contains("source"));
        assert!(broken(|mix| mix.events[0].template = "[]".into()).contains("no JSON object"));
        assert!(broken(|mix| mix.format = 2).contains("format"));
        assert!(Mix::parse("{}").is_err());
    }
}
