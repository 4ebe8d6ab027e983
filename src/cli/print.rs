//! How facts reach stdout and progress reaches stderr.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use attnmap::Error;
use attnmap::checkpoint::Progress;
pub use attnmap::maker::{shortened as printable, some_of};
pub use attnmap::percent;
use attnmap::trace::Grid;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::inert::TypedArguments;

/// What the user wants to see on stderr.
#[derive(Debug, Clone, Default)]
pub struct Terminal {
    /// No progress.
    pub quiet: bool,
    /// What was typed.
    pub given: TypedArguments,
}

impl Terminal {
    /// A bar over `length` units, drawn on stderr only when that is a terminal and not quiet.
    pub fn bar(&self, length: u64, what: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("{msg:>12} [{bar:32}] {pos}/{len} {elapsed} (eta {eta})")
            .expect("a constant template")
            .progress_chars("=> ");
        self.draw(ProgressBar::new(length)).with_style(style).with_message(what.to_owned())
    }

    /// A spinner for work of unknown length.
    pub fn spinner(&self, what: &str) -> ProgressBar {
        let bar = self.draw(ProgressBar::new_spinner()).with_message(what.to_owned());
        // The tick is a thread, which the system may have none left for; the bar then stands still.
        if !bar.is_hidden() && std::thread::Builder::new().spawn(|| {}).is_ok() {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        bar
    }

    /// Shows downloads, one bar per file; `None` when nothing is to be shown.
    pub fn downloads(&self) -> Option<Arc<dyn Progress>> {
        (!self.quiet).then(|| Arc::new(Downloads { bar: self.bar_of_bytes(), file: Mutex::default() }) as _)
    }

    fn bar_of_bytes(&self) -> ProgressBar {
        let style =
            ProgressStyle::with_template("{msg} [{bar:32}] {bytes}/{total_bytes} {binary_bytes_per_sec} (eta {eta})")
                .expect("a constant template")
                .progress_chars("=> ");
        self.draw(ProgressBar::new(0)).with_style(style)
    }

    fn draw(&self, bar: ProgressBar) -> ProgressBar {
        let target = if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        bar.set_draw_target(target);
        bar
    }
}

/// One bar that follows the file being downloaded.
struct Downloads {
    bar: ProgressBar,
    file: Mutex<String>,
}

impl Progress for Downloads {
    fn download(&self, file: &str, done: u64, total: u64) {
        let Ok(mut current) = self.file.lock() else { return };
        if *current != file {
            file.clone_into(&mut current);
            self.bar.reset();
            self.bar.set_message(file.to_owned());
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        if total > 0 && done >= total {
            self.bar.finish_and_clear();
        }
    }
}

/// A point of an image of `size`, given as a share of its sides, as the pixel that `--at` takes:
/// `45,88`.
pub fn pixel(x: f32, y: f32, size: Grid) -> String {
    let [across, down] = size.pixel(x, y);
    format!("{across:.0},{down:.0}")
}

/// What stands below every table with probes.
pub const PROBES: &str = "A probe is not in the prompt: its attention is what it would take from the prompt's tokens.";

/// Set by `--quiet`: no [`note`]s.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Says whether [`note`]s are wanted.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// One line on stderr, written at once, with nothing that could drive the terminal, since names of
/// files are the user's too. An error there is nobody's to hear of and changes nothing: all of
/// stderr goes through here, as `eprintln!` panics.
fn stderr(message: &str) {
    let line = format!("attnmap: {}\n", line(message));
    io::stderr().lock().write_all(line.as_bytes()).ok();
}

/// What the user may want to know beside the facts: one line on stderr, none with `--quiet`.
pub fn note(message: impl AsRef<str>) {
    if !QUIET.load(Ordering::Relaxed) {
        stderr(message.as_ref());
    }
}

/// A warning: one line on stderr.
pub fn warn(message: impl AsRef<str>) {
    stderr(&format!("warning: {}", message.as_ref()));
}

/// Fails where some of several things that were asked for are `refused`, with a line for each.
pub fn tell_refused(mut refused: Vec<attnmap::Error>) -> attnmap::Result<()> {
    let Some(last) = refused.pop() else { return Ok(()) };
    refused.iter().for_each(|error| warn(error.to_string()));
    Err(last)
}

/// Why the command failed: one line on stderr.
pub fn complain(message: &str) {
    stderr(message);
}

/// Writes facts to stdout. That the reader went away (`attnmap ... | head`) is no error. The work
/// that is left is done all the same, and the exit code is its own.
pub fn stdout(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

/// The result of writing to stdout, with its name where that failed.
pub fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("standard output")(error).into()),
        _ => Ok(()),
    }
}

/// Writes `value` to stdout as indented JSON.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    stdout(&text)
}

/// Columns aligned by width in characters: the first one left, the others right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| console::measure_text_width(c)).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[column] - console::measure_text_width(cell));
            let (before, after) = if column == 0 { ("", padding.as_str()) } else { (padding.as_str(), "") };
            line += &format!("{}{before}{cell}{after}", if column == 0 { "" } else { "  " });
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// `text` without control characters, of any length.
pub fn line(text: &str) -> String {
    attnmap::printable(text)
}
