//! Inserts reach the disk before they are answered, many with one request.
//!
//! The engine would sync each file of each part by itself: a dozen for each table and view that an insert fills, one after
//! the other. That was a third of an insert's CPU time and half of its duration.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Whether [`Disk`] can sync a file system here. Elsewhere the engine syncs files.
pub(super) const HERE: bool = cfg!(target_os = "linux");

/// The file system of a data path.
pub(super) struct Disk {
    folder: File,
    turns: Turns,
}

impl Disk {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let folder = File::open(path)?;
        let turns = Turns::default();
        Ok(Self { folder, turns })
    }

    /// Returns when everything is on the disk that was written before the call.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.turns.share(|| sync_file_system(&self.folder))
    }
}

#[cfg(target_os = "linux")]
fn sync_file_system(folder: &File) -> io::Result<()> {
    rustix::fs::syncfs(folder).map_err(io::Error::from)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_: &File) -> io::Result<()> {
    Ok(())
}

/// Work that serves all who asked for it before it began: those who ask while it is done share the next turn.
#[derive(Default)]
struct Turns {
    asked: AtomicU64,
    /// The last question that a turn has served. Held for the length of a turn.
    served: Mutex<u64>,
}

impl Turns {
    fn share(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let question = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if *served >= question {
            return Ok(());
        }
        let last = self.asked.load(Ordering::SeqCst);
        work()?;
        *served = last;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn those_who_ask_during_a_turn_share_the_next_and_none_shares_one_that_had_begun() {
        let turns = Turns::default();
        let (under_way, go_on) = (Barrier::new(2), Barrier::new(2));
        let done = AtomicU32::new(0);
        let count = || {
            done.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                turns.share(|| {
                    under_way.wait();
                    go_on.wait();
                    count()
                })
            });
            under_way.wait();
            for _ in 0..8 {
                scope.spawn(|| turns.share(count));
            }
            while turns.asked.load(Ordering::SeqCst) < 9 {
                std::thread::yield_now();
            }
            go_on.wait();
        });
        assert_eq!(done.load(Ordering::SeqCst), 2);
        turns.share(count).unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_turn_that_fails_has_served_nobody() {
        let turns = Turns::default();
        turns.share(|| Err(io::Error::other("full"))).unwrap_err();
        assert_eq!(*turns.served.lock().unwrap(), 0);
    }

    #[test]
    fn a_data_path_is_synced() {
        let folder = tempfile::tempdir().unwrap();
        Disk::of(folder.path()).unwrap().sync().unwrap();
        assert!(Disk::of(&folder.path().join("missing")).is_err());
    }
}
