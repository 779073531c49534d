//! The hot paths, each over the same 500 events of all five vendors.
//!
//! ```text
//! body ─ split ─► item ─ admit ─► RawEvent ─ encode ─► bytes
//!                 bytes ─ decode ─► RawEvent ─ map, fold ─► Event ─ encode ─► bytes
//!                                   bytes ─ decode ─► Event ─ row ─► RowBinary
//! ```

use std::hint::black_box;

use anyhow::{Context as _, Result};
use chatpulse_model::{
    Event, RawEvent,
    avro::{Codec, Framing},
    fold::{Horizon, PartitionFold, Position, Reading, read},
    source::{Catalog, DEFAULT_MAX_ITEM_BYTES, Definition, Pseudonyms, Receipt},
};
use chatpulse_simulator::{FaultRates, Item, Options, Pace, Simulator};
use chatpulse_store::EventRow;
use clickhouse::Client;

/// The producer's own file: as a dependency it would bring the HTTP server and librdkafka along.
#[path = "../../../crates/producer/src/split.rs"]
mod split;

const EVENTS: u64 = 500;
/// 2026-01-15; an input like the others.
const NOW_MS: i64 = 1_768_471_800_000;

/// One hot path: what it is called, and how it is made ready. What that gives is measured.
type Path = (&'static str, fn() -> Result<Work>);
type Work = Box<dyn FnMut()>;

/// Every path that is guarded.
pub(crate) const PATHS: [Path; 9] = [
    ("split", split_bodies),
    ("admit", admit),
    ("encode_raw", encode_raw),
    ("decode_raw", decode_raw),
    ("map", map),
    ("fold", fold),
    ("encode_event", encode_event),
    ("decode_event", decode_event),
    ("row", row),
];

/// Runs a path twice, and lets callgrind count the second time alone: what is made at first use is there
/// by then. Gives the number of events.
pub(crate) fn run(name: &str) -> Result<u64> {
    let path = PATHS.iter().find(|(path, _)| *path == name);
    let (_, prepare) = path.with_context(|| format!("no path {name}"))?;
    prepare()?();
    let mut work = prepare()?;
    counted_by_callgrind(&mut work);
    Ok(EVENTS)
}

/// Callgrind counts from here to its return, found by this name.
#[inline(never)]
fn counted_by_callgrind(work: &mut Work) {
    work();
}

fn items() -> Vec<Item> {
    Simulator::new(Options {
        seed: 1,
        events: EVENTS,
        tenants: vec!["acme".to_owned()],
        base_time_ms: NOW_MS,
        pace: Pace::Historic,
        run_id: "guard".to_owned(),
        faults: FaultRates::default(),
    })
    .collect()
}

fn definition(item: &Item) -> Result<&'static Definition> {
    let definition = Catalog::builtin().get(item.source);
    definition.with_context(|| format!("no source {}", item.source))
}

fn pseudonyms() -> Result<Pseudonyms> {
    Ok(Pseudonyms::new(b"a salt for benches only")?)
}

fn receipt(pseudonyms: &Pseudonyms) -> Receipt<'_> {
    Receipt {
        tenant: "acme",
        write_key_id: "web",
        received_at: NOW_MS,
        pseudonyms,
        max_item_bytes: DEFAULT_MAX_ITEM_BYTES,
    }
}

fn raw_events() -> Result<Vec<RawEvent>> {
    let pseudonyms = pseudonyms()?;
    let receipt = receipt(&pseudonyms);
    let admit = |item: &Item| {
        let admitted = definition(item)?.admit(item.body.as_bytes(), &receipt);
        Ok(admitted.record)
    };
    items().iter().map(admit).collect()
}

fn raw_frames() -> Result<Vec<Vec<u8>>> {
    let codec = Codec::<RawEvent>::new(Framing::SingleObject)?;
    let encode = |record: &RawEvent| Ok(codec.encode(record)?);
    raw_events()?.iter().map(encode).collect()
}

fn readings() -> Result<Vec<Reading>> {
    let codec = Codec::<RawEvent>::new(Framing::SingleObject)?;
    let read = |frame: &Vec<u8>| read(frame, &codec, Catalog::builtin());
    Ok(raw_frames()?.iter().map(read).collect())
}

fn new_fold() -> PartitionFold {
    PartitionFold::new(0, Horizon::default())
}

fn position(offset: i64) -> Position {
    Position {
        offset,
        timestamp_ms: NOW_MS + offset,
    }
}

fn events() -> Result<Vec<Event>> {
    let mut fold = new_fold();
    let apply = |(offset, reading)| fold.apply(position(offset), reading);
    Ok((0..).zip(readings()?).map(apply).collect())
}

fn split_bodies() -> Result<Work> {
    let items = items();
    let bodies = |separator: &str, (before, after): (&str, &str)| -> Vec<String> {
        let join = |batch: &[Item]| {
            let texts: Vec<&str> = batch.iter().map(|item| item.body.as_str()).collect();
            format!("{before}{}{after}", texts.join(separator))
        };
        items.chunks(50).map(join).collect()
    };
    let (arrays, lines) = (bodies(",", ("[", "]")), bodies("\n", ("", "")));
    Ok(Box::new(move || {
        for (bodies, layout) in [
            (&arrays, split::Layout::Json),
            (&lines, split::Layout::Lines),
            (&lines, split::Layout::ByContent),
        ] {
            for body in bodies {
                drop(black_box(split::split(body.as_bytes(), layout, 10_000)));
            }
        }
    }))
}

fn admit() -> Result<Work> {
    let mut inputs = Vec::new();
    for item in items() {
        inputs.push((definition(&item)?, item.body));
    }
    let pseudonyms = pseudonyms()?;
    Ok(Box::new(move || {
        let receipt = receipt(&pseudonyms);
        for (definition, body) in &inputs {
            drop(black_box(definition.admit(body.as_bytes(), &receipt)));
        }
    }))
}

fn encode_raw() -> Result<Work> {
    let codec = Codec::new(Framing::SingleObject)?;
    let records = raw_events()?;
    Ok(Box::new(move || {
        for record in &records {
            drop(black_box(codec.encode(record)));
        }
    }))
}

fn decode_raw() -> Result<Work> {
    let codec = Codec::<RawEvent>::new(Framing::SingleObject)?;
    let frames = raw_frames()?;
    Ok(Box::new(move || {
        for frame in &frames {
            drop(black_box(codec.decode(frame)));
        }
    }))
}

fn map() -> Result<Work> {
    let items = items();
    let mut inputs = Vec::new();
    for (item, record) in items.iter().zip(raw_events()?) {
        inputs.push((definition(item)?, record));
    }
    Ok(Box::new(move || {
        for (definition, record) in &inputs {
            drop(black_box(definition.map(record)));
        }
    }))
}

fn fold() -> Result<Work> {
    let mut readings = readings()?;
    Ok(Box::new(move || {
        let mut fold = new_fold();
        for (offset, reading) in (0..).zip(readings.drain(..)) {
            drop(black_box(fold.apply(position(offset), reading)));
        }
    }))
}

fn encode_event() -> Result<Work> {
    let codec = Codec::new(Framing::SingleObject)?;
    let events = events()?;
    Ok(Box::new(move || {
        for event in &events {
            drop(black_box(codec.encode(event)));
        }
    }))
}

fn decode_event() -> Result<Work> {
    let codec = Codec::<Event>::new(Framing::SingleObject)?;
    let encode = |event: &Event| Ok(codec.encode(event)?);
    let frames: Vec<Vec<u8>> = events()?.iter().map(encode).collect::<Result<_>>()?;
    Ok(Box::new(move || {
        for frame in &frames {
            drop(black_box(codec.decode(frame)));
        }
    }))
}

/// Into the client's buffer, which is never sent.
fn row() -> Result<Work> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let events = events()?;
    let client = Client::default()
        .with_url("http://127.0.0.1:9")
        .with_validation(false);
    let mut insert = runtime.block_on(client.insert::<EventRow<'_>>("events"))?;
    Ok(Box::new(move || {
        runtime.block_on(async {
            for event in &events {
                // As with all of these: that it works is what the tests show.
                drop(black_box(insert.write(&EventRow::from(event)).await));
            }
        });
    }))
}
