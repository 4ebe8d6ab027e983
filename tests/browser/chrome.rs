//! Debian's chromium, driven over the DevTools protocol. It is just enough to open a page, act on
//! it like a person, and hear of every error, message and network request.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket, client};

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a browser until this end of the pipe is closed, which it also is when the tests are killed.
/// Then its profile goes, too.
const UNTIL_LEFT: &str = r#""$@" & read -r _; kill $!; wait $!; rm -rf "$PROFILE""#;

/// A running browser with one tab.
pub struct Chrome {
    process: Child,
    socket: WebSocket<TcpStream>,
    /// The tab that is talked to, and what it shares cookies and storage with; empty before the
    /// first one.
    session: String,
    context: String,
    next: u64,
    events: VecDeque<Value>,
}

/// What the tab is like.
#[derive(Clone, Copy)]
pub struct Look {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
    pub still: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { width: 1280, height: 800, dark: false, still: true }
    }
}

/// The browser's program, if this machine has one.
pub fn program() -> Option<&'static str> {
    let is_there = |name: &&str| {
        let mut version = Command::new(name);
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    static FOUND: OnceLock<Option<&str>> = OnceLock::new();
    *FOUND.get_or_init(|| ["chromium", "chromium-browser", "google-chrome"].into_iter().find(is_there))
}

impl Chrome {
    pub fn launch(program: &str) -> Self {
        let profile = tempfile::tempdir().unwrap().keep();
        let process = Command::new("sh")
            .args(["-c", UNTIL_LEFT, "sh", program])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb"])
            .args(["--font-render-hinting=none", "--remote-debugging-port=0", "--remote-allow-origins=*"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .env("PROFILE", &profile)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let port_file = profile.join("DevToolsActivePort");
        let started = Instant::now();
        let (port, path) = loop {
            let text = std::fs::read_to_string(&port_file).unwrap_or_default();
            if let Some((port, path)) = text.trim().split_once('\n') {
                break (port.to_string(), path.to_string());
            }
            assert!(started.elapsed() < PATIENCE, "{program} did not open its DevTools port");
            std::thread::sleep(Duration::from_millis(50));
        };
        let stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut socket, _) = client(format!("ws://127.0.0.1:{port}{path}"), stream).unwrap();
        socket.get_mut().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (session, context, events) = (String::new(), String::new(), VecDeque::new());
        Self { process, socket, session, context, next: 0, events }
    }

    /// Closes the tab with all that its pages kept, and opens another.
    pub fn open_tab(&mut self) {
        self.session.clear();
        let last = std::mem::take(&mut self.context);
        let context = self.call("Target.createBrowserContext", json!({}))["browserContextId"].clone();
        let target = self.call("Target.createTarget", json!({"url": "about:blank", "browserContextId": context}));
        if !last.is_empty() {
            self.call("Target.disposeBrowserContext", json!({"browserContextId": last}));
        }
        let attached = self.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        self.context = context.as_str().unwrap().to_owned();
        self.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        self.events.clear();
    }

    /// Calls a method of the protocol and returns its result; events that arrive meanwhile are
    /// kept.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.ask(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// As [`call`](Self::call), for what a page that is going away may answer with an error.
    fn ask(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.next += 1;
        let id = self.next;
        let mut message = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(message.to_string())).unwrap();
        let started = Instant::now();
        loop {
            if let Some(message) = self.read() {
                if message["id"] == json!(id) {
                    return match &message["error"] {
                        Value::Null => Ok(message["result"].clone()),
                        error => Err(error.clone()),
                    };
                }
                self.events.push_back(message);
            }
            assert!(started.elapsed() < PATIENCE, "{method}: no answer");
        }
    }

    fn read(&mut self) -> Option<Value> {
        match self.socket.read() {
            Ok(message) => Some(serde_json::from_str(message.to_text().unwrap()).unwrap()),
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                None
            }
            Err(error) => panic!("the browser went away: {error}"),
        }
    }

    /// Opens a file (with an optional `#fragment`) and waits until the page says that it is ready.
    pub fn open(&mut self, file: &Path, fragment: &str, look: Look) {
        self.call("Page.navigate", json!({"url": "about:blank"}));
        self.events.clear();
        self.look(look);
        let url = format!("file://{}{}", file.canonicalize().unwrap().display(), fragment);
        self.call("Page.navigate", json!({"url": url}));
        self.wait("document.documentElement?.dataset.ready === 'true'");
    }

    /// Opens a page of a server and waits until it says that it is ready.
    pub fn open_url(&mut self, url: &str, look: Look) {
        self.call("Page.navigate", json!({"url": "about:blank"}));
        self.events.clear();
        self.look(look);
        self.call("Page.navigate", json!({"url": url}));
        self.wait("document.documentElement?.dataset.ready === 'true'");
    }

    pub fn look(&mut self, look: Look) {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": look.width, "height": look.height, "deviceScaleFactor": 1, "mobile": false}),
        );
        let features = json!([
            {"name": "prefers-color-scheme", "value": if look.dark { "dark" } else { "light" }},
            {"name": "prefers-reduced-motion", "value": if look.still { "reduce" } else { "no-preference" }},
        ]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Emulates a medium (`print`, or `screen` for none) with media features beside those of a
    /// [`Look`].
    pub fn emulate(&mut self, medium: &str, features: &[(&str, &str)]) {
        let features: Vec<Value> = features.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let media = if medium == "screen" { "" } else { medium };
        self.call("Emulation.setEmulatedMedia", json!({"media": media, "features": features}));
        self.settle();
    }

    /// Opens a file as a browser that runs no scripts does. The tab runs none until it is told to
    /// again.
    pub fn open_without_scripts(&mut self, file: &Path, look: Look) {
        self.look(look);
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": true}));
        self.call("Page.navigate", json!({"url": format!("file://{}", file.canonicalize().unwrap().display())}));
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'");
        // The page's own scripts were passed over; a frame can be waited for again.
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": false}));
    }

    /// Follows what `click` leads to, over other pages too, until the address has `part` and the
    /// page is ready.
    pub fn follow(&mut self, click: &str, part: &str) {
        self.eval(&format!("setTimeout(() => {click}, 0), 0"));
        let started = Instant::now();
        loop {
            // The history is the browser's: asking it does not meddle with a page that is going
            // away.
            let history = self.ask("Page.getNavigationHistory", json!({})).unwrap_or_default();
            let at = history["currentIndex"].as_u64().unwrap_or(0) as usize;
            let address = history["entries"][at]["url"].as_str().unwrap_or_default().to_owned();
            if address.contains(part) {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{part} is not reached: {address}");
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(300));
        self.wait("document.documentElement?.dataset.ready === 'true'");
    }

    /// Touches the window at a place and lifts the finger again.
    pub fn tap(&mut self, (x, y): (f64, f64)) {
        self.call("Emulation.setTouchEmulationEnabled", json!({"enabled": true}));
        self.call("Input.dispatchTouchEvent", json!({"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}));
        self.call("Input.dispatchTouchEvent", json!({"type": "touchEnd", "touchPoints": []}));
        self.settle();
    }

    /// The value of an expression in the page (promises are awaited).
    pub fn eval(&mut self, expression: &str) -> Value {
        self.eval_unless_left(expression).unwrap_or_else(|| panic!("{expression}: the page was left meanwhile"))
    }

    /// As [`eval`](Self::eval); none where the tab left the page before the value was there, as
    /// after a click on a link.
    fn eval_unless_left(&mut self, expression: &str) -> Option<Value> {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = match self.ask("Runtime.evaluate", asked) {
            Ok(answer) => answer,
            Err(error) => {
                let told = error["message"].as_str().unwrap_or_default();
                let left = ["navigated or closed", "context was destroyed", "Cannot find context"];
                assert!(left.iter().any(|part| told.contains(part)), "{expression}: {error}");
                return None;
            }
        };
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        Some(answer["result"]["value"].clone())
    }

    pub fn text(&mut self, selector: &str) -> String {
        let selector = serde_json::to_string(selector).unwrap();
        self.eval(&format!("document.querySelector({selector}).textContent")).as_str().unwrap().to_string()
    }

    pub fn wait(&mut self, condition: &str) {
        let started = Instant::now();
        while self.eval_unless_left(condition) != Some(json!(true)) {
            // What came before the answer has been read.
            let faults = self.known_faults();
            let broken = faults.iter().any(|fault| fault.starts_with("exception"));
            assert!(!broken && started.elapsed() < PATIENCE, "never came true: {condition}; page says {faults:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Two frames, so that what was changed has been drawn; none of a page that is being left.
    pub fn settle(&mut self) {
        self.eval_unless_left(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))",
        );
    }

    /// Centre of an element in the window, after scrolling it into view.
    pub fn centre(&mut self, selector: &str) -> (f64, f64) {
        let quoted = serde_json::to_string(selector).unwrap();
        let at = self.eval(&format!(
            "(() => {{ const e = document.querySelector({quoted}); if (!e) return null; \
             e.scrollIntoView({{block: 'nearest', behavior: 'instant'}}); const r = e.getBoundingClientRect(); \
             return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        ));
        assert!(at.is_array(), "no element {selector}");
        (at[0].as_f64().unwrap(), at[1].as_f64().unwrap())
    }

    pub fn mouse(&mut self, kind: &str, (x, y): (f64, f64), pressed: bool) {
        let moved = kind == "mouseMoved";
        self.call(
            "Input.dispatchMouseEvent",
            json!({"type": kind, "x": x, "y": y, "button": if moved && !pressed { "none" } else { "left" },
                   "buttons": u8::from(pressed), "clickCount": u8::from(!moved)}),
        );
        self.settle();
    }

    pub fn hover(&mut self, selector: &str) {
        let at = self.centre(selector);
        self.mouse("mouseMoved", at, false);
    }

    pub fn click(&mut self, selector: &str) {
        let at = self.centre(selector);
        self.mouse("mouseMoved", at, false);
        self.mouse("mousePressed", at, true);
        self.mouse("mouseReleased", at, false);
    }

    pub fn drag(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.mouse("mouseMoved", from, false);
        self.mouse("mousePressed", from, true);
        for step in 1..=4 {
            let t = f64::from(step) / 4.0;
            self.mouse("mouseMoved", (from.0 + t * (to.0 - from.0), from.1 + t * (to.1 - from.1)), true);
        }
        self.mouse("mouseReleased", to, false);
    }

    /// Presses a key by its DOM name, with shift where asked.
    pub fn key(&mut self, key: &str, shift: bool) {
        let (code, number, text) = match key {
            "Enter" => (key.to_string(), 13, "\r".to_string()),
            "Escape" => (key.to_string(), 27, String::new()),
            "Tab" => (key.to_string(), 9, String::new()),
            "ArrowLeft" => (key.to_string(), 37, String::new()),
            "ArrowUp" => (key.to_string(), 38, String::new()),
            "ArrowRight" => (key.to_string(), 39, String::new()),
            "ArrowDown" => (key.to_string(), 40, String::new()),
            "[" => ("BracketLeft".to_string(), 219, key.to_string()),
            "]" => ("BracketRight".to_string(), 221, key.to_string()),
            " " => ("Space".to_string(), 32, key.to_string()),
            letter => (
                format!("Key{}", letter.to_uppercase()),
                letter.to_uppercase().as_bytes()[0].into(),
                letter.to_string(),
            ),
        };
        let mut event = json!({"type": if text.is_empty() { "rawKeyDown" } else { "keyDown" }, "key": key, "code": code,
                               "windowsVirtualKeyCode": number, "modifiers": if shift { 8 } else { 0 }});
        if !text.is_empty() {
            event["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", event.clone());
        event["type"] = json!("keyUp");
        self.call("Input.dispatchKeyEvent", event);
        self.settle();
    }

    /// Sets the page in the font that attnmap draws words with, so that it looks the same whatever
    /// fonts the machine has.
    pub fn set_in_the_embedded_font(&mut self) {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let font = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/render/fonts/NotoSans-Regular.ttf"));
        self.eval(&format!(
            "(async () => {{ const bytes = Uint8Array.from(atob('{}'), (c) => c.charCodeAt(0)); \
             const font = await new FontFace('Embedded', bytes.buffer).load(); document.fonts.add(font); \
             for (const name of ['--serif', '--sans', '--mono']) \
             document.documentElement.style.setProperty(name, 'Embedded'); \
             window.dispatchEvent(new Event('resize')); await document.fonts.ready; return true; }})()",
            STANDARD.encode(font)
        ));
        self.settle();
    }

    /// The window as it looks, or the whole page.
    pub fn screenshot(&mut self, whole: bool) -> image::RgbaImage {
        use base64::{Engine, engine::general_purpose::STANDARD};
        self.settle();
        let shot = self.call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": whole}));
        let png = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        image::load_from_memory(&png).unwrap().to_rgba8()
    }

    /// Everything that should not have happened since the page was opened: errors, warnings,
    /// refused or attempted requests.
    pub fn faults(&mut self) -> Vec<String> {
        while let Some(event) = self.read() {
            self.events.push_back(event);
        }
        self.known_faults()
    }

    /// Those that were heard of already.
    fn known_faults(&self) -> Vec<String> {
        self.events
            .iter()
            .filter_map(|event| {
                let params = &event["params"];
                match event["method"].as_str()? {
                    "Runtime.exceptionThrown" => Some(format!("exception: {}", params["exceptionDetails"])),
                    "Runtime.consoleAPICalled" => Some(format!("console: {}", params["args"])),
                    "Log.entryAdded" => Some(format!("log: {} {}", params["entry"]["text"], params["entry"]["url"])),
                    "Page.javascriptDialogOpening" => Some(format!("dialog: {}", params["message"])),
                    "Network.requestWillBeSent" => {
                        let url = params["request"]["url"].as_str().unwrap_or_default();
                        let own = ["file:", "data:", "blob:", "about:"].iter().any(|scheme| url.starts_with(scheme));
                        (!own).then(|| format!("request: {url}"))
                    }
                    _ => None,
                }
            })
            .collect()
    }

    /// Elements that stick out of the window sideways, outside of areas made to scroll.
    pub fn overflow(&mut self) -> Value {
        self.eval(
            "(() => { const w = document.documentElement.clientWidth; const out = []; \
             if (document.documentElement.scrollWidth > w) out.push('page is ' + document.documentElement.scrollWidth \
+ ' wide'); \
             for (const e of document.querySelectorAll('body *')) { const r = e.getBoundingClientRect(); \
               if (r.width > 0 && (r.right > w + 1 || r.left < -1) && !e.closest('.scroller, .unseen')) \
                 out.push(e.tagName + '.' + e.className + ' ' + Math.round(r.left) + '..' + Math.round(r.right)); } \
             return out.slice(0, 8); })()",
        )
    }
}

impl Drop for Chrome {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
