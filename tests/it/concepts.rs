//! Maps of joint attention beside the places' own: ConceptAttention's, what the text's own queries
//! look at, and probes that read and are not read.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use attnmap::Result;
use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::heatmap::{Aggregate, aggregate};
use attnmap::model::layers::{Builder, MemoryOrder};
use attnmap::model::{AddedConditions, Conditioning, Denoiser};
use attnmap::trace::{AttentionObserver, Half, Site, Trace, Unobserved};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::cli::{attnmap, refused};
use crate::model::assert_close;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture(&format!("{name}.safetensors")), &Device::Cpu).unwrap()
}

/// Keeps what is told of concepts and of the text's queries.
#[derive(Default)]
struct Kept {
    scores: Vec<(usize, Tensor)>,
    text: Vec<(usize, Tensor)>,
}

impl AttentionObserver for Kept {
    fn wants(&self, _site: &Site) -> bool {
        true
    }

    fn observe(&mut self, _site: &Site, _probabilities: &Tensor) -> Result<()> {
        Ok(())
    }

    fn text_queries(&self, _site: &Site) -> Vec<Range<usize>> {
        vec![1..4, 6..7]
    }

    fn observe_text(&mut self, site: &Site, probabilities: &Tensor) -> Result<()> {
        self.text.push((site.index, probabilities.clone()));
        Ok(())
    }

    fn observe_concepts(&mut self, site: &Site, scores: &Tensor) -> Result<()> {
        self.scores.push((site.index, scores.clone()));
        Ok(())
    }
}

/// `tests/fixtures/make_concepts.py` has the same numbers out of diffusers' modules.
#[test]
fn scores_and_text_queries_are_those_of_diffusers_modules() {
    let expected = tensors("concepts");
    for (folder, name) in
        [("flux", "tiny-flux-dev"), ("sd3", "tiny-sd3"), ("sd3", "tiny-sd35"), ("flux", "tiny-z-image")]
    {
        let given = tensors(&format!("{folder}/{name}"));
        let get = |what: &str| given.get(&format!("transformer/square/{what}")).cloned();
        let checkpoint = Checkpoint::open(&Source::Folder(fixture(name)), &OpenOptions::default()).unwrap();
        let weights = fixture(name).join("transformer/diffusion_pytorch_model.safetensors");
        for layout in [MemoryOrder::Nchw, MemoryOrder::Nhwc] {
            let loaded = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
            let vb = candle_nn::VarBuilder::from_tensors(loaded, DType::F32, &Device::Cpu);
            let network = Denoiser::build(&checkpoint.denoiser, &Builder::with_layout(vb, layout)).unwrap();
            let lengths = get("lengths")
                .map(|lengths| lengths.to_vec1::<i32>().unwrap().into_iter().map(|length| length as usize).collect());
            let added = |pooled: Tensor| Some(AddedConditions { pooled, time_ids: [0.0; 6] });
            let own = Conditioning::new(get("states").unwrap());
            let own = Conditioning { added: get("pooled").and_then(added), lengths, guidance: Some(3.5), ..own };
            let prompt = network.prepare(&own).unwrap();
            let states = expected[&format!("{name}/states")].clone();
            let zeros =
                |pooled: Tensor| added(Tensor::zeros((3, pooled.dim(1).unwrap()), DType::F32, &Device::Cpu).unwrap());
            let told = Conditioning {
                added: get("pooled").and_then(zeros),
                lengths: own.lengths.as_ref().map(|_| vec![5; 3]),
                guidance: Some(3.5),
                ..Conditioning::new(states)
            };
            let concepts = network.prepare(&told).unwrap();
            let tokens = [vec![1], vec![2, 3], vec![0, 1, 4]];
            let timestep = f64::from(get("timestep").unwrap().to_vec1::<f32>().unwrap()[0]);
            let latent = get("latent").unwrap();
            let alone = network.forward(&latent, timestep, &prompt, &mut Unobserved).unwrap();
            let asked = prompt.clone().with_concepts(&concepts, &tokens, 1).unwrap();
            let mut kept = Kept::default();
            let out = network.forward(&latent, timestep, &asked, &mut kept).unwrap();
            assert_close(&format!("{name} is changed by concepts"), &out, &alone, 1e-5);
            // Unobserved, the image is the same to the bit.
            let out = network.forward(&latent, timestep, &asked, &mut Unobserved).unwrap();
            let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&out), flat(&alone), "{name}");
            let count = |kind: &str| expected.keys().filter(|key| key.starts_with(&format!("{name}/{kind}/"))).count();
            assert_eq!(kept.scores.len(), count("scores"), "{name}");
            for (kind, told) in [("scores", &kept.scores), ("text", &kept.text)] {
                for (index, own) in told.iter().filter(|(index, _)| *index < count(kind)) {
                    let what = format!("{name}/{kind}/{index}");
                    assert_close(&format!("{what} {layout:?}"), own, &expected[&what], 1e-4);
                }
            }
            for wrong in [vec![vec![], vec![1], vec![2]], vec![vec![1], vec![2]], vec![vec![99], vec![1], vec![1]]] {
                assert!(prompt.clone().with_concepts(&concepts, &wrong, 1).is_err());
            }
        }
    }
}

const PROMPT: &str = "a red apple and a green frog";

fn made(model: &str, more: &[&str]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run").display().to_string();
    let model = fixture(model).display().to_string();
    let size = ["--model", &model, "--size", "32x32", "--steps", "2", "--out", &run];
    let output = attnmap(&[&["generate", PROMPT], &size[..], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (folder, run)
}

fn json(arguments: &[&str]) -> Value {
    let output = attnmap(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn map(maps: &attnmap::heatmap::Heatmaps, name: &str) -> Vec<f32> {
    let word = maps.chosen.iter().find(|word| word.text == name).unwrap();
    maps.map_of(word)
}

#[test]
fn a_run_keeps_concepts_and_is_asked_about_more_of_them_later() {
    let (_folder, run) = made("tiny-flux-schnell", &["--concepts", "--text-queries"]);
    let file = Path::new(&run).join("trace.safetensors");
    let trace = Trace::load(&file).unwrap();
    let texts: Vec<&str> = trace.about.concepts.iter().map(|concept| &*concept.text).collect();
    assert_eq!(texts, ["red", "apple", "green", "frog"]);
    // FLUX.1's concepts go through the blocks of two streams alone.
    let kept = trace.recording.concepts.as_ref().unwrap();
    assert_eq!(kept.sites.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false, false]);
    assert!(attnmap(&["check", &run]).status.success());
    let record: Value = serde_json::from_slice(&fs::read(Path::new(&run).join("run.json")).unwrap()).unwrap();
    assert_eq!(record["maps"]["name"], "concept");
    // The concepts' maps share every place out, up to what resampling does at the edges.
    let how = Aggregate::named("concept").unwrap();
    let maps = aggregate(&trace, &how, &trace.words(Half::Conditional)).unwrap();
    let shares: f32 = maps.chosen.iter().map(|word| maps.share(word)).sum();
    assert!((shares - 1.0).abs() < 1e-4, "{shares}");
    assert!((maps.shares.iter().sum::<f32>() + maps.image_share - 1.0).abs() < 1e-3);
    assert!(map(&maps, "a").iter().all(|value| *value == 0.0));
    let phrase = &trace.select(Half::Conditional, "red apple").unwrap()[0];
    let (red, apple) = (map(&maps, "red"), map(&maps, "apple"));
    let sum: Vec<f32> = red.iter().zip(&apple).map(|(red, apple)| red + apple).collect();
    assert!(maps.map_of(phrase).iter().zip(&sum).all(|(a, b)| (a - b).abs() < 1e-5));

    // What the text's own queries give to the image: below 1 per token, and another map.
    let text = Aggregate::named("all").unwrap();
    let text = Aggregate { queries: attnmap::heatmap::QuerySource::Text, ..text };
    let of_text = aggregate(&trace, &text, &trace.words(Half::Conditional)).unwrap();
    let frog = of_text.chosen.iter().find(|word| word.text == "frog").unwrap();
    assert!(of_text.share(frog) > 0.0 && of_text.share(frog) < 1.0 && of_text.map_of(frog) != map(&maps, "frog"));

    let asked = |more: &[&str]| json(&[&["ask", &run, "--box", "0,0,16,16", "--json"], more].concat());
    for more in [&[][..], &["--queries", "text", "--aggregate", "all"], &["--aggregate", "seg4diff"]] {
        let ranked = asked(more);
        let named = |word: &str| ranked.as_array().unwrap().iter().any(|part| part["word"] == word);
        assert!(named("frog") && named("apple"), "{ranked}");
    }
    let facts = json(&["facts", &run, "--json"]);
    assert!(facts["words"].as_array().is_some_and(|words| !words.is_empty()), "{facts}");
    let view = attnmap(&["view", &run, "--queries", "text", "--words", "frog,apple"]);
    assert!(view.status.success(), "{}", String::from_utf8_lossy(&view.stderr));
    let record: Value = serde_json::from_slice(&fs::read(Path::new(&run).join("run.json")).unwrap()).unwrap();
    assert_eq!((&record["maps"]["name"], &record["maps"]["queries"]), (&"compete".into(), &"text".into()));
    assert!(attnmap(&["view", &run, "--aggregate", "concept", "--steps-window", "1-1"]).status.success());
    refused(&attnmap(&["view", &run, "--aggregate", "concept", "--heads", "0"]), 2, &["--heads", "all heads"]);
    let single = ["view", &run, "--aggregate", "concept", "--layers", "single_transformer_blocks.*"];
    refused(&attnmap(&single), 2, &["--layers"]);

    // Asked later: the numbers of attention stay, the concepts share the places out anew.
    assert!(attnmap(&["view", &run, "--aggregate", "concept"]).status.success());
    let probed = attnmap(&["probe", &run, "--words", "sky"]);
    assert!(probed.status.success(), "{}", String::from_utf8_lossy(&probed.stderr));
    assert!(attnmap(&["check", &run]).status.success());
    let later = Trace::load(&file).unwrap();
    assert_eq!(later.about.probes.len(), 1);
    assert_eq!(later.about.concepts.last().unwrap().text, "sky");
    assert!(later.recording.probes.is_none() && later.recording.text_queries.is_some());
    let maps = aggregate(&later, &how, &later.words(Half::Conditional)).unwrap();
    assert!(map(&maps, "probe:sky").iter().any(|value| *value > 0.0) && map(&maps, "frog") != map_of(&trace, "frog"));
    let shares: f32 = maps.chosen.iter().map(|word| maps.share(word)).sum();
    assert!((shares - 1.0).abs() < 1e-4, "{shares}");
    assert!(attnmap(&["report", &run]).status.success());

    // As if asked at first.
    let (_other, first) = made("tiny-flux-schnell", &["--probe", "sky"]);
    let first = Trace::load(&Path::new(&first).join("trace.safetensors")).unwrap();
    assert_eq!(first.about.concepts, later.about.concepts);
    let scores = |trace: &Trace| trace.recording.concepts.as_ref().unwrap().sites[1].as_ref().unwrap().to_vec();
    assert_eq!(scores(&first), scores(&later));

    // Of a run that kept no concepts: what is asked later has a map, as what is asked at first has.
    let (_plain, plain) = made("tiny-flux-schnell", &[]);
    let probed = json(&["probe", &plain, "--words", "sky", "--json"]);
    assert_eq!(probed["maps"]["name"], "concept");
    let maps = aggregate(&Trace::load(&Path::new(&plain).join("trace.safetensors")).unwrap(), &how, &[]).unwrap();
    assert!(maps.own_shares.unwrap().last().is_some_and(|share| *share > 0.0));
    // A list behind a switch that takes one with `=` alone is no word of the prompt.
    let list = attnmap(&["generate", PROMPT, "--concepts", "apple,frog"]);
    refused(&list, 2, &["--concepts takes a value behind an equals sign: --concepts=apple,frog"]);
}

fn map_of(trace: &Trace, word: &str) -> Vec<f32> {
    let how = Aggregate::named("concept").unwrap();
    map(&aggregate(trace, &how, &trace.words(Half::Conditional)).unwrap(), word)
}

#[test]
fn concepts_are_kept_of_every_network_and_of_pictures() {
    for (model, more) in [("tiny-sd35", &["--guidance", "3"][..]), ("tiny-z-image", &[])] {
        let (_folder, run) = made(model, &[&["--concepts=apple,green frog", "--probe", "beach"], more].concat());
        let trace = Trace::load(&Path::new(&run).join("trace.safetensors")).unwrap();
        trace.verify().unwrap();
        let texts: Vec<&str> = trace.about.concepts.iter().map(|concept| &*concept.text).collect();
        assert_eq!(texts, ["apple", "green frog", "beach"], "{model}");
        assert!(trace.recording.concepts.as_ref().unwrap().sites.iter().all(Option::is_some));
        let maps = aggregate(&trace, &Aggregate::named("concept").unwrap(), &trace.words(Half::Conditional)).unwrap();
        let shares: f32 = maps.chosen.iter().map(|word| maps.share(word)).sum();
        assert!((shares - 1.0).abs() < 1e-4, "{model}: {shares}");
        assert!(attnmap(&["check", &run]).status.success());
        if model == "tiny-sd35" {
            let picture = Path::new(&run).join("image.png").display().to_string();
            let out = format!("{run}-trace");
            let model = fixture(model).display().to_string();
            let traced =
                ["trace", &picture, "a frog on a beach", "--model", &model, "--concepts", "--out", &out, "--json"];
            assert_eq!(json(&traced)["maps"]["name"], "concept");
        }
    }
}

#[test]
fn galleries_and_sweeps_keep_concepts_and_the_texts_own_queries() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("tiny-flux-schnell").display().to_string();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let own = ["--model", &*model, "--size", "32x32", "--steps", "1", "--seeds", "3"];
    let gallery = |out: &str, more: &[&str]| {
        let output = attnmap(&[&["gallery", "--out", &at(out)], &own[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let cells = fs::read_dir(folder.path().join(out).join("cells")).unwrap().flatten();
        let mut cells: Vec<_> = cells.map(|cell| cell.path()).collect();
        cells.sort();
        cells
    };
    let read = |cell: &Path| Trace::load(&cell.join("trace.safetensors")).unwrap();
    let texts = |trace: &Trace| trace.about.concepts.iter().map(|concept| concept.text.clone()).collect::<Vec<_>>();

    // Each prompt's own words, and the command of a cell makes the same.
    let prompts = ["--prompt", "a green frog", "--prompt", "a red apple"];
    let cells = gallery("own", &[&prompts[..], &["--concepts", "--text-queries"]].concat());
    assert_eq!(cells.iter().map(|cell| texts(&read(cell))).collect::<Vec<_>>(), [["green", "frog"], ["red", "apple"]]);
    for cell in &cells {
        assert!(read(cell).recording.text_queries.is_some());
        let record: Value = serde_json::from_slice(&fs::read(cell.join("run.json")).unwrap()).unwrap();
        assert_eq!(record["maps"]["name"], "concept");
    }
    let record: Value = serde_json::from_slice(&fs::read(cells[1].join("run.json")).unwrap()).unwrap();
    let path = Path::new(env!("CARGO_BIN_EXE_attnmap")).parent().unwrap();
    let path = format!("{}:{}", path.display(), std::env::var("PATH").unwrap());
    let again = format!("{} --out '{}'", record["command"].as_str().unwrap(), at("again"));
    let made = std::process::Command::new("sh").args(["-c", &again]).env("PATH", path).output().unwrap();
    assert!(made.status.success(), "{again}: {}", String::from_utf8_lossy(&made.stderr));
    let (cell, alone) = (read(&cells[1]), read(Path::new(&at("again"))));
    assert_eq!(texts(&cell), texts(&alone));
    let scores = |trace: &Trace| trace.recording.concepts.as_ref().unwrap().sites[1].as_ref().unwrap().to_vec();
    assert!(scores(&cell) == scores(&alone) && alone.recording.text_queries.is_some());
    let maps = fs::read(Path::new(&at("again")).join("run.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&maps).unwrap()["maps"], record["maps"]);

    // Those that are named, where a prompt has them.
    let replaced = ["--prompt", "a red apple", "--replace", "apple=pear", "--concepts=apple,pear,red"];
    let cells = gallery("named", &replaced);
    assert_eq!(cells.iter().map(|cell| texts(&read(cell))).collect::<Vec<_>>(), [["apple", "red"], ["pear", "red"]]);
    // The text's own queries are kept where maps are made of them.
    let cells = gallery("text", &["--prompt", "a frog", "--queries", "text"]);
    assert!(read(&cells[0]).recording.text_queries.is_some() && read(&cells[0]).about.concepts.is_empty());

    let sweep = |out: &str, more: &[&str]| {
        json(&[&["sweep", "a red apple", "--json", "--out", &at(out)], &own[..], more].concat())
    };
    let swept = |found: &Value| {
        let words = found["words"].as_array().unwrap().iter();
        words.map(|word| word["word"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let found = sweep("swept", &["--concepts=apple", "--probe", "sky"]);
    assert!(found["aggregate"].as_str().unwrap().contains("concept"), "{found}");
    assert_eq!(swept(&found), ["apple", "probe:sky"], "what is no concept has no map");
    let of_text = sweep("of-text", &["--queries", "text"]);
    assert_eq!(swept(&of_text), ["a", "red", "apple"]);
    assert_ne!(of_text["words"][2]["peak"], sweep("of-image", &[])["words"][2]["peak"]);

    // What cannot be kept is refused before anything is made.
    let refuses = |arguments: &[&str], expected: &[&str]| {
        refused(&attnmap(&[arguments, &["--out", &at("none")]].concat()), 2, expected);
        assert!(!Path::new(&at("none")).exists());
    };
    let asked = |more: &[&'static str]| -> Vec<String> {
        ["gallery", "--prompt", "a red apple"].iter().chain(&own).chain(more).map(|word| word.to_string()).collect()
    };
    for (more, expected) in [
        (&["--concepts=apple,frog"][..], &["--concepts", "frog", "--probe"][..]),
        (&["--prompt", "a beach", "--concepts=apple"], &["--concepts", "a beach", "apple"]),
    ] {
        let arguments = asked(more);
        refuses(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }
    let sd1 = fixture("tiny-sd1").display().to_string();
    let others = ["--model", &*sd1, "--size", "64x64", "--steps", "1", "--seeds", "3"];
    for option in ["--concepts", "--text-queries"] {
        refuses(&[&["gallery", "--prompt", "a frog", option], &others[..]].concat(), &[option, "FLUX.1"]);
    }
    refuses(&[&["sweep", "a frog", "--concepts"], &others[..]].concat(), &["--concepts", "FLUX.1"]);
    refuses(&[&["sweep", "a frog", "--queries", "text"], &others[..]].concat(), &["--text-queries", "FLUX.1"]);
    let pictures = folder.path().display().to_string();
    refuses(&["trace", &pictures, "--concepts", "--model", &model], &["--concepts", "one picture"]);
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let model = fixture("tiny-flux-schnell").display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run").display().to_string();
    let own = ["generate", "a red apple", "--steps", "1", "--size", "32x32", "--out", &out];
    let run = |more: &[&str]| attnmap(&[&own[..], more].concat());
    refused(&run(&["--model", &model, "--concepts=frog"]), 2, &["--concepts", "frog", "--probe"]);
    let sd1 = fixture("tiny-sd1").display().to_string();
    refused(&run(&["--model", &sd1, "--concepts"]), 2, &["--concepts", "FLUX.1", "--probe"]);
    refused(&run(&["--model", &sd1, "--text-queries"]), 2, &["--text-queries", "FLUX.1"]);
    assert!(!Path::new(&out).exists());
    assert!(run(&["--model", &model]).status.success());
    refused(&attnmap(&["view", &out, "--aggregate", "concept"]), 2, &["--aggregate", "--concepts"]);
    refused(&attnmap(&["view", &out, "--queries", "text"]), 2, &["--queries", "--text-queries"]);
}
