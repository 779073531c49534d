//! axe-core in the page: faults of accessibility that a program can find.

use serde_json::Value;
use tokio::sync::OnceCell;

use crate::page::Page;
use crate::script;

/// A rule that the page breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule, for instance `color-contrast`.
    pub rule: String,
    /// What it asks for.
    pub help: String,
    /// The elements that break it, with what is wrong with each.
    pub elements: Vec<String>,
}

impl Page {
    /// The rules of WCAG 2.2 A and AA and of good practice that the page, as it is shown now, breaks.
    pub async fn violations(&self) -> Vec<Violation> {
        static AXE: OnceCell<String> = OnceCell::const_new();
        let axe = AXE
            .get_or_init(|| async {
                let path = script("axe").await;
                std::fs::read_to_string(&path)
                    .unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
            })
            .await;
        self.evaluate(&format!("{axe};0")).await;
        let found = self
            .evaluate(
                "axe.run(document, {resultTypes: ['violations']}).then(({violations}) => violations.map(v => ({
                    rule: v.id, help: v.help,
                    elements: v.nodes.map(n => n.target.join(' ') + ': ' + n.failureSummary)})))",
            )
            .await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        found
            .as_array()
            .expect("a list of violations")
            .iter()
            .map(|violation| Violation {
                rule: text(&violation["rule"]),
                help: text(&violation["help"]),
                elements: violation["elements"]
                    .as_array()
                    .map(|elements| elements.iter().map(text).collect())
                    .unwrap_or_default(),
            })
            .collect()
    }
}
