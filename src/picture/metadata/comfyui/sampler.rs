//! The samplers: which of them made the picture, with which noise, and what lies before it.

use super::graph::{DEEPEST, Graph, Id};
use super::setting::{ADD_NOISE, HEIGHT, LORA, MODEL, SAMPLER, SCHEDULE, SEED, Setting, WIDTH};
use crate::picture::metadata::found::{Metadata, clip_skip, lora};
use crate::picture::metadata::json;
use crate::scheduler::SchedulerKind;
use serde_json::Value;
use std::collections::HashSet;

impl<'a> Graph<'a> {
    /// Whether a node draws: it is called so, or it goes on from latents with settings of its own.
    /// What hands conditioning and latents on has some of its fields too.
    pub(super) fn is_sampler(&self, id: Id) -> bool {
        let has = |name: &str| self.linked(id, name).is_some();
        let conditioned = ["positive", "guider", "basic_pipe", "pipe"].into_iter().any(has);
        let class = self.class(id);
        let latents = || ["latent_image", "latent"].into_iter().any(has) && !class.contains("Context");
        let settings = || ["steps", "cfg", "sigmas", "noise"].iter().any(|name| self.input(id, name).is_some());
        conditioned && (class.contains("Sampler") || (latents() && settings()))
    }

    /// The sampler whose picture this is: nearest to the first node that saves one, or to one that
    /// shows one. Without either, the sampler that no other one goes on from.
    pub(super) fn sampler(&self) -> Option<Id<'a>> {
        let ids = || self.nodes.keys().map(String::as_str);
        let nearest = |id: Id<'a>| self.upstream(id).into_iter().find(|id| self.is_sampler(id));
        for kind in ["Save", "Preview"] {
            let kept = ids().filter(|id| self.class(id).contains(kind)).take(64);
            let saving: Vec<(Id, Id)> = kept.filter_map(|id| Some((id, nearest(id)?))).collect();
            let Some(&(saver, first)) = saving.first() else { continue };
            if saving.iter().any(|(_, other)| *other != first) {
                self.leave(format!("the other samplers of the graph than {}", self.name(first)));
            }
            self.leave_later(saver, first);
            return Some(first);
        }
        let samplers: Vec<Id> = ids().filter(|id| self.is_sampler(id)).take(64).collect();
        let before: HashSet<Id> = samplers.iter().flat_map(|id| self.upstream(id)).collect();
        samplers.iter().find(|id| !before.contains(**id)).or(samplers.first()).copied()
    }

    /// Tells of the nodes between `sampler` and `saver` that draw the picture, or a part of it,
    /// again: detailers and upscalers.
    pub(super) fn leave_later(&self, saver: Id<'a>, sampler: Id<'a>) {
        let before: HashSet<Id> = self.upstream(sampler).into_iter().collect();
        for id in self.upstream(saver) {
            let draws = self.input(id, "sampler_name").is_some() && self.input(id, "denoise").is_some();
            if draws && !before.contains(id) && !self.is_sampler(id) {
                self.leave(format!("the later pass of {}", self.name(id)));
            }
        }
    }

    /// The seed of the noise that the picture of `sampler` was made from: of a sampler that adds
    /// none it is that of the one whose latents it goes on with.
    pub(super) fn seed(&self, sampler: Id<'a>) -> Option<u64> {
        let mut id = sampler;
        for _ in 0..DEEPEST {
            let noise = self.linked(id, "noise").map(|noise| self.behind(noise));
            if self.adds_noise(id, noise) {
                return self.setting(id, noise, SEED, json::whole);
            }
            let Some(earlier) = self.continued(id) else { break };
            id = earlier;
        }
        self.leave(format!("the seed, as {} adds no noise", self.name(id)));
        None
    }

    pub(super) fn adds_noise(&self, id: Id, noise: Option<Id>) -> bool {
        let switch = self.input(id, "add_noise").and_then(|value| self.held(value, ADD_NOISE, 0));
        let is_off = switch.is_some_and(|value| *value == Value::Bool(false) || json::text(value) == Some("disable"));
        let is_none = noise.is_some_and(|noise| self.class(noise).contains("DisableNoise"));
        !is_off && !is_none
    }

    /// The sampler whose latents `id` goes on with.
    pub(super) fn continued(&self, id: Id<'a>) -> Option<Id<'a>> {
        let mut value = ["latent_image", "latent"].into_iter().find_map(|name| self.input(id, name))?;
        for _ in 0..DEEPEST {
            let node = self.link(value)?;
            if self.is_sampler(node) {
                return Some(node);
            }
            let latents = self.field(node, &["samples", "latent", "latent_image"], 0);
            value = latents.or_else(|| self.passed(node))?;
        }
        None
    }

    /// The node that makes the noise levels of `sampler`, behind those that cut or turn them.
    pub(super) fn sigmas(&self, sampler: Id<'a>) -> Option<Id<'a>> {
        let first = self.linked(sampler, "sigmas")?;
        let mut all = std::iter::once(first).chain(self.upstream(first));
        all.find(|id| self.class(id).contains("Scheduler")).or(Some(first))
    }

    pub(super) fn take_sampler(&self, id: Id<'a>, found: &mut Metadata) {
        let Some(name) = self.setting(id, None, SAMPLER, json::text) else { return };
        let sigmas = self.sigmas(id);
        let has = |id: &Id<'a>| SCHEDULE.names.iter().any(|name| self.input(id, name).is_some());
        let is_piped = sigmas.is_none() && !self.bundles(id).is_empty();
        let place = [Some(id), sigmas].into_iter().flatten().find(has).or(is_piped.then_some(id));
        let schedule = match place {
            Some(place) => self.setting(place, None, SCHEDULE, json::text),
            // A node that makes levels by a rule of its own has no schedule's name.
            None => Some(sigmas.map_or("normal", |sigmas| self.class(sigmas))),
        };
        let Some(schedule) = schedule else {
            self.leave(format!("the sampler {name}"));
            return;
        };
        found.scheduler = sampler(name, schedule);
        if found.scheduler.is_none() {
            self.leave(format!("the sampler {name} with schedule {schedule}"));
        }
    }

    /// Size, checkpoint, and what else the picture was made with.
    pub(super) fn look_upstream(&self, sampler: Id<'a>, found: &mut Metadata) {
        let mut unsized_at = None;
        for id in self.upstream(sampler) {
            let class = self.class(id);
            let side = |name: &str, setting: Setting| json::count(self.held(self.input(id, name)?, setting, 0)?);
            if found.size.is_none() && class.contains("Latent") {
                found.size = side("width", WIDTH).zip(side("height", HEIGHT));
                let has_sides = self.linked(id, "width").is_some() || self.linked(id, "height").is_some();
                unsized_at = unsized_at.or((found.size.is_none() && has_sides).then_some(id));
            }
            let of_loader = || side("empty_latent_width", WIDTH).zip(side("empty_latent_height", HEIGHT));
            found.size = found.size.or_else(of_loader);
            if found.model.is_none() && MODEL.names.iter().any(|name| self.input(id, name).is_some()) {
                found.model = self.setting(id, None, MODEL, json::text).map(str::to_owned);
            }
            self.loras(id).into_iter().for_each(|(name, weight)| self.leave(lora(name, weight)));
            for network in ["ControlNet", "IPAdapter"] {
                if class.contains(network) {
                    self.leave(network.to_owned());
                }
            }
            let mut ends = ["stop_at_clip_layer", "clip_skip"].into_iter();
            let layer = ends.find_map(|name| json::number(self.input(id, name)?));
            if let Some(layer) = layer.filter(|at| *at < -1.0) {
                self.leave(clip_skip(-layer, -layer - 1.0));
            }
            if self.is_sampler(id) {
                self.leave(format!("the earlier pass of {}", self.name(id)));
            }
            if class.starts_with("VAEEncode") {
                self.leave("the picture that it was drawn from".into());
            }
        }
        let lost = unsized_at.filter(|_| found.size.is_none());
        lost.into_iter().for_each(|id| self.leave(format!("the size of {}", self.name(id))));
    }

    /// The LoRAs that a node loads, with their weights. Stacks of some packages number their inputs
    /// (`lora_name_1`, `lora_01`); rgthree's have an object for each.
    pub(super) fn loras(&self, id: Id) -> Vec<(&'a str, Option<f64>)> {
        let one = |(key, value): (&str, &'a Value)| {
            if let (Some(name), Some(on)) = (value.get("lora").and_then(json::text), value.get("on")) {
                let weight = value.get("strength").and_then(json::number);
                return (*on == Value::Bool(true) && name != "None").then_some((name, weight));
            }
            let number = key.strip_prefix("lora_name").or_else(|| key.strip_prefix("lora"))?;
            let is_numbered = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            if !(key == "lora_name" || number.strip_prefix('_').is_some_and(is_numbered)) {
                return None;
            }
            let beside = |name: &str| self.input(id, &format!("{name}{number}"));
            let weights = ["strength_model", "model_weight", "lora_strength", "strength", "lora_wt"];
            let weight = weights.into_iter().find_map(|name| json::number(beside(name)?));
            let off = beside("switch").and_then(json::text) == Some("Off");
            let name = json::text(value).or_else(|| {
                let place = self.link(value).filter(|_| !off)?;
                let name = self.held(value, LORA, 0).and_then(json::text);
                if name.is_none() {
                    self.leave(format!("the {} of {}", LORA.what, self.name(place)));
                }
                name
            });
            name.filter(|name| *name != "None" && !off).map(|name| (name, weight))
        };
        self.inputs(id).map(|(key, value)| (key.as_str(), value)).filter_map(one).collect()
    }
}

/// ComfyUI's samplers (`comfy/samplers.py`) with a schedule, where there is the same here.
fn sampler(name: &str, schedule: &str) -> Option<SchedulerKind> {
    Some(match (name, schedule) {
        ("dpmpp_2m", "karras") => SchedulerKind::DpmSolverKarras,
        ("dpmpp_2m_sde" | "dpmpp_2m_sde_gpu", "karras") => SchedulerKind::DpmSolverSdeKarras,
        ("ddim", "normal" | "simple" | "ddim_uniform") => SchedulerKind::Ddim,
        ("lcm", "normal" | "simple" | "sgm_uniform") => SchedulerKind::Lcm,
        (_, schedule) if schedule != "normal" => return None,
        ("euler", _) => SchedulerKind::Euler,
        ("euler_ancestral", _) => SchedulerKind::EulerAncestral,
        ("heun", _) => SchedulerKind::Heun,
        ("lms", _) => SchedulerKind::Lms,
        ("dpm_2", _) => SchedulerKind::Kdpm2,
        ("dpm_2_ancestral", _) => SchedulerKind::Kdpm2Ancestral,
        ("dpmpp_2m", _) => SchedulerKind::DpmSolver,
        ("dpmpp_2m_sde" | "dpmpp_2m_sde_gpu", _) => SchedulerKind::DpmSolverSde,
        ("ddpm", _) => SchedulerKind::Ddpm,
        ("deis", _) => SchedulerKind::Deis,
        ("uni_pc" | "uni_pc_bh2", _) => SchedulerKind::UniPc,
        _ => return None,
    })
}
