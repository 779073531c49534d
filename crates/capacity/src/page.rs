//! The report as one HTML page that needs nothing else: no script, no font, no request.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    plot::{Mark, Plot, Series},
    projection::Projection,
    report::{Latency, Level, PartCost, Report, Run},
    text::{bytes, count, drained, headline, millis, or_na, verdict},
    verdict::Verdict,
};

const STYLE: &str = include_str!("page.css");

/// The page of a report.
pub fn html(report: &Report) -> String {
    page(report).into_string()
}

fn page(report: &Report) -> Markup {
    let load = &report.load;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { "chatpulse capacity: " (report.measured) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { "Capacity: " (report.measured) }
                    p.quiet {
                        "chatpulse " (report.version) ", " (report.started_at) ", " (report.engines) ", "
                        (report.machine.processor.as_deref().unwrap_or("unknown processor")) ", "
                        (or_na(report.machine.cores.map(|cores| cores as f64), count)) " cores, "
                        (or_na(report.machine.memory_bytes.map(|size| size as f64), bytes)) " of memory, "
                        (report.machine.system)
                    }
                    @if let Some(partial) = &report.partial { p.warning { "Partial result: " (partial) "." } }
                    @if let Some(sustainable) = &report.sustainable { p.headline { (headline(sustainable)) } }
                    @if let Some(drain) = &report.drain { p.headline { (drained(&report.measured, drain)) } }
                    p {
                        "Load: " (load.mix) ", up to " (load.batch) " events per request, " (load.tenants) " tenants, "
                        (load.partitions) " partitions. Each run discards " (load.warm_up_seconds) " s and measures "
                        (load.run_seconds) " s. All latencies count from the time at which the schedule wanted the request sent."
                    }
                    @if !report.levels.is_empty() { (levels(report)) }
                    @if !report.cost.is_empty() { (costs(&report.cost)) }
                    (sizes(report))
                    @if let Some(projection) = &report.projection { (projected(projection)) }
                    @if !report.runs.is_empty() { (runs(report)) }
                    @if !report.notes.is_empty() {
                        h2 { "Notes" }
                        ul.notes { @for note in &report.notes { li { (note) } } }
                    }
                }
            }
        }
    }
}

/// Each percentile of the levels as a line over the load.
fn percentiles<'a>(levels: &[Level], of: impl Fn(&Run) -> Option<&Latency>) -> Vec<Series<'a>> {
    type Pick = fn(&Latency) -> Option<f64>;
    let lines: [(&str, &str, Pick); 3] = [
        ("p50", "a", |latency| latency.p50_ms),
        ("p99", "b", |latency| latency.p99_ms),
        ("p99.9", "c", |latency| latency.p999_ms),
    ];
    let point =
        |level: &Level, pick: Pick| Some((level.run.offered, of(&level.run).and_then(pick)?));
    lines
        .into_iter()
        .map(|(name, tone, pick)| Series {
            name: name.into(),
            tone,
            mark: Mark::Line,
            points: levels
                .iter()
                .filter_map(|level| point(level, pick))
                .collect(),
        })
        .filter(|series| !series.points.is_empty())
        .collect()
}

fn levels(report: &Report) -> Markup {
    let plot = |title, series| {
        Plot {
            title,
            x: "events per second offered",
            y: "milliseconds",
            series,
        }
        .draw()
    };
    let queryable = percentiles(&report.levels, |run| run.send_to_queryable.as_ref());
    let acknowledged = percentiles(&report.levels, |run| Some(&run.send_to_acknowledged));
    html! {
        h2 { "Latency below the sustainable rate" }
        p {
            "Send → queryable ends when the answer of a query to ClickHouse holds the event. ClickHouse is asked every "
            (report.load.poll_ms) " ms: a value is at most so much too high, and never too low."
        }
        @if !queryable.is_empty() { (plot("Send → queryable", queryable)) }
        @if !acknowledged.is_empty() { (plot("Send → acknowledged", acknowledged)) }
        div.scroll { table {
            thead {
                tr {
                    th.n { "Load" } th.n { "Events/s" }
                    th.n { "Acknowledged p50" } th.n { "p99" } th.n { "p99.9" }
                    th.n { "Queryable p50" } th.n { "p99" } th.n { "p99.9" } th.n { "Followed" } th { "Verdict" }
                }
            }
            tbody { @for level in &report.levels {
                @let run = &level.run;
                @let queryable = run.send_to_queryable.unwrap_or_default();
                tr {
                    td.n { (level.percent) " %" } td.n { (count(run.offered)) }
                    (cells(&run.send_to_acknowledged)) (cells(&queryable))
                    td.n { (count(queryable.n as f64)) } td.(tone(&run.verdict)) { (verdict(&run.verdict)) }
                }
            } }
        } }
        p.quiet { "n/a: fewer than 100 values for p99, than 1,000 for p99.9, or not measured." }
    }
}

fn cells(latency: &Latency) -> Markup {
    html! { @for value in [latency.p50_ms, latency.p99_ms, latency.p999_ms] { td.n { (millis(value)) } } }
}

fn costs(cost: &[PartCost]) -> Markup {
    html! {
        h2 { "What an event costs" }
        p { "At the highest rate sustained. CPU time is user and system time; peak memory is since the start of the process." }
        div.scroll { table {
            thead { tr { th { "Part" } th.n { "Events per CPU-second" } th.n { "CPU per event" } th.n { "Cores" } th.n { "Peak memory" } } }
            tbody { @for part in cost { tr {
                td { (part.part) }
                td.n { (or_na(part.events_per_cpu_second, count)) }
                td.n { (or_na(part.events_per_cpu_second, |events| format!("{:.1} µs", 1e6 / events))) }
                td.n { (or_na(part.cores, |cores| format!("{cores:.2}"))) }
                td.n { (or_na(part.peak_memory_bytes.map(|peak| peak as f64), bytes)) }
            } } }
        } }
    }
}

fn sizes(report: &Report) -> Markup {
    let sizes = &report.bytes;
    let rows = [
        ("HTTP bodies, without headers", sizes.wire),
        ("chat.raw, compressed batches, one copy", sizes.kafka_raw),
        ("chat.events, the same", sizes.kafka_events),
        ("Files of the embedded broker", sizes.kafka_disk),
        (
            "ClickHouse, all tables, one copy; merges go on and lower it",
            sizes.clickhouse,
        ),
    ];
    let total: u64 = sizes.tables.iter().map(|table| table.bytes).sum();
    html! {
        h2 { "Bytes per event" }
        div.scroll { table { tbody { @for (name, value) in rows { tr {
            td { (name) } td.n { (or_na(value, |value| format!("{value:.0}"))) }
        } } } } }
        @if !sizes.tables.is_empty() {
            p { "Tables of ClickHouse:" }
            div.scroll { table {
                thead { tr { th { "Table" } th.n { "Rows" } th.n { "On disk" } th.n { "Share" } } }
                tbody { @for table in sizes.tables.iter().filter(|table| table.rows > 0) { tr {
                    td { (table.table) } td.n { (count(table.rows as f64)) } td.n { (bytes(table.bytes as f64)) }
                    td.n { (format!("{:.1} %", table.bytes as f64 / total.max(1) as f64 * 100.0)) }
                } } }
            } }
        }
    }
}

fn projected(projection: &Projection) -> Markup {
    let demand = &projection.demand;
    html! {
        h2 { "For " (count(demand.events_per_second)) " events/s, kept " (format!("{:.0}", demand.retention_seconds / 86_400.0)) " days" }
        div.scroll { table { tbody {
            tr { td { "Machines like this one, with all parts on each" } td.n { (count(projection.machines as f64)) } }
            tr { td { "Partitions, at least" } td.n { (or_na(projection.partitions.map(|n| n as f64), count)) } }
            tr { td { "Disk for Kafka, " (demand.kafka_copies) " copies" } td.n { (or_na(projection.kafka_bytes, bytes)) } }
            tr { td { "Disk for ClickHouse" } td.n { (or_na(projection.clickhouse_bytes, bytes)) } }
            @for (part, cores) in &projection.cores {
                tr { td { "Cores: " (part) } td.n { (or_na(*cores, |cores| format!("{cores:.1}"))) } }
            }
        } } }
        p.quiet { (projection.formula) }
    }
}

fn tone(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Sustained => "good",
        Verdict::NotSustained(_) => "bad",
        Verdict::Void(_) => "void",
    }
}

fn runs(report: &Report) -> Markup {
    let of = |name: &str, mark, wanted: &'static str| Series {
        name: name.into(),
        tone: wanted,
        mark,
        points: report
            .runs
            .iter()
            .enumerate()
            .filter(|(_, run)| tone(&run.verdict) == wanted)
            .map(|(number, run)| (number as f64 + 1.0, run.offered))
            .collect(),
    };
    let search = Plot {
        title: "The search",
        x: "run",
        y: "events per second offered",
        series: vec![
            of("sustained", Mark::Dot, "good"),
            of("not sustained", Mark::Cross, "bad"),
            of("void", Mark::Cross, "void"),
        ],
    };
    let window = report.load.run_seconds / 10.0;
    let lag = |run: &Run, tone| Series {
        name: format!("{}/s, {}", count(run.offered), tone_name(&run.verdict)),
        tone,
        mark: Mark::Line,
        points: run
            .windows
            .iter()
            .enumerate()
            .filter_map(|(number, w)| Some(((number as f64 + 0.5) * window, w.lag_seconds?)))
            .collect(),
    };
    let by_rate = |a: &&Run, b: &&Run| a.offered.total_cmp(&b.offered);
    let with = |tone_wanted: &'static str| {
        let runs = report.runs.iter();
        runs.filter(move |run| tone(&run.verdict) == tone_wanted)
    };
    let bounds = [
        with("good").max_by(by_rate).map(|run| lag(run, "good")),
        with("bad").min_by(by_rate).map(|run| lag(run, "bad")),
    ];
    let lags = Plot {
        title: "Lag at the highest rate sustained and the lowest that was not",
        x: "seconds after the warm-up",
        y: "seconds of load",
        series: bounds.into_iter().flatten().collect(),
    };
    html! {
        h2 { "How the rate was found" }
        p {
            "A rate is sustained when lag and p99 latency do not grow over the run: by the slope of Theil and Sen at most "
            (report.rule.growth) " s per second, or not more than chance by the test of Mann and Kendall (one-sided, 5 %). "
            "A run in which the generator itself fell behind (p99 of its own lag above "
            (format!("{:.0}", report.rule.generator_lag_seconds * 1e3)) " ms) is void and never a result."
        }
        (search.draw())
        (lags.draw())
        div.scroll { table {
            thead { tr {
                th.n { "Run" } th.n { "Offered/s" } th.n { "Acknowledged/s" } th.n { "Stored/s" } th.n { "Lag growth" }
                th.n { "p99" } th.n { "Generator lag p99" } th { "Verdict" }
            } }
            tbody { @for (number, run) in report.runs.iter().enumerate() {
                @let latency = run.send_to_queryable.unwrap_or(run.send_to_acknowledged);
                tr {
                    td.n { (number + 1) } td.n { (count(run.offered)) } td.n { (count(run.acknowledged)) }
                    td.n { (or_na(run.stored, count)) }
                    td.n { (or_na(run.lag.trend.map(|trend| trend.slope_per_second), |slope| format!("{slope:+.3} s/s"))) }
                    td.n { (millis(latency.p99_ms)) } td.n { (millis(run.generator_lag.p99_ms)) }
                    td.(tone(&run.verdict)) { (verdict(&run.verdict)) }
                }
            } }
        } }
    }
}

fn tone_name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Sustained => "sustained",
        Verdict::NotSustained(_) => "not sustained",
        Verdict::Void(_) => "void",
    }
}
