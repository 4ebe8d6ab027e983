//! Runs made behind a progress bar, for `generate` and for `explain` with a prompt.

use std::ops::ControlFlow;
use std::path::PathBuf;

use attnmap::Result;
use attnmap::files::Target;
use attnmap::maker::{Maker, RunEvent};
use attnmap::pipeline::{Event, Options};
use attnmap::run::RunRecord;
use attnmap::trace::Unobserved;

use super::output::listed;
use super::print::Terminal;

/// Makes the run of `options`, which has one seed, at `target`. Returns its folder.
pub fn make(
    maker: &Maker,
    options: &Options,
    target: &Target,
    command: String,
    terminal: &Terminal,
) -> Result<(PathBuf, RunRecord)> {
    let bar = terminal.bar(0, &format!("seed {}", options.seeds[0]));
    let mut spinner = None;
    let made = maker.make(options, target, command, &mut Unobserved, &mut |progress| {
        match progress {
            RunEvent::Event(Event::Encoded { calls }) => bar.set_length(calls as u64),
            RunEvent::Event(Event::Stepped { .. }) => bar.inc(1),
            RunEvent::Traced(_) => {
                bar.finish_and_clear();
                spinner = Some(terminal.spinner("drawing"));
            }
            RunEvent::Event(Event::Decoded { .. }) | RunEvent::Estimate(..) => {}
        }
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    if let Ok((folder, _)) = &made {
        listed(folder);
    }
    made
}
