//! What a page may ask to be done, as it comes in JSON: nothing in it is a path.

use crate::gallery::{is_random_seed, random_seed};
use crate::maker::shortened;
use crate::pipeline::{Options, Pipeline};
use crate::prompt::Syntax;
use crate::{Error, Result};
use serde::Deserialize;

/// Steps of a run, at most: maps of every step are kept in memory.
const MOST_STEPS: usize = 1000;

/// A job for the checkpoint.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Job {
    /// A run of a prompt.
    Run(Box<RunRequest>),
    /// Four further seeds of a run.
    Seeds {
        /// Its name in the history.
        run: String,
    },
    /// The same seed without a word.
    Without {
        /// The run.
        run: String,
        /// The label of one of the run's words (`frog#2`).
        word: String,
    },
    /// The same seed with what a word adds scaled from 0 to 2.
    Times {
        /// The run.
        run: String,
        /// The word.
        word: String,
    },
    /// Why the thing of a word lies where it does.
    Why {
        /// The run.
        run: String,
        /// The word.
        word: String,
    },
    /// Whether each word mattered.
    Explain {
        /// The run.
        run: String,
    },
}

/// A run as it is asked for; what is not given is the checkpoint's own.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct RunRequest {
    pub prompt: String,
    pub negative: String,
    /// In decimal digits: a page's numbers have too few bits for all seeds. `-1` or `random` draws
    /// one.
    pub seed: String,
    pub steps: Option<usize>,
    pub guidance: Option<f64>,
    pub width: Option<usize>,
    pub height: Option<usize>,
    pub scheduler: Option<String>,
    pub emphasis: bool,
    pub long: bool,
}

impl Job {
    /// What it is called in the queue.
    pub fn title(&self) -> String {
        match self {
            Self::Run(asked) => shortened(&asked.prompt),
            Self::Seeds { .. } => "four other seeds".into(),
            Self::Without { word, .. } => format!("without {}", crate::in_quotes(word)),
            Self::Times { word, .. } => format!("{} times 0 to 2", crate::in_quotes(word)),
            Self::Why { word, .. } => format!("why {} lies there", crate::in_quotes(word)),
            Self::Explain { .. } => "did each word matter".into(),
        }
    }

    /// Refuses what need not wait to be refused.
    ///
    /// # Errors
    /// [`Error::Argument`] for an empty prompt, a seed that is no number, and too many steps.
    pub fn check(&self) -> Result<()> {
        let Self::Run(asked) = self else { return Ok(()) };
        if asked.prompt.trim().is_empty() {
            return Err(Error::input("prompt", "it is empty; say what the image should show"));
        }
        if asked.prompt.contains('\0') || asked.negative.contains('\0') {
            return Err(Error::input("prompt", "it has a NUL character, which no text has"));
        }
        if !(1..=MOST_STEPS).contains(&asked.steps.unwrap_or(1)) {
            return Err(Error::input("steps", format!("from 1 to {MOST_STEPS}")));
        }
        asked.seed_number().map(drop)
    }
}

impl RunRequest {
    /// The seed; 0 where none is given, and another each time where one is to be drawn.
    ///
    /// # Errors
    /// [`Error::Argument`] for what is no number.
    fn seed_number(&self) -> Result<u64> {
        match self.seed.trim() {
            "" => Ok(0),
            seed if is_random_seed(seed) => Ok(random_seed()),
            seed => {
                let reason = format!("a number from 0 to {}, or -1 for one that is drawn", u64::MAX);
                seed.parse().map_err(|_| Error::input("seed", reason))
            }
        }
    }

    /// The options of the run.
    ///
    /// # Errors
    /// [`Error::Argument`] for a seed or sampler that there is not.
    pub fn options(&self, pipeline: &Pipeline) -> Result<Options> {
        let own = pipeline.default_options();
        let scheduler = self.scheduler.as_deref().filter(|name| !name.is_empty()).map(str::parse).transpose()?;
        Ok(Options {
            negative: self.negative.clone(),
            syntax: Syntax { emphasis: self.emphasis, long: self.long },
            steps: self.steps.unwrap_or(own.steps),
            guidance_scale: self.guidance.unwrap_or(own.guidance_scale),
            height: self.height.unwrap_or(own.height),
            width: self.width.unwrap_or(own.width),
            seeds: vec![self.seed_number()?],
            scheduler,
            ..own
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_seed_is_a_number_or_drawn() {
        let seed = |seed: &str| RunRequest { seed: seed.into(), ..RunRequest::default() }.seed_number();
        assert_eq!((seed("").unwrap(), seed(" 7 ").unwrap()), (0, 7));
        assert!(["-1", "random"].iter().all(|text| seed(text).is_ok_and(|drawn| drawn <= u64::from(u32::MAX))));
        assert_ne!(seed("-1").unwrap(), seed("-1").unwrap(), "each time another");
        assert!(["-2", "x", "1.5", "0..2"].iter().all(|text| seed(text).is_err()));
    }

    #[test]
    fn a_job_is_read_and_nonsense_is_refused() {
        let run = |value| serde_json::from_value::<Job>(value);
        let job = run(json!({"kind": "run", "prompt": "a frog", "seed": "18446744073709551615", "steps": 3})).unwrap();
        job.check().unwrap();
        let Job::Run(asked) = &job else { panic!("{job:?}") };
        assert_eq!((asked.seed_number().unwrap(), asked.steps, job.title().as_str()), (u64::MAX, Some(3), "a frog"));
        for wrong in [
            json!({"kind": "run", "prompt": " "}),
            json!({"kind": "run", "prompt": "x", "seed": "-2"}),
            json!({"kind": "run", "prompt": "x", "steps": 0}),
            json!({"kind": "run", "prompt": "x", "steps": 1_000_000}),
        ] {
            assert!(run(wrong.clone()).unwrap().check().is_err(), "{wrong}");
        }
        for wrong in [json!({"kind": "rm", "run": "x"}), json!({"run": "x"}), json!([]), json!({"kind": "seeds"})] {
            assert!(run(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
