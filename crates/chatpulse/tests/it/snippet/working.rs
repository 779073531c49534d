//! The page "Is it working?" with a visit of the site that it opens.

use super::site::{FIRE, Site};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_ones_own_events_as_they_arrive() {
    let site = Site::new("working", &[]).await;
    site.put("/shop", FIRE);
    // Another visitor, whose events are none of this check's.
    let visitor = site.visit("/shop").await;
    visitor.evaluate("fire(1)").await;
    site.accepted_once_each([1]).await;

    let page = site.browser.page().await;
    page.goto(&site.dashboard("/tenants/working/working")).await;
    page.wait_for("location.search.startsWith('?check=check-')")
        .await;
    assert_eq!(page.text(".empty").await, "Nothing has arrived yet.");
    let address = site.url("/shop?a=b");
    page.navigate_by(&format!(
        "document.querySelector('input[name=site]').value = '{address}'; document.querySelector('form.filter').requestSubmit()"
    ))
    .await;
    let link = page.evaluate("document.querySelector('#open').href").await;
    let link = link.as_str().unwrap();
    assert!(
        link.starts_with(&format!("{address}&chatpulse_check=check-")),
        "{link}"
    );

    let visit = page.tab().await;
    visit.goto(link).await;
    visit.wait_for("window.chatpulse").await;
    let session = visit.evaluate("chatpulse.session").await;
    assert!(
        link.ends_with(session.as_str().unwrap()),
        "{session} {link}"
    );
    visit.evaluate("fire(2); dataLayer.push({event: 'widget_opened', timestamp: 'soon'}); dispatchEvent(new CustomEvent('autochat.goal_met.v1', {detail: {event_id: 'g', event_type: 'autochat.goal_met.v1'}})); dispatchEvent(new CustomEvent('autochat.widget_tracking.v1', {detail: {event_id: 'g', event_type: 'autochat.goal_met.v1'}}))").await;
    // Back in front, the page asks again by itself.
    page.show().await;
    page.wait_for("document.querySelectorAll('tbody tr').length === 4")
        .await;
    let rows = page
        .evaluate("[...document.querySelectorAll('tbody tr')].map(row => [...row.cells].slice(0, 6).map(cell => cell.innerText.trim()).join(' | ')).sort()")
        .await;
    let rows: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row.as_str().unwrap())
        .collect();
    assert_eq!(
        rows[0],
        "1 | widget_message_sent | watermelon | message.sent | accepted | –"
    );
    assert!(
        rows[1].starts_with("2 |") && rows[1].contains("| rejected | invalid_time: timestamp"),
        "{rows:?}"
    );
    assert_eq!(
        rows[2],
        "3 | autochat.goal_met.v1 | autochat | goal.met | accepted | –"
    );
    assert_eq!(
        rows[3],
        "4 | autochat.goal_met.v1 | autochat | goal.met | duplicate | Its id came before: it counts once."
    );
    // Whoever goes on to another page of the site is still in the same session.
    visit.goto(&site.url("/shop")).await;
    visit.wait_for("window.chatpulse").await;
    assert_eq!(visit.evaluate("chatpulse.session").await, session);
    assert_eq!(page.problems(), Vec::<String>::new());
}
