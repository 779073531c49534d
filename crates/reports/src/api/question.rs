//! What a request asks: its token's tenant, a window, a page of a list. Every value is checked here,
//! and faults name the parameter.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{Uri, request::Parts},
};
use chatpulse_store::{Span, Window};
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use utoipa::{IntoParams, ToSchema};

use super::{cursor::Asked, problem::Problem};
use crate::{
    Period,
    access::{TenantError, Viewer},
    period::timestamp,
};

/// Longest name that is asked for; bytes.
const LONGEST_NAME: usize = 256;
const DEFAULT_SINCE: &str = "24h";
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Whose data.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)] // documents what `Question` reads
pub(super) struct TenantParameter {
    /// Tenant. A tenant's token reads its own, and may leave it out; the operator's must name one.
    #[param(example = "acme", max_length = 256)]
    tenant: Option<String>,
}

/// Of which time. A report rounds its window to its unit; the answer says what it covers.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(super) struct WindowParameters {
    /// The time before now: a whole number and `m`, `h` or `d`, from `1m` to `366d`. Default `24h`. Not
    /// together with `from`.
    #[param(example = "24h")]
    since: Option<String>,
    /// First moment (RFC 3339).
    #[param(example = "2026-11-01T00:00:00Z", format = DateTime)]
    from: Option<String>,
    /// First moment after the window (RFC 3339). Default: now. Only together with `from`.
    #[param(example = "2026-11-08T00:00:00Z", format = DateTime)]
    to: Option<String>,
}

/// Which part of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(super) struct PageParameters {
    /// Most items of the answer.
    #[param(minimum = 1, maximum = 1000, default = 100, example = 100)]
    limit: Option<u32>,
    /// `next_cursor` of the page before, with the same parameters; left out for the first page.
    #[param(max_length = 4096)]
    cursor: Option<String>,
}

/// A request whose token is good and whose parameters are all known to its path.
#[derive(Debug, Clone)]
pub(super) struct Question {
    viewer: Viewer,
    path: Arc<str>,
    given: BTreeMap<String, String>,
}

/// A part of a list to be read.
#[derive(Debug)]
pub(super) struct Slice<K> {
    pub(super) tenant: Arc<str>,
    pub(super) period: Period,
    /// As the answer shows it: the period by its unit.
    window: Window,
    /// Most items.
    pub(super) limit: usize,
    /// What came last before; none at the beginning.
    pub(super) after: Option<K>,
    asked: Asked,
}

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// Tenant.
    pub(super) tenant: String,
    /// The window, the same on every page.
    pub(super) window: crate::period::Span,
    /// The items, at most `limit`.
    pub(super) items: Vec<T>,
    /// Give it as `cursor` to go on; null at the end.
    pub(super) next_cursor: Option<String>,
}

impl Question {
    /// Takes the query apart. `known` are the parameters that the path documents.
    pub(super) fn new(
        viewer: Viewer,
        path: Arc<str>,
        (uri, known): (&Uri, &[String]),
    ) -> Result<Self, Problem> {
        let mut given = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            let name = name.into_owned();
            if !known.contains(&name) {
                let known = match known {
                    [] => "none".to_owned(),
                    known => known.join(", "),
                };
                return Err(Problem::UnknownParameter { name, known });
            }
            if given.insert(name.clone(), value.into_owned()).is_some() {
                return Err(Problem::RepeatedParameter { name });
            }
        }
        Ok(Self {
            viewer,
            path,
            given,
        })
    }

    pub(super) fn viewer(&self) -> &Viewer {
        &self.viewer
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    /// The tenant to be read.
    pub(super) fn tenant(&self) -> Result<Arc<str>, Problem> {
        let asked = self.name("tenant")?;
        self.viewer.tenant(asked).map_err(|error| match error {
            TenantError::Foreign => Problem::ForeignTenant,
            TenantError::Unnamed => Problem::parameter(
                "tenant",
                "the operator's token reads every tenant, so name one; /v1/tenants lists them",
            ),
        })
    }

    /// A parameter that is a name: not empty, and of bounded length.
    pub(super) fn name(&self, parameter: &'static str) -> Result<Option<&str>, Problem> {
        match self.get(parameter) {
            Some(name) if name.is_empty() || name.len() > LONGEST_NAME => {
                let fault = format!("give a name of 1 to {LONGEST_NAME} bytes, or leave it out");
                Err(Problem::parameter(parameter, fault))
            }
            name => Ok(name),
        }
    }

    /// A parameter that is one of a few words.
    pub(super) fn choice<T: DeserializeOwned>(
        &self,
        (parameter, known): (&'static str, &str),
    ) -> Result<Option<T>, Problem> {
        let Some(given) = self.get(parameter) else {
            return Ok(None);
        };
        let word = serde_json::Value::String(given.to_owned());
        serde_json::from_value(word)
            .map(Some)
            .map_err(|_| Problem::parameter(parameter, format!("give one of {known}")))
    }

    /// The window to be reported on.
    pub(super) fn period(&self) -> Result<Period, Problem> {
        self.period_at(Timestamp::now())
    }

    fn period_at(&self, now: Timestamp) -> Result<Period, Problem> {
        let moment = |name: &'static str| match self.get(name) {
            Some(text) => text.parse::<Timestamp>().map(Some).map_err(|_| {
                let fault = "give a moment as RFC 3339 has it, for example 2026-11-01T00:00:00Z";
                Problem::parameter(name, fault)
            }),
            None => Ok(None),
        };
        let (from, to) = (moment("from")?, moment("to")?);
        match (self.get("since"), from, to) {
            (Some(_), Some(_), _) => Err(Problem::parameter(
                "since",
                "give either since, or from and to",
            )),
            (_, None, Some(_)) => Err(Problem::parameter("to", "give from as well")),
            (_, Some(from), to) => Period::between(from, to.unwrap_or(now), now)
                .map_err(|error| Problem::parameter("from", error.to_string())),
            (since, None, None) => Period::before(now, since.unwrap_or(DEFAULT_SINCE))
                .map_err(|error| Problem::parameter("since", error.to_string())),
        }
    }

    /// The part of a list to be read; keys of its items have the type `K`. `span` is how the list takes
    /// a period.
    pub(super) fn slice<K: DeserializeOwned>(
        &self,
        span: impl Fn(Period) -> Span,
    ) -> Result<Slice<K>, Problem> {
        let tenant = self.tenant()?;
        let limit = match self.get("limit").map(str::parse::<usize>) {
            None => DEFAULT_LIMIT,
            Some(Ok(limit)) if (1..=MAX_LIMIT).contains(&limit) => limit,
            Some(_) => {
                let fault = format!("give a whole number from 1 to {MAX_LIMIT}");
                return Err(Problem::parameter("limit", fault));
            }
        };
        let of_pages = |name: &str| matches!(name, "limit" | "cursor" | "tenant");
        let parts = (self.given.iter())
            .filter(|(name, _)| !of_pages(name))
            .flat_map(|(name, value)| [name.as_str(), value.as_str()]);
        let asked = Asked::new([&*self.path, &*tenant].into_iter().chain(parts));
        let period = self.period()?;
        let (period, after) = match self.get("cursor") {
            None => (period, None),
            Some(cursor) => match asked.read::<(i64, K)>(cursor).and_then(pinned) {
                Some((period, key)) => (period, Some(key)),
                None => {
                    let fault = "it belongs to another question; give next_cursor of the page before, with the \
                                 same path, tenant and parameters";
                    return Err(Problem::parameter("cursor", fault));
                }
            },
        };
        Ok(Slice {
            tenant,
            period,
            window: span(period).window,
            limit,
            after,
            asked,
        })
    }
}

/// The period that a cursor holds, as it was when the first page was asked for.
fn pinned<K>((window, (asked_ms, key)): (Window, (i64, K))) -> Option<(Period, K)> {
    let Window { since_ms, until_ms } = window;
    let period = Period::between(
        timestamp(since_ms),
        timestamp(until_ms),
        timestamp(asked_ms),
    );
    Some((period.ok()?, key))
}

impl<K> Slice<K> {
    /// As the store takes it, with one item more than asked for, by which to know whether there are
    /// more.
    pub(super) fn fetch(&self) -> u32 {
        u32::try_from(self.limit + 1).unwrap_or(u32::MAX)
    }

    /// Where the page begins, and how many items to read.
    pub(super) fn part(&self) -> (Option<&K>, u32) {
        (self.after.as_ref(), self.fetch())
    }

    /// The page of items that begin after `after` and may be too many.
    pub(super) fn page<T>(
        &self,
        mut items: Vec<T>,
        key: impl Fn(&T) -> K,
    ) -> Result<Page<T>, Problem>
    where
        K: Serialize,
    {
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let next_cursor = match items.last() {
            Some(last) if more => {
                let key = (self.period.asked_ms(), key(last));
                Some(self.asked.cursor(self.period.window(), &key))
            }
            _ => None,
        };
        Ok(Page {
            tenant: (*self.tenant).to_owned(),
            window: self.window.into(),
            items,
            next_cursor: next_cursor.transpose().map_err(|error| {
                tracing::error!(%error, "a cursor cannot be made");
                Problem::Internal
            })?,
        })
    }

    /// The page out of a whole list that is in the order of its keys.
    pub(super) fn page_of<T>(&self, all: Vec<T>, key: impl Fn(&T) -> K) -> Result<Page<T>, Problem>
    where
        K: Serialize + Ord,
    {
        let rest = all.into_iter().filter(|item| match &self.after {
            Some(after) => key(item) > *after,
            None => true,
        });
        self.page(rest.take(self.limit + 1).collect(), key)
    }
}

impl<S: Sync> FromRequestParts<S> for Question {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Question>().cloned().ok_or_else(|| {
            tracing::error!(path = parts.uri.path(), "a route has no access check");
            Problem::Internal
        })
    }
}
