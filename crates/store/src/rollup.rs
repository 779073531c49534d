//! The roll-up job: cohorts of conversations and page sessions, computed anew where they changed.
//!
//! ```text
//! conversation_starts ─ touched since the last run ─┐
//! conversation_rollup ─ time alone changes it ──────┴─► rollup_work, cut into chunks
//!     │ chunk of hours: conversation_metrics_as_of of the conversations that start in them
//!     ├──► conversation_lists: each of them, judged
//!     ▼
//! conversation_rollup (hour) ── hours of a day merged ──► conversation_rollup (day)
//!                                     └─ differs from what had settled ─► restatements
//! session_starts ─► rollup_work ─► session_rollup
//! deliveries ─► delivery_rollup, see `rollup/deliveries.rs`; events ─► twin_rollup, see `rollup/twins.rs`
//! ```
//!
//! A run only replaces rows by what the facts say now, so it may be repeated, die in its middle, and
//! run in two processes at the same time. It ends with a row of `rollup_runs`; the next run takes up
//! what came in since that one began.

mod deliveries;
mod twins;

use clickhouse::Row;
use clickhouse::query::Query;
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::error::StoreError;

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RolledUp {
    /// Hours of conversations computed, per tenant and source.
    pub hours: u64,
    /// Days of conversations, per tenant and source.
    pub days: u64,
    /// Hours of page sessions, per tenant and source.
    pub session_hours: u64,
    /// Hours of deliveries.
    pub delivery_hours: u64,
    /// Hours of events that come both from page and server.
    pub twin_hours: u64,
    /// Figures of settled days that changed.
    pub restatements: u64,
}

/// `inserted_at` is set when an insert begins, and its rows are seen when it is done.
const LOOK_BACK_MS: i64 = 10 * 60 * 1000;
/// Conversations, or page sessions, of one statement: bounds its memory.
const CHUNK: u32 = 20_000;
/// Widgets or languages of a cohort that are kept apart, the most frequent; the others are `(other)`.
const MOST_VALUES: u32 = 50;
/// Widgets and languages that the list of conversations names of one.
const MOST_LABELS: u32 = 10;
/// A day is over so long after its end: clocks differ, and events are under way.
pub(crate) const SETTLING_MS: i64 = 5 * 60 * 1000;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What is found by its start: conversations, or page sessions.
struct Kind {
    /// In `rollup_work`.
    of: &'static str,
    /// Candidates by hour.
    starts: &'static str,
    /// Start and end of each.
    spans: &'static str,
    /// Cohorts that are there and that time alone changes, by `now`, or all.
    due: &'static str,
    known: &'static str,
}

const CONVERSATIONS: Kind = Kind {
    of: "hour",
    starts: "conversation_starts",
    spans: "SELECT tenant, source, conversation_id AS id,
                   toStartOfHour(min(f.started_at)) AS start, toStartOfHour(max(f.last_event_at)) AS last
            FROM conversation_facts AS f
            WHERE (tenant, source, conversation_id) IN (SELECT tenant, source, id FROM touched)
            GROUP BY tenant, source, id",
    // The index finds the rows that were due once; of these the last one of a key counts.
    due: "SELECT tenant, source, cohort AS hour FROM conversation_rollup FINAL
          WHERE unit = 'hour' AND dimension = '' AND next_change_at <= NOW
            AND (tenant, cohort, source) IN (
                SELECT tenant, cohort, source FROM conversation_rollup
                WHERE unit = 'hour' AND dimension = '' AND next_change_at <= NOW)",
    known: "SELECT tenant, source, cohort AS hour FROM conversation_rollup WHERE unit = 'hour' AND dimension = ''",
};

const SESSIONS: Kind = Kind {
    of: "session",
    starts: "session_starts",
    spans: "SELECT tenant, source, session_id AS id,
                   toStartOfHour(min(s.first_received_at)) AS start, toStartOfHour(max(s.last_received_at)) AS last
            FROM session_sequences AS s
            WHERE (tenant, source, session_id) IN (SELECT tenant, source, id FROM touched)
            GROUP BY tenant, source, id",
    due: "SELECT tenant, source, hour FROM session_rollup WHERE 0",
    known: "SELECT tenant, source, hour FROM session_rollup",
};

impl Kind {
    /// Every cohort that there may be.
    fn all(&self) -> String {
        let Kind { starts, known, .. } = self;
        format!("SELECT DISTINCT tenant, source, hour FROM {starts} UNION DISTINCT {known}")
    }

    /// The cohorts that may have changed since `since_ms`. A conversation counts where it starts. One
    /// that has a new row at the very hour of its start may be new, or may have started elsewhere
    /// until now: it may have to leave every hour that has a row of it.
    fn changed(&self, since_ms: i64, as_of_ms: i64) -> String {
        let Kind {
            starts, spans, due, ..
        } = self;
        let due = due.replace("NOW", &time(as_of_ms));
        let since = time(since_ms);
        format!(
            "WITH
                 touched AS (
                     SELECT tenant, source, id, min(hour) AS hour FROM {starts}
                     WHERE touched_at >= {since} GROUP BY tenant, source, id),
                 spans AS ({spans}),
                 moved AS (
                     SELECT s.tenant AS tenant, s.source AS source, s.id AS id
                     FROM spans AS s
                     INNER JOIN touched AS t ON t.tenant = s.tenant AND t.source = s.source AND t.id = s.id
                     WHERE t.hour = s.start AND s.last > s.start)
             SELECT tenant, source, start AS hour FROM spans
             UNION DISTINCT
             SELECT tenant, source, hour FROM {starts}
             -- One condition: each would find what moved anew. It serves the primary key all the same.
             WHERE (tenant, source, id) IN (SELECT tenant, source, id FROM moved)
             UNION DISTINCT
             {due}"
        )
    }
}

/// A time for SQL.
fn time(ms: i64) -> String {
    format!("fromUnixTimestamp64Milli(toInt64({ms}), 'UTC')")
}

/// One run.
struct Run {
    /// Names its rows of `rollup_work`.
    id: String,
    /// When conversations are judged.
    as_of_ms: i64,
    /// When it began, by the clock of ClickHouse.
    read_ms: i64,
    definitions: u64,
    /// The last one that was done.
    last: Option<Last>,
}

#[derive(Clone, Copy)]
struct Last {
    /// When conversations were judged.
    as_of_ms: i64,
    /// When it began, by the clock of ClickHouse.
    read_ms: i64,
    definitions: u64,
}

#[derive(Row, Deserialize)]
struct Begun {
    id: String,
    read_ms: i64,
    definitions: u64,
    last: Option<(i64, i64, u64)>,
}

/// Where a settled figure changed.
#[derive(Row, Deserialize)]
struct Restated {
    figures: u64,
}

impl Run {
    /// The rows of `rollup_work` of a chunk, as `tenant, source, at`.
    fn work(&self, of: &str, chunk: u32) -> String {
        let id = &self.id;
        format!(
            "SELECT tenant, source, at FROM rollup_work WHERE run = '{id}' AND of = '{of}' AND chunk = {chunk}"
        )
    }

    /// Hours of conversations, from the facts.
    fn hours(&self, chunk: u32) -> String {
        let work = self.work("hour", chunk);
        let (as_of, read) = (time(self.as_of_ms), time(self.read_ms));
        let started = started_in(&work);
        let label = |values: &str| {
            format!(
                "substringUTF8(multiIf(empty({values}), '', length({values}) > 1, '(several)', {values}[1]), 1, 200)"
            )
        };
        let (widget, language) = (label("all_widgets"), label("all_languages"));
        let groups = format!(
            "SELECT c.tenant AS tenant, c.source AS source, toStartOfHour(c.started_at) AS at,
                    place.1 AS dimension, place.2 AS label,
                    arrayMap(f -> f.1, c.figures) AS metrics, arrayMap(f -> f.2, c.figures) AS kinds,
                    count() AS n, countIf(NOT c.is_closed) AS open_n,
                    min(c.changes_at) AS changes_at, max(c.silent_at) AS silent_at, max(c.reopen_at) AS reopen_at,
                    countForEach(arrayMap(f -> f.3, c.figures)) AS observed,
                    sumForEach(arrayMap(f -> f.3, c.figures)) AS numerators,
                    sumForEach(arrayMap(f -> f.4, c.figures)) AS denominators,
                    groupArrayForEach(arrayMap(f -> f.5, c.figures)) AS durations
             FROM (
                 SELECT m.tenant AS tenant, m.source AS source, m.conversation_id AS conversation_id,
                        any(m.started_at) AS started_at, any(m.is_closed) AS is_closed, any(m.changes_at) AS changes_at,
                        any(m.closes_by_silence_at) AS silent_at, any(m.reopen_judged_at) AS reopen_at,
                        any(m.widgets) AS all_widgets, any(m.languages) AS all_languages,
                        {widget} AS widget, {language} AS language,
                        arraySort(f -> f.1, groupArray((m.metric, m.kind, m.numerator, m.denominator, m.duration_ms))) AS figures
                 FROM conversation_metrics_as_of(as_of = {as_of}) AS m
                 WHERE {started}
                 GROUP BY tenant, source, conversation_id) AS c
             ARRAY JOIN [('', ''), ('widget', c.widget), ('language', c.language)] AS place
             GROUP BY tenant, source, at, dimension, label, metrics, kinds"
        );
        let cohorts = cohorts(&groups);
        format!(
            "INSERT INTO conversation_rollup
             SELECT w.tenant, 'hour', w.dimension, w.at, w.source, {as_of}, {read}, now64(6, 'UTC'),
                    f.conversations, f.open, f.changes_at, f.silent_at, f.reopen_at, f.figures
             FROM (SELECT *, arrayJoin(['', 'widget', 'language']) AS dimension FROM ({work})) AS w
             LEFT JOIN ({cohorts}) AS f
                 ON f.tenant = w.tenant AND f.source = w.source AND f.at = w.at AND f.dimension = w.dimension"
        )
    }

    /// The conversations of those hours, one by one.
    fn lists(&self, chunk: u32) -> String {
        let work = self.work("hour", chunk);
        let as_of = time(self.as_of_ms);
        let started = started_in(&work);
        format!(
            "INSERT INTO conversation_lists
             SELECT w.tenant, w.at, w.source, {as_of}, now64(6, 'UTC'), length(f.conversations), f.conversations
             FROM ({work}) AS w
             LEFT JOIN (
                 SELECT m.tenant AS tenant, m.source AS source, toStartOfHour(m.started_at) AS at,
                        groupArray((
                            m.conversation_id, m.started_at, m.last_event_at, m.is_closed, m.outcome,
                            m.visitor_messages, m.bot_messages, m.agent_messages, m.total_messages, m.reported_total,
                            m.message_gap, m.first_handoff_request_at, m.first_human_join_at, m.first_response_any_ms,
                            m.first_response_human_ms, m.time_to_human_ms, m.handle_time_ms, m.resolution_time_ms,
                            m.goals, m.consent, arraySlice(arraySort(m.widgets), 1, {MOST_LABELS}),
                            arraySlice(arraySort(m.languages), 1, {MOST_LABELS}))) AS conversations
                 FROM conversations_as_of(as_of = {as_of}) AS m
                 WHERE {started}
                 GROUP BY tenant, source, at) AS f
                 ON f.tenant = w.tenant AND f.source = w.source AND f.at = w.at"
        )
    }

    /// Days of conversations, from their hours, as rows of `cohorts`.
    fn merged_days(hours: &str) -> String {
        cohorts(&format!(
            "SELECT tenant, source, day AS at, dimension, f.value AS label, f.metrics AS metrics, f.kinds AS kinds,
                    sum(f.conversations) AS n, 0 AS open_n, NULL AS changes_at, NULL AS silent_at, NULL AS reopen_at,
                    sumForEach(f.observed) AS observed, sumForEach(f.numerators) AS numerators,
                    sumForEach(f.denominators) AS denominators, groupArrayArrayForEach(f.durations) AS durations
             FROM ({hours}) ARRAY JOIN figures AS f
             GROUP BY tenant, source, at, dimension, label, metrics, kinds"
        ))
    }

    /// The hours of `work`, days as `tenant, source, at`.
    fn hours_of_days(work: &str) -> String {
        format!(
            "SELECT *, toStartOfDay(cohort) AS day, computed_at AS hour_computed_at FROM conversation_rollup FINAL
             WHERE tenant IN (SELECT tenant FROM ({work})) AND unit = 'hour'
               AND cohort >= (SELECT min(at) FROM ({work})) AND cohort < (SELECT max(at) FROM ({work})) + INTERVAL 1 DAY
               AND (tenant, source, toStartOfDay(cohort)) IN ({work})"
        )
    }

    fn days(&self, chunk: u32) -> String {
        let (as_of, read) = (time(self.as_of_ms), time(self.read_ms));
        let hours = Run::hours_of_days(&self.work("day", chunk));
        let merged = Run::merged_days(&hours);
        format!(
            "INSERT INTO conversation_rollup
             SELECT h.tenant, 'day', h.dimension, h.day, h.source, {as_of}, {read}, h.computed_at,
                    h.n, h.open_n, h.changes_at, h.silent_at, h.reopen_at, f.figures
             FROM (
                 SELECT tenant, source, day, dimension, max(hour_computed_at) AS computed_at,
                        sum(conversations) AS n, sum(open) AS open_n,
                        min(next_change_at) AS changes_at, max(settles_at) AS silent_at, max(reopen_settles_at) AS reopen_at
                 FROM ({hours}) GROUP BY tenant, source, day, dimension) AS h
             LEFT JOIN ({merged}) AS f
                 ON f.tenant = h.tenant AND f.source = h.source AND f.at = h.day AND f.dimension = h.dimension"
        )
    }

    /// The figures of settled days of the chunk that are now others.
    fn restated(&self, chunk: u32) -> String {
        let work = self.work("day", chunk);
        // What the last run left alone was at its time what it is now.
        let last_as_of = time(self.last.map_or(0, |last| last.as_of_ms));
        let settled = format!(
            "SELECT * REPLACE (greatest(as_of, {last_as_of}) AS as_of) FROM conversation_rollup FINAL
             WHERE (tenant, source, cohort) IN ({work}) AND tenant IN (SELECT tenant FROM ({work}))
               AND unit = 'day' AND dimension = '' AND open = 0
               AND toUnixTimestamp64Milli(greatest(as_of, {last_as_of}))
                   >= toInt64(toUnixTimestamp(cohort)) * 1000 + {DAY_MS} + {SETTLING_MS}"
        );
        let merged = Run::merged_days(&Run::hours_of_days(&format!(
            "SELECT tenant, source, cohort AS at FROM ({settled})"
        )));
        let single = "f.1 AS metric, f.2 AS kind,
                      if(kind = 'duration', length(f.6), f.3) AS n, if(kind = 'duration', NULL, f.4) AS numerator,
                      f.5 AS denominator, arraySort(f.6) AS durations";
        let zip =
            "arrayZip(g.metrics, g.kinds, g.observed, g.numerators, g.denominators, g.durations)";
        format!(
            "SELECT o.tenant AS tenant, o.source AS source, o.day AS day, o.metric AS metric, o.kind AS kind,
                    o.n AS old_n, n.n AS new_n, o.numerator AS old_numerator, n.numerator AS new_numerator,
                    o.denominator AS old_denominator, n.denominator AS new_denominator,
                    o.durations AS old_durations, n.durations AS new_durations,
                    o.as_of AS settled_as_of, o.read_at AS settled_read_at
             FROM (
                 SELECT tenant, source, cohort AS day, as_of, read_at, reopen_settles_at, {single}
                 FROM ({settled}) ARRAY JOIN figures AS g ARRAY JOIN {zip} AS f) AS o
             INNER JOIN (
                 SELECT tenant, source, at AS day, {single}
                 FROM ({merged}) ARRAY JOIN figures AS h ARRAY JOIN {new_zip} AS f
                 WHERE dimension = '') AS n
                 ON n.tenant = o.tenant AND n.source = o.source AND n.day = o.day AND n.metric = o.metric
             WHERE (o.metric != 'reopen_rate' OR o.reopen_settles_at IS NULL)
               -- How many conversations could be seen is no figure, only whether any could.
               AND toString((old_n > 0, old_numerator, old_denominator, old_durations))
                   != toString((new_n > 0, new_numerator, new_denominator, new_durations))",
            new_zip = "arrayZip(h.3, h.4, h.5, h.6, h.7, h.8)",
        )
    }

    /// Why: the accepted events of conversations of that day that came in since it had settled.
    fn restatements(&self, chunk: u32) -> String {
        let restated = self.restated(chunk);
        let as_of = time(self.as_of_ms);
        let median = |durations: &str| {
            format!(
                "if(empty({durations}), NULL, arrayReduce('quantileExactInclusive(0.5)', {durations}))"
            )
        };
        let (old_median, new_median) = (median("r.old_durations"), median("r.new_durations"));
        format!(
            "INSERT INTO restatements
             WITH restated AS ({restated}),
                  settled AS (
                      SELECT tenant, source, day, min(settled_read_at) AS read_at FROM restated GROUP BY tenant, source, day),
                  members AS (
                      SELECT DISTINCT tenant, source, toStartOfDay(hour) AS day, id FROM conversation_starts
                      WHERE tenant IN (SELECT tenant FROM settled)
                        AND (tenant, source, toStartOfDay(hour)) IN (SELECT tenant, source, day FROM settled)),
                  late AS (
                      SELECT m.tenant AS tenant, m.source AS source, m.day AS day, count() AS events,
                             min(e.occurred_at) AS first_at, max(e.occurred_at) AS last_at, max(e.received_at) AS received_at
                      FROM (
                          SELECT tenant, source, assumeNotNull(conversation_id) AS id, occurred_at, received_at, inserted_at
                          FROM events
                          WHERE (tenant, source) IN (SELECT tenant, source FROM settled) AND outcome = 'accepted'
                            AND inserted_at > (SELECT min(read_at) FROM settled)
                            AND (tenant, source, assumeNotNull(conversation_id)) IN (SELECT tenant, source, id FROM members)) AS e
                      INNER JOIN members AS m ON m.tenant = e.tenant AND m.source = e.source AND m.id = e.id
                      INNER JOIN settled AS s ON s.tenant = m.tenant AND s.source = m.source AND s.day = m.day
                      WHERE e.inserted_at > s.read_at
                      GROUP BY tenant, source, day)
             SELECT r.tenant, toDate(r.day), r.source, r.metric, r.kind, r.old_n, r.new_n,
                    r.old_numerator, r.new_numerator, r.old_denominator, r.new_denominator, {old_median}, {new_median},
                    r.settled_as_of, {as_of}, l.events,
                    if(l.events = 0, NULL, l.first_at), if(l.events = 0, NULL, l.last_at), if(l.events = 0, NULL, l.received_at)
             FROM restated AS r
             LEFT JOIN late AS l ON l.tenant = r.tenant AND l.source = r.source AND l.day = r.day"
        )
    }

    /// Page sessions of the hours in which their first events were received.
    fn sessions(&self, chunk: u32) -> String {
        let work = self.work("session", chunk);
        format!(
            "INSERT INTO session_rollup
             SELECT w.tenant, w.at, w.source, now64(6, 'UTC'), f.sessions, f.arrived, f.lost
             FROM ({work}) AS w
             LEFT JOIN (
                 SELECT s.tenant AS tenant, s.source AS source, toStartOfHour(s.first_received_at) AS at,
                        count() AS sessions, sum(s.arrived) AS arrived, sum(s.lost_in_browser) AS lost
                 FROM sessions AS s
                 WHERE (s.tenant, s.source, s.session_id) IN (
                           SELECT tenant, source, id FROM session_starts WHERE (tenant, source, hour) IN ({work}))
                   AND (s.tenant, s.source, toStartOfHour(s.first_received_at)) IN ({work})
                 GROUP BY tenant, source, at) AS f
                 ON f.tenant = w.tenant AND f.source = w.source AND f.at = w.at"
        )
    }

    /// Notes the cohorts of a kind that are to be computed, uncut.
    fn find(&self, kind: &Kind) -> String {
        let (id, of) = (&self.id, kind.of);
        let dirty = match self.last {
            Some(last) if last.definitions == self.definitions => {
                kind.changed(last.read_ms - LOOK_BACK_MS, self.as_of_ms)
            }
            _ => kind.all(),
        };
        format!(
            "INSERT INTO rollup_work (run, of, chunk, tenant, source, at)
             SELECT '{id}', '{of}', 0, tenant, source, hour FROM ({dirty})"
        )
    }

    /// Cuts what was found into chunks of about the same number of conversations or page sessions, in
    /// the order of the tables that are read.
    fn cut(&self, kind: &Kind) -> String {
        let found = self.work(kind.of, 0);
        let starts = kind.starts;
        self.chunks(
            kind.of,
            &format!(
                "SELECT tenant, source, at, sum(n) AS n FROM (
                 SELECT tenant, source, at, toUInt64(1) AS n FROM ({found})
                 UNION ALL
                 SELECT tenant, source, hour AS at, count() AS n FROM {starts}
                 WHERE (tenant, source, hour) IN ({found}) GROUP BY tenant, source, at)
             GROUP BY tenant, source, at"
            ),
        )
    }

    /// The days that lack an hour, among those with hours computed since the last run that was done:
    /// also by one that died before it came to the days. A day has the version of its newest hour.
    fn find_days(&self) -> String {
        let since = time(self.last.map_or(0, |last| last.read_ms - LOOK_BACK_MS));
        self.chunks(
            "day",
            &format!(
                "SELECT tenant, source, toStartOfDay(cohort) AS at,
                        sumIf(conversations, unit = 'hour') + count() AS n
                 FROM conversation_rollup
                 WHERE dimension = '' AND computed_at >= {since}
                 GROUP BY tenant, source, at
                 HAVING maxIf(computed_at, unit = 'hour') > maxIf(computed_at, unit = 'day')"
            ),
        )
    }

    fn chunks(&self, of: &str, weighed: &str) -> String {
        let id = &self.id;
        format!(
            "INSERT INTO rollup_work (run, of, chunk, tenant, source, at)
             SELECT '{id}', '{of}', toUInt32(1 + intDiv(until - n, {CHUNK})), tenant, source, at
             FROM (SELECT *, sum(n) OVER (ORDER BY tenant, source, at ROWS UNBOUNDED PRECEDING) AS until FROM ({weighed}))"
        )
    }
}

/// The condition for a conversation `m` to have started in an hour of `work`. It is judged where one of
/// its rows of `conversation_starts` is in such an hour, and counts where its true start is.
fn started_in(work: &str) -> String {
    format!(
        "(m.tenant, m.source, m.conversation_id) IN (
             SELECT tenant, source, id FROM conversation_starts WHERE (tenant, source, hour) IN ({work}))
         AND (m.tenant, m.source, toStartOfHour(m.started_at)) IN ({work})"
    )
}

/// Rows of `conversation_rollup` from groups by label: at most 50 labels, the most frequent.
fn cohorts(groups: &str) -> String {
    format!(
        "SELECT tenant, source, at, dimension,
                sum(g.n) AS conversations, sum(g.open_n) AS open,
                min(g.changes_at) AS changes_at, max(g.silent_at) AS silent_at, max(g.reopen_at) AS reopen_at,
                arraySort(f -> (f.1 = '(other)', -toInt64(f.2), f.1), groupArray(
                    (g.label, g.n, g.metrics, g.kinds, g.observed, g.numerators, g.denominators, g.durations))) AS every,
                arraySlice(every, {MOST_VALUES} + 1) AS rest,
                if(empty(rest), every, arrayPushBack(arraySlice(every, 1, {MOST_VALUES}), (
                    '(other)', arraySum(rest.2), rest[1].3, rest[1].4, arrayReduce('sumForEach', rest.5),
                    arrayReduce('sumForEach', rest.6), arrayReduce('sumForEach', rest.7),
                    arrayReduce('groupArrayArrayForEach', rest.8)))) AS figures
         FROM ({groups}) AS g
         GROUP BY tenant, source, at, dimension"
    )
}

impl Store {
    /// Brings the roll-ups up to date: what came in, and what time changed until `as_of_ms`
    /// (milliseconds since the Unix epoch, now). The first run computes everything, as does one after
    /// a change of views, sources or tenants' settings.
    ///
    /// On an error what is done stays done, and the next run does the rest.
    pub async fn roll_up(&self, as_of_ms: i64) -> Result<RolledUp, StoreError> {
        let run = self.begin(as_of_ms).await?;
        let mut done = RolledUp {
            hours: 0,
            days: 0,
            session_hours: 0,
            delivery_hours: 0,
            twin_hours: 0,
            restatements: 0,
        };
        for kind in [&CONVERSATIONS, &SESSIONS] {
            self.roll("finding what changed", &run.find(kind)).await?;
            let (found, _) = self.work(&run, kind.of, 0).await?;
            if found > 0 {
                self.roll("cutting what changed", &run.cut(kind)).await?;
            }
        }
        let chunks;
        (done.hours, chunks) = self.work(&run, "hour", 1).await?;
        for chunk in 1..=chunks {
            self.roll("listing conversations", &run.lists(chunk))
                .await?;
            self.roll("rolling up hours", &run.hours(chunk)).await?;
        }
        self.roll("finding changed days", &run.find_days()).await?;
        let chunks;
        (done.days, chunks) = self.work(&run, "day", 1).await?;
        for chunk in 1..=chunks {
            done.restatements += self.restate(&run, chunk).await?;
            self.roll("rolling up days", &run.days(chunk)).await?;
        }
        let chunks;
        (done.session_hours, chunks) = self.work(&run, "session", 1).await?;
        for chunk in 1..=chunks {
            self.roll("rolling up page sessions", &run.sessions(chunk))
                .await?;
        }
        let since_ms = run.last.map_or(0, |last| last.read_ms - LOOK_BACK_MS);
        done.delivery_hours = self.roll_up_deliveries(since_ms).await?;
        let last_as_of_ms = run.last.map(|last| last.as_of_ms);
        done.twin_hours = self.roll_up_twins(last_as_of_ms, as_of_ms).await?;
        self.end(&run, done).await?;
        Ok(done)
    }

    async fn begin(&self, as_of_ms: i64) -> Result<Run, StoreError> {
        let query = self.client.query_raw(
            "WITH
                 ifNull(sipHash64(
                     (SELECT argMax(checksum, (version, applied_at)) FROM schema_views),
                     (SELECT groupBitXor(sipHash64(tuple(* EXCEPT written_at))) FROM source_observes FINAL),
                     (SELECT groupBitXor(sipHash64(tuple(* EXCEPT written_at))) FROM tenant_settings FINAL
                      WHERE conversation_timeout_seconds NOT IN (0, 86400))), 0) AS now_defined,
                 (SELECT argMaxOrNull((toUnixTimestamp64Milli(as_of), toUnixTimestamp64Milli(read_at), definitions), read_at)
                  FROM rollup_runs) AS last
             SELECT toString(generateUUIDv4()) AS id, toUnixTimestamp64Milli(now64(3)) AS read_ms,
                    now_defined AS definitions, last",
        );
        let begun: Begun = self
            .within("beginning a roll-up", query.fetch_one())
            .await?;
        Ok(Run {
            id: begun.id,
            as_of_ms,
            read_ms: begun.read_ms,
            definitions: begun.definitions,
            last: begun.last.map(|(as_of_ms, read_ms, definitions)| Last {
                as_of_ms,
                read_ms,
                definitions,
            }),
        })
    }

    /// How many cohorts are to be computed, and the last chunk; of the chunks from `from` on.
    async fn work(&self, run: &Run, of: &str, from: u32) -> Result<(u64, u32), StoreError> {
        let query = self
            .client
            .query("SELECT count(), max(chunk) FROM rollup_work WHERE run = ? AND of = ? AND chunk >= ?")
            .bind(&run.id)
            .bind(of)
            .bind(from);
        self.within("counting what to roll up", query.fetch_one())
            .await
    }

    async fn restate(&self, run: &Run, chunk: u32) -> Result<u64, StoreError> {
        let sql = format!("SELECT count() AS figures FROM ({})", run.restated(chunk));
        let query = bounded(self.client.query_raw(&sql));
        let restated: Restated = self
            .within("comparing settled days", query.fetch_one())
            .await?;
        if restated.figures > 0 {
            self.roll("restating settled days", &run.restatements(chunk))
                .await?;
        }
        Ok(restated.figures)
    }

    async fn roll(&self, doing: &'static str, sql: &str) -> Result<(), StoreError> {
        let query = bounded(self.client.query_raw(sql));
        self.within(doing, query.execute()).await
    }

    async fn end(&self, run: &Run, done: RolledUp) -> Result<(), StoreError> {
        let query = self
            .client
            .query(
                "INSERT INTO rollup_runs (read_at, as_of, definitions, hours, days, session_hours, restatements)
                 SELECT fromUnixTimestamp64Milli(toInt64(?)), fromUnixTimestamp64Milli(toInt64(?)), ?, ?, ?, ?, ?",
            )
            .bind(run.read_ms)
            .bind(run.as_of_ms)
            .bind(run.definitions)
            .bind(done.hours)
            .bind(done.days)
            .bind(done.session_hours)
            .bind(done.restatements);
        self.within("noting a roll-up", query.execute()).await
    }
}

/// Statements of the job: no block is a repetition of another, and half of the cores are for those
/// who wait for an answer.
fn bounded(query: Query) -> Query {
    query
        .with_setting("insert_deduplicate", "0")
        .with_setting("optimize_on_insert", "0")
        .with_setting("max_threads", "2")
        .with_setting("max_insert_threads", "1")
        .with_setting("max_partitions_per_insert_block", "0")
        .with_setting("do_not_merge_across_partitions_select_final", "1")
        .with_setting("join_use_nulls", "0")
}
