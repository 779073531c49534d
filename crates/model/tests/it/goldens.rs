//! The golden native payloads beside the source definitions, and a receipt to admit them with.

use chatpulse_model::source::{
    Admitted, Catalog, DEFAULT_MAX_ITEM_BYTES, Definition, Pseudonyms, Receipt,
};

/// When the goldens are received: ten minutes after the first of them happened.
pub(crate) const RECEIVED_AT: i64 = 1_768_471_800_000;

const FILES: &[(&str, &str)] = &[
    (
        "algomo",
        include_str!("../../../../schemas/sources/algomo.golden.ndjson"),
    ),
    (
        "autochat",
        include_str!("../../../../schemas/sources/autochat.golden.ndjson"),
    ),
    (
        "loyjoy",
        include_str!("../../../../schemas/sources/loyjoy.golden.ndjson"),
    ),
    (
        "userlike",
        include_str!("../../../../schemas/sources/userlike.golden.ndjson"),
    ),
    (
        "watermelon",
        include_str!("../../../../schemas/sources/watermelon.golden.ndjson"),
    ),
];

/// Every golden as (source, payload line), in the order of the files.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = |&(source, text): &(&'static str, &'static str)| {
        text.lines().map(move |line| (source, line))
    };
    FILES.iter().flat_map(lines)
}

/// The goldens of one source.
pub(crate) fn of(source: &str) -> impl Iterator<Item = &'static str> {
    all()
        .filter(move |(of, _)| *of == source)
        .map(|(_, line)| line)
}

pub(crate) fn definition(source: &str) -> &'static Definition {
    Catalog::builtin().get(source).expect("a built-in source")
}

/// A golden in the snippet's envelope, as event `sequence` of page session `ps-1`.
pub(crate) fn enveloped(native: &str, sequence: usize) -> String {
    format!(
        r#"{{"native":{native},"context":{{"event_id":"snip-{sequence}","session_id":"ps-1","sequence":{sequence},"occurred_at":{},"page_url":"https://shop.example.com/cart?user=Jane","sdk":"chatpulse.js/1.0"}}}}"#,
        RECEIVED_AT - 60_000 + sequence as i64 * 100,
    )
}

/// Admits an item for tenant `acme`, received at `received_at`.
pub(crate) fn admit_at(definition: &Definition, item: &[u8], received_at: i64) -> Admitted {
    let pseudonyms = Pseudonyms::new(b"a salt for tests only").unwrap();
    let receipt = Receipt {
        tenant: "acme",
        write_key_id: "wk-1",
        received_at,
        pseudonyms: &pseudonyms,
        max_item_bytes: DEFAULT_MAX_ITEM_BYTES,
    };
    definition.admit(item, &receipt)
}

/// Admits an item of a built-in source for tenant `acme` at [`RECEIVED_AT`].
pub(crate) fn admit(source: &str, item: &[u8]) -> Admitted {
    admit_at(definition(source), item, RECEIVED_AT)
}
