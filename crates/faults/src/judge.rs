//! The judge: what was acknowledged against the table and every view, by counts of its own.
//!
//! ```text
//! ledger (sent, acknowledged) ─┐
//! events, facts, health, … ────┼─► lost · doubled · wrong
//! receiver (what came) ────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    load::{Ledger, Sent, TENANTS, conversation},
    receiver::{self, Arrivals, Key},
    store::Store,
};

/// Most offenders that are listed.
const LISTED: usize = 20;

/// What is not as it must be; all empty where all is well.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict {
    /// Acknowledged, and not there, in a table or a view.
    pub(crate) lost: Vec<String>,
    /// There more often than it may be.
    pub(crate) doubled: Vec<String>,
    /// There, though nobody sent it.
    pub(crate) foreign: Vec<String>,
}

impl Verdict {
    /// Whether nothing was found.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.foreign.is_empty()
    }

    fn compare(&mut self, what: &str, (at_least, at_most): (u64, u64), found: u64) {
        if found < at_least {
            self.lost
                .push(format!("{what}: {found}, at least {at_least} expected"));
        }
        if found > at_most {
            self.doubled
                .push(format!("{what}: {found}, at most {at_most} expected"));
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, found) in [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("foreign", &self.foreign),
        ] {
            if found.is_empty() {
                continue;
            }
            writeln!(f, "{} {name}:", found.len())?;
            for line in found.iter().take(LISTED) {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

/// Where to look, and what else may be there.
pub(crate) struct Books<'a> {
    pub(crate) store: &'a Store,
    pub(crate) database: &'a str,
    /// Records that the harness put into chat.raw, each of which must be a rejection without tenant,
    /// and into chat.events, each of which must be noted.
    pub(crate) poison: [u64; 2],
}

impl Books<'_> {
    async fn rows(&self, sql: &str) -> anyhow::Result<Vec<Vec<String>>> {
        self.store.query(self.database, sql).await
    }

    /// Accepted events, outcomes, and deliveries that have ended, that can be queried now.
    pub(crate) async fn progress(&self) -> anyhow::Result<(u64, u64, u64)> {
        let rows = self
            .rows(
                "SELECT countIf(outcome = 'accepted'), count(), \
                 (SELECT uniqExactIf((tenant, destination, event_id), result != 'retrying') FROM deliveries) \
                 FROM events",
            )
            .await?;
        Ok((
            number(&rows[0], 0),
            number(&rows[0], 1),
            number(&rows[0], 2),
        ))
    }

    /// Compares everything.
    pub(crate) async fn judge(&self, ledger: &Ledger) -> anyhow::Result<Verdict> {
        let mut verdict = Verdict::default();
        let totals = self.outcomes(ledger, &mut verdict).await?;
        self.rejections(ledger, &mut verdict).await?;
        self.conversations(ledger, &mut verdict).await?;
        self.health(&totals, &mut verdict).await?;
        Ok(verdict)
    }

    /// Every event id accepted once, and as many outcomes as it was sent and acknowledged.
    async fn outcomes(
        &self,
        ledger: &Ledger,
        verdict: &mut Verdict,
    ) -> anyhow::Result<BTreeMap<String, [u64; 3]>> {
        let mut found = vec![(0_u64, 0_u64); ledger.events.len()];
        let mut totals: BTreeMap<String, [u64; 3]> = BTreeMap::new();
        let rows = self
            .rows(
                "SELECT tenant, event_id, countIf(outcome = 'accepted'), countIf(outcome = 'duplicate'), \
                 countIf(outcome = 'rejected') FROM events GROUP BY tenant, event_id",
            )
            .await?;
        for row in rows {
            let counts = [number(&row, 2), number(&row, 3), number(&row, 4)];
            let total = totals.entry(row[0].clone()).or_default();
            (0..3).for_each(|i| total[i] += counts[i]);
            if counts[0] + counts[1] == 0 {
                continue;
            }
            match ledger.number(&row[1]) {
                Some(n) if TENANTS[ledger.events[n].tenant] == row[0] => {
                    found[n] = (counts[0], counts[0] + counts[1]);
                }
                _ => verdict
                    .foreign
                    .push(format!("tenant {:?}, event id {:?}", row[0], row[1])),
            }
        }
        for (n, (sent, (accepted, outcomes))) in ledger.events.iter().zip(found).enumerate() {
            let id = format!("{} event e{n}", TENANTS[sent.tenant]);
            let once = u64::from(sent.acknowledged > 0);
            verdict.compare(&format!("{id}, accepted"), (once, 1), accepted);
            verdict.compare(&format!("{id}, outcomes"), bounds(sent), outcomes);
        }
        Ok(totals)
    }

    /// Every malformed item as often as it was sent, in the table and in the view.
    async fn rejections(&self, ledger: &Ledger, verdict: &mut Verdict) -> anyhow::Result<()> {
        for (table, sql) in [
            (
                "events",
                "SELECT tenant, ifNull(rejected_sha256, ''), count() FROM events \
                 WHERE outcome = 'rejected' GROUP BY ALL",
            ),
            (
                "rejections",
                "SELECT tenant, ifNull(sha256, ''), count() FROM rejections GROUP BY ALL",
            ),
        ] {
            let mut poison = 0;
            let mut found = BTreeMap::new();
            for row in self.rows(sql).await? {
                let count = number(&row, 2);
                if row[0].is_empty() {
                    poison += count;
                } else if ledger.malformed.contains_key(&row[1]) {
                    found.insert(row[1].clone(), count);
                } else {
                    verdict
                        .foreign
                        .push(format!("rejection in {table}: {row:?}"));
                }
            }
            for (hash, sent) in &ledger.malformed {
                let what = format!("malformed item {hash} in {table}");
                let count = found.get(hash).copied().unwrap_or(0);
                verdict.compare(&what, bounds(sent), count);
            }
            let what = format!("poison records in {table}");
            verdict.compare(&what, (self.poison[0], self.poison[0]), poison);
        }
        if self.poison[1] > 0 {
            let rows = self
                .rows("SELECT uniqExact(partition, offset) FROM undecodable_outcomes")
                .await?;
            let what = "poison records in undecodable_outcomes";
            verdict.compare(what, (self.poison[1], self.poison[1]), number(&rows[0], 0));
        }
        Ok(())
    }

    /// Every conversation and every page session has all of its events.
    async fn conversations(&self, ledger: &Ledger, verdict: &mut Verdict) -> anyhow::Result<()> {
        let mut expected: BTreeMap<(&str, String), (u64, u64)> = BTreeMap::new();
        for (n, sent) in ledger.events.iter().enumerate() {
            let counts = expected
                .entry((TENANTS[sent.tenant], conversation(n)))
                .or_default();
            counts.0 += u64::from(sent.acknowledged > 0);
            counts.1 += u64::from(sent.sends > 0);
        }
        for (view, sql) in [
            (
                "conversation_facts",
                "SELECT tenant, conversation_id, length(groupUniqArrayArray(messages)) \
                 FROM conversation_facts GROUP BY ALL",
            ),
            (
                "conversations",
                "SELECT tenant, conversation_id, total_messages FROM conversations",
            ),
            (
                "sessions",
                "SELECT tenant, substring(session_id, 2), arrived FROM sessions",
            ),
        ] {
            let mut found: BTreeMap<(String, String), u64> = BTreeMap::new();
            for row in self.rows(sql).await? {
                *found.entry((row[0].clone(), row[1].clone())).or_default() += number(&row, 2);
            }
            for ((tenant, id), bounds) in &expected {
                let count = found.remove(&((*tenant).to_owned(), id.clone()));
                let what = format!("{view} of {tenant} {id}");
                verdict.compare(&what, *bounds, count.unwrap_or(0));
            }
            for (key, _) in found {
                verdict.foreign.push(format!("{view}: {key:?}"));
            }
        }
        Ok(())
    }

    /// The sums of delivery health are those of the table.
    async fn health(
        &self,
        totals: &BTreeMap<String, [u64; 3]>,
        verdict: &mut Verdict,
    ) -> anyhow::Result<()> {
        let sql = "SELECT tenant, sum(accepted), sum(duplicate), sum(rejected), sum(received) \
                   FROM event_health GROUP BY tenant";
        let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for row in self.rows(sql).await? {
            found.insert(row[0].clone(), (1..5).map(|i| number(&row, i)).collect());
        }
        for (tenant, [accepted, duplicate, rejected]) in totals {
            let received = accepted + duplicate + rejected;
            let health = found.remove(tenant).unwrap_or_else(|| vec![0; 4]);
            for (what, expected, count) in [
                ("accepted", *accepted, health[0]),
                ("duplicate", *duplicate, health[1]),
                ("rejected", *rejected, health[2]),
                ("received", received, health[3]),
            ] {
                let what = format!("event_health of {tenant:?}, {what}");
                verdict.compare(&what, (expected, expected), count);
            }
        }
        for tenant in found.keys() {
            verdict.foreign.push(format!("event_health: {tenant:?}"));
        }
        Ok(())
    }
}

/// What the receiver says.
pub(crate) struct Receipts<'a> {
    pub(crate) arrivals: &'a Arrivals,
    /// Most requests that came and were not recorded: those under way when a deliverer was killed.
    pub(crate) cut_off: u64,
}

/// What is recorded of one event and one destination.
#[derive(Debug, Default)]
struct Recorded {
    ids: BTreeSet<String>,
    /// Turns with an answer of 200, and with another.
    taken: u64,
    refused: u64,
    others: u64,
}

impl Books<'_> {
    /// Every accepted event was taken by each destination that wants it, always under the same id; what is
    /// recorded of it came to the receiver so often at least, and nothing else came or is recorded.
    pub(crate) async fn deliveries(
        &self,
        receipts: Receipts<'_>,
        verdict: &mut Verdict,
    ) -> anyhow::Result<()> {
        let Receipts { arrivals, cut_off } = receipts;
        for wrong in &arrivals.wrong {
            verdict.foreign.push(format!("request {wrong}"));
        }
        let mut recorded = self.recorded().await?;
        let mut seen = arrivals.seen.clone();
        let accepted = "SELECT tenant, event_id FROM events WHERE outcome = 'accepted'";
        let mut expected = 0;
        for row in self.rows(accepted).await? {
            for destination in receiver::that_take() {
                let key: Key = (row[0].clone(), destination.to_owned(), row[1].clone());
                let came = seen.remove(&key).unwrap_or_default();
                let noted = recorded.remove(&key).unwrap_or_default();
                let what = format!("delivery of {key:?}");
                expected += 1;
                if came.taken == 0 {
                    verdict.lost.push(format!("{what}: never taken"));
                }
                if came.ids.len() > 1 || !noted.ids.is_subset(&came.ids) {
                    let ids = (&came.ids, &noted.ids);
                    verdict
                        .doubled
                        .push(format!("{what}: under the ids {ids:?}"));
                }
                // Whoever was killed before the answer was recorded asks again: then it is recorded.
                verdict.compare(
                    &format!("{what}, recorded as taken"),
                    (1, came.taken),
                    noted.taken,
                );
                let refused = came.requests - came.taken;
                verdict.compare(
                    &format!("{what}, recorded as refused"),
                    (0, refused),
                    noted.refused,
                );
                verdict.compare(&format!("{what}, other turns"), (0, 0), noted.others);
            }
        }
        for key in seen.keys() {
            verdict.foreign.push(format!("request for {key:?}"));
        }
        for key in recorded.keys() {
            verdict.foreign.push(format!("record of {key:?}"));
        }
        let requests: u64 = arrivals.seen.values().map(|seen| seen.requests).sum();
        self.sums((requests, cut_off), expected, verdict).await
    }

    async fn recorded(&self) -> anyhow::Result<BTreeMap<Key, Recorded>> {
        let mut recorded: BTreeMap<Key, Recorded> = BTreeMap::new();
        let sql = "SELECT tenant, destination, event_id, delivery_id, countIf(status = 200), \
                   countIf(status = 500), countIf(ifNull(status, 0) NOT IN (200, 500)) \
                   FROM deliveries FINAL GROUP BY ALL";
        for row in self.rows(sql).await? {
            let key = (row[0].clone(), row[1].clone(), row[2].clone());
            let one = recorded.entry(key).or_default();
            one.ids.insert(row[3].clone());
            one.taken += number(&row, 4);
            one.refused += number(&row, 5);
            one.others += number(&row, 6);
        }
        Ok(recorded)
    }

    /// The views have what the table has, and the table what the receiver saw, but for requests cut off.
    async fn sums(
        &self,
        (requests, cut_off): (u64, u64),
        expected: u64,
        verdict: &mut Verdict,
    ) -> anyhow::Result<()> {
        let sql = "SELECT (SELECT count() FROM deliveries FINAL), \
                   (SELECT sum(attempts) FROM delivery_health), (SELECT sum(attempts) FROM delivery_states), \
                   (SELECT countIf(is_final AND result = 'delivered') FROM delivery_states)";
        let rows = self.rows(sql).await?;
        let turns = number(&rows[0], 0);
        let what = "requests recorded";
        verdict.compare(what, (requests.saturating_sub(cut_off), requests), turns);
        for (view, count) in [("delivery_health", 1), ("delivery_states", 2)] {
            let what = format!("requests in {view}");
            verdict.compare(&what, (turns, turns), number(&rows[0], count));
        }
        let what = "deliveries that ended as delivered";
        verdict.compare(what, (expected, expected), number(&rows[0], 3));
        Ok(())
    }
}

/// An answer that did not come leaves open whether the item was written.
fn bounds(sent: &Sent) -> (u64, u64) {
    (u64::from(sent.acknowledged), u64::from(sent.sends))
}

fn number(row: &[String], field: usize) -> u64 {
    row.get(field)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
