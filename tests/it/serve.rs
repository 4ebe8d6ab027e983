//! `attnmap serve` over its socket: what is refused, that runs are made and stopped, and that pages
//! may come and go.

use crate::folder;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running server, with the folder that its runs go to.
struct Server {
    process: Child,
    port: u16,
    token: String,
    folder: tempfile::TempDir,
}

/// An answer: status, headers in small letters, body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Server {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(folder: tempfile::TempDir) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_attnmap"))
            .current_dir(folder.path())
            .args(["serve", "--quiet", "--out", "runs"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("http://127.0.0.1:").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        let mut parts = url.split('/');
        let (port, token) = (parts.next().unwrap().parse().unwrap(), parts.next().unwrap().to_owned());
        Self { process, port, token, folder }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What is answered to these lines of a head and this body.
    fn raw(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let head = format!("{head}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // The server may have refused by its head alone.
        stream.write_all(body).ok();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).ok();
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn own(&self) -> String {
        format!("Host: 127.0.0.1:{}", self.port)
    }

    fn get(&self, path: &str) -> Answer {
        self.raw(&format!("GET /{}/{path} HTTP/1.1\r\n{}", self.token, self.own()), b"")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let head = format!(
            "POST /{}/{path} HTTP/1.1\r\n{own}\r\nOrigin: http://127.0.0.1:{}\r\n\
             Content-Type: application/json\r\nContent-Length: {}",
            self.token,
            self.port,
            body.len(),
            own = self.own(),
        );
        self.raw(&head, body.as_bytes())
    }

    /// The events from now on.
    fn events(&self) -> Events {
        let mut stream = self.connect();
        let head = format!("GET /{}/events HTTP/1.1\r\n{}\r\n\r\n", self.token, self.own());
        stream.write_all(head.as_bytes()).unwrap();
        Events { lines: BufReader::new(stream) }
    }

    /// Ends the process and gives the folder back.
    fn end(mut self) -> tempfile::TempDir {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    /// Whether it still answers.
    #[track_caller]
    fn lives(&self) {
        assert_eq!(self.get("").status, 200);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Events {
    lines: BufReader<TcpStream>,
}

impl Events {
    /// The next event of this name. Those before it are passed over.
    #[track_caller]
    fn next(&mut self, name: &str) -> Value {
        let begun = Instant::now();
        let mut last = String::new();
        loop {
            assert!(begun.elapsed() < PATIENCE, "no event {name}");
            let mut line = String::new();
            self.lines.read_line(&mut line).unwrap();
            // Chunks of the encoding have their length on a line of its own.
            if let Some(told) = line.trim().strip_prefix("event: ") {
                last = told.to_owned();
            } else if let (Some(data), true) = (line.trim().strip_prefix("data: "), last == name) {
                return serde_json::from_str(data).unwrap();
            } else if last == "failed" && name != "failed" && line.starts_with("data: ") {
                panic!("{line}");
            }
        }
    }
}

fn run(prompt: &str, steps: usize) -> Value {
    json!({"kind": "run", "prompt": prompt, "seed": "0", "steps": steps})
}

/// One server for all that only asks: it makes no run.
#[test]
fn requests_are_guarded() {
    let server = Server::start();
    foreign_pages_names_and_tokens_are_refused(&server);
    names_of_runs_are_never_paths(&server);
    bodies_are_bounded_and_nonsense_is_said(&server);
    two_hundred_connections_at_once_are_answered(&server);
}

fn foreign_pages_names_and_tokens_are_refused(server: &Server) {
    let (port, token) = (server.port, &server.token);
    let head = |path: &str, lines: &str| format!("GET {path} HTTP/1.1\r\n{lines}");
    let own = server.own();
    let status = |path: &str, lines: &str| server.raw(&head(path, lines), b"").status;
    let page = format!("/{token}/");
    assert_eq!(status(&page, &own), 200);
    assert_eq!(status(&page, &format!("Host: localhost:{port}")), 200);
    // Another site's name that leads here (DNS rebinding), and none.
    for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil.example", "[::1", ""] {
        assert_eq!(status(&page, &format!("Host: {host}:{port}")), 403, "{host}");
    }
    assert_eq!(status(&page, "X: y"), 400);
    assert_eq!(status(&format!("http://evil.example:{port}{page}"), &own), 403);
    // Pages of other sites, and of other programs on this machine.
    for origin in ["http://evil.example", "https://127.0.0.1", "null", "http://localhost:1", "http://127.0.0.1:1", ""] {
        assert_eq!(status(&page, &format!("{own}\r\nOrigin: {origin}")), 403, "{origin}");
    }
    for site in ["cross-site", "same-site"] {
        assert_eq!(status(&page, &format!("{own}\r\nSec-Fetch-Site: {site}")), 403, "{site}");
    }
    assert_eq!(status(&page, &format!("{own}\r\nSec-Fetch-Site: same-origin")), 200);
    // Wrong tokens.
    let wrong = format!("{}0", &token[..token.len() - 1]);
    let wrong = if wrong == *token { format!("{}1", &token[..token.len() - 1]) } else { wrong };
    for path in ["/", "/events", "//", &format!("/{wrong}/"), &format!("/{token}x/"), &format!("/x/{token}/")] {
        assert_eq!(status(path, &own), 403, "{path}");
    }
    // A form of another site can send no JSON, and nobody is allowed more by asking first.
    let form = format!("POST {page}jobs HTTP/1.1\r\n{own}\r\nContent-Type: text/plain\r\nContent-Length: 2");
    assert_eq!(server.raw(&form, b"{}").status, 415);
    let asked = format!("OPTIONS {page}jobs HTTP/1.1\r\n{own}\r\nOrigin: http://evil.example");
    let answer = server.raw(&asked, b"");
    assert!(answer.status == 403 && !answer.head.contains("access-control"), "{}", answer.head);
    let answer = server.get("");
    for header in ["cache-control: no-store", "x-frame-options: sameorigin", "nosniff", "no-referrer"] {
        assert!(answer.head.contains(header), "{header}");
    }
    assert!(answer.body.contains("Content-Security-Policy") && !answer.body.contains(token.as_str()));
}

fn names_of_runs_are_never_paths(server: &Server) {
    let secret = server.folder.path().join("image.png");
    std::fs::write(&secret, "secret").unwrap();
    std::fs::write(server.folder.path().join("run.json"), "{}").unwrap();
    for name in ["..", "../runs", "%2e%2e", "..%2f..%2fetc", "%2e%2e%2f", "runs", ".", "%00", "..%5c", "/etc"] {
        for what in ["image", "thumb", "report", "tests", "figures/0", "figures/..", "../../image"] {
            let answer = server.get(&format!("runs/{name}/{what}"));
            assert!((400..500).contains(&answer.status), "{name}/{what}: {}", answer.status);
            assert!(!answer.body.contains("secret") && !answer.body.contains("root:"), "{name}/{what}");
        }
        assert!((400..500).contains(&server.get(&format!("compare/{name}/{name}")).status));
        for (path, body) in
            [("side", json!({"run": name})), ("changes", json!({"a": name, "b": name})), ("pin", json!({"run": name}))]
        {
            let answer = server.post(path, &body);
            assert_eq!(answer.status, 404, "{path} {name}: {}", answer.body);
        }
    }
    server.lives();
}

fn bodies_are_bounded_and_nonsense_is_said(server: &Server) {
    // A hundred megabytes: refused by the length, and by what comes where no length is said.
    for length in [format!("Content-Length: {}", 100 << 20), "Transfer-Encoding: chunked".to_owned()] {
        let mut stream = server.connect();
        let head = format!(
            "POST /{}/check HTTP/1.1\r\n{}\r\nContent-Type: application/json\r\n{length}\r\n\r\n",
            server.token,
            server.own()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let megabyte = vec![b'x'; 1 << 20];
        let chunked = length.starts_with('T');
        for _ in 0..100 {
            let sent = match chunked {
                true => write!(stream, "{:x}\r\n", megabyte.len())
                    .and_then(|()| stream.write_all(&megabyte))
                    .and_then(|()| stream.write_all(b"\r\n")),
                false => stream.write_all(&megabyte),
            };
            if sent.is_err() {
                break;
            }
        }
        stream.shutdown(Shutdown::Write).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
        server.lives();
    }
    let long = "x ".repeat(40_000);
    assert_eq!(server.post("check", &json!({"prompt": long})).status, 413);
    for (body, said) in [
        (json!({"kind": "run", "prompt": ""}), "empty"),
        (json!({"kind": "run", "prompt": "x", "steps": 0}), "steps"),
        (json!({"kind": "run", "prompt": "x", "seed": "y"}), "seed"),
        (json!({"kind": "other"}), "other"),
        (json!([1]), "body"),
    ] {
        let answer = server.post("jobs", &body);
        let error = serde_json::from_str::<Value>(&answer.body).unwrap()["error"].as_str().unwrap().to_owned();
        assert!(answer.status == 422 && error.contains(said), "{body}: {} {error}", answer.status);
    }
    assert_eq!(server.get("nothing").status, 404);
    assert_eq!(server.get("jobs").status, 405);
}

fn two_hundred_connections_at_once_are_answered(server: &Server) {
    let waiting: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    let asking: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = server.connect();
            let head = format!("GET /{}/ HTTP/1.1\r\n{}\r\nConnection: close\r\n\r\n", server.token, server.own());
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    for mut stream in asking {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..answer.len().min(80)]);
    }
    server.lives();
    drop(waiting);
    // Pages that listen are bounded too.
    let mut pages: Vec<Events> = (0..32).map(|_| server.events()).collect();
    pages.iter_mut().for_each(|page| drop(page.next("state")));
    assert_eq!(server.get("events").status, 503);
    drop(pages);
    server.lives();
}

#[test]
fn a_run_is_made_as_generate_makes_it_and_compared() {
    let server = Server::start();
    let mut events = server.events();
    assert_eq!(events.next("state")["history"], json!([]));
    let prompt = "a red <b>apple</b> & \"frog\"";
    assert_eq!(server.post("jobs", &run(prompt, 2)).status, 200);
    assert_eq!(events.next("begun")["prompt"], prompt);
    let step = events.next("step");
    assert_eq!((&step["step"], &step["of"]), (&json!(1), &json!(2)));
    assert!(step["image"].as_str().unwrap().starts_with("data:image/png"), "the first step has a picture");
    assert!(step["maps"]["words"].as_array().unwrap().contains(&json!("red")), "{}", step["maps"]["words"]);
    let made = events.next("made");
    assert_eq!(made["compared"], Value::Null, "there was nothing to compare it with");
    let saved = events.next("saved");
    let first = saved["run"].as_str().unwrap().to_owned();
    events.next("done");

    // The same files as from the command line, whose command is recorded.
    let made = server.folder.path().join("runs").join(&first);
    let record: Value = serde_json::from_slice(&std::fs::read(made.join("run.json")).unwrap()).unwrap();
    let words = shlex::split(record["command"].as_str().unwrap()).unwrap();
    let again = server.folder.path().join("again");
    let args: Vec<&str> = words[1..].iter().map(String::as_str).chain(["--out", again.to_str().unwrap()]).collect();
    crate::program::attnmap(server.folder.path(), &args);
    let (ours, theirs) = (folder::files(&made), folder::files(&again));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for name in ["image.png", "trace.safetensors", "heatmaps.safetensors", "words.png", "overlays/01-red.png"] {
        assert!(ours[name] == theirs[name], "{name} differs");
    }

    // The same again is beside it and compared by itself.
    server.post("jobs", &run("a green apple", 2));
    let made = events.next("made");
    assert_eq!(made["compared"]["a"], first.as_str());
    let line = made["compared"]["changes"]["line"].as_str().unwrap();
    assert!(line.contains("red → green") && line.contains("image "), "{line}");
    let second = events.next("saved")["run"].as_str().unwrap().to_owned();
    server.post("jobs", &run(prompt, 2));
    let third = events.next("saved");
    assert_eq!(third["run"], format!("{first}-2"), "nothing is overwritten");
    let history = third["history"].as_array().unwrap();
    assert_eq!(history.len(), 3);
    let pieces: String =
        history[0]["pieces"].as_array().unwrap().iter().map(|piece| piece[0].as_str().unwrap()).collect();
    assert_eq!(pieces, prompt, "the pieces are the prompt");

    // A prompt is never markup.
    for path in [format!("runs/{first}/report"), format!("compare/{first}/{second}")] {
        let page = server.get(&path);
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        assert!(!page.body.contains("<b>apple") && page.body.contains("Content-Security-Policy"), "{path}");
    }
    // A page that lies in the folder is not what is sent.
    std::fs::write(server.folder.path().join("runs").join(&second).join("report.html"), "<script>evil()</script>")
        .unwrap();
    assert!(!server.get(&format!("runs/{second}/report")).body.contains("evil()"));
    std::fs::remove_file(server.folder.path().join("runs").join(&second).join("report.html")).unwrap();

    // The choice of step and layer, and what a run does not have.
    let side = |body: Value| server.post("side", &body);
    let whole: Value = serde_json::from_str(&side(json!({"run": second})).body).unwrap();
    let one: Value =
        serde_json::from_str(&side(json!({"run": second, "steps": [1, 1], "layers": "mid"})).body).unwrap();
    assert!(whole["maps"] != one["maps"] && whole["grid"] == one["grid"]);
    assert_eq!(side(json!({"run": second, "steps": [3, 3]})).status, 422);
    assert_eq!(side(json!({"run": second, "layers": "nowhere"})).status, 422);
    assert_eq!(server.get(&format!("runs/{second}/thumb")).status, 200);

    // Pinned, it is what later runs are compared with.
    assert_eq!(server.post("pin", &json!({"run": second})).status, 200);
    server.post("jobs", &run("a blue apple", 2));
    assert_eq!(events.next("made")["compared"]["a"], second.as_str());
    events.next("saved");

    // A job on a run: it merges into the folder.
    server.post("jobs", &json!({"kind": "without", "run": second, "word": "apple"}));
    assert_eq!(events.next("tested")["run"], second.as_str());
    let tests: Value = serde_json::from_str(&server.get(&format!("runs/{second}/tests")).body).unwrap();
    assert!(tests["words"][0]["sentence"].as_str().unwrap().contains("apple"), "{tests}");
    assert!(server.folder.path().join("runs").join(&second).join("evidence.json").is_file());
    assert_eq!(server.get(&format!("runs/{second}/figures/0")).status, 200);
    assert_eq!(server.get(&format!("runs/{second}/figures/9")).status, 404);

    // The history survives a restart; the new server has another token.
    let old = server.token.clone();
    let again = Server::start_in(server.end());
    let state = again.events().next("state");
    assert!(state["history"].as_array().unwrap().len() == 4 && again.token != old, "{state}");
}

/// What is in the folder of the runs.
fn names(server: &Server) -> Vec<String> {
    let entries = std::fs::read_dir(server.folder.path().join("runs")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_run_is_stopped_and_goes_on_without_its_page() {
    let server = Server::start();
    let mut events = server.events();
    server.post("jobs", &run("a red apple", 900));
    let job = events.next("begun")["job"].clone();
    events.next("step");
    let waiting = server.post("jobs", &run("a frog", 2));
    let number = serde_json::from_str::<Value>(&waiting.body).unwrap()["job"].clone();
    server.post("jobs", &run("a green frog", 2));
    assert!(server.post("stop", &json!({"job": number})).body.contains("true"));
    let begun = Instant::now();
    assert!(server.post("stop", &json!({"job": job})).body.contains("true"));
    assert_eq!(events.next("stopped")["job"], job);
    assert!(begun.elapsed() < Duration::from_secs(20));
    // The one that was dropped is not made; the one behind it is, though its page goes away.
    assert_eq!(events.next("begun")["prompt"], "a green frog");
    drop(events);
    let begun = Instant::now();
    let mut again = server.events();
    loop {
        let history = again.next("state")["history"].as_array().unwrap().len();
        if history == 1 {
            break;
        }
        assert!(history == 0 && begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(100));
        again = server.events();
    }
    assert_eq!(names(&server), ["a-green-frog-0"], "nothing half made is left");
    // The queue is short.
    let full = (0..12).map(|_| server.post("jobs", &run("a red apple", 900)).status).collect::<Vec<_>>();
    assert!(full[..8].iter().all(|status| *status == 200) && full[11] == 429, "{full:?}");
    // Ctrl-C in the middle of a run leaves nothing half made.
    #[cfg(unix)]
    {
        let mut server = server;
        // SAFETY: a signal to a process that this test started and has not waited for.
        unsafe { libc::kill(server.process.id() as libc::pid_t, libc::SIGINT) };
        assert_eq!(server.process.wait().unwrap().code(), Some(130));
        assert_eq!(names(&server), ["a-green-frog-0"]);
    }
}

#[test]
fn a_page_reads_of_fields_and_has_no_links_that_lead_nowhere() {
    let server = Server::start();
    let mut events = server.events();
    events.next("state");
    let asked = json!({"kind": "run", "prompt": "a frog", "seed": "0", "steps": 2, "scheduler": "none such"});
    assert_eq!(server.post("jobs", &asked).status, 200);
    let error = events.next("failed")["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("scheduler: "), "{error}");

    // A sweep beside a run is linked from the page in the folder. The server has no address for it.
    let small = ["--steps", "2", "--out"];
    for (args, out) in [
        (["sweep", "a red apple", "--seeds", "0..2"], "runs/a-red-apple-sweep"),
        (["generate", "a red apple", "--seed", "0"], "runs/a-red-apple-0"),
    ] {
        crate::program::attnmap(server.folder.path(), &[&args[..], &small[..], &[out]].concat());
    }
    let run = server.folder.path().join("runs/a-red-apple-0");
    let in_folder = std::fs::read_to_string(run.join("report.html")).unwrap();
    assert!(in_folder.contains("../a-red-apple-sweep/index.html"));
    let served = server.get("runs/a-red-apple-0/report");
    assert!(served.status == 200 && !served.body.contains("a-red-apple-sweep"), "{}", served.status);
}

fn read(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn tests_go_on_with_what_explain_found() {
    let server = Server::start();
    let attnmap = |args: &[&str]| crate::program::attnmap(server.folder.path(), args);
    attnmap(&["generate", "a red apple, a frog", "--steps", "2", "--out", "runs/tested"]);
    attnmap(&["explain", "runs/tested", "--cut", "mask", "--test-steps", "1", "--words", "frog"]);
    let folder = server.folder.path().join("runs/tested");
    let evidence = || read(&folder.join("evidence.json"));
    let words = |evidence: &Value| -> Vec<String> {
        let words = evidence["words"].as_array().unwrap().iter();
        words.map(|word| word["word"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(words(&evidence()), ["frog"]);
    let mut events = server.events();
    events.next("state");
    for kind in ["without", "times"] {
        server.post("jobs", &json!({"kind": kind, "run": "tested", "word": "apple"}));
        assert_eq!(events.next("tested")["run"], "tested");
        let found = evidence();
        assert_eq!(words(&found), ["apple", "frog"], "{kind}");
        assert_eq!((&found["cut"], found["steps"].as_array().unwrap().len()), (&json!("mask"), 1), "{kind}");
    }
    let before = evidence();
    assert!(before["counterfactuals"].as_array().unwrap().iter().any(|drawn| drawn["word"] == "apple"));
    assert_eq!(before["reweighted"].as_array().unwrap().len(), 1);
    server.post("jobs", &json!({"kind": "explain", "run": "tested"}));
    events.next("tested");
    assert_eq!(words(&evidence()), ["red", "apple", "frog"]);

    // Of tags it would be another test.
    attnmap(&["view", "runs/tested", "--by", "tag"]);
    let before = std::fs::read(folder.join("evidence.json")).unwrap();
    server.post("jobs", &json!({"kind": "explain", "run": "tested"}));
    let error = events.next("failed")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("would replace those of red, apple, frog (cut: mask, 1 step"), "{error}");
    assert!(error.contains("`attnmap explain runs/tested`"), "{error}");
    assert_eq!(before, std::fs::read(folder.join("evidence.json")).unwrap());
}

/// The share of each word that the pictures show.
fn shares(side: &Value) -> Vec<(String, f64)> {
    let words = side["words"].as_array().unwrap().iter();
    words.map(|word| (word["label"].as_str().unwrap().to_owned(), word["share"].as_f64().unwrap())).collect()
}

#[test]
fn maps_are_those_that_the_run_has() {
    let server = Server::start();
    let prompt = "a red apple, a frog";
    let attnmap = |args: &[&str]| crate::program::attnmap(server.folder.path(), args);
    attnmap(&["generate", prompt, "--steps", "2", "--out", "runs/plain"]);
    let other = ["--aggregate", "daam", "--by", "tag", "--threshold", "0.5"];
    attnmap(&[&["generate", prompt, "--steps", "2", "--out", "runs/other"], &other[..]].concat());
    let record = |run: &str| read(&server.folder.path().join("runs").join(run).join("run.json"));
    for (run, maps) in [("plain", "compete"), ("other", "daam")] {
        let side: Value = serde_json::from_str(&server.post("side", &json!({"run": run})).body).unwrap();
        assert_eq!(side["aggregate"], maps);
        let record = record(run);
        let known = record["words"].as_array().unwrap();
        assert_eq!(known.len(), side["words"].as_array().unwrap().len());
        for ((label, share), known) in shares(&side).iter().zip(known) {
            assert!((share - known["share"].as_f64().unwrap()).abs() < 1e-6, "{run} {label}: {share} {known}");
        }
    }
    // Layers that are chosen are shown as before, and so are single steps of the run's own.
    let chosen = |choice: Value| -> Value { serde_json::from_str(&server.post("side", &choice).body).unwrap() };
    assert_eq!(chosen(json!({"run": "other", "layers": "mid"}))["aggregate"], "all, layers mid");
    assert_eq!(chosen(json!({"run": "other", "steps": [1, 1]}))["aggregate"], "daam, steps 1-1");
    let told = server.post("changes", &json!({"a": "plain", "b": "other", "sentences": true}));
    let told: Value = serde_json::from_str(&told.body).unwrap();
    let line = told["line"].as_str().unwrap();
    assert!(line.contains("maps of two kinds") && !line.contains("points"), "{line}");
    assert!(told["sentences"].to_string().contains("Their maps are of different kinds"), "{told}");

    // Other seeds are made as the run was.
    let mut events = server.events();
    events.next("state");
    server.post("jobs", &json!({"kind": "seeds", "run": "other"}));
    for seed in 1..=4 {
        assert_eq!(events.next("step")["maps"]["words"], json!(["a red apple", "a frog"]));
        assert_eq!(events.next("made")["side"]["aggregate"], "daam");
        let saved = events.next("saved");
        let record = record(saved["run"].as_str().unwrap());
        let made = (&record["by"], &record["aggregate"], &record["settings"]["seed"]);
        assert_eq!(made, (&json!("tag"), &json!("daam"), &json!(seed)));
        let command = record["command"].as_str().unwrap();
        assert!(command.ends_with(&format!(" --seed {seed} --by tag --aggregate daam --threshold 0.5")), "{command}");
    }
    events.next("done");
}

#[test]
fn other_seeds_of_a_part_drawn_anew_have_its_mask() {
    let server = Server::start();
    let at = server.folder.path();
    image::RgbImage::from_fn(128, 128, |x, y| image::Rgb([x as u8, y as u8, 90])).save(at.join("init.png")).unwrap();
    image::GrayImage::from_fn(128, 128, |x, _| image::Luma([if x < 64 { 255 } else { 0 }]))
        .save(at.join("mask.png"))
        .unwrap();
    let painted = ["--init", "init.png", "--mask", "mask.png", "--steps", "2", "--out", "runs/painted"];
    crate::program::attnmap(at, &[&["generate", "a red apple"], &painted[..]].concat());
    let mut events = server.events();
    events.next("state");
    server.post("jobs", &json!({"kind": "seeds", "run": "painted"}));
    let run = at.join("runs").join(events.next("saved")["run"].as_str().unwrap());
    events.next("done");
    let command = read(&run.join("run.json"))["command"].as_str().unwrap().to_owned();
    assert!(command.contains(" --mask runs/painted/mask.png"), "{command}");
    let words = shlex::split(&command).unwrap();
    let args: Vec<&str> = words[1..].iter().map(String::as_str).chain(["--out", "again"]).collect();
    crate::program::attnmap(at, &args);
    let bytes = |path: std::path::PathBuf| std::fs::read(path).unwrap();
    assert!(bytes(run.join("image.png")) == bytes(at.join("again/image.png")), "the command makes another image");
}

#[test]
fn a_seed_is_drawn_where_that_is_asked_for() {
    let server = Server::start();
    let mut events = server.events();
    events.next("state");
    let mut drawn = Vec::new();
    for seed in ["-1", "random"] {
        server.post("jobs", &json!({"kind": "run", "prompt": "a frog", "seed": seed, "steps": 1}));
        let told = events.next("begun")["seed"].as_str().unwrap().parse::<u64>().unwrap();
        let run = server.folder.path().join("runs").join(events.next("saved")["run"].as_str().unwrap());
        let record = read(&run.join("run.json"));
        assert_eq!(record["settings"]["seed"], told);
        assert!(record["command"].as_str().unwrap().ends_with(&format!(" --seed {told}")), "{}", record["command"]);
        drawn.push(told);
    }
    assert_ne!(drawn[0], drawn[1]);
}

#[test]
fn bad_options_are_said_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let attnmap = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_attnmap")).current_dir(folder.path()).args(args).output().unwrap()
    };
    std::fs::write(folder.path().join("file"), "").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (args, said) in [
        (&["serve", "--port", &port][..], "is in use"),
        (&["serve", "--out", "file"], "no folder"),
        (&["serve", "--host", "example.com"], "--host"),
        (&["serve", "--port", "70000"], "--port"),
        (&["serve", "--host", "203.0.113.9"], "cannot listen"),
    ] {
        let output = attnmap(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains(said) && stderr.lines().count() == 1, "{stderr}");
    }
}
