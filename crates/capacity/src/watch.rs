//! What is seen of the system from outside: markers by a query, counters of stages, CPU time and memory of parts.
//!
//! Send → queryable is right by construction: it runs from the time at which the schedule wanted the marker sent to
//! the moment when the answer of a query to ClickHouse that holds the marker is there. So it is never too low, and too
//! high by one interval of the polls and the time of a query at most.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    error::CapacityError,
    load::MARKER_TENANT,
    process::{self, Consumption, Usage},
    report::TableBytes,
};

/// How long a question to a part may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Conversations of markers: enough for every partition.
const CONVERSATIONS: u64 = 997;

/// Where ClickHouse's HTTP interface is, and which database.
#[derive(Clone)]
pub struct StoreAddress {
    /// Address, `http://…`.
    pub url: String,
    /// Database of the benchmark.
    pub database: String,
    /// User.
    pub user: String,
    /// Password, where there is one.
    pub password: Option<String>,
}

impl fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreAddress")
            .field("url", &self.url)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl StoreAddress {
    /// The answer to a query, as text.
    ///
    /// # Errors
    /// When ClickHouse does not answer, or refuses.
    pub async fn query(&self, sql: &str) -> Result<String, CapacityError> {
        Watch::new(Some(self.clone()))?.query(sql).await
    }

    /// Removes a database with all that is in it.
    ///
    /// # Errors
    /// When ClickHouse does not answer, or refuses.
    pub async fn drop_database(&self, name: &str) -> Result<(), CapacityError> {
        let everywhere = Self {
            database: "default".into(),
            ..self.clone()
        };
        let quoted = name.replace('\\', "\\\\").replace('`', "\\`");
        let sql = format!("DROP DATABASE IF EXISTS `{quoted}` SYNC");
        everywhere.query(&sql).await.map(drop)
    }
}

/// Asks the parts.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    http: reqwest::Client,
    store: Option<StoreAddress>,
}

impl Watch {
    pub(crate) fn new(store: Option<StoreAddress>) -> Result<Self, CapacityError> {
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| fault("HTTP client", "", &error))?;
        Ok(Self { http, store })
    }

    /// Whether there is a store to ask.
    pub(crate) fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// The answer of ClickHouse, as text; nothing where there is none to ask.
    pub(crate) async fn query(&self, sql: &str) -> Result<String, CapacityError> {
        let Some(store) = &self.store else {
            return Ok(String::new());
        };
        let mut request = self
            .http
            .post(format!(
                "{}/?database={}",
                store.url.trim_end_matches('/'),
                store.database
            ))
            .header("X-ClickHouse-User", &store.user)
            .body(sql.to_owned());
        if let Some(password) = &store.password {
            request = request.header("X-ClickHouse-Key", password);
        }
        let name = "ClickHouse";
        let answer = request
            .send()
            .await
            .map_err(|error| fault(name, &store.url, &error))?;
        let status = answer.status();
        let text = answer
            .text()
            .await
            .map_err(|error| fault(name, &store.url, &error))?;
        match status.is_success() {
            true => Ok(text),
            false => Err(CapacityError::Part {
                what: name,
                address: store.url.clone(),
                reason: text.chars().take(300).collect(),
            }),
        }
    }

    /// The sum of a counter of a stage over all its labels.
    pub(crate) async fn counter(&self, (url, name): &(String, &str)) -> Result<u64, CapacityError> {
        let get = async || self.http.get(url).send().await?.text().await;
        let text = get()
            .await
            .map_err(|error| fault("the stage", url, &error))?;
        Ok(sum(&text, name))
    }

    /// What a part has used so far.
    pub(crate) async fn consumption(&self, usage: &Usage) -> Consumption {
        match usage {
            Usage::Process(pid) => process::of(*pid),
            Usage::Unknown => Consumption::default(),
            Usage::AskClickHouse => {
                let sql =
                    "SELECT value FROM system.events WHERE event = 'OSCPUVirtualTimeMicroseconds'";
                let micros = self.query(sql).await.ok();
                let micros: Option<f64> = micros.and_then(|text| text.trim().parse().ok());
                Consumption {
                    cpu_seconds: micros.map(|micros| micros / 1e6),
                    peak_memory_bytes: None,
                }
            }
        }
    }

    /// What the tables of the benchmark take on disk.
    pub(crate) async fn tables(&self) -> Result<Vec<TableBytes>, CapacityError> {
        let sql = "SELECT table, sum(rows), sum(bytes_on_disk) FROM system.parts \
                   WHERE active AND database = currentDatabase() \
                   GROUP BY table ORDER BY 3 DESC FORMAT TSV";
        let text = self.query(sql).await?;
        let row = |line: &str| {
            let mut fields = line.split('\t');
            Some(TableBytes {
                table: fields.next()?.to_owned(),
                rows: fields.next()?.parse().ok()?,
                bytes: fields.next()?.parse().ok()?,
            })
        };
        Ok(text.lines().filter_map(row).collect())
    }

    /// Ids of the markers that a query finds, of those that happened at `since_ms` or later.
    async fn queryable(&self, since_ms: i64) -> Result<Vec<String>, CapacityError> {
        let sql = format!(
            "SELECT event_id FROM events WHERE tenant = '{MARKER_TENANT}' AND outcome = 'accepted' \
             AND occurred_at >= fromUnixTimestamp64Milli({since_ms}, 'UTC') FORMAT TSV"
        );
        let text = self.query(&sql).await?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

fn fault(what: &'static str, address: &str, error: &reqwest::Error) -> CapacityError {
    CapacityError::Part {
        what,
        address: address.to_owned(),
        reason: error.to_string(),
    }
}

fn sum(metrics: &str, name: &str) -> u64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        // Another counter's name may begin with this one.
        rest.starts_with(['{', ' '])
            .then(|| line.rsplit(' ').next())?
    });
    values
        .filter_map(|value| value.parse::<f64>().ok())
        .map(|value| value as u64)
        .sum()
}

/// The events of a run that are followed.
#[derive(Debug)]
pub(crate) struct Markers {
    prefix: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When each was to be sent, and the time that it bears.
    open: HashMap<String, (Instant, i64)>,
    seen: Vec<(Instant, Duration)>,
}

impl Markers {
    /// None yet; `prefix` is of this run only.
    pub(crate) fn new(prefix: String) -> Self {
        Self {
            prefix,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's body of `events` markers, and the ids of the first `followed` of them.
    pub(crate) fn bodies(&self, number: u64, events: u32, followed: u32) -> (Bytes, Vec<String>) {
        let now_ms = Timestamp::now().as_millisecond();
        let id = |item: u32| format!("{}-{number}-{item}", self.prefix);
        let items: Vec<String> = (0..events)
            .map(|item| {
                // Every event is of another conversation, so that every partition is looked at.
                let conversation = (number * u64::from(events) + u64::from(item)) % CONVERSATIONS;
                format!(
                    r#"{{"native":{{"event":"widget_message_sent","widget_platform":"web","widget_conversation_id":"{prefix}-c{conversation}","timestamp":{now_ms},"total_messages":1}},"context":{{"event_id":"{id}","session_id":"{prefix}-s{conversation}","page_url":"https://www.example.com/"}}}}"#,
                    prefix = self.prefix,
                    id = id(item),
                )
            })
            .collect();
        let ids = (0..events.min(followed)).map(id).collect();
        (items.join("\n").into(), ids)
    }

    /// Waits for these from now on.
    pub(crate) fn follow(&self, ids: &[String], intended: Instant) {
        let now_ms = Timestamp::now().as_millisecond();
        let mut state = self.state();
        for id in ids {
            // The body was made a moment ago.
            state.open.insert(id.clone(), (intended, now_ms - 1_000));
        }
    }

    /// Waits for these no longer: they were not acknowledged.
    pub(crate) fn forget(&self, ids: &[String]) {
        let mut state = self.state();
        for id in ids {
            state.open.remove(id);
        }
    }

    /// How many are waited for.
    pub(crate) fn open(&self) -> usize {
        self.state().open.len()
    }

    /// When each that was seen was to be sent, and how long it took.
    pub(crate) fn seen(&self) -> Vec<(Instant, Duration)> {
        self.state().seen.clone()
    }

    /// Asks for what is open, and notes what is there.
    async fn look(&self, watch: &Watch) -> Result<(), CapacityError> {
        let since = self.state().open.values().map(|(_, at)| *at).min();
        let Some(since) = since else {
            return Ok(());
        };
        let found = watch.queryable(since).await?;
        let now = Instant::now();
        let mut state = self.state();
        for id in found {
            if let Some((intended, _)) = state.open.remove(&id) {
                state.seen.push((intended, now.duration_since(intended)));
            }
        }
        Ok(())
    }

    /// Asks every `interval`, for ever.
    pub(crate) async fn poll(self: Arc<Self>, watch: Watch, interval: Duration) {
        let mut tick = tokio::time::interval(interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.look(&watch).await {
                // The marker is seen a poll later, and its latency is as much higher: never too low.
                tracing::debug!(%error, "looking for markers");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_the_sum_over_its_labels_and_of_no_other_name() {
        let text =
            "# HELP a_total x\na_total{p=\"0\"} 3\na_total{p=\"1\"} 4\na_total_other 100\nb 5\n";
        assert_eq!(sum(text, "a_total"), 7);
        assert_eq!(sum("a_total 9\n", "a_total"), 9);
        assert_eq!(sum(text, "c"), 0);
    }

    #[test]
    fn markers_of_a_request_are_events_of_their_own() {
        let markers = Markers::new("x".into());
        let (body, ids) = markers.bodies(7, 8, 5);
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(text.lines().count(), 8);
        assert_eq!(ids, ["x-7-0", "x-7-1", "x-7-2", "x-7-3", "x-7-4"]);
        for (line, id) in text.lines().zip(&ids) {
            let item: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(item["context"]["event_id"], **id);
        }
    }

    #[tokio::test]
    async fn a_marker_that_was_refused_is_not_waited_for() {
        let markers = Markers::new("x".into());
        let (_, ids) = markers.bodies(1, 2, 5);
        markers.follow(&ids, Instant::now());
        assert_eq!(markers.open(), 2);
        markers.forget(&ids[..1]);
        assert_eq!(markers.open(), 1);
    }
}
