//! Whether one bad destination slows the others: 1,000 of them, of which one hangs and one fails.
//!
//! ```text
//! events, 100 a second ─► broker ─► deliverer ─► 1,000 destinations, 500 requests a second and more
//!                                                    └─ from written to received, of those that are well
//! a round: all are well │ one hangs, one answers 500     topics, group and deliverer anew for each
//! ```
//!
//! `cargo bench -p chatpulse-benches --bench isolation [-- ROUNDS]`, 5 by default. Broker, deliverer and
//! receivers share the machine and the process, so times are upper bounds; what counts is the ratio, which
//! is taken within each round, so that what else goes on meets both alike.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt::Display,
    io::Write as _,
    num::NonZeroU32,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chatpulse_deliverer::{
    Config, DISABLE_AFTER, Metrics, breaker::BreakerSettings, destination::load, guard::Guard,
    http::Client, schedule::Schedule,
};
use chatpulse_embedded::broker::{Broker, BrokerConfig};
use chatpulse_kafka::{
    Admin, KafkaConfig, PartitionReader, Publisher, PublisherSettings, Record, TopicPartition,
    Topics,
};
use chatpulse_model::{
    Event, EventType,
    avro::{Codec, Framing},
};
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const TENANTS: usize = 10;
const DESTINATIONS: usize = 100;
const PARTITIONS: u32 = 4;
/// Each destination wants one of these, but for the two that turn bad, which want all.
const TYPES: [EventType; 20] = [
    EventType::WidgetDisplayed,
    EventType::WidgetLoaded,
    EventType::WidgetOpened,
    EventType::WidgetClosed,
    EventType::ConversationRequested,
    EventType::ConversationStarted,
    EventType::ConversationResumed,
    EventType::ConversationEnded,
    EventType::ConversationDeleted,
    EventType::MessageSent,
    EventType::AgentTyping,
    EventType::HandoffRequested,
    EventType::AgentJoined,
    EventType::AgentLeft,
    EventType::BotResumed,
    EventType::LinkClicked,
    EventType::ConsentAsked,
    EventType::ContactSubmitted,
    EventType::LeadQualified,
    EventType::GoalMet,
];
const PER_SECOND: u64 = 100;
/// As `chatpulse serve` has it. The embedded broker takes tens of milliseconds for a request, and must not be
/// what is measured.
const LINGER: Duration = Duration::from_millis(25);
/// The destinations of the first tenant that turn bad.
const HANGING: usize = 0;
const FAILING: usize = 1;

/// How much is done.
#[derive(Clone, Copy)]
struct Scale {
    rounds: usize,
    warm_up: Duration,
    measured: Duration,
}

/// What a round came to.
struct Round {
    well: Latencies,
    ill: Latencies,
}

/// Latencies of destinations that are well, in order.
struct Latencies(Vec<Duration>);

impl Latencies {
    fn percentile(&self, percent: usize) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0
            .get(last * percent / 100)
            .copied()
            .unwrap_or_default()
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = arguments.iter().find_map(|argument| argument.parse().ok());
    // Without `--bench` (as `cargo test --benches` runs it) it only has to work.
    let scale = match arguments.iter().any(|argument| argument == "--bench") {
        true => Scale {
            rounds: asked.unwrap_or(5),
            warm_up: Duration::from_secs(5),
            measured: Duration::from_secs(20),
        },
        false => Scale {
            rounds: 1,
            warm_up: Duration::from_secs(1),
            measured: Duration::from_secs(2),
        },
    };
    tokio::runtime::Runtime::new()?.block_on(run(scale))
}

async fn run(scale: Scale) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(BrokerConfig {
        data_dir: folder.path().join("kafka"),
        listen: "127.0.0.1:0".parse()?,
    })
    .await?;
    let kafka = KafkaConfig::new(broker.bootstrap(), "isolation");
    let receiver = Receiver::start().await?;
    say("destinations", TENANTS * DESTINATIONS)?;
    say("events per second", PER_SECOND)?;
    let mut rounds = Vec::new();
    for number in 0..scale.rounds {
        // In turns, so that a drift of the machine favours neither.
        let first_is_ill = number % 2 == 1;
        let mut measured = BTreeMap::new();
        for is_ill in [first_is_ill, !first_is_ill] {
            let name = format!("round{number}{}", if is_ill { "ill" } else { "well" });
            let latencies =
                phase(&kafka, &receiver, (&name, is_ill), (folder.path(), scale)).await?;
            measured.insert(is_ill, latencies);
        }
        let (Some(well), Some(ill)) = (measured.remove(&false), measured.remove(&true)) else {
            continue;
        };
        say(
            &format!("round {}", number + 1),
            format_args!(
                "p50 {:.2?} and {:.2?}, p99 {:.2?} and {:.2?}: {:.3}",
                well.percentile(50),
                ill.percentile(50),
                well.percentile(99),
                ill.percentile(99),
                ratio(&well, &ill),
            ),
        )?;
        rounds.push(Round { well, ill });
    }
    let all = |of: fn(&Round) -> &Latencies| {
        let mut all: Vec<Duration> = rounds
            .iter()
            .flat_map(|round| of(round).0.clone())
            .collect();
        all.sort_unstable();
        Latencies(all)
    };
    let (well, ill) = (all(|round| &round.well), all(|round| &round.ill));
    let mut ratios: Vec<f64> = rounds
        .iter()
        .map(|round| ratio(&round.well, &round.ill))
        .collect();
    ratios.sort_by(f64::total_cmp);
    say(
        "deliveries measured",
        format_args!("{} and {}", well.0.len(), ill.0.len()),
    )?;
    say(
        "p99, all are well",
        format_args!("{:.2?}", well.percentile(99)),
    )?;
    say(
        "p99, one hangs and one fails",
        format_args!("{:.2?}", ill.percentile(99)),
    )?;
    say("ratio of all", format_args!("{:.3}", ratio(&well, &ill)))?;
    say(
        "median of the rounds' ratios",
        format_args!("{:.3}", ratios[ratios.len() / 2]),
    )?;
    broker.shutdown().await?;
    Ok(())
}

fn ratio(well: &Latencies, ill: &Latencies) -> f64 {
    ill.percentile(99).as_secs_f64() / well.percentile(99).as_secs_f64()
}

/// Delivers for a while, with all destinations well or two of them ill.
async fn phase(
    kafka: &KafkaConfig,
    receiver: &Receiver,
    (name, is_ill): (&str, bool),
    (folder, scale): (&Path, Scale),
) -> Result<Latencies> {
    let topics = Topics::with_prefix(&format!("{name}."));
    let one = NonZeroU32::MIN;
    let partitions = NonZeroU32::new(PARTITIONS).unwrap_or(one);
    let schedule = Schedule::default();
    let mut specs = topics.specs(partitions, one);
    specs.extend(topics.delivery_specs(partitions, one, schedule.steps()));
    Admin::new(kafka)?.ensure_topics(&specs).await?;
    receiver.is_ill.store(is_ill, Ordering::SeqCst);
    let tenants = folder.join("tenants.toml");
    configure(folder, &tenants, receiver.port)?;
    let config = Config {
        kafka: kafka.clone(),
        topics: topics.clone(),
        group: format!("{name}.deliverer"),
        destinations: tokio::sync::watch::channel(load(&tenants)?).1,
        client: Client::new(Guard::new(vec!["127.0.0.1/32".parse()?]), &[])?,
        schedule,
        breaker: BreakerSettings::default(),
        disable_after: DISABLE_AFTER,
        linger: LINGER,
        events: Arc::new(Codec::new(Framing::SingleObject)?),
        framing: Framing::SingleObject,
    };
    let stop = CancellationToken::new();
    let metrics = Metrics::new(&Registry::new())?;
    let deliverer = tokio::spawn(chatpulse_deliverer::run(config, metrics, stop.clone()));
    let begun = wait_for_cursors(kafka, &topics).await;
    if deliverer.is_finished() {
        // Why it does not begin.
        deliverer.await??;
        return Err("the deliverer ended".into());
    }
    begun?;

    let settings = PublisherSettings {
        linger: LINGER,
        ..PublisherSettings::default()
    };
    let publisher = Publisher::new(kafka, &settings)?;
    let codec = Codec::<Event>::new(Framing::SingleObject)?;
    let mut written = [0_i64; PARTITIONS as usize];
    let mut ticks = tokio::time::interval(Duration::from_nanos(1_000_000_000 / PER_SECOND));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let begin = Instant::now();
    let mut number: u64 = 0;
    let mut on_their_way = Vec::new();
    while begin.elapsed() < scale.warm_up + scale.measured {
        ticks.tick().await;
        let partition = (number % u64::from(PARTITIONS)) as usize;
        let now = receiver.now_us();
        // Those of the warm-up carry no time.
        let sent = if begin.elapsed() < scale.warm_up {
            0
        } else {
            now
        };
        let event = event(number, sent, (partition as i32, written[partition]))?;
        written[partition] += 1;
        let record = Record {
            partition: Some(partition as i32),
            payload: codec.encode(&event)?,
            ..Record::default()
        };
        on_their_way.push(publisher.publish(&topics.events, vec![record]));
        number += 1;
    }
    for publication in on_their_way {
        for outcome in publication.await {
            outcome?;
        }
    }
    // What is on its way.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.cancel();
    deliverer.await??;
    Ok(receiver.take())
}

async fn wait_for_cursors(kafka: &KafkaConfig, topics: &Topics) -> Result<()> {
    for partition in 0..PARTITIONS as i32 {
        let of = TopicPartition::new(topics.cursors.clone(), partition);
        let kafka = kafka.clone();
        tokio::task::spawn_blocking(move || -> Result<()> {
            let reader = PartitionReader::new(&kafka, of)?;
            let deadline = Instant::now() + Duration::from_secs(60);
            while reader.watermarks()?.high == 0 {
                if Instant::now() > deadline {
                    return Err("the deliverer does not begin".into());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        })
        .await??;
    }
    Ok(())
}

fn configure(folder: &Path, tenants: &Path, port: u16) -> Result<()> {
    let key = folder.join("key");
    std::fs::write(&key, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
    let mut text = String::new();
    for tenant in 0..TENANTS {
        text.push_str(&format!("[[tenant]]\nid = \"t{tenant}\"\n"));
        for number in 0..DESTINATIONS {
            text.push_str(&format!(
                "[[tenant.destinations]]\nid = \"d{number}\"\nkind = \"webhook\"\nallow_http = true\n\
                 url = \"http://127.0.0.1:{port}/{tenant}/{number}\"\nsecrets = [{{ file = {key:?} }}]\n"
            ));
            if tenant != 0 || number > FAILING {
                let of = TYPES[number % TYPES.len()].as_str();
                text.push_str(&format!("event_types = [\"{of}\"]\n"));
            }
        }
    }
    std::fs::write(tenants, text)?;
    Ok(())
}

/// Tenants and types in turns. Its id says when it was written.
fn event(number: u64, sent_us: i64, (partition, offset): (i32, i64)) -> Result<Event> {
    let tenant = number as usize % TENANTS;
    let event_type = TYPES[number as usize / TENANTS % TYPES.len()];
    let now = jiff::Timestamp::now().as_millisecond();
    Ok(serde_json::from_value(serde_json::json!({
        "partition": partition, "offset": offset, "outcome": "accepted", "tenant": format!("t{tenant}"),
        "source": "autochat", "write_key_id": "web", "source_event": "x",
        "event_type": event_type.as_str(), "actor": "system", "documented": true,
        "event_id": format!("sent-{sent_us}-{number}"), "occurred_at": now, "time_basis": "native",
        "received_at": now, "conversation_id": "c-1", "session_id": "s-1", "properties": {}
    }))?)
}

/// Every destination in one listener, told apart by path.
struct Receiver {
    port: u16,
    begin: Instant,
    is_ill: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Duration>>>,
}

impl Receiver {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let receiver = Self {
            port: listener.local_addr()?.port(),
            begin: Instant::now(),
            is_ill: Arc::default(),
            seen: Arc::default(),
        };
        let (begin, is_ill) = (receiver.begin, Arc::clone(&receiver.is_ill));
        let seen = Arc::clone(&receiver.seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = (Arc::clone(&is_ill), Arc::clone(&seen));
                tokio::spawn(async move {
                    // The other side may go at any time.
                    let _ = serve(stream, begin, shared).await;
                });
            }
        });
        Ok(receiver)
    }

    fn now_us(&self) -> i64 {
        i64::try_from(self.begin.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    fn take(&self) -> Latencies {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = std::mem::take(&mut *seen);
        taken.sort_unstable();
        Latencies(taken)
    }
}

type Shared = (Arc<AtomicBool>, Arc<Mutex<Vec<Duration>>>);

async fn serve(
    mut stream: TcpStream,
    begin: Instant,
    (is_ill, seen): Shared,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4_096);
    loop {
        let end = loop {
            if let Some(end) = complete(&buffer) {
                break end;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end);
        let path = text.split(' ').nth(1).unwrap_or_default();
        let is_bad = [HANGING, FAILING].map(|number| path == format!("/0/{number}"));
        if is_ill.load(Ordering::Relaxed) {
            if is_bad[0] {
                std::future::pending::<()>().await;
            }
            if is_bad[1] {
                stream
                    .write_all(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")
                    .await?;
                continue;
            }
        }
        let sent = text
            .split("\"sent-")
            .nth(1)
            .and_then(|rest| rest.split('-').next())
            .and_then(|digits| digits.parse::<u64>().ok())
            .unwrap_or(0);
        if sent > 0 && is_bad == [false; 2] {
            let latency = begin.elapsed().saturating_sub(Duration::from_micros(sent));
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(latency);
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await?;
    }
}

/// Where a request ends, once all of it is there.
fn complete(buffer: &[u8]) -> Option<usize> {
    let head = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&buffer[..head]).to_lowercase();
    let length = text
        .split("content-length:")
        .nth(1)
        .and_then(|rest| rest.split("\r\n").next())
        .and_then(|digits| digits.trim().parse::<usize>().ok())
        .unwrap_or(0);
    (buffer.len() >= head + length).then_some(head + length)
}

fn say(what: &str, value: impl Display) -> Result<()> {
    writeln!(std::io::stdout(), "{what:<32}{value}")?;
    Ok(())
}
