//! `--expect`: what is expected of an image, shared by the commands that judge one; and exit code 3
//! where it is not met.

use std::error::Error as StdError;
use std::fmt;

use attnmap::facts::expect::{Expectations, Outcome};
use attnmap::pipeline::Pipeline;
use attnmap::trace::{PromptInfo, probe_words};
use attnmap::{Error, Result, in_quotes};
use clap::Args;

use super::print;

/// What is expected of the image.
#[derive(Debug, Clone, Default, Args)]
pub struct ExpectArgs {
    /// What the image should show, e.g. "heart left of apple, no fox"
    ///
    /// The exit code is 3 where it does not show it. Expectations have commas between. THING left
    /// of THING (right of, above, below, inside). THING@left (right, top, bottom, centre, top left
    /// ...). THING@X,Y,W,H, a box in shares of the image. THING, which was drawn; no THING, which
    /// was not.
    #[arg(long, value_name = "LIST")]
    expect: Option<Expectations>,
}

impl ExpectArgs {
    /// What is expected; `None` where nothing is.
    pub fn list(&self) -> Option<&Expectations> {
        self.expect.as_ref()
    }

    /// Refuses things that are neither in `prompt` nor among the `probes` that `pipeline` is asked
    /// about. Refuses a look at the finished image where the checkpoint cannot take one.
    pub fn check(&self, pipeline: &Pipeline, prompt: &PromptInfo, probes: &[String]) -> Result<()> {
        let Some(expect) = &self.expect else { return Ok(()) };
        expect.check_words(prompt, &probe_words(prompt, &pipeline.probe_infos(probes)?))?;
        match expect.looked_for().first() {
            Some(thing) if pipeline.inpaints() => {
                let reason = format!(
                    "whether {} was drawn needs a look at the image, which an inpainting checkpoint cannot take; \
                    leave it out",
                    in_quotes(thing)
                );
                Err(Error::input("--expect", reason))
            }
            _ => Ok(()),
        }
    }
}

/// What came of the expectations, one line per expectation; nothing where none was made.
pub fn lines(outcomes: &[Outcome]) -> String {
    outcomes.iter().map(|outcome| format!("{}\n", print::line(&outcome.to_string()))).collect()
}

/// That expectations were not met, which ends a command that did all its work with exit code 3.
#[derive(Debug)]
pub struct Unmet(String);

impl Unmet {
    /// The exit code.
    pub const CODE: u8 = 3;

    /// Fails where one of `outcomes` is not met.
    pub fn of<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> anyhow::Result<()> {
        let (mut unmet, mut all) = (0, 0);
        for outcome in outcomes {
            unmet += usize::from(outcome.met == Some(false));
            all += usize::from(outcome.met.is_some());
        }
        Self::count(unmet, all, "expectations", "met")
    }

    /// Fails where some of `all` things are not `so`: `2 of 8 images are not as expected`.
    pub fn count(unmet: usize, all: usize, things: &str, so: &str) -> anyhow::Result<()> {
        match unmet {
            0 => Ok(()),
            1 => {
                let things = if all == 1 { things.trim_end_matches('s') } else { things };
                Err(Self(format!("1 of {all} {things} is not {so}")).into())
            }
            _ => Err(Self(format!("{unmet} of {all} {things} are not {so}")).into()),
        }
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Unmet {}
