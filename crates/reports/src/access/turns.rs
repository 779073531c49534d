//! How many requests of one token are answered at once, so that one reader with slow questions does
//! not take the store from all others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::tokens::Digest;

/// Requests of one token that are answered at once.
const AT_ONCE: usize = 8;

/// Requests being answered, per good token: never more entries than tokens.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<Digest, usize>>>);

/// A request being answered; over when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Turns,
    token: Digest,
}

impl Turns {
    /// A turn, unless the token has all of its own taken.
    pub(super) fn take(&self, token: Digest) -> Option<Turn> {
        let mut taken = self.lock();
        let of_token = taken.entry(token).or_default();
        if *of_token >= AT_ONCE {
            return None;
        }
        *of_token += 1;
        drop(taken);
        Some(Turn {
            turns: self.clone(),
            token,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.turns.lock();
        match taken.get_mut(&self.token) {
            Some(of_token) if *of_token > 1 => *of_token -= 1,
            _ => {
                taken.remove(&self.token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_so_many_turns_and_takes_none_of_others() {
        let turns = Turns::default();
        let mut held: Vec<Turn> = (0..AT_ONCE).map(|_| turns.take([1; 32]).unwrap()).collect();
        assert!(turns.take([1; 32]).is_none());
        let other = turns.take([2; 32]).unwrap();
        held.pop();
        held.push(turns.take([1; 32]).unwrap());
        assert!(turns.take([1; 32]).is_none());
        drop((held, other));
        assert!(turns.lock().is_empty());
    }
}
