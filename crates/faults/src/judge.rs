//! The judge: what was acknowledged against the table and every view, by counts of its own.
//!
//! ```text
//! ledger (sent, acknowledged) ─┐
//! events, facts, health, … ────┴─► lost · doubled · wrong
//! ```

use std::collections::BTreeMap;

use crate::{
    load::{Ledger, Sent, TENANTS, conversation},
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

    /// Accepted events and outcomes that can be queried now.
    pub(crate) async fn progress(&self) -> anyhow::Result<(u64, u64)> {
        let rows = self
            .rows("SELECT countIf(outcome = 'accepted'), count() FROM events")
            .await?;
        Ok((number(&rows[0], 0), number(&rows[0], 1)))
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

/// An answer that did not come leaves open whether the item was written.
fn bounds(sent: &Sent) -> (u64, u64) {
    (u64::from(sent.acknowledged), u64::from(sent.sends))
}

fn number(row: &[String], field: usize) -> u64 {
    row.get(field)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
