//! What a given load needs, from what was measured.
//!
//! With L events per second wanted, C events per second sustained by the machine measured, u the share of a machine
//! that is to be used (0.7: the rest is for peaks and for catching up after a fault), c the CPU-seconds per event of
//! a part, and R the seconds that data are kept:
//!
//! - machines = ⌈L / (u·C)⌉, each with all parts, as measured;
//! - cores of a part = L·c / u;
//! - partitions = ⌈L·c / u⌉ for the larger c of enricher and sink: each handles a partition in one thread;
//! - disk = L·R·(bytes per event), for Kafka times the copies of each partition.

use serde::Serialize;

/// Share of a machine that is to be used.
const USE: f64 = 0.7;

/// Threads with which a stage handles one partition.
pub const STAGE_THREADS_PER_PARTITION: f64 = 1.0;

/// The load that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Demand {
    /// Events per second.
    pub events_per_second: f64,
    /// How long data are kept; seconds.
    pub retention_seconds: f64,
    /// Copies of each partition in Kafka.
    pub kafka_copies: f64,
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// Events per second sustained.
    pub events_per_second: f64,
    /// CPU-seconds per event of each part; none where unknown.
    pub cpu_seconds: Vec<(String, Option<f64>)>,
    /// Bytes per event in Kafka, all topics, one copy.
    pub kafka_bytes: Option<f64>,
    /// Bytes per event in ClickHouse, all tables.
    pub clickhouse_bytes: Option<f64>,
}

/// What the load needs. What was not measured is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Projection {
    /// What was asked.
    pub demand: Demand,
    /// Machines like the one measured, with all parts on each.
    pub machines: u64,
    /// Cores of each part.
    pub cores: Vec<(String, Option<f64>)>,
    /// Partitions, at least.
    pub partitions: Option<u64>,
    /// Disk for Kafka; bytes.
    pub kafka_bytes: Option<f64>,
    /// Disk for ClickHouse; bytes.
    pub clickhouse_bytes: Option<f64>,
    /// How it was computed.
    pub formula: &'static str,
}

const FORMULA: &str = "machines = load / (0.7 x sustained rate), rounded up; cores of a part = load x its CPU-seconds \
per event / 0.7; partitions = the larger of those of enricher and sink, rounded up, as each handles a partition in one \
thread; disk = load x retention x bytes per event, for Kafka times the copies of each partition. Linear: it holds as \
far as the cost of an event does not grow with the load (see performance.md, growth).";

/// Computes what a load needs.
pub fn project(demand: Demand, measured: &Measured) -> Projection {
    let load = demand.events_per_second;
    let cores: Vec<(String, Option<f64>)> = measured
        .cpu_seconds
        .iter()
        .map(|(part, cpu)| (part.clone(), cpu.map(|cpu| load * cpu / USE)))
        .collect();
    let of = |part: &str| cores.iter().find(|(name, _)| name == part)?.1;
    let partitions = match (of("enricher"), of("sink")) {
        (Some(enricher), Some(sink)) => {
            Some(whole(enricher.max(sink) / STAGE_THREADS_PER_PARTITION))
        }
        _ => None,
    };
    let disk = |bytes: f64| load * demand.retention_seconds * bytes;
    Projection {
        demand,
        machines: whole(load / (USE * measured.events_per_second)),
        partitions,
        kafka_bytes: measured
            .kafka_bytes
            .map(|bytes| disk(bytes) * demand.kafka_copies),
        clickhouse_bytes: measured.clickhouse_bytes.map(disk),
        cores,
        formula: FORMULA,
    }
}

/// Up to the next whole number, at least 1.
fn whole(number: f64) -> u64 {
    // A product that is a whole number but for rounding stays that number.
    (number - 1e-9).ceil().max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn measured() -> Measured {
        Measured {
            events_per_second: 10_000.0,
            cpu_seconds: vec![
                ("producer".into(), Some(50e-6)),
                ("enricher".into(), Some(20e-6)),
                ("sink".into(), Some(35e-6)),
                ("broker".into(), None),
            ],
            kafka_bytes: Some(400.0),
            clickhouse_bytes: Some(100.0),
        }
    }

    fn demand(events_per_second: f64) -> Demand {
        Demand {
            events_per_second,
            retention_seconds: 86_400.0,
            kafka_copies: 3.0,
        }
    }

    #[test]
    fn a_load_by_hand() {
        let projection = project(demand(70_000.0), &measured());
        assert_eq!(projection.machines, 10);
        assert_eq!(projection.partitions, Some(4)); // 70,000 x 35 µs / 0.7 = 3.5
        assert_eq!(projection.kafka_bytes, Some(70_000.0 * 86_400.0 * 1_200.0));
        assert_eq!(
            projection.clickhouse_bytes,
            Some(70_000.0 * 86_400.0 * 100.0)
        );
        assert!((projection.cores[0].1.unwrap() - 5.0).abs() < 1e-9);
        assert_eq!(projection.cores[3].1, None, "what is unknown is not 0");
    }

    proptest! {
        #[test]
        fn more_load_never_needs_less_and_machines_are_used_at_most_as_planned(
            load in 1.0..1e6_f64,
            more in 1.0..10.0_f64,
        ) {
            let (small, large) = (project(demand(load), &measured()), project(demand(load * more), &measured()));
            prop_assert!(small.machines <= large.machines && small.partitions <= large.partitions);
            prop_assert!(small.kafka_bytes <= large.kafka_bytes);
            prop_assert!(load / small.machines as f64 <= USE * 10_000.0 * (1.0 + 1e-6));
        }
    }
}
