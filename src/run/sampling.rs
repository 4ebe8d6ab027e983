//! What an image is asked to be sampled with, beside prompt, seed and checkpoint. Command lines,
//! lists of prompts, cells of galleries and `run.json` share this description.

use crate::prompt::Syntax;
use crate::scheduler::{SchedulerKind, Spacing};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// The settings of a run's sampling. What is `None` is not asked for: the checkpoint's own is
/// taken.
///
/// Pairs have the height, or the top, first. In files and on command lines they are texts as
/// `--size` takes them, with the width first. What reads one of these files also reads the forms
/// that older versions wrote.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    /// What the image should not show.
    pub negative: Option<String>,
    /// Whether brackets are weights; they are text where `None`.
    pub emphasis: Option<bool>,
    /// Whether a prompt is read beyond one chunk of tokens; it is cut off where `None`.
    pub long: Option<bool>,
    /// Denoising steps, 1 or more.
    pub steps: Option<usize>,
    /// Classifier-free guidance; 1 or less is none.
    pub guidance: Option<f64>,
    /// Height and width of the image in pixels.
    pub size: Option<[usize; 2]>,
    /// The sampler.
    pub scheduler: Option<SchedulerKind>,
    /// How the timesteps are spread.
    pub spacing: Option<Spacing>,
    /// Last layers of CLIP that do not read the prompt; none is left out where `None`.
    pub clip_skip: Option<usize>,
    /// SDXL: height and width in pixels that the image is said to have had; its own where `None`.
    pub original_size: Option<[usize; 2]>,
    /// SDXL: top and left in pixels of the crop that the image is said to be; 0, 0 where `None`.
    pub crop: Option<[usize; 2]>,
    /// Share of the steps that are taken from a picture, above 0 and at most 1.
    pub strength: Option<f64>,
}

impl Sampling {
    /// The names of all settings: those of the options, of columns of a list, and of fields in
    /// files.
    pub const NAMES: [&'static str; 12] = [
        "negative",
        "steps",
        "guidance",
        "size",
        "scheduler",
        "spacing",
        "clip_skip",
        "original_size",
        "crop",
        "strength",
        "emphasis",
        "long",
    ];

    /// Sets the setting `name` to what `value` says, as it is written on a command line.
    ///
    /// # Errors
    /// What to write instead, and for a name that is none.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number = || value.trim().parse().ok().filter(|number: &f64| number.is_finite()).ok_or("write a number");
        match name {
            "negative" => self.negative = Some(value.to_owned()),
            "emphasis" => self.emphasis = Some(switch(value)?),
            "long" => self.long = Some(switch(value)?),
            "steps" => self.steps = Some(value.trim().parse().map_err(|_| "write a whole number")?),
            "clip_skip" => self.clip_skip = Some(value.trim().parse().map_err(|_| "write a whole number")?),
            "guidance" => self.guidance = Some(number()?),
            "strength" => self.strength = Some(number()?),
            "size" => self.size = Some(parse_size(value)?),
            "original_size" => self.original_size = Some(parse_size(value)?),
            "crop" => self.crop = Some(parse_point(value)?),
            "scheduler" => {
                let names = || SchedulerKind::ALL.map(SchedulerKind::name).join(", ");
                self.scheduler = Some(value.parse().map_err(|_| format!("choose one of {}", names()))?);
            }
            "spacing" => {
                let names = || Spacing::ALL.map(Spacing::name).join(", ");
                self.spacing = Some(value.parse().map_err(|_| format!("choose one of {}", names()))?);
            }
            _ => return Err(format!("there is no setting {}", crate::in_quotes(name))),
        }
        Ok(())
    }

    /// The setting `name` as it is written on a command line; `None` where it is not asked for.
    pub fn get(&self, name: &str) -> Option<String> {
        match name {
            "negative" => self.negative.clone(),
            "emphasis" => self.emphasis.map(|on| on.to_string()),
            "long" => self.long.map(|on| on.to_string()),
            "steps" => self.steps.map(|steps| steps.to_string()),
            "clip_skip" => self.clip_skip.map(|layers| layers.to_string()),
            "guidance" => self.guidance.map(|scale| scale.to_string()),
            "strength" => self.strength.map(|share| share.to_string()),
            "size" => self.size.map(|[height, width]| format!("{width}x{height}")),
            "original_size" => self.original_size.map(|[height, width]| format!("{width}x{height}")),
            "crop" => self.crop.map(|[top, left]| format!("{left},{top}")),
            "scheduler" => self.scheduler.map(|kind| kind.name().to_owned()),
            "spacing" => self.spacing.map(|spacing| spacing.name().to_owned()),
            _ => None,
        }
    }

    /// This, with `others` where it asks for nothing.
    #[must_use]
    pub fn or(self, others: &Self) -> Self {
        Self {
            negative: self.negative.or_else(|| others.negative.clone()),
            emphasis: self.emphasis.or(others.emphasis),
            long: self.long.or(others.long),
            steps: self.steps.or(others.steps),
            guidance: self.guidance.or(others.guidance),
            size: self.size.or(others.size),
            scheduler: self.scheduler.or(others.scheduler),
            spacing: self.spacing.or(others.spacing),
            clip_skip: self.clip_skip.or(others.clip_skip),
            original_size: self.original_size.or(others.original_size),
            crop: self.crop.or(others.crop),
            strength: self.strength.or(others.strength),
        }
    }

    /// How prompt and negative prompt are read.
    pub fn syntax(&self) -> Syntax {
        Syntax { emphasis: self.emphasis.unwrap_or(false), long: self.long.unwrap_or(false) }
    }
}

/// Height and width of a text like `640x512`, which has the width first.
///
/// # Errors
/// What to write instead.
pub fn parse_size(text: &str) -> Result<[usize; 2], String> {
    pair(text, &['x', 'X']).ok_or_else(|| "write WIDTHxHEIGHT, e.g. 512x512".to_owned())
}

/// Top and left of a text like `0,128`, which has the left first.
///
/// # Errors
/// What to write instead.
pub fn parse_point(text: &str) -> Result<[usize; 2], String> {
    pair(text, &[',']).ok_or_else(|| "write X,Y in pixels, e.g. 0,128".to_owned())
}

/// Two numbers of which the second is written first.
fn pair(text: &str, between: &[char]) -> Option<[usize; 2]> {
    let (first, second) = text.split_once(between)?;
    Some([second.trim().parse().ok()?, first.trim().parse().ok()?])
}

/// `yes` or `no`, `true` or `false`, 1 or 0.
fn switch(value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err("write yes or no".to_owned()),
    }
}

impl Serialize for Sampling {
    /// What is asked for, by name: numbers and switches as such, the rest as texts.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = |name: &'static str| -> Option<(&'static str, Value)> {
            let text = self.get(name)?;
            let typed = match name {
                "steps" => self.steps.map(Value::from),
                "clip_skip" => self.clip_skip.map(Value::from),
                "guidance" => self.guidance.map(Value::from),
                "strength" => self.strength.map(Value::from),
                "emphasis" => self.emphasis.map(Value::from),
                "long" => self.long.map(Value::from),
                _ => None,
            };
            Some((name, typed.unwrap_or(Value::String(text))))
        };
        serializer.collect_map(Self::NAMES.into_iter().filter_map(value))
    }
}

/// Everything that a file of any version may say of a run's sampling.
#[derive(Deserialize)]
struct Written {
    negative: Option<String>,
    /// Cells of galleries hold both switches here.
    syntax: Option<Syntax>,
    emphasis: Option<bool>,
    long: Option<bool>,
    steps: Option<usize>,
    #[serde(alias = "guidance_scale")]
    guidance: Option<f64>,
    size: Option<NumberPair>,
    /// `run.json` has the sides of the image apart.
    height: Option<usize>,
    width: Option<usize>,
    scheduler: Option<SchedulerKind>,
    spacing: Option<String>,
    clip_skip: Option<usize>,
    original_size: Option<NumberPair>,
    crop: Option<NumberPair>,
    strength: Option<f64>,
}

/// Two numbers of a picture, width first: a text (`640x512`, `10,20`), or a list as cells of
/// galleries have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberPair {
    Text(String),
    List([usize; 2]),
}

impl NumberPair {
    fn read<E: serde::de::Error>(self, parse: fn(&str) -> Result<[usize; 2], String>) -> Result<[usize; 2], E> {
        match self {
            Self::List([first, second]) => Ok([second, first]),
            Self::Text(text) => parse(&text).map_err(|reason| E::custom(format!("{text:?}: {reason}"))),
        }
    }
}

impl<'de> Deserialize<'de> for Sampling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let syntax = written.syntax.unwrap_or_default();
        let size = written.size.map(|pair| pair.read(parse_size)).transpose()?;
        Ok(Self {
            negative: written.negative.filter(|negative| !negative.is_empty()),
            emphasis: written.emphasis.or(syntax.emphasis.then_some(true)),
            long: written.long.or(syntax.long.then_some(true)),
            steps: written.steps,
            guidance: written.guidance,
            size: size.or(written.height.zip(written.width).map(|(height, width)| [height, width])),
            scheduler: written.scheduler,
            spacing: written.spacing.map(|name| name.parse().map_err(D::Error::custom)).transpose()?,
            clip_skip: written.clip_skip,
            original_size: written.original_size.map(|pair| pair.read(parse_size)).transpose()?,
            crop: written.crop.map(|pair| pair.read(parse_point)).transpose()?,
            strength: written.strength,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Sampling {
        Sampling {
            negative: Some("rain".into()),
            emphasis: Some(true),
            long: Some(false),
            steps: Some(8),
            guidance: Some(3.5),
            size: Some([512, 640]),
            scheduler: Some("euler-a".parse().unwrap()),
            spacing: Some("trailing".parse().unwrap()),
            clip_skip: Some(1),
            original_size: Some([768, 1024]),
            crop: Some([16, 40]),
            strength: Some(0.4),
        }
    }

    #[test]
    fn every_setting_is_set_and_told_by_its_name() {
        let mut again = Sampling::default();
        for name in Sampling::NAMES {
            let text = all().get(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(again.get(name), None, "{name}");
            again.set(name, &text).unwrap();
        }
        assert_eq!(again, all());
        assert!(again.set("colour", "red").is_err() && again.set("steps", "many").is_err());
        assert!(again.set("guidance", "NaN").is_err() && again.set("scheduler", "best").is_err());
        assert!(again.set("clip_skip", "-1").is_err() && again.set("clip_skip", "one").is_err());
        assert_eq!(Sampling::default().or(&all()), all());
        assert_eq!(Sampling { steps: Some(3), ..Sampling::default() }.or(&all()).steps, Some(3));
    }

    #[test]
    fn files_of_every_version_are_read() {
        let written = serde_json::to_value(all()).unwrap();
        assert_eq!(written["size"], "640x512", "the width first, as on the command line");
        assert_eq!(serde_json::from_value::<Sampling>(written).unwrap(), all());
        assert_eq!(serde_json::to_string(&Sampling::default()).unwrap(), "{}");
        let run = r#"{"seed": 1, "steps": 8, "guidance_scale": 3.5, "width": 640, "height": 512, "crop": "40,16",
                      "original_size": "1024x768", "spacing": "trailing", "clip_skip": 1, "emphasis": true,
                      "strength": 0.4}"#;
        let run: Sampling = serde_json::from_str(run).unwrap();
        let plain = Sampling { negative: None, long: None, scheduler: None, ..all() };
        assert_eq!(run, plain);
        let cell = r#"{"negative": "", "syntax": {"emphasis": true}, "steps": 8, "guidance": 3.5, "size": [640, 512],
                       "scheduler": null, "original_size": [1024, 768], "crop": [40, 16], "spacing": "trailing",
                       "clip_skip": 1}"#;
        let cell: Sampling = serde_json::from_str(cell).unwrap();
        assert_eq!(cell, Sampling { strength: None, ..plain });
    }

    #[test]
    fn sizes_are_width_by_height() {
        assert_eq!(parse_size("640x512"), Ok([512, 640]));
        assert_eq!(parse_point("40, 16"), Ok([16, 40]));
        for wrong in ["", "640", "x", "640x", "-1x2", "axb", "1x2x3"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
