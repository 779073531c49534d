//! The snippet is a guest: what the site's own scripts do stays as it is, and what is personal stays
//! in the page.

use chatpulse_model::{
    RawBody,
    source::{Catalog, Pseudonyms, Receipt},
};
use serde_json::{Value, json};

use super::site::{FIRE, Site, golden, until};

/// Labels of accepted Watermelon events, in the order of the page.
const LABELS: &str = "SELECT groupArray(conversation_id) FROM (SELECT conversation_id FROM events \
    WHERE {tenant} AND outcome = 'accepted' AND source = 'watermelon' ORDER BY sequence)";
/// Names of accepted Userlike events, in the order of the page.
const NAMES: &str = "SELECT groupArray(source_event) FROM (SELECT source_event FROM events \
    WHERE {tenant} AND outcome = 'accepted' AND source = 'userlike' ORDER BY sequence)";

#[tokio::test(flavor = "multi_thread")]
async fn the_data_layer_is_heard_however_the_site_treats_it() {
    let site = Site::new("layer", &[]).await;
    let push = "const push = (n, layer = dataLayer) => layer.push({event: 'widget_message_sent', widet_conversation_id: 'c-' + n});";
    site.put_as(
        "/shop",
        // Pushes before the snippet is there, and an override that was there before it and pushes copies.
        &format!(
            "<script>{push}
            window.dataLayer = [{{event: 'gtm.js'}}, null, 7, function () {{}}];
            push(1);
            const calls = [];
            const original = dataLayer.push;
            dataLayer.push = function (...items) {{ calls.push(this === dataLayer); original.apply(this, items.map(item => ({{...item}}))); return 'theirs'; }};
            push(2);
            </script>{}",
            site.lines.tag
        ),
        "");
    let page = site.visit("/shop").await;
    assert_eq!(
        page.evaluate("push(3)").await,
        "theirs",
        "the site's own answer"
    );
    assert_eq!(
        page.evaluate("calls.length === 2 && calls.every(x => x)")
            .await,
        true
    );
    assert_eq!(
        page.evaluate("JSON.stringify(Object.keys(dataLayer))")
            .await,
        "[\"0\",\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"push\"]",
        "the site's own push was a key"
    );
    // Several items in one push, and things that are none.
    page.evaluate("dataLayer.push(undefined, 'x', {event: 'widget_message_sent', widet_conversation_id: 'c-4'}, {event: 5}, Object.freeze({event: 'widget_message_sent', widet_conversation_id: 'c-5'}))").await;
    // An override that calls through, as Tag Manager's, with an event of its own inside it.
    page.evaluate("{ const prior = dataLayer.push; dataLayer.push = function (item) { if (item.inner) prior.call(dataLayer, item.inner); return prior.apply(dataLayer, arguments); } }").await;
    page.evaluate("dataLayer.push({event: 'widget_message_sent', widet_conversation_id: 'c-7', inner: {event: 'widget_message_sent', widet_conversation_id: 'c-6'}})").await;
    // An override that does not call through.
    page.evaluate("dataLayer.push = function (item) { return Array.prototype.push.call(this, item); }; push(8)").await;
    site.wait_until(LABELS, "['c-1','c-2','c-3','c-4','c-5','c-6','c-7','c-8']")
        .await;
    // A new array in the place of the old one, with what was in it.
    page.evaluate("dataLayer = dataLayer.slice(); push(9)")
        .await;
    // And one that a `var` makes, by the site's own idiom.
    page.evaluate("{ const script = document.createElement('script'); script.textContent = 'var dataLayer = dataLayer || []; push(10)'; document.head.append(script); }").await;
    site.wait_until(
        LABELS,
        "['c-1','c-2','c-3','c-4','c-5','c-6','c-7','c-8','c-9','c-10']",
    )
    .await;
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_of_the_site_is_called_as_without_the_snippet() {
    let site = Site::new("function", &[]).await;
    site.put("/shop", "");
    let page = site.visit("/shop").await;
    let call =
        |name: &str| format!("userlikeTrackingEvent('{name}', {{widget_id: 1}}, {{chat_id: 'x'}})");
    // None of the site's own.
    page.evaluate(&call("slot_check")).await;
    // Assigned later, with an answer and a receiver.
    page.evaluate("window.heard = []; userlikeTrackingEvent = function (name, global, session) { heard.push([name, global.widget_id, session.chat_id, arguments.length]); return 'theirs'; }").await;
    assert_eq!(page.evaluate(&call("slot_available")).await, "theirs");
    assert_eq!(
        page.evaluate("heard").await,
        json!([["slot_available", 1, "x", 3]])
    );
    // A chain, as analytics libraries make it: the one before is called from within.
    page.evaluate("{ const before = window.userlikeTrackingEvent; window.userlikeTrackingEvent = function () { heard.push('chain'); return before.apply(this, arguments); } }").await;
    assert_eq!(page.evaluate(&call("chat_requested")).await, "theirs");
    assert_eq!(page.evaluate("heard.length").await, 3);
    // Declared later: a declaration replaces whatever stands under the name.
    page.evaluate("{ const script = document.createElement('script'); script.textContent = 'function userlikeTrackingEvent(name) { heard.push(name); throw new Error(\"of the site\"); }'; document.head.append(script); document.dispatchEvent(new Event('load')) }").await;
    // What it throws is thrown, unchanged, and the event is taken all the same.
    let thrown = format!(
        "(() => {{ try {{ {} }} catch (error) {{ return error.message }} }})()",
        call("chat_started")
    );
    assert_eq!(page.evaluate(&thrown).await, "of the site");
    assert_eq!(page.evaluate("heard.length").await, 4);
    site.wait_until(
        NAMES,
        "['slot_check','slot_available','chat_requested','chat_started']",
    )
    .await;
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_that_bite_are_no_concern_of_the_page() {
    let site = Site::new("bite", &[]).await;
    let head = format!(
        "<script>var chatpulse = 'theirs'</script>{}",
        site.lines.tag
    );
    site.put_as("/shop", &head, FIRE);
    let page = site.visit("/shop").await;
    page.evaluate(
        "dataLayer.push(
            {get event() { throw new Error('bitten') }},
            {event: 'widget_opened', get widget_platform() { throw new Error('bitten') }},
            new Proxy({}, {get() { throw new Error('bitten') }, has() { throw new Error('bitten') }}),
            (() => { const loop = {event: 'widget_closed', widget_platform: 'web'}; loop.loop = loop; loop.link_text = loop; return loop; })(),
            {event: 'widget_opened', widget_platform: 10n},
            {event: 'widget_opened', link_text: 'x'.repeat(100000) + '\\ud83d'},
            document, window, Symbol.iterator);
        window.dispatchEvent(new CustomEvent('autochat.goal_met.v1'));
        window.dispatchEvent(new Event('autochat.goal_met.v1'));
        fire(1)",
    )
    .await;
    site.wait_until("SELECT countIf(conversation_id = 'c-1') FROM events WHERE {tenant} AND outcome = 'accepted'", "1").await;
    assert_eq!(page.evaluate("chatpulse").await, "theirs");
    // A storage that is full, a fetch that throws, a clock that stands still: still no error.
    page.evaluate("Storage.prototype.setItem = () => { throw new Error('full') }; window.fetch = () => { throw new Error('patched') }; fire(2)").await;
    site.wait_until("SELECT countIf(conversation_id = 'c-2') FROM events WHERE {tenant} AND outcome = 'accepted'", "1").await;
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_policy_with_a_nonce_lets_it_work() {
    let site = Site::new("policy", &[]).await;
    let collector = site
        .lines
        .tag
        .split('"')
        .nth(1)
        .unwrap()
        .split("/v1/")
        .next()
        .unwrap();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-R4nd0m'; connect-src {collector}; require-trusted-types-for 'script'"
    );
    let with_nonce = |html: &str| html.replace("<script", "<script nonce=R4nd0m");
    let body = with_nonce(FIRE);
    // Tag Manager hands its nonce on by 'strict-dynamic'.
    let dynamic = policy
        .replace("'nonce-R4nd0m'", "'nonce-R4nd0m' 'strict-dynamic'")
        .replace("; require-trusted-types-for 'script'", "");
    for (path, head, policy) in [
        ("/line", &site.lines.tag, &policy),
        ("/pinned", &site.lines.pinned_tag, &policy),
        ("/gtm", &site.lines.gtm, &dynamic),
    ] {
        site.put_as(path, &with_nonce(head), &body);
        site.protect(path, policy);
    }
    for (label, path) in (1..).zip(["/line", "/pinned", "/gtm"]) {
        let page = site.visit(path).await;
        page.evaluate(&format!("fire({label})")).await;
        site.accepted_once_each(1..=label).await;
        assert_eq!(page.problems(), Vec::<String>::new(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_line_loads_no_other_text() {
    let site = Site::new("pinned", &[]).await;
    // The hash of one text, the address of another.
    let wrong = site.lines.pinned_tag.replacen("sha384-", "sha384-A", 1);
    site.put_as("/shop", &wrong, FIRE);
    let page = site.browser.page().await;
    page.goto(&site.url("/shop")).await;
    page.evaluate("fire(1)").await;
    assert_eq!(page.evaluate("typeof chatpulse").await, "undefined");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_who_opted_out_is_left_alone_where_the_tenant_says_so() {
    let gpc =
        "Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', {get: () => true})";
    let dnt = "Object.defineProperty(Navigator.prototype, 'doNotTrack', {get: () => '1'})";
    let respects = Site::new("respects", &[]).await;
    respects.put("/shop", FIRE);
    for signal in [gpc, dnt] {
        let page = respects.browser.page().await;
        page.run_first(signal).await;
        page.goto(&respects.url("/shop")).await;
        page.evaluate("fire(1); window.dispatchEvent(new Event('pagehide'))")
            .await;
        assert_eq!(page.evaluate("[typeof chatpulse, typeof userlikeTrackingEvent, dataLayer.push === Array.prototype.push, localStorage.length + sessionStorage.length]").await,
            json!(["undefined", "undefined", true, 0]));
    }
    // One who did not opt out is heard, so the others were not merely slow.
    let page = respects.visit("/shop").await;
    page.evaluate("fire(2)").await;
    respects.accepted_once_each([2]).await;

    let ignores = Site::new(
        "ignores",
        &[("respect_opt_out = true", "respect_opt_out = false")],
    )
    .await;
    ignores.put("/shop", FIRE);
    let page = ignores.browser.page().await;
    page.run_first(gpc).await;
    ignores.visit_in(&page, "/shop").await;
    page.evaluate("fire(1)").await;
    ignores.accepted_once_each([1]).await;
}

/// What of the golden payloads must not leave the browser: their people, and what nobody listed.
const PERSONAL: &[&str] = &[
    "Jane",
    "Doe",
    "jane.doe",
    "151 23456789",
    "+49",
    "K-4711",
    "jane-uuid",
    "custom_data",
    "client_name",
    "userEmail",
    "Europe/Vienna",
    "Linux x86_64",
    "secret",
    "score\":82",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_personal_leaves_the_browser() {
    let site = Site::new("personal", &[]).await;
    let golden_of = ["algomo", "autochat", "loyjoy", "userlike", "watermelon"];
    for text in ["Jane Doe", "jane.doe@example.com"] {
        assert!(
            golden_of
                .iter()
                .any(|source| golden(source).to_string().contains(text)),
            "{text}"
        );
    }
    site.put("/shop/jane.doe@example.com", &format!("{FIRE}<script>
        const take = source => fetch('/golden/' + source).then(r => r.json());
        async function all() {{
          for (const source of ['algomo', 'loyjoy', 'watermelon']) for (const p of await take(source)) dataLayer.push({{...p, secretField: 'secret', nested: {{secret: 1}}}});
          for (const p of await take('autochat')) dispatchEvent(new CustomEvent(p.type, {{detail: {{...p.detail, secretField: 'secret'}}}}));
          for (const p of await take('userlike')) userlikeTrackingEvent(p.event_name, p.global_ctx, {{...p.session_ctx, client_name: 'Jane Doe', operator_name: 'Jane Doe', operator_id: 4711}});
        }}</script>"));
    let page = site
        .visit("/shop/jane.doe@example.com?email=jane.doe@example.com#secret")
        .await;
    page.evaluate("all()").await;
    site.wait_until("SELECT count() FROM events WHERE {tenant}", "223")
        .await;
    let sent: Vec<String> = site
        .gate
        .events()
        .into_iter()
        .map(|seen| seen.body)
        .collect();
    assert!(!sent.is_empty());
    for body in &sent {
        for personal in PERSONAL {
            assert!(!body.contains(personal), "{personal} in {body}");
        }
        // A number by itself: a random id may have the digits.
        assert!(!body.contains(":4711"), "{body}");
    }
    let urls = site
        .query("SELECT groupUniqArray(page_url) FROM events WHERE {tenant}")
        .await;
    assert_eq!(urls, format!("['{}']", site.url("/shop/[email]")));
    // One person is one pseudonym.
    assert_eq!(site.query("SELECT uniqExact(visitor), countIf(isNull(visitor)) FROM events WHERE {tenant} AND source = 'userlike'").await, "1\t0");
}

/// Texts in the manner of people, and of those who try.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "write to jane.doe+x@example.co.uk.",
        "JANE@EXAMPLE.COM",
        "jane%40example.com",
        "jane%2540example.com",
        "jane＠example.com",
        "müller@bücher.de",
        "\"Jane Doe\"@example.com",
        "jane@[192.168.0.1]",
        "a@b@c",
        "jane\u{200b}@\u{200d}example.com",
        "call +49 151 23456789 now",
        "+49 (0) 151 / 234 567-89",
        "(030) 123 45 67",
        "1-800-555-0199",
        "0151-2345678",
        "01 23 45 67 89",
        "٠١٥١٢٣٤٥٦٧٨",
        "2026-01-15 0151 2345678",
        "15.01.2026",
        "2025-2026",
        "$1234567.00",
        "24/7",
        "@handle",
        "tel:01512345678",
        "https://jane:pw@shop.example/a?x#y",
        "https://x.example/u/jane%40y.example",
        "https://wa.me/4915123456789?text=hi",
        "/a/b;jsessionid=1234/c?x",
        ";//x.example",
        "https:\\\\jane@shop.example\\a",
        "mailto:jane@example.com",
        "JavaScript:alert(1)",
        "#contact",
        "https://x.example/0664/55512348/",
        "data:text/html,<b>",
        "0.12345678",
        "a.b@c-d\ne@f",
        "0664/55512348",
    ]
    .map(str::to_owned)
    .to_vec();
    // A linear congruential generator: the same texts in every run.
    let mut state: u64 = 20_261_121;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let alphabet: Vec<char> = "abc019@%+(). /€,-\"[]:?#;\u{ad}\u{200b}\u{a0}ß٣😀\t40250@.7"
        .chars()
        .collect();
    for _ in 0..1200 {
        let length = 1 + next(40);
        texts.push(
            (0..length)
                .map(|_| alphabet[next(alphabet.len())])
                .collect(),
        );
    }
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_masks_at_least_what_the_producer_masks() {
    let site = Site::new("masks", &[]).await;
    site.put("/shop", FIRE);
    let page = site.visit("/shop").await;
    let texts = texts();
    // The queue is bounded, so they go in portions. Marks that are not seen are the producer's to remove.
    for (portion, number) in texts.chunks(200).zip(1..) {
        let portion = Value::from(portion.to_vec());
        page.evaluate(&format!("{portion}.forEach(t => dataLayer.push({{event: 'widget_' + t, link_text: t, link_url: t.replace(/[\\u00ad\\u200b]/g, ''), link_type: t, widget_id: t}}))")).await;
        let sent = (number * 200).min(texts.len());
        until("a portion is sent", async || {
            site.gate.items().len() >= sent
        })
        .await;
    }
    let definition = Catalog::builtin().get("watermelon").unwrap();
    let receipt = Receipt {
        tenant: "t",
        write_key_id: "k",
        received_at: jiff::Timestamp::now().as_millisecond(),
        pseudonyms: &Pseudonyms::new(b"0123456789abcdef").unwrap(),
        max_item_bytes: 64 * 1024,
    };
    for ((_, item), text) in site.gate.items().iter().zip(&texts) {
        let admitted = definition
            .admit(item.to_string().as_bytes(), &receipt)
            .record;
        let RawBody::Native(native) = admitted.body else {
            // An id with control characters; nothing of it is kept.
            assert!(
                text.contains(char::is_control),
                "{text:?} {:?}",
                admitted.body
            );
            continue;
        };
        for note in &native.redactions {
            // An id that the page made a hash of, to be given the tenant's key; marks that are not seen.
            let expected = note == "pseudonymise:widget_id"
                && item["native"]["widget_id"]
                    .as_str()
                    .unwrap()
                    .ends_with("@id")
                || note.starts_with("clean:");
            assert!(
                expected,
                "{note}: {text:?} left the page as {}",
                item["native"]
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_costs_less_than_a_millisecond_of_the_page() {
    let site = Site::new("speed", &[]).await;
    site.put("/shop", FIRE);
    let page = site.visit("/shop").await;
    // Other processes want the processor too: the least disturbed of ten rounds is what an event costs.
    // A long data layer, a queue that fills and overflows, text to be masked, and hashes.
    let measure = "(() => {
        for (let i = 0; i < 5000; i++) dataLayer.push({event: 'gtm.click', i});
        const round = (work, n) => { const start = performance.now(); for (let i = 0; i < 70; i++) work(n * 70 + i); return (performance.now() - start) / 70; };
        const time = work => Math.min(...Array.from({length: 10}, (_, n) => round(work, n)));
        return [
          time(i => dataLayer.push({event: 'widget_email_clicked', widget_platform: 'web', timestamp: 1768471200000, link_url: 'https://x.example/a/b?c=d', link_type: 'email', link_text: 'Write to jane.doe@example.com or call +49 151 23456789'})),
          time(i => userlikeTrackingEvent('message_operator_terminating', {client_uuid: 'b0a9-' + i, widget_id: 3, widget_lang: 'de'}, {session_id: 's', chat_id: 'c', client_name: 'Jane', operator_id: i})),
          time(i => dispatchEvent(new CustomEvent('autochat.goal_met.v1', {detail: {event_type: 'autochat.goal_met.v1', event_id: 'e' + i, occurred_at: '2026-01-15T10:00:30.250Z', conversation_id: 'c'}}))),
          time(i => dataLayer.push({event: 'gtm.click', i})),
        ];
    })()";
    let costs = page.evaluate(measure).await;
    let costs: Vec<f64> = costs
        .as_array()
        .unwrap()
        .iter()
        .map(|ms| ms.as_f64().unwrap())
        .collect();
    eprintln!(
        "ms per event: Watermelon {:.3}, Userlike {:.3}, Autochat {:.3}, a push of the site's own {:.3}",
        costs[0], costs[1], costs[2], costs[3]
    );
    assert!(costs.iter().all(|ms| *ms < 1.0), "{costs:?}");
}
