//! Every page on a phone and on a desk, in light and dark: pictures to look at, and rules of
//! accessibility that a program can check.

use std::path::{Path, PathBuf};

use chatpulse_browser::{Browser, Page, Screen};
use chatpulse_reports::Period;
use jiff::Timestamp;

use crate::site::Site;

const PAGES: [(&str, &str); 9] = [
    ("overview", "/?since=24h"),
    ("health", "/tenants/acme?since=24h"),
    ("delivery", "/tenants/acme/delivery?since=24h"),
    (
        "delivery-of-one",
        "/tenants/acme/delivery?since=7d&source=watermelon&type=message.sent",
    ),
    ("conversations", "/tenants/acme/conversations?since=24h"),
    ("failures", "/tenants/acme/failures?since=24h"),
    (
        "working",
        "/tenants/acme/working?check=check-0123456789abcdef&site=https://www.example.com/",
    ),
    ("sources", "/sources"),
    ("sign-in", "/sign-in"),
];

/// Takes a picture into `CHATPULSE_SCREENSHOTS`, else into the folder of test data.
pub(crate) async fn picture(page: &Page, name: &str) {
    let folder = std::env::var_os("CHATPULSE_SCREENSHOTS").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots"),
        PathBuf::from,
    );
    page.screenshot(&folder.join(format!("{name}.png"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_can_be_read_on_every_screen_and_breaks_no_rule_of_accessibility() {
    let site = Site::with_traffic("looks").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    let mut faults = Vec::new();
    for (name, path) in PAGES {
        for (screen, of) in [("desktop", Screen::DESKTOP), ("phone", Screen::PHONE)] {
            for (scheme, of) in [("light", of), ("dark", of.in_the_dark())] {
                page.show_on(of).await;
                page.goto(&format!("{}{path}", site.url)).await;
                picture(&page, &format!("{name}-{screen}-{scheme}")).await;
                let wider = page
                    .evaluate("document.documentElement.scrollWidth - innerWidth")
                    .await;
                if wider.as_i64() != Some(0) {
                    faults.push(format!("{name} {screen} {scheme}: {wider} px too wide"));
                }
                for violation in page.violations().await {
                    faults.push(format!("{name} {screen} {scheme}: {violation:#?}"));
                }
            }
        }
        faults.extend(
            page.problems()
                .into_iter()
                .map(|problem| format!("{name}: {problem}")),
        );
        for url in page.requests() {
            if !url.starts_with(&site.url) && !url.starts_with("data:") {
                faults.push(format!("{name} asks {url}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_as_a_file_looks_like_its_page_and_asks_for_nothing() {
    let site = Site::with_traffic("files").await;
    let browser = Browser::launch().await;
    let page = browser.page().await;
    let period = Period::before(Timestamp::now(), "24h").unwrap();
    let health = site.reports.tenant_health("acme", period).await.unwrap();
    let conversations = site.reports.conversations("acme", period).await.unwrap();
    let deliveries = site.reports.deliveries("acme", period).await.unwrap();
    let sent = site
        .reports
        .deliveries_series("acme", period)
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, file) in [
        ("file-health", health.to_html()),
        ("file-conversations", conversations.to_html()),
        ("file-deliveries", deliveries.to_html(&sent)),
    ] {
        let path = folder.path().join(format!("{name}.html"));
        std::fs::write(&path, file).unwrap();
        for of in [Screen::DESKTOP, Screen::PHONE.in_the_dark()] {
            page.show_on(of).await;
            page.goto(&format!("file://{}", path.display())).await;
            assert_eq!(page.violations().await, [], "{name}");
            let wider = "document.documentElement.scrollWidth - innerWidth";
            assert_eq!(page.evaluate(wider).await, 0, "{name}");
        }
        picture(&page, name).await;
        let surface = "getComputedStyle(document.querySelector('.card')).backgroundColor";
        assert_eq!(
            page.evaluate(surface).await,
            "rgb(22, 26, 33)",
            "dark, by the style within"
        );
        assert!(
            page.requests().iter().all(|url| url.starts_with("file:")),
            "{name}"
        );
        assert_eq!(page.problems(), [""; 0]);
    }
}
