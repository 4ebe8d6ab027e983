//! The prompts: texts behind conditioning, and behind nodes that hold, hand on or join them.

use super::graph::{Graph, Id};
use super::setting::DISTILLED;
use crate::picture::metadata::found::LONGEST;
use crate::picture::metadata::json;
use crate::picture::metadata::web_ui::without_networks;
use serde_json::Value;
use std::slice;

/// Which of a sampler's two prompts is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PromptSide {
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

impl<'a> Graph<'a> {
    /// One of the two prompts of `sampler`, whose guidance is that of `guider`.
    pub(super) fn prompt(&self, sampler: Id<'a>, guider: Id<'a>, side: PromptSide) -> Result<String, String> {
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
    pub(super) fn conditioning(&self, value: &'a Value, side: PromptSide, depth: usize) -> Result<String, String> {
        // Loaders of some packages hold both prompts themselves.
        if let Some(text) = value.as_str() {
            return Ok(text.to_owned());
        }
        let id = self.link(value).ok_or("a link of the graph leads nowhere")?;
        self.follow(depth)?;
        let input = |name: &str| self.input(id, name);
        let on = |value: &'a Value| self.conditioning(value, side, depth + 1);
        if let Some(field) = self.output(id, value) {
            let held = self.field(id, slice::from_ref(field), depth + 1);
            return on(held.ok_or_else(|| format!("{} has no {field}", self.name(id)))?);
        }
        let class = self.class(id);
        if class.contains("ZeroOut") {
            return Ok(String::new());
        }
        let guidance = input("guidance").filter(|_| class.contains("Flux") && side == PromptSide::Positive);
        let guidance = guidance.and_then(|value| json::number(self.held(value, DISTILLED, depth + 1)?));
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

    /// The text `value` of the first of several encoders; what `others` have beside it, the prompt
    /// of `whose` encoder, is left out.
    pub(super) fn of_several(
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
    pub(super) fn text(&self, value: &'a Value, side: PromptSide, depth: usize) -> Result<String, String> {
        if let Some(text) = value.as_str() {
            return Ok(text.to_owned());
        }
        let id = self.link(value).ok_or("the text of a node is no text")?;
        self.follow(depth)?;
        if let Some(field) = self.output(id, value) {
            let held = self.field(id, slice::from_ref(field), depth + 1);
            return self.text(held.ok_or_else(|| format!("{} has no {field}", self.name(id)))?, side, depth + 1);
        }
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
    pub(super) fn joined(&self, id: Id, side: PromptSide, depth: usize) -> Result<String, String> {
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
}
