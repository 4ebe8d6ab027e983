//! ComfyUI's `prompt`: the graph of nodes that was run (PNG text chunk, or EXIF in WebP files).
//!
//! Its form is that of ComfyUI's `SaveImage`: `{"ID": {"class_type": .., "inputs": {..}}}`, where
//! an input is a value or a link `["ID", output]`. The graph is followed backwards from the node
//! that saves the picture to the sampler nearest to it. From there it leads to the nodes that hold
//! its texts and numbers.

mod graph;
mod sampler;
mod setting;
mod text;

use self::graph::{Graph, class};
use self::setting::{CFG, STEPS};
use self::text::PromptSide;
use super::container::{Texts, USER_COMMENT};
use super::found::{self, Metadata};
use super::json;
use crate::prompt::Syntax;
use serde_json::Value;

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
        Ok(Value::Object(nodes)) if is_graph(&Value::Object(nodes.clone())) => Some(followed(&Graph::new(&nodes))),
        // Any program may call a text so.
        Ok(_) => None,
        Err(_) if !of_chunk || !text.trim_start().starts_with('{') => None,
        Err(error) => Some(Err(format!("the graph of ComfyUI is no JSON ({error})"))),
    }
}

/// What the graph says of the picture.
fn followed(graph: &Graph) -> Result<Metadata, String> {
    let sampler = graph.sampler().ok_or("the graph of ComfyUI has no sampler that is known here")?;
    let guider = graph.linked(sampler, "guider").map_or(sampler, |guider| graph.behind(guider));
    let prompt = graph.prompt(sampler, guider, PromptSide::Positive)?;
    let negative = graph.prompt(sampler, guider, PromptSide::Negative);
    let negative = negative.map_err(|reason| graph.leave(format!("the negative prompt: {reason}"))).ok();
    // A guider without guidance has no such field.
    let guides = graph.inputs(guider).any(|(name, _)| name.starts_with("cfg"));
    let cfg = graph.setting(sampler, guides.then_some(guider), CFG, json::number);
    let (guidance, second) = found::guidance(cfg, graph.distilled.get(), "cfg");
    second.into_iter().for_each(|second| graph.leave(second));
    let mut found = Metadata {
        program: "ComfyUI".into(),
        seed: graph.seed(sampler),
        steps: graph.setting(sampler, graph.sigmas(sampler), STEPS, json::count),
        guidance,
        ..Metadata::default()
    };
    graph.take_sampler(sampler, &mut found);
    graph.look_upstream(sampler, &mut found);
    let emphasis = [Some(&prompt), negative.as_ref()].into_iter().flatten().any(|text| text.contains('('));
    // It reads round brackets as weights and square ones as text.
    let text = |text: String| if emphasis { text.replace('[', "\\[").replace(']', "\\]") } else { text };
    found.syntax = Syntax { emphasis, long: true };
    (found.prompt, found.negative) = (text(prompt), negative.map(text));
    if emphasis {
        graph.leave("ComfyUI's own rule for weights (they are applied by that of AUTOMATIC1111's web UI)".into());
    }
    found.not_taken = graph.not_taken.take();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::setting::{SAMPLER, SEED, Setting};
    use super::*;
    use serde_json::{Map, json};

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

    #[test]
    fn a_value_is_that_of_its_name_or_the_only_one() {
        let graph = json!({
            "seed": {"class_type": "Seed (rgthree)", "inputs": {"seed": 7}},
            "one": {"class_type": "PrimitiveInt", "inputs": {"value": 20}},
            "slider": {"class_type": "Slider", "inputs": {"value": ["one", 0], "min": 1, "max": 9}},
            "draws": {"class_type": "Random Number", "inputs": {"minimum": 0, "maximum": 9, "seed": 3}},
            "two": {"class_type": "Numbers", "inputs": {"int": 3, "float": 2.5}},
            "many": {"class_type": "Settings", "inputs": {"steps": 30, "cfg": 6.5, "value": 1, "text": "a frog"}},
            "sum": {"class_type": "Sum", "inputs": {"value": ["one", 0], "other": ["one", 0]}},
            "circle": {"class_type": "PrimitiveInt", "inputs": {"value": ["circle", 0]}},
            "way": {"class_type": "Reroute", "inputs": {"": ["many", 1]}},
        });
        let links = json!({"seed": ["seed", 0], "one": ["one", 0], "slider": ["slider", 0], "draws": ["draws", 0],
            "two": ["two", 1], "many": ["many", 1], "sum": ["sum", 0], "circle": ["circle", 0], "way": ["way", 0]});
        let graph = Graph::new(graph.as_object().unwrap());
        let held = |name: &str, setting: Setting| graph.held(&links[name], setting, 0).map(ToString::to_string);
        let number = |text: &str| Some(text.to_owned());
        assert_eq!([held("seed", SEED), held("seed", STEPS)], [number("7"), number("7")]);
        assert_eq!([held("one", SEED), held("slider", STEPS)], [number("20"), number("20")]);
        assert_eq!([held("many", STEPS), held("way", CFG)], [number("30"), number("6.5")]);
        for (name, setting) in
            [("draws", SEED), ("two", STEPS), ("many", SEED), ("many", SAMPLER), ("sum", SEED), ("circle", SEED)]
        {
            assert_eq!(held(name, setting), None, "{name}");
        }
    }
}
