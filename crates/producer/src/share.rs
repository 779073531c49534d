//! Who may take how much of what all requests share: places, memory for bodies, room in the queue.
//!
//! Write keys stand in public pages, so a tenant's requests may be anyone's. A tenant may hold a
//! percentage of what the other tenants leave of each (with 25: a quarter of it while nobody else
//! sends), and at least what its largest request needs. As the limit shrinks with what is left, no
//! number of greedy tenants takes all: each next one gets a smaller part, and there is some for who
//! comes after. A fixed quarter would be gone with four keys.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;

/// What requests share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shared {
    Requests,
    Bytes,
    Records,
}

impl Shared {
    /// What it is, for a sender.
    pub(crate) fn described(self) -> &'static str {
        match self {
            Self::Requests => "the requests served at once",
            Self::Bytes => "the memory for bodies",
            Self::Records => "the queue to the broker",
        }
    }

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::Records => "records",
        }
    }
}

/// What a tenant holds of each, in permits. It outlives changes of the tenants file.
#[derive(Debug, Default)]
pub(crate) struct Holdings([AtomicUsize; 3]);

impl Holdings {
    fn of(&self, what: Shared) -> &AtomicUsize {
        &self.0[what as usize]
    }
}

/// Whose request it is, and its percentage of what the others leave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'t> {
    pub(crate) tenant: &'t str,
    pub(crate) holdings: &'t Arc<Holdings>,
    pub(crate) percent: u8,
}

/// So many permits for all requests together.
#[derive(Debug)]
pub(crate) struct Pool {
    what: Shared,
    permits: Arc<Semaphore>,
    /// What every tenant may hold as long as there is so much: the need of the largest request.
    least: usize,
}

/// Permits, held until dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    permit: OwnedSemaphorePermit,
    held: Held,
}

/// A part of a tenant's count.
#[derive(Debug)]
struct Held {
    holdings: Arc<Holdings>,
    what: Shared,
    permits: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.holdings
            .of(self.what)
            .fetch_sub(self.permits, Ordering::Relaxed);
    }
}

impl Pool {
    pub(crate) fn new(what: Shared, permits: usize, least: usize) -> Self {
        let permits = Arc::new(Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            what,
            permits,
            least,
        }
    }

    /// Takes permits for a tenant. Never waits: two half-read bodies could wait for each other.
    ///
    /// The tenant's count and the permits are two atomics, without a lock over both: requests at
    /// the same instant may misjudge the share by what each of them takes, the whole never.
    pub(crate) fn take(&self, permits: usize, claim: Claim<'_>) -> Result<Taken, Problem> {
        let count = claim.holdings.of(self.what);
        let before = count.fetch_add(permits, Ordering::Relaxed);
        let held = Held {
            holdings: Arc::clone(claim.holdings),
            what: self.what,
            permits,
        };
        let free = self.permits.available_permits();
        let left_by_others = before + free;
        let limit = self
            .least
            .max(left_by_others * usize::from(claim.percent) / 100);
        if permits <= free && before + permits > limit {
            return Err(Problem::OverShare {
                tenant: claim.tenant.to_owned(),
                what: self.what,
            });
        }
        let many = u32::try_from(permits).map_err(|_| Problem::Overloaded)?;
        let permit = Arc::clone(&self.permits)
            .try_acquire_many_owned(many)
            .map_err(|_| Problem::Overloaded)?;
        Ok(Taken { permit, held })
    }
}

impl Taken {
    pub(crate) fn permits(&self) -> usize {
        self.held.permits
    }

    /// Adds what was taken later, by the same tenant from the same pool.
    pub(crate) fn merge(&mut self, more: Self) {
        let Self { permit, mut held } = more;
        self.permit.merge(permit);
        self.held.permits += std::mem::take(&mut held.permits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Tenant(Arc<Holdings>);

    impl Tenant {
        fn claim(&self, percent: u8) -> Claim<'_> {
            Claim {
                tenant: "acme",
                holdings: &self.0,
                percent,
            }
        }

        /// As many single permits as the tenant gets.
        fn greed(&self, pool: &Pool) -> Vec<Taken> {
            std::iter::from_fn(|| pool.take(1, self.claim(25)).ok()).collect()
        }
    }

    fn is_over_share(taken: Result<Taken, Problem>) -> bool {
        matches!(taken, Err(Problem::OverShare { .. }))
    }

    fn is_full(taken: Result<Taken, Problem>) -> bool {
        matches!(taken, Err(Problem::Overloaded))
    }

    #[test]
    fn a_tenant_holds_its_percentage_of_what_the_others_leave_and_no_number_of_them_takes_all() {
        let pool = Pool::new(Shared::Requests, 1_000, 1);
        let tenants: [Tenant; 8] = Default::default();
        let taken: Vec<_> = tenants.iter().map(|tenant| tenant.greed(&pool)).collect();
        let held: Vec<_> = taken.iter().map(Vec::len).collect();
        assert_eq!(held, [250, 187, 140, 105, 79, 59, 45, 33]);
        assert!(is_over_share(pool.take(1, tenants[0].claim(25))));
        assert!(pool.take(1, Tenant::default().claim(25)).is_ok());
        drop(taken);
        assert_eq!(tenants[7].greed(&pool).len(), 250);
    }

    #[test]
    fn a_hundred_percent_is_all_and_then_the_pool_is_full() {
        let pool = Pool::new(Shared::Records, 10, 1);
        let (one, other) = (Tenant::default(), Tenant::default());
        let all = pool.take(10, one.claim(100)).unwrap();
        assert!(is_full(pool.take(1, one.claim(100))));
        assert!(is_full(pool.take(1, other.claim(25))));
        drop(all);
        assert!(pool.take(1, other.claim(25)).is_ok());
    }

    #[test]
    fn the_largest_request_is_served_whatever_the_share_and_what_is_refused_is_not_held() {
        let pool = Pool::new(Shared::Bytes, 100, 60);
        let tenant = Tenant::default();
        assert!(is_over_share(pool.take(61, tenant.claim(1))));
        assert!(is_full(pool.take(101, tenant.claim(1))));
        let mut one = pool.take(20, tenant.claim(1)).unwrap();
        one.merge(pool.take(40, tenant.claim(1)).unwrap());
        assert_eq!(one.permits(), 60);
        assert!(is_over_share(pool.take(1, tenant.claim(1))));
        drop(one);
        assert_eq!(pool.take(60, tenant.claim(1)).unwrap().permits(), 60);
    }
}
