//! The parts, each in a process of its own: `stages role NAME PARAMETERS`. A role says `ready`, then what its
//! caller must know, begins with the line that names the processes to watch, and reports in one line.

use std::{
    io::{BufRead as _, Write as _},
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use chatpulse_embedded::clickhouse::{ClickHouse, ClickHouseConfig};
use chatpulse_enricher::Checkpoints;
use chatpulse_kafka::{KafkaConfig, Topics};
use chatpulse_model::{
    avro::{Codec, Framing},
    fold::Horizon,
    source::Catalog,
};
use chatpulse_producer::{Environment, ProducerConfig};
use chatpulse_store::{Store, StoreConfig};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::{
    load,
    machine::{self, Mark, Measured, PARTITIONS, Parameters, Pids, window},
};

/// The role that this process is to play, if any.
pub(crate) fn of_arguments() -> Option<(String, Parameters)> {
    let mut arguments = std::env::args().skip(1);
    let is_role = arguments.next()? == "role";
    let role = arguments.next().filter(|_| is_role)?;
    Some((role, serde_json::from_str(&arguments.next()?).ok()?))
}

pub(crate) fn play(role: &str, parameters: &Parameters) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        match role {
            "store" => store(parameters).await,
            "produce" => produce(parameters).await,
            "hyper" => bare_hyper().await,
            "send" => send(parameters).await,
            "enrich" => enrich(parameters).await,
            "relay" => relay(parameters).await,
            "sink" => sink(parameters).await,
            "insert" => insert(parameters).await,
            "consume" => consume(parameters).await,
            unknown => bail!("no role {unknown}"),
        }
    })
}

fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}

/// Waits for the word to begin.
async fn begin() -> Result<Pids> {
    say("ready")?;
    tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    })
    .await?
}

fn report(measured: &Measured) -> Result<()> {
    say(&serde_json::to_string(measured)?)
}

fn kafka(parameters: &Parameters, client: &str) -> Result<KafkaConfig> {
    let (bootstrap, codec) = (
        parameters.text("bootstrap")?,
        parameters.text("compression")?,
    );
    Ok(machine::kafka(bootstrap, codec, client))
}

async fn store(parameters: &Parameters) -> Result<()> {
    let server = ClickHouse::start(ClickHouseConfig {
        data_dir: parameters.text("data")?.into(),
        listen: loopback(0),
        password: None,
        library: None,
        memory_limit_bytes: Some(2 << 30),
    })
    .await?;
    say("ready")?;
    say(&server.url())?;
    std::future::pending::<()>().await;
    server.shutdown().await?;
    Ok(())
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind(loopback(0)).await?;
    say("ready")?;
    say(&listener.local_addr()?.port().to_string())?;
    Ok(listener)
}

async fn produce(parameters: &Parameters) -> Result<()> {
    let config = ProducerConfig {
        topic: parameters.text("topic")?.to_owned(),
        tenants_file: parameters.text("tenants")?.into(),
        ..ProducerConfig::default()
    };
    let environment = Environment {
        kafka: kafka(parameters, "producer")?,
        framing: Framing::SingleObject,
        catalog: Catalog::builtin(),
        registry: Registry::new(),
    };
    let listener = listen().await?;
    chatpulse_producer::run(config, environment, Some(listener), std::future::pending()).await?;
    Ok(())
}

/// Reads the body and answers like the producer, and nothing else.
async fn bare_hyper() -> Result<()> {
    let listener = listen().await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service_fn(
            |request: hyper::Request<hyper::body::Incoming>| async move {
                let body = request.into_body().collect().await?.to_bytes();
                let answer = format!("{{\"accepted\":{},\"rejected\":[]}}", body.len());
                let response = hyper::Response::builder()
                    .status(202)
                    .header("content-type", "application/json")
                    .body(Full::new(Bytes::from(answer)));
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(response?)
            },
        );
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        // A client that goes away is no error.
        tokio::spawn(connection);
    }
}

/// Sends all requests over so many connections, each the next when the last is answered.
async fn send(parameters: &Parameters) -> Result<()> {
    let address = loopback(parameters.number("port")?);
    let events: u64 = parameters.number("events")?;
    let requests = Arc::new(load::requests(events, parameters.number("batch")?));
    let mut connections = Vec::new();
    for _ in 0..parameters.number::<usize>("connections")? {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        connections.push(stream);
    }
    let pids = begin().await?;
    let mark = Mark::now(&pids)?;
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for stream in connections {
        let (requests, next) = (Arc::clone(&requests), Arc::clone(&next));
        tasks.push(tokio::spawn(converse(stream, requests, next)));
    }
    for task in tasks {
        task.await??;
    }
    report(&mark.until_now(events)?)
}

async fn converse(
    mut stream: TcpStream,
    requests: Arc<Vec<Vec<u8>>>,
    next: Arc<AtomicUsize>,
) -> Result<()> {
    let mut buffer = Vec::with_capacity(16 * 1024);
    while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
        stream.write_all(request).await?;
        let end = loop {
            if let Some(end) = end_of_answer(&buffer)? {
                break end;
            }
            ensure!(
                stream.read_buf(&mut buffer).await? > 0,
                "the server hung up"
            );
        };
        let is_taken = buffer.starts_with(b"HTTP/1.1 202");
        ensure!(is_taken, "{}", String::from_utf8_lossy(&buffer));
        buffer.drain(..end);
    }
    Ok(())
}

/// Where the answer ends, once all of it is there.
fn end_of_answer(buffer: &[u8]) -> Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(buffer)? else {
        return Ok(None);
    };
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .context("an answer of unknown length")?;
    let length: usize = std::str::from_utf8(length.value)?.parse()?;
    Ok((buffer.len() >= head + length).then_some(head + length))
}

async fn enrich(parameters: &Parameters) -> Result<()> {
    let prefix = parameters.text("prefix")?;
    // Beside no other round's.
    let checkpoints = PathBuf::from(parameters.text("checkpoints")?).join(prefix);
    let config = chatpulse_enricher::Config {
        kafka: kafka(parameters, "enricher")?,
        topics: Topics {
            raw: parameters.text("raw")?.into(),
            ..Topics::with_prefix(prefix)
        },
        group: format!("{prefix}enricher"),
        horizon: Horizon::default(),
        catalog: Catalog::builtin(),
        linger: Duration::from_millis(5),
        checkpoints: Checkpoints::open(&checkpoints.to_string_lossy(), Duration::from_secs(60))?,
        raw: Arc::new(Codec::new(Framing::SingleObject)?),
        events: Arc::new(Codec::new(Framing::SingleObject)?),
    };
    let metrics = chatpulse_enricher::Metrics::new(&Registry::new())?;
    let events = parameters.number("events")?;
    let pids = begin().await?;
    let run = chatpulse_enricher::run(config, metrics.clone(), CancellationToken::new());
    let run = tokio::spawn(run);
    tokio::select! {
        ended = run => ended??,
        measured = window(events, &pids, || metrics.confirmed()) => report(&measured?)?,
    }
    Ok(())
}

async fn sink(parameters: &Parameters) -> Result<()> {
    let store = Store::new(&StoreConfig {
        url: parameters.text("url")?.to_owned(),
        database: parameters.text("database")?.to_owned(),
        ..StoreConfig::default()
    });
    let config = chatpulse_sink::Config {
        kafka: kafka(parameters, "sink")?,
        topics: Topics::with_prefix(parameters.text("prefix")?),
        group: parameters.text("group")?.to_owned(),
        store,
        events: Arc::new(Codec::new(Framing::SingleObject)?),
        raw: Arc::new(Codec::new(Framing::SingleObject)?),
        batch_rows: NonZeroU32::MIN.saturating_add(19_999),
        batch_wait: Duration::from_millis(400),
    };
    let metrics = chatpulse_sink::Metrics::new(&Registry::new())?;
    let events = parameters.number("events")?;
    let pids = begin().await?;
    let run = chatpulse_sink::run(config, metrics.clone(), CancellationToken::new());
    let run = tokio::spawn(run);
    tokio::select! {
        ended = run => ended??,
        measured = window(events, &pids, || metrics.stored()) => report(&measured?)?,
    }
    Ok(())
}

/// Posts what the sink has sent before: the same bytes, tokens and settings, each partition's in order.
async fn insert(parameters: &Parameters) -> Result<()> {
    let bytes = std::fs::read(parameters.text("requests")?)?;
    let mut rest = bytes.as_slice();
    let mut part = || {
        let (length, more) = rest.split_first_chunk::<8>()?;
        let (part, more) = more.split_at_checked(u64::from_le_bytes(*length) as usize)?;
        rest = more;
        Some(part.to_vec())
    };
    let (url, database) = (parameters.text("url")?, parameters.text("database")?);
    let mut partitions: Vec<Vec<_>> = vec![Vec::new(); PARTITIONS as usize];
    while let (Some(uri), Some(body)) = (part(), part()) {
        let uri =
            String::from_utf8(uri)?.replace("database=recorded", &format!("database={database}"));
        let url = reqwest::Url::parse(&format!("{url}{uri}"))?;
        let token = url
            .query_pairs()
            .find(|(name, _)| name == "insert_deduplication_token");
        let token = token.context("an insert without a token")?.1.into_owned();
        let mut parts = token.rsplit([':', '-']).map(str::parse::<u64>);
        let (Some(Ok(end)), Some(Ok(start)), Some(Ok(partition))) =
            (parts.next(), parts.next(), parts.next())
        else {
            bail!("no range in {token}");
        };
        partitions[partition as usize].push((url, Bytes::from(body), end - start));
    }
    let pids = begin().await?;
    let stored = Arc::new(AtomicU64::new(0));
    let client = reqwest::Client::new();
    let mut posting = tokio::task::JoinSet::new();
    for blocks in partitions {
        let (client, stored) = (client.clone(), Arc::clone(&stored));
        posting.spawn(async move {
            for (url, body, rows) in blocks {
                let answer = client.post(url).body(body).send().await?;
                let status = answer.status();
                let text = answer.text().await?;
                ensure!(status.is_success(), "{text}");
                stored.fetch_add(rows, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    let events = parameters.number("events")?;
    let measured = window(events, &pids, || stored.load(Ordering::Relaxed)).await?;
    while let Some(posted) = posting.join_next().await {
        posted??;
    }
    report(&measured)
}

/// Reads a topic, one thread per partition as our stages do, and drops what it reads.
async fn consume(parameters: &Parameters) -> Result<()> {
    let topic = parameters.text("topic")?.to_owned();
    let pids = begin().await?;
    let seen = Arc::new(AtomicU64::new(0));
    for partition in 0..PARTITIONS as i32 {
        let consumer = reader(parameters, (&topic, partition))?;
        let seen = Arc::clone(&seen);
        std::thread::spawn(move || {
            loop {
                if let Some(Ok(_)) = consumer.poll(Duration::from_millis(50)) {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let events = parameters.number("events")?;
    report(&window(events, &pids, || seen.load(Ordering::Relaxed)).await?)
}

/// Reads with the settings that our stages read with.
fn reader(parameters: &Parameters, (topic, partition): (&str, i32)) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", parameters.text("bootstrap")?)
        .set("socket.nagle.disable", "true")
        .set("fetch.wait.max.ms", "250")
        .set("queued.max.messages.kbytes", "8192")
        .set("queued.min.messages", "20000")
        .set("fetch.queue.backoff.ms", "20")
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    Ok(consumer)
}

/// Key and value of a record.
type Outcome = (Vec<u8>, Vec<u8>);

/// What the enricher made of each raw record, in the order of their offsets.
fn outcomes(parameters: &Parameters, partition: i32, until: u64) -> Result<Vec<Outcome>> {
    let consumer = reader(parameters, (parameters.text("outcomes")?, partition))?;
    let mut outcomes = Vec::new();
    while (outcomes.len() as u64) < until {
        match consumer.poll(Duration::from_secs(10)) {
            Some(Ok(message)) => outcomes.push((
                message.key().unwrap_or_default().to_vec(),
                message.payload().unwrap_or_default().to_vec(),
            )),
            Some(Err(error)) => return Err(error.into()),
            None => bail!("{} outcomes of {until}", outcomes.len()),
        }
    }
    Ok(outcomes)
}

/// librdkafka's consume-and-produce loop: for each raw record the outcome that the enricher made of it, known
/// before; same threads, settings and guarantees.
async fn relay(parameters: &Parameters) -> Result<()> {
    let raw = parameters.text("raw")?.to_owned();
    let mut partitions = Vec::new();
    for partition in 0..PARTITIONS as i32 {
        let consumer = reader(parameters, (&raw, partition))?;
        let (_, high) = consumer.fetch_watermarks(&raw, partition, Duration::from_secs(10))?;
        partitions.push(outcomes(parameters, partition, high as u64)?);
    }
    let delivered = Arc::new(AtomicU64::new(0));
    let producer: ThreadedProducer<Delivered> = ClientConfig::new()
        .set("bootstrap.servers", parameters.text("bootstrap")?)
        .set("socket.nagle.disable", "true")
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("enable.gapless.guarantee", "true")
        .set("message.timeout.ms", "0")
        .set("queue.buffering.max.ms", "5")
        .set("queue.buffering.max.messages", "100000")
        .set("queue.buffering.max.kbytes", "65536")
        .set("compression.type", parameters.text("compression")?)
        .create_with_context(Delivered(Arc::clone(&delivered)))?;
    let producer = Arc::new(producer);
    let pids = begin().await?;
    for (partition, outcomes) in (0..).zip(partitions) {
        let consumer = reader(parameters, (&raw, partition))?;
        let into = parameters.text("into")?.to_owned();
        let producer = Arc::clone(&producer);
        std::thread::spawn(move || relay_partition(&consumer, &producer, (&into, &outcomes)));
    }
    let events = parameters.number("events")?;
    report(&window(events, &pids, || delivered.load(Ordering::Relaxed)).await?)
}

fn relay_partition(
    consumer: &BaseConsumer,
    producer: &ThreadedProducer<Delivered>,
    (into, outcomes): (&str, &[Outcome]),
) {
    loop {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else {
            continue;
        };
        let Some((key, payload)) = outcomes.get(message.offset() as usize) else {
            continue;
        };
        let mut record = BaseRecord::to(into)
            .partition(message.partition())
            .key(key)
            .payload(payload)
            .timestamp(message.timestamp().to_millis().unwrap_or(0));
        while let Err((error, refused)) = producer.send(record) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            assert_eq!(error, full, "the broker takes all");
            std::thread::sleep(Duration::from_millis(1));
            record = refused;
        }
    }
}

/// Counts what the broker has confirmed.
struct Delivered(Arc<AtomicU64>);

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
