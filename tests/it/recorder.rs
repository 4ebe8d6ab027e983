//! The tests of the Python package (`python/tests`), where Python with diffusers is at hand.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What the tests import.
const MODULES: &str =
    "torch diffusers transformers accelerate peft sentencepiece safetensors PIL numpy pytest jsonschema";

/// The longest that the tests may take, three times what they need on one quiet core. A test that
/// hangs must not hang all others.
const LONGEST: Duration = Duration::from_secs(420);

/// Says something that the test harness does not hold back.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// The modules that `python` lacks, or why it cannot be asked.
fn lacking(python: &str) -> Result<(), String> {
    let ask = "import importlib.util as u, sys; print(*(m for m in sys.argv[1].split() if not u.find_spec(m)))";
    let output = Command::new(python).args(["-c", ask, MODULES]).output().map_err(|error| error.to_string())?;
    let missing = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match (output.status.success(), missing.as_str()) {
        (true, "") => Ok(()),
        (true, missing) => Err(format!("it has no {}", missing.replace(' ', ", "))),
        (false, _) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

#[test]
fn the_python_package_passes_its_tests() {
    let python = std::env::var("ATTNMAP_PYTHON").unwrap_or_else(|_| "python3".into());
    if let Err(reason) = lacking(&python) {
        say(&format!("python/tests are left out: {python}: {reason} (ATTNMAP_PYTHON names another Python)"));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut tests = Command::new(&python)
        .args(["-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "python/tests", "--basetemp"])
        .arg(folder.path().join("temporary"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .envs([("OMP_NUM_THREADS", "1"), ("HF_HUB_OFFLINE", "1"), ("PYTHONDONTWRITEBYTECODE", "1")])
        .env("ATTNMAP", env!("CARGO_BIN_EXE_attnmap"))
        .stderr(log.try_clone().unwrap())
        .stdout(log)
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = tests.try_wait().unwrap() {
            break Some(status);
        }
        if start.elapsed() > LONGEST {
            tests.kill().unwrap();
            tests.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let said = std::fs::read_to_string(folder.path().join("log")).unwrap();
    match status {
        Some(status) => assert!(status.success(), "{said}"),
        None => panic!("python/tests took more than {} s: {said}", LONGEST.as_secs()),
    }
}
