//! The settings that nodes hold: where a number or a name of the sampler comes from.

use super::graph::{Graph, Id};
use crate::picture::metadata::json;
use serde_json::Value;
use std::slice;

/// What the value of a setting must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SettingKind {
    Number,
    Text,
    Switch,
}

impl SettingKind {
    fn is_of(self, value: &Value) -> bool {
        match self {
            Self::Number => json::number(value).is_some(),
            Self::Text => json::text(value).is_some(),
            Self::Switch => value.is_boolean() || json::text(value).is_some(),
        }
    }

    /// The fields of nodes that hold one value and nothing else.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Number => &["value", "int", "INT", "Number", "number", "float", "FLOAT"],
            Self::Text => &["value", "string", "STRING", "text"],
            Self::Switch => &["value", "boolean", "BOOLEAN", "bool"],
        }
    }
}

/// A setting of samplers and of what lies before them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    /// What messages call it.
    pub(super) what: &'static str,
    /// The names that fields of nodes have for it.
    pub(super) names: &'static [&'static str],
    pub(super) kind: SettingKind,
}

pub(super) const SEED: Setting = Setting { what: "seed", names: &["seed", "noise_seed"], kind: SettingKind::Number };
pub(super) const STEPS: Setting =
    Setting { what: "steps", names: &["steps", "total_steps", "steps_total"], kind: SettingKind::Number };
pub(super) const CFG: Setting = Setting { what: "guidance", names: &["cfg", "cfg_scale"], kind: SettingKind::Number };
pub(super) const DISTILLED: Setting = Setting { what: "guidance", names: &["guidance"], kind: SettingKind::Number };
pub(super) const SAMPLER: Setting =
    Setting { what: "sampler", names: &["sampler_name", "sampler"], kind: SettingKind::Text };
pub(super) const SCHEDULE: Setting =
    Setting { what: "schedule", names: &["scheduler", "scheduler_name"], kind: SettingKind::Text };
pub(super) const WIDTH: Setting =
    Setting { what: "width", names: &["width", "empty_latent_width"], kind: SettingKind::Number };
pub(super) const HEIGHT: Setting =
    Setting { what: "height", names: &["height", "empty_latent_height"], kind: SettingKind::Number };
pub(super) const MODEL: Setting =
    Setting { what: "checkpoint", names: &["ckpt_name", "unet_name"], kind: SettingKind::Text };
pub(super) const LORA: Setting = Setting { what: "LoRA", names: &["lora_name"], kind: SettingKind::Text };
pub(super) const ADD_NOISE: Setting = Setting { what: "noise", names: &["add_noise"], kind: SettingKind::Switch };

/// The settings that nodes hold together: one that has a field of these may give any of them.
const TOGETHER: [Setting; 8] = [SEED, STEPS, CFG, DISTILLED, SAMPLER, SCHEDULE, WIDTH, HEIGHT];

impl<'a> Graph<'a> {
    /// The value of `setting` that `value` is, followed through nodes that have it. Of a node with
    /// several fields it is the one of its name; what else it could be is not guessed.
    pub(super) fn held(&self, value: &'a Value, setting: Setting, depth: usize) -> Option<&'a Value> {
        if setting.kind.is_of(value) {
            return Some(value);
        }
        let id = self.link(value)?;
        self.follow(depth).ok()?;
        let output = self.output(id, value);
        let setting = match output {
            Some(field) if !setting.names.contains(field) => Setting { names: slice::from_ref(field), ..setting },
            _ => setting,
        };
        let named = self.held_by(id, setting, depth + 1);
        if named.is_some() || output.is_some() {
            return named;
        }
        let only = self.only(id, setting.kind).or_else(|| self.passed(id))?;
        self.held(only, setting, depth + 1)
    }

    /// The value of `setting` that `id` has under its name, or a context or pipe behind it.
    pub(super) fn held_by(&self, id: Id<'a>, setting: Setting, depth: usize) -> Option<&'a Value> {
        if setting.names.contains(&"seed") && self.draws_number(id) {
            return None;
        }
        self.held(self.field(id, setting.names, depth + 1)?, setting, depth + 1)
    }

    /// The one value of `kind` that a node holds, whatever its field is called. A node that holds
    /// or joins more may give any of it.
    pub(super) fn only(&self, id: Id, kind: SettingKind) -> Option<&'a Value> {
        let has = |name: &&'static str| self.input(id, name);
        let mut fields = kind.fields().iter().filter_map(has);
        let is_alone = |only: &'a Value| {
            let links = self.inputs(id).filter(|(_, value)| self.link(value).is_some());
            let settings = TOGETHER.iter().flat_map(|other| other.names).filter_map(has);
            links.count() == usize::from(self.link(only).is_some()) && settings.count() == 0
        };
        match (fields.next(), fields.next()) {
            (Some(only), None) if is_alone(only) => Some(only),
            // A node that holds a seed alone, and is made use of for another number.
            (None, _) if kind == SettingKind::Number && !self.draws_number(id) => {
                let numbers = self.inputs(id).filter(|(_, value)| value.is_number() || self.link(value).is_some());
                SEED.names.iter().find_map(has).filter(|_| numbers.count() == 1)
            }
            _ => None,
        }
    }

    /// Whether a node draws a number between two others: its seed is not what it gives.
    pub(super) fn draws_number(&self, id: Id) -> bool {
        ["min", "minimum", "max", "maximum"].iter().any(|name| self.input(id, name).is_some())
    }

    /// The `setting` of `id`. Where `id` has no such field, it is that of `through` or of a pipe.
    /// What is there and cannot be followed, or is not what `read` takes, is told.
    pub(super) fn setting<T>(
        &self,
        id: Id<'a>,
        through: Option<Id<'a>>,
        setting: Setting,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let pipe = || self.bundles(id).first().and_then(|value| self.link(value));
        let (found, place) = match setting.names.iter().find_map(|name| self.input(id, name)) {
            Some(own) => (self.held(own, setting, 0), self.link(own).map_or(id, |place| self.behind(place))),
            None => {
                let place = through.or_else(pipe).map(|place| self.behind(place))?;
                (self.held_by(place, setting, 0), place)
            }
        };
        let Some(found) = found else {
            self.leave(format!("the {} of {}", setting.what, self.name(place)));
            return None;
        };
        let taken = read(found);
        if taken.is_none() {
            self.leave(format!("the {} {found}", setting.what));
        }
        taken
    }
}
