//! Runs at one rate each, and the search and the levels made of them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    error::CapacityError,
    feed::{Feed, FeedOptions},
    load::{Gun, Load, Salvo, Tally, WINDOWS, histogram, marker_every, record},
    mix::Mix,
    process::{Consumption, Usage},
    report::{DrainReport, Lag, Latency, Level, PartCost, Run, TableBytes, Window},
    schedule::{Arrivals, Schedule},
    search::{Found, Search, Step},
    trend::trend,
    verdict::{Observed, Rule, Verdict, judge},
    watch::{Markers, StoreAddress, Watch},
};

/// The counter of the last stage.
const STORED: &str = "chatpulse_sink_stored_total";
/// How often counters are read.
const SAMPLE: Duration = Duration::from_millis(200);
/// How long what was sent may take to come through when nothing moves.
const STALLED: Duration = Duration::from_secs(60);
/// How long markers are waited for when all has come through.
const LATE_MARKERS: Duration = Duration::from_secs(3);
/// Answers are there after this, or never.
const ANSWERS: Duration = Duration::from_secs(20);
/// Pause before a run, for its first requests to be made.
const LEAD: Duration = Duration::from_millis(300);

/// The system under test.
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port` of the producer.
    pub producer: String,
    /// Write key of each tenant.
    pub write_keys: Vec<String>,
    /// Write key of [`crate::MARKER_TENANT`].
    pub marker_key: String,
    /// URL of the sink's metrics; without it the producer is the last stage.
    pub sink_metrics: Option<String>,
    /// ClickHouse, where it is part of the system.
    pub store: Option<StoreAddress>,
    /// Name of each part, and how its consumption is known.
    pub parts: Vec<(String, Usage)>,
}

/// How runs are made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Discarded at the beginning of each run.
    pub warm_up: Duration,
    /// Measured after it.
    pub duration: Duration,
    /// How requests are spread.
    pub arrivals: Arrivals,
    /// Most events in a request.
    pub batch: u32,
    /// Most connections.
    pub connections: usize,
    /// Marker requests per second, at most.
    pub markers_per_second: f64,
    /// Interval of the polls for markers.
    pub poll: Duration,
    /// Same seed, same load.
    pub seed: u64,
    /// Prefix of all ids: unique for each benchmark.
    pub run_id: String,
    /// The bounds of the verdicts.
    pub rule: Rule,
    /// A recorded mix to send instead of simulated visits.
    pub mix: Option<Arc<Mix>>,
}

/// A benchmark under way. What it has measured stays when a call is dropped in its middle.
pub struct Bench {
    target: Target,
    plan: Plan,
    load: Load,
    watch: Watch,
    numbers: u64,
    /// Events acknowledged in all runs.
    pub acknowledged: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Runs of the search.
    pub runs: Vec<Run>,
    /// Runs at shares of the sustainable rate.
    pub levels: Vec<Level>,
    /// The search's result so far.
    pub found: Option<Found>,
    progress: Box<dyn Fn(&str) + Send + Sync>,
}

/// Counters at a moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    scheduled: u64,
    acknowledged: u64,
    done: u64,
}

impl Bench {
    /// A benchmark of `target`; `progress` is told a line for every run.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(
        target: Target,
        plan: Plan,
        progress: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self, CapacityError> {
        let keys = target.write_keys.iter().chain([&target.marker_key]);
        let gun = Gun {
            producer: target.producer.clone(),
            authorizations: keys.map(|key| format!("Bearer {key}")).collect(),
        };
        Ok(Self {
            load: Load::new(&gun, plan.connections),
            watch: Watch::new(target.store.clone())?,
            target,
            plan,
            numbers: 0,
            acknowledged: 0,
            body_bytes: 0,
            runs: Vec::new(),
            levels: Vec::new(),
            found: None,
            progress: Box::new(progress),
        })
    }

    /// Looks for the highest sustainable rate from `start` on, until it is known to `precision` or `deadline` comes.
    ///
    /// # Errors
    /// When a part fails.
    pub async fn search(
        &mut self,
        start: f64,
        precision: f64,
        deadline: Instant,
    ) -> Result<Found, CapacityError> {
        let mut search = Search::new(start, precision);
        while let Step::Try(rate) = search.step()
            && Instant::now() < deadline
        {
            let run = self.run(rate).await?;
            search.record(&run.verdict);
            self.runs.push(run);
            self.found = Some(search.found());
        }
        Ok(search.found())
    }

    /// Makes a run at each of these percentages of `rate`.
    ///
    /// # Errors
    /// When a part fails.
    pub async fn measure_levels(
        &mut self,
        rate: f64,
        percentages: &[u32],
    ) -> Result<(), CapacityError> {
        for &percent in percentages {
            let run = self.run(rate * f64::from(percent) / 100.0).await?;
            self.levels.push(Level { percent, run });
        }
        Ok(())
    }

    /// Sends so many events as fast as they are taken; gives how many were acknowledged.
    ///
    /// # Errors
    /// When the generator fails.
    pub async fn fill(&mut self, events: u64) -> Result<u64, CapacityError> {
        let now = Instant::now();
        let tally = Arc::new(Tally::new((now, now + Duration::from_secs(1))));
        let mut sent = 0;
        // In portions that wait for their answers: what is under way stays small.
        while sent < events {
            let portion = (events - sent).min(20_000);
            self.salvo(f64::INFINITY, &tally, portion).await?;
            sent += portion;
            answered(&tally).await;
        }
        let acknowledged = tally.counts().acknowledged;
        self.acknowledged += acknowledged;
        self.body_bytes += tally.counts().bytes;
        Ok(acknowledged)
    }

    /// Sends a few events and waits until they have come through: joining groups and first connections are not
    /// what is measured.
    ///
    /// # Errors
    /// When a part fails, or they do not come through.
    pub async fn prime(&mut self, events: u64) -> Result<(), CapacityError> {
        let before = self.done().await?.unwrap_or(0);
        let acknowledged = self.fill(events).await?;
        let followed = Markers::new(String::new());
        self.settle(before + acknowledged, &followed).await
    }

    async fn salvo(
        &mut self,
        rate: f64,
        tally: &Arc<Tally>,
        events: u64,
    ) -> Result<(), CapacityError> {
        let start = Instant::now();
        let salvo = Salvo {
            feed: self.feed(events as f64),
            schedule: Schedule::new(Arrivals::Even, rate, 0),
            start,
            until: start + Duration::from_secs(86_400),
            events,
            tally: Arc::clone(tally),
            markers: Arc::new(Markers::new(String::new())),
            marker_every: None,
            batch: self.plan.batch,
        };
        self.load.drive(salvo).await
    }

    fn feed(&mut self, expected: f64) -> Feed {
        self.numbers += 1;
        Feed::start(FeedOptions {
            seed: self.plan.seed.wrapping_add(self.numbers),
            run_id: format!("{}-{}", self.plan.run_id, self.numbers),
            tenants: self.target.write_keys.len(),
            batch: self.plan.batch,
            expected,
            now_ms: jiff::Timestamp::now().as_millisecond(),
            mix: self.plan.mix.clone(),
        })
    }

    /// One run at `rate` events per second, and the wait until all that it sent has come through.
    ///
    /// # Errors
    /// When a part fails, or nothing comes through any more.
    pub async fn run(&mut self, rate: f64) -> Result<Run, CapacityError> {
        let plan = self.plan.clone();
        let feed = self.feed(rate * (plan.warm_up + plan.duration).as_secs_f64());
        let markers = Arc::new(Markers::new(format!("{}-m{}", plan.run_id, self.numbers)));
        let before = self.done().await?.unwrap_or(0);
        let start = Instant::now() + LEAD;
        let (from, until) = (start + plan.warm_up, start + plan.warm_up + plan.duration);
        let tally = Arc::new(Tally::new((from, until)));
        let mut beside = JoinSet::new();
        if self.watch.has_store() {
            beside.spawn(Arc::clone(&markers).poll(self.watch.clone(), plan.poll));
        }
        let samples = Arc::new(std::sync::Mutex::new(Vec::new()));
        beside.spawn(sample(
            (self.watch.clone(), self.counter(), before),
            Arc::clone(&tally),
            (rate, plan.rule.hopeless_lag_seconds),
            Arc::clone(&samples),
        ));
        let used_before = {
            let (watch, parts) = (self.watch.clone(), self.target.parts.clone());
            tokio::spawn(async move {
                sleep_until(from).await;
                consumption(&watch, &parts).await
            })
        };
        let requests_per_second = rate / f64::from(plan.batch.max(1));
        let salvo = Salvo {
            feed,
            schedule: Schedule::new(plan.arrivals, rate, plan.seed.wrapping_add(self.numbers)),
            start,
            until,
            events: u64::MAX,
            tally: Arc::clone(&tally),
            markers: Arc::clone(&markers),
            marker_every: self
                .watch
                .has_store()
                .then(|| marker_every(requests_per_second, plan.markers_per_second)),
            batch: plan.batch,
        };
        self.load.drive(salvo).await?;
        let hopeless = tally.stop.load(Ordering::Relaxed);
        if !hopeless {
            sleep_until(until).await;
        }
        let used_after = consumption(&self.watch, &self.target.parts).await;
        let used_before = match hopeless && !used_before.is_finished() {
            true => None,
            false => used_before.await.ok(),
        };
        let ended = Instant::now();
        answered(&tally).await;
        let acknowledged = tally.counts().acknowledged;
        self.acknowledged += acknowledged;
        self.body_bytes += tally.counts().bytes;
        self.settle(before + acknowledged, &markers).await?;
        beside.shutdown().await;

        let samples = std::mem::take(
            &mut *samples
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        let seen = Seen {
            rate,
            measured: (from, ended.min(until).max(from + SAMPLE)),
            hopeless,
            samples,
            tally: &tally,
            markers: &markers,
            used: (used_before.as_deref(), used_after.as_slice()),
        };
        let run = seen.summary(&plan, &self.target, self.watch.has_store());
        let number = self.runs.len() + self.levels.len() + 1;
        (self.progress)(&crate::text::line(number, &run));
        Ok(run)
    }

    fn counter(&self) -> Option<(String, &'static str)> {
        let url = self.target.sink_metrics.clone()?;
        Some((url, STORED))
    }

    async fn done(&self) -> Result<Option<u64>, CapacityError> {
        match self.counter() {
            Some(counter) => self.watch.counter(&counter).await.map(Some),
            None => Ok(None),
        }
    }

    /// Waits until `expected` outcomes have come through in all, and the markers were seen.
    async fn settle(&self, expected: u64, markers: &Markers) -> Result<(), CapacityError> {
        let (mut last, mut moved) = (0, Instant::now());
        while let Some(done) = self.done().await?
            && done < expected
        {
            if done > last {
                (last, moved) = (done, Instant::now());
            }
            if moved.elapsed() > STALLED {
                return Err(CapacityError::Stalled {
                    stored: done,
                    sent: expected,
                    seconds: STALLED.as_secs(),
                });
            }
            sleep(SAMPLE).await;
        }
        let deadline = Instant::now() + LATE_MARKERS;
        while self.watch.has_store() && markers.open() > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Tables of the benchmark's database on disk.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn tables(&self) -> Result<Vec<TableBytes>, CapacityError> {
        self.watch.tables().await
    }
}

async fn answered(tally: &Tally) {
    let deadline = Instant::now() + ANSWERS;
    while tally.counts().in_flight > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
}

async fn consumption(watch: &Watch, parts: &[(String, Usage)]) -> Vec<Consumption> {
    let mut used = Vec::with_capacity(parts.len());
    for (_, usage) in parts {
        used.push(watch.consumption(usage).await);
    }
    used
}

/// Reads the counters for ever, and ends the run where the lag is hopeless.
async fn sample(
    (watch, counter, before): (Watch, Option<(String, &'static str)>, u64),
    tally: Arc<Tally>,
    (rate, hopeless_lag): (f64, f64),
    samples: Arc<std::sync::Mutex<Vec<Sample>>>,
) {
    let mut tick = tokio::time::interval(SAMPLE);
    loop {
        tick.tick().await;
        let stored = match &counter {
            Some(counter) => match watch.counter(counter).await {
                Ok(stored) => Some(stored.saturating_sub(before)),
                Err(_) => continue,
            },
            None => None,
        };
        let sample = {
            let counts = tally.counts();
            Sample {
                at: Instant::now(),
                scheduled: counts.scheduled,
                acknowledged: counts.acknowledged,
                done: stored.unwrap_or(counts.acknowledged),
            }
        };
        samples
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(sample);
        if sample.scheduled.saturating_sub(sample.done) as f64 > hopeless_lag * rate {
            tally.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// All that was seen of a run.
struct Seen<'a> {
    rate: f64,
    measured: (Instant, Instant),
    hopeless: bool,
    samples: Vec<Sample>,
    tally: &'a Tally,
    markers: &'a Markers,
    used: (Option<&'a [Consumption]>, &'a [Consumption]),
}

impl Seen<'_> {
    fn summary(&self, plan: &Plan, target: &Target, has_store: bool) -> Run {
        let (from, until) = self.measured;
        let seconds = until.duration_since(from).as_secs_f64();
        let counts = self.tally.counts();
        let mut queryable = histogram();
        let mut of_windows: Vec<Histogram<u64>> = (0..WINDOWS).map(|_| histogram()).collect();
        for (intended, latency) in self.markers.seen() {
            if let Some(window) = self.tally.window(intended) {
                record(&mut queryable, latency);
                record(&mut of_windows[window], latency);
            }
        }
        let of_windows = if has_store {
            &of_windows
        } else {
            &counts.windows
        };
        let windows: Vec<Window> = (0..WINDOWS)
            .map(|window| Window {
                lag_seconds: self.lag(window, plan.duration),
                p99_ms: (!of_windows[window].is_empty())
                    .then(|| of_windows[window].value_at_quantile(0.99) as f64 / 1e3),
            })
            .collect();
        let window_seconds = plan.duration.as_secs_f64() / WINDOWS as f64;
        let lags: Vec<f64> = windows.iter().filter_map(|w| w.lag_seconds).collect();
        let latencies: Option<Vec<f64>> = windows.iter().map(|w| Some(w.p99_ms? / 1e3)).collect();
        let latencies = latencies.unwrap_or_default();
        let generator_lag = Latency::of(&counts.own_lag);
        let observed = Observed {
            generator_lag: Duration::from_micros(counts.own_lag.value_at_quantile(0.99)),
            requests: counts.requests,
            refused: counts.refused.values().sum(),
            hopeless: self.hopeless,
            window_seconds,
            lag: lags.clone(),
            latency: latencies.clone(),
        };
        let rates = self.between(from, until);
        let part = |(index, (name, _)): (usize, &(String, Usage))| {
            let after = self.used.1.get(index).copied().unwrap_or_default();
            let before = self.used.0.and_then(|used| used.get(index).copied());
            let cpu =
                before.and_then(|before| Some((after.cpu_seconds? - before.cpu_seconds?).max(0.0)));
            // The first parts handle what is acknowledged, the last ones what comes through.
            let events = rates.map(|(acknowledged, done)| match name.as_str() {
                "producer" | "broker" => acknowledged,
                _ => done,
            });
            cost(
                name,
                (events.map(|rate| rate * seconds), seconds),
                cpu,
                after,
            )
        };
        Run {
            offered: self.rate,
            acknowledged: rates.map_or(0.0, |(acknowledged, _)| acknowledged),
            stored: target
                .sink_metrics
                .is_some()
                .then(|| rates.map_or(0.0, |(_, done)| done)),
            verdict: self.verdict(&plan.rule, &observed),
            generator_lag,
            requests: counts.requests,
            refused: counts.refused.clone(),
            send_to_acknowledged: Latency::of(&counts.latency),
            send_to_queryable: has_store.then(|| Latency::of(&queryable)),
            markers_not_seen: self.markers.open() as u64,
            lag: Lag {
                mean_seconds: (!lags.is_empty())
                    .then(|| lags.iter().sum::<f64>() / lags.len() as f64),
                trend: trend(&lags, window_seconds),
                latency_trend: trend(&latencies, window_seconds),
            },
            body_bytes_per_event: (counts.acknowledged > 0)
                .then(|| counts.bytes as f64 / counts.acknowledged as f64),
            cost: target.parts.iter().enumerate().map(part).collect(),
            windows,
        }
    }

    /// The rule, and what the generator's lag alone does not tell: whether anything was measured.
    fn verdict(&self, rule: &Rule, observed: &Observed) -> Verdict {
        if observed.requests == 0 && !self.hopeless {
            return Verdict::Void("no request was due in the measured time: longer runs".into());
        }
        judge(rule, observed)
    }

    /// Mean lag in a window; seconds of load.
    fn lag(&self, window: usize, duration: Duration) -> Option<f64> {
        let length = duration / WINDOWS as u32;
        let begin = self.measured.0 + length * window as u32;
        let lags: Vec<f64> = self
            .samples
            .iter()
            .filter(|sample| (begin..begin + length).contains(&sample.at))
            .map(|sample| sample.scheduled.saturating_sub(sample.done) as f64 / self.rate)
            .collect();
        (!lags.is_empty()).then(|| lags.iter().sum::<f64>() / lags.len() as f64)
    }

    /// Events per second that were acknowledged, and that came through, between two moments.
    fn between(&self, from: Instant, until: Instant) -> Option<(f64, f64)> {
        let mut inside = self
            .samples
            .iter()
            .filter(|sample| sample.at >= from && sample.at <= until);
        let first = inside.next()?;
        let last = inside.next_back()?;
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        let rate = |of: fn(&Sample) -> u64| of(last).saturating_sub(of(first)) as f64 / seconds;
        (seconds > 0.0).then(|| (rate(|s| s.acknowledged), rate(|s| s.done)))
    }
}

fn cost(
    part: &str,
    (events, seconds): (Option<f64>, f64),
    cpu_seconds: Option<f64>,
    after: Consumption,
) -> PartCost {
    // Processes count in hundredths of a second: of less nothing can be said.
    let counted = cpu_seconds.filter(|cpu| *cpu >= 0.05);
    PartCost {
        part: part.to_owned(),
        cpu_seconds,
        events_per_cpu_second: events.zip(counted).map(|(events, cpu)| events / cpu),
        cores: cpu_seconds.map(|cpu| cpu / seconds),
        peak_memory_bytes: after.peak_memory_bytes,
    }
}

/// Watches a stage drain a topic until its counter has come to `total`; from the first event on, as joining a group is
/// not what is measured.
///
/// # Errors
/// When the stage does not answer, or nothing moves.
pub async fn drain_of(
    (metrics_url, counter): (&str, &'static str),
    total: u64,
    parts: &[(String, Usage)],
    store: Option<StoreAddress>,
) -> Result<DrainReport, CapacityError> {
    let watch = Watch::new(store)?;
    let counter = (metrics_url.to_owned(), counter);
    let mut first: Option<(u64, Instant, Vec<Consumption>)> = None;
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let done = watch.counter(&counter).await?;
        let now = Instant::now();
        if done > 0 && first.is_none() {
            first = Some((done, now, consumption(&watch, parts).await));
        }
        if done > last {
            (last, moved) = (done, now);
        }
        if done >= total
            && let Some((before, began, used)) = &first
        {
            let seconds = now.duration_since(*began).as_secs_f64();
            let events = done - before;
            let after = consumption(&watch, parts).await;
            let of =
                |((name, _), (before, after)): (&(String, Usage), (&Consumption, &Consumption))| {
                    let cpu = after
                        .cpu_seconds
                        .zip(before.cpu_seconds)
                        .map(|(after, before)| (after - before).max(0.0));
                    cost(name, (Some(events as f64), seconds), cpu, *after)
                };
            return Ok(DrainReport {
                events,
                seconds,
                events_per_second: events as f64 / seconds.max(1e-3),
                cost: parts.iter().zip(used.iter().zip(&after)).map(of).collect(),
            });
        }
        if moved.elapsed() > STALLED {
            return Err(CapacityError::Stalled {
                stored: done,
                sent: total,
                seconds: STALLED.as_secs(),
            });
        }
        sleep(Duration::from_millis(50)).await;
    }
}
