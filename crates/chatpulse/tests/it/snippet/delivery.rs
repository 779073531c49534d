//! Nothing that was queued is lost and nothing counts twice, whatever happens to network and page.

use std::time::Duration;

use chatpulse_browser::Page;

use super::site::{FIRE, Mode, Site, until};

/// Rows that are duplicates; harmless, and telling.
const DUPLICATES: &str = "SELECT count() FROM events WHERE {tenant} AND outcome = 'duplicate'";
/// Sessions, and in how many of them numbers are missing.
const GAPS: &str = "SELECT count(), countIf(top != numbers) FROM (SELECT max(sequence) AS top, \
    uniqExact(sequence) AS numbers FROM events WHERE {tenant} GROUP BY session_id)";
/// Events that are stored in the browser.
const STORED: &str =
    "Object.keys(localStorage).filter(key => key.startsWith('chatpulse.q.')).length";

async fn site(tenant: &str) -> Site {
    let site = Site::new(tenant, &[]).await;
    site.put("/shop", FIRE);
    site.put("/cart", FIRE);
    site.put_as("/plain", "", "no snippet here");
    site
}

/// The network is there again, and the browser says so.
async fn up(site: &Site, page: &Page) {
    site.gate.set(Mode::Pass);
    page.evaluate("window.dispatchEvent(new Event('online'))")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_network_and_a_reload_lose_nothing() {
    let site = site("cut").await;
    let page = site.visit("/shop").await;
    page.evaluate("fire(1, 2, 3)").await;
    site.accepted_once_each(1..=3).await;

    site.gate.set(Mode::Down);
    page.evaluate("fire(4, 5, 6, 7)").await;
    until("a request fails", async || site.gate.dropped() > 0).await;
    assert_eq!(page.evaluate(STORED).await, 4);
    // The script itself comes from the browser's cache.
    page.navigate_by("location.reload()").await;
    page.wait_for("window.chatpulse").await;
    page.evaluate("fire(8, 9)").await;
    up(&site, &page).await;
    site.accepted_once_each(1..=9).await;
    assert_eq!(
        site.query(GAPS).await,
        "1\t0",
        "one session over both pages, no number missing"
    );
    page.wait_for(&format!("{STORED} === 0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fired_right_before_leaving_arrives() {
    let site = site("leave").await;
    let page = site.visit("/shop").await;
    page.navigate_by("fire(1, 2, 3); location.href = '/plain'")
        .await;
    site.accepted_once_each(1..=3).await;
    // The next page with the snippet does not know whether the beacon arrived, and sends them again.
    site.visit_in(&page, "/cart").await;
    page.wait_for(&format!("{STORED} === 0")).await;
    page.evaluate("fire(4)").await;
    site.accepted_once_each(1..=4).await;
    assert_eq!(site.query(GAPS).await, "1\t0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_tab_sends_what_it_has() {
    let site = site("close").await;
    let page = site.browser.page().await;
    // Shows how requests are made.
    page.run_first("{ const real = fetch; window.made = []; window.fetch = (url, options) => { made.push(options); return real(url, options); }; }")
        .await;
    site.visit_in(&page, "/shop").await;
    page.evaluate("fire(1)").await;
    page.wait_for("made.length").await;
    // Whether a request outlives its page cannot be seen from outside; that it is made so can.
    let made = "made[0].keepalive + ' ' + made[0].credentials";
    assert_eq!(page.evaluate(made).await, "true omit");
    page.evaluate("fire(2, 3, 4)").await;
    page.close().await;
    site.accepted_once_each(1..=4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tab_left_behind_is_sent_by_the_next_visit() {
    let site = site("next").await;
    let first = site.visit("/shop").await;
    // Another tab keeps the storage alive, as a browser does that is not closed.
    let other = first.tab().await;
    site.gate.set(Mode::Down);
    first.evaluate("fire(1, 2, 3)").await;
    until("a request fails", async || site.gate.dropped() > 0).await;
    first.close().await;
    site.gate.set(Mode::Pass);
    site.visit_in(&other, "/cart").await;
    site.accepted_once_each(1..=3).await;
    assert_eq!(site.query(DUPLICATES).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_tab_loses_nothing_and_its_session_ends() {
    let site = site("crash").await;
    let first = site.visit("/shop").await;
    let other = first.tab().await;
    site.gate.set(Mode::Down);
    first.evaluate("fire(1, 2, 3)").await;
    until("a request fails", async || site.gate.dropped() > 0).await;
    first.crash().await;
    site.gate.set(Mode::Pass);
    site.visit_in(&other, "/cart").await;
    other.evaluate("fire(4)").await;
    site.accepted_once_each(1..=4).await;
    assert_eq!(site.query(GAPS).await, "2\t0");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_tabs_share_the_storage_and_send_everything_once() {
    let site = site("tabs").await;
    let one = site.visit("/shop").await;
    let (two, three) = (one.tab().await, one.tab().await);
    site.visit_in(&two, "/shop").await;
    site.visit_in(&three, "/cart").await;
    site.gate.set(Mode::Down);
    one.evaluate("fire(1, 2, 3, 4, 5)").await;
    two.evaluate("fire(6, 7, 8, 9, 10)").await;
    three.evaluate("fire(11, 12, 13, 14, 15)").await;
    for page in [&one, &two, &three] {
        until("a tab's request fails", async || {
            !page.problems().is_empty()
        })
        .await;
    }
    assert_eq!(one.evaluate(STORED).await, 15);
    two.close().await;
    site.gate.set(Mode::Pass);
    // The browser lets go of what the closed tab held a moment later.
    until("the others send what it left", async || {
        for page in [&one, &three] {
            page.evaluate("window.dispatchEvent(new Event('online'))")
                .await;
        }
        one.evaluate(STORED).await == 0
    })
    .await;
    site.accepted_once_each(1..=15).await;
    assert_eq!(
        site.query(DUPLICATES).await,
        "0",
        "a living tab's events are its own"
    );
    assert_eq!(site.query(GAPS).await, "3\t0", "every tab is a session");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_asked_for_again_and_counts_once() {
    let site = site("swallow").await;
    let page = site.visit("/shop").await;
    site.gate.set(Mode::Swallow);
    page.evaluate("fire(1, 2, 3)").await;
    until("the batch is in, its answer is not", async || {
        !site.gate.events().is_empty()
    })
    .await;
    up(&site, &page).await;
    site.accepted_once_each(1..=3).await;
    site.wait_until(DUPLICATES, "3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_to_wait_is_left_alone_for_so_long() {
    let site = site("wait").await;
    let page = site.visit("/shop").await;
    site.gate.set(Mode::Refuse(503, 3));
    page.evaluate("fire(1, 2)").await;
    until("it is refused", async || !site.gate.events().is_empty()).await;
    site.gate.set(Mode::Pass);
    // More events, and leaving the page, are no reason to come back earlier.
    page.evaluate("fire(3)").await;
    page.navigate_by("location.href = '/plain'").await;
    site.visit_in(&page, "/shop").await;
    site.accepted_once_each(1..=3).await;
    let tries = site.gate.events();
    let waited = tries[1].at - tries[0].at;
    assert!(waited >= Duration::from_secs(3), "{waited:?}");

    site.gate.set(Mode::Refuse(429, 2));
    let before = site.gate.events().len();
    page.evaluate("fire(4)").await;
    until("it is refused", async || site.gate.events().len() > before).await;
    site.gate.set(Mode::Pass);
    page.evaluate("fire(5)").await;
    site.accepted_once_each(1..=5).await;
    let tries = &site.gate.events()[before..];
    assert_eq!(tries[0].status, 429);
    let waited = tries[1].at - tries[0].at;
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_the_tenant_is_kept_and_nothing_is_lost_by_it() {
    let limits = [
        ("requests_per_second = 1000", "requests_per_second = 1"),
        ("burst = 2000", "burst = 1"),
    ];
    let site = Site::new("limit", &limits).await;
    let golden = "<script>const take = (...s) => Promise.all(s.map(s => fetch('/golden/' + s).then(r => r.json())))
        .then(all => all.forEach((a, i) => a.forEach(p => dataLayer.push(p))));</script>";
    site.put("/shop", &format!("{FIRE}{golden}"));
    let page = site.visit("/shop").await;
    // Each source is a request of its own.
    page.evaluate("take('algomo', 'loyjoy', 'watermelon').then(() => fire(1, 2, 3))")
        .await;
    site.accepted_once_each(1..=3).await;
    let sql = "SELECT countIf(outcome = 'accepted'), count() FROM events WHERE {tenant}";
    site.wait_until(sql, "177\t177").await;
    let statuses: Vec<u16> = site.gate.events().iter().map(|seen| seen.status).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_bounded_and_what_it_drops_is_a_gap() {
    let site = site("bound").await;
    let page = site.visit("/shop").await;
    site.gate.set(Mode::Down);
    page.evaluate("fire(...Array.from({length: 620}, (_, n) => n + 1))")
        .await;
    assert_eq!(page.evaluate(STORED).await, 500);
    up(&site, &page).await;
    site.accepted_once_each(121..=620).await;
    let sql = "SELECT min(sequence), max(sequence), uniqExact(sequence) FROM events WHERE {tenant}";
    assert_eq!(site.query(sql).await, "121\t620\t500");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_storage_nothing_is_kept_in_the_browser_and_the_beacon_still_goes() {
    let site = Site::new("unstored", &[("storage = true", "storage = false")]).await;
    site.put("/shop", FIRE);
    site.put_as("/plain", "", "no snippet here");
    let page = site.visit("/shop").await;
    page.evaluate("fire(1, 2)").await;
    site.accepted_once_each(1..=2).await;
    assert_eq!(
        page.evaluate("localStorage.length + sessionStorage.length")
            .await,
        0
    );
    // Two sources, so two requests at once.
    page.navigate_by(
        "fire(3, 4); userlikeTrackingEvent('chat_requested', {}, {}); location.href = '/plain'",
    )
    .await;
    site.accepted_once_each(1..=4).await;
    let other = "SELECT count() FROM events WHERE {tenant} AND source = 'userlike'";
    site.wait_until(other, "1").await;
    assert_eq!(
        page.evaluate("localStorage.length + sessionStorage.length")
            .await,
        0
    );
    assert_eq!(site.query(DUPLICATES).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_come_back_to_goes_on_with_its_session() {
    let site = site("back").await;
    let page = site.visit("/shop").await;
    page.evaluate("fire(1)").await;
    site.accepted_once_each([1]).await;
    site.visit_in(&page, "/cart").await;
    page.evaluate("fire(2)").await;
    site.accepted_once_each(1..=2).await;
    page.evaluate("history.back()").await;
    page.wait_for("location.pathname === '/shop' && window.chatpulse")
        .await;
    page.evaluate("fire(3)").await;
    site.accepted_once_each(1..=3).await;
    assert_eq!(site.query(GAPS).await, "1\t0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_was_opened_with_a_copy_of_the_session_gets_its_own() {
    let site = site("copy").await;
    let page = site.visit("/shop").await;
    page.evaluate("fire(1)").await;
    // The new window's storage begins as a copy of this one's.
    page.evaluate("window.copy = window.open('/shop'); 0").await;
    page.wait_for("copy.fire && copy.chatpulse").await;
    let own = "copy.sessionStorage.length === 1 && copy.chatpulse.session !== chatpulse.session";
    assert_eq!(page.evaluate(own).await, true);
    page.evaluate("copy.fire(2); fire(3); copy.fire(4); fire(5)")
        .await;
    site.accepted_once_each(1..=5).await;
    assert_eq!(site.query(GAPS).await, "2\t0");
}
