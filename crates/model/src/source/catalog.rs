//! All definitions, by source name.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use super::{
    definition::{Definition, DefinitionError},
    json::Json,
};

/// The definitions that are compiled in.
const BUILTIN: &[(&str, &str)] = &[
    (
        "algomo.toml",
        include_str!("../../../../schemas/sources/algomo.toml"),
    ),
    (
        "autochat.toml",
        include_str!("../../../../schemas/sources/autochat.toml"),
    ),
    (
        "loyjoy.toml",
        include_str!("../../../../schemas/sources/loyjoy.toml"),
    ),
    (
        "userlike.toml",
        include_str!("../../../../schemas/sources/userlike.toml"),
    ),
    (
        "watermelon.toml",
        include_str!("../../../../schemas/sources/watermelon.toml"),
    ),
];

/// All source definitions, looked up by name. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    definitions: BTreeMap<String, Arc<Definition>>,
}

impl Catalog {
    /// The definitions of `schemas/sources`.
    pub fn builtin() -> &'static Catalog {
        static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
            Catalog::default()
                .extend(BUILTIN.iter().copied())
                .expect("the definitions that are compiled in hold; a test loads them")
        });
        &CATALOG
    }

    /// This catalogue and more definitions, each given as (file name, TOML text). One of a source
    /// that is here already must have a higher version, and replaces it.
    pub fn extend<'a>(
        &self,
        texts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Catalog, DefinitionError> {
        let mut definitions = self.definitions.clone();
        for (origin, text) in texts {
            let definition = Definition::from_toml(origin, text)?;
            if let Some(known) = definitions.get(definition.name())
                && known.version() >= definition.version()
            {
                return Err(DefinitionError::new(
                    origin,
                    format!(
                        "source {} is known in version {}: raise the version to replace it",
                        known.name(),
                        known.version()
                    ),
                ));
            }
            definitions.insert(definition.name().to_owned(), Arc::new(definition));
        }
        Ok(Catalog { definitions })
    }

    /// The definition of a source.
    pub fn get(&self, source: &str) -> Option<&Definition> {
        self.definitions.get(source).map(Arc::as_ref)
    }

    /// All definitions, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Definition> {
        self.definitions.values().map(Arc::as_ref)
    }

    /// The one definition that recognises an item (native payload or envelope) as its vendor's;
    /// `None` where none or several do, or where the item is no JSON object.
    pub fn recognise(&self, item: &[u8]) -> Option<&Definition> {
        let payload = Json::Object(super::Item::parse(item).ok()?.native);
        let mut found = self
            .iter()
            .filter(|definition| definition.recognises(&payload));
        found.next().filter(|_| found.next().is_none())
    }
}
