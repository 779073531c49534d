//! Who reads, and what of.
//!
//! ```text
//! tenants.toml ─ the binary ─► watch ─► ReadTokens ─┬─ API    Authorization: Bearer ─────► Viewer, or 401
//! reports.operator_token ───────────────────────────┴─ pages  this machine, or a session ─► Viewer, or /sign-in
//! ```
//!
//! A token is known by its hash only. A session holds that hash and no token, and ends with the
//! token: it is looked up again at every request.

mod browser;
mod sessions;
mod tokens;
mod turns;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use tokio::sync::watch;

pub(crate) use browser::{guard, has_session, sign_in_routes};
pub(crate) use tokens::{Digest, TokenError, digest};
pub use tokens::{ReadToken, ReadTokens};

pub(crate) use turns::Turn;

use sessions::Sessions;
use turns::Turns;

/// Shortest operator token that is taken; characters. It guards every tenant and is chosen by people.
pub const SHORTEST_OPERATOR_TOKEN: usize = 32;

/// Who may read, as the binary configures it.
#[derive(Debug, Clone)]
pub struct AccessConfig {
    /// The tenants' tokens in force, always the newest.
    pub tokens: watch::Receiver<Arc<ReadTokens>>,
    /// A token that reads every tenant.
    pub operator_token: Option<String>,
    /// Whether only this machine can connect. Who is on it then sees the pages as the operator.
    pub loopback: bool,
    /// What one token may ask of the API in the long run; twice as much at once after a pause.
    pub requests_per_second: NonZeroU32,
}

/// An operator token that is too short to guard anything.
#[derive(Debug, thiserror::Error)]
#[error(
    "the operator token is shorter than {SHORTEST_OPERATOR_TOKEN} characters; make one with `openssl rand -hex 24`"
)]
pub struct WeakOperatorToken;

/// Decides who reads. Clones share sessions and limits.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    tokens: watch::Receiver<Arc<ReadTokens>>,
    operator: Option<Digest>,
    loopback: bool,
    /// Per good token, so there are never more of them than tokens.
    requests: DefaultKeyedRateLimiter<Digest>,
    turns: Turns,
    sessions: Sessions,
    sign_ins: browser::SignInLimit,
}

/// Who reads. In a request's extensions behind [`guard`] and the API's own check, and from there an
/// argument of handlers; a handler that stands behind neither fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Viewer {
    /// Reads every tenant.
    Operator,
    /// Reads this one.
    Tenant(Arc<str>),
}

/// Why a viewer gets no tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TenantError {
    /// An operator has to name one.
    Unnamed,
    /// It is another's, or none: that is not told apart.
    Foreign,
}

impl Viewer {
    /// The tenant that the viewer reads when asking for `asked`. Every tenant in a query comes from here.
    pub(crate) fn tenant(&self, asked: Option<&str>) -> Result<Arc<str>, TenantError> {
        match (self, asked) {
            (Viewer::Operator, Some(tenant)) => Ok(tenant.into()),
            (Viewer::Operator, None) => Err(TenantError::Unnamed),
            (Viewer::Tenant(own), None) => Ok(Arc::clone(own)),
            (Viewer::Tenant(own), Some(tenant)) if **own == *tenant => Ok(Arc::clone(own)),
            (Viewer::Tenant(_), Some(_)) => Err(TenantError::Foreign),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Viewer {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let viewer = parts.extensions.get::<Viewer>().cloned();
        viewer.ok_or_else(|| {
            tracing::error!(path = parts.uri.path(), "a route has no access check");
            StatusCode::INTERNAL_SERVER_ERROR
        })
    }
}

impl Access {
    /// Nobody reads who is not named in `config`.
    ///
    /// # Errors
    /// An operator token of less than [`SHORTEST_OPERATOR_TOKEN`] characters.
    pub fn new(config: AccessConfig) -> Result<Self, WeakOperatorToken> {
        let operator = match config.operator_token {
            Some(token) if token.chars().count() < SHORTEST_OPERATOR_TOKEN => {
                return Err(WeakOperatorToken);
            }
            Some(token) => Some(digest(&token)),
            None => None,
        };
        let quota = Quota::per_second(config.requests_per_second)
            .allow_burst(config.requests_per_second.saturating_mul(TWO));
        Ok(Self(Arc::new(Inner {
            tokens: config.tokens,
            operator,
            loopback: config.loopback,
            requests: RateLimiter::keyed(quota),
            turns: Turns::default(),
            sessions: Sessions::default(),
            sign_ins: browser::SignInLimit::default(),
        })))
    }

    /// Whose token this is.
    pub(crate) fn identify(&self, token: &str) -> Result<(Viewer, Digest), TokenError> {
        let digest = digest(token);
        self.viewer_of(&digest).map(|viewer| (viewer, digest))
    }

    /// Whose token has this hash.
    fn viewer_of(&self, digest: &Digest) -> Result<Viewer, TokenError> {
        if self
            .0
            .operator
            .as_ref()
            .is_some_and(|operator| tokens::equal(operator, digest))
        {
            return Ok(Viewer::Operator);
        }
        let tenant = self.0.tokens.borrow().tenant_of(digest)?;
        Ok(Viewer::Tenant(tenant))
    }

    /// Tenants that somebody may read.
    pub(crate) fn tenants(&self) -> Vec<String> {
        self.0
            .tokens
            .borrow()
            .tenants()
            .map(str::to_owned)
            .collect()
    }

    /// A turn to be answered, for as long as it is held. Where the token asks too often, or for too much
    /// at once: how long until it may ask again.
    pub(crate) fn take_turn(&self, token: &Digest) -> Result<Turn, Duration> {
        let clock = DefaultClock::default();
        (self.0.requests.check_key(token)).map_err(|until| until.wait_time_from(clock.now()))?;
        self.0.turns.take(*token).ok_or(BUSY)
    }
}

/// How long to wait where answers to earlier questions are still being made.
const BUSY: Duration = Duration::from_secs(1);

const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_reads_itself_and_is_told_the_same_of_every_other() {
        let acme = Viewer::Tenant("acme".into());
        assert_eq!(acme.tenant(None), Ok("acme".into()));
        assert_eq!(acme.tenant(Some("acme")), Ok("acme".into()));
        for other in ["bravo", "nobody", "", "ACME", "acme ", "acme\0"] {
            assert_eq!(acme.tenant(Some(other)), Err(TenantError::Foreign));
        }
        assert_eq!(Viewer::Operator.tenant(Some("bravo")), Ok("bravo".into()));
        assert_eq!(Viewer::Operator.tenant(None), Err(TenantError::Unnamed));
    }

    pub(super) fn access(tokens: watch::Receiver<Arc<ReadTokens>>, loopback: bool) -> Access {
        Access::new(AccessConfig {
            tokens,
            operator_token: Some("an-operator-token-of-good-length-1".into()),
            loopback,
            requests_per_second: NonZeroU32::MIN,
        })
        .unwrap()
    }

    fn token(tenant: &str, text: &str, revoked: bool) -> ReadToken {
        ReadToken {
            tenant: tenant.into(),
            sha256: digest(text),
            revoked,
        }
    }

    #[test]
    fn a_token_reads_its_tenant_until_it_is_taken_back() {
        let (send, tokens) = watch::channel(Arc::new(ReadTokens::from_iter([
            token("acme", "cpr_a", false),
            token("bravo", "cpr_b", true),
        ])));
        let access = access(tokens, true);
        let who = |text: &str| access.identify(text).map(|(viewer, _)| viewer);
        assert_eq!(who("cpr_a"), Ok(Viewer::Tenant("acme".into())));
        assert_eq!(who("cpr_b"), Err(TokenError::Revoked));
        assert_eq!(who("cpr_"), Err(TokenError::Unknown));
        assert_eq!(who(""), Err(TokenError::Unknown));
        assert_eq!(
            who("an-operator-token-of-good-length-1"),
            Ok(Viewer::Operator)
        );
        send.send_replace(Arc::new(ReadTokens::default()));
        assert_eq!(who("cpr_a"), Err(TokenError::Unknown));
    }

    #[test]
    fn every_token_has_a_bucket_of_its_own() {
        let (_send, tokens) = watch::channel(Arc::default());
        let access = access(tokens, true);
        let (a, b) = (digest("a"), digest("b"));
        access.take_turn(&a).unwrap();
        access.take_turn(&a).unwrap();
        assert!(access.take_turn(&a).unwrap_err() <= Duration::from_secs(1));
        access.take_turn(&b).unwrap();
    }

    #[test]
    fn a_short_operator_token_is_refused() {
        let (_send, tokens) = watch::channel(Arc::default());
        let config = AccessConfig {
            tokens,
            operator_token: Some("x".repeat(SHORTEST_OPERATOR_TOKEN - 1)),
            loopback: true,
            requests_per_second: NonZeroU32::MIN,
        };
        assert!(Access::new(config).is_err());
    }
}
