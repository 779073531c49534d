//! How records are framed: by schema fingerprint, or, where a schema registry is configured, in the
//! Confluent wire format under the ids that the registry gives.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use chatpulse_kafka::Topics;
use chatpulse_model::{
    Delivery, Event, RawEvent,
    avro::{Codec, Framing, Versioned},
};
use schema_registry_converter::{
    async_impl::schema_registry::{SrSettings, post_schema},
    schema_registry_common::{SchemaType, SuppliedSchema},
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// The codecs of the topics that others may read.
pub(crate) struct Wire {
    pub(crate) raw_framing: Framing,
    pub(crate) raw: Arc<Codec<RawEvent>>,
    pub(crate) events: Arc<Codec<Event>>,
    pub(crate) deliveries_framing: Framing,
    pub(crate) deliveries: Arc<Codec<Delivery>>,
}

impl Wire {
    /// Registers every schema version under `<topic>-value`, so that all versions can be read and
    /// the newest is written; without a registry there is nothing to agree on.
    pub(crate) async fn agree(registry: Option<&str>, topics: &Topics) -> anyhow::Result<Self> {
        let Some(url) = registry else {
            return Ok(Self {
                raw_framing: Framing::SingleObject,
                raw: Arc::new(Codec::new(Framing::SingleObject)?),
                events: Arc::new(Codec::new(Framing::SingleObject)?),
                deliveries_framing: Framing::SingleObject,
                deliveries: Arc::new(Codec::new(Framing::SingleObject)?),
            });
        };
        let settings = SrSettings::new_builder(url.to_owned())
            .set_timeout(TIMEOUT)
            .build()
            .map_err(|error| anyhow!("kafka.schema_registry {url}: {error}"))?;
        let (raw_framing, raw) = registered(&settings, &topics.raw).await?;
        let (_, events) = registered(&settings, &topics.events).await?;
        let (deliveries_framing, deliveries) = registered(&settings, &topics.deliveries).await?;
        Ok(Self {
            raw_framing,
            deliveries_framing,
            deliveries: Arc::new(deliveries),
            raw: Arc::new(raw),
            events: Arc::new(events),
        })
    }
}

async fn registered<T: Versioned>(
    settings: &SrSettings,
    topic: &str,
) -> anyhow::Result<(Framing, Codec<T>)> {
    let subject = format!("{topic}-value");
    let mut ids = Vec::new();
    for schema in T::SCHEMAS {
        let supplied = SuppliedSchema::new(None, SchemaType::Avro, (*schema).to_owned());
        let registered = post_schema(settings, subject.clone(), supplied)
            .await
            .map_err(|error| anyhow!("the schema registry did not take {subject}: {error}"))?;
        ids.push((registered.id, *schema));
    }
    let &(schema_id, _) = ids
        .last()
        .context("a record type has at least one schema")?;
    let framing = Framing::Confluent { schema_id };
    let mut codec = Codec::new(framing)?;
    for (id, schema) in ids {
        codec.learn(id, schema)?;
    }
    Ok((framing, codec))
}
