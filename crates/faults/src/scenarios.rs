//! The faults, in one table, and how each is made while events flow.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use chatpulse_faults::proxy::{
    http::{self, Form},
    tcp::Mode,
};
use rand::{
    Rng as _,
    seq::{IndexedRandom as _, SliceRandom as _},
};
use rand_chacha::ChaCha8Rng;

use crate::{
    process::Signal,
    site::{Ground, SESSION, Site},
    stage::{Kind, Stage},
};

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// For `--only`.
    pub(crate) name: &'static str,
    /// What happens, for the report.
    pub(crate) title: &'static str,
    pub(crate) ground: Ground,
    pub(crate) fault: Fault,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// kill -9 of one instance of each of these stages at once, at random moments of its work.
    Kill(&'static [Kind]),
    /// SIGSTOP until another has its partitions, then SIGCONT.
    Zombie(Kind),
    /// SIGSTOP of a sink while its insert is under way, SIGCONT after another has its partitions.
    ZombieMidInsert,
    /// SIGTERM of every instance, one after the other, each replaced by a new one.
    Terminate,
    /// The same while the store refuses inserts, so that each sink leaves a range pending.
    RollingUpgrade,
    /// A third instance of each stage joins and leaves again.
    Scale,
    /// A third sink joins and leaves while each insert takes long.
    RebalanceMidInsert,
    /// The store is killed while it works, and starts again.
    StoreKilled,
    /// The store is stopped with SIGSTOP and goes on later.
    StoreFrozen,
    /// The store is killed and away for long.
    StoreGone,
    /// Inserts are answered so.
    Insert(Answer),
    /// A column is added while events flow.
    SchemaAltered,
    /// The store's disk is full for a while.
    DiskFull,
    /// What lies between the sinks and the store does this.
    StoreTraffic(Mode),
    /// What lies between all stages and the brokers does this.
    KafkaTraffic(Mode),
    /// One of three brokers is killed and starts again.
    BrokerKilled,
    /// Each broker in turn, so that every coordinator and every leader moves.
    CoordinatorMoved,
    /// All brokers are killed and start again.
    BrokersKilled,
    /// Records that are none of ours, put into chat.raw.
    PoisonRaw,
    /// Records that are none of ours, put into chat.events.
    PoisonEvents,
    /// Checkpoints torn, altered and removed while the enrichers are killed.
    CheckpointsBroken,
    /// Partitions are added.
    PartitionsRaised,
    /// chat.raw is deleted and made again.
    TopicRemade,
    /// All topics are deleted and made again.
    AllTopicsRemade,
    /// Raw records are deleted before they are enriched.
    OffsetsGone,
    /// Raw records and outcomes are deleted after they were stored.
    LogsTrimmed,
}

/// How the store fails an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    BeforeBody,
    MidBody,
    AfterCommit,
    /// 200 and an exception, after the commit.
    Exception(Form),
    /// 500 with this code of ClickHouse.
    Code(u32, &'static str),
    /// None, until the connection is cut.
    Never,
    /// A byte a second, until the connection is cut.
    Dripping,
}

/// Which suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Suite {
    /// The faults once each, but for the sisters of others and what needs root.
    Ci,
    /// All faults, and long absences.
    Full,
}

impl Suite {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ci => "ci",
            Self::Full => "full",
        }
    }
}

/// What the short suite leaves out: the sisters of what is in it, and what needs root.
const NOT_IN_CI: &[&str] = &[
    "disk-full",
    "kill-sink-deliverer",
    "zombie-producer",
    "insert-exception-header",
    "insert-exception-tagged",
    "insert-no-space",
    "insert-readonly",
    "store-delay",
    "store-mute",
    "kafka-delay",
    "kafka-mute",
    "brokers-killed",
];

impl Scenario {
    /// Whether it belongs to a suite.
    pub(crate) fn is_in(&self, suite: Suite) -> bool {
        suite == Suite::Full || !NOT_IN_CI.contains(&self.name)
    }

    /// Whether deliverers and destinations are there as well.
    pub(crate) fn delivers(&self) -> bool {
        matches!(self.fault, Fault::Kill(kinds) if kinds.contains(&Kind::Deliverer))
    }

    /// Scenarios of a suite that share the kills asked for.
    pub(crate) fn that_kill(suite: Suite) -> u32 {
        let kill = SCENARIOS
            .iter()
            .filter(|scenario| matches!(scenario.fault, Fault::Kill(_)) && scenario.is_in(suite));
        u32::try_from(kill.count()).unwrap_or(u32::MAX)
    }
}

/// Kills between two judgements.
pub(crate) const KILLS_PER_ROUND: u32 = 24;
/// The same where deliverers are among them, which take some seconds to come to work.
const KILLS_OF_DELIVERERS: u32 = 8;
/// Kills of stages during another fault.
const KILLS_BESIDE: u32 = 3;
/// How long a fault lasts, where it does not end by itself.
const LASTING: Range<u64> = 2_500..4_500;
/// The same for one that time limits must notice: 5 s for the broker's answer to a request.
const STALLING: Range<u64> = 6_000..8_000;
const ALL_TOPICS: [&str; 4] = [
    "chat.raw",
    "chat.events",
    "chat.events.pending",
    "chat.events.watermark",
];
const DEADLINE: Duration = Duration::from_secs(60);

const fn on_one(name: &'static str, title: &'static str, fault: Fault) -> Scenario {
    Scenario {
        name,
        title,
        ground: Ground::OneBroker,
        fault,
    }
}

const fn on_three(name: &'static str, title: &'static str, fault: Fault) -> Scenario {
    Scenario {
        ground: Ground::ThreeBrokers,
        ..on_one(name, title, fault)
    }
}

const fn kills(name: &'static str, title: &'static str, kinds: &'static [Kind]) -> Scenario {
    Scenario {
        ground: Ground::Kills,
        ..on_one(name, title, Fault::Kill(kinds))
    }
}

const fn insert(name: &'static str, title: &'static str, answer: Answer) -> Scenario {
    on_one(name, title, Fault::Insert(answer))
}

/// Every fault.
pub(crate) const SCENARIOS: &[Scenario] = &[
    kills("kill-producer", "kill -9 of producers", &[Kind::Producer]),
    kills("kill-enricher", "kill -9 of enrichers", &[Kind::Enricher]),
    kills("kill-sink", "kill -9 of sinks", &[Kind::Sink]),
    kills(
        "kill-deliverer",
        "kill -9 of deliverers",
        &[Kind::Deliverer],
    ),
    kills(
        "kill-sink-deliverer",
        "kill -9 of a sink and a deliverer at once",
        &[Kind::Sink, Kind::Deliverer],
    ),
    kills(
        "kill-any",
        "kill -9 of one of each stage at once, deliverers included",
        &Kind::ALL,
    ),
    on_one(
        "zombie-producer",
        "SIGSTOP of a producer, resumed",
        Fault::Zombie(Kind::Producer),
    ),
    on_one(
        "zombie-enricher",
        "SIGSTOP of an enricher past its session, resumed as a zombie",
        Fault::Zombie(Kind::Enricher),
    ),
    on_one(
        "zombie-sink",
        "SIGSTOP of a sink past its session, resumed as a zombie",
        Fault::Zombie(Kind::Sink),
    ),
    on_one(
        "zombie-mid-insert",
        "SIGSTOP of a sink in the middle of an insert, resumed as a zombie",
        Fault::ZombieMidInsert,
    ),
    on_one(
        "terminate",
        "SIGTERM of each instance under load",
        Fault::Terminate,
    ),
    on_one(
        "rolling-upgrade",
        "Rolling replacement while inserts are refused: ranges pending, SIGTERM under back-pressure",
        Fault::RollingUpgrade,
    ),
    on_one(
        "scale",
        "A third instance of each stage joins and leaves",
        Fault::Scale,
    ),
    on_one(
        "rebalance-mid-insert",
        "Rebalance in the middle of inserts",
        Fault::RebalanceMidInsert,
    ),
    on_one(
        "store-killed",
        "Store killed while it inserts (also between table and view), started again",
        Fault::StoreKilled,
    ),
    on_one(
        "store-frozen",
        "Store hangs (SIGSTOP), goes on",
        Fault::StoreFrozen,
    ),
    on_one(
        "store-gone",
        "Store gone for long, under load",
        Fault::StoreGone,
    ),
    insert(
        "insert-before-body",
        "Insert fails before the body",
        Answer::BeforeBody,
    ),
    insert(
        "insert-mid-body",
        "Connection cut in the middle of the insert body",
        Answer::MidBody,
    ),
    insert(
        "insert-after-commit",
        "Server committed, connection cut before its answer",
        Answer::AfterCommit,
    ),
    insert(
        "insert-exception-text",
        "200, then an exception in the body (text)",
        Answer::Exception(Form::Text),
    ),
    insert(
        "insert-exception-tagged",
        "200, then an exception in the body (tagged)",
        Answer::Exception(Form::Tagged),
    ),
    insert(
        "insert-exception-header",
        "200, and an exception in a header",
        Answer::Exception(Form::Header),
    ),
    insert(
        "insert-readonly",
        "Store read-only",
        Answer::Code(164, "Cannot execute query in readonly mode. (READONLY)"),
    ),
    insert(
        "insert-too-many-parts",
        "Store has too many parts",
        Answer::Code(
            252,
            "Too many parts (300). Merges are processing significantly slower than inserts. (TOO_MANY_PARTS)",
        ),
    ),
    insert(
        "insert-no-space",
        "Store says that its disk is full",
        Answer::Code(
            243,
            "Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)",
        ),
    ),
    insert(
        "insert-never",
        "Server never answers an insert",
        Answer::Never,
    ),
    insert("insert-dripping", "Server's answer drips", Answer::Dripping),
    on_one(
        "schema-altered",
        "Schema altered in mid-stream (a column added)",
        Fault::SchemaAltered,
    ),
    on_one(
        "store-cut",
        "Connections to the store cut and refused",
        Fault::StoreTraffic(Mode::Cut),
    ),
    on_one(
        "store-blackhole",
        "Store unreachable: connections stall",
        Fault::StoreTraffic(Mode::Blackhole),
    ),
    on_one(
        "store-deaf",
        "One-way partition: answers of the store do not come",
        Fault::StoreTraffic(Mode::OneWay { to_server: true }),
    ),
    on_one(
        "store-mute",
        "One-way partition: requests to the store do not arrive",
        Fault::StoreTraffic(Mode::OneWay { to_server: false }),
    ),
    on_one(
        "store-delay",
        "Store far away: 100 ms each way",
        Fault::StoreTraffic(Mode::Delay(Duration::from_millis(100))),
    ),
    on_one(
        "store-half-close",
        "Store half-closes connections",
        Fault::StoreTraffic(Mode::HalfClose),
    ),
    on_one(
        "store-drip",
        "Store behind 50 kB/s",
        Fault::StoreTraffic(Mode::Drip {
            bytes_per_second: 50_000,
        }),
    ),
    on_one(
        "kafka-cut",
        "Connections to Kafka cut and refused",
        Fault::KafkaTraffic(Mode::Cut),
    ),
    on_one(
        "kafka-blackhole",
        "Kafka unreachable: connections stall",
        Fault::KafkaTraffic(Mode::Blackhole),
    ),
    on_one(
        "kafka-deaf",
        "One-way partition: answers of Kafka do not come",
        Fault::KafkaTraffic(Mode::OneWay { to_server: true }),
    ),
    on_one(
        "kafka-mute",
        "One-way partition: requests to Kafka do not arrive",
        Fault::KafkaTraffic(Mode::OneWay { to_server: false }),
    ),
    on_one(
        "kafka-delay",
        "Kafka far away: 100 ms each way",
        Fault::KafkaTraffic(Mode::Delay(Duration::from_millis(100))),
    ),
    on_one(
        "kafka-half-close",
        "Kafka half-closes connections",
        Fault::KafkaTraffic(Mode::HalfClose),
    ),
    on_one(
        "kafka-drip",
        "Kafka behind 50 kB/s",
        Fault::KafkaTraffic(Mode::Drip {
            bytes_per_second: 50_000,
        }),
    ),
    on_one(
        "kafka-killed",
        "The only broker killed and back: 503 with Retry-After meanwhile",
        Fault::BrokersKilled,
    ),
    on_one(
        "poison-raw",
        "Storm of foreign records in chat.raw",
        Fault::PoisonRaw,
    ),
    on_one(
        "poison-events",
        "Storm of foreign records in chat.events",
        Fault::PoisonEvents,
    ),
    on_one(
        "checkpoints-broken",
        "Checkpoints torn, with a flipped bit, overwritten, gone",
        Fault::CheckpointsBroken,
    ),
    on_one(
        "partitions-raised",
        "Partitions added by `chatpulse migrate`",
        Fault::PartitionsRaised,
    ),
    on_one(
        "topic-remade",
        "chat.raw deleted and made again: stages stop and say so",
        Fault::TopicRemade,
    ),
    on_one(
        "all-topics-remade",
        "All topics deleted and made again, the store kept: stages stop and say so",
        Fault::AllTopicsRemade,
    ),
    on_one(
        "logs-trimmed",
        "Raw records and outcomes deleted after they were stored",
        Fault::LogsTrimmed,
    ),
    on_one(
        "offsets-gone",
        "Raw records deleted before they were enriched: stages stop and say so",
        Fault::OffsetsGone,
    ),
    on_three(
        "broker-killed",
        "1 of 3 brokers killed and back",
        Fault::BrokerKilled,
    ),
    on_three(
        "coordinator-moved",
        "Each of 3 brokers killed in turn: coordinators and leaders move",
        Fault::CoordinatorMoved,
    ),
    on_three(
        "brokers-killed",
        "All 3 brokers killed and back",
        Fault::BrokersKilled,
    ),
    Scenario {
        name: "disk-full",
        title: "Store's disk full (a small file system), then freed",
        ground: Ground::SmallDisk,
        fault: Fault::DiskFull,
    },
];

impl Fault {
    /// What a stage says when it stops because of this; `None` where all goes on afterwards.
    ///
    /// Such a fault is made when everything acknowledged is queryable, and that must stay so.
    pub(crate) fn stops_with(self) -> Option<&'static str> {
        match self {
            Self::TopicRemade | Self::AllTopicsRemade => Some("deleted and made again"),
            Self::OffsetsGone => Some("were deleted before they were enriched"),
            _ => None,
        }
    }

    /// Makes the fault and ends it; kills stages meanwhile. Gives how many faults there were, and how
    /// many kill -9 of stages.
    pub(crate) async fn make(
        self,
        site: &Site<'_>,
        suite: Suite,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<(u32, u32)> {
        if let Self::Kill(kinds) = self {
            let count = match kinds.contains(&Kind::Deliverer) {
                true => KILLS_OF_DELIVERERS,
                false => KILLS_PER_ROUND,
            };
            let kills = kill(site, (count, kinds), rng).await?;
            return Ok((kills, kills));
        }
        // An unanswered request is sent again, and must not find other partitions; and what is
        // frozen must live to be a zombie.
        let alone = [Self::PartitionsRaised, Self::ZombieMidInsert];
        let with_kills = !alone.contains(&self) && !matches!(self, Self::Zombie(_));
        let mut other = rng.clone();
        other.set_stream(rng.get_stream() ^ 1);
        let beside = async {
            let mut kills = 0;
            while with_kills && kills < KILLS_BESIDE {
                pause(&mut other, 300..1_300).await;
                any(site, &Kind::STORING, &mut other)?.kill()?;
                kills += 1;
            }
            Ok::<_, anyhow::Error>(kills)
        };
        let (made, killed) = tokio::join!(self.inject(site, suite, rng), beside);
        made?;
        Ok((1, killed?))
    }

    /// Makes a fault after which a stage must stop, and kills nothing beside it. Gives how many.
    pub(crate) async fn break_off(
        self,
        site: &Site<'_>,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<u32> {
        self.inject(site, Suite::Ci, rng).await.map(|()| 1)
    }

    async fn inject(
        self,
        site: &Site<'_>,
        suite: Suite,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<()> {
        let store = &site.grounds.store;
        let kafka = &site.grounds.kafka;
        match self {
            Self::Kill(_) => {}
            Self::Zombie(kind) => {
                let stage = any(site, &[kind], rng)?;
                stage.at_work().await?;
                zombie(site, &stage, rng).await?;
            }
            Self::ZombieMidInsert => {
                let stage = any(site, &[Kind::Sink], rng)?;
                stage.at_work().await?;
                // Inserts take so long that one is under way nearly all the time.
                store.traffic.set(Mode::Delay(Duration::from_millis(150)));
                pause(rng, 500..1_000).await;
                zombie(site, &stage, rng).await?;
                store.traffic.set(Mode::Pass);
            }
            Self::Terminate => replace_all(site, rng).await?,
            Self::RollingUpgrade => {
                let answer = Answer::Code(252, "Too many parts. (TOO_MANY_PARTS)");
                let before = store.inserts.faults_made();
                store.inserts.fail_next(answer.fault(), u32::MAX);
                faults_made(site, before).await?;
                replace_all(site, rng).await?;
                store.inserts.pass();
            }
            Self::Scale => {
                Kind::STORING.into_iter().for_each(|kind| site.grow(kind));
                pause(rng, LASTING).await;
                for kind in Kind::STORING {
                    site.shrink(kind).await?;
                }
            }
            Self::RebalanceMidInsert => {
                store.traffic.set(Mode::Delay(Duration::from_millis(200)));
                pause(rng, 300..600).await;
                site.grow(Kind::Sink);
                pause(rng, LASTING).await;
                site.shrink(Kind::Sink).await?;
                pause(rng, 300..600).await;
                store.traffic.set(Mode::Pass);
            }
            Self::StoreKilled => {
                // Anywhere in the work on a block: over many rounds also between table and view.
                pause(rng, 0..1_000).await;
                store.kill().await?;
                pause(rng, 200..1_500).await;
                store.restart().await?;
            }
            Self::StoreFrozen => {
                store.signal(Signal::STOP)?;
                pause(rng, 4_000..6_000).await;
                store.signal(Signal::CONT)?;
            }
            Self::StoreGone => {
                let away = match suite {
                    Suite::Ci => Duration::from_secs(8),
                    Suite::Full => Duration::from_secs(300),
                };
                store.kill().await?;
                tokio::time::sleep(away).await;
                site.note_memory(&format!("store gone for {} s", away.as_secs()));
                store.restart().await?;
            }
            Self::Insert(answer) => {
                let before = store.inserts.faults_made();
                store
                    .inserts
                    .fail_next(answer.fault(), rng.random_range(2..6));
                faults_made(site, before).await?;
                if matches!(answer, Answer::Never | Answer::Dripping) {
                    pause(rng, LASTING).await;
                    store.traffic.set(Mode::Cut);
                    pause(rng, 100..200).await;
                    store.traffic.set(Mode::Pass);
                } else {
                    pause(rng, 500..1_000).await;
                }
                store.inserts.pass();
            }
            Self::SchemaAltered => {
                let column: u32 = rng.random();
                let sql = format!("ALTER TABLE events ADD COLUMN added_{column} String DEFAULT ''");
                store.query(&site.name, &sql).await?;
                pause(rng, 500..1_500).await;
            }
            Self::DiskFull => {
                let ballast = site.grounds.fill_disk()?;
                let before = site.stored().await?;
                pause(rng, 6_000..8_000).await;
                let after = site.stored().await?;
                std::fs::remove_file(ballast)?;
                ensure!(
                    after < before + 3_000,
                    "the store goes on with a full disk: {before} to {after} rows"
                );
            }
            Self::StoreTraffic(mode) => {
                store.traffic.set(mode);
                if !is_stall(mode) {
                    pause(rng, LASTING).await;
                } else {
                    // What was under way when it began may still come in.
                    pause(rng, 1_500..2_000).await;
                    let before = site.stored().await?;
                    pause(rng, STALLING).await;
                    let after = site.stored().await?;
                    ensure!(
                        after == before,
                        "the sinks store while the store is not to be reached: {before} to {after} rows"
                    );
                    // So that what is lost stays lost, and does not only come late.
                    store.traffic.set(Mode::Cut);
                    pause(rng, 100..300).await;
                }
                store.traffic.set(Mode::Pass);
            }
            Self::KafkaTraffic(mode) => {
                let before = site.load.ledger().failed();
                kafka.traffic(mode);
                if !is_stall(mode) {
                    pause(rng, LASTING).await;
                } else {
                    pause(rng, STALLING).await;
                    let after = site.load.ledger().failed();
                    ensure!(
                        after > before,
                        "the producers acknowledge while Kafka is not to be reached"
                    );
                    kafka.traffic(Mode::Cut);
                    pause(rng, 100..300).await;
                }
                kafka.traffic(Mode::Pass);
            }
            Self::BrokerKilled => {
                let broker = rng.random_range(1..=kafka.brokers());
                kafka.kill(Some(broker)).await?;
                pause(rng, LASTING).await;
                kafka.restart(Some(broker)).await?;
            }
            Self::CoordinatorMoved => {
                let mut brokers: Vec<u16> = (1..=kafka.brokers()).collect();
                brokers.shuffle(rng);
                for broker in brokers {
                    kafka.kill(Some(broker)).await?;
                    // The others take over: events are acknowledged again.
                    site.load.flow(300, DEADLINE).await?;
                    kafka.restart(Some(broker)).await?;
                }
            }
            Self::BrokersKilled => {
                let before = site.load.ledger().refused;
                kafka.kill(None).await?;
                refusals(site, before).await?;
                site.note_memory("Kafka gone");
                kafka.restart(None).await?;
            }
            Self::CheckpointsBroken => {
                for _ in 0..3 {
                    // One is made every second.
                    let deadline = Instant::now() + DEADLINE;
                    while site.break_checkpoints(rng)? == 0 {
                        ensure!(
                            Instant::now() < deadline,
                            "there are no checkpoints to break"
                        );
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    let enrichers = site.of(Kind::Enricher);
                    enrichers.iter().try_for_each(|enricher| enricher.kill())?;
                    pause(rng, 1_500..3_000).await;
                }
            }
            Self::PartitionsRaised => {
                // Until all producers know of the new partitions, and for what was sent before, a
                // copy of an event may come to another partition, where nobody knows the first.
                site.load.repeat_nothing();
                site.load.pause(DEADLINE).await?;
                site.load.resume();
                site.raise_partitions(site.partitions() + 2).await?;
                pause(rng, LASTING).await;
                for producer in site.of(Kind::Producer) {
                    producer.replace().await?;
                }
                site.load.pause(DEADLINE).await?;
                site.load.repeat_again();
                site.load.resume();
                pause(rng, LASTING).await;
            }
            Self::TopicRemade => {
                kafka.delete_topic(&site.topic("chat.raw")).await?;
                site.migrate().await?;
                site.load.resume();
            }
            Self::AllTopicsRemade => {
                for name in ALL_TOPICS {
                    kafka.delete_topic(&site.topic(name)).await?;
                }
                site.migrate().await?;
                site.load.resume();
            }
            Self::LogsTrimmed => {
                // An enricher that is killed before its checkpoint does not know what was deleted
                // (Known gaps), so no copies of that are sent.
                site.load.repeat_nothing();
                site.recover().await?;
                for name in ["chat.events", "chat.raw"] {
                    kafka.delete_records(&site.topic(name)).await?;
                }
                replace_all(site, rng).await?;
                site.load.repeat_again();
                site.load.resume();
                site.load.flow(500, DEADLINE).await?;
            }
            Self::OffsetsGone => {
                site.shrink(Kind::Enricher).await?;
                site.shrink(Kind::Enricher).await?;
                site.load.resume();
                site.load.flow(200, DEADLINE).await?;
                site.load.pause(DEADLINE).await?;
                kafka.delete_records(&site.topic("chat.raw")).await?;
                site.grow(Kind::Enricher);
                site.grow(Kind::Enricher);
            }
            Self::PoisonRaw => site.poison_raw(2_000, rng).await?,
            Self::PoisonEvents => site.poison_events(2_000, rng).await?,
        }
        Ok(())
    }
}

impl Answer {
    fn fault(self) -> http::Fault {
        match self {
            Self::BeforeBody => http::Fault::BeforeBody,
            Self::MidBody => http::Fault::MidBody,
            Self::AfterCommit => http::Fault::AfterCommit,
            Self::Exception(form) => http::Fault::ExceptionInBody(form),
            Self::Code(code, message) => http::Fault::Status {
                status: 500,
                code,
                message: message.to_owned(),
            },
            Self::Never => http::Fault::Hang,
            Self::Dripping => http::Fault::DripAnswer,
        }
    }
}

/// At least `count` kill -9: again and again of one instance of each of `kinds` at once, each in the
/// middle of its work. Gives how many.
async fn kill(
    site: &Site<'_>,
    (count, kinds): (u32, &[Kind]),
    rng: &mut ChaCha8Rng,
) -> anyhow::Result<u32> {
    let mut kills = 0;
    while kills < count {
        let victims = kinds
            .iter()
            .map(|&kind| any(site, &[kind], rng))
            .collect::<anyhow::Result<Vec<_>>>()?;
        for victim in &victims {
            victim.at_work().await?;
        }
        pause(rng, 0..250).await;
        for victim in victims {
            victim.kill()?;
            kills += 1;
        }
    }
    Ok(kills)
}

/// Freezes an instance until another has taken over what it had, and lets it go on.
async fn zombie(site: &Site<'_>, stage: &Stage, rng: &mut ChaCha8Rng) -> anyhow::Result<()> {
    let takeovers = || {
        let others = site.of(stage.kind);
        others.iter().map(|other| other.takeovers()).sum::<usize>()
    };
    let before = takeovers();
    stage.freeze()?;
    tokio::time::sleep(SESSION).await;
    let deadline = Instant::now() + DEADLINE;
    while stage.kind != Kind::Producer && takeovers() == before {
        ensure!(
            Instant::now() < deadline,
            "nobody takes over from a frozen {}",
            stage.kind
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pause(rng, 200..1_500).await;
    stage.thaw()?;
    // It goes on for a moment before it hears that it is no member any more.
    pause(rng, 300..1_000).await;
    Ok(())
}

/// Whether nothing comes through in one direction at least.
fn is_stall(mode: Mode) -> bool {
    matches!(mode, Mode::Cut | Mode::Blackhole | Mode::OneWay { .. })
}

fn any(site: &Site<'_>, kinds: &[Kind], rng: &mut ChaCha8Rng) -> anyhow::Result<Arc<Stage>> {
    let kind = *kinds.choose(rng).context("no stage to choose from")?;
    let stages = site.of(kind);
    stages.choose(rng).cloned().context("no instance")
}

async fn replace_all(site: &Site<'_>, rng: &mut ChaCha8Rng) -> anyhow::Result<()> {
    for kind in Kind::STORING {
        for stage in site.of(kind) {
            pause(rng, 100..500).await;
            stage.replace().await?;
        }
    }
    Ok(())
}

/// Waits until the store's proxy has failed an insert.
async fn faults_made(site: &Site<'_>, before: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while site.grounds.store.inserts.faults_made() == before {
        ensure!(Instant::now() < deadline, "no insert came to be failed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Waits until producers refuse, as they must while nothing can be written.
async fn refusals(site: &Site<'_>, before: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while site.load.ledger().refused < before + 4 {
        ensure!(
            Instant::now() < deadline,
            "producers do not answer 503 while Kafka is gone"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn pause(rng: &mut ChaCha8Rng, milliseconds: Range<u64>) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(milliseconds))).await;
}
