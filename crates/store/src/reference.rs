//! What the metric views need to know and only the program knows.

use std::collections::BTreeSet;
use std::time::Duration;

use chatpulse_model::source::Definition;
use clickhouse::Row;
use serde::Serialize;

use crate::Store;
use crate::error::StoreError;

/// One row of `source_observes`: the fields of the model's `Observes` under their own names, and the
/// neutral types of the documented events.
#[derive(Row, Serialize)]
struct SourceRow<'a> {
    source: &'a str,
    conversation_id: bool,
    visitor_messages: bool,
    bot_messages: bool,
    agent_messages: bool,
    messages_partial: bool,
    reported_total: bool,
    handoff_request: bool,
    human_join: bool,
    human_leave: bool,
    bot_return: bool,
    close: bool,
    resolve_or_positive_feedback: bool,
    csat: bool,
    nps: bool,
    feedback: bool,
    surveys: bool,
    goals: bool,
    contacts: bool,
    links: bool,
    consent: bool,
    partly: &'a [String],
    without_conversation: &'a [String],
    event_types: BTreeSet<&'static str>,
}

impl<'a> From<&'a Definition> for SourceRow<'a> {
    fn from(definition: &'a Definition) -> Self {
        let observes = definition.observes();
        SourceRow {
            source: definition.name(),
            conversation_id: observes.conversation_id,
            visitor_messages: observes.visitor_messages,
            bot_messages: observes.bot_messages,
            agent_messages: observes.agent_messages,
            messages_partial: observes.messages_partial,
            reported_total: observes.reported_total,
            handoff_request: observes.handoff_request,
            human_join: observes.human_join,
            human_leave: observes.human_leave,
            bot_return: observes.bot_return,
            close: observes.close,
            resolve_or_positive_feedback: observes.resolve_or_positive_feedback,
            csat: observes.csat,
            nps: observes.nps,
            feedback: observes.feedback,
            surveys: observes.surveys,
            goals: observes.goals,
            contacts: observes.contacts,
            links: observes.links,
            consent: observes.consent,
            partly: &observes.partly,
            without_conversation: &observes.without_conversation,
            event_types: definition
                .events()
                .values()
                .map(|event| event.event_type.as_str())
                .collect(),
        }
    }
}

#[derive(Row, Serialize)]
struct TenantRow<'a> {
    tenant: &'a str,
    conversation_timeout_seconds: u32,
}

impl Store {
    /// Writes what each source lets be seen; called at each start, after [`Store::migrate`]. The
    /// newest row of a source counts, a source that is not named keeps its row.
    pub async fn sync_sources<'a>(
        &self,
        definitions: impl IntoIterator<Item = &'a Definition>,
    ) -> Result<(), StoreError> {
        let insert = async {
            let mut insert = self
                .client
                .insert::<SourceRow<'_>>("source_observes")
                .await?;
            for definition in definitions {
                insert.write(&SourceRow::from(definition)).await?;
            }
            insert.end().await
        };
        self.within("writing what sources observe", insert).await
    }

    /// Writes after how much silence a tenant's conversations count as closed; 24 h where a tenant
    /// has no row. Whole seconds; 0 means the default.
    pub async fn sync_tenants(&self, timeouts: &[(&str, Duration)]) -> Result<(), StoreError> {
        let insert = async {
            let mut insert = self
                .client
                .insert::<TenantRow<'_>>("tenant_settings")
                .await?;
            for (tenant, timeout) in timeouts {
                let seconds = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
                let row = TenantRow {
                    tenant,
                    conversation_timeout_seconds: seconds,
                };
                insert.write(&row).await?;
            }
            insert.end().await
        };
        self.within("writing the settings of tenants", insert).await
    }
}
