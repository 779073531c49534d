//! The right of a task to commit for its partition.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Revoked first (the task should return, and may still commit what it has finished), then ended (no commit any
/// more). A commit under way holds the end back, so none is sent after it.
#[derive(Debug)]
pub(super) struct Lease {
    revoked: AtomicBool,
    held: Mutex<bool>,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            revoked: AtomicBool::new(false),
            held: Mutex::new(true),
        }
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
        *self.lock() = false;
    }

    /// Does `commit` unless the lease has ended; then `None`.
    pub(super) fn while_held<T>(&self, commit: impl FnOnce() -> T) -> Option<T> {
        let held = self.lock();
        held.then(commit)
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};

    #[test]
    fn a_revoked_lease_lets_the_last_commit_through_and_an_ended_one_does_not() {
        let lease = Lease::default();
        lease.revoke();
        assert_eq!(lease.while_held(|| 1), Some(1));
        lease.end();
        assert_eq!(lease.while_held(|| 1), None);
    }

    #[test]
    fn a_lease_does_not_end_in_the_middle_of_a_commit() {
        let lease = Arc::new(Lease::default());
        let (entered, wait_entered) = mpsc::channel();
        let (leave, wait_leave) = mpsc::channel::<()>();
        let committing = {
            let lease = Arc::clone(&lease);
            std::thread::spawn(move || {
                lease.while_held(|| {
                    entered.send(()).expect("test waits");
                    wait_leave.recv().expect("test answers");
                })
            })
        };
        wait_entered.recv().expect("the commit began");
        let (ended, wait_ended) = mpsc::channel();
        let ending = {
            let lease = Arc::clone(&lease);
            std::thread::spawn(move || {
                lease.end();
                ended.send(()).expect("test waits");
            })
        };
        assert!(
            wait_ended.try_recv().is_err(),
            "the lease ended while a commit was under way"
        );
        leave.send(()).expect("the commit waits");
        wait_ended.recv().expect("the lease ends after the commit");
        assert!(committing.join().expect("no panic").is_some());
        ending.join().expect("no panic");
    }
}
