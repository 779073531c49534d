//! A report for people: one line for each run, and a page of text.

use std::fmt::Write as _;

use crate::{
    projection::Projection,
    report::{Bytes, DrainReport, Latency, PartCost, Report, Run, Sustainable},
    search::Ceiling,
    verdict::Verdict,
};

/// Groups of three digits.
pub(crate) fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// With a unit of 1,024 or a power of it.
pub(crate) fn bytes(value: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{value:.0} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// Milliseconds below 10 s, seconds above.
pub(crate) fn millis(value: Option<f64>) -> String {
    match value {
        None => "n/a".into(),
        Some(ms) if ms < 10.0 => format!("{ms:.1} ms"),
        Some(ms) if ms < 10_000.0 => format!("{} ms", count(ms)),
        Some(ms) => format!("{:.1} s", ms / 1e3),
    }
}

pub(crate) fn or_na(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "n/a".into(), show)
}

pub(crate) fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Sustained => "sustained".into(),
        Verdict::NotSustained(why) => format!("not sustained: {}", why.join("; ")),
        Verdict::Void(why) => format!("VOID: {why}"),
    }
}

/// The line that tells of a run while the benchmark goes on.
pub(crate) fn line(number: usize, run: &Run) -> String {
    let latency = run.send_to_queryable.unwrap_or(run.send_to_acknowledged);
    format!(
        "run {number}: {}/s offered, {}/s acknowledged{}; p99 {}; {}",
        count(run.offered),
        count(run.acknowledged),
        run.stored.map_or_else(String::new, |stored| format!(
            ", {}/s stored",
            count(stored)
        )),
        millis(latency.p99_ms),
        verdict(&run.verdict)
    )
}

pub(crate) fn headline(sustainable: &Sustainable) -> String {
    let Some(rate) = sustainable.events_per_second else {
        return "No rate was sustained.".into();
    };
    let above = sustainable.not_sustained.map(count).unwrap_or_default();
    let ceiling = match sustainable.ceiling {
        Ceiling::System => format!("{above}/s was not sustained"),
        Ceiling::Generator => format!(
            "at least: at {above}/s the generator fell behind, so the system may carry more"
        ),
        Ceiling::None => "at least: no higher rate was tried".into(),
    };
    let confirmed = match sustainable.confirmed {
        Some(false) => {
            ". NOT CONFIRMED: a later run at a part of it was not sustained, or says nothing"
        }
        _ => "",
    };
    format!(
        "Highest sustainable rate: {} events/s ({ceiling}){confirmed}.",
        count(rate)
    )
}

/// The summary on standard output.
pub fn summary(report: &Report) -> String {
    let mut text = String::new();
    if let Some(partial) = &report.partial {
        let _ = writeln!(text, "PARTIAL RESULT: {partial}\n");
    }
    if let Some(sustainable) = &report.sustainable {
        let _ = writeln!(text, "{}", headline(sustainable));
    }
    if let Some(drain) = &report.drain {
        let _ = writeln!(text, "{}", drained(&report.measured, drain));
    }
    let _ = writeln!(
        text,
        "{}; {}; {} cores; {}; up to {} events per request, {} tenants, {} partitions\n",
        report.measured,
        report.engines,
        or_na(report.machine.cores.map(|cores| cores as f64), count),
        report.load.mix,
        report.load.batch,
        report.load.tenants,
        report.load.partitions,
    );
    if !report.levels.is_empty() {
        let _ = writeln!(
            text,
            "{:>6} {:>12} {:>38}   {:>38}",
            "load", "events/s", "send to acknowledged p50 / p99 / p99.9", "send to queryable"
        );
        for level in &report.levels {
            let run = &level.run;
            let queryable = run
                .send_to_queryable
                .as_ref()
                .map_or_else(|| "n/a".into(), percentiles);
            let note = match run.verdict {
                Verdict::Sustained => String::new(),
                _ => format!("  ({})", verdict(&run.verdict)),
            };
            let _ = writeln!(
                text,
                "{:>5}% {:>12} {:>38}   {:>38}{note}",
                level.percent,
                count(run.offered),
                percentiles(&run.send_to_acknowledged),
                queryable,
            );
        }
        text.push('\n');
    }
    costs(&mut text, &report.cost);
    sizes(&mut text, &report.bytes);
    if let Some(projection) = &report.projection {
        projected(&mut text, projection);
    }
    for note in &report.notes {
        let _ = writeln!(text, "- {note}");
    }
    text
}

pub(crate) fn drained(measured: &str, drain: &DrainReport) -> String {
    format!(
        "The {measured} drained {} events in {:.1} s: {} events/s.",
        count(drain.events as f64),
        drain.seconds,
        count(drain.events_per_second)
    )
}

fn percentiles(latency: &Latency) -> String {
    format!(
        "{} / {} / {}",
        millis(latency.p50_ms),
        millis(latency.p99_ms),
        millis(latency.p999_ms)
    )
}

fn costs(text: &mut String, cost: &[PartCost]) {
    if cost.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "{:<12} {:>20} {:>8} {:>14}",
        "part", "events/CPU-second", "cores", "peak memory"
    );
    for part in cost {
        let _ = writeln!(
            text,
            "{:<12} {:>20} {:>8} {:>14}",
            part.part,
            or_na(part.events_per_cpu_second, count),
            or_na(part.cores, |cores| format!("{cores:.2}")),
            or_na(part.peak_memory_bytes.map(|peak| peak as f64), bytes),
        );
    }
    text.push('\n');
}

fn sizes(text: &mut String, sizes: &Bytes) {
    let show = |value| or_na(value, |value: f64| format!("{value:.0}"));
    let _ = writeln!(
        text,
        "bytes per event: {} on the wire; {} in chat.raw, {} in chat.events{}; {} in ClickHouse\n",
        show(sizes.wire),
        show(sizes.kafka_raw),
        show(sizes.kafka_events),
        sizes.kafka_disk.map_or_else(String::new, |disk| format!(
            " ({disk:.0} in the embedded broker's files)"
        )),
        show(sizes.clickhouse),
    );
}

fn projected(text: &mut String, projection: &Projection) {
    let demand = &projection.demand;
    let _ = writeln!(
        text,
        "For {} events/s kept {:.0} days, at 70 % use: {} machines like this one with all parts; {} partitions; \
         {} of disk for Kafka ({:.0} copies), {} for ClickHouse",
        count(demand.events_per_second),
        demand.retention_seconds / 86_400.0,
        projection.machines,
        or_na(projection.partitions.map(|n| n as f64), count),
        or_na(projection.kafka_bytes, bytes),
        demand.kafka_copies,
        or_na(projection.clickhouse_bytes, bytes),
    );
    let cores: Vec<String> = projection
        .cores
        .iter()
        .map(|(part, cores)| format!("{part} {}", or_na(*cores, |cores| format!("{cores:.1}"))))
        .collect();
    let _ = writeln!(text, "  cores: {}", cores.join(", "));
    let _ = writeln!(text, "  {}\n", projection.formula);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_sizes_have_units() {
        assert_eq!(
            [count(0.0), count(999.0), count(1_234_567.0)],
            ["0", "999", "1,234,567"]
        );
        assert_eq!([bytes(12.0), bytes(1_536.0)], ["12 B", "1.5 KiB"]);
        assert_eq!(millis(None), "n/a");
        assert_eq!(millis(Some(12_345.0)), "12.3 s");
    }

    #[test]
    fn a_result_that_the_generator_ended_is_never_said_to_be_the_highest_rate_of_the_system() {
        let text = headline(&Sustainable {
            events_per_second: Some(8_000.0),
            not_sustained: Some(16_000.0),
            ceiling: Ceiling::Generator,
            confirmed: None,
        });
        assert!(
            text.contains("at least") && text.contains("may carry more"),
            "{text}"
        );
    }
}
