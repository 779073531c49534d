//! Who has signed in. In memory: after a restart one signs in again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::tokens::{Digest, digest};

/// How long one stays signed in.
pub(super) const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// Sessions of one token. One more ends its oldest, so that whoever signs in again and again, or
/// gives a token away, ends nobody else's.
const MAX_PER_TOKEN: usize = 64;
/// Sessions of all tokens. One more ends the oldest.
const MAX: usize = 4_096;

/// Sessions by the hash of their id.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<Digest, Session>>);

#[derive(Debug, Clone, Copy)]
struct Session {
    /// The token that was signed in with.
    token: Digest,
    began: Instant,
}

impl Sessions {
    /// Begins a session of a token that was found good; gives its id.
    pub(super) fn begin(&self, token: Digest, now: Instant) -> Result<String, getrandom::Error> {
        let mut id = [0; 32];
        getrandom::fill(&mut id)?;
        let id = hex::encode(id);
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.lives(now));
        let of_token = sessions.values().filter(|s| s.token == token).count();
        if of_token >= MAX_PER_TOKEN {
            end_oldest(&mut sessions, |session| session.token == token);
        } else if sessions.len() >= MAX {
            end_oldest(&mut sessions, |_| true);
        }
        sessions.insert(digest(&id), Session { token, began: now });
        Ok(id)
    }

    /// The token that a session was begun with. Whether it still reads is for the caller to ask.
    pub(super) fn token(&self, id: &str, now: Instant) -> Option<Digest> {
        let sessions = self.lock();
        let session = sessions.get(&digest(id))?;
        session.lives(now).then_some(session.token)
    }

    /// Ends a session, if there is such a one.
    pub(super) fn end(&self, id: &str) {
        self.lock().remove(&digest(id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn lives(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) < LIFETIME
    }
}

fn end_oldest(sessions: &mut HashMap<Digest, Session>, of: impl Fn(&Session) -> bool) {
    let among = sessions.iter().filter(|(_, session)| of(session));
    let oldest = among.min_by_key(|(_, session)| session.began);
    if let Some(id) = oldest.map(|(id, _)| *id) {
        sessions.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lasts_until_it_is_ended_or_old() {
        let (sessions, now, token) = (Sessions::default(), Instant::now(), [7; 32]);
        let id = sessions.begin(token, now).unwrap();
        assert_eq!(id.len(), 64);
        assert_eq!(sessions.token(&id, now), Some(token));
        assert_eq!(sessions.token("", now), None);
        assert_eq!(sessions.token(&id, now + LIFETIME), None);
        sessions.end(&id);
        assert_eq!(sessions.token(&id, now), None);
    }

    #[test]
    fn a_token_with_many_sessions_ends_its_own_oldest_and_nobody_elses() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let at = |n: usize| now + Duration::from_secs(n as u64);
        let other = sessions.begin([1; 32], now).unwrap();
        let ids: Vec<String> = (0..=MAX_PER_TOKEN)
            .map(|n| sessions.begin([2; 32], at(n)).unwrap())
            .collect();
        let later = at(MAX_PER_TOKEN);
        assert_eq!(sessions.token(&ids[0], later), None);
        assert_eq!(sessions.token(&ids[1], later), Some([2; 32]));
        assert_eq!(sessions.token(&other, later), Some([1; 32]));
        assert_eq!(sessions.lock().len(), MAX_PER_TOKEN + 1);
    }

    #[test]
    fn there_are_never_more_sessions_than_the_bound() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        for n in 0..MAX + 10 {
            sessions.begin(digest(&n.to_string()), now).unwrap();
        }
        assert_eq!(sessions.lock().len(), MAX);
    }
}
