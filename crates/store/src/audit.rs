//! The audit: the books proved from ClickHouse alone.
//!
//! ```text
//! events ─► per raw partition: every offset once
//!        ─► per tenant: received = accepted + duplicate + rejected, and so say event_health and rejections
//! event_health ─► per tenant: the same by hour and by day; rejections by hour
//! deliveries ─► per tenant: the same by hour and by day
//! events ─► per conversation: messages of the stream = messages of conversation_facts
//! ```

use std::collections::BTreeMap;
use std::fmt;

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::error::StoreError;

/// What the audit is told from outside.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// What the broker says of each raw partition; nothing where it was not asked.
    pub claims: BTreeMap<i32, Claim>,
    /// At most this many offenders are listed per check and partition. Default 20.
    pub listed: u32,
}

impl Default for AuditOptions {
    fn default() -> Self {
        AuditOptions {
            claims: BTreeMap::new(),
            listed: 20,
        }
    }
}

/// What the store must hold of a raw partition: every offset of `[low, stored)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// First offset still in chat.raw: what was deleted before it was read cannot be missed.
    pub low: i64,
    /// Offset up to which the sink has committed that everything is stored.
    pub stored: i64,
}

/// What the audit found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Whether there is no finding.
    pub balanced: bool,
    /// The books of each raw partition.
    pub partitions: Vec<PartitionBooks>,
    /// The books of each tenant.
    pub tenants: Vec<TenantBooks>,
    /// Conversations whose messages were compared.
    pub conversations: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Positions of one raw partition in `events`.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct PartitionBooks {
    /// Partition of chat.raw.
    pub partition: i32,
    /// Rows.
    pub rows: u64,
    /// Distinct offsets.
    pub distinct_offsets: u64,
    /// Lowest offset.
    pub first_offset: i64,
    /// Highest offset.
    pub last_offset: i64,
}

/// The counts of one tenant, from `events` and from what the views made of them.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct TenantBooks {
    /// Tenant; empty for records that could not be decoded.
    pub tenant: String,
    /// Rows of `events`.
    pub received: u64,
    /// Of these, first of their event id.
    pub accepted: u64,
    /// Of these, further copies.
    pub duplicate: u64,
    /// Of these, refused.
    pub rejected: u64,
    /// `received` of `event_health`.
    pub health_received: u64,
    /// `accepted` of `event_health`.
    pub health_accepted: u64,
    /// `duplicate` of `event_health`.
    pub health_duplicate: u64,
    /// `rejected` of `event_health`.
    pub health_rejected: u64,
    /// Rows of `rejections`.
    pub rejections: u64,
    /// Conversations among the accepted rows of `events`.
    pub conversations: u64,
    /// Conversations of `conversation_facts`.
    pub fact_conversations: u64,
}

impl TenantBooks {
    fn balanced(&self) -> bool {
        self.received == self.accepted + self.duplicate + self.rejected
            && self.received == self.health_received
            && self.accepted == self.health_accepted
            && self.duplicate == self.health_duplicate
            && self.rejected == self.health_rejected
            && self.rejected == self.rejections
            && self.conversations == self.fact_conversations
    }
}

/// A conversation whose messages stream and store count differently.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct MessageCounts {
    /// Tenant.
    pub tenant: String,
    /// Source.
    pub source: String,
    /// Conversation.
    pub conversation_id: String,
    /// Distinct messages among the accepted rows of `events`.
    pub events: u64,
    /// Highest message number that the stream gave.
    pub stream: i64,
    /// Messages of `conversation_facts`.
    pub facts: u64,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// No outcome for the offsets `first..=last`.
    Missing {
        /// Partition of chat.raw.
        partition: i32,
        /// First missing offset.
        first: i64,
        /// Last missing offset.
        last: i64,
    },
    /// More than one outcome for an offset.
    Repeated {
        /// Partition of chat.raw.
        partition: i32,
        /// The offset.
        offset: i64,
        /// How often it is there.
        times: u64,
    },
    /// The counts of a tenant do not agree; its row is in `tenants`.
    Unbalanced {
        /// The tenant.
        tenant: String,
    },
    /// Delivery health by hour or day, rejections by hour, or deliveries by hour or day, of a tenant are
    /// not the sums of what they are made of.
    RollUps {
        /// The tenant.
        tenant: String,
    },
    /// Stream and store do not agree on the messages of a conversation.
    Messages(MessageCounts),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Missing {
                partition,
                first,
                last,
            } if first == last => {
                write!(f, "partition {partition}: offset {first} is missing")
            }
            Finding::Missing {
                partition,
                first,
                last,
            } => {
                write!(
                    f,
                    "partition {partition}: offsets {first} to {last} are missing"
                )
            }
            Finding::Repeated {
                partition,
                offset,
                times,
            } => {
                write!(
                    f,
                    "partition {partition}: offset {offset} is there {times} times"
                )
            }
            Finding::Unbalanced { tenant } => {
                write!(
                    f,
                    "tenant {tenant:?}: the counts of events and of its views differ"
                )
            }
            Finding::RollUps { tenant } => {
                write!(
                    f,
                    "tenant {tenant:?}: the counts by hour or day are not those of the minutes, of the rejections, or of the deliveries"
                )
            }
            Finding::Messages(m) => write!(
                f,
                "tenant {:?}, {} conversation {:?}: {} messages in events, {} numbered by the stream, {} in conversation_facts",
                m.tenant, m.source, m.conversation_id, m.events, m.stream, m.facts
            ),
        }
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for p in &self.partitions {
            writeln!(
                f,
                "partition {}: {} outcomes of offsets {} to {}",
                p.partition, p.rows, p.first_offset, p.last_offset
            )?;
        }
        for t in &self.tenants {
            writeln!(
                f,
                "tenant {:?}: received {} = accepted {} + duplicate {} + rejected {}; {} conversations",
                t.tenant, t.received, t.accepted, t.duplicate, t.rejected, t.conversations
            )?;
            if !t.balanced() {
                writeln!(
                    f,
                    "    event_health: received {}, accepted {}, duplicate {}, rejected {}; rejections: {}; conversation_facts: {}",
                    t.health_received,
                    t.health_accepted,
                    t.health_duplicate,
                    t.health_rejected,
                    t.rejections,
                    t.fact_conversations
                )?;
            }
        }
        for finding in &self.findings {
            writeln!(f, "WRONG: {finding}")?;
        }
        let verdict = if self.balanced {
            "the books balance"
        } else {
            "the books do not balance"
        };
        write!(
            f,
            "{} conversations compared; {verdict}",
            self.conversations
        )
    }
}

#[derive(Row, Deserialize)]
struct Hole {
    first: i64,
    last: i64,
}

#[derive(Row, Deserialize)]
struct Repeat {
    offset: i64,
    times: u64,
}

/// Tenant counts of table and views side by side; a tenant that only one of them has is there too.
const TENANTS: &str = "
SELECT
    tenant,
    sum(n[1]) AS received, sum(n[2]) AS accepted, sum(n[3]) AS duplicate, sum(n[4]) AS rejected,
    sum(n[5]) AS health_received, sum(n[6]) AS health_accepted,
    sum(n[7]) AS health_duplicate, sum(n[8]) AS health_rejected,
    sum(n[9]) AS rejections, sum(n[10]) AS conversations, sum(n[11]) AS fact_conversations
FROM
(
    SELECT toString(tenant) AS tenant,
           [count(), countIf(outcome = 'accepted'), countIf(outcome = 'duplicate'), countIf(outcome = 'rejected'),
            0, 0, 0, 0, 0,
            uniqExactIf((source, conversation_id), outcome = 'accepted' AND conversation_id IS NOT NULL), 0] AS n
    FROM events GROUP BY tenant
    UNION ALL
    SELECT toString(tenant), [0, 0, 0, 0, sum(received), sum(accepted), sum(duplicate), sum(rejected), 0, 0, 0]
    FROM event_health GROUP BY tenant
    UNION ALL
    SELECT toString(tenant), [0, 0, 0, 0, 0, 0, 0, 0, count(), 0, 0] FROM rejections GROUP BY tenant
    UNION ALL
    SELECT toString(tenant), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, uniqExact((source, conversation_id))]
    FROM conversation_facts GROUP BY tenant
)
GROUP BY tenant
ORDER BY tenant";

/// Tenants whose sums are not the same by minute, hour and day, or whose rejections by hour are others
/// than the rejections. Those of the minutes are held against the events by [`TENANTS`].
const ROLL_UPS: &str = "
SELECT tenant FROM
(
    SELECT toString(tenant) AS tenant, 'health' AS of, (sum(received), sum(accepted), sum(duplicate), sum(rejected), sum(late)) AS n
    FROM event_health GROUP BY tenant
    UNION ALL
    SELECT toString(tenant), 'health', (sum(received), sum(accepted), sum(duplicate), sum(rejected), sum(late))
    FROM event_health_hour GROUP BY tenant
    UNION ALL
    SELECT toString(tenant), 'health', (sum(received), sum(accepted), sum(duplicate), sum(rejected), sum(late))
    FROM event_health_day GROUP BY tenant
    UNION ALL
    SELECT toString(tenant), 'health', (sum(received), sum(accepted), sum(duplicate), sum(rejected), sum(late))
    FROM tenant_health GROUP BY tenant, unit
    UNION ALL
    SELECT toString(tenant), 'rejections', (count(), 0, 0, 0, 0) FROM rejections GROUP BY tenant
    UNION ALL
    SELECT toString(tenant), 'rejections', (sum(rejected), 0, 0, 0, 0) FROM rejections_hour GROUP BY tenant
)
GROUP BY tenant
HAVING uniqExactIf(n, of = 'health') > 1 OR uniqExactIf(n, of = 'rejections') > 1
    OR countIf(of = 'health') NOT IN (0, 6) OR countIf(of = 'rejections') NOT IN (0, 2)
ORDER BY tenant";

/// Tenants whose deliveries are not the same one by one, by hour and by day; of days of which nothing came
/// in that the last run of the roll-up job may not have seen.
const DELIVERIES: &str = "
WITH
    (SELECT max(read_at) - INTERVAL 1 MINUTE FROM rollup_runs) AS rolled_up,
    moving AS (SELECT DISTINCT toStartOfDay(at) FROM deliveries WHERE inserted_at >= rolled_up)
SELECT tenant FROM
(
    SELECT toString(tenant) AS tenant,
           (count(), countIf(duration_ms IS NOT NULL), countIf(result = 'delivered'), countIf(result = 'given_up')) AS n
    FROM deliveries FINAL WHERE toStartOfDay(at) NOT IN moving GROUP BY tenant
    UNION ALL
    SELECT toString(tenant), (sum(turns), sum(attempts), sum(delivered), sum(given_up))
    FROM delivery_rollup FINAL WHERE unit = 'hour' AND toStartOfDay(at) NOT IN moving GROUP BY tenant
    UNION ALL
    SELECT toString(tenant), (sum(turns), sum(attempts), sum(delivered), sum(given_up))
    FROM delivery_rollup FINAL WHERE unit = 'day' AND at NOT IN moving GROUP BY tenant
)
GROUP BY tenant
HAVING uniqExact(n) > 1 OR count() != 3
ORDER BY tenant";

/// Messages per conversation, in events and in the facts. The stream's own number is held against
/// them where the stream never forgot the conversation (one message numbered 1), took no event id
/// twice after its dedup horizon (as many rows as messages), and where nothing that it numbered was
/// lost behind it: of the conversation, or, where that is not known, of its partition. A replay of
/// what was lost has no number of its own.
const MESSAGES: &str = "
WITH lossy AS
(
    SELECT DISTINCT partition FROM events
    WHERE reason IN ('outcome_lost', 'refused_by_store') AND conversation_id IS NULL
)
SELECT
    tenant, source, conversation_id,
    sum(distinct_messages) AS events, max(highest_number) AS stream, sum(fact_messages) AS facts
FROM
(
    SELECT
        toString(e.tenant) AS tenant, toString(e.source) AS source,
        assumeNotNull(e.conversation_id) AS conversation_id,
        uniqExactIf((occurred_at, sipHash64(event_id)), is_message) AS distinct_messages,
        countIf(is_message) AS message_rows, countIf(is_message AND message_number = 1) AS beginnings,
        countIf(reason = 'refused_by_store' OR partition IN lossy OR replay_of_offset IS NOT NULL) AS losses,
        ifNull(max(message_number), 0) AS highest_number, 0 AS fact_messages
    FROM
    (
        SELECT *, outcome = 'accepted' AND event_type = 'message.sent' AND actor IN ('visitor', 'bot', 'agent') AS is_message
        FROM events
    ) AS e
    WHERE e.conversation_id IS NOT NULL AND (is_message OR reason = 'refused_by_store')
    GROUP BY tenant, source, conversation_id
    UNION ALL
    SELECT
        toString(tenant), toString(source), conversation_id, 0, 0, 0, 0, 0,
        length(groupUniqArrayArray(messages))
    FROM conversation_facts
    GROUP BY tenant, source, conversation_id
)
GROUP BY tenant, source, conversation_id
HAVING events != facts
    OR (sum(beginnings) <= 1 AND sum(message_rows) = events AND sum(losses) = 0 AND stream != events)
ORDER BY tenant, source, conversation_id
LIMIT ?";

/// The offsets `[first, end)`, where there are any.
fn missing(partition: i32, first: i64, end: i64) -> Option<Finding> {
    (first < end).then_some(Finding::Missing {
        partition,
        first,
        last: end - 1,
    })
}

/// What lacks before the first offset that the store holds, and after the last.
fn missing_ends(books: &PartitionBooks, claim: Option<&Claim>) -> impl Iterator<Item = Finding> {
    let end = books.last_offset + 1;
    let low = claim.map_or(0, |claim| claim.low);
    let stored = claim.map_or(end, |claim| claim.stored);
    let before = missing(books.partition, low, books.first_offset);
    let after = missing(books.partition, end, stored);
    before.into_iter().chain(after)
}

impl Store {
    /// Proves the books, or says where they are wrong.
    pub async fn audit(&self, options: &AuditOptions) -> Result<Audit, StoreError> {
        let partitions: Vec<PartitionBooks> = self
            .within(
                "auditing offsets",
                self.client
                    .query("SELECT ?fields FROM partition_books ORDER BY partition")
                    .fetch_all(),
            )
            .await?;
        let mut findings = Vec::new();
        for books in &partitions {
            let claim = options.claims.get(&books.partition);
            findings.extend(missing_ends(books, claim));
            findings.extend(self.holes(books, options.listed).await?);
            findings.extend(self.repeats(books, options.listed).await?);
        }
        for (&partition, claim) in &options.claims {
            if partitions.iter().all(|books| books.partition != partition) {
                findings.extend(missing(partition, claim.low, claim.stored));
            }
        }
        let tenants: Vec<TenantBooks> = self
            .within("auditing tenants", self.client.query(TENANTS).fetch_all())
            .await?;
        findings.extend(
            tenants
                .iter()
                .filter(|tenant| !tenant.balanced())
                .map(|tenant| Finding::Unbalanced {
                    tenant: tenant.tenant.clone(),
                }),
        );
        let mut roll_ups: Vec<String> = self
            .within("auditing roll-ups", self.client.query(ROLL_UPS).fetch_all())
            .await?;
        let deliveries: Vec<String> = self
            .within(
                "auditing deliveries",
                self.client.query(DELIVERIES).fetch_all(),
            )
            .await?;
        roll_ups.extend(deliveries);
        roll_ups.sort();
        roll_ups.dedup();
        findings.extend(
            roll_ups
                .into_iter()
                .map(|tenant| Finding::RollUps { tenant }),
        );
        let differing: Vec<MessageCounts> = self
            .within(
                "auditing messages",
                self.client
                    .query(MESSAGES)
                    .bind(options.listed)
                    // By far the largest grouping: let it go to disk.
                    .with_setting("max_bytes_before_external_group_by", "500000000")
                    .fetch_all(),
            )
            .await?;
        findings.extend(differing.into_iter().map(Finding::Messages));
        Ok(Audit {
            balanced: findings.is_empty(),
            conversations: tenants.iter().map(|tenant| tenant.fact_conversations).sum(),
            partitions,
            tenants,
            findings,
        })
    }

    async fn holes(&self, books: &PartitionBooks, listed: u32) -> Result<Vec<Finding>, StoreError> {
        let span = books.last_offset - books.first_offset + 1;
        if i64::try_from(books.distinct_offsets) == Ok(span) {
            return Ok(Vec::new());
        }
        let query = self
            .client
            .query(
                "SELECT previous + 1 AS first, offset - 1 AS last
                 FROM (SELECT offset, lagInFrame(offset, 1, offset - 1)
                                  OVER (ORDER BY offset ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS previous
                       FROM (SELECT DISTINCT offset FROM events WHERE partition = ?))
                 WHERE offset - previous > 1 ORDER BY first LIMIT ?",
            )
            .bind(books.partition)
            .bind(listed);
        let holes: Vec<Hole> = self
            .within("listing missing offsets", query.fetch_all())
            .await?;
        let partition = books.partition;
        Ok(holes
            .into_iter()
            .map(|Hole { first, last }| Finding::Missing {
                partition,
                first,
                last,
            })
            .collect())
    }

    async fn repeats(
        &self,
        books: &PartitionBooks,
        listed: u32,
    ) -> Result<Vec<Finding>, StoreError> {
        if books.rows == books.distinct_offsets {
            return Ok(Vec::new());
        }
        let query = self
            .client
            .query(
                "SELECT offset, count() AS times FROM events WHERE partition = ?
                 GROUP BY offset HAVING times > 1 ORDER BY offset LIMIT ?",
            )
            .bind(books.partition)
            .bind(listed);
        let repeats: Vec<Repeat> = self
            .within("listing repeated offsets", query.fetch_all())
            .await?;
        let partition = books.partition;
        Ok(repeats
            .into_iter()
            .map(|Repeat { offset, times }| Finding::Repeated {
                partition,
                offset,
                times,
            })
            .collect())
    }
}
