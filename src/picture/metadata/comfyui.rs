//! ComfyUI's `prompt`: the graph of nodes that was run (PNG text chunk, or EXIF in WebP files).
//!
//! Its form is that of ComfyUI's `SaveImage`: `{"ID": {"class_type": .., "inputs": {..}}}`, where
//! an input is a value or a link `["ID", output]`. The graph is followed backwards from the node
//! that saves the picture to the sampler nearest to it. From there it leads to the nodes that hold
//! its texts and numbers.

use super::container::{Texts, USER_COMMENT};
use super::found::{self, LONGEST, Metadata, lora};
use super::json;
use super::web_ui::without_networks;
use crate::prompt::Syntax;
use crate::scheduler::SchedulerKind;
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};

/// Links that are followed one after the other. Graphs that people draw are far shorter; one that
/// runs in a circle ends here.
const DEEPEST: usize = 100;

/// Links that are followed in all: a graph may join the same texts over and over.
const MOST_LINKS: usize = 20_000;

/// What ComfyUI wrote.
pub(super) fn read(texts: &Texts) -> Option<Result<Metadata, String>> {
    let comment = || texts.get(USER_COMMENT).filter(|text| text.trim_start().starts_with('{'));
    let (text, of_chunk) = match texts.get("prompt") {
        Some(text) => (text, true),
        None => (comment()?, false),
    };
    let parsed = json::parse(text);
    let is_graph =
        |value: &Value| value.as_object().is_some_and(|nodes| nodes.values().any(|node| !class(node).is_empty()));
    match parsed {
        Ok(Value::Object(nodes)) if is_graph(&Value::Object(nodes.clone())) => Some(Graph::new(&nodes).read()),
        // Any program may call a text so.
        Ok(_) => None,
        Err(_) if !of_chunk || !text.trim_start().starts_with('{') => None,
        Err(error) => Some(Err(format!("the graph of ComfyUI is no JSON ({error})"))),
    }
}

/// The class of a node; empty for what is none.
fn class(node: &Value) -> &str {
    node.get("class_type").and_then(Value::as_str).unwrap_or_default()
}

/// Which of a sampler's two prompts is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PromptSide {
    Positive,
    Negative,
}

impl PromptSide {
    /// The input that has it.
    fn input(self) -> &'static str {
        match self {
            Self::Positive => "positive",
            Self::Negative => "negative",
        }
    }

    /// The input that has its text, of a node that holds both.
    fn text(self) -> &'static str {
        match self {
            Self::Positive => "text_positive",
            Self::Negative => "text_negative",
        }
    }
}

/// A node's name in the graph.
type Id<'a> = &'a str;

struct Graph<'a> {
    nodes: &'a Map<String, Value>,
    links: Cell<usize>,
    /// The guidance that FLUX takes as an input, which its prompt carries.
    distilled: Cell<Option<f64>>,
    not_taken: RefCell<Vec<String>>,
}

impl<'a> Graph<'a> {
    fn new(nodes: &'a Map<String, Value>) -> Self {
        Self { nodes, links: Cell::new(0), distilled: Cell::new(None), not_taken: RefCell::default() }
    }

    fn read(&self) -> Result<Metadata, String> {
        let sampler = self.sampler().ok_or("the graph of ComfyUI has no sampler that is known here")?;
        let guider = self.linked(sampler, "guider").unwrap_or(sampler);
        let prompt = self.prompt(sampler, guider, PromptSide::Positive)?;
        let negative = self.prompt(sampler, guider, PromptSide::Negative);
        let negative = negative.map_err(|reason| self.leave(format!("the negative prompt: {reason}"))).ok();
        let source = |name: &str, through: Option<Id<'a>>| {
            let own = self.input(sampler, name).and_then(|value| self.number(value, 0));
            own.or_else(|| self.number(self.input(through?, name)?, 0))
        };
        let (noise, sigmas) = (self.linked(sampler, "noise"), self.sigmas(sampler));
        let seed = source("seed", noise).or_else(|| source("noise_seed", noise));
        let steps = source("steps", sigmas).or_else(|| source("total_steps", sigmas));
        let cfg = source("cfg", Some(guider)).as_ref().and_then(json::number);
        let (guidance, second) = found::guidance(cfg, self.distilled.get(), "cfg");
        second.into_iter().for_each(|second| self.leave(second));
        let mut found = Metadata {
            program: "ComfyUI".into(),
            seed: seed.as_ref().and_then(json::whole),
            steps: steps.as_ref().and_then(json::count),
            guidance,
            ..Metadata::default()
        };
        self.take_sampler(sampler, &mut found);
        self.look_upstream(sampler, &mut found);
        let emphasis = [Some(&prompt), negative.as_ref()].into_iter().flatten().any(|text| text.contains('('));
        // It reads round brackets as weights and square ones as text.
        let text = |text: String| if emphasis { text.replace('[', "\\[").replace(']', "\\]") } else { text };
        found.syntax = Syntax { emphasis, long: true };
        (found.prompt, found.negative) = (text(prompt), negative.map(text));
        if emphasis {
            self.leave("ComfyUI's own rule for weights (they are applied by that of AUTOMATIC1111's web UI)".into());
        }
        found.not_taken = self.not_taken.take();
        Ok(found)
    }

    fn leave(&self, what: String) {
        self.not_taken.borrow_mut().push(what);
    }

    fn node(&self, id: Id) -> Option<&'a Value> {
        self.nodes.get(id)
    }

    fn class(&self, id: Id) -> &'a str {
        self.node(id).map_or("", class)
    }

    /// The node as messages name it.
    fn name(&self, id: Id) -> String {
        format!("node {id} ({})", self.class(id))
    }

    fn inputs(&self, id: Id) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.node(id).and_then(|node| node.get("inputs")).and_then(Value::as_object).into_iter().flatten()
    }

    fn input(&self, id: Id, name: &str) -> Option<&'a Value> {
        self.node(id)?.get("inputs")?.get(name)
    }

    /// The node that `value` is a link to, where there is one.
    fn link(&self, value: &'a Value) -> Option<Id<'a>> {
        let [id, output] = &value.as_array()?[..] else { return None };
        output.as_u64()?;
        let id = id.as_str()?;
        self.nodes.contains_key(id).then_some(id)
    }

    fn linked(&self, id: Id, input: &str) -> Option<Id<'a>> {
        self.link(self.input(id, input)?)
    }

    /// Counts one more link that is followed at `depth`.
    fn follow(&self, depth: usize) -> Result<(), String> {
        self.links.set(self.links.get() + 1);
        if depth > DEEPEST || self.links.get() > MOST_LINKS {
            return Err("the graph of ComfyUI runs in a circle or is too large".into());
        }
        Ok(())
    }

    /// The nodes that the inputs of `from` lead to, nearest first, `from` left out.
    fn upstream(&self, from: Id<'a>) -> Vec<Id<'a>> {
        let (mut found, mut seen, mut open) = (Vec::new(), HashSet::from([from]), VecDeque::from([from]));
        while let Some(id) = open.pop_front() {
            for other in self.inputs(id).filter_map(|(_, value)| self.link(value)) {
                if seen.insert(other) {
                    found.push(other);
                    open.push_back(other);
                }
            }
        }
        found
    }

    fn is_sampler(&self, id: Id) -> bool {
        let has = |name: &str| self.input(id, name).is_some_and(|value| self.link(value).is_some());
        let conditioned = has("positive") || has("guider") || has("basic_pipe") || has("pipe");
        conditioned && (has("latent_image") || has("latent") || self.class(id).contains("Sampler"))
    }

    /// The sampler whose picture this is: nearest to the first node that saves one, or to one that
    /// shows one. Without either, the sampler that no other one goes on from.
    fn sampler(&self) -> Option<Id<'a>> {
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
    fn leave_later(&self, saver: Id<'a>, sampler: Id<'a>) {
        let before: HashSet<Id> = self.upstream(sampler).into_iter().collect();
        for id in self.upstream(saver) {
            let draws = self.input(id, "sampler_name").is_some() && self.input(id, "denoise").is_some();
            if draws && !before.contains(id) && !self.is_sampler(id) {
                self.leave(format!("the later pass of {}", self.name(id)));
            }
        }
    }

    /// One of the two prompts of `sampler`, whose guidance is that of `guider`.
    fn prompt(&self, sampler: Id<'a>, guider: Id<'a>, side: PromptSide) -> Result<String, String> {
        let own = ["basic_pipe", "pipe"].into_iter().find_map(|name| self.input(sampler, name));
        let single = self.input(guider, "conditioning").filter(|_| side == PromptSide::Positive);
        match self.input(guider, side.input()).or(single).or(own) {
            Some(value) => self.conditioning(value, side, 0),
            // A guider without one has no guidance.
            None if side == PromptSide::Negative => Ok(String::new()),
            None => Err(format!("{} has no prompt", self.name(sampler))),
        }
    }

    /// The text of the conditioning that `value` is.
    fn conditioning(&self, value: &'a Value, side: PromptSide, depth: usize) -> Result<String, String> {
        // Loaders of some packages hold both prompts themselves.
        if let Some(text) = value.as_str() {
            return Ok(text.to_owned());
        }
        let id = self.link(value).ok_or("a link of the graph leads nowhere")?;
        self.follow(depth)?;
        let input = |name: &str| self.input(id, name);
        let on = |value: &'a Value| self.conditioning(value, side, depth + 1);
        let class = self.class(id);
        if class.contains("ZeroOut") {
            return Ok(String::new());
        }
        let guidance = input("guidance").filter(|_| class.contains("Flux") && side == PromptSide::Positive);
        let guidance = guidance.and_then(|value| json::number(&self.number(value, 0)?));
        self.distilled.set(self.distilled.get().or(guidance));
        // Texts of several encoders. The first is the one whose tokens the maps are of: CLIP-L, or
        // T5 in FLUX.
        let is_flux = input("t5xxl").is_some() && input("clip_g").is_none();
        for (first, others, whose) in [
            ("text_l", &["text_g"][..], "the second"),
            (if is_flux { "t5xxl" } else { "clip_l" }, &["clip_l", "clip_g", "t5xxl"], "another"),
        ] {
            if let Some(value) = input(first) {
                let others = others.iter().filter(|name| **name != first).filter_map(|name| input(name));
                return self.of_several((value, side), others, whose, depth);
            }
        }
        let encodes = class.contains("Encode") || input("clip").is_some();
        // What wildcards became; the node loads the LoRAs that its text names.
        if let Some(text) = input("populated_text").filter(|_| encodes) {
            let text = self.text(text, side, depth + 1)?;
            return Ok(without_networks(&text, &mut self.not_taken.borrow_mut()));
        }
        let text = ["text", "prompt", side.text()].into_iter().find_map(input);
        if let Some(text) = text.filter(|_| encodes) {
            return self.text(text, side, depth + 1);
        }
        // Side by side, as chunks of a long prompt are.
        if let (Some(to), Some(from)) = (input("conditioning_to"), input("conditioning_from")) {
            if class.contains("Concat") {
                return Ok(format!("{} BREAK {}", on(to)?, on(from)?));
            }
            let other = on(from).unwrap_or_default();
            self.leave(format!("the other prompt of {}, {}", self.name(id), crate::in_quotes(other)));
            return on(to);
        }
        if let (Some(first), Some(second)) = (input("conditioning_1"), input("conditioning_2")) {
            let other = on(second).unwrap_or_default();
            self.leave(format!("the other prompt of {}, {}", self.name(id), crate::in_quotes(other)));
            return on(first);
        }
        let pipes = ["basic_pipe", "pipe"].into_iter().find_map(input);
        if let Some(value) = input(side.input()).or_else(|| input("conditioning")).or(pipes) {
            if class != "Reroute" && pipes.is_none() && guidance.is_none() && value.as_str().is_none() {
                self.leave(format!("what {} does to the prompt", self.name(id)));
            }
            return on(value);
        }
        self.passed(id).map_or_else(|| Err(format!("{} makes the prompt", self.name(id))), on)
    }

    /// The input that a node hands on: the one of a reroute, and of a switch the one that it is
    /// set to.
    fn passed(&self, id: Id) -> Option<&'a Value> {
        let class = self.class(id);
        let set_to = |name: &str| self.input(id, name).and_then(json::whole);
        let chosen = match class {
            "ImpactSwitch" => format!("input{}", set_to("select")?),
            "easy textIndexSwitch" => format!("text{}", set_to("index")?),
            _ if class.starts_with("CR Text Input Switch") => format!("text{}", set_to("Input")?),
            // rgthree's takes the first that there is.
            _ if class.starts_with("Any Switch") || class.to_lowercase().contains("reroute") => {
                return self.inputs(id).map(|(_, value)| value).find(|value| self.link(value).is_some());
            }
            _ => return None,
        };
        self.input(id, &chosen)
    }

    /// The text `value` of the first of several encoders; what `others` have beside it, the prompt
    /// of `whose` encoder, is left out.
    fn of_several(
        &self,
        (value, side): (&'a Value, PromptSide),
        others: impl Iterator<Item = &'a Value>,
        whose: &str,
        depth: usize,
    ) -> Result<String, String> {
        let mut first = self.text(value, side, depth + 1)?;
        for other in others {
            let other = self.text(other, side, depth + 1)?;
            if first.trim().is_empty() {
                first = other;
            } else if other.trim() != first.trim() && !other.trim().is_empty() {
                self.leave(format!("{whose} encoder's prompt {}", crate::in_quotes(other)));
            }
        }
        Ok(first)
    }

    /// The text that `value` is, followed through nodes that hold, hand on or join texts. Of a node
    /// that holds both prompts it is that of `side`.
    fn text(&self, value: &'a Value, side: PromptSide, depth: usize) -> Result<String, String> {
        if let Some(text) = value.as_str() {
            return Ok(text.to_owned());
        }
        let id = self.link(value).ok_or("the text of a node is no text")?;
        self.follow(depth)?;
        let input = |name: &str| self.input(id, name);
        let class = self.class(id);
        let lower = class.to_lowercase();
        let appends = class.starts_with("StringFunction") && input("action").and_then(json::text) == Some("append");
        if appends || lower.contains("concat") || lower.contains("join") {
            return self.joined(id, side, depth);
        }
        const HELD: [&str; 8] = ["text", "value", "string", "STRING", "prompt", "positive", "any", "anything"];
        let own = ["populated_text", side.text(), side.input()];
        let held = own.into_iter().chain(HELD).find_map(|name| Some((name, input(name)?)));
        if let Some((name, held)) = held {
            // Others may change it; what a wildcard node populated is what came out.
            let holds = ["Primitive", "String", "Text", "Show", "CR Prompt Text", "Reroute", "easy showAnything"];
            let changes = ["Replace", "Random", "Style", "Translate", "Function", "Format"];
            let plain = holds.iter().any(|kind| class.starts_with(kind)) && !changes.iter().any(|k| class.contains(k));
            if !plain && name != "populated_text" {
                self.leave(format!("what {} makes of the text", self.name(id)));
            }
            return self.text(held, side, depth + 1);
        }
        self.passed(id)
            .map_or_else(|| Err(format!("{} makes the text", self.name(id))), |held| self.text(held, side, depth + 1))
    }

    /// The texts that a node joins, in the order of its inputs.
    fn joined(&self, id: Id, side: PromptSide, depth: usize) -> Result<String, String> {
        let given = ["delimiter", "separator"].into_iter().find_map(|name| self.input(id, name)?.as_str());
        // One of pysssss has a switch in their place.
        let tidy = self.input(id, "tidy_tags").and_then(Value::as_str);
        let between = given.or(tidy.map(|tidy| if tidy == "yes" { ", " } else { "" }));
        let mut whole = String::new();
        for (name, value) in self.inputs(id) {
            let is_part = ["text", "string", "prompt"].iter().any(|part| name.to_lowercase().starts_with(part));
            if !is_part || !(value.is_string() || value.is_array()) {
                continue;
            }
            let part = self.text(value, side, depth + 1)?;
            if !whole.is_empty() && !part.is_empty() {
                whole.push_str(&between.unwrap_or(" ").replace("\\n", "\n"));
            }
            whole.push_str(&part);
            if whole.len() > LONGEST {
                return Err("the text of the graph is too long".into());
            }
        }
        Ok(whole)
    }

    /// The number that `value` is, followed through nodes that hold one.
    fn number(&self, value: &'a Value, depth: usize) -> Option<Value> {
        if json::number(value).is_some() {
            return Some(value.clone());
        }
        let id = self.link(value)?;
        self.follow(depth).ok()?;
        let held = ["value", "seed", "noise_seed", "int", "INT", "Number", "number", "float", "FLOAT"];
        let held = held.into_iter().find_map(|name| self.input(id, name)).or_else(|| self.passed(id))?;
        self.number(held, depth + 1)
    }

    /// The node that makes the noise levels of `sampler`, behind those that cut or turn them.
    fn sigmas(&self, sampler: Id<'a>) -> Option<Id<'a>> {
        let first = self.linked(sampler, "sigmas")?;
        let mut all = std::iter::once(first).chain(self.upstream(first));
        all.find(|id| self.class(id).contains("Scheduler")).or(Some(first))
    }

    /// The name under `name` of a node, or of another where the node has none.
    fn named(&self, id: Id<'a>, name: &str, other: Option<Id<'a>>) -> Option<String> {
        let of = |id| self.text(self.input(id, name)?, PromptSide::Positive, 0).ok();
        of(id).or_else(|| of(other?))
    }

    fn take_sampler(&self, id: Id<'a>, found: &mut Metadata) {
        let (made, sigmas) = (self.linked(id, "sampler"), self.sigmas(id));
        let Some(name) = self.named(id, "sampler_name", made) else {
            if let Some(made) = made {
                self.leave(format!("the sampler of {}", self.name(made)));
            }
            return;
        };
        // A node that makes levels by a rule of its own has no schedule's name.
        let own = || sigmas.map_or("normal", |sigmas| self.class(sigmas)).to_owned();
        let schedule = self.named(id, "scheduler", sigmas).unwrap_or_else(own);
        found.scheduler = sampler(&name, &schedule);
        if found.scheduler.is_none() {
            self.leave(format!("the sampler {name} with schedule {schedule}"));
        }
    }

    /// Size, checkpoint, and what else the picture was made with.
    fn look_upstream(&self, sampler: Id<'a>, found: &mut Metadata) {
        for id in self.upstream(sampler) {
            let class = self.class(id);
            let text = |name: &str| self.input(id, name).and_then(json::text).map(str::to_owned);
            let side = |name: &str| json::count(&self.number(self.input(id, name)?, 0)?);
            if found.size.is_none() && class.contains("Latent") {
                found.size = side("width").zip(side("height"));
            }
            found.size = found.size.or_else(|| side("empty_latent_width").zip(side("empty_latent_height")));
            found.model = found.model.take().or_else(|| text("ckpt_name")).or_else(|| text("unet_name"));
            self.loras(id).into_iter().for_each(|(name, weight)| self.leave(lora(name, weight)));
            for network in ["ControlNet", "IPAdapter"] {
                if class.contains(network) {
                    self.leave(network.to_owned());
                }
            }
            let mut ends = ["stop_at_clip_layer", "clip_skip"].into_iter();
            let layer = ends.find_map(|name| json::number(self.input(id, name)?));
            if let Some(layer) = layer.filter(|at| *at < -1.0) {
                self.leave(format!("clip skip {}", -layer));
            }
            if self.is_sampler(id) {
                self.leave(format!("the earlier pass of {}", self.name(id)));
            }
            if class.starts_with("VAEEncode") {
                self.leave("the picture that it was drawn from".into());
            }
        }
    }

    /// The LoRAs that a node loads, with their weights. Stacks of some packages number their inputs
    /// (`lora_name_1`, `lora_01`); rgthree's have an object for each.
    fn loras(&self, id: Id) -> Vec<(&'a str, Option<f64>)> {
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
            json::text(value).filter(|name| *name != "None" && !off).map(|name| (name, weight))
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_graph(graph: Value) -> Result<Metadata, String> {
        super::read(&Texts::from([("prompt".to_owned(), graph.to_string())])).unwrap()
    }

    fn with_text(text: Value, more: Value) -> Result<Metadata, String> {
        let mut graph = json!({
            "s": {"class_type": "KSampler", "inputs":
                {"positive": ["c", 0], "negative": ["n", 0], "latent_image": ["l", 0]}},
            "c": {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["x", 1]}},
            "n": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["c", 0]}},
            "l": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 32}},
        });
        graph.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        read_graph(graph)
    }

    #[test]
    fn texts_are_joined_and_followed() {
        let joined = json!({
            "j": {"class_type": "StringConcatenate", "inputs": {"string_a": ["r", 0], "string_b": "a \
            frog", "delimiter": ", "}},
            "r": {"class_type": "Reroute", "inputs": {"": ["p", 0]}},
            "p": {"class_type": "PrimitiveString", "inputs": {"value": "an apple"}},
        });
        let found = with_text(json!(["j", 0]), joined).unwrap();
        assert_eq!((found.prompt.as_str(), found.size), ("an apple, a frog", Some((64, 32))));
        assert_eq!((found.negative.as_deref(), found.not_taken.len()), (Some(""), 0), "{found:?}");
    }

    #[test]
    fn circles_and_towers_end() {
        let circle = json!({"p": {"class_type": "Reroute", "inputs": {"": ["p", 0]}}});
        assert!(with_text(json!(["p", 0]), circle).unwrap_err().contains("circle"));
        // Each joins the one before it with itself: 2^60 texts.
        let tower: Map<String, Value> = (0..60)
            .map(|at| {
                let below = if at == 0 { json!("a") } else { json!([format!("t{}", at - 1), 0]) };
                let node = json!({"class_type": "StringConcatenate", "inputs": {"string_a": below, "string_b": below}});
                (format!("t{at}"), node)
            })
            .collect();
        assert!(with_text(json!(["t59", 0]), Value::Object(tower)).is_err());
        let nowhere = with_text(json!(["gone", 0]), json!({})).unwrap_err();
        assert!(nowhere.contains("no text"), "{nowhere}");
    }

    #[test]
    fn what_makes_a_text_is_named() {
        let found = with_text(json!(["u", 0]), json!({"u": {"class_type": "Oracle", "inputs": {"model": "x"}}}));
        assert_eq!(found.unwrap_err(), "node u (Oracle) makes the text");
        let found =
            with_text(json!(["u", 0]), json!({"u": {"class_type": "Translate", "inputs": {"text": "ein Frosch"}}}));
        assert_eq!(found.unwrap().not_taken, ["what node u (Translate) makes of the text"]);
    }

    #[test]
    fn square_brackets_are_text() {
        let found = with_text(json!("a (red:1.2) [frog]"), json!({})).unwrap();
        assert_eq!((found.prompt.as_str(), found.syntax.emphasis), ("a (red:1.2) \\[frog\\]", true));
        let found = with_text(json!("a [frog]"), json!({})).unwrap();
        assert_eq!((found.prompt.as_str(), found.syntax.emphasis), ("a [frog]", false));
    }
}
