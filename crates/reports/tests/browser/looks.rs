//! Every page on a phone and on a desk, in light and dark: pictures to look at, and rules of
//! accessibility that a program can check.

use std::path::{Path, PathBuf};

use chatpulse_browser::{Browser, Page, Screen};

use crate::site::Site;

const PAGES: [(&str, &str); 8] = [
    ("overview", "/?since=24h"),
    ("health", "/tenants/acme?since=24h"),
    ("delivery", "/tenants/acme/delivery?since=24h"),
    (
        "delivery-of-one",
        "/tenants/acme/delivery?since=7d&source=watermelon&type=message.sent",
    ),
    ("conversations", "/tenants/acme/conversations?since=24h"),
    ("failures", "/tenants/acme/failures?since=24h"),
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
