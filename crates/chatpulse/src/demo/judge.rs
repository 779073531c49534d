//! Waits until every event is queryable, then holds the answers of ClickHouse against the truth.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::bail;
use chatpulse_reports::{Period, Value};
use chatpulse_simulator::{Durations, Ratio, SourceMetrics, TenantTruth, Truth};
use chatpulse_store::{AuditOptions, Books, Cohort, MetricRow, Span, Unit, Window};
use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinHandle;

use super::{
    Probe,
    traffic::{Sender, Sent},
};

/// How long nothing may move before the wait is given up.
const STALLED: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What a run came to.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    /// Items sent, each counted once.
    sent: u64,
    /// Items offered again because an answer was missing; each may be one more duplicate.
    resent: u64,
    #[serde(flatten)]
    books: Totals,
    /// Rows in the store.
    stored: u64,
    /// received = accepted + duplicate + rejected for every tenant, equal to the truth, and the
    /// audit found every raw offset once.
    balanced: bool,
    /// Every metric equals the truth.
    equals_truth: bool,
    /// What does not.
    differences: Vec<String>,
    seconds: Seconds,
    /// Items sent ÷ seconds until all were queryable.
    events_per_second: f64,
    /// Rate of each hop while it worked; events per second.
    hops: Hops,
    /// Most memory that this process held; bytes. None where the system does not tell.
    peak_memory_bytes: Option<u64>,
    /// Per tenant and source: each metric as derived, beside the truth.
    metrics: BTreeMap<String, BTreeMap<String, BTreeMap<&'static str, Compared>>>,
}

#[derive(Debug, Default, Serialize)]
struct Totals {
    received: u64,
    accepted: u64,
    duplicate: u64,
    rejected: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Seconds {
    /// First request to last acknowledgement.
    acknowledged: f64,
    /// First request to the last event queryable.
    queryable: f64,
    /// Until judged.
    total: f64,
}

#[derive(Debug, Serialize)]
struct Hops {
    producer: f64,
    enricher: f64,
    sink: f64,
}

#[derive(Debug, Serialize)]
struct Compared {
    derived: Figure,
    truth: Figure,
}

/// A metric's figures; `None` is n/a.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum Figure {
    NotAvailable(Option<()>),
    Count(i64),
    Ratio {
        numerator: i64,
        denominator: i64,
    },
    Durations {
        n: u64,
        median_ms: Option<f64>,
        p90_ms: Option<f64>,
        p95_ms: Option<f64>,
    },
}

const NOT_AVAILABLE: Figure = Figure::NotAvailable(None);

impl Verdict {
    pub(super) fn passes(&self) -> bool {
        self.balanced && self.equals_truth
    }
}

/// Watches when each hop works, for its rate.
pub(super) struct Timing {
    started: Instant,
    watch: JoinHandle<()>,
    hops: Arc<Mutex<[Work; 3]>>,
}

/// One hop's counter over time.
#[derive(Clone, Copy)]
struct Work {
    before: u64,
    now: u64,
    first: Option<Instant>,
    last: Instant,
}

impl Work {
    fn see(&mut self, count: u64, at: Instant) {
        if count > self.now {
            self.first.get_or_insert(at);
            (self.now, self.last) = (count, at);
        }
    }

    /// Events per second between the first and the last change.
    fn rate(&self) -> f64 {
        let seconds = self
            .first
            .map_or(0.0, |first| (self.last - first).as_secs_f64());
        (self.now - self.before) as f64 / seconds.max(0.001)
    }
}

impl Timing {
    pub(super) fn start(probe: &Probe, sender: &Sender) -> Self {
        let (probe, sender) = (probe.clone(), sender.clone());
        let read = move || {
            [
                sender.acknowledged(),
                probe.enricher.confirmed(),
                probe.sink.stored(),
            ]
        };
        let started = Instant::now();
        let start = |count| Work {
            before: count,
            now: count,
            first: None,
            last: started,
        };
        let hops = Arc::new(Mutex::new(read().map(start)));
        let seen = Arc::clone(&hops);
        let watch = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            loop {
                let at = tick.tick().await.into_std();
                let mut hops = seen.lock().unwrap_or_else(PoisonError::into_inner);
                for (hop, count) in hops.iter_mut().zip(read()) {
                    hop.see(count, at);
                }
            }
        });
        Self {
            started,
            watch,
            hops,
        }
    }

    fn hops(&self) -> [Work; 3] {
        *self.hops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the store has every item, then compares.
pub(super) async fn judge(
    (truth, as_of_ms): (Truth, i64),
    sent: Sent,
    timing: Timing,
    probe: &Probe,
) -> anyhow::Result<Verdict> {
    let acknowledged = timing.started.elapsed().as_secs_f64();
    let tenants: BTreeSet<&str> = truth
        .per_tenant
        .iter()
        .map(|tenant| tenant.tenant.as_str())
        .collect();
    wait_until_stored(&tenants, sent.items, probe).await?;
    let queryable = timing.started.elapsed().as_secs_f64();
    timing.watch.abort();
    let [producer, enricher, sink] = timing.hops().map(|hop| hop.rate());

    let mut totals = Totals::default();
    for books in books_of(&tenants, probe).await? {
        totals.received += books.received;
        totals.accepted += books.accepted;
        totals.duplicate += books.duplicate;
    }
    let mut metrics = BTreeMap::new();
    let mut differences = Vec::new();
    let by_day = Span {
        window: ALL_TIME,
        unit: Unit::Day,
    };
    for tenant in &truth.per_tenant {
        for row in probe
            .store
            .rejections_by_reason(&tenant.tenant, by_day)
            .await?
        {
            *totals.rejected.entry(row.reason).or_default() += row.rejected;
        }
        let rows = probe
            .store
            .metrics(&Cohort {
                tenant: &tenant.tenant,
                started: ALL_TIME,
                as_of_ms,
                conversation_prefix: "",
            })
            .await?;
        metrics.insert(
            tenant.tenant.clone(),
            compare(tenant, &rows, &mut differences),
        );
    }
    let of_reports = reported(&tenants, probe).await?;
    differences.extend(of_reports);
    let equals_truth = differences.is_empty();
    let mut faults = faults_of_books(&truth, &sent, &totals);
    let audit = probe.store.audit(&AuditOptions::default()).await?;
    faults.extend(
        audit
            .findings
            .iter()
            .map(|finding| format!("audit: {finding}")),
    );
    let balanced = faults.is_empty();
    differences.extend(faults);
    Ok(Verdict {
        sent: sent.items,
        resent: sent.resent,
        stored: totals.received,
        books: totals,
        balanced,
        equals_truth,
        differences,
        seconds: Seconds {
            acknowledged,
            queryable,
            total: timing.started.elapsed().as_secs_f64(),
        },
        events_per_second: sent.items as f64 / queryable,
        hops: Hops {
            producer,
            enricher,
            sink,
        },
        peak_memory_bytes: peak_memory_bytes(),
        metrics,
    })
}

/// What the reports of the tenants, which are made of roll-ups, say otherwise than the metric views, which
/// are compared with the truth: nothing, as of the same time.
async fn reported(tenants: &BTreeSet<&str>, probe: &Probe) -> anyhow::Result<Vec<String>> {
    let now = Timestamp::now();
    let as_of_ms = now.as_millisecond();
    probe.store.roll_up(as_of_ms).await?;
    let mut differences = Vec::new();
    for tenant in tenants {
        let period = Period::before(now, "366d")?;
        let report = probe.stages.reports().conversations(tenant, period).await?;
        let cohort = Cohort {
            tenant,
            started: ALL_TIME,
            as_of_ms,
            conversation_prefix: "",
        };
        for row in probe.store.metrics(&cohort).await? {
            let metric = report
                .metrics
                .iter()
                .find(|metric| metric.metric == row.metric);
            let shown = metric.and_then(|metric| match &row.source {
                None => metric.overall.as_ref(),
                Some(source) => metric.by_source.get(source)?.as_ref(),
            });
            let (shown, derived) = (
                shown.map_or(NOT_AVAILABLE, Figure::from),
                Figure::from(&row),
            );
            if !shown.equals(&derived) {
                let source = row.source.as_deref().unwrap_or("all sources");
                differences.push(format!(
                    "report of {tenant}/{source}: {} is {shown:?}, by the views {derived:?}",
                    row.metric
                ));
            }
        }
    }
    Ok(differences)
}

/// All that a run can contain.
const ALL_TIME: Window = Window {
    since_ms: 0,
    until_ms: 7_258_118_400_000,
};

async fn books_of(tenants: &BTreeSet<&str>, probe: &Probe) -> anyhow::Result<Vec<Books>> {
    let books = probe.store.books().await?;
    Ok(books
        .into_iter()
        .filter(|books| tenants.contains(books.tenant.as_str()))
        .collect())
}

async fn wait_until_stored(
    tenants: &BTreeSet<&str>,
    items: u64,
    probe: &Probe,
) -> anyhow::Result<()> {
    let mut moved = Instant::now();
    let mut last = (0, 0);
    loop {
        let stored = books_of(tenants, probe)
            .await?
            .iter()
            .map(|books| books.received)
            .sum();
        // A row is visible in `events` before the views have it: only the sink's commit says both.
        if stored >= items && probe.stages.under_way().await? == 0 {
            return Ok(());
        }
        let now = (stored, probe.enricher.confirmed());
        if now != last {
            (last, moved) = (now, Instant::now());
        }
        if moved.elapsed() > STALLED {
            bail!(
                "only {stored} of {items} acknowledged events are queryable and nothing has moved \
                 for {STALLED:?}: see the log above, then `chatpulse audit`"
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What is wrong in the totals. Items that were offered twice may be there twice, as duplicates.
fn faults_of_books(truth: &Truth, sent: &Sent, totals: &Totals) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |what: &str, derived: u64, truth: u64, slack: u64| {
        if !(truth..=truth + slack).contains(&derived) {
            faults.push(format!("books: {what} is {derived}, the truth is {truth}"));
        }
    };
    let rejected: u64 = totals.rejected.values().sum();
    check("accepted", totals.accepted, truth.accepted, 0);
    check("duplicate", totals.duplicate, truth.duplicate, sent.resent);
    check("received", totals.received, truth.sent, sent.resent);
    check(
        "accepted + duplicate + rejected",
        totals.accepted + totals.duplicate + rejected,
        totals.received,
        0,
    );
    let reasons: BTreeSet<&str> = truth
        .rejected
        .keys()
        .copied()
        .chain(totals.rejected.keys().map(String::as_str))
        .collect();
    for reason in reasons {
        let derived = totals.rejected.get(reason).copied().unwrap_or(0);
        let expected = truth.rejected.get(reason).copied().unwrap_or(0);
        check(
            &format!("rejected as {reason}"),
            derived,
            expected,
            sent.resent,
        );
        let answered = sent.rejected.get(reason).copied().unwrap_or(0);
        check(
            &format!("answered as rejected: {reason}"),
            answered,
            expected,
            0,
        );
    }
    faults
}

/// Every metric of one tenant, by source.
fn compare(
    tenant: &TenantTruth,
    rows: &[MetricRow],
    differences: &mut Vec<String>,
) -> BTreeMap<String, BTreeMap<&'static str, Compared>> {
    let derived: BTreeMap<(&str, &str), Figure> = rows
        .iter()
        .filter_map(|row| {
            Some((
                (row.source.as_deref()?, row.metric.as_str()),
                Figure::from(row),
            ))
        })
        .collect();
    let sources: BTreeSet<&str> = derived
        .keys()
        .map(|(source, _)| *source)
        .chain(tenant.metrics.keys().copied())
        .collect();
    let mut compared = BTreeMap::new();
    for source in sources {
        let truth = tenant.metrics.get(source).map(figures).unwrap_or_default();
        let mut of_source = BTreeMap::new();
        for (metric, truth) in truth {
            let derived = derived
                .get(&(source, metric))
                .cloned()
                .unwrap_or(NOT_AVAILABLE);
            if !derived.equals(&truth) {
                differences.push(format!(
                    "metric {metric} of {}/{source}: derived {derived:?}, truth {truth:?}",
                    tenant.tenant
                ));
            }
            of_source.insert(metric, Compared { derived, truth });
        }
        if of_source.is_empty() {
            differences.push(format!(
                "{}/{source} has conversations in the store alone",
                tenant.tenant
            ));
        }
        compared.insert(source.to_owned(), of_source);
    }
    compared
}

/// The truth under the names of the store's metrics (schemas/clickhouse/README.md).
fn figures(truth: &SourceMetrics) -> Vec<(&'static str, Figure)> {
    let count =
        |value: Option<u64>| value.map_or(NOT_AVAILABLE, |value| Figure::Count(value as i64));
    let ratio = |ratio: &Option<Ratio>| match ratio {
        Some(Ratio { num, den }) => Figure::Ratio {
            numerator: *num as i64,
            denominator: *den as i64,
        },
        None => NOT_AVAILABLE,
    };
    let durations = |durations: &Option<Durations>| match durations {
        Some(Durations {
            n,
            median_ms,
            p90_ms,
            p95_ms,
        }) => Figure::Durations {
            n: *n,
            median_ms: *median_ms,
            p90_ms: *p90_ms,
            p95_ms: *p95_ms,
        },
        None => NOT_AVAILABLE,
    };
    let share = |pick: fn(&chatpulse_simulator::Outcomes) -> u64| match &truth.outcomes {
        Some(outcomes) => Figure::Ratio {
            numerator: pick(outcomes) as i64,
            denominator: truth.closed_bot_conversations.unwrap_or(0) as i64,
        },
        None => NOT_AVAILABLE,
    };
    let gap = truth.message_gap.as_ref();
    vec![
        ("conversations", Figure::Count(truth.conversations as i64)),
        ("visitor_messages", count(truth.messages.visitor)),
        ("bot_messages", count(truth.messages.bot)),
        ("agent_messages", count(truth.messages.agent)),
        ("total_messages", count(truth.messages.total)),
        ("reported_total", count(gap.map(|gap| gap.reported))),
        (
            "message_gap",
            gap.map_or(NOT_AVAILABLE, |gap| Figure::Count(gap.gap)),
        ),
        ("bot_conversations", count(truth.bot_conversations)),
        (
            "closed_bot_conversations",
            count(truth.closed_bot_conversations),
        ),
        ("handoff_request_rate", ratio(&truth.handoff_request_rate)),
        ("handoff_rate", ratio(&truth.handoff_rate)),
        ("containment_rate", ratio(&truth.containment_rate)),
        ("bot_resolution_rate", ratio(&truth.bot_resolution_rate)),
        ("handed_off_share", share(|outcomes| outcomes.handed_off)),
        (
            "requested_unserved_share",
            share(|outcomes| outcomes.requested_unserved),
        ),
        (
            "human_intervened_share",
            share(|outcomes| outcomes.human_intervened),
        ),
        ("abandoned_share", share(|outcomes| outcomes.abandoned)),
        (
            "contained_assumed_share",
            share(|outcomes| outcomes.contained_assumed),
        ),
        ("first_response_any", durations(&truth.first_response_any)),
        (
            "first_response_human",
            durations(&truth.first_response_human),
        ),
        ("time_to_human", durations(&truth.time_to_human)),
        ("handle_time", durations(&truth.handle_time)),
        ("resolution_time", durations(&truth.resolution_time)),
        ("reopen_rate", ratio(&truth.reopen_rate)),
        ("csat", ratio(&truth.csat)),
        (
            "nps",
            truth
                .nps
                .as_ref()
                .map_or(NOT_AVAILABLE, |nps| Figure::Ratio {
                    numerator: nps.promoters as i64 - nps.detractors as i64,
                    denominator: nps.n as i64,
                }),
        ),
    ]
}

impl From<&MetricRow> for Figure {
    fn from(row: &MetricRow) -> Self {
        if !row.observable {
            return NOT_AVAILABLE;
        }
        let (numerator, denominator) = (
            row.numerator.unwrap_or_default(),
            row.denominator.unwrap_or_default(),
        );
        match row.kind.as_str() {
            "duration" => Self::Durations {
                n: row.n,
                median_ms: row.median_ms,
                p90_ms: row.p90_ms,
                p95_ms: row.p95_ms,
            },
            "count" => Self::Count(numerator),
            _ => Self::Ratio {
                numerator,
                denominator,
            },
        }
    }
}

impl From<&Value> for Figure {
    fn from(value: &Value) -> Self {
        match *value {
            Value::Count { count } => Self::Count(count),
            Value::Rate {
                numerator,
                denominator,
                ..
            }
            | Value::Score {
                numerator,
                denominator,
                ..
            } => Self::Ratio {
                numerator,
                denominator,
            },
            Value::Duration {
                n,
                median_ms,
                p90_ms,
                p95_ms,
            } => Self::Durations {
                n,
                median_ms,
                p90_ms,
                p95_ms,
            },
        }
    }
}

impl Figure {
    /// Equal; quantiles up to the last digits of a float.
    fn equals(&self, other: &Self) -> bool {
        let close = |a: &Option<f64>, b: &Option<f64>| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs().max(1.0),
            (a, b) => a.is_none() && b.is_none(),
        };
        match (self, other) {
            (
                Self::Durations {
                    n,
                    median_ms,
                    p90_ms,
                    p95_ms,
                },
                Self::Durations {
                    n: n2,
                    median_ms: median2,
                    p90_ms: p90_2,
                    p95_ms: p95_2,
                },
            ) => {
                n == n2 && close(median_ms, median2) && close(p90_ms, p90_2) && close(p95_ms, p95_2)
            }
            (a, b) => a == b,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |fine: bool| if fine { "yes" } else { "NO" };
        let rejected: u64 = self.books.rejected.values().sum();
        writeln!(
            f,
            "{} sent = {} accepted + {} duplicate + {rejected} rejected, {} stored",
            self.sent, self.books.accepted, self.books.duplicate, self.stored
        )?;
        writeln!(f, "the books balance: {}", mark(self.balanced))?;
        writeln!(
            f,
            "every metric equals the truth: {}",
            mark(self.equals_truth)
        )?;
        for difference in &self.differences {
            writeln!(f, "  {difference}")?;
        }
        writeln!(
            f,
            "acknowledged after {:.1} s, queryable after {:.1} s: {:.0} events/s",
            self.seconds.acknowledged, self.seconds.queryable, self.events_per_second
        )?;
        write!(
            f,
            "each hop while it worked: producer {:.0}/s, enricher {:.0}/s, sink {:.0}/s",
            self.hops.producer, self.hops.enricher, self.hops.sink
        )
    }
}

/// Most memory that this process has held so far.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
