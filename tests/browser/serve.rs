//! The page of `attnmap serve`: used by keys alone, seen while a run forms, and looked at in
//! several widths.

use crate::chrome::{Chrome, Look};
use crate::{browser, scratch};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A running server; its runs go to a folder of its own.
struct Server {
    process: Child,
    url: String,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_attnmap"))
            .current_dir(folder.path())
            .args(["serve", "--quiet", "--out", "runs"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { process, url: line.trim().to_owned(), folder }
    }

    /// The browser has had nothing to complain of and asked nobody but this server.
    #[track_caller]
    fn clean(&self, chrome: &mut Chrome) {
        let own = format!("request: {}", self.url);
        let faults: Vec<String> = chrome.faults().into_iter().filter(|fault| !fault.starts_with(&own)).collect();
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Types text where the cursor is.
fn typed(chrome: &mut Chrome, text: &str) {
    chrome.call("Input.insertText", json!({"text": text}));
}

/// Presses a key with Ctrl.
fn ctrl(chrome: &mut Chrome, key: &str, code: u32) {
    for kind in ["rawKeyDown", "keyUp"] {
        let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 2});
        chrome.call("Input.dispatchKeyEvent", event);
    }
    chrome.settle();
}

/// Presses Tab until the focus is on what matches `selector`.
#[track_caller]
fn tab_to(chrome: &mut Chrome, selector: &str) {
    for _ in 0..60 {
        if chrome.eval(&format!("document.activeElement.matches({selector:?})")) == json!(true) {
            return;
        }
        chrome.key("Tab", false);
    }
    panic!("Tab never comes to {selector}");
}

const WHOLE: &str = "document.querySelector('.picture.b').dataset.step === 'whole' && \
document.querySelector('.picture.b').dataset.run !== ''";

#[test]
fn a_word_is_changed_and_compared_by_keys_alone() {
    let Some(mut chrome) = browser() else { return };
    let server = Server::start();
    chrome.open_url(&server.url, Look::default());
    // The cursor is in the prompt. Few steps, so that the test is short.
    typed(&mut chrome, "a red <b>apple</b> and a zebra");
    chrome.wait("document.querySelector('.read').textContent.includes('never seen: ')");
    assert!(chrome.text(".read").contains("zebra") && chrome.text(".read").contains(" of 30 tokens"));
    tab_to(&mut chrome, "summary");
    chrome.key("Enter", false);
    tab_to(&mut chrome, "#steps");
    typed(&mut chrome, "4");
    chrome.eval(
        "window.seen = new Set(); new MutationObserver(() => \
    window.seen.add(document.querySelector('.picture.b').dataset.step)) \
                 .observe(document.querySelector('.picture.b'), {attributes: true})",
    );
    ctrl(&mut chrome, "Enter", 13);
    chrome.wait(WHOLE);
    let seen = chrome.eval("[...window.seen].filter((step) => /^[0-9]+$/.test(step)).length");
    assert!(seen.as_f64().unwrap() >= 2.0, "the run was seen forming: {seen}");
    assert_eq!(chrome.eval("document.querySelectorAll('.history li').length"), json!(1));
    assert_eq!(
        chrome.eval("document.querySelectorAll('main b').length > 0 && !document.querySelector('.history b')"),
        json!(true)
    );

    // Another word, and more of it: the selection is what was weighed.
    chrome.eval("document.getElementById('prompt').focus()");
    chrome.eval("document.getElementById('prompt').select()");
    typed(&mut chrome, "a green apple");
    ctrl(&mut chrome, "ArrowUp", 38);
    ctrl(&mut chrome, "ArrowUp", 38);
    assert_eq!(chrome.eval("document.getElementById('prompt').value"), json!("a green (apple:1.2)"));
    ctrl(&mut chrome, "ArrowDown", 40);
    ctrl(&mut chrome, "ArrowDown", 40);
    assert_eq!(chrome.eval("document.getElementById('prompt').value"), json!("a green apple"));
    ctrl(&mut chrome, "Enter", 13);
    // The comparison comes by itself.
    chrome.wait("document.querySelector('.changed').textContent.includes('red → green')");
    chrome.wait(WHOLE);
    let line = chrome.text(".changed");
    assert!(line.starts_with("changed: ") && line.contains(" · image "), "{line}");
    chrome.wait("document.querySelector('.between').dataset.compared.includes('|')");
    chrome.wait("document.querySelectorAll('.sentences li').length > 0");

    // Outside of the fields, keys pin, choose a step and walk.
    tab_to(&mut chrome, ".go");
    chrome.key("p", false);
    chrome.wait("document.querySelector('.history').textContent.includes('pinned')");
    chrome.key("p", false);
    chrome.wait("!document.querySelector('.history').textContent.includes('pinned')");
    chrome.key("]", false);
    chrome.wait("document.querySelector('.controls .soft').textContent === 'step 1 of 4'");
    chrome.key("[", false);
    chrome.wait("document.querySelector('.controls .soft').textContent === 'all steps'");
    chrome.key("ArrowRight", false);
    chrome.wait("document.querySelectorAll('.history button')[1].getAttribute('aria-current') === 'true'");
    chrome.key("ArrowLeft", false);
    chrome.wait("document.querySelectorAll('.history button')[0].getAttribute('aria-current') === 'true'");
    // A box is the same in all pictures.
    tab_to(&mut chrome, ".picture.a .frame");
    chrome.key("ArrowLeft", false);
    assert_eq!(chrome.eval("document.querySelectorAll('.boxed:not([hidden])').length"), json!(3));
    assert!(chrome.text(".picture.b figcaption").contains("in the box"));
    chrome.key("Escape", false);
    assert_eq!(chrome.eval("document.querySelectorAll('.boxed:not([hidden])').length"), json!(0));
    // The word that is kept in both.
    tab_to(&mut chrome, ".words .word");
    // B's last word is kept; after it stand words that only A has, which no job is about.
    chrome.key("ArrowLeft", false);
    chrome.key("Enter", false);
    let word = chrome.eval("document.activeElement.dataset.word");
    assert!(chrome.text(".picture.b figcaption").contains(word.as_str().unwrap()), "{word}");
    // A job on the run, whose result comes in its place.
    tab_to(&mut chrome, "[data-test='without']");
    chrome.key("Enter", false);
    chrome.wait("document.querySelectorAll('.found img').length > 0");
    assert_eq!(std::fs::read_dir(server.folder.path().join("runs")).unwrap().count(), 2, "it is kept in the run");
    // Arrows on its picture scroll it, and do not walk through the history.
    chrome.eval("document.querySelector('.found .scroller').focus()");
    chrome.key("ArrowRight", false);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(chrome.eval("document.querySelectorAll('.history button')[0].getAttribute('aria-current')"), "true");
    // What was said to screen readers last.
    assert!(!chrome.text("[role='status']").is_empty());
    server.clean(&mut chrome);

    // The page in other windows, and the run's own page within it.
    for (width, height, dark) in [
        (390, 844, false),
        (390, 844, true),
        (1280, 720, false),
        (1280, 720, true),
        (1920, 1080, false),
        (1920, 1080, true),
    ] {
        chrome.look(Look { width, height, dark, ..Look::default() });
        chrome.eval("scrollTo(0, 0)");
        let name = format!("serve-{width}{}.png", if dark { "-dark" } else { "" });
        chrome.screenshot(true).save(scratch(&name)).unwrap();
        assert_eq!(chrome.overflow(), json!([]), "at {width} px");
    }
    chrome.eval("document.querySelector('.report').scrollIntoView()");
    chrome.wait("document.querySelector('.report').contentDocument?.documentElement?.dataset.ready === 'true'");
    server.clean(&mut chrome);
    // A second page that is opened has the history, and what was made last.
    chrome.open_url(&server.url, Look::default());
    chrome.wait(WHOLE);
    assert_eq!(chrome.eval("document.querySelectorAll('.history li').length"), json!(2));
    server.clean(&mut chrome);
}

#[test]
fn fields_that_hold_no_number_are_said() {
    let Some(mut chrome) = browser() else { return };
    let server = Server::start();
    chrome.open_url(&server.url, Look::default());
    typed(&mut chrome, "a red apple");
    chrome.eval("document.querySelector('.settings').open = true");
    let wrong = [("steps", "3.5", "Steps: "), ("width", "-64", "Width: "), ("guidance", "-", "Guidance: ")];
    for (field, text, said) in wrong {
        chrome.eval(&format!("document.getElementById('{field}').focus()"));
        typed(&mut chrome, text);
        ctrl(&mut chrome, "Enter", 13);
        let complaint = chrome.text("[role='alert']");
        assert!(complaint.starts_with(said) && complaint.contains("number"), "{field}: {complaint}");
        chrome.eval(&format!("document.getElementById('{field}').value = ''"));
    }
    server.clean(&mut chrome);
}

/// Puts the tab out of sight, or back.
fn hide(chrome: &mut Chrome, hidden: bool) {
    chrome.eval(&format!(
        "Object.defineProperty(document, 'hidden', {{configurable: true, get: () => {hidden}}}); \
         document.dispatchEvent(new Event('visibilitychange'))"
    ));
}

/// Has a run made as another tab does; how many runs this one then shows.
fn made_elsewhere(chrome: &mut Chrome, steps: usize) -> serde_json::Value {
    chrome.eval(&format!(
        "(async () => {{ const events = new EventSource('events'); \
         await new Promise((done) => events.addEventListener('state', done)); \
         const over = new Promise((done) => events.addEventListener('done', done, {{once: true}})); \
         await fetch('jobs', {{method: 'POST', headers: {{'content-type': 'application/json'}}, \
           body: JSON.stringify({{kind: 'run', prompt: 'a frog', seed: '0', steps: {steps}}})}}); \
         await over; events.close(); return document.querySelectorAll('.history li').length; }})()"
    ))
}

#[test]
fn a_weight_that_stands_there_is_gone_on_from() {
    let Some(mut chrome) = browser() else { return };
    let server = Server::start();
    chrome.open_url(&server.url, Look::default());
    typed(&mut chrome, "a (frog:1.3) b");
    // Brackets are text until a weight is given; within the word, at its number, and all of it.
    for [from, to] in [[4, 4], [9, 9], [2, 12]] {
        chrome.eval("document.querySelectorAll('.settings input[type=checkbox]')[0].checked = false");
        chrome.eval("document.getElementById('prompt').select()");
        typed(&mut chrome, "a (frog:1.3) b");
        chrome.eval(&format!("document.getElementById('prompt').setSelectionRange({from}, {to})"));
        ctrl(&mut chrome, "ArrowUp", 38);
        assert_eq!(chrome.eval("document.getElementById('prompt').value"), json!("a (frog:1.4) b"), "{from}..{to}");
    }
    server.clean(&mut chrome);
}

#[test]
fn steps_are_of_both_runs_and_what_is_hidden_does_not_come_back() {
    let Some(mut chrome) = browser() else { return };
    let server = Server::start();
    chrome.open_url(&server.url, Look::default());
    let shows = |name: &str| format!("document.querySelector('.picture.b').dataset.run === '{name}'");
    let says = |text: &str| format!("document.querySelector('.controls .soft').textContent === '{text}'");
    for (steps, name) in [(1, "a-frog-0"), (3, "a-frog-0-2"), (3, "a-frog-0-3")] {
        made_elsewhere(&mut chrome, steps);
        chrome.wait(&shows(name));
    }
    chrome.wait("document.querySelector('.between').dataset.compared === 'a-frog-0-2|a-frog-0-3'");
    tab_to(&mut chrome, ".go");
    for step in ["step 1 of 3", "step 2 of 3", "step 3 of 3"] {
        chrome.key("]", false);
        chrome.wait(&says(step));
    }
    server.clean(&mut chrome);
    // The next older run is compared with one that has no third step: both are shown whole.
    chrome.key("ArrowRight", false);
    chrome.wait(&shows("a-frog-0-2"));
    chrome.wait(&says("all steps"));
    // A step that one of them has not is said, and not chosen.
    chrome.key("]", false);
    chrome.wait(&says("step 1 of 3"));
    chrome.key("]", false);
    chrome.wait("document.querySelector('[role=alert]').textContent.includes('goes beyond the run')");
    chrome.wait(&says("step 1 of 3"));
    chrome.key("[", false);
    chrome.wait(&says("all steps"));
    chrome.wait("document.querySelector('[role=alert]').hidden");

    // A run that is stopped leaves both as they were, and what was said of them.
    chrome.eval("document.querySelectorAll('.history button')[0].click()");
    chrome.wait("document.querySelector('.between').dataset.compared === 'a-frog-0-2|a-frog-0-3'");
    chrome.eval(
        "(async () => { const ask = async (path, body) => (await fetch(path, {method: 'POST', \
         headers: {'content-type': 'application/json'}, body: JSON.stringify(body)})).json(); \
         const events = new EventSource('events'); \
         const heard = (name) => new Promise((done) => events.addEventListener(name, done, {once: true})); \
         await heard('state'); const [step, over] = [heard('step'), heard('stopped')]; \
         const {job} = await ask('jobs', {kind: 'run', prompt: 'a', seed: '0', steps: 900}); \
         await step; await ask('stop', {job}); await over; events.close(); return true; })()",
    );
    chrome.wait("document.querySelector('.between').dataset.compared === 'a-frog-0-2|a-frog-0-3'");
    assert!(!chrome.faults().iter().any(|fault| fault.starts_with("exception")), "{:#?}", chrome.faults());

    // The newest is hidden, and the oldest looked at; it stays so when the tab comes back.
    let click = |at: usize| format!("document.querySelectorAll('.history button')[{at}].click()");
    chrome.eval(&click(0));
    chrome.wait(&shows("a-frog-0-3"));
    chrome.eval("[...document.querySelectorAll('.tools button')].find((b) => b.textContent === 'Hide').click()");
    chrome.wait("document.querySelectorAll('.history li').length === 2");
    chrome.eval(&click(1));
    chrome.wait(&shows("a-frog-0"));
    hide(&mut chrome, true);
    hide(&mut chrome, false);
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(chrome.eval(&shows("a-frog-0")), json!(true), "it jumps to another run");
}

#[test]
fn a_tab_out_of_sight_frees_its_connection_and_catches_up() {
    let Some(mut chrome) = browser() else { return };
    let server = Server::start();
    chrome.open_url(&server.url, Look::default());
    hide(&mut chrome, true);
    // Another tab has a run made meanwhile.
    assert_eq!(made_elsewhere(&mut chrome, 2), json!(0), "the tab out of sight listens to nothing");
    hide(&mut chrome, false);
    chrome.wait(WHOLE);
    assert_eq!(chrome.eval("document.querySelectorAll('.history li').length"), json!(1));
    server.clean(&mut chrome);
}

/// Milliseconds, the middle one of an odd number of them.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The memory of the server in MB that is its own, files aside.
#[cfg(target_os = "linux")]
fn memory(server: &Server) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Prints what `benches/RESULTS.md` records: from Ctrl+Enter to the first live picture and to the
/// comparison, beside a whole `generate` less its loading. Then the server's memory over a hundred
/// runs.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "takes minutes, on a machine with nothing else to do"]
fn measured() {
    let Some(mut chrome) = browser() else { return };
    let server = Server::start();
    chrome.open_url(&server.url, Look::default());
    typed(&mut chrome, "a red apple to the left of a green frog on the beach");
    chrome.eval(
        "(() => { const b = document.querySelector('.picture.b'), middle = document.querySelector('.between'); \
        window.times = {}; \
         new MutationObserver(() => { const now = performance.now(), t = window.times; \
           if (t.live === undefined && /^[0-9]+$/.test(b.dataset.step)) t.live = now - t.from; \
           if (t.live !== undefined && t.compared === undefined && b.dataset.step === 'whole' && \
middle.dataset.compared.includes('|')) t.compared = now - t.from; \
         }).observe(document.querySelector('.trio'), {attributes: true, subtree: true}); \
         document.addEventListener('keydown', (e) => { if (e.ctrlKey && e.key === 'Enter') window.times = {from: \
performance.now()}; }, true); })()",
    );
    let (mut live, mut compared, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..12 {
        ctrl(&mut chrome, "Enter", 13);
        // The first has nothing to be compared with.
        chrome.wait(if round == 0 { WHOLE } else { "window.times.compared !== undefined" });
        chrome.wait(WHOLE);
        if round > 0 {
            let times = chrome.eval("[window.times.live, window.times.compared]");
            live.push(times[0].as_f64().unwrap());
            compared.push(times[1].as_f64().unwrap());
        }
        let out = format!("generated-{round}");
        let begun = std::time::Instant::now();
        let args = ["generate", "a red apple to the left of a green frog on the beach", "--out", &out, "--json"];
        let record = crate::program::json(server.folder.path(), &args);
        let loading = record["timings"]["load"].as_f64().unwrap();
        whole.push(1000.0 * (begun.elapsed().as_secs_f64() - loading));
    }
    whole.pop();
    println!(
        "first live picture {:.0} ms, comparison {:.0} ms, generate less its loading {:.0} ms (medians of 11)",
        median(live),
        median(compared),
        median(whole)
    );
    let run = "(async () => { const events = new EventSource('events'); await new Promise((done) => \
    events.addEventListener('state', done)); \
               for (let i = 0; i < 10; i++) { const saved = new Promise((done) => events.addEventListener('done', \
done, {once: true})); \
                 await fetch('jobs', {method: 'POST', headers: {'content-type': 'application/json'}, \
                   body: JSON.stringify({kind: 'run', prompt: 'a red apple', seed: '0', steps: 5})}); await saved; } \
events.close(); return true; })()";
    let mut sizes = Vec::new();
    for _ in 0..10 {
        chrome.eval(run);
        sizes.push(format!("{:.0}", memory(&server)));
    }
    println!("memory after 10, 20 ... 100 further runs: {} MB", sizes.join(", "));
}
