//! What is known of consent: the last word of each conversation, for as long as memory allows. Pure.
//!
//! What is forgotten counts as unknown, and unknown is withheld where proof is asked for
//! ([`ConsentRule::Proven`]).

use std::collections::HashMap;

use chatpulse_model::{Event, EventType, FailureClass};
use sha2::{Digest as _, Sha256};

use crate::destination::ConsentRule;

/// Conversations remembered: between this number and twice as many.
const GENERATION: usize = 100_000;

/// The last word of each conversation.
#[derive(Debug, Default)]
pub(crate) struct Consents {
    young: HashMap<Key, bool>,
    old: HashMap<Key, bool>,
}

type Key = [u8; 16];

fn key(event: &Event) -> Option<Key> {
    let conversation = event.conversation_id.as_ref()?;
    let parts = format!("{}\n{}\n{conversation}", event.tenant, event.source);
    let digest: [u8; 32] = Sha256::digest(parts).into();
    digest.first_chunk().copied()
}

impl Consents {
    /// Takes note of an event that speaks of consent.
    pub(crate) fn note(&mut self, event: &Event) {
        let word = match event.event_type {
            EventType::ConsentAccepted => true,
            EventType::ConsentDeclined => false,
            _ => return,
        };
        let Some(key) = key(event) else { return };
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, word);
    }

    /// The last word in the conversation of `event` that is remembered: accepted or declined.
    pub(crate) fn word(&self, event: &Event) -> Option<bool> {
        let key = key(event)?;
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }
}

/// What stands against sending an event, after the last word on consent that is known.
pub(crate) fn objection(rule: ConsentRule, word: Option<bool>) -> Option<FailureClass> {
    match (rule, word) {
        (ConsentRule::NotNeeded, _) => None,
        (ConsentRule::Assumed | ConsentRule::Proven, Some(false)) => {
            Some(FailureClass::ConsentDeclined)
        }
        (ConsentRule::Proven, None) => Some(FailureClass::ConsentUnknown),
        (ConsentRule::Assumed, None) | (ConsentRule::Assumed | ConsentRule::Proven, Some(true)) => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::event;

    fn of(event_type: EventType, conversation: &str) -> Event {
        Event {
            event_type,
            conversation_id: Some(conversation.to_owned()),
            ..event()
        }
    }

    #[test]
    fn the_last_word_counts_in_its_conversation_and_nowhere_else() {
        let mut consents = Consents::default();
        let message = of(EventType::MessageSent, "c");
        let objection = |consents: &Consents, rule| objection(rule, consents.word(&message));
        use ConsentRule::{Assumed, NotNeeded, Proven};
        consents.note(&of(EventType::ConsentAccepted, "other"));
        consents.note(&message);
        assert_eq!(
            objection(&consents, Proven),
            Some(FailureClass::ConsentUnknown)
        );
        assert_eq!(objection(&consents, Assumed), None);
        consents.note(&of(EventType::ConsentAccepted, "c"));
        assert_eq!(objection(&consents, Proven), None);
        consents.note(&of(EventType::ConsentDeclined, "c"));
        for rule in [Proven, Assumed] {
            assert_eq!(
                objection(&consents, rule),
                Some(FailureClass::ConsentDeclined)
            );
        }
        assert_eq!(objection(&consents, NotNeeded), None);
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_unknown() {
        let mut consents = Consents::default();
        for number in 0..=2 * GENERATION {
            consents.note(&of(EventType::ConsentAccepted, &number.to_string()));
        }
        assert!(consents.young.len() + consents.old.len() <= 2 * GENERATION);
        let first = of(EventType::MessageSent, "0");
        assert_eq!(consents.word(&first), None);
        let last = of(EventType::MessageSent, &(2 * GENERATION).to_string());
        assert_eq!(consents.word(&last), Some(true));
    }
}
