//! One source's TOML text ─► a checked [`Definition`].
//!
//! ```text
//! TOML ─ serde ─► Document ─ check ─► Definition
//! ```
//!
//! Everything that admit and map rely on is checked here once, so that neither can meet a
//! definition that contradicts itself: built-in definitions by a test, others when they are loaded.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::page::{Callback, Page};
use crate::event::{Actor, EventType, Phase, ScoreKind};

/// Longest event name; characters.
pub const MAX_NAME_CHARS: usize = 128;
/// Most properties of one event: kept fields and constants together.
pub const MAX_PROPERTIES: usize = 32;
/// How a path is written that means the snippet's page session instead of a field of the payload.
const PAGE_SESSION: &str = "context.session_id";

/// A source definition cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("source definition {origin}: {problem}")]
pub struct DefinitionError {
    origin: String,
    problem: String,
}

impl DefinitionError {
    pub(super) fn new(origin: &str, problem: impl Into<String>) -> Self {
        Self {
            origin: origin.to_owned(),
            problem: problem.into(),
        }
    }
}

/// A vendor as data: where its fields are, how each is treated, what each event means.
#[derive(Debug, Clone)]
pub struct Definition {
    pub(super) document: Document,
    pub(super) rules: Rules,
}

/// The TOML file as it is written; see `schemas/sources/README.md`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) title: String,
    pub(super) recognise: Recognise,
    pub(super) paths: Paths,
    pub(super) fields: BTreeMap<String, Treatment>,
    pub(super) events: BTreeMap<String, EventDefinition>,
    pub(super) observes: Observes,
    pub(super) page: Option<Page>,
}

/// How the vendor's payload is told from others'.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recognise {
    /// Fields that must be there, whatever their value.
    pub(super) present: Vec<Path>,
    /// What every event name begins with.
    #[serde(default)]
    pub(super) name_prefix: String,
    /// What every event name ends with.
    #[serde(default)]
    pub(super) name_suffix: String,
}

/// Where a record's parts stand in the payload; of several paths the first that holds a value wins.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paths {
    pub(super) name: Vec<Path>,
    /// Before the context's `occurred_at`.
    #[serde(default)]
    pub(super) time: Vec<Path>,
    /// Before the context's `event_id`.
    #[serde(default)]
    pub(super) event_id: Vec<Path>,
    #[serde(default)]
    pub(super) conversation_id: Vec<Path>,
    /// After the context's `session_id`, because sequence numbers count in that.
    #[serde(default)]
    pub(super) session_id: Vec<Path>,
    #[serde(default)]
    pub(super) visitor: Vec<Path>,
    #[serde(default)]
    pub(super) widget_id: Vec<Path>,
    #[serde(default)]
    pub(super) platform: Vec<Path>,
    #[serde(default)]
    pub(super) language: Vec<Path>,
    #[serde(default)]
    pub(super) link: Vec<Path>,
    #[serde(default)]
    pub(super) reported_total: Vec<Path>,
    #[serde(default)]
    pub(super) score: Vec<Path>,
}

/// A place in the record, written with dots between the keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub(super) enum Path {
    /// Keys from the outermost object inwards.
    Native(Vec<String>),
    /// `context.session_id`: the page session.
    PageSession,
}

impl From<String> for Path {
    fn from(text: String) -> Self {
        if text == PAGE_SESSION {
            Path::PageSession
        } else {
            Path::Native(text.split('.').map(str::to_owned).collect())
        }
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Path::Native(keys) => formatter.write_str(&keys.join(".")),
            Path::PageSession => formatter.write_str(PAGE_SESSION),
        }
    }
}

/// What redaction does with a field. A field that the definition does not list is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
    /// Personal or useless: removed.
    Drop,
    /// Proved harmless: kept, yet masked where its value is no token.
    Keep,
    /// Written by people: e-mail addresses and phone numbers masked.
    Text,
    /// A link: cut to scheme, host and path.
    Url,
    /// The event's name.
    Name,
    /// A time: checked, kept as milliseconds since the epoch.
    Time,
    /// A machine's id, not a person's: checked, kept as text; pseudonymised where it holds an
    /// e-mail address or phone number.
    Id,
    /// A count or score: checked, a whole number not below zero.
    Number,
    /// A person's id or name: a keyed hash in the domain named.
    Pseudonymise(String),
}

impl Treatment {
    /// The name used in definitions.
    pub fn as_str(&self) -> &'static str {
        match self {
            Treatment::Drop => "drop",
            Treatment::Keep => "keep",
            Treatment::Text => "text",
            Treatment::Url => "url",
            Treatment::Name => "name",
            Treatment::Time => "time",
            Treatment::Id => "id",
            Treatment::Number => "number",
            Treatment::Pseudonymise(_) => "pseudonymise",
        }
    }
}

/// What one vendor event means.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventDefinition {
    /// Neutral type; [`EventType::Custom`] where nothing neutral is proved.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Who acted.
    pub actor: Actor,
    /// What the event proves, in the words of the vendor's document or, where they mislead, ours.
    pub proves: String,
    /// Goal that it reaches.
    pub goal: Option<String>,
    /// Score that it stands for; where absent and a kind is given, the payload's own.
    pub score: Option<f64>,
    /// Scale of the score.
    pub score_kind: Option<ScoreKind>,
    /// Platform that it stands for.
    pub platform: Option<String>,
    /// Properties that it stands for, e.g. the channel of an opt-in.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

/// What a source lets be seen (metrics.md): reports show n/a for a metric that needs more. Each
/// flag says "where it happens, an event of this source says so", except that `messages_partial`
/// says that some messages have no event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each flag is explained by its namesake in metrics.md
pub struct Observes {
    /// False: the page session stands for the conversation.
    pub conversation_id: bool,
    pub visitor_messages: bool,
    pub bot_messages: bool,
    pub agent_messages: bool,
    pub messages_partial: bool,
    pub reported_total: bool,
    pub handoff_request: bool,
    pub human_join: bool,
    pub human_leave: bool,
    pub bot_return: bool,
    pub close: bool,
    /// Feedback known to be positive: a source without ratings and thumbs has none.
    pub resolve_or_positive_feedback: bool,
    /// Ratings on the stars or thumbs scale.
    pub csat: bool,
    pub nps: bool,
    /// Feedback was given, whatever its value.
    pub feedback: bool,
    pub surveys: bool,
    pub goals: bool,
    pub contacts: bool,
    pub links: bool,
    pub consent: bool,
    /// Flags that show only some of what happens.
    #[serde(default)]
    pub partly: Vec<String>,
    /// Flags whose events do not say of which conversation they are: no metric of conversations can
    /// count them.
    #[serde(default)]
    pub without_conversation: Vec<String>,
    /// Phase in which a conversation begins; absent where phases cannot be seen.
    pub initial_phase: Option<Phase>,
}

/// The fields table as a tree, walked beside the payload.
#[derive(Debug, Clone)]
pub(super) struct Rules(pub(super) BTreeMap<String, Rule>);

#[derive(Debug, Clone)]
pub(super) enum Rule {
    Leaf { path: String, treatment: Treatment },
    Branch { path: String, rules: Rules },
}

impl Rules {
    fn insert(&mut self, path: &str, keys: &[&str], treatment: &Treatment) -> Result<(), String> {
        let conflict = || format!("fields: {path} and a part of it are both listed: list one");
        let Some((key, inner)) = keys.split_first() else {
            return Err("fields: a path is empty".to_owned());
        };
        if key.is_empty() {
            return Err(format!("fields: {path} has an empty key"));
        }
        let listed = self.0.get_mut(*key);
        if inner.is_empty() {
            if listed.is_some() {
                return Err(conflict());
            }
            let leaf = Rule::Leaf {
                path: path.to_owned(),
                treatment: treatment.clone(),
            };
            self.0.insert((*key).to_owned(), leaf);
            return Ok(());
        }
        match listed {
            Some(Rule::Branch { rules, .. }) => rules.insert(path, inner, treatment),
            Some(Rule::Leaf { .. }) => Err(conflict()),
            None => {
                let mut rules = Rules(BTreeMap::new());
                rules.insert(path, inner, treatment)?;
                let depth = path.len() - inner.join(".").len() - 1;
                let branch = Rule::Branch {
                    path: path[..depth].to_owned(),
                    rules,
                };
                self.0.insert((*key).to_owned(), branch);
                Ok(())
            }
        }
    }
}

impl Definition {
    /// Reads and checks a definition; `origin` names it in errors, e.g. its file name.
    pub fn from_toml(origin: &str, text: &str) -> Result<Self, DefinitionError> {
        let document: Document = toml::from_str(text)
            .map_err(|error| DefinitionError::new(origin, error.to_string()))?;
        let checked = document.check().and_then(|()| document.rules());
        match checked {
            Ok(rules) => Ok(Self { document, rules }),
            Err(problem) => Err(DefinitionError::new(origin, problem)),
        }
    }

    /// The source's name, as in the request path: lower-case letters, digits, `-`, `_`.
    pub fn name(&self) -> &str {
        &self.document.name
    }

    /// The definition's version, from 1.
    pub fn version(&self) -> u32 {
        self.document.version
    }

    /// The vendor's name for people.
    pub fn title(&self) -> &str {
        &self.document.title
    }

    /// What the source lets be seen.
    pub fn observes(&self) -> &Observes {
        &self.document.observes
    }

    /// Every documented event by the vendor's name for it.
    pub fn events(&self) -> &BTreeMap<String, EventDefinition> {
        &self.document.events
    }

    /// How its events are heard in a page; absent where they come from elsewhere only.
    pub fn page(&self) -> Option<&Page> {
        self.document.page.as_ref()
    }

    /// Where a payload has what: the first path of each part (`name`, `time`, `event_id`, `conversation_id`,
    /// `session_id`, `visitor`, `widget_id`, `platform`, `language`, `link`, `reported_total`), of those that
    /// are in the payload itself.
    pub fn places(&self) -> BTreeMap<&'static str, String> {
        let paths = &self.document.paths;
        let parts = [
            ("name", &paths.name),
            ("time", &paths.time),
            ("event_id", &paths.event_id),
            ("conversation_id", &paths.conversation_id),
            ("session_id", &paths.session_id),
            ("visitor", &paths.visitor),
            ("widget_id", &paths.widget_id),
            ("platform", &paths.platform),
            ("language", &paths.language),
            ("link", &paths.link),
            ("reported_total", &paths.reported_total),
        ];
        let first = |paths: &[Path]| match paths.first()? {
            path @ Path::Native(_) => Some(path.to_string()),
            Path::PageSession => None,
        };
        parts
            .into_iter()
            .filter_map(|(part, paths)| Some((part, first(paths)?)))
            .collect()
    }

    /// Fields by which its payloads are recognised.
    pub fn required(&self) -> impl Iterator<Item = String> {
        self.document.recognise.present.iter().map(Path::to_string)
    }

    /// Every listed field by its path.
    pub fn fields(&self) -> &BTreeMap<String, Treatment> {
        &self.document.fields
    }
}

impl Document {
    fn rules(&self) -> Result<Rules, String> {
        let mut rules = Rules(BTreeMap::new());
        for (path, treatment) in &self.fields {
            rules.insert(path, &path.split('.').collect::<Vec<_>>(), treatment)?;
        }
        Ok(rules)
    }

    fn check(&self) -> Result<(), String> {
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
        if !(1..=32).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            return Err("name: 1 to 32 of a-z, 0-9, _ and - are needed".to_owned());
        }
        if self.version == 0 {
            return Err("version: count from 1".to_owned());
        }
        self.check_paths()?;
        self.check_events()?;
        self.check_properties()?;
        self.check_page()?;
        self.check_observes()
    }

    fn check_paths(&self) -> Result<(), String> {
        let paths = &self.paths;
        if paths.name.is_empty() {
            return Err("paths.name: without it no event has a name".to_owned());
        }
        let roles: [(&str, &[Path], &str); 12] = [
            ("name", &paths.name, "name"),
            ("time", &paths.time, "time"),
            ("event_id", &paths.event_id, "id"),
            ("conversation_id", &paths.conversation_id, "id"),
            ("session_id", &paths.session_id, "id"),
            ("visitor", &paths.visitor, "pseudonymise"),
            ("widget_id", &paths.widget_id, "id"),
            ("platform", &paths.platform, "keep"),
            ("language", &paths.language, "keep"),
            ("link", &paths.link, "url"),
            ("reported_total", &paths.reported_total, "number"),
            ("score", &paths.score, "number"),
        ];
        for (role, candidates, wanted) in roles {
            for path in candidates {
                match path {
                    Path::PageSession if role == "conversation_id" => {}
                    Path::PageSession => {
                        return Err(format!(
                            "paths.{role}: {PAGE_SESSION} can only stand for a conversation"
                        ));
                    }
                    Path::Native(keys) => {
                        let path = keys.join(".");
                        if self.fields.get(&path).map(Treatment::as_str) != Some(wanted) {
                            return Err(format!(
                                "paths.{role}: list {path} in [fields] as {wanted}"
                            ));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn check_events(&self) -> Result<(), String> {
        if self.events.is_empty() {
            return Err("events: at least one is needed".to_owned());
        }
        for (name, event) in &self.events {
            let refuse = |problem: &str| Err(format!("events.{name:?}: {problem}"));
            if name.trim() != name
                || name.is_empty()
                || name.chars().count() > MAX_NAME_CHARS
                || name.chars().any(char::is_control)
            {
                return refuse("no payload can carry this name: trim or shorten it");
            }
            if event.event_type == EventType::Unknown {
                return refuse("type unknown is for refused records: use custom");
            }
            if event.proves.trim().is_empty() {
                return refuse("proves: say what the event proves");
            }
            match (event.score, event.score_kind) {
                (Some(_), None) => return refuse("a score needs its score_kind"),
                (None, Some(_)) if self.paths.score.is_empty() => {
                    return refuse("score_kind needs a score, or paths.score");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Properties are named by the last key of their path, so it must be unambiguous.
    fn check_properties(&self) -> Result<(), String> {
        let mut names = BTreeMap::new();
        let kept = |treatment: &Treatment| !matches!(treatment, Treatment::Drop | Treatment::Name);
        for path in self
            .fields
            .iter()
            .filter(|(_, treatment)| kept(treatment))
            .map(|(path, _)| path)
        {
            let name = path.rsplit('.').next().unwrap_or(path);
            if let Some(other) = names.insert(name, path.as_str()) {
                return Err(format!(
                    "fields: {other} and {path} would be one property: drop one"
                ));
            }
        }
        for (event, definition) in &self.events {
            for name in definition.properties.keys() {
                if let Some(path) = names.get(name.as_str()) {
                    return Err(format!(
                        "events.{event:?}: property {name} would hide field {path}: rename it"
                    ));
                }
            }
            if names.len() + definition.properties.len() > MAX_PROPERTIES {
                return Err(format!(
                    "events.{event:?}: more than {MAX_PROPERTIES} properties: drop fields"
                ));
            }
        }
        Ok(())
    }

    /// What the page snippet makes of a hook must be what the paths read.
    fn check_page(&self) -> Result<(), String> {
        let Some(page) = &self.page else {
            return Ok(());
        };
        let name = self.paths.name.first();
        let plain = |key: &str| name == Some(&Path::Native(vec![key.to_owned()]));
        if page == &Page::default() {
            return Err("page: name a hook, or leave the table out".to_owned());
        }
        if page.data_layer && !matches!(name, Some(Path::Native(keys)) if keys.len() == 1) {
            return Err("page.data_layer: the first of paths.name must be a plain key".to_owned());
        }
        let first = |callback: &Callback| callback.arguments.first().cloned();
        if let Some(callback) = &page.callback
            && !first(callback).is_some_and(|argument| plain(&argument))
        {
            return Err(
                "page.callback: the first argument must be the first of paths.name".to_owned(),
            );
        }
        Ok(())
    }

    /// `[observes]` is written out for its readers; here it is held to the events table.
    fn check_observes(&self) -> Result<(), String> {
        use EventType as T;

        let declared = &self.observes;
        let typed = |types: &[EventType]| {
            self.events
                .values()
                .any(|event| types.contains(&event.event_type))
        };
        let messages = |actor: Actor| {
            self.events
                .values()
                .any(|event| event.event_type == T::MessageSent && event.actor == actor)
        };
        let scored = |kinds: &[ScoreKind]| {
            self.events
                .values()
                .any(|event| event.score_kind.is_some_and(|kind| kinds.contains(&kind)))
        };
        let rated = scored(&[ScoreKind::Stars, ScoreKind::Thumbs]);
        let native_conversation = self
            .paths
            .conversation_id
            .iter()
            .any(|path| matches!(path, Path::Native(_)));
        let flags = [
            (
                "conversation_id",
                declared.conversation_id,
                native_conversation,
            ),
            (
                "visitor_messages",
                declared.visitor_messages,
                messages(Actor::Visitor),
            ),
            ("bot_messages", declared.bot_messages, messages(Actor::Bot)),
            (
                "agent_messages",
                declared.agent_messages,
                messages(Actor::Agent),
            ),
            (
                "reported_total",
                declared.reported_total,
                !self.paths.reported_total.is_empty(),
            ),
            (
                "handoff_request",
                declared.handoff_request,
                typed(&[T::HandoffRequested]),
            ),
            ("human_join", declared.human_join, typed(&[T::AgentJoined])),
            ("human_leave", declared.human_leave, typed(&[T::AgentLeft])),
            ("bot_return", declared.bot_return, typed(&[T::BotResumed])),
            (
                "close",
                declared.close,
                typed(&[T::ConversationEnded, T::ConversationDeleted]),
            ),
            (
                "resolve_or_positive_feedback",
                declared.resolve_or_positive_feedback,
                rated,
            ),
            ("csat", declared.csat, rated),
            ("nps", declared.nps, scored(&[ScoreKind::Nps])),
            (
                "feedback",
                declared.feedback,
                typed(&[T::FeedbackSubmitted]),
            ),
            (
                "surveys",
                declared.surveys,
                typed(&[T::SurveyShown, T::SurveySubmitted]),
            ),
            (
                "goals",
                declared.goals,
                self.events.values().any(|event| event.goal.is_some()),
            ),
            ("contacts", declared.contacts, typed(&[T::ContactSubmitted])),
            ("links", declared.links, typed(&[T::LinkClicked])),
            (
                "consent",
                declared.consent,
                typed(&[T::ConsentAccepted, T::ConsentDeclined]),
            ),
        ];
        for (list, named) in [
            ("partly", &declared.partly),
            ("without_conversation", &declared.without_conversation),
        ] {
            let unknown = named.iter().find(|name| {
                !flags
                    .iter()
                    .any(|(flag, declared, _)| flag == name && *declared)
            });
            if let Some(unknown) = unknown {
                return Err(format!(
                    "observes.{list}: {unknown} is no flag that is true"
                ));
            }
        }
        for (flag, declared, shown) in flags {
            if declared != shown {
                return Err(format!(
                    "observes.{flag}: says {declared}, but the events and paths say {shown}"
                ));
            }
        }
        Ok(())
    }
}
