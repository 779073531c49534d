//! `chatpulse bench record-mix`: a tenant's mix of events, from counts in ClickHouse. No content and no id is read.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use chatpulse_capacity::{Mix, MixEvent, place};
use chatpulse_model::source::{Catalog, Definition};
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{options::duration, site::store_address};
use crate::{config::Config, output, stages::Stages};

/// `chatpulse bench record-mix`
#[derive(Debug, Args)]
#[command(
    about = "Prints a tenant's mix of events, for bench capacity --mix",
    long_about = "Prints a tenant's mix of events, for bench capacity --mix: how often each documented event came, how long \
conversations are, the shares of duplicates and refused items. It holds no content, no id and not the tenant's name.",
    after_help = "Example:
  chatpulse bench record-mix --tenant acme --since 7d > mix.json
  chatpulse bench capacity --mix mix.json"
)]
pub(super) struct RecordMixArgs {
    /// Tenant.
    #[arg(long)]
    tenant: String,
    /// How far back.
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = duration)]
    since: Duration,
}

/// A line of the answer.
#[derive(Debug, Deserialize)]
struct Row {
    source: String,
    name: String,
    rejected: u64,
    duplicate: u64,
    accepted: u64,
    /// Characters of the kept properties in the mean.
    size: f64,
    /// Share that names a conversation.
    in_conversation: f64,
}

/// The name that stands for all undocumented ones: a stranger has chosen those.
const UNDOCUMENTED: &str = "bench_undocumented";
/// Longest text that a template is filled with.
const LONGEST: usize = 4_096;

pub(super) async fn run(config: Config, args: RecordMixArgs) -> anyhow::Result<bool> {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    ensure!(
        args.tenant.bytes().all(named),
        "{:?} is no id of a tenant: a-z, 0-9, - and _",
        args.tenant
    );
    let stages = Stages::new(config).await?;
    let address = store_address(&stages.config.clickhouse);
    let sql = format!(
        "SELECT source, if(documented, source_event, '') AS name, \
         countIf(outcome = 'rejected') AS rejected, countIf(outcome = 'duplicate') AS duplicate, \
         countIf(outcome = 'accepted') AS accepted, \
         avg(arraySum(value -> length(value), mapValues(properties))) AS size, \
         countIf(conversation_id IS NOT NULL) / count() AS in_conversation \
         FROM events WHERE tenant = '{}' AND received_at >= now64() - toIntervalSecond({}) \
         GROUP BY source, name ORDER BY source, name \
         SETTINGS output_format_json_quote_64bit_integers = 0 FORMAT JSONEachRow",
        args.tenant,
        args.since.as_secs()
    );
    let text = address.query(&sql).await?;
    let rows: Vec<Row> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("ClickHouse answers something else than rows")?;
    let sql = format!(
        "SELECT greatest(1, ifNotFinite(count() / uniqExact(source, conversation_id), 1)) FROM events \
         WHERE tenant = '{}' AND received_at >= now64() - toIntervalSecond({}) \
         AND outcome = 'accepted' AND conversation_id IS NOT NULL FORMAT TSV",
        args.tenant,
        args.since.as_secs()
    );
    let events_per_conversation = address.query(&sql).await?.trim().parse()?;
    let mix = mix(&rows, events_per_conversation, stages.catalog);
    ensure!(
        !mix.events.is_empty(),
        "no accepted event of tenant {:?} came in that time",
        args.tenant
    );
    output::result(&serde_json::to_string_pretty(&mix)?);
    Ok(true)
}

fn mix(rows: &[Row], events_per_conversation: f64, catalog: &Catalog) -> Mix {
    let events: Vec<MixEvent> = rows
        .iter()
        .filter(|row| row.accepted > 0)
        .filter_map(|row| {
            let definition = catalog.get(&row.source)?;
            let name = match row.name.is_empty() {
                true => UNDOCUMENTED,
                false => &row.name,
            };
            Some(MixEvent {
                source: row.source.clone(),
                name: name.to_owned(),
                count: row.accepted,
                template: template(definition, (name, row.in_conversation >= 0.5), row.size),
            })
        })
        .collect();
    let sum = |of: fn(&Row) -> u64| rows.iter().map(of).sum::<u64>() as f64;
    let (accepted, duplicate) = (sum(|row| row.accepted), sum(|row| row.duplicate));
    let rejected = sum(|row| row.rejected);
    let share = |part: f64| (part / (accepted + duplicate + rejected).max(1.0)).min(0.9);
    Mix {
        format: Mix::FORMAT,
        events_per_conversation,
        duplicates: share(duplicate),
        rejected: share(rejected),
        events,
    }
}

/// An item of the event: what the source definition says that a payload has, filled with places for what is fresh, and
/// a text of the recorded size.
fn template(definition: &Definition, (name, in_conversation): (&str, bool), size: f64) -> String {
    let places = definition.places();
    let mut native = Map::new();
    for (part, path) in &places {
        let value = match *part {
            "name" => json!(name),
            "time" => json!(place::TIME_MS),
            "event_id" => json!(place::EVENT_ID),
            "conversation_id" if in_conversation => json!(place::CONVERSATION_ID),
            "session_id" | "visitor" => json!(place::SESSION_ID),
            "widget_id" => json!("bench-widget"),
            "platform" => json!("web"),
            "language" => json!("en"),
            "reported_total" => json!(1),
            _ => continue,
        };
        put(&mut native, path, value);
    }
    let free = |wanted: &str| {
        let fields = definition.fields().iter();
        fields
            .filter(|(path, treatment)| {
                treatment.as_str() == wanted && !places.values().any(|place| place == *path)
            })
            .map(|(path, _)| path.clone())
            .next()
    };
    if size >= 1.0
        && let Some(path) = free("text").or_else(|| free("keep"))
    {
        let length = (size as usize).min(LONGEST);
        let words = "lorem ipsum dolor ".chars().cycle().take(length);
        put(&mut native, &path, json!(words.collect::<String>()));
    }
    // What recognises the vendor has to be there.
    for path in definition.required() {
        if !has(&native, &path) {
            put(&mut native, &path, json!({}));
        }
    }
    json!({
        "native": native,
        "context": {
            "event_id": place::EVENT_ID,
            "session_id": place::SESSION_ID,
            "sequence": place::SEQUENCE,
            "page_url": "https://www.example.com/",
        },
    })
    .to_string()
}

fn put(object: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            object.insert(path.to_owned(), value);
        }
        Some((key, rest)) => {
            let inner = object.entry(key).or_insert_with(|| json!({}));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

fn has(object: &Map<String, Value>, path: &str) -> bool {
    match path.split_once('.') {
        None => object.contains_key(path),
        Some((key, rest)) => object
            .get(key)
            .and_then(Value::as_object)
            .is_some_and(|inner| has(inner, rest)),
    }
}

#[cfg(test)]
mod tests {
    use chatpulse_model::source::{Pseudonyms, Receipt};

    use super::*;

    fn row(source: &str, name: &str) -> Row {
        Row {
            source: source.into(),
            name: name.into(),
            rejected: 1,
            duplicate: 2,
            accepted: 97,
            size: 40.0,
            in_conversation: 1.0,
        }
    }

    /// With every place filled, each template of every source is taken, and means the event that it is of.
    #[test]
    fn every_documented_event_has_a_template_that_is_accepted() {
        let pseudonyms = Pseudonyms::new(&[7; 32]).unwrap();
        let receipt = Receipt {
            tenant: "t",
            write_key_id: "k",
            received_at: 1_795_000_000_000,
            pseudonyms: &pseudonyms,
            max_item_bytes: 64 * 1024,
        };
        for definition in Catalog::builtin().iter() {
            for name in definition.events().keys() {
                let mix = mix(&[row(definition.name(), name)], 8.0, Catalog::builtin());
                let text = mix.events[0]
                    .template
                    .replace("\"{{time_ms}}\"", "1794999999000")
                    .replace("\"{{sequence}}\"", "3");
                let raw = definition.admit(text.as_bytes(), &receipt).record;
                let mapped = definition.map(&raw);
                let mapped = mapped.unwrap_or_else(|fault| panic!("{name}: {fault:?}: {text}"));
                assert_eq!(&mapped.source_event, name);
                assert!(mapped.documented, "{name}");
                assert!(mapped.conversation_id.is_some(), "{name}: {text}");
            }
        }
    }

    #[test]
    fn a_mix_has_the_shares_that_were_counted_and_can_be_read_again() {
        let rows = [row("watermelon", "widget_opened"), row("watermelon", "")];
        let mix = mix(&rows, 19.4, Catalog::builtin());
        assert!((mix.duplicates - 0.02).abs() < 1e-9 && (mix.rejected - 0.01).abs() < 1e-9);
        assert!((mix.events_per_conversation - 19.4).abs() < 1e-9);
        assert_eq!(mix.events[1].name, UNDOCUMENTED);
        let text = serde_json::to_string(&mix).unwrap();
        assert_eq!(Mix::parse(&text).unwrap().events.len(), 2);
    }
}
