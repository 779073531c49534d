//! What the pages say, and how they behave.

use chatpulse_browser::{Browser, Page, Screen};
use jiff::Timestamp;
use serde_json::Value;

use crate::fixture::{self, HOSTILE, Row};
use crate::looks::picture;
use crate::site::{BLUMENHAUS, Site};

/// Digits of a text, without the signs that group them.
fn number(text: &str) -> i64 {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("no number: {text}"))
}

fn count(value: &Value) -> i64 {
    value
        .as_i64()
        .unwrap_or_else(|| panic!("no count: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"))
}

/// The cells of the table with this caption, by rows.
async fn table(page: &Page, caption: &str) -> Vec<Vec<String>> {
    let rows = page
        .evaluate(&format!(
            "[...[...document.querySelectorAll('table')].find(t => t.caption?.textContent === {}).tBodies]
                .flatMap(b => [...b.rows]).map(r => [...r.cells].map(c => c.textContent.replace(/\\s+/g, ' ').trim()))",
            Value::from(caption)
        ))
        .await;
    serde_json::from_value(rows).unwrap()
}

/// A tile's figure and what stands beside it, by its name.
async fn tile(page: &Page, name: &str) -> (String, String) {
    let tile = page
        .evaluate(&format!(
            "(() => {{ const tile = [...document.querySelectorAll('.tile')].find(t => t.querySelector('dt').textContent === {});
                return [...tile.querySelectorAll('dd')].map(d => d.textContent.trim()) }})()",
            Value::from(name)
        ))
        .await;
    serde_json::from_value(tile).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_health_page_shows_equals_the_api() {
    let site = Site::with_traffic("equal_health").await;
    let (browser, api) = tokio::join!(
        Browser::launch(),
        site.api("/v1/tenant-health?tenant=acme&since=24h")
    );
    let page = browser.page().await;
    page.goto(&format!("{}/tenants/acme?since=24h", site.url))
        .await;

    assert_eq!(page.text("h1").await, "acme");
    let verdict = api["judgement"]["verdict"].as_str().unwrap();
    assert_eq!(page.text(".notice .badge").await.trim(), verdict);
    assert_eq!(
        page.text(".notice .reason").await,
        api["judgement"]["reason"].as_str().unwrap()
    );
    let total = &api["total"];
    assert_eq!(
        number(&tile(&page, "Received").await.0),
        count(&total["received"])
    );
    for (name, field) in [
        ("Accepted", "accepted"),
        ("Duplicate", "duplicate"),
        ("Rejected", "rejected"),
    ] {
        let (share, beside) = tile(&page, name).await;
        assert_eq!(number(&beside), count(&total[field]), "{name}");
        let expected = count(&total[field]) as f64 / count(&total["received"]) as f64 * 100.0;
        assert_eq!(share, format!("{expected:.1} %"));
    }

    let twins = table(&page, "Page and server, reconciled").await;
    let of = &api["twins"]["sources"][0];
    assert_eq!((twins.len(), twins[0][0].as_str()), (1, "autochat"));
    assert_eq!(number(&twins[0][1]), count(&of["server"]));
    assert_eq!(number(&twins[0][2]), count(&of["lost_in_browser"]));
    assert!(count(&of["lost_in_browser"]) > 0, "{of}");
    let rate = of["browser_loss_rate"].as_f64().unwrap();
    assert_eq!(twins[0][3], format!("{:.1} %", rate * 100.0));
    assert!(api["twins"]["server_loss_rate"].is_number());

    let shown = table(&page, "Delivery by source").await;
    let sources = list(&api["sources"]);
    assert_eq!(shown.len(), sources.len());
    for (row, source) in shown.iter().zip(sources) {
        assert_eq!(row[0], source["source"].as_str().unwrap());
        assert_eq!(row[1], source["judgement"]["verdict"].as_str().unwrap());
        for (cell, field) in [
            (3, "received"),
            (4, "accepted"),
            (5, "duplicate"),
            (6, "rejected"),
            (7, "late"),
        ] {
            assert_eq!(
                number(&row[cell]),
                count(&source[field]),
                "{field} of {}",
                row[0]
            );
        }
        for (cell, field) in [(8, "lost_in_browser"), (9, "missing_messages")] {
            match source[field].as_i64() {
                None => assert_eq!(row[cell], "n/a", "{field} of {}", row[0]),
                Some(known) => assert_eq!(number(&row[cell]), known, "{field} of {}", row[0]),
            }
        }
    }
    assert!(shown.iter().any(|row| row[8] == "n/a") && shown.iter().any(|row| row[8] != "n/a"));

    let mut shown = table(&page, "Delivery by event type").await;
    shown.extend(table(&page, "Delivery by event type, continued").await);
    let types = list(&api["types"]);
    assert_eq!(shown.len(), types.len());
    for of in types {
        let name = format!(
            "{} {}",
            of["event_type"].as_str().unwrap(),
            of["source"].as_str().unwrap()
        );
        let row = shown
            .iter()
            .find(|row| row[0] == name)
            .unwrap_or_else(|| panic!("no row {name}"));
        assert!(
            row[1].starts_with(of["judgement"]["verdict"].as_str().unwrap()),
            "{row:?}"
        );
        assert!(
            row[1].contains(of["judgement"]["reason"].as_str().unwrap()),
            "{row:?}"
        );
        assert_eq!(number(&row[2]), count(&of["received"]), "{name}");
        assert_eq!(number(&row[3]), count(&of["rejected"]), "{name}");
        assert_eq!(number(&row[4]), count(&of["late"]), "{name}");
        assert_eq!(row[5] == "n/a", of["receive_ms"].is_null(), "{name}");
    }

    // The chart's table has every point, and its bars are those values.
    page.evaluate("document.querySelector('#received details').open = true")
        .await;
    let shown = table(&page, "Received per hour").await;
    for (cell, field) in [(1, "accepted"), (2, "duplicate"), (3, "rejected")] {
        let sum: i64 = shown.iter().map(|row| number(&row[cell])).sum();
        let points: i64 = list(&api["series"])
            .iter()
            .map(|point| count(&point[field]))
            .sum();
        assert_eq!(sum, points, "{field}");
        assert_eq!(sum, count(&total[field]), "{field}");
    }
    let reasons = table(&page, "Rejected by source and reason").await;
    assert_eq!(reasons.len(), list(&api["rejections"]).len());
    assert_eq!(
        number(&reasons[0][3]),
        count(&api["rejections"][0]["rejected"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_of_conversations_shows_equals_the_api() {
    let site = Site::with_traffic("equal_conversations").await;
    let (browser, api) = tokio::join!(
        Browser::launch(),
        site.api("/v1/conversation-report?tenant=acme&since=24h")
    );
    let page = browser.page().await;
    page.goto(&format!(
        "{}/tenants/acme/conversations?since=24h",
        site.url
    ))
    .await;

    let sources = list(&api["sources"]);
    let rows = table(
        &page,
        "Every metric, over all sources that can show it and by source",
    )
    .await;
    let mut seen = 0;
    for metric in list(&api["metrics"]) {
        let title = metric["title"].as_str().unwrap();
        let row = rows
            .iter()
            .find(|row| {
                row[0]
                    .trim_end_matches(" provisional")
                    .trim_end_matches('*')
                    == title
            })
            .unwrap_or_else(|| panic!("no row {title}"));
        let values = std::iter::once(&metric["overall"]).chain(
            sources
                .iter()
                .map(|source| &metric["by_source"][source.as_str().unwrap()]),
        );
        for (cell, value) in row[1..].iter().zip(values) {
            seen += 1;
            let expected = match value["kind"].as_str() {
                None => "n/a".to_owned(),
                Some("count") => {
                    assert_eq!(number(cell), count(&value["count"]).abs(), "{title}");
                    continue;
                }
                Some("rate") => match value["rate"].as_f64() {
                    Some(rate) => format!("{:.1} %", rate * 100.0),
                    None => "–".to_owned(),
                },
                Some("duration") => format!("n = {}", value["n"]),
                Some(kind) => panic!("{kind}"),
            };
            assert!(
                cell.replace(',', "").contains(&expected),
                "{title}: {cell} has no {expected}"
            );
        }
        let marked = row[0].contains("provisional");
        assert_eq!(
            marked,
            metric["provisional"] == true && !metric["overall"].is_null(),
            "{title}"
        );
    }
    assert_eq!(seen, list(&api["metrics"]).len() * (sources.len() + 1));

    let outcomes = table(&page, "Outcomes of closed bot conversations").await;
    let shares: f64 = outcomes
        .iter()
        .filter_map(|row| row[1].strip_suffix(" %")?.parse::<f64>().ok())
        .sum();
    assert!((shares - 100.0).abs() < 0.3, "{outcomes:?}");
    let widgets = table(&page, "By widget").await;
    assert_eq!(widgets.len(), list(&api["by_widget"]).len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_lists_every_tenant_the_worst_first_and_finds_by_a_part_of_the_name() {
    let site = Site::with_traffic("equal_overview").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    page.goto(&format!("{}/?since=24h", site.url)).await;
    let rows = table(&page, "Tenants, the worst first").await;
    let verdicts: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(verdicts[..2], ["failing", "silent"]);
    assert_eq!(rows[1][0], "quiet");

    let health = site
        .api("/v1/tenant-health?tenant=blumenhaus&since=24h")
        .await;
    let row = rows.iter().find(|row| row[0] == "blumenhaus").unwrap();
    assert_eq!(number(&row[3]), count(&health["total"]["received"]));
    let waiting = page
        .texts("[aria-label='Waiting before the sink'] tbody td:nth-child(3)")
        .await;
    assert_eq!(waiting, ["41", "38", "412", "29"]);
    assert_eq!(tile(&page, "Behind").await.0, "536 records");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delivery_page_shows_one_type_of_one_source_and_works_by_form() {
    let site = Site::with_traffic("delivery").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    // A form works without a script.
    page.let_scripts_run(false).await;
    page.goto(&format!("{}/tenants/acme/delivery?since=24h", site.url))
        .await;
    page.evaluate("document.querySelector('[name=source]').value = 'watermelon'")
        .await;
    page.evaluate("document.querySelector('[name=type]').value = 'message.sent'")
        .await;
    page.navigate_by("document.querySelector('.filter button').click()")
        .await;
    let health = site.api("/v1/tenant-health?tenant=acme&since=24h").await;
    let of = list(&health["types"])
        .iter()
        .find(|of| of["source"] == "watermelon" && of["event_type"] == "message.sent")
        .unwrap();
    let rows = table(&page, "Delivery by event type").await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(number(&rows[0][3]), count(&of["received"]));
    assert_eq!(number(&rows[0][5]), count(&of["duplicate"]));
    let chart = table(&page, "Received per hour: message.sent of watermelon").await;
    let accepted: i64 = chart.iter().map(|row| number(&row[1])).sum();
    assert_eq!(accepted, count(&of["accepted"]));
    // The latency is that of the type; an hour without it has none.
    let series = site
        .api("/v1/tenant-health/series?tenant=acme&since=24h")
        .await;
    let of = |source: &str, event_type: &str| {
        let types = list(&series["types"]).iter();
        let mut one = types.filter(|of| of["source"] == source && of["event_type"] == event_type);
        one.next().unwrap()["points"].clone()
    };
    let points = of("watermelon", "message.sent");
    let known = list(&points)
        .iter()
        .filter(|point| !point["queryable_ms"].is_null())
        .count();
    let chart = table(&page, "Received → queryable: message.sent of watermelon").await;
    let shown: Vec<_> = chart.iter().filter(|row| row[2] != "n/a").collect();
    assert_eq!(shown.len(), known);
    let last = list(&points)
        .iter()
        .rfind(|point| !point["queryable_ms"].is_null())
        .unwrap();
    let p95 = last["queryable_ms"]["p95"].as_f64().unwrap();
    let expected = if p95 < 1_000.0 {
        format!("{p95:.0} ms")
    } else {
        format!("{:.1} s", p95 / 1_000.0)
    };
    assert_eq!(shown[known - 1][2], expected);
    // The choice stays when the time is changed.
    page.navigate_by(
        "[...document.querySelectorAll('.picker a')].find(a => a.textContent === '7d').click()",
    )
    .await;
    assert_eq!(table(&page, "Delivery by event type").await.len(), 1);
    assert_eq!(page.text(".picker [aria-current]").await, "7d");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_says_of_deliveries_equals_the_api() {
    let site = Site::with_traffic("deliveries").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    for path in ["", "/delivery"] {
        page.goto(&format!("{}/tenants/acme{path}?since=24h", site.url))
            .await;
        let api = site.api("/v1/deliveries?tenant=acme&since=24h").await;
        let rows = table(&page, "Deliveries by destination").await;
        let destinations = list(&api["destinations"]);
        assert_eq!(rows.len(), destinations.len());
        for row in &rows {
            let of = destinations.iter().find(|of| {
                let name = of["destination"].as_str().unwrap();
                row[0].split(' ').next() == Some(name)
            });
            let of = of.unwrap_or_else(|| panic!("{row:?}"));
            assert!(
                row[0].starts_with(of["destination"].as_str().unwrap()),
                "{row:?}"
            );
            assert!(row[1].contains(of["judgement"]["verdict"].as_str().unwrap()));
            let keys = [
                "expected",
                "delivered",
                "failed",
                "pending",
                "given_up",
                "withheld",
            ];
            for (cell, key) in row[2..].iter().zip(keys) {
                assert_eq!(number(cell), count(&of[key]), "{path} {key}: {row:?}");
            }
        }
        // What needs attention comes first.
        let verdicts = rows.iter().map(|row| row[1].split(' ').next().unwrap());
        assert_eq!(
            verdicts.collect::<Vec<_>>(),
            ["failing", "healthy", "healthy"],
            "{api:#}"
        );
        // Of what was never delivered no time is known.
        assert_eq!(rows[0].last().unwrap(), "n/a");
        let notice = page.text(".notices li").await;
        assert!(
            notice.contains("disabled since") && notice.contains("after 5 days of failure"),
            "{notice}"
        );
        assert!(notice.contains("chatpulse deliveries enable acme warehouse"));
    }
    let api = site.api("/v1/deliveries?tenant=acme&since=24h").await;
    let chart = table(&page, "Requests per hour").await;
    let delivered: i64 = chart.iter().map(|row| number(&row[1])).sum();
    assert_eq!(delivered, count(&api["total"]["delivered"]));
    // The first are shown, the others behind a fold that a keyboard opens.
    let newest = table(&page, "The newest failed deliveries").await;
    let more = table(&page, "The newest failed deliveries, continued").await;
    let recent = list(&api["recent_failures"]);
    assert_eq!(newest.len() + more.len(), recent.len());
    let ids: Vec<_> = newest.iter().chain(&more).map(|row| &row[6]).collect();
    let expected = recent.iter().map(|of| of["delivery_id"].as_str().unwrap());
    assert_eq!(ids, expected.collect::<Vec<_>>());
    page.evaluate("document.querySelector('#more-failed-deliveries summary').focus()")
        .await;
    page.press("Enter").await;
    page.wait_for("document.querySelector('#more-failed-deliveries tbody tr').checkVisibility()")
        .await;
    // Whoever has no destinations is not bothered with them.
    page.goto(&format!("{}/tenants/blumenhaus/delivery", site.url))
        .await;
    assert_eq!(
        page.evaluate("document.querySelectorAll('#deliveries').length")
            .await,
        0
    );
}

/// A minute of traffic of one more event.
fn one_more(now: i64) -> Vec<Row> {
    let mut rows = fixture::traffic(now);
    let mut row = rows
        .drain(..)
        .rfind(|row| row.event.tenant == "acme" && row.event.source == "watermelon")
        .unwrap();
    row.event.offset += 1_000_000;
    row.event.event_id = "one more".into();
    row.event.received_at = now;
    row.inserted_at = now + 400;
    vec![row]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_changes_by_itself_and_leaves_the_reader_where_they_are() {
    let site = Site::with_traffic("live").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    page.show_on(Screen::PHONE).await;
    page.goto(&format!("{}/tenants/acme?since=24h", site.url))
        .await;
    let before = number(&tile(&page, "Received").await.0);
    page.evaluate(
        "document.querySelector('#received details').open = true;
         document.querySelector('.foot a').scrollIntoView();
         document.querySelector('.definitions summary').focus();
         window.kept = document.querySelector('#received details');
         window.place = scrollY",
    )
    .await;
    site.add(&one_more(Timestamp::now().as_millisecond())).await;
    page.wait_for(&format!(
        "Number(document.querySelector('.tile .figure').textContent.replace(',', '')) === {}",
        before + 1
    ))
    .await;
    let kept = page
        .evaluate(
            "window.kept === document.querySelector('#received details') && window.kept.open
             && document.activeElement === document.querySelector('.definitions summary')
             && Math.abs(scrollY - window.place) < 2",
        )
        .await;
    assert_eq!(kept, true);
    // A page gives up a request that takes long, and asks again.
    let mut problems = page.problems();
    problems.retain(|problem| !problem.ends_with("net::ERR_ABORTED"));
    assert_eq!(problems, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_says_when_it_is_not_live_and_when_it_is_again_and_can_be_paused() {
    let site = Site::with_traffic("away").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    page.goto(&format!("{}/?since=1h", site.url)).await;
    page.wait_for("document.querySelector('.live').dataset.state === 'live'")
        .await;
    page.set_network(false).await;
    page.wait_for(
        "document.querySelector('[role=status]').textContent.startsWith('Not live, trying again')",
    )
    .await;
    // What was known stays on the page.
    assert!(page.texts("tbody th").await.contains(&"acme".to_owned()));
    picture(&page, "away").await;
    page.set_network(true).await;
    page.wait_for("document.querySelector('[role=status]').textContent === 'Live'")
        .await;

    page.evaluate("document.querySelector('.live button').click()")
        .await;
    page.wait_for("document.querySelector('[role=status]').textContent.startsWith('Paused')")
        .await;
    page.requests();
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        .await;
    assert_eq!(page.text(".live button").await, "Go on");
    page.evaluate("document.querySelector('.live button').click()")
        .await;
    page.wait_for("document.querySelector('[role=status]').textContent === 'Live'")
        .await;
    assert!(!page.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_scripts_every_figure_is_there_and_a_link_reloads() {
    let site = Site::with_traffic("still").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    page.let_scripts_run(false).await;
    page.goto(&format!("{}/tenants/acme?since=24h", site.url))
        .await;
    assert_eq!(page.text(".live a").await, "Reload");
    assert!(page.text(".live").await.starts_with("As of"));
    page.navigate_by("document.querySelector('.live a').click()")
        .await;
    assert_eq!(page.text("h1").await, "acme");
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_listed_by_parts_and_none_is_left_out() {
    let site = Site::with_traffic("lists").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    page.goto(&format!(
        "{}/tenants/blumenhaus/conversations?since=24h",
        site.url
    ))
    .await;
    let all = number(&tile(&page, "Conversations").await.0);
    let mut seen = Vec::new();
    loop {
        let rows = table(&page, "Conversations, the newest first").await;
        seen.extend(rows.into_iter().map(|row| row[0].clone()));
        let older =
            "[...document.querySelectorAll('.more a')].find(a => a.textContent === 'Older')";
        if page.evaluate(&format!("Boolean({older})")).await == false {
            break;
        }
        page.navigate_by(&format!("{older}.click()")).await;
    }
    let listed = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), listed), (all as usize, all as usize));
    page.navigate_by("document.querySelector('.more a').click()")
        .await;
    assert!(
        !page
            .evaluate("location.search")
            .await
            .to_string()
            .contains("after")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_sources_says_of_each_what_it_shows_and_of_each_event_what_it_proves() {
    let site = Site::empty("sources").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    page.goto(&format!("{}/sources", site.url)).await;
    let catalog = chatpulse_model::source::Catalog::builtin();
    let rows = table(&page, "Which metrics each source can show").await;
    let said = |metric: &str| {
        let row = rows.iter().find(|row| row[0] == metric).unwrap();
        row[1..=5].to_vec()
    };
    let bots = said("… of the bot");
    for (cell, source) in bots.iter().zip(catalog.iter()) {
        assert_eq!(
            cell == "✓ yes",
            source.observes().bot_messages,
            "{}",
            source.name()
        );
    }
    let messages = said("Messages");
    assert!(messages[0].starts_with("✓ partly"), "{messages:?}");
    assert!(
        messages[0].contains("not all shown: every message"),
        "{messages:?}"
    );
    assert_eq!(messages[1], "n/a");
    for source in catalog.iter() {
        let events = table(&page, &format!("Events of {}", source.title())).await;
        assert_eq!(events.len(), source.events().len(), "{}", source.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_signs_in_sees_its_own_pages_alone_and_out_again() {
    let site = Site::to_sign_in("signed_in").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    let sign_in = format!(
        "document.querySelector('#token').value = '{BLUMENHAUS}'; document.querySelector('.fields button').click()"
    );
    page.goto(&format!("{}/tenants/blumenhaus/delivery", site.url))
        .await;
    assert_eq!(page.text("h1").await, "Sign in");
    page.navigate_by(&sign_in).await;
    // Where they wanted to go.
    assert_eq!(page.text("h1").await, "blumenhaus");
    assert_eq!(page.text(".tabs [aria-current]").await, "Delivery");
    assert_eq!(page.texts(".top nav li").await, ["Sources", "Sign out"]);
    page.goto(&site.url).await;
    assert_eq!(page.text("h1").await, "blumenhaus");
    page.problems();
    for foreign in ["acme", "nobody"] {
        page.goto(&format!("{}/tenants/{foreign}", site.url)).await;
        assert_eq!(page.text("h1").await, "This is not for you");
    }
    page.goto(&site.url).await;
    page.navigate_by("document.querySelector('.top form button').click()")
        .await;
    assert_eq!(page.text("h1").await, "Sign in");

    // A page that is open when its token is taken back leads to the form by itself.
    page.navigate_by(&sign_in).await;
    assert_eq!(page.text("h1").await, "blumenhaus");
    site.forget_tokens();
    page.wait_for("document.querySelector('#token')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_are_text_and_lead_to_their_own_page() {
    let site = Site::with_traffic("hostile").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    page.goto(&site.url).await;
    page.navigate_by("[...document.querySelectorAll('tbody a')].find(a => a.textContent.startsWith('<img')).click()").await;
    let shown = page.text("h1").await;
    assert_eq!(shown, HOSTILE.replace('\u{202e}', "\u{fffd}"));
    for tab in ["Delivery", "Conversations", "Failures"] {
        page.navigate_by(&format!(
            "[...document.querySelectorAll('.tabs a')].find(a => a.textContent === '{tab}').click()"
        ))
        .await;
        assert_eq!(page.text("h1").await, shown, "{tab}");
        let alien = "document.querySelectorAll('main img, main script, main b').length";
        assert_eq!(page.evaluate(alien).await, 0, "{tab}");
        let wider = "document.documentElement.scrollWidth - innerWidth";
        assert_eq!(page.evaluate(wider).await, 0, "{tab}");
        let turned = "document.body.textContent.includes('\\u202e')";
        assert_eq!(page.evaluate(turned).await, false, "{tab}");
    }
    assert_eq!(page.problems(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_and_no_answer_are_explained() {
    let (empty, broken) = tokio::join!(Site::empty("nothing"), Site::without_store());
    let browser = Browser::launch().await;
    let page = browser.page().await;
    page.goto(&empty.url).await;
    assert_eq!(page.text("main h2").await, "No event has been stored yet");
    picture(&page, "empty-overview").await;
    for tab in ["", "/delivery", "/failures"] {
        page.goto(&format!("{}/tenants/newcomer{tab}", empty.url))
            .await;
        assert_eq!(page.text("main h2").await, "No event has come yet", "{tab}");
        assert!(page.text("main").await.contains("/v1/events/"), "{tab}");
    }
    picture(&page, "empty-tenant").await;
    page.goto(&format!("{}/tenants/newcomer/conversations", empty.url))
        .await;
    assert!(
        page.text("main")
            .await
            .contains("No conversation started in this time")
    );
    assert_eq!(page.violations().await, []);
    assert_eq!(page.problems(), [""; 0]);

    page.goto(&format!("{}/tenants/acme", broken.url)).await;
    assert_eq!(page.text("h1").await, "ClickHouse does not answer now");
    assert!(page.text("[role=status]").await.starts_with("Trying again"));
    picture(&page, "no-answer").await;
    assert!(page.text("main").await.contains("events are not lost"));
    assert_eq!(page.violations().await, []);
    page.goto(&format!(
        "{}/tenants/acme/failures?after=nonsense",
        empty.url
    ))
    .await;
    assert!(page.text("main").await.contains("no place in the list"));
    page.goto(&format!("{}/nowhere", empty.url)).await;
    assert_eq!(page.text("h1").await, "There is no such page");
    page.goto(&format!("{}/?since=yesterday", broken.url)).await;
    assert!(
        page.text("main")
            .await
            .contains("\"yesterday\" is no span of time")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_reached_by_keyboard_and_what_has_the_focus_is_seen() {
    let site = Site::with_traffic("keyboard").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    page.goto(&format!("{}/tenants/acme?since=24h", site.url))
        .await;
    page.press("Tab").await;
    assert_eq!(
        page.evaluate("document.activeElement.textContent").await,
        "Skip to content"
    );
    let top = "document.activeElement.getBoundingClientRect().top >= 0";
    assert_eq!(
        page.evaluate(top).await,
        true,
        "the skip link shows when it has the focus"
    );
    page.press("Enter").await;
    page.wait_for("location.hash === '#main'").await;
    // From the top again: every link, button and box that scrolls is passed, each with an outline.
    page.goto(&format!("{}/tenants/acme?since=24h", site.url))
        .await;
    let all = page
        .evaluate(
            "document.querySelectorAll('a, button, summary, select, [tabindex=\"0\"]').length",
        )
        .await;
    let hidden = page
        .evaluate("document.querySelectorAll('details:not([open]) [tabindex=\"0\"]').length")
        .await;
    let mut passed = 0;
    loop {
        page.press("Tab").await;
        let state = page
            .evaluate(
                "(() => { const e = document.activeElement; if (e === document.body) return null;
                   const style = getComputedStyle(e); const first = !e.dataset.passed; e.dataset.passed = 1;
                   return first ? style.outlineStyle + ' ' + style.outlineWidth : null })()",
            )
            .await;
        match state.as_str() {
            None => break,
            Some(outline) => assert_eq!(outline, "solid 3px"),
        }
        passed += 1;
    }
    assert_eq!(passed, count(&all) - count(&hidden));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_phone_what_is_tapped_is_large_enough() {
    let site = Site::with_traffic("touch").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    page.show_on(Screen::PHONE).await;
    for path in [
        "/?since=24h",
        "/tenants/acme/delivery?since=24h",
        "/tenants/acme/conversations",
    ] {
        page.goto(&format!("{}{path}", site.url)).await;
        let small = page
            .evaluate(
                "[...document.querySelectorAll('a, button, select, summary')]
                    .filter(e => !e.matches('.skip'))
                    .map(e => [e.textContent.trim().slice(0, 30), Math.round(e.getBoundingClientRect().height)])
                    .filter(([, height]) => height < 44)",
            )
            .await;
        assert_eq!(small, Value::Array(vec![]), "{path}");
    }
}
