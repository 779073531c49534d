//! The right of a task to commit for its partition.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Revoked first (the task should return, and may still commit what it has finished), then ended (no commit is begun
/// any more). A commit under way goes on, however long its answer takes, and holds nobody back who does not ask for it.
#[derive(Debug, Default)]
pub(super) struct Lease {
    revoked: AtomicBool,
    commits: Mutex<Commits>,
}

#[derive(Debug, Default)]
struct Commits {
    ended: bool,
    under_way: usize,
}

/// A commit under way, until dropped.
struct UnderWay<'a>(&'a Lease);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}

impl Lease {
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.revoke();
        self.lock().ended = true;
    }

    /// Does `commit` unless the lease has ended; then `None`.
    pub(super) fn while_held<T>(&self, commit: impl FnOnce() -> T) -> Option<T> {
        let mut commits = self.lock();
        if commits.ended {
            return None;
        }
        commits.under_way += 1;
        drop(commits);
        let _under_way = UnderWay(self);
        Some(commit())
    }

    /// Whether a commit that was begun is not answered yet.
    pub(super) fn is_committing(&self) -> bool {
        self.lock().under_way > 0
    }

    fn lock(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_lease_lets_the_last_commit_through_and_an_ended_one_does_not() {
        let lease = Lease::default();
        lease.revoke();
        assert_eq!(lease.while_held(|| 1), Some(1));
        lease.end();
        assert_eq!(lease.while_held(|| 1), None);
    }

    #[test]
    fn a_lease_ends_at_once_and_tells_of_a_commit_that_is_not_answered() {
        let lease = Lease::default();
        let answered = lease.while_held(|| {
            // What the group's thread does meanwhile.
            lease.end();
            assert!(lease.is_committing());
            assert_eq!(lease.while_held(|| 2), None, "a commit began after the end");
            1
        });
        assert_eq!(answered, Some(1));
        assert!(!lease.is_committing());
    }
}
