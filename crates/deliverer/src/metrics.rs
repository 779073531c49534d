use chatpulse_model::{DeliveryResult, FailureClass};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// What a deliverer counts. Labels are bounded: results, classes of failure, partitions. Numbers by
/// destination are in ClickHouse.
#[derive(Clone, Debug)]
pub struct Metrics {
    turns: IntCounterVec,
    postponed: IntCounter,
    disabled: IntGauge,
    behind: IntGaugeVec,
    undecodable: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Where one of them is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let turns = IntCounterVec::new(
            Opts::new(
                "chatpulse_deliverer_turns_total",
                "Turns of deliveries recorded, by result and class of failure.",
            ),
            &["result", "failure"],
        )?;
        // Shown as 0 from the start: a counter that is absent cannot be told from a stage that is.
        turns.with_label_values(&[DeliveryResult::Delivered.as_str(), ""]);
        let postponed = IntCounter::new(
            "chatpulse_deliverer_postponed_total",
            "Turns put off because their destination had no room.",
        )?;
        let disabled = IntGauge::new(
            "chatpulse_deliverer_disabled_destinations",
            "Destinations that are disabled after 410 or days of failure.",
        )?;
        let behind = IntGaugeVec::new(
            Opts::new(
                "chatpulse_deliverer_destinations_behind",
                "Destinations that read a partition by themselves, because they had no room.",
            ),
            &["partition"],
        )?;
        let undecodable = IntCounter::new(
            "chatpulse_deliverer_undecodable_total",
            "Records that are no outcomes or waiting deliveries, and were passed over.",
        )?;
        registry.register(Box::new(turns.clone()))?;
        registry.register(Box::new(postponed.clone()))?;
        registry.register(Box::new(disabled.clone()))?;
        registry.register(Box::new(behind.clone()))?;
        registry.register(Box::new(undecodable.clone()))?;
        Ok(Self {
            turns,
            postponed,
            disabled,
            behind,
            undecodable,
        })
    }

    /// Turns recorded with this result.
    pub fn turns(&self, result: DeliveryResult) -> u64 {
        let of_class = |class: &str| {
            let labels = [result.as_str(), class];
            self.turns.with_label_values(&labels).get()
        };
        of_class("")
            + FailureClass::ALL
                .iter()
                .map(|class| of_class(class.as_str()))
                .sum::<u64>()
    }

    pub(crate) fn turn(&self, result: DeliveryResult, failure: Option<FailureClass>) {
        let class = failure.map_or("", FailureClass::as_str);
        self.turns
            .with_label_values(&[result.as_str(), class])
            .inc();
    }

    pub(crate) fn postponed(&self) {
        self.postponed.inc();
    }

    pub(crate) fn disabled(&self, count: usize) {
        self.disabled.set(count as i64);
    }

    pub(crate) fn behind(&self, partition: &str, count: usize) {
        self.behind
            .with_label_values(&[partition])
            .set(count as i64);
    }

    pub(crate) fn undecodable(&self) {
        self.undecodable.inc();
    }
}
