//! What the page snippet must know of a source: how to hear it, and what may leave the browser.
//!
//! ```text
//! Definition ─ page_rules ─► PageRules ─ JSON ─► the snippet (crates/producer/snippet)
//! ```
//!
//! The rules are made of the definition's own tables, so that page and producer cannot come apart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::definition::{Definition, Path, Rule, Rules, Treatment};

/// How a vendor's events are heard in a page; see `schemas/sources/README.md`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Page {
    /// The vendor, or the site for it, pushes them to `window.dataLayer`.
    pub data_layer: bool,
    /// CustomEvent on `window`; every documented name is an alias of it.
    pub window_event: Option<String>,
    /// The vendor calls a function that the page defines.
    pub callback: Option<Callback>,
    /// The page hands a list of functions to the vendor, which calls them.
    pub listener: Option<Listener>,
}

/// A function on `window` that the vendor calls.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callback {
    /// Its name.
    pub function: String,
    /// Names of its arguments in the payload, in order.
    pub arguments: Vec<String>,
}

/// A vendor's function on `window` that takes listeners: `function(command, {option: [listener]})`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Its name.
    pub function: String,
    /// First argument of the call that takes listeners.
    pub command: String,
    /// Key of the list in the second argument.
    pub option: String,
}

/// A source as the snippet reads it. The keys are short because every visitor loads them.
#[derive(Debug, Clone, Serialize)]
pub struct PageRules {
    /// The source's name, as in the request path.
    n: String,
    /// Where the event's name stands.
    k: Vec<String>,
    /// What may stay, and how it is treated; what is not here does not leave the page.
    f: Fields,
    /// Data layer: begin and end of every name, and paths that must be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<(String, String, Vec<Vec<String>>)>,
    /// Events on `window`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    w: Vec<String>,
    /// Callback: its name, then the names of its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    c: Vec<String>,
    /// Listener: function, command, option.
    #[serde(skip_serializing_if = "Option::is_none")]
    l: Option<(String, String, String)>,
}

/// The fields table as a tree, without what is dropped.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum Fields {
    Leaf(String),
    Branch(BTreeMap<String, Fields>),
}

impl Definition {
    /// The rules of the page snippet; `None` where the source is not heard in pages.
    pub fn page_rules(&self) -> Option<PageRules> {
        let page = self.page()?;
        let recognise = &self.document.recognise;
        let names = self.document.paths.name.iter();
        let mut events = Vec::new();
        if let Some(stable) = &page.window_event {
            events.push(stable.clone());
            events.extend(self.events().keys().filter(|name| *name != stable).cloned());
        }
        let callback = page.callback.iter();
        Some(PageRules {
            n: self.name().to_owned(),
            k: names.map(keys).next().unwrap_or_default(),
            f: fields(&self.rules),
            d: page.data_layer.then(|| {
                (
                    recognise.name_prefix.clone(),
                    recognise.name_suffix.clone(),
                    recognise.present.iter().map(keys).collect(),
                )
            }),
            w: events,
            c: callback
                .flat_map(|callback| [&callback.function].into_iter().chain(&callback.arguments))
                .cloned()
                .collect(),
            l: page.listener.clone().map(|listener| {
                let Listener {
                    function,
                    command,
                    option,
                } = listener;
                (function, command, option)
            }),
        })
    }
}

fn keys(path: &Path) -> Vec<String> {
    match path {
        Path::Native(keys) => keys.clone(),
        Path::PageSession => Vec::new(),
    }
}

fn fields(rules: &Rules) -> Fields {
    let kept = |rule: &Rule| match rule {
        Rule::Leaf { treatment, .. } => letter(treatment).map(Fields::Leaf),
        Rule::Branch { rules, .. } => Some(fields(rules)),
    };
    let listed = rules.0.iter();
    Fields::Branch(
        listed
            .filter_map(|(key, rule)| Some((key.clone(), kept(rule)?)))
            .collect(),
    )
}

/// A treatment in the snippet; a pseudonym's domain follows its letter.
fn letter(treatment: &Treatment) -> Option<String> {
    Some(match treatment {
        Treatment::Drop => return None,
        Treatment::Keep => "k".to_owned(),
        // A name that is not documented is masked like text; a documented one has nothing to mask.
        Treatment::Text | Treatment::Name => "x".to_owned(),
        Treatment::Url => "u".to_owned(),
        Treatment::Time => "t".to_owned(),
        Treatment::Id => "i".to_owned(),
        Treatment::Number => "d".to_owned(),
        Treatment::Pseudonymise(domain) => format!("p{domain}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{Catalog, mask},
        *,
    };

    fn rules(source: &str) -> serde_json::Value {
        serde_json::to_value(Catalog::builtin().get(source).unwrap().page_rules()).unwrap()
    }

    #[test]
    fn the_rules_hold_what_may_stay_and_nothing_that_is_dropped() {
        let userlike = rules("userlike");
        assert_eq!(
            userlike["f"],
            json!({
                "event_name": "x",
                "global_ctx": {"client_uuid": "pvisitor", "operator_group_id": "i",
                               "widget_id": "i", "widget_lang": "k"},
                "session_ctx": {"session_id": "i", "chat_id": "i", "operator_id": "pagent"},
            })
        );
        assert_eq!(
            userlike["c"],
            json!([
                "userlikeTrackingEvent",
                "event_name",
                "global_ctx",
                "session_ctx"
            ])
        );
    }

    #[test]
    fn every_documented_source_is_heard_in_a_page() {
        for definition in Catalog::builtin().iter() {
            let rules = definition.page_rules();
            assert!(rules.is_some(), "{}", definition.name());
        }
        let autochat = rules("autochat");
        assert_eq!(
            autochat["w"].as_array().unwrap().len(),
            8,
            "the stable name and 7 aliases"
        );
        assert_eq!(autochat["w"][0], "autochat.widget_tracking.v1");
        assert_eq!(autochat["k"], json!(["detail", "event_type"]));
        assert_eq!(
            rules("algomo")["d"],
            json!(["", " (Algomo Widget)", [["event"]]])
        );
        assert_eq!(
            rules("loyjoy")["l"],
            json!(["LoyJoy", "boot", "eventListeners"])
        );
    }

    #[test]
    fn a_documented_name_has_nothing_to_mask() {
        for definition in Catalog::builtin().iter() {
            for name in definition.events().keys() {
                assert_eq!(mask::text(name), name.as_str());
            }
        }
    }

    #[test]
    fn a_hook_that_the_paths_do_not_fit_is_refused() {
        let algomo = include_str!("../../../../schemas/sources/algomo.toml");
        for (hook, key) in [
            ("", "page:"),
            ("data_layer = false", "page:"),
            (
                "callback = { function = \"f\", arguments = [\"other\"] }",
                "page.callback",
            ),
            (
                "callback = { function = \"f\", arguments = [] }",
                "page.callback",
            ),
            ("ears = 2", "ears"),
        ] {
            let text = algomo.replace("data_layer = true", hook);
            let error = Definition::from_toml("algomo.toml", &text)
                .unwrap_err()
                .to_string();
            assert!(error.contains(key), "{hook}: {error}");
        }
        let autochat = include_str!("../../../../schemas/sources/autochat.toml");
        let text = autochat.replace(
            "window_event = \"autochat.widget_tracking.v1\"",
            "data_layer = true",
        );
        let error = Definition::from_toml("autochat.toml", &text)
            .unwrap_err()
            .to_string();
        assert!(error.contains("page.data_layer"), "{error}");
    }
}
