//! The health page: plain HTML that needs nothing else. maud escapes every value.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::conversations::Conversations;
use crate::health::TenantHealth;
use crate::markdown::{latency, or_not_available, value};
use crate::overview::Overview;
use crate::text::one_line;
use crate::verdict::Judgement;

/// Longest text of unknown origin in a cell; characters.
const CELL: usize = 200;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8886; --healthy: #1a7f37; --degraded: #9a6700; --bad: #cf222e }
@media (prefers-color-scheme: dark) { :root { --healthy: #3fb950; --degraded: #d29922; --bad: #ff7b72 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 90rem; margin: 2rem auto; padding: 0 1rem }
.table { overflow-x: auto }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .75rem; border-bottom: 1px solid var(--line); vertical-align: top }
td.n { text-align: right }
caption { text-align: left; font-weight: 600; padding: .5rem 0 }
.healthy { color: var(--healthy) } .degraded { color: var(--degraded) } .silent, .failing { color: var(--bad) }
strong { font-weight: 600 }
";

/// The list of tenants.
pub(crate) fn index(overview: &Overview) -> String {
    let tenants = &overview.tenants;
    let body = html! {
        h1 { "chatpulse" }
        @if tenants.is_empty() {
            p { "No event has been stored yet." }
        } @else {
            div.table tabindex="0" { table {
                caption { "Tenants" }
                thead { tr {
                    th scope="col" { "Tenant" }
                    @for head in ["received", "accepted", "duplicate", "rejected"] { th scope="col" { (head) } }
                } }
                tbody { @for books in tenants { tr {
                    th scope="row" {
                        @if books.tenant.is_empty() { "(could not be decoded)" }
                        @else { a href={ "/?tenant=" (encoded(&books.tenant)) } { (one_line(&books.tenant, CELL)) } }
                    }
                    td.n { (books.received) } td.n { (books.accepted) }
                    td.n { (books.duplicate) } td.n { (books.rejected) }
                } } }
            } }
        }
    };
    page("chatpulse", &body)
}

/// The page of one tenant.
pub(crate) fn tenant(health: &TenantHealth, conversations: &Conversations) -> String {
    let tenant = encoded(&health.tenant);
    let body = html! {
        nav { a href="/" { "All tenants" } }
        h1 { "Health of " (one_line(&health.tenant, CELL)) }
        p { (verdict(&health.judgement)) ": " (health.judgement.reason) }
        p {
            "Received from " time { (health.window.since) } " to " time { (health.window.until) } " (UTC). "
            @for since in ["1h", "24h", "7d"] { a href={ "/?tenant=" (tenant) "&since=" (since) } { (since) } " " }
            a href={ "/v1/report/tenant-health?tenant=" (tenant) } { "JSON" }
        }
        (sources(health))
        (types(health))
        (drift(health))
        (rejections(health))
        h2 { "Conversations" }
        p { "Started in the same time, judged at " time { (or_not_available(conversations.state.as_of)) } ". Durations are median / p90 / p95. "
            a href={ "/v1/report/conversations?tenant=" (tenant) } { "JSON" } }
        (metrics(conversations))
    };
    page(
        &format!("Health of {}", one_line(&health.tenant, CELL)),
        &body,
    )
}

fn sources(health: &TenantHealth) -> Markup {
    html! { div.table tabindex="0" { table {
        caption { "Sources" }
        thead { tr { @for head in ["Source", "Verdict", "Reason", "Threshold", "Received", "Accepted", "Duplicate", "Rejected", "Lost in browser", "Messages missing"] {
            th scope="col" { (head) }
        } } }
        tbody { @for s in &health.sources { tr {
            th scope="row" { (one_line(&s.source, CELL)) }
            td { (verdict(&s.judgement)) }
            td { (s.judgement.reason) }
            td { (s.judgement.threshold.as_deref().unwrap_or("")) }
            td.n { (s.delivery.received) } td.n { (s.delivery.accepted) } td.n { (s.delivery.duplicate) } td.n { (s.delivery.rejected) }
            td.n { (or_not_available(s.lost_in_browser)) }
            td.n { (or_not_available(s.missing_messages)) }
        } } }
    } } }
}

fn types(health: &TenantHealth) -> Markup {
    html! { div.table tabindex="0" { table {
        caption { "Event types" }
        thead { tr { @for head in ["Source", "Type", "Verdict", "Reason", "Received", "Accepted", "Duplicate", "Rejected", "Late", "Occurred → received (p50 / p95 / p99)", "Received → queryable (p50 / p95 / p99)", "Last received"] {
            th scope="col" { (head) }
        } } }
        tbody { @for t in &health.types { tr {
            td { (one_line(&t.source, CELL)) }
            th scope="row" { (one_line(&t.event_type, CELL)) }
            td { (verdict(&t.judgement)) }
            td { (t.judgement.reason) }
            td.n { (t.delivery.received) } td.n { (t.delivery.accepted) } td.n { (t.delivery.duplicate) } td.n { (t.delivery.rejected) } td.n { (t.delivery.late) }
            td { (latency(t.delivery.receive_ms)) }
            td { (latency(t.delivery.queryable_ms)) }
            td { (or_not_available(t.delivery.last_received)) }
        } } }
    } } }
}

fn drift(health: &TenantHealth) -> Markup {
    let groups = [
        ("not documented", &health.drift.undocumented),
        ("new", &health.drift.appeared),
        ("vanished", &health.drift.vanished),
    ];
    if groups.iter().all(|(_, names)| names.is_empty()) {
        return html! {};
    }
    html! { div.table tabindex="0" { table {
        caption { "Drift of event names" }
        thead { tr { @for head in ["Source", "Name", "What", "Received", "Before", "Last received"] { th scope="col" { (head) } } } }
        tbody { @for (what, names) in groups { @for n in names { tr {
            td { (one_line(&n.source, CELL)) }
            th scope="row" { (one_line(&n.source_event, CELL)) }
            td { (what) }
            td.n { (n.received) } td.n { (n.baseline_received) }
            td { (n.last_received) }
        } } } }
    } } }
}

fn rejections(health: &TenantHealth) -> Markup {
    if health.rejections.is_empty() {
        return html! { p { "No rejections." } };
    }
    html! {
        div.table tabindex="0" { table {
            caption { "Rejected by reason" }
            thead { tr { @for head in ["Source", "Reason", "Rejected", "Last"] { th scope="col" { (head) } } } }
            tbody { @for r in &health.rejections { tr {
                td { (one_line(&r.source, CELL)) }
                th scope="row" { (one_line(&r.reason, CELL)) }
                td.n { (r.rejected) }
                td { (r.last_received) }
            } } }
        } }
        div.table tabindex="0" { table {
            caption { "Recent rejections" }
            thead { tr { @for head in ["Received", "Source", "Reason", "Detail", "Bytes", "SHA-256", "Raw position"] { th scope="col" { (head) } } } }
            tbody { @for r in &health.recent_rejections { tr {
                td { (r.received_at) }
                td { (one_line(&r.source, CELL)) }
                td { (one_line(&r.reason, CELL)) }
                td { (one_line(&r.detail, CELL)) }
                td.n { (or_not_available(r.bytes)) }
                td { code { (one_line(r.sha256.as_deref().unwrap_or(""), 64)) } }
                td { (r.partition) ":" (r.offset) }
            } } }
        } }
    }
}

fn metrics(conversations: &Conversations) -> Markup {
    html! { div.table tabindex="0" { table {
        caption { "Metrics; n/a where the source cannot show it" }
        thead { tr {
            th scope="col" { "Metric" } th scope="col" { "All" }
            @for source in &conversations.sources { th scope="col" { (one_line(source, CELL)) } }
        } }
        tbody { @for metric in &conversations.metrics { tr {
            th scope="row" { (metric.title) }
            td { (value(metric.overall.as_ref())) }
            @for source in &conversations.sources {
                td { (value(metric.by_source.get(source).and_then(Option::as_ref))) }
            }
        } } }
    } } }
}

fn verdict(judgement: &Judgement) -> Markup {
    let name = judgement.verdict.as_str();
    html! { strong class=(name) { (name) } }
}

fn page(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    }
    .into_string()
}

/// Percent-encoded for a query string.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_tenant_name_is_text_and_nothing_else() {
        let name = "<script>alert(1)</script>&\"'\u{202e}";
        let moment = crate::period::timestamp(0);
        let overview = Overview {
            window: crate::period::Span {
                since: moment,
                until: moment,
            },
            unit: chatpulse_store::Unit::Day,
            tenants: vec![crate::overview::TenantOverview {
                tenant: name.into(),
                received: 1,
                accepted: 1,
                duplicate: 0,
                rejected: 0,
                late: 0,
                last_received: moment,
                judgement: crate::verdict::judge(&crate::verdict::Counts::default()),
            }],
            series: vec![],
            stages: None,
        };
        let page = index(&overview);
        assert!(!page.contains("<script"));
        assert!(!page.contains('\u{202e}'));
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(page.contains("/?tenant=%3Cscript%3E"));
    }
}
