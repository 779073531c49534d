//! What one event costs in the pure core, step by step, on the golden payloads of all sources.
//!
//! ```text
//! golden ─ admit ─► RawEvent ─ encode ─► bytes ─ decode ─► RawEvent ─ map ─► Mapped ─ apply ─► Event ─► row
//!                                          └─ compress, a thousand of the simulator's ─► what goes over the wire
//! ```
//!
//! Every figure is the mean cost of one event: an iteration takes the next golden of its source. But for
//! compression: there it is that of a batch, and the name says what became of its size.

use std::{hint::black_box, io::Write as _, time::Duration};

use apache_avro::{
    Schema, reader::datum::GenericDatumReader, types::Value, writer::datum::GenericDatumWriter,
};
use chatpulse_model::{
    Event, RawEvent,
    avro::{Codec, Framing, Versioned},
    fold::{Horizon, PartitionFold, Position, Reading, read},
    source::{Admitted, Catalog, DEFAULT_MAX_ITEM_BYTES, Definition, Pseudonyms, Receipt},
};
use chatpulse_simulator::{FaultRates, Options, Pace, Simulator};
use chatpulse_store::EventRow;
use clickhouse::Client;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, measurement::WallTime,
};

/// Bytes before the Avro datum in single-object encoding.
const HEADER: usize = 10;
/// When the goldens are received: ten minutes after the first of them happened.
const RECEIVED_AT: i64 = 1_768_471_800_000;

const GOLDENS: [(&str, &str); 5] = [
    (
        "algomo",
        include_str!("../../schemas/sources/algomo.golden.ndjson"),
    ),
    (
        "autochat",
        include_str!("../../schemas/sources/autochat.golden.ndjson"),
    ),
    (
        "loyjoy",
        include_str!("../../schemas/sources/loyjoy.golden.ndjson"),
    ),
    (
        "userlike",
        include_str!("../../schemas/sources/userlike.golden.ndjson"),
    ),
    (
        "watermelon",
        include_str!("../../schemas/sources/watermelon.golden.ndjson"),
    ),
];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    admit(&mut criterion);
    map(&mut criterion);
    avro(&mut criterion);
    fold(&mut criterion);
    row(&mut criterion);
    compression(&mut criterion);
    criterion.final_summary();
}

/// The producer's step: parse, validate, redact.
fn admit(criterion: &mut Criterion) {
    let producer = Producer::new();
    let mut group = criterion.benchmark_group("admit");
    for (source, text) in GOLDENS {
        let bare = text.lines().map(str::to_owned).collect();
        let enveloped = text.lines().map(enveloped).collect();
        for (form, items) in [("bare", bare), ("enveloped", enveloped)] {
            let items: Vec<String> = items;
            each(&mut group, BenchmarkId::new(form, source), &items, |item| {
                producer.admit(source, item)
            });
        }
    }
}

/// The enricher's first step after decoding: neutral terms.
fn map(criterion: &mut Criterion) {
    let producer = Producer::new();
    let mut group = criterion.benchmark_group("map");
    for (source, text) in GOLDENS {
        let records = producer.raw_events(source, text);
        let definition = definition(source);
        each(
            &mut group,
            BenchmarkId::from_parameter(source),
            &records,
            |record| definition.map(record),
        );
    }
}

/// Both record types through our codec, and through apache-avro for comparison. That one cannot take
/// our types (it wants the names of Rust types and schemas to agree), so it is measured between bytes
/// and its own generic value: a lower bound of what it would cost.
fn avro(criterion: &mut Criterion) {
    let producer = Producer::new();
    let raw_events: Vec<RawEvent> = GOLDENS
        .into_iter()
        .flat_map(|(source, text)| producer.raw_events(source, text))
        .collect();
    codecs(criterion, &raw_events);
    codecs(criterion, &outcomes());
}

/// The outcome of each golden. All have the same event id: a fold of its own keeps each from being a duplicate.
fn outcomes() -> Vec<Event> {
    let producer = Producer::new();
    let outcome = |raw| PartitionFold::new(0, Horizon::default()).apply(position(0), reading(&raw));
    GOLDENS
        .into_iter()
        .flat_map(|(source, text)| producer.raw_events(source, text))
        .map(outcome)
        .collect()
}

fn codecs<T: Versioned>(criterion: &mut Criterion, records: &[T]) {
    let codec = Codec::<T>::new(Framing::SingleObject).expect("our schemas are valid");
    let newest = T::SCHEMAS.last().expect("there is a version");
    let schema = Schema::parse_str(newest).expect("our schemas are valid");
    let encode = |record: &T| codec.encode(record).expect("goldens can be written");
    let frames: Vec<Vec<u8>> = records.iter().map(encode).collect();

    let reader = GenericDatumReader::builder(&schema).build();
    let reader = reader.expect("the schema is complete");
    let writer = GenericDatumWriter::builder(&schema).build();
    let writer = writer.expect("the schema is complete");
    let generic = |frame: &Vec<u8>| reader.read_value(&mut &frame[HEADER..]);
    let values: Vec<Value> = frames
        .iter()
        .filter_map(|frame| generic(frame).ok())
        .collect();
    assert_eq!(values.len(), records.len(), "apache-avro reads all");

    let mut group = criterion.benchmark_group(format!("avro/{}", T::NAME));
    let id = |codec| BenchmarkId::new("encode", codec);
    each(&mut group, id("chatpulse"), records, encode);
    each(&mut group, id("apache-avro"), &values, |value| {
        let mut bytes = Vec::with_capacity(512);
        writer.write_value_ref(&mut bytes, value).map(|_| bytes)
    });
    let id = |codec| BenchmarkId::new("decode", codec);
    each(&mut group, id("chatpulse"), &frames, |frame| {
        codec.decode(frame)
    });
    each(&mut group, id("apache-avro"), &frames, generic);
}

/// The enricher's last step, with `open` conversations and as many event ids in memory: each record
/// is one more message in the conversation that was silent longest, and drives out the oldest id.
fn fold(criterion: &mut Criterion) {
    let (source, text) = GOLDENS[4];
    let message = text
        .lines()
        .find(|line| line.contains("widget_message_sent"))
        .expect("Watermelon's goldens hold every event");
    let raw = Producer::new().admit(source, &enveloped(message)).record;
    let Reading::Mapped(raw, mapped) = reading(&raw) else {
        panic!("a golden can be mapped");
    };
    let mut group = criterion.benchmark_group("fold");
    for open in [1_000, 100_000] {
        let next = |offset: i64| {
            let mut mapped = mapped.clone();
            mapped.event_id = format!("event-{offset}");
            mapped.conversation_id = Some(format!("conversation-{}", offset % open));
            (position(offset), Reading::Mapped(raw.clone(), mapped))
        };
        // One record per millisecond.
        let horizon = Horizon {
            dedup_ms: open,
            ..Horizon::default()
        };
        group.bench_function(BenchmarkId::new("apply", open), |bencher| {
            let mut fold = PartitionFold::new(0, horizon);
            for (position, reading) in (0..open).map(next) {
                fold.apply(position, reading);
            }
            let mut offset = open;
            bencher.iter_batched(
                || {
                    offset += 1;
                    next(offset)
                },
                |(position, reading)| fold.apply(position, reading),
                BatchSize::SmallInput,
            );
        });
    }
}

/// The sink's last step: an outcome into the body of an insert, as the clickhouse crate writes it.
fn row(criterion: &mut Criterion) {
    const ROWS: usize = 100;
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without I/O");
    let events: Vec<Event> = outcomes().into_iter().cycle().take(ROWS).collect();
    // Nothing is sent: a hundred rows stay in the client's buffer.
    let client = Client::default()
        .with_url("http://127.0.0.1:9")
        .with_validation(false);
    let open = || {
        let insert = client.insert::<EventRow<'_>>("events");
        runtime.block_on(insert).expect("opened when it is sent")
    };
    let mut group = criterion.benchmark_group("row");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("RowBinary", |bencher| {
        bencher.iter_batched(
            open,
            |mut insert| {
                runtime.block_on(async {
                    for event in &events {
                        let row = EventRow::from(event);
                        insert.write(&row).await.expect("there is room");
                    }
                });
                insert
            },
            BatchSize::SmallInput,
        );
    });
}

/// The codecs that Kafka and ClickHouse know, over a batch of raw records and one of outcomes.
fn compression(criterion: &mut Criterion) {
    let raw = Codec::<RawEvent>::new(Framing::SingleObject).expect("our schemas are valid");
    let events = Codec::<Event>::new(Framing::SingleObject).expect("our schemas are valid");
    let mut fold = PartitionFold::new(0, Horizon::default());
    let (mut raw_bytes, mut event_bytes) = (Vec::new(), Vec::new());
    for (offset, record) in (0..).zip(simulated()) {
        raw_bytes.extend(raw.encode(&record).expect("it can be written"));
        let event = fold.apply(position(offset), reading(&record));
        event_bytes.extend(events.encode(&event).expect("it can be written"));
    }
    for (name, bytes) in [("raw_event", &raw_bytes), ("event", &event_bytes)] {
        let mut group = criterion.benchmark_group(format!("compression/{name}"));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        type Compress = fn(&[u8]) -> Vec<u8>;
        let codecs: [(&str, Compress); 4] = [
            ("lz4", lz4_flex::compress),
            ("zstd-1", |bytes| zstd_at(1, bytes)),
            ("zstd-3", |bytes| zstd_at(3, bytes)),
            ("gzip-6", |bytes| {
                let level = flate2::Compression::new(6);
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).expect("into memory");
                encoder.finish().expect("into memory")
            }),
        ];
        for (codec, compress) in codecs {
            let share = 100 * compress(bytes).len() / bytes.len();
            let id = BenchmarkId::new(codec, format!("to {share} %"));
            group.bench_function(id, |bencher| bencher.iter(|| compress(black_box(bytes))));
        }
    }
}

fn zstd_at(level: i32, bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, level).expect("into memory")
}

/// A thousand raw records of ten tenants and all sources, in the order in which they come.
fn simulated() -> Vec<RawEvent> {
    let producer = Producer::new();
    Simulator::new(Options {
        seed: 1,
        events: 1_000,
        tenants: (0..10).map(|number| format!("tenant-{number}")).collect(),
        base_time_ms: RECEIVED_AT,
        pace: Pace::Historic,
        run_id: "bench".to_owned(),
        faults: FaultRates::default(),
    })
    .map(|item| producer.admit(item.source, &item.body).record)
    .collect()
}

/// Measures `step` on one input after the other, round and round.
fn each<I, O>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    inputs: &[I],
    step: impl Fn(&I) -> O,
) {
    group.bench_function(id, |bencher| {
        let mut inputs = inputs.iter().cycle();
        bencher.iter(|| inputs.next().map(|input| step(black_box(input))));
    });
}

/// One tenant's producer.
struct Producer {
    pseudonyms: Pseudonyms,
}

impl Producer {
    fn new() -> Self {
        let salt = b"a salt for benches only";
        Self {
            pseudonyms: Pseudonyms::new(salt).expect("long enough"),
        }
    }

    fn admit(&self, source: &str, item: &str) -> Admitted {
        let receipt = Receipt {
            tenant: "acme",
            write_key_id: "web",
            received_at: RECEIVED_AT,
            pseudonyms: &self.pseudonyms,
            max_item_bytes: DEFAULT_MAX_ITEM_BYTES,
        };
        definition(source).admit(item.as_bytes(), &receipt)
    }

    fn raw_events(&self, source: &str, text: &str) -> Vec<RawEvent> {
        text.lines()
            .map(|line| self.admit(source, &enveloped(line)).record)
            .collect()
    }
}

fn definition(source: &str) -> &'static Definition {
    Catalog::builtin().get(source).expect("a built-in source")
}

/// A golden as the page snippet sends it.
fn enveloped(native: &str) -> String {
    let occurred_at = RECEIVED_AT - 60_000;
    format!(
        r#"{{"native":{native},"context":{{"event_id":"1f0c4c2e-7d0b-4f0e-9a55-2b7d8a3f6c11","session_id":"5b0d8f3a-91c4-4a55-8d4e-0f6f1f0c9d27","sequence":7,"occurred_at":{occurred_at},"page_url":"https://shop.example.com/cart?user=Jane","sdk":"chatpulse.js/1.0"}}}}"#
    )
}

fn reading(raw: &RawEvent) -> Reading {
    let codec = Codec::new(Framing::SingleObject).expect("our schemas are valid");
    let bytes = codec.encode(raw).expect("goldens can be written");
    read(&bytes, &codec, Catalog::builtin())
}

fn position(offset: i64) -> Position {
    Position {
        offset,
        timestamp_ms: RECEIVED_AT + offset,
    }
}
