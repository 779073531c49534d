//! One page of the browser.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::wire::Wire;

/// How often a condition is looked at while a test waits for it.
const LOOK: Duration = Duration::from_millis(20);

/// What the page is shown on.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// Width in CSS pixels.
    pub width: u32,
    /// Height in CSS pixels.
    pub height: u32,
    /// A phone: touch, two device pixels per CSS pixel, the viewport tag holds.
    pub phone: bool,
    /// The reader prefers dark.
    pub dark: bool,
}

impl Screen {
    /// 1440 x 900, light.
    pub const DESKTOP: Screen = Screen {
        width: 1440,
        height: 900,
        phone: false,
        dark: false,
    };
    /// 390 x 844, light.
    pub const PHONE: Screen = Screen {
        width: 390,
        height: 844,
        phone: true,
        dark: false,
    };

    /// The same in the dark.
    #[must_use]
    pub fn in_the_dark(self) -> Screen {
        Screen { dark: true, ..self }
    }
}

/// A page. Everything it does that should worry a test is kept: see [`Page::problems`].
pub struct Page {
    wire: Wire,
    context: String,
    target: String,
    session: String,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    problems: Vec<String>,
    requests: Vec<String>,
    loads: u64,
}

impl Page {
    /// A new page in a browser context.
    pub(crate) async fn open(wire: Wire, context: String) -> Page {
        let target = wire
            .call(
                None,
                "Target.createTarget",
                json!({"url": "about:blank", "browserContextId": context}),
            )
            .await;
        let target = target["targetId"].as_str().expect("a target").to_owned();
        let attached = wire
            .call(
                None,
                "Target.attachToTarget",
                json!({"targetId": target, "flatten": true}),
            )
            .await;
        let session = attached["sessionId"]
            .as_str()
            .expect("a session")
            .to_owned();
        let mut events = wire.listen(&session);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let notes = seen.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                notes.lock().expect("not poisoned").note(&event);
            }
        });
        let page = Page {
            wire,
            context,
            target,
            session,
            seen,
        };
        for domain in ["Page", "Runtime", "Network", "Log"] {
            page.call(&format!("{domain}.enable"), json!({})).await;
        }
        page.show_on(Screen::DESKTOP).await;
        page
    }

    /// Another page with the same cookies and storage, as a tab beside this one.
    pub async fn tab(&self) -> Page {
        Page::open(self.wire.clone(), self.context.clone()).await
    }

    /// Shows the page in front of the others, which are out of sight then.
    pub async fn show(&self) {
        self.call("Page.bringToFront", json!({})).await;
    }

    /// Closes the page, as its visitor does.
    pub async fn close(self) {
        let target = json!({"targetId": self.target});
        self.wire.call(None, "Target.closeTarget", target).await;
    }

    /// Ends the page's process at once: no handler of the page runs any more.
    pub async fn crash(self) {
        // It answers no more.
        let crash = self.call("Page.crash", json!({}));
        let _ = tokio::time::timeout(Duration::from_secs(1), crash).await;
        let target = json!({"targetId": self.target});
        self.wire.call(None, "Target.closeTarget", target).await;
    }

    /// Runs a script in every page that is loaded from now on, before the page's own.
    pub async fn run_first(&self, script: &str) {
        let source = json!({"source": script});
        self.call("Page.addScriptToEvaluateOnNewDocument", source)
            .await;
    }

    async fn call(&self, method: &str, params: Value) -> Value {
        self.wire.call(Some(&self.session), method, params).await
    }

    /// Opens a URL and waits until it is loaded.
    pub async fn goto(&self, url: &str) {
        let before = self.loads();
        let answer = self.call("Page.navigate", json!({"url": url})).await;
        assert!(
            answer["errorText"].is_null(),
            "{url}: {}",
            answer["errorText"]
        );
        self.loaded_after(before, url).await;
    }

    /// Does what loads another page, for instance a click on a link, and waits until it is loaded.
    pub async fn navigate_by(&self, expression: &str) {
        let before = self.loads();
        // Where the old page goes at once, nobody is left to answer.
        let _ = self.try_evaluate(expression).await;
        self.loaded_after(before, expression).await;
    }

    async fn loaded_after(&self, before: u64, what: &str) {
        let waiting = async {
            while self.loads() == before {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting)
            .await
            .unwrap_or_else(|_| panic!("{what}: not loaded in time"));
    }

    fn loads(&self) -> u64 {
        self.seen.lock().expect("not poisoned").loads
    }

    /// The value of a JavaScript expression; a promise is awaited.
    pub async fn evaluate(&self, expression: &str) -> Value {
        self.try_evaluate(expression)
            .await
            .unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    async fn try_evaluate(&self, expression: &str) -> Result<Value, Value> {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self
            .wire
            .try_call(Some(&self.session), "Runtime.evaluate", params)
            .await?;
        match answer["exceptionDetails"].take() {
            Value::Null => Ok(answer["result"]["value"].take()),
            exception => Err(exception),
        }
    }

    /// The text of the first element that fits, as it is shown.
    pub async fn text(&self, selector: &str) -> String {
        let quoted = Value::from(selector);
        match self
            .evaluate(&format!("document.querySelector({quoted})?.innerText"))
            .await
        {
            Value::String(text) => text,
            _ => panic!("nothing fits {selector}"),
        }
    }

    /// The text content of every element that fits, in order, white space folded.
    pub async fn texts(&self, selector: &str) -> Vec<String> {
        let quoted = Value::from(selector);
        let texts = self
            .evaluate(&format!(
                "[...document.querySelectorAll({quoted})].map(e => e.textContent.replace(/\\s+/g, ' ').trim())"
            ))
            .await;
        texts
            .as_array()
            .expect("an array")
            .iter()
            .map(|text| text.as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn wait_for(&self, expression: &str) {
        let condition = format!("Boolean({expression})");
        // A page that changes to another refuses for a moment.
        let waiting = async {
            while self.try_evaluate(&condition).await != Ok(Value::Bool(true)) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(DEADLINE, waiting).await.is_err() {
            let last = self.try_evaluate(&condition).await;
            let shown = self.evaluate("document.body?.innerText").await;
            panic!("not true in time: {expression}: {last:?}\nthe page shows: {shown}");
        }
    }

    /// Shows the page on another screen.
    pub async fn show_on(&self, screen: Screen) {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({
                "width": screen.width, "height": screen.height, "mobile": screen.phone,
                "deviceScaleFactor": if screen.phone { 2 } else { 1 },
            }),
        )
        .await;
        self.call(
            "Emulation.setTouchEmulationEnabled",
            json!({"enabled": screen.phone}),
        )
        .await;
        let scheme = if screen.dark { "dark" } else { "light" };
        self.call(
            "Emulation.setEmulatedMedia",
            json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        )
        .await;
    }

    /// With `false` no script of the pages runs from the next page on; [`Page::evaluate`] still does.
    pub async fn let_scripts_run(&self, run: bool) {
        self.call(
            "Emulation.setScriptExecutionDisabled",
            json!({"value": !run}),
        )
        .await;
    }

    /// With `false` every request fails as it does without a network.
    pub async fn set_network(&self, there: bool) {
        self.call(
            "Network.emulateNetworkConditions",
            json!({"offline": !there, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}),
        )
        .await;
    }

    /// Presses a key that writes nothing, such as `Tab`, `Enter` or `ArrowDown`.
    pub async fn press(&self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            _ => panic!("no code for the key {key}"),
        };
        for kind in ["rawKeyDown", "keyUp"] {
            let mut event =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if key == "Enter" {
                // Without a text Enter activates nothing.
                event["type"] = if kind == "keyUp" { kind } else { "keyDown" }.into();
                event["text"] = "\r".into();
            }
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// A picture of the whole page, not of the visible part alone, as PNG.
    pub async fn screenshot(&self, path: &Path) {
        let metrics = self.call("Page.getLayoutMetrics", json!({})).await;
        let size = &metrics["cssContentSize"];
        let picture = self
            .call(
                "Page.captureScreenshot",
                json!({
                    "format": "png", "captureBeyondViewport": true,
                    "clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1},
                }),
            )
            .await;
        let bytes = STANDARD
            .decode(picture["data"].as_str().expect("a picture"))
            .expect("base64");
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).expect("a folder for pictures");
        }
        std::fs::write(path, bytes)
            .unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
    }

    /// Errors of scripts, what the content security policy refused, answers of 400 and above, and
    /// requests that failed, since the last call.
    pub fn problems(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().expect("not poisoned").problems)
    }

    /// The URLs asked for since the last call.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().expect("not poisoned").requests)
    }
}

impl Seen {
    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Page.loadEventFired" => self.loads += 1,
            "Network.requestWillBeSent" => {
                let url = params["request"]["url"].as_str().unwrap_or_default();
                self.requests.push(url.to_owned());
            }
            "Network.loadingFailed" => self.problems.push(format!(
                "a request failed: {}",
                params["errorText"].as_str().unwrap_or_default()
            )),
            "Runtime.exceptionThrown" => self
                .problems
                .push(params["exceptionDetails"]["exception"]["description"].to_string()),
            "Runtime.consoleAPICalled" if params["type"] == "error" => {
                self.problems.push(params["args"].to_string());
            }
            "Log.entryAdded" if params["entry"]["level"] == "error" => self.problems.push(format!(
                "{} {}",
                params["entry"]["text"].as_str().unwrap_or_default(),
                params["entry"]["url"].as_str().unwrap_or_default()
            )),
            _ => {}
        }
    }
}
