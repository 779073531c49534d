//! The deliverer: `chat.events` → the destinations of each tenant → `chat.deliveries`, one record per attempt.
//!
//! ```text
//! chat.events[p] ──► feed ──► lane of each destination ──► request ──► chat.deliveries
//!      ▲               │          ▲   own queue, own limits, own breaker     │ failed
//!      └─ cursors ◄────┘          │                                          ▼
//!                                 └──────────── waiting ◄──────────── chat.retries.1 … N
//! ```
//!
//! Nothing that counts is in memory alone. What a destination has not been handed yet stands in
//! `chat.events` above its cursor; what it was handed and has not answered is below no cursor; what failed
//! stands in the retry topic of its step until it is due. A crash repeats turns and forgets none:
//! deliveries are made at least once, under an id that stays the same.
//!
//! [`destination`] says what can be configured, [`request`] what is sent, [`guard`] where to.

pub mod breaker;
mod consent;
pub mod destination;
mod error;
pub mod failure;
mod feed;
pub mod guard;
pub mod http;
mod lane;
mod metrics;
mod progress;
mod recorder;
pub mod request;
mod run;
pub mod schedule;
pub mod secret;
mod trial;
mod turn;
mod waiting;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use breaker::BreakerSettings;
use chatpulse_kafka::{
    Admin, Delivery, GroupConfig, KafkaConfig, KafkaError, Publisher, PublisherSettings, Topics,
    run_group, supervise,
};
use chatpulse_model::{
    Event,
    avro::{Codec, Framing},
};
use destination::Destination;
use http::Client;
use schedule::Schedule;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use error::{DelivererError, PartitionError};
pub use metrics::Metrics;
pub use trial::send_test;

/// What a deliverer needs to know.
#[derive(Clone)]
pub struct Config {
    /// The brokers.
    pub kafka: KafkaConfig,
    /// The topics.
    pub topics: Topics,
    /// Consumer group; all deliverers of an installation share it.
    pub group: String,
    /// Where events go, always as it is configured now; the same on every deliverer.
    pub destinations: watch::Receiver<Vec<Destination>>,
    /// Makes the requests.
    pub client: Client,
    /// The pauses between the turns of a delivery; the same on every deliverer, and with as many steps as
    /// there are retry topics.
    pub schedule: Schedule,
    /// When a destination is left alone for a while.
    pub breaker: BreakerSettings,
    /// How long a destination may fail before it is disabled.
    pub disable_after: Duration,
    /// How long records wait for company on their way to the broker.
    pub linger: Duration,
    /// Reads outcomes.
    pub events: Arc<Codec<Event>>,
    /// How records of `chat.deliveries` are framed.
    pub framing: Framing,
}

/// Five days, as the Standard Webhooks specification suggests.
pub const DISABLE_AFTER: Duration = Duration::from_secs(5 * 24 * 60 * 60);

/// How long a deposed or stopping partition may take to let go: longer than it waits for turns under way and
/// its last cursors.
const PATIENCE: Duration = Duration::from_secs(40);

/// Delivers until `shutdown`; passing failures are retried.
///
/// # Errors
/// A failure that does not pass by itself: wrong settings, a topic that is missing, a record too large.
pub async fn run(
    config: Config,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), DelivererError> {
    let group = || async {
        let stop = shutdown.child_token();
        // Lanes end with the group.
        let _stop_when_over = stop.clone().drop_guard();
        let settings = PublisherSettings {
            linger: config.linger,
            delivery: Delivery::Gapless,
            ..Default::default()
        };
        let publisher = Publisher::new(&config.kafka, &settings)?;
        let lanes_stop = CancellationToken::new();
        let _lanes_end = lanes_stop.clone().drop_guard();
        let run = start((&config, &metrics), publisher, lanes_stop).map_err(|error| {
            KafkaError::Client {
                reason: error.to_string(),
            }
        })?;
        let steps = config.schedule.steps();
        let retries = (1..=steps).map(|step| config.topics.retries(step).to_string());
        let group = GroupConfig {
            kafka: config.kafka.clone(),
            group: config.group.clone(),
            topics: std::iter::once(config.topics.events.to_string())
                .chain(retries)
                .collect(),
            patience: PATIENCE,
        };
        let partitions = Admin::new(&config.kafka)?
            .partition_count(&config.topics.deliveries)
            .await?
            .ok_or_else(|| KafkaError::UnknownTopic {
                topic: config.topics.deliveries.to_string(),
            })?;
        let mut destinations = config.destinations.clone();
        run.configure(&destinations.borrow_and_update());
        let states = {
            let run = Arc::clone(&run);
            tokio::task::spawn_blocking(move || {
                run.load_recorded(partitions)?;
                run.load_states()
            })
        };
        let reader = match states.await {
            Ok(Ok(reader)) => reader,
            Ok(Err(PartitionError::Kafka(error))) => return Err(error.into()),
            Ok(Err(PartitionError::Publish(_) | PartitionError::Encode(_))) | Err(_) => {
                return Err(KafkaError::Client {
                    reason: "what is remembered of destinations cannot be read".to_owned(),
                }
                .into());
            }
        };
        let follower = {
            let run = Arc::clone(&run);
            tokio::task::spawn_blocking(move || run.follow_states(reader))
        };
        let reload = {
            let run = Arc::clone(&run);
            async move {
                while destinations.changed().await.is_ok() {
                    let now = destinations.borrow_and_update().clone();
                    run.configure(&now);
                    run.say().await;
                    tracing::info!(
                        destinations = now.len(),
                        "the destinations changed and are in force"
                    );
                }
                // Nobody will ever change them.
                std::future::pending::<Infallible>().await
            }
        };
        let events = Arc::clone(&config.topics.events);
        let task = {
            let run = Arc::clone(&run);
            move |input: chatpulse_kafka::Partition| match input.id().topic == events {
                true => feed::deliver(input, &run),
                false => waiting::deliver(input, &run),
            }
        };
        let outcome = tokio::select! {
            outcome = run_group(group, task, stop) => outcome,
            never = reload => match never {},
        };
        run.shared.stop.cancel();
        if let Err(error) = follower.await {
            tracing::warn!(%error, "the reader of states ended badly");
        }
        outcome
    };
    supervise(group, &shutdown)
        .await
        .map_err(DelivererError::from)
}

fn start(
    (config, metrics): (&Config, &Metrics),
    publisher: Publisher,
    stop: CancellationToken,
) -> Result<Arc<run::Run>, DelivererError> {
    let codecs = recorder::Codecs {
        deliveries: Codec::new(config.framing)?,
        retries: Codec::new(Framing::SingleObject)?,
        destinations: Codec::new(Framing::SingleObject)?,
    };
    let recorder =
        recorder::Recorder::new(publisher, config.topics.clone(), (codecs, metrics.clone()));
    let shared = lane::Shared {
        client: config.client.clone(),
        recorder,
        schedule: config.schedule.clone(),
        breaker: config.breaker,
        disable_after: config.disable_after,
        consents: Mutex::default(),
        stop,
    };
    let codecs = (
        Codec::new(Framing::SingleObject)?,
        Codec::new(Framing::SingleObject)?,
    );
    let config = (config.clone(), metrics.clone());
    Ok(Arc::new(run::Run::start(config, Arc::new(shared), codecs)))
}
