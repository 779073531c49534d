//! Who may read the views for analysts, on a ClickHouse that has access control.
//!
//! ```text
//! migrate ──► may this user make roles? ── no ──► a log line, no more
//!                    │ yes                        (the embedded ClickHouse)
//!                    ▼
//!             profile and role (schemas/clickhouse/readers.sql)
//! add_reader ──► user with the profile ──► the role: all tenants
//!                                     └──► row policies, then the views one by one: one tenant
//! ```

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::Store;
use crate::dictionary::Dictionary;
use crate::error::StoreError;
use crate::migrations::{quoted, split};

/// An analyst's user.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// Name of the user: a-z, 0-9, - and _, at most 64.
    pub name: &'a str,
    /// Password, at least 12 characters. Only a salted hash of it is sent.
    pub password: &'a str,
    /// The tenant whose rows the user sees; none for those of all tenants.
    pub tenant: Option<&'a str>,
}

/// Fewer characters are guessed too easily.
const PASSWORD_LENGTH: usize = 12;
/// ClickHouse's code of missing rights.
const ACCESS_DENIED: u32 = 497;

/// Why there is no access control to use, in words for an operator.
type Lacking = &'static str;

const NO_RIGHT: Lacking = "ClickHouse gives this user no right to make users and roles \
                           (the embedded ClickHouse has no access control)";
const NO_WORD: Lacking = "ClickHouse does not say whether this user may make users and roles (CHECK GRANT, \
                          system.user_directories)";
const NO_PLACE: Lacking = "ClickHouse keeps its users in a file alone: it has no user directory \
                           that can be written to";

impl Store {
    /// Makes the role of analysts where ClickHouse has access control and this user may do it; says
    /// so in the log where not.
    pub(crate) async fn apply_reader_role(&self) -> Result<(), StoreError> {
        if let Some(lacking) = self.access_control().await? {
            tracing::info!("the role of analysts is left out: {lacking}");
            return Ok(());
        }
        for statement in role(&self.config.bi_database()) {
            match self.change_access(&statement).await {
                // E.g. without the grant option on the views.
                Err(StoreError::Server {
                    code: ACCESS_DENIED,
                    message,
                    ..
                }) => {
                    tracing::warn!("the role of analysts is left out or incomplete: {message}");
                    return Ok(());
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// Makes a user for an analyst, or gives one that was made so another password and tenant. Fails
    /// where ClickHouse has no access control that this user may change, and where a user of that
    /// name is somebody else's.
    pub async fn add_reader(&self, reader: &Reader<'_>) -> Result<(), StoreError> {
        check(reader)?;
        if let Some(lacking) = self.access_control().await? {
            return Err(refused(lacking));
        }
        let bi_database = self.config.bi_database();
        let exists = "SELECT count() FROM system.users WHERE name = ?";
        let ours = "SELECT count() FROM system.settings_profile_elements
                    WHERE user_name = ? AND inherit_profile = ?";
        let exists = self.client.query(exists).bind(reader.name);
        let ours = self.client.query(ours).bind(reader.name);
        let ours = ours.bind(role_name(&bi_database));
        let doing = "looking for the user";
        let known: u64 = self.within(doing, exists.fetch_one()).await?;
        let ours: u64 = self.within(doing, ours.fetch_one()).await?;
        if known > 0 && ours == 0 {
            return Err(refused(
                "a user of this name is there and was not made by chatpulse: choose another name",
            ));
        }
        let mut salt = [0_u8; 16];
        getrandom::fill(&mut salt).map_err(|_| refused("the system gives no random numbers"))?;
        for statement in user(reader, &hex(&salt), &bi_database) {
            self.change_access(&statement).await?;
        }
        Ok(())
    }

    /// Why users and roles cannot be made, as ClickHouse says; none where they can.
    async fn access_control(&self) -> Result<Option<Lacking>, StoreError> {
        let rights = self.number(
            "CHECK GRANT CREATE USER, ALTER USER, CREATE ROLE, CREATE SETTINGS PROFILE, CREATE ROW POLICY, \
             DROP ROW POLICY ON *.*",
        );
        let places = self.number(
            "SELECT toUInt8(count() > 0) FROM system.user_directories WHERE type NOT IN ('users_xml', 'ldap')",
        );
        Ok(match rights.await? {
            None => Some(NO_WORD),
            Some(0) => Some(NO_RIGHT),
            Some(_) => match places.await? {
                None => Some(NO_WORD),
                Some(0) => Some(NO_PLACE),
                Some(_) => None,
            },
        })
    }

    /// The answer to a question about rights; none where ClickHouse does not understand it (an older
    /// one), or does not let this user ask.
    async fn number(&self, question: &str) -> Result<Option<u8>, StoreError> {
        let asked = self.client.query_raw(question).fetch_one();
        match self
            .within("asking for the rights on users and roles", asked)
            .await
        {
            Err(StoreError::Server { .. }) => Ok(None),
            answer => answer.map(Some),
        }
    }

    async fn change_access(&self, statement: &str) -> Result<(), StoreError> {
        let change = self.client.query_raw(statement);
        self.within("changing who may read", change.execute()).await
    }
}

fn refused(reason: &str) -> StoreError {
    StoreError::Reader {
        reason: reason.to_owned(),
    }
}

fn check(reader: &Reader<'_>) -> Result<(), StoreError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let name = reader.name;
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(refused("its name must be 1 to 64 of a-z, 0-9, - and _"));
    }
    if reader.password.chars().count() < PASSWORD_LENGTH {
        return Err(refused("its password must have at least 12 characters"));
    }
    match reader.tenant {
        Some("") => Err(refused("the tenant has no name")),
        _ => Ok(()),
    }
}

fn role_name(bi_database: &str) -> String {
    format!("{bi_database}_reader")
}

/// What makes the role.
fn role(bi_database: &str) -> Vec<String> {
    let sql = include_str!("../../../schemas/clickhouse/readers.sql");
    let sql = sql.replace("{bi}", &quoted(bi_database));
    split(&sql.replace("{reader}", &quoted(&role_name(bi_database))))
}

/// What makes the user, in an order in which it never sees more than it will see in the end.
fn user(reader: &Reader<'_>, salt: &str, bi_database: &str) -> Vec<String> {
    let (bi, role) = (quoted(bi_database), quoted(&role_name(bi_database)));
    let name = quoted(reader.name);
    let hash = Sha256::digest(format!("{}{salt}", reader.password));
    let identified = format!(
        "{name} IDENTIFIED WITH sha256_hash BY '{}' SALT '{salt}' DEFAULT DATABASE {bi} SETTINGS PROFILE {role}",
        hex(&hash)
    );
    let mut statements = vec![
        format!("CREATE USER IF NOT EXISTS {identified}"),
        format!("REVOKE {role} FROM {name}"),
        format!("REVOKE SELECT ON {bi}.* FROM {name}"),
        format!("ALTER USER {identified}"),
    ];
    let views = Dictionary::compiled_in(bi_database).views;
    for view in views.iter().filter(|view| view.has_tenants()) {
        let view = format!("{bi}.{}", quoted(&view.name));
        match reader.tenant {
            // Without a permissive policy for everybody else, ClickHouse may show them nothing as
            // soon as there is a policy for one (users_without_row_policies_can_read_rows).
            Some(tenant) => statements.extend([
                format!(
                    "CREATE ROW POLICY IF NOT EXISTS {role} ON {view} AS PERMISSIVE FOR SELECT USING 1 TO ALL"
                ),
                format!(
                    "CREATE ROW POLICY OR REPLACE {name} ON {view} AS RESTRICTIVE FOR SELECT USING tenant = {} TO {name}",
                    literal(tenant)
                ),
            ]),
            None => statements.push(format!("DROP ROW POLICY IF EXISTS {name} ON {view}")),
        }
    }
    match reader.tenant {
        // View by view: one that a later program brings is not seen until there is a policy on it.
        Some(_) => statements.extend(
            views
                .iter()
                .map(|view| format!("GRANT SELECT ON {bi}.{} TO {name}", quoted(&view.name))),
        ),
        None => statements.push(format!("GRANT {role} TO {name}")),
    }
    statements
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Every statement that is ever sent, for tests that cannot send them.
#[doc(hidden)]
pub fn access_statements(reader: &Reader<'_>, bi_database: &str) -> Vec<String> {
    let mut statements = role(bi_database);
    statements.extend(user(reader, "5a17", bi_database));
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(tenant: Option<&str>) -> Reader<'_> {
        Reader {
            name: "anna",
            password: "correct horse battery",
            tenant,
        }
    }

    #[test]
    fn a_password_is_sent_as_a_salted_hash_alone() {
        let statements = user(&reader(None), "5a17", "shop_bi").join("\n");
        // sha256sum of `correct horse battery5a17`.
        let hash = "b1663d042d906586ba3e3dc95d740cc3f6d665f80dfa81eee063e52d4fc7b648";
        assert!(statements.contains(&format!("sha256_hash BY '{hash}' SALT '5a17'")));
        assert!(!statements.contains("correct"));
    }

    #[test]
    fn a_tenants_user_has_its_policies_before_its_grants_and_never_the_role() {
        let statements = user(&reader(Some("a'c\\me")), "5a17", "shop_bi");
        let first = |what: &str| statements.iter().position(|s| s.starts_with(what)).unwrap();
        let last = |what: &str| {
            statements
                .iter()
                .rposition(|s| s.starts_with(what))
                .unwrap()
        };
        assert!(last("CREATE ROW POLICY") < first("GRANT"));
        assert!(
            !statements
                .iter()
                .any(|s| s.contains("GRANT `shop_bi_reader`"))
        );
        let policy = "CREATE ROW POLICY OR REPLACE `anna` ON `shop_bi`.`events` AS RESTRICTIVE \
                      FOR SELECT USING tenant = 'a\\'c\\\\me' TO `anna`";
        assert!(statements.iter().any(|s| s == policy), "{statements:#?}");
        for view in Dictionary::compiled_in("shop_bi").views {
            let policies = format!(" `anna` ON `shop_bi`.`{}` ", view.name);
            let found = statements.iter().filter(|s| s.contains(&policies)).count();
            assert_eq!(found, usize::from(view.has_tenants()), "{}", view.name);
        }
    }

    #[test]
    fn a_user_of_all_tenants_loses_the_policies_of_before_and_takes_the_role() {
        let statements = user(&reader(None), "5a17", "shop_bi");
        assert!(statements.iter().any(|s| s.starts_with("DROP ROW POLICY")));
        assert_eq!(
            statements.last().unwrap(),
            "GRANT `shop_bi_reader` TO `anna`"
        );
    }

    #[test]
    fn names_and_passwords_that_are_none_are_refused() {
        let with = |name, password, tenant| {
            check(&Reader {
                name,
                password,
                tenant,
            })
        };
        assert!(with("anna-2_x", "long enough 1", Some("acme")).is_ok());
        let long = "x".repeat(65);
        for name in ["", "Anna", "a b", "a`b", "ä", long.as_str()] {
            assert!(with(name, "long enough 1", None).is_err(), "{name}");
        }
        assert!(with("anna", "short", None).is_err());
        assert!(with("anna", "long enough 1", Some("")).is_err());
    }
}
