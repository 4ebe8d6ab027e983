//! What pictures' own metadata says, in each program's format (tests/fixtures/make_metadata.py),
//! and `trace` that takes it.

use std::fs;
use std::path::Path;
use std::process::Output;

use attnmap::picture::{Metadata, metadata};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{attnmap, generate, refused};
use crate::pipeline::fixtures;

fn fixture(name: &str) -> String {
    fixtures().join("metadata").join(name).display().to_string()
}

fn read(name: &str) -> Result<Option<Metadata>, String> {
    metadata(&fs::read(fixture(name)).unwrap())
}

#[track_caller]
fn says(name: &str, expected: Value, not_taken: &[&str]) {
    let found = read(name).unwrap().unwrap_or_else(|| panic!("{name} has no metadata"));
    for (at, part) in not_taken.iter().enumerate() {
        assert!(found.not_taken.get(at).is_some_and(|left| left.contains(part)), "{name}: {:?}", found.not_taken);
    }
    assert_eq!(found.not_taken.len(), not_taken.len(), "{name}: {:?}", found.not_taken);
    let mut value = serde_json::to_value(found).unwrap();
    value.as_object_mut().unwrap().remove("not_taken");
    assert_eq!(value, expected, "{name}");
}

#[test]
fn each_programs_metadata_is_read() {
    let web_ui = json!({
        "program": "AUTOMATIC1111", "prompt": "a (red:1.2) apple and a frog,\non the beach",
        "negative": "blurry, [text]\nlow quality", "seed": 3_735_928_559_u32, "steps": 20, "guidance": 6.5,
        "scheduler": "dpm++2m-karras", "size": [512, 768], "syntax": {"emphasis": true, "long": true},
        "model": "v1-5-pruned-emaonly",
    });
    // The hashes name a LoRA that the prompt does not.
    let left = [
        "LoRA style (give it with `lora` FILE:0.8)",
        "LoRA other (give it with `lora` FILE)",
        "clip skip 2 (for Stable Diffusion 1 and 2 give it with `clip_skip` 1)",
        "second pass",
        "GPU's generator",
    ];
    for name in ["a1111.png", "a1111.jpg", "a1111.webp"] {
        says(name, web_ui.clone(), &left);
    }
    says(
        "forge.png",
        json!({
            "program": "Forge", "prompt": "ein roter \
            Käfer", "seed": 7, "steps": 8, "guidance": 1.5, "scheduler": "euler-a",
            "size": [64, 64], "syntax": {"emphasis": true, "long": true}, "model": "small",
        }),
        &[],
    );
    says(
        "a1111-old.png",
        json!({
            "program": "AUTOMATIC1111", "prompt": "青蛙 and a frog", "seed": 1, "steps": 4, "guidance": 7.0,
            "scheduler": "dpm++2m-sde-karras", "size": [64, 64], "syntax": {"emphasis": true, "long": true},
            "model": "45dee52b",
        }),
        &["GPU's generator"],
    );
    says(
        "a1111-bare.png",
        json!({"program": "AUTOMATIC1111", "prompt": "a frog on a stone", "syntax": {"emphasis": true, "long": true}}),
        &[],
    );
    let simple = json!({
        "program": "ComfyUI", "prompt": "a frog on the beach", "negative": "rain", "seed": u64::MAX, "steps": 12,
        "guidance": 8.0, "scheduler": "euler", "size": [640, 512], "syntax": {"long": true},
        "model": "v1-5-pruned.safetensors",
    });
    for name in ["comfyui.png", "comfyui.webp"] {
        says(name, simple.clone(), &[]);
    }
    says(
        "comfyui-linked.png",
        json!({
            "program": "ComfyUI", "prompt": "a red apple, on the beach", "negative": "blurry", "seed": 42, "steps": 30,
            "guidance": 5.0, "scheduler": "dpm++2m-karras", "size": [1024, 768], "syntax": {"long": true},
            "model": "sd_xl_base_1.0.safetensors",
        }),
        &[
            "what node 8 (ControlNetApplyAdvanced) does to the prompt",
            "the second encoder's prompt \"a photo\"",
            "LoRA style.safetensors (give it with `lora` FILE:0.7)",
            "ControlNet",
            "the earlier pass of node 13 (KSamplerAdvanced)",
        ],
    );
    says(
        "comfyui-custom.png",
        json!({
            "program": "ComfyUI", "prompt": "a (frog:1.3) \\[green\\] BREAK on a stone", "seed": 99, "steps": 16,
            "guidance": 3.5, "size": [64, 64], "syntax": {"emphasis": true, "long": true}, "model": "model.safetensors",
        }),
        &["the sampler res_multistep with schedule beta", "ComfyUI's own rule for weights"],
    );
    says(
        "invokeai.png",
        json!({
            "program": "InvokeAI", "prompt": "a frog in the \
            snow", "negative": "rain", "seed": 1_234_567_890, "steps": 25,
            "guidance": 7.5, "scheduler": "dpm++2m-sde-karras", "size": [1024, 832], "model": "juggernaut",
        }),
        &["the second encoder's prompt \"watercolour\"", "LoRA ink (give it with `lora` FILE:0.65)"],
    );
    says(
        "invokeai-2.png",
        json!({
            "program": "InvokeAI", "prompt": "a frog", "negative": "rain, \
            snow", "seed": 77, "steps": 50, "guidance": 7.5,
            "scheduler": "euler-a", "size": [512, 512], "model": "stable-diffusion-1.5",
        }),
        &[],
    );
}

#[test]
fn what_says_nothing_is_told_from_what_cannot_be_read() {
    for name in ["none.png", "other.png", "camera.jpg"] {
        assert_eq!(read(name), Ok(None), "{name}");
    }
    for (name, reason) in [
        ("comfyui-circle.png", "circle"),
        ("comfyui-upscale.png", "no sampler"),
        ("fooocus.png", "JSON, of a program whose metadata is not read"),
    ] {
        let error = read(name).unwrap_err();
        assert!(error.contains(reason), "{name}: {error}");
    }
}

/// What a picture says that has `text` under `keyword`.
fn of_text(keyword: &str, text: &str) -> Metadata {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
    encoder.add_itxt_chunk(keyword.into(), text.into()).unwrap();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[0]).unwrap();
    writer.finish().unwrap();
    metadata(&bytes).unwrap().unwrap()
}

/// What a graph of ComfyUI says: a sampler with its two prompts, and `changed` nodes.
fn of_graph(changed: &Value) -> Metadata {
    let mut graph = json!({
        "3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 20, "cfg": 1, "sampler_name": "dpmpp_2m",
            "scheduler": "normal", "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0],
            "latent_image": ["5", 0]}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "small.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a frog", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "rain", "clip": ["4", 1]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
    });
    graph.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    of_text("prompt", &graph.to_string())
}

#[test]
fn a_comment_is_read_whichever_type_it_is_written_as() {
    let mut bytes = fs::read(fixture("a1111.jpg")).unwrap();
    let undefined = bytes.windows(4).position(|entry| entry == [0x92, 0x86, 0, 7]).unwrap();
    // As Pillow writes it: bytes.
    bytes[undefined + 3] = 1;
    assert_eq!(metadata(&bytes), read("a1111.jpg"));
}

#[test]
fn the_guidance_of_flux_is_the_one_that_it_is_told() {
    let told = |found: Metadata| (found.guidance, found.not_taken);
    let sampler = |cfg: f64| {
        json!({"class_type": "KSampler", "inputs": {"cfg": cfg, "positive": ["8", 0], "negative": ["7", 0],
            "latent_image": ["5", 0]}})
    };
    let guided = json!({"class_type": "FluxGuidance", "inputs": {"conditioning": ["6", 0], "guidance": 3.5}});
    assert_eq!(told(of_graph(&json!({"3": sampler(1.0), "8": guided}))), (Some(3.5), vec![]));
    let both = told(of_graph(&json!({"3": sampler(2.0), "8": guided})));
    assert_eq!(both, (Some(3.5), vec!["the guidance by a negative prompt (cfg 2)".to_owned()]));
    // The text that is given to T5 is the one whose tokens FLUX's maps are of.
    let two = json!({"clip_l": "frog, photo", "t5xxl": "a frog on a stone", "guidance": 2.5, "clip": ["4", 1]});
    let found = of_graph(&json!({"3": sampler(1.0), "8": {"class_type": "CLIPTextEncodeFlux", "inputs": two}}));
    assert_eq!((found.prompt.as_str(), found.guidance), ("a frog on a stone", Some(2.5)));
    assert_eq!(found.not_taken, ["another encoder's prompt \"frog, photo\""]);

    let forge = "a frog\nSteps: 20, CFG scale: 1, Distilled CFG Scale: 3.5, Size: 64x64, Version: f2.0.1v1.10.1";
    assert_eq!(told(of_text("parameters", forge)), (Some(3.5), vec![]));
    let invoke = json!({"positive_prompt": "a frog", "cfg_scale": 1, "guidance": 4.0}).to_string();
    assert_eq!(told(of_text("invokeai_metadata", &invoke)), (Some(4.0), vec![]));
}

#[test]
fn noise_of_a_gpu_is_told_of_invokeai_too() {
    let left = |device: &str| {
        let text = json!({"positive_prompt": "a frog", "seed": 3, "rand_device": device}).to_string();
        of_text("invokeai_metadata", &text).not_taken
    };
    assert_eq!(left("cpu"), Vec::<String>::new());
    assert_eq!(left("cuda"), ["the noise of the GPU's generator (the same seed gives another one here)"]);
}

#[test]
fn a_schedule_is_that_of_the_node_that_makes_the_levels() {
    let of = |made: Value, sigmas: Value| {
        of_graph(&json!({
            "3": {"class_type": "SamplerCustom", "inputs": {"noise_seed": 4, "cfg": 6, "positive": ["6", 0],
                "negative": ["7", 0], "sampler": ["10", 0], "sigmas": ["11", 0], "latent_image": ["5", 0]}},
            "10": made,
            "11": sigmas,
            "12": {"class_type": "BasicScheduler", "inputs": {"scheduler": "karras", "steps": 20}},
        }))
    };
    let select = || json!({"class_type": "KSamplerSelect", "inputs": {"sampler_name": "dpmpp_2m"}});
    let split = || json!({"class_type": "SplitSigmas", "inputs": {"step": 12, "sigmas": ["12", 0]}});
    let found = of(select(), split());
    assert_eq!((found.scheduler.map(|kind| kind.name()), found.steps), (Some("dpm++2m-karras"), Some(20)));
    let found = of(select(), json!({"class_type": "KarrasScheduler", "inputs": {"steps": 20, "rho": 3.0}}));
    assert_eq!((found.scheduler, found.steps), (None, Some(20)));
    assert_eq!(found.not_taken, ["the sampler dpmpp_2m with schedule KarrasScheduler"]);
    let found = of(json!({"class_type": "SamplerDPMPP_2M_SDE", "inputs": {"eta": 1.0}}), split());
    assert_eq!((found.scheduler, found.not_taken), (None, vec!["the sampler of node 10 (SamplerDPMPP_2M_SDE)".into()]));
}

/// A sampler whose seed, steps, guidance, sampler and schedule are `outputs` of node 8, in order.
fn with_outputs_of_8(outputs: [usize; 5], more: Value) -> Metadata {
    let [seed, steps, cfg, name, schedule] = outputs.map(|at| json!(["8", at]));
    let mut changed = json!({"3": {"class_type": "KSampler", "inputs": {"seed": seed, "steps": steps, "cfg": cfg,
        "sampler_name": name, "scheduler": schedule, "positive": ["6", 0], "negative": ["7", 0],
        "latent_image": ["5", 0]}}});
    changed.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    of_graph(&changed)
}

#[test]
fn a_node_of_many_settings_gives_each_its_own() {
    let told = |found: &Metadata| {
        (found.seed, found.steps, found.guidance, found.scheduler.map(|kind| kind.name()), found.not_taken.clone())
    };
    let context = |more: Value| {
        let mut inputs = json!({"seed": 1234, "steps": 30, "step_refiner": 24, "cfg": 6.5, "sampler": "dpmpp_2m",
            "scheduler": "karras", "positive": ["6", 0], "text_pos_g": "a frog"});
        inputs.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"class_type": "Context Big (rgthree)", "inputs": inputs})
    };
    let all = (Some(1234), Some(30), Some(6.5), Some("dpm++2m-karras"), vec![]);
    let found = with_outputs_of_8([8, 9, 11, 13, 14], json!({"8": context(json!({}))}));
    assert_eq!(told(&found), all);
    // What a context does not have is that of the one that it goes on from.
    let base = json!({"class_type": "Context (rgthree)", "inputs": {"base_ctx": ["10", 0], "model": ["4", 0]}});
    let more = json!({"8": base, "10": {"class_type": "Reroute", "inputs": {"": ["11", 0]}}, "11": context(json!({}))});
    assert_eq!(told(&with_outputs_of_8([8, 9, 11, 13, 14], more)), all);
    // Another field than that of the name, where the output is of it.
    let found = with_outputs_of_8([8, 10, 11, 13, 14], json!({"8": context(json!({}))}));
    assert_eq!((found.steps, found.not_taken), (Some(24), vec![]));
    // By their names alone, of a node that nobody knows.
    let inputs = json!({"seed": 1234, "steps": 30, "cfg": 6.5, "sampler_name": "dpmpp_2m", "scheduler": "karras"});
    let more = json!({"8": {"class_type": "My Settings", "inputs": inputs}});
    assert_eq!(told(&with_outputs_of_8([4, 3, 2, 1, 0], more)), all);
    let inputs = json!({"steps_total": 30, "refiner_step": 24, "cfg": 6.5, "sampler_name": "dpmpp_2m",
        "scheduler": "karras"});
    let config = json!({"8": {"class_type": "KSampler Config (rgthree)", "inputs": inputs}});
    let found = with_outputs_of_8([9, 0, 2, 3, 4], config);
    let (seed, steps, guidance, scheduler, left) = told(&found);
    assert_eq!((steps, guidance, scheduler), (Some(30), Some(6.5), Some("dpm++2m-karras")));
    assert_eq!((seed, left), (None, vec!["the seed of node 8 (KSampler Config (rgthree))".to_owned()]));
    // Nothing is guessed.
    let more = json!({"8": {"class_type": "Oracle", "inputs": {"text": "a frog", "number": ["5", 0], "float": 2}}});
    let found = with_outputs_of_8([0, 1, 2, 3, 4], more);
    let left = ["guidance", "seed", "steps", "sampler"].map(|name| format!("the {name} of node 8 (Oracle)"));
    assert_eq!(told(&found), (None, None, None, None, left.to_vec()));
}

#[test]
fn what_hands_on_conditioning_and_latents_is_no_sampler() {
    for (class, more) in [
        ("Context (rgthree)", json!({})),
        ("Context Big (rgthree)", json!({"steps": 99, "cfg": 1.5, "sampler": "ddim", "scheduler": "normal"})),
        ("LTXVAddGuide", json!({})),
    ] {
        let mut inputs = json!({"positive": ["7", 0], "negative": ["6", 0], "latent": ["3", 0], "seed": 99});
        inputs.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let found = of_graph(&json!({
            "8": {"class_type": class, "inputs": inputs},
            "9": {"class_type": "SaveImage", "inputs": {"images": ["10", 0]}},
            "10": {"class_type": "VAEDecode", "inputs": {"samples": ["8", 6], "vae": ["4", 2]}},
        }));
        assert_eq!((found.prompt.as_str(), found.seed, found.steps), ("a frog", Some(5), Some(20)), "{class}");
        assert_eq!((found.negative.as_deref(), found.not_taken), (Some("rain"), vec![]), "{class}");
    }
    // Its outputs are the prompts of its own fields.
    let sampler = json!({"seed": 4, "steps": 9, "cfg": 7, "sampler_name": "euler", "scheduler": "normal",
        "positive": ["8", 4], "negative": ["8", 5], "latent_image": ["8", 6], "model": ["8", 1]});
    let context = json!({"base_ctx": ["10", 0], "positive": ["6", 0]});
    let base = json!({"negative": ["7", 0], "latent": ["5", 0], "model": ["4", 0], "text_pos_l": "a stone"});
    let found = of_graph(&json!({
        "3": {"class_type": "KSampler", "inputs": sampler},
        "8": {"class_type": "Context (rgthree)", "inputs": context},
        "10": {"class_type": "Context Big (rgthree)", "inputs": base},
    }));
    assert_eq!((found.prompt.as_str(), found.negative.as_deref()), ("a frog", Some("rain")));
    assert_eq!((found.size, found.model.as_deref()), (Some((64, 64)), Some("small.safetensors")));
    assert_eq!(found.not_taken, Vec::<String>::new());
}

#[test]
fn the_seed_is_that_of_the_noise() {
    let sampler = |latents: &str, more: Value| {
        let mut inputs = json!({"steps": 20, "cfg": 7, "sampler_name": "euler", "scheduler": "normal",
            "positive": ["6", 0], "negative": ["7", 0], "latent_image": [latents, 0]});
        inputs.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"class_type": "KSamplerAdvanced", "inputs": inputs})
    };
    let base = || sampler("5", json!({"add_noise": "enable", "noise_seed": 7}));
    // SDXL's base, and its refiner behind it.
    for off in [json!("disable"), json!(false), json!(["12", 0])] {
        let found = of_graph(&json!({
            "3": sampler("10", json!({"add_noise": off, "noise_seed": 0})),
            "10": {"class_type": "LatentUpscale", "inputs": {"samples": ["11", 0]}},
            "11": base(),
            "12": {"class_type": "PrimitiveBoolean", "inputs": {"value": false}},
        }));
        assert_eq!(found.seed, Some(7), "{off}");
        assert_eq!(found.not_taken, ["the earlier pass of node 11 (KSamplerAdvanced)"], "{off}");
    }
    let custom = json!({"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["12", 0], "guider": ["13", 0],
        "latent_image": ["11", 0]}});
    let found = of_graph(&json!({
        "3": custom,
        "11": base(),
        "12": {"class_type": "DisableNoise", "inputs": {}},
        "13": {"class_type": "BasicGuider", "inputs": {"conditioning": ["6", 0]}},
    }));
    assert_eq!((found.prompt.as_str(), found.seed), ("a frog", Some(7)));
    // Noise that nothing adds has no seed.
    let found = of_graph(&json!({"3": sampler("5", json!({"add_noise": "disable", "noise_seed": 0}))}));
    assert_eq!((found.seed, found.not_taken.len()), (None, 1));
    assert_eq!(found.not_taken, ["the seed, as node 3 (KSamplerAdvanced) adds no noise"]);
}

#[test]
fn what_a_node_makes_of_size_checkpoint_and_loras_is_told() {
    let oracle = json!({"class_type": "Oracle", "inputs": {"mood": "good"}});
    let sampler = json!({"positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0], "model": ["10", 0]});
    let found = of_graph(&json!({
        "3": {"class_type": "KSampler", "inputs": sampler},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": ["8", 0]}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": ["8", 0], "height": 64}},
        "8": oracle,
        "10": {"class_type": "LoraLoader", "inputs": {"model": ["4", 0], "lora_name": ["8", 1]}},
    }));
    assert_eq!((found.size, found.model), (None, None));
    let mut left = found.not_taken;
    left.sort();
    let what = ["the LoRA", "the checkpoint", "the size"];
    let nodes = ["8 (Oracle)", "8 (Oracle)", "5 (EmptyLatentImage)"];
    let expected: Vec<String> = what.iter().zip(nodes).map(|(what, node)| format!("{what} of node {node}")).collect();
    assert_eq!(left, expected);
}

#[test]
fn every_field_of_invokeai_is_taken_or_told() {
    let text = json!({"positive_prompt": "a frog", "seed": "many", "steps": 20, "seamless_x": true, "seamless_y": false,
        "cfg_rescale_multiplier": 0.7, "vae": {"name": "tiny", "hash": "x"}, "canvas_v2_metadata": {"layers": []},
        "regions": [{"prompt": "a stone"}], "app_version": "5.0"});
    let left = of_text("invokeai_metadata", &text.to_string()).not_taken;
    let expected = ["cfg_rescale_multiplier: 0.7", "regions", "seamless_x: true", "seed: many", "vae: tiny"];
    let mut sorted = left;
    sorted.sort();
    assert_eq!(sorted, expected);
}

#[test]
fn of_very_much_that_is_not_taken_it_is_told_how_much_more_there_is() {
    let settings: Vec<String> = (0..40).map(|at| format!("key{at} a: {at}")).collect();
    let found = of_text("parameters", &format!("a frog\nSteps: 4, CFG scale: 7, {}", settings.join(", ")));
    assert_eq!((found.not_taken.len(), found.not_taken[23].as_str()), (24, "17 more"));
    // Numbers that no run has.
    let found = of_text("parameters", "a frog\nSteps: 0, CFG scale: inf, Size: 0x8");
    assert_eq!((found.steps, found.guidance, found.size), (None, None, None));
    assert_eq!(found.not_taken, ["0 steps", "the guidance inf", "the size 0x8"]);
}

#[test]
fn a_node_of_both_prompts_gives_each_its_own() {
    let encode = |output: usize| json!({"class_type": "CLIPTextEncode", "inputs": {"text": ["8", output], "clip": 0}});
    for (class, positive, negative) in
        [("easy stylesSelector", "positive", "negative"), ("SDXLPromptStyler", "text_positive", "text_negative")]
    {
        let both = json!({"class_type": class, "inputs": {"style": "x", positive: "a frog", negative: "snow"}});
        let found = of_graph(&json!({"6": encode(0), "7": encode(1), "8": both}));
        assert_eq!((found.prompt.as_str(), found.negative.as_deref()), ("a frog", Some("snow")), "{class}");
        assert_eq!(found.not_taken, [format!("what node 8 ({class}) makes of the text")]);
    }
}

#[test]
fn a_text_is_followed_through_every_join_and_switch() {
    let encode = || json!({"class_type": "CLIPTextEncode", "inputs": {"text": ["8", 0], "clip": ["4", 1]}});
    let held = || json!({"class_type": "PrimitiveString", "inputs": {"value": "a red apple"}});
    for (class, inputs, expected) in [
        (
            "easy promptConcat",
            json!({"prompt1": ["10", 0], "prompt2": "a frog", "separator": ", "}),
            "a red apple, a frog",
        ),
        ("ttN concat", json!({"text1": ["10", 0], "text2": "a frog", "delimiter": " and "}), "a red apple and a frog"),
        (
            "StringFunction|pysssss",
            json!({"action": "append", "tidy_tags": "yes", "text_a": ["10", 0], "text_b": "", "text_c": "a frog"}),
            "a red apple, a frog",
        ),
        ("ImpactSwitch", json!({"select": 2, "input1": ["11", 0], "input2": ["10", 0]}), "a red apple"),
        ("CR Text Input Switch", json!({"Input": 1, "text1": "a frog", "text2": ["10", 0]}), "a frog"),
        ("easy textIndexSwitch", json!({"index": 0, "text0": ["10", 0], "text1": "a frog"}), "a red apple"),
        ("Any Switch (rgthree)", json!({"any_02": ["10", 0], "any_03": ["11", 0]}), "a red apple"),
    ] {
        let node = json!({"class_type": class, "inputs": inputs});
        let other = json!({"class_type": "PrimitiveString", "inputs": {"value": "a stone"}});
        let found = of_graph(&json!({"6": encode(), "8": node, "10": held(), "11": other}));
        assert_eq!((found.prompt.as_str(), found.not_taken), (expected, vec![]), "{class}");
    }
    // What the wildcards became is the prompt, without the LoRAs that the node loads.
    let inputs = json!({"model": ["4", 0], "clip": ["4", 1], "wildcard_text": "a {frog|stone} <lora:ink:0.5>",
        "populated_text": "a frog <lora:ink:0.5>", "mode": "populate", "seed": 3});
    let found = of_graph(&json!({"6": {"class_type": "ImpactWildcardEncode", "inputs": inputs}}));
    assert_eq!(found.prompt, "a frog");
    assert_eq!(found.not_taken, ["LoRA ink (give it with `lora` FILE:0.5)"]);
}

#[test]
fn what_draws_the_picture_again_is_told() {
    for class in ["FaceDetailer", "UltimateSDUpscale"] {
        let found = of_graph(&json!({
            "9": {"class_type": "SaveImage", "inputs": {"images": ["20", 0]}},
            "20": {"class_type": class, "inputs": {"image": ["21", 0], "positive": ["6", 0], "negative": ["7", 0],
                "seed": 8, "steps": 20, "cfg": 8, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.5}},
            "21": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        }));
        assert_eq!((found.prompt.as_str(), found.seed), ("a frog", Some(5)), "{class}");
        assert_eq!(found.not_taken, [format!("the later pass of node 20 ({class})")]);
    }
    let web_ui = |more: &str| of_text("parameters", &format!("a frog\nSteps: 4, CFG scale: 7, {more}")).not_taken;
    assert_eq!(web_ui("ADetailer model: face.pt, ADetailer confidence: 0.3"), ["what ADetailer drew anew"]);
    // The second pass of 2022 drew from no other picture.
    let old = web_ui("Denoising strength: 0.7, First pass size: 0x0");
    assert_eq!(old, ["the second pass at a higher resolution (Hires)"]);
}

#[test]
fn a_loader_of_everything_says_size_and_clip_skip() {
    let loader = json!({"ckpt_name": "small.safetensors", "clip_skip": -2, "lora_name": "None", "positive": "an apple",
        "negative": "snow", "empty_latent_width": 96, "empty_latent_height": 64});
    let sampler = json!({"seed": 4, "steps": 9, "cfg": 7, "sampler_name": "euler", "scheduler": "normal",
        "model": ["8", 0], "positive": ["8", 1], "negative": ["8", 2], "latent_image": ["8", 3]});
    let found = of_graph(&json!({
        "3": {"class_type": "KSampler (Efficient)", "inputs": sampler},
        "8": {"class_type": "Efficient Loader", "inputs": loader},
    }));
    assert_eq!((found.prompt.as_str(), found.negative.as_deref()), ("an apple", Some("snow")));
    assert_eq!(
        (found.size, found.not_taken),
        (Some((96, 64)), vec!["clip skip 2 (for Stable Diffusion 1 and 2 give it with `clip_skip` 1)".to_owned()])
    );
}

#[test]
fn other_programs_that_write_the_web_uis_lines_are_named() {
    let of = |version: &str| {
        let lines = format!("a frog\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 64x64, Version: {version}");
        let found = of_text("parameters", &lines);
        (found.program, found.not_taken.len())
    };
    // Their noise is that of the CPU.
    assert_eq!(of("ComfyUI"), ("ComfyUI".to_owned(), 0));
    assert_eq!(of("Fooocus v2.5.5"), ("Fooocus".to_owned(), 0));
    assert_eq!(of("f2.0.1v1.10.1"), ("Forge".to_owned(), 1));
    assert_eq!(of("v1.10.1"), ("AUTOMATIC1111".to_owned(), 1));
}

#[test]
fn weights_are_read_by_the_rule_that_the_web_ui_names() {
    let of = |rule: &str| {
        let found = of_text("parameters", &format!("a (frog:1.3)\nSteps: 4, CFG scale: 7, Emphasis: {rule}"));
        (found.syntax.emphasis, found.not_taken)
    };
    assert_eq!(of("Original"), (true, vec![]));
    assert_eq!(of("None"), (false, vec![]));
    assert_eq!(
        of("No norm"),
        (true, vec!["the rule for weights No norm (they are applied by the usual one)".to_owned()])
    );
}

#[test]
fn loras_of_every_loader_are_told() {
    for (class, inputs, expected) in [
        (
            "Power Lora Loader (rgthree)",
            json!({
                "header": {"type": "x"}, "lora_1": {"on": true, "lora": "style.safetensors", "strength": 0.8},
                "lora_2": {"on": false, "lora": "off.safetensors", "strength": 1},
                "lora_3": {"on": true, "lora": "None", "strength": 1},
            }),
            "LoRA style.safetensors (give it with `lora` FILE:0.8)",
        ),
        (
            "CR LoRA Stack",
            json!({
                "switch_1": "Off", "lora_name_1": "off.safetensors", "model_weight_1": 1.0,
                "switch_2": "On", "lora_name_2": "ink.safetensors", "model_weight_2": 0.5, "clip_weight_2": 1.0,
                "switch_3": "On", "lora_name_3": "None", "model_weight_3": 1.0, "lora_count": 3,
            }),
            "LoRA ink.safetensors (give it with `lora` FILE:0.5)",
        ),
        (
            "Lora Loader Stack (rgthree)",
            json!({"lora_01": "a.safetensors", "strength_01": 0.25, "lora_02": "None", "strength_02": 1}),
            "LoRA a.safetensors (give it with `lora` FILE:0.25)",
        ),
    ] {
        let sampler = json!({"class_type": "KSampler", "inputs": {"positive": ["6", 0], "negative": ["7", 0],
            "latent_image": ["5", 0], "model": ["8", 0]}});
        let found = of_graph(&json!({"3": sampler, "8": {"class_type": class, "inputs": inputs}}));
        assert_eq!(found.not_taken, [expected], "{class}");
    }
}

/// `attnmap trace` of `image` with the tiny checkpoint, one level and a fresh `--out`.
fn trace(image: &str, more: &[&str]) -> (Output, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let model = fixtures().join("tiny-sd1").display().to_string();
    let out = folder.path().join("run").display().to_string();
    let fixed = ["trace", image, "--model", &model, "--out", &out, "--levels", "300", "--size", "64x64"];
    let output = attnmap(&[&fixed[..], &["--overlay-size", "64"], more].concat());
    (output, folder)
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn record(folder: &TempDir) -> Value {
    serde_json::from_slice(&fs::read(folder.path().join("run/run.json")).unwrap()).unwrap()
}

#[test]
fn trace_takes_what_the_picture_says_and_says_what_it_took() {
    let (output, folder) = trace(&fixture("a1111.png"), &[]);
    let told = said(&output);
    for part in [
        "written by AUTOMATIC1111: the caption \"a (red:1.2) apple and a frog, on the beach\", read with --emphasis \
        --long, \
         seed 3735928559",
        "without effect on the maps: the negative prompt \"blurry, [text] low quality\", 20 steps, guidance 6.5, \
        scheduler \
         dpm++2m-karras, size 512x768, checkpoint v1-5-pruned-emaonly",
        "not taken: LoRA style",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let run = record(&folder);
    assert_eq!(run["prompt"], "a (red:1.2) apple and a frog,\non the beach");
    assert_eq!(run["negative"], "blurry, [text]\nlow quality");
    let settings = &run["settings"];
    assert_eq!((&settings["seed"], &settings["emphasis"]), (&json!(3_735_928_559_u32), &json!(true)));
    assert_eq!((&settings["metadata"]["steps"], &settings["steps"]), (&json!(20), &json!(1)));
    let page = fs::read_to_string(folder.path().join("run/report.html")).unwrap();
    assert!(page.contains("AUTOMATIC1111: seed 3735928559, the negative prompt"));
    // The recorded command names what was taken, and makes the same run.
    let command = shlex::split(run["command"].as_str().unwrap()).unwrap();
    let command: Vec<&str> = command.iter().skip(1).map(String::as_str).chain(["--force"]).collect();
    assert!(command.contains(&"--emphasis") && command.contains(&"3735928559"), "{command:?}");
    said(&attnmap(&command));
    let again = record(&folder);
    assert_eq!((&again["words"], &again["settings"]), (&run["words"], &run["settings"]));
}

#[test]
fn what_is_given_comes_before_what_the_picture_says() {
    let (output, folder) = trace(&fixture("comfyui.png"), &["a frog", "--seed", "5", "--json"]);
    let told = said(&output);
    assert!(told.contains("written by ComfyUI: nothing, as caption and seed are given"), "{told}");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&printed["prompt"], &printed["settings"]["seed"]), (&"a frog".into(), &json!(5)));
    assert_eq!((&printed["settings"]["long"], &printed["negative"]), (&Value::Null, &"rain".into()));
    assert_eq!(record(&folder)["settings"]["metadata"]["prompt"], "a frog on the beach");
    let (output, folder) = trace(&fixture("comfyui.png"), &["a frog", "--no-metadata"]);
    assert!(!said(&output).contains("metadata"));
    let run = record(&folder);
    assert_eq!((&run["settings"]["metadata"], &run["settings"]["seed"]), (&Value::Null, &json!(0)));
    // Metadata that cannot be read is no reason not to look where a caption is given.
    let (output, _folder) = trace(&fixture("comfyui-circle.png"), &["a frog"]);
    assert!(
        said(&output).contains("nothing is taken from the picture's metadata: the graph of ComfyUI runs in a circle")
    );
}

#[test]
fn without_a_caption_anywhere_one_is_asked_for() {
    let no_caption = |name: &str, more: &[&str], reason: &str| {
        refused(&trace(&fixture(name), more).0, 2, &["CAPTION", name, reason, "attnmap trace"]);
    };
    no_caption("none.png", &[], "no metadata that says one");
    no_caption("other.png", &[], "no metadata that says one");
    no_caption("comfyui.png", &["--no-metadata"], "--no-metadata takes none");
    no_caption("comfyui-upscale.png", &[], "no sampler");
    refused(&trace(&fixture("none.png"), &[" "]).0, 2, &["CAPTION", "empty"]);
}

#[test]
fn an_image_of_attnmap_is_traced_by_its_own_caption() {
    let more = ["--negative", "a frog", "--seed", "9", "--emphasis"];
    let (made, _kept, run) = generate("a (red:1.2) apple", &more);
    said(&made);
    let image = run.join("image.png");
    let found = metadata(&fs::read(&image).unwrap()).unwrap().unwrap();
    assert_eq!((found.program.as_str(), found.seed, found.negative.as_deref()), ("attnmap", Some(9), Some("a frog")));
    assert_eq!(found.size, Some((64, 64)));
    let (output, folder) = trace(image.to_str().unwrap(), &[]);
    assert!(
        said(&output).contains("written by attnmap: the caption \"a (red:1.2) apple\", read with --emphasis, seed 9")
    );
    let traced = record(&folder);
    assert_eq!((&traced["prompt"], &traced["negative"]), (&"a (red:1.2) apple".into(), &"a frog".into()));
    // A look at a picture has a caption and no steps; overlays and sheets have no settings.
    let look = folder.path().join("run/image.png");
    let found = metadata(&fs::read(&look).unwrap()).unwrap().unwrap();
    assert_eq!((found.prompt.as_str(), found.steps), ("a (red:1.2) apple", None));
    assert_eq!(metadata(&fs::read(Path::new(&run).join("words.png")).unwrap()), Ok(None));
}
