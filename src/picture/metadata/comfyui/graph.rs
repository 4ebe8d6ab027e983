//! The nodes of the graph, and the links between them.

use crate::picture::metadata::json;
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};

/// Links that are followed one after the other. Graphs that people draw are far shorter; one that
/// runs in a circle ends here.
pub(super) const DEEPEST: usize = 100;

/// Links that are followed in all: a graph may join the same texts over and over.
const MOST_LINKS: usize = 20_000;

/// The class of a node; empty for what is none.
pub(super) fn class(node: &Value) -> &str {
    node.get("class_type").and_then(Value::as_str).unwrap_or_default()
}

/// The outputs of rgthree's contexts in order, each the field of its name. The first is all of it.
const CONTEXT: [&str; 24] = [
    "base_ctx",
    "model",
    "clip",
    "vae",
    "positive",
    "negative",
    "latent",
    "images",
    "seed",
    "steps",
    "step_refiner",
    "cfg",
    "ckpt_name",
    "sampler",
    "scheduler",
    "clip_width",
    "clip_height",
    "text_pos_g",
    "text_pos_l",
    "text_neg_g",
    "text_neg_l",
    "mask",
    "control_net",
    "denoise",
];

/// The outputs of rgthree's settings of a sampler in order.
const SAMPLER_CONFIG: [&str; 5] = ["steps_total", "refiner_step", "cfg", "sampler_name", "scheduler"];

/// A node's name in the graph.
pub(super) type Id<'a> = &'a str;

pub(super) struct Graph<'a> {
    pub(super) nodes: &'a Map<String, Value>,
    links: Cell<usize>,
    /// The guidance that FLUX takes as an input, which its prompt carries.
    pub(super) distilled: Cell<Option<f64>>,
    pub(super) not_taken: RefCell<Vec<String>>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(nodes: &'a Map<String, Value>) -> Self {
        Self { nodes, links: Cell::new(0), distilled: Cell::new(None), not_taken: RefCell::default() }
    }

    pub(super) fn leave(&self, what: String) {
        self.not_taken.borrow_mut().push(what);
    }

    pub(super) fn node(&self, id: Id) -> Option<&'a Value> {
        self.nodes.get(id)
    }

    pub(super) fn class(&self, id: Id) -> &'a str {
        self.node(id).map_or("", class)
    }

    /// The node as messages name it.
    pub(super) fn name(&self, id: Id) -> String {
        format!("node {id} ({})", self.class(id))
    }

    pub(super) fn inputs(&self, id: Id) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.node(id).and_then(|node| node.get("inputs")).and_then(Value::as_object).into_iter().flatten()
    }

    pub(super) fn input(&self, id: Id, name: &str) -> Option<&'a Value> {
        self.node(id)?.get("inputs")?.get(name)
    }

    /// The node that `value` is a link to, where there is one.
    pub(super) fn link(&self, value: &'a Value) -> Option<Id<'a>> {
        let [id, output] = &value.as_array()?[..] else { return None };
        output.as_u64()?;
        let id = id.as_str()?;
        self.nodes.contains_key(id).then_some(id)
    }

    pub(super) fn linked(&self, id: Id, input: &str) -> Option<Id<'a>> {
        self.link(self.input(id, input)?)
    }

    /// The node behind the reroutes and switches that `id` may be the first of.
    pub(super) fn behind(&self, id: Id<'a>) -> Id<'a> {
        let next = |id: &Id<'a>| self.link(self.passed(id)?);
        std::iter::successors(Some(id), next).take(DEEPEST).last().unwrap_or(id)
    }

    /// The field of `id` that its output in the link `value` is, of nodes whose outputs are known.
    pub(super) fn output(&self, id: Id, value: &Value) -> Option<&'static &'static str> {
        let at = usize::try_from(value.as_array()?.get(1)?.as_u64()?).ok()?;
        let class = self.class(id);
        let fields: &[&str] = match class {
            "KSampler Config (rgthree)" => &SAMPLER_CONFIG,
            _ if class.starts_with("Context") && class.ends_with("(rgthree)") => &CONTEXT,
            _ => return None,
        };
        fields.get(at).filter(|field| **field != "base_ctx")
    }

    /// The links of `id` to nodes that hold many things under their names: contexts and pipes.
    pub(super) fn bundles(&self, id: Id) -> Vec<&'a Value> {
        let is_bundle = |name: &str| ["base_ctx", "basic_pipe", "pipe"].contains(&name) || name.starts_with("ctx_");
        let links = self.inputs(id).filter(|(name, value)| is_bundle(name) && self.link(value).is_some());
        let mut found: Vec<(&String, &Value)> = links.collect();
        found.sort_unstable_by_key(|(name, _)| *name);
        // A switch takes the first that there is, and a merge the last that has what is asked for.
        let class = self.class(id);
        if class.contains("Switch") {
            found.truncate(1);
        } else if class.contains("Merge") {
            found.reverse();
        }
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// The first of the fields `names` that `id` has, or a context or pipe behind it.
    pub(super) fn field(&self, id: Id<'a>, names: &[&str], depth: usize) -> Option<&'a Value> {
        self.follow(depth).ok()?;
        let own = names.iter().find_map(|name| self.input(id, name).filter(|value| !value.is_null()));
        let behind = || {
            let bundles = self.bundles(id).into_iter().filter_map(|value| self.link(value));
            bundles.map(|id| self.behind(id)).find_map(|id| self.field(id, names, depth + 1))
        };
        own.or_else(behind)
    }

    /// Counts one more link that is followed at `depth`.
    pub(super) fn follow(&self, depth: usize) -> Result<(), String> {
        self.links.set(self.links.get() + 1);
        if depth > DEEPEST || self.links.get() > MOST_LINKS {
            return Err("the graph of ComfyUI runs in a circle or is too large".into());
        }
        Ok(())
    }

    /// The nodes that the inputs of `from` lead to, nearest first, `from` left out. Of a node whose
    /// outputs are known, only the field of the output is followed.
    pub(super) fn upstream(&self, from: Id<'a>) -> Vec<Id<'a>> {
        let (mut found, mut listed) = (Vec::new(), HashSet::from([from]));
        let (mut seen, mut open) = (HashSet::from([(from, None)]), VecDeque::from([(from, None)]));
        while let Some((id, field)) = open.pop_front() {
            for (value, field) in self.leading(id, field) {
                let Some(other) = self.link(value) else { continue };
                let place = (other, field.or_else(|| self.output(other, value).copied()));
                if seen.insert(place) {
                    open.push_back(place);
                    if listed.insert(other) {
                        found.push(other);
                    }
                }
            }
        }
        found
    }

    /// The inputs of `id` that its output `field` may come from, all where that is not known; each
    /// with the field that is looked for behind it.
    pub(super) fn leading(&self, id: Id, field: Option<&'static str>) -> Vec<(&'a Value, Option<&'static str>)> {
        let own = field.and_then(|field| self.input(id, field));
        let bundles = if field.is_some() { self.bundles(id) } else { Vec::new() };
        match own {
            Some(own) => vec![(own, None)],
            None if bundles.is_empty() => self.inputs(id).map(|(_, value)| (value, None)).collect(),
            None => bundles.into_iter().map(|value| (value, field)).collect(),
        }
    }

    /// The input that a node hands on: the one of a reroute, and of a switch the one that it is
    /// set to.
    pub(super) fn passed(&self, id: Id) -> Option<&'a Value> {
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
}
