//! What the producer counts. Labels are bounded: tenants and sources are only ever known ones,
//! reasons and statuses come from closed lists.

use chatpulse_model::RejectReason;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
};

use crate::intake::Refused;

pub(crate) struct Metrics {
    pub(crate) requests: IntCounterVec,
    items: IntCounterVec,
    pub(crate) sent_bytes: IntCounter,
    pub(crate) decoded_bytes: IntCounter,
    pub(crate) confirm_seconds: Histogram,
    pub(crate) in_flight: IntGauge,
    pub(crate) tenants: IntGauge,
    pub(crate) reloads: IntCounterVec,
    pub(crate) over_share: IntCounterVec,
    pub(crate) displaced: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        fn put<C: Collector + Clone + 'static>(
            registry: &Registry,
            metric: prometheus::Result<C>,
        ) -> prometheus::Result<C> {
            let metric = metric?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        }
        let name = |name: &str, help: &str| {
            Opts::new(format!("chatpulse_producer_{name}"), help.to_owned())
        };
        let opts = name("requests_total", "Requests answered, by status.");
        let requests = put(registry, IntCounterVec::new(opts, &["status"]))?;
        let opts = name(
            "items_total",
            "Items confirmed by the broker; outcome is accepted or rejected, with the reason.",
        );
        let labels = ["tenant", "source", "outcome", "reason"];
        let items = put(registry, IntCounterVec::new(opts, &labels))?;
        let opts = name("body_sent_bytes_total", "Bytes of bodies as sent.");
        let sent_bytes = put(registry, IntCounter::with_opts(opts))?;
        let opts = name(
            "body_decoded_bytes_total",
            "Bytes of bodies after decompression.",
        );
        let decoded_bytes = put(registry, IntCounter::with_opts(opts))?;
        let opts = HistogramOpts::from(name(
            "confirm_seconds",
            "Time from the hand-over of a batch to the broker's confirmation, or to giving up.",
        ))
        .buckets(vec![
            0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
        ]);
        let confirm_seconds = put(registry, Histogram::with_opts(opts))?;
        let opts = name("requests_in_flight", "Event requests being served.");
        let in_flight = put(registry, IntGauge::with_opts(opts))?;
        let opts = name("tenants", "Tenants in force.");
        let tenants = put(registry, IntGauge::with_opts(opts))?;
        let opts = name(
            "tenants_reloads_total",
            "Changes of the tenants file seen; result is applied, or refused for a broken file.",
        );
        let reloads = put(registry, IntCounterVec::new(opts, &["result"]))?;
        let opts = name(
            "over_share_total",
            "Requests refused because their tenant held its share; of is requests, bytes or records.",
        );
        let over_share = put(registry, IntCounterVec::new(opts, &["tenant", "of"]))?;
        let opts = name(
            "connections_displaced_total",
            "Connections without a request being served, closed because a new one needed the place.",
        );
        let displaced = put(registry, IntCounter::with_opts(opts))?;
        Ok(Self {
            requests,
            items,
            sent_bytes,
            decoded_bytes,
            confirm_seconds,
            in_flight,
            tenants,
            reloads,
            over_share,
            displaced,
        })
    }

    /// Counts the items of a confirmed batch: one step per reason, not per item.
    pub(crate) fn count(
        &self,
        (tenant, source): (&str, &str),
        accepted: usize,
        refused: &[Refused],
    ) {
        let add = |outcome: &str, reason: &str, items: usize| {
            if items > 0 {
                let labels = [tenant, source, outcome, reason];
                self.items.with_label_values(&labels).inc_by(items as u64);
            }
        };
        add("accepted", "", accepted);
        if !refused.is_empty() {
            for reason in RejectReason::ALL {
                let items = refused.iter().filter(|item| item.reason == *reason).count();
                add("rejected", reason.as_str(), items);
            }
        }
    }
}
