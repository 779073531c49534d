//! The views for analysts: what they promise, who may read them, and what is built on them (ready
//! queries, Grafana dashboards).

use std::path::Path;

use chatpulse_model::{Actor, Delivery, DeliveryResult, Event, EventType, FailureClass, ScoreKind};
use chatpulse_store::{
    Column, DestinationRow, Dictionary, Reader, Store, StoreError, View, access_statements,
};
use clickhouse::Row;
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::deliveries::{deliver, destination, failed, turn};
use crate::support::{
    DAY, HOUR, SECOND, START, Script, client, duplicate, event, execute, insert, rejected, store,
};

/// Two users beside the engine's own, who may read the views for analysts of the database
/// `bi_access` and nothing else: one all of it, one the rows of tenant acme alone. The engine checks
/// the rights of a view's definer, so a view that is defined as such a user shows what that user may
/// see. It reads `engine.d` beside its configuration.
pub(crate) fn add_readers(data_dir: &Path) {
    let include = data_dir.join("engine.d");
    std::fs::create_dir_all(&include).unwrap();
    let users = data_dir.join("readers.xml");
    let policies: String = Dictionary::compiled_in(VIEWS)
        .views
        .iter()
        .filter(|view| view.has_tenants())
        .map(|view| format!("<{0}><filter>tenant = 'acme'</filter></{0}>", view.name))
        .collect();
    let user = "<password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota>";
    let grants = "<grants><query>GRANT SELECT ON bi_access_bi.*</query></grants>";
    let text = format!(
        "<clickhouse><profiles><default></default></profiles><quotas><default></default></quotas><users>
         <default>{user}</default>
         <analyst>{user}{grants}</analyst>
         <acme_analyst>{user}{grants}<databases><bi_access_bi>{policies}</bi_access_bi></databases></acme_analyst>
         </users></clickhouse>"
    );
    std::fs::write(&users, text).unwrap();
    let config = format!(
        "<clickhouse><users_config>{}</users_config></clickhouse>",
        users.display()
    );
    std::fs::write(include.join("readers.xml"), config).unwrap();
}

#[derive(Row, Deserialize)]
struct ColumnRow {
    view: String,
    view_comment: String,
    name: String,
    type_name: String,
    comment: String,
}

/// The dictionary as the engine has it.
async fn dictionary_of_engine(database: &str) -> Dictionary {
    let rows: Vec<ColumnRow> = client("default")
        .query(
            "SELECT c.table AS view, t.comment AS view_comment, c.name AS name, c.type AS type_name,
                    c.comment AS comment
             FROM system.columns AS c
             INNER JOIN system.tables AS t ON t.database = c.database AND t.name = c.table
             WHERE c.database = ? ORDER BY c.table, c.position",
        )
        .bind(database)
        .fetch_all()
        .await
        .unwrap();
    let mut views: Vec<View> = Vec::new();
    for row in rows {
        if views.last().is_none_or(|view| view.name != row.view) {
            views.push(View {
                name: row.view,
                comment: row.view_comment,
                columns: Vec::new(),
            });
        }
        views.last_mut().unwrap().columns.push(Column {
            name: row.name,
            type_name: row.type_name,
            comment: row.comment,
        });
    }
    Dictionary {
        database: database.to_owned(),
        views,
    }
}

#[tokio::test]
async fn the_dictionary_is_what_the_engine_says() {
    seeded().await;
    let mut compiled = Dictionary::compiled_in(VIEWS);
    compiled.views.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(compiled, dictionary_of_engine(VIEWS).await);
}

/// The engine says what a view declares, and hands out what its SELECT makes.
#[tokio::test]
async fn columns_come_in_the_types_that_are_declared() {
    seeded().await;
    for view in Dictionary::compiled_in(VIEWS).views {
        let sql = format!("DESCRIBE TABLE (SELECT * FROM {})", view.name);
        let come = lines(VIEWS, &sql, &[]).await;
        let come = come.iter().map(|line| {
            let mut fields = line.split('\t');
            let (name, type_name) = (fields.next().unwrap(), fields.next().unwrap());
            format!("{name}: {}", type_name.replace("\\'", "'"))
        });
        let come: Vec<String> = come.collect();
        let declared = view.columns.iter();
        let declared = declared.map(|column| format!("{}: {}", column.name, column.type_name));
        assert_eq!(come, declared.collect::<Vec<_>>(), "{}", view.name);
    }
}

/// A change that this snapshot shows breaks what analysts have built: only new lines are allowed.
#[tokio::test]
async fn names_and_types_are_kept() {
    seeded().await;
    let dictionary = dictionary_of_engine(VIEWS).await;
    let lines = dictionary.views.iter().flat_map(|view| {
        let line = |column: &Column| format!("{}.{}: {}", view.name, column.name, column.type_name);
        view.columns.iter().map(line)
    });
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
}

/// The database that all tests here read, made once.
const SEEDED: &str = "bi_access";
/// The database of its views for analysts.
const VIEWS: &str = "bi_access_bi";

/// What happens in the conversations of acme is said beside each.
async fn seeded() {
    static MADE: OnceCell<()> = OnceCell::const_new();
    MADE.get_or_init(async || {
        let store = store(SEEDED).await;
        // A source that lets goals be seen beside the rest, as no vendor of the five does.
        execute(
            &client(SEEDED),
            "INSERT INTO source_observes
             SELECT o.* REPLACE ('full' AS source, 1 AS goals, 1 AS contacts)
             FROM source_observes AS o FINAL WHERE o.source = 'watermelon'",
        )
        .await;
        let events = seed();
        let (late, rest) = events.split_last().unwrap();
        insert(&store, "seed", rest).await;
        seed_deliveries(&store).await;
        store.roll_up(START + 30 * DAY).await.unwrap();
        // Restates a day.
        insert(&store, "late", std::slice::from_ref(late)).await;
        store.roll_up(START + 31 * DAY).await.unwrap();
    })
    .await;
}

/// One delivered at once, one that waits, one that was given up, and one of another tenant; and twins: of four
/// events from the server one never came from the page, and of a type without twins nothing is known.
async fn seed_deliveries(store: &Store) {
    execute(
        &client(SEEDED),
        "INSERT INTO twin_rollup VALUES
         ('acme', 'full', '2024-06-03 12:00:00', 'lead.qualified', now64(6), 3, 2, 2, 2),
         ('acme', 'full', '2024-06-03 13:00:00', 'lead.qualified', now64(6), 1, 1, 2, 1),
         ('acme', 'full', '2024-06-03 13:00:00', 'goal.reached', now64(6), 5, 0, 0, 0),
         ('bravo', 'full', '2024-06-03 13:00:00', 'lead.qualified', now64(6), 9, 1, 9, 1)",
    )
    .await;
    let given_up = Delivery {
        result: DeliveryResult::GivenUp,
        failure: Some(FailureClass::Refused),
        status: Some(422),
        detail: Some("the receiver answered 422".into()),
        next_at: None,
        ..failed(4, 1, 3 * SECOND)
    };
    let of_bravo = Delivery {
        tenant: "bravo".into(),
        ..turn(3, 1, SECOND)
    };
    let turns = [
        turn(1, 1, SECOND),
        failed(2, 1, 2 * SECOND),
        of_bravo,
        given_up,
    ];
    deliver(store, 0, &turns).await;
    let crm = destination("crm");
    let said = DestinationRow::new((0, START), &crm);
    let of_bravo = DestinationRow {
        tenant: "bravo",
        ..said.clone()
    };
    store.insert_destinations(&[said, of_bravo]).await.unwrap();
}

fn seed() -> Vec<Event> {
    let mut script = Script::new("watermelon");
    // Answered by the bot after 2 s and contained; two messages did not arrive.
    script.conversation("contained");
    script.visitor(0);
    script.bot(2 * SECOND);
    let close = script.close(HOUR);
    close.reported_total = Some(4);
    close.language = Some("de".into());
    // A human is asked for and comes after 60 s.
    script.conversation("handed");
    script.visitor(HOUR);
    script.bot(HOUR + 4 * SECOND);
    script.request(HOUR + 10 * SECOND);
    script.join(HOUR + 70 * SECOND);
    script.agent(HOUR + 90 * SECOND);
    script.leave(HOUR + 100 * SECOND);
    script.close(2 * HOUR);
    // A human is asked for and nobody comes.
    script.conversation("unserved");
    script.visitor(HOUR + 1);
    script.bot(HOUR + 6 * SECOND);
    script.request(HOUR + 20 * SECOND);
    script.close(3 * HOUR);
    // The last question has no answer.
    script.conversation("abandoned");
    script.visitor(DAY);
    script.bot(DAY + 8 * SECOND);
    script.visitor(DAY + 20 * SECOND);
    script.close(DAY + HOUR).reported_total = Some(3);
    let mut events = script.events;

    let session = |offset, session: &str, at: i64, event_type, sequence| Event {
        source: "full".into(),
        event_type,
        source_event: event_type_name(event_type),
        session_id: Some(session.into()),
        sequence: Some(sequence),
        occurred_at: START + at,
        received_at: START + at + 100,
        ..event(offset)
    };
    let daily = |offset, day: i64| Event {
        event_type: EventType::WidgetClosed,
        occurred_at: START + day * DAY,
        received_at: START + day * DAY,
        ..event(offset)
    };
    let next = events.len() as i64;
    events.extend([
        // Opened, wrote, was answered, reached a goal; one event of the session was lost.
        session(next, "s1", 0, EventType::WidgetOpened, 1),
        Event {
            actor: Actor::Visitor,
            conversation_id: Some("s1".into()),
            ..session(next + 1, "s1", SECOND, EventType::MessageSent, 2)
        },
        Event {
            actor: Actor::Bot,
            conversation_id: Some("s1".into()),
            ..session(next + 2, "s1", 2 * SECOND, EventType::MessageSent, 4)
        },
        Event {
            conversation_id: Some("s1".into()),
            goal: Some("booking".into()),
            ..session(next + 3, "s1", 3 * SECOND, EventType::GoalMet, 5)
        },
        // Opened only.
        session(next + 4, "s2", 0, EventType::WidgetOpened, 1),
        duplicate(next + 5),
        rejected(next + 6),
        Event {
            source_event: "brand_new".into(),
            documented: false,
            ..event(next + 7)
        },
        Event {
            tenant: "bravo".into(),
            conversation_id: Some("b1".into()),
            ..event(next + 8)
        },
        Event {
            source: "loyjoy".into(),
            conversation_id: Some("rated".into()),
            language: Some("de".into()),
            event_type: EventType::FeedbackSubmitted,
            score: Some(9.0),
            score_kind: Some(ScoreKind::Nps),
            ..event(next + 9)
        },
        // On three days, and then no more.
        daily(next + 10, -2),
        daily(next + 11, -1),
        daily(next + 12, 0),
        // Could not be decoded: of no tenant.
        Event {
            tenant: String::new(),
            source: String::new(),
            ..rejected(next + 13)
        },
        // Comes when the day has settled; see [`seeded`].
        Event {
            event_type: EventType::MessageSent,
            actor: Actor::Bot,
            conversation_id: Some("contained".into()),
            occurred_at: START + 5 * SECOND,
            received_at: START + DAY,
            ..event(next + 14)
        },
    ]);
    events
}

fn event_type_name(event_type: EventType) -> String {
    event_type.as_str().replace('.', "_")
}

/// Rows as tab-separated lines, from a session whose database is `database`.
async fn lines(database: &str, sql: &str, params: &[(&str, &str)]) -> Vec<String> {
    let mut query = client(database).query_raw(sql);
    for (name, value) in params {
        query = query.with_setting(format!("param_{name}"), *value);
    }
    let bytes = query.fetch_bytes("TSV").unwrap().collect().await;
    let bytes = bytes.unwrap_or_else(|error| panic!("{error}\n{sql}"));
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn every_view_answers_whatever_the_current_database_is() {
    seeded().await;
    for view in Dictionary::compiled_in(VIEWS).views {
        let sql = format!("SELECT * FROM bi_access_bi.{} FORMAT Null", view.name);
        execute(&client("default"), &sql).await;
        let sql = format!("SELECT count() FROM bi_access_bi.{}", view.name);
        assert_ne!(lines("default", &sql, &[]).await, ["0"], "{}", view.name);
    }
}

#[tokio::test]
async fn figures_are_those_of_the_tables_and_of_the_metric_views() {
    seeded().await;
    let ask = async |sql: &str| lines(VIEWS, sql, &[]).await;
    let accepted = ask("SELECT count(), uniqExact(tenant, source, event_id) FROM events").await;
    assert_eq!(accepted, ["30\t30"]);
    for unit in ["minute", "hour", "day"] {
        let sql = format!(
            "SELECT sum(received), sum(accepted), sum(duplicate), sum(rejected) FROM event_health_{unit}"
        );
        assert_eq!(ask(&sql).await, ["33\t30\t1\t2"], "{unit}");
        let sql = format!(
            "SELECT count(), uniqExact(tenant, source, {unit}, event_type, source_event, documented)
             FROM event_health_{unit}"
        );
        let rows = ask(&sql).await;
        let (rows, distinct) = rows[0].split_once('\t').unwrap();
        assert_eq!(rows, distinct, "{unit}: one row per what its comment says");
    }
    let outcomes = "SELECT conversation_id, outcome, is_closed FROM conversations
                    WHERE tenant = 'acme' AND outcome IS NOT NULL ORDER BY 1";
    let expected = [
        "abandoned\tabandoned\ttrue",
        "contained\tcontained_assumed\ttrue",
        "handed\thanded_off\ttrue",
        "s1\tcontained_assumed\ttrue",
        "unserved\trequested_unserved\ttrue",
    ];
    assert_eq!(ask(outcomes).await, expected);
    let by_day = "SELECT day, numerator, denominator, rate FROM conversation_metrics_day
                  WHERE source = 'watermelon' AND tenant = 'acme' AND metric = 'containment_rate' ORDER BY day";
    assert_eq!(
        ask(by_day).await,
        [
            "2024-06-03\t1\t3\t0.3333333333333333",
            "2024-06-04\t0\t1\t0"
        ]
    );
    let differ = "SELECT metric FROM conversation_metrics_day AS b
                  FULL JOIN bi_access.metrics_by_day AS m USING (tenant, source, day, metric)
                  WHERE (b.kind, b.observable, b.n, b.numerator, b.denominator, b.rate, b.median_ms, b.p90_ms, b.p95_ms)
                      IS DISTINCT FROM
                      (m.kind, m.observable, m.n, m.numerator, m.denominator, m.rate, m.median_ms, m.p90_ms, m.p95_ms)";
    assert_eq!(ask(differ).await, [""; 0]);
    let unknown = "SELECT DISTINCT observable, numerator, rate FROM conversation_metrics_day
                   WHERE source = 'loyjoy' AND metric = 'handoff_rate'";
    assert_eq!(ask(unknown).await, ["false\t\\N\t\\N"]);
}

#[tokio::test]
async fn latencies_merge_over_rows_and_percentiles_of_nothing_are_null() {
    let store = store("bi_latency").await;
    let delayed = |offset, minute: i64, delay: i64| Event {
        received_at: START + minute * 60 * SECOND,
        occurred_at: START + minute * 60 * SECOND - delay,
        ..event(offset)
    };
    // 100 events of 100 ms in one minute, one of 10,000 ms in the next: the mean of the two medians
    // would be 5,050.
    let mut events: Vec<Event> = (0..100).map(|offset| delayed(offset, 0, 100)).collect();
    events.push(delayed(100, 1, 10_000));
    events.push(rejected(101));
    insert(&store, "all", &events).await;
    let merged = "SELECT arrayMap(ms -> round(ms, -2), quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(receive_latency))
                  FROM event_latency_minute WHERE tenant = 'acme'";
    assert_eq!(lines("bi_latency_bi", merged, &[]).await, ["[100,100,100]"]);
    let rows = "SELECT minute = toDateTime('2024-06-03 12:00:00', 'UTC'), round(receive_p50_ms, -2)
                FROM event_health_minute WHERE event_type = 'custom' ORDER BY minute";
    assert_eq!(
        lines("bi_latency_bi", rows, &[]).await,
        ["1\t100", "0\t10000"]
    );
    let refused = "SELECT receive_p50_ms, queryable_p99_ms FROM event_health_minute WHERE event_type = 'unknown'";
    assert_eq!(lines("bi_latency_bi", refused, &[]).await, ["\\N\t\\N"]);
}

/// Reads as another user: the engine gives a view the rights of its definer.
async fn seen_by(user: &str, table: &str) -> Result<Vec<String>, String> {
    let client = client("bi_access_probe");
    let name = format!("{user}_{}", table.replace('.', "_"));
    execute(
        &client,
        &format!(
            "CREATE OR REPLACE VIEW {name} DEFINER = {user} SQL SECURITY DEFINER AS SELECT * FROM {table}"
        ),
    )
    .await;
    let sql = format!("SELECT DISTINCT tenant FROM {name} ORDER BY tenant");
    let tenants = client.query_raw(&sql).fetch_all::<String>().await;
    tenants.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_reader_needs_no_right_on_the_tables_and_a_row_policy_keeps_tenants_apart() {
    seeded().await;
    execute(
        &client("default"),
        "CREATE DATABASE IF NOT EXISTS bi_access_probe",
    )
    .await;
    let views = Dictionary::compiled_in(VIEWS).views;
    let of_tenants: Vec<_> = views.iter().filter(|view| view.has_tenants()).collect();
    assert!(of_tenants.len() > 5);
    for view in of_tenants {
        let table = format!("bi_access_bi.{}", view.name);
        let all = seen_by("analyst", &table).await.unwrap();
        assert!(all.contains(&"acme".to_owned()), "{table}: {all:?}");
        let of_acme = seen_by("acme_analyst", &table).await.unwrap();
        assert_eq!(of_acme, ["acme"], "{table}");
    }
    let two = seen_by("analyst", "bi_access_bi.conversations")
        .await
        .unwrap();
    assert_eq!(two, ["acme", "bravo"]);
    for table in ["events", "conversations", "event_health", "metrics_by_day"] {
        let refused = seen_by("analyst", &format!("bi_access.{table}")).await;
        let refused = refused.unwrap_err();
        assert!(refused.contains("ACCESS_DENIED"), "{table}: {refused}");
    }
}

/// The engine here can parse what a server with access control is sent, and no more.
#[tokio::test]
async fn what_a_server_with_access_control_is_sent_is_clickhouse_sql() {
    let reader = Reader {
        name: "anna",
        password: "correct horse battery",
        tenant: Some("a'cme"),
    };
    let of_all = Reader {
        tenant: None,
        ..reader
    };
    for reader in [reader, of_all] {
        for statement in access_statements(&reader, "shop`s_bi") {
            let sql = format!("EXPLAIN AST {statement}");
            let tree = lines("default", &sql, &[]).await;
            assert!(!tree.is_empty(), "{statement}");
        }
    }
}

#[tokio::test]
async fn without_access_control_the_schema_is_made_and_a_user_is_refused_with_the_reason() {
    let store = store("bi_no_access").await;
    let reader = Reader {
        name: "anna",
        password: "correct horse battery",
        tenant: None,
    };
    let refused = store.add_reader(&reader).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Reader { reason } if reason.contains("no right")),
        "{refused}"
    );
}

/// Else one tenant's question would read the rows of all.
#[tokio::test]
async fn a_filter_on_the_tenant_reaches_the_tables_through_every_view() {
    seeded().await;
    let views = Dictionary::compiled_in(VIEWS).views;
    for view in views.iter().filter(|view| view.has_tenants()) {
        let sql = format!(
            "EXPLAIN indexes = 1 SELECT * FROM {} WHERE tenant = 'acme'",
            view.name
        );
        let plan = lines(VIEWS, &sql, &[]).await.join("\n");
        assert!(
            plan.contains("tenant in [\\'acme\\', \\'acme\\']"),
            "{}:\n{plan}",
            view.name
        );
    }
}

/// Files of a folder of this repository, by name.
fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(folder);
    let mut files: Vec<(String, String)> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}

/// What a ready query may ask for, with the values of the tests.
fn parameters(query: &str) -> Vec<(&'static str, &'static str)> {
    // The day after most of the seed, so that there is something before it.
    let since = match query {
        "silent_event_types" => "2024-06-04 00:00:00",
        _ => "2024-06-03 00:00:00",
    };
    vec![
        ("tenant", "acme"),
        ("since", since),
        ("until", "2024-06-05 00:00:00"),
        ("timezone", "Europe/Berlin"),
    ]
}

/// The names of the query parameters in a text, `{name:Type}`, each once, sorted.
fn asked_for(sql: &str) -> Vec<&str> {
    let parameters = sql.split('{').skip(1);
    let names = parameters.filter_map(|rest| rest.split_once(':'));
    let mut names: Vec<&str> = names.map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The answers were worked out by hand from [`seed`].
#[tokio::test]
async fn ready_queries_answer_and_say_what_they_ask_for() {
    seeded().await;
    let readme = include_str!("../../../../deploy/queries/README.md");
    let mut answers = String::new();
    for (name, sql) in files("deploy/queries", "sql") {
        let said = sql
            .lines()
            .find_map(|line| line.strip_prefix("-- Parameters: "));
        let mut said: Vec<&str> = said.expect("a line of parameters").split(", ").collect();
        said.sort_unstable();
        assert_eq!(said, asked_for(&sql), "{name}");
        let title = sql.strip_prefix("-- ").unwrap().split(':').next().unwrap();
        assert!(
            readme.contains(&format!("| [{name}.sql]({name}.sql) |")),
            "{name}"
        );
        let named = format!(
            "WITH answer AS ({}) SELECT * FROM answer",
            sql.trim().trim_end_matches(';')
        );
        let columns = lines(
            VIEWS,
            &format!("DESCRIBE TABLE ({named})"),
            &parameters(&name),
        )
        .await;
        let columns = columns.iter().map(|line| line.split('\t').next().unwrap());
        let answer = lines(VIEWS, &sql, &parameters(&name)).await;
        assert!(!answer.is_empty(), "{name} finds nothing in the seed");
        let columns = columns.collect::<Vec<_>>().join(" | ");
        let rows = answer.join("\n").replace('\t', " | ");
        answers.push_str(&format!("{title}\n{columns}\n{rows}\n\n"));
    }
    insta::assert_snapshot!(answers);
}

#[tokio::test]
async fn a_ready_query_shows_the_rows_of_its_tenant_alone() {
    seeded().await;
    for (name, sql) in files("deploy/queries", "sql") {
        if !asked_for(&sql).contains(&"tenant") {
            continue;
        }
        let mut other = parameters(&name);
        other[0] = ("tenant", "nobody");
        let answer = lines(VIEWS, &sql, &other).await;
        assert!(answer.is_empty(), "{name}: {answer:?}");
    }
}

/// What Grafana and its ClickHouse plugin put into a panel's SQL.
struct Shown {
    /// None stands for All.
    source: Option<&'static str>,
    grain: &'static str,
}

impl Shown {
    fn fill(&self, sql: &str) -> String {
        let (from, to) = ("toDateTime(1717372800)", "toDateTime(1717545600)");
        let ms = |time: &str| format!("toDateTime64({time}, 3)");
        let sql = with_calls(sql, "$__conditionalAll", |arguments| {
            let (condition, variable) = arguments.rsplit_once(", ").unwrap();
            assert_eq!(variable, "$source");
            match self.source {
                Some(_) => condition.to_owned(),
                None => "1=1".to_owned(),
            }
        });
        let sql = sql
            .replace("${tenant:sqlstring}", "'acme'")
            .replace(
                "${source:sqlstring}",
                &format!("'{}'", self.source.unwrap_or("")),
            )
            .replace("${grain}", self.grain);
        let sql = with_calls(&sql, "$__timeFilter_ms", |column| {
            format!("{column} >= {} AND {column} <= {}", ms(from), ms(to))
        });
        let sql = with_calls(&sql, "$__timeFilter", |column| {
            format!("{column} >= {from} AND {column} <= {to}")
        });
        let sql = with_calls(&sql, "$__dateFilter", |column| {
            format!("{column} >= toDate('2024-06-03') AND {column} <= toDate('2024-06-05')")
        });
        let sql = with_calls(&sql, "$__timeInterval", |column| {
            format!("toStartOfInterval(toDateTime({column}), INTERVAL 3600 second)")
        });
        let sql = sql.replace("$__toTime", to).replace("$__fromTime", from);
        assert!(
            !sql.contains('$'),
            "a macro or variable that is not known: {sql}"
        );
        sql
    }
}

/// Replaces each call of a macro, whose arguments may have brackets of their own.
fn with_calls(sql: &str, name: &str, by: impl Fn(&str) -> String) -> String {
    let call = format!("{name}(");
    let mut done = String::new();
    let mut rest = sql;
    while let Some(at) = rest.find(&call) {
        let inside = &rest[at + call.len()..];
        let mut depth = 1;
        let end = inside.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let end = end.expect("a call that ends");
        done += &rest[..at];
        done += &by(&inside[..end]);
        rest = &inside[end + 1..];
    }
    done + rest
}

fn dashboards() -> Vec<(String, serde_json::Value)> {
    files("deploy/grafana/dashboards", "json")
        .into_iter()
        .map(|(name, text)| {
            let dashboard = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, dashboard)
        })
        .collect()
}

#[tokio::test]
async fn every_panel_and_variable_of_grafana_answers() {
    seeded().await;
    let choices = [
        Shown {
            source: None,
            grain: "hour",
        },
        Shown {
            source: Some("full"),
            grain: "minute",
        },
    ];
    for (name, dashboard) in dashboards() {
        let panels = dashboard["panels"].as_array().unwrap();
        let panels = panels.iter().filter(|panel| panel["type"] != "row");
        for panel in panels {
            let title = &panel["title"];
            assert!(
                panel["description"].as_str().is_some_and(|d| d.len() > 5),
                "{name} {title}"
            );
            for target in panel["targets"].as_array().unwrap() {
                assert_eq!(
                    target["datasource"]["type"],
                    "grafana-clickhouse-datasource"
                );
                let sql = target["rawSql"].as_str().unwrap();
                for (all, choice) in [true, false].into_iter().zip(&choices) {
                    let sql = choice.fill(sql);
                    let columns = format!("DESCRIBE TABLE ({sql})");
                    let columns = lines(VIEWS, &columns, &[]).await;
                    if target["format"] == 0 {
                        assert!(
                            columns[0].starts_with("time\tDateTime"),
                            "{name} {title}: {columns:?}"
                        );
                    }
                    let answer = lines(VIEWS, &sql, &[]).await;
                    assert!(!all || !answer.is_empty(), "{name} {title} is empty");
                }
            }
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            if variable["type"] == "query" {
                let sql = choices[0].fill(variable["query"].as_str().unwrap());
                let values = lines(VIEWS, &sql, &[]).await;
                assert!(!values.is_empty(), "{name} {}", variable["name"]);
            }
        }
    }
}

/// Worked out by hand from [`seed`].
#[tokio::test]
async fn panels_show_the_figures_of_the_seed() {
    seeded().await;
    let expected = [
        // All of acme but two days before the window.
        ("delivery", "Received", "29"),
        ("delivery", "Accepted", "27"),
        ("delivery", "Late", "0.037037037037037035"),
        (
            "delivery",
            "Refused, by reason",
            "watermelon\tinvalid_json\t1\t2024-06-03 12:00:00.000",
        ),
        (
            "delivery",
            "Lost in the browser",
            "2024-06-03 12:00:00\tfull\t0.16666666666666666",
        ),
        // One was delivered, one waits and one was refused.
        ("deliveries", "Requests", "3"),
        ("deliveries", "Failed", "0.6666666666666666"),
        ("deliveries", "Given up", "1"),
        ("deliveries", "Waiting", "1"),
        ("deliveries", "Received to delivered, p95", "1100"),
        (
            "deliveries",
            "Failures by class",
            "2024-06-03 12:00:00\thttp_5xx\t1\n2024-06-03 12:00:00\trefused\t1",
        ),
        (
            "deliveries",
            "Lost between page and server",
            "2024-06-03 12:00:00\t0.3333333333333333\t0\n2024-06-03 13:00:00\t0\t0.5",
        ),
        // Five of bots, one with a score; of the five, two contained, one handed off.
        ("conversations", "Conversations", "6"),
        ("conversations", "Contained", "0.4"),
        ("conversations", "Handed to a human", "0.2"),
        ("conversations", "Human, median", "60000"),
        ("conversations", "Goals", "full\tbooking\t1\t1"),
        ("tenants", "Unreadable", "1"),
    ];
    let dashboards = dashboards();
    for (name, title, figure) in expected {
        let (_, dashboard) = dashboards.iter().find(|(found, _)| found == name).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let panel = panels.iter().find(|panel| panel["title"] == title).unwrap();
        let choice = Shown {
            source: None,
            grain: "hour",
        };
        let sql = choice.fill(panel["targets"][0]["rawSql"].as_str().unwrap());
        let answer = lines(VIEWS, &sql, &[]).await;
        assert_eq!(answer.join("\n"), figure, "{name}: {title}");
    }
}

#[test]
fn dashboards_are_whole_and_their_panels_do_not_overlap() {
    let mut uids = Vec::new();
    for (name, dashboard) in dashboards() {
        uids.push(dashboard["uid"].as_str().unwrap().to_owned());
        let mut taken = std::collections::BTreeSet::new();
        let mut ids = std::collections::BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}");
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{name} {}", panel["title"]);
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(taken.insert((x, y)), "{name} {}", panel["title"]);
                }
            }
        }
        let readme = include_str!("../../../../deploy/grafana/README.md");
        assert!(
            readme.contains(&format!("dashboards/{name}.json")),
            "{name}"
        );
    }
    let count = uids.len();
    uids.sort();
    uids.dedup();
    assert_eq!(uids.len(), count);
}

#[test]
fn macros_are_filled_in_with_their_brackets() {
    let filled = with_calls("a $m(f(x), $v) AND $m(y) b", "$m", |inside| {
        format!("<{inside}>")
    });
    assert_eq!(filled, "a <f(x), $v> AND <y> b");
}
