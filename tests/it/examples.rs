//! The commands of README and of `examples/README.md`, run by the real binary in a folder of their
//! own. Also what the example LoRA and word do.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A folder with what the commands name of the repository.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in [
        "examples/lora/stand-left.safetensors",
        "examples/embedding/granny-smith.safetensors",
        "examples/pictures/right-half.png",
        "examples/prompts/heart.txt",
        "tests/data/scenes/final/02.png",
        "examples/captioned/one.png",
        "examples/captioned/one.txt",
        "examples/captioned/two.png",
        "examples/captioned/two.txt",
        "examples/captioned/three.png",
        "examples/captioned/three.txt",
    ] {
        let target = folder.path().join(file);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(repository.join(file), target).unwrap();
    }
    folder
}

fn run(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_attnmap")).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let warned = String::from_utf8_lossy(&output.stderr).contains("never saw");
    assert!(!warned, "{arguments:?} has words that the default checkpoint never saw");
    String::from_utf8(output.stdout).unwrap()
}

/// The arguments of a command line that quotes with `"` alone.
fn arguments(line: &str) -> Vec<&str> {
    let quoted = line.split('"').enumerate();
    quoted.flat_map(|(at, part)| if at % 2 == 1 { vec![part] } else { part.split_whitespace().collect() }).collect()
}

#[test]
fn every_command_of_the_examples_works_as_it_stands() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/README.md")).unwrap();
    let folder = place();
    let commands: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("attnmap ")).collect();
    assert!(commands.len() > 18, "{commands:?}");
    let outputs: Vec<(Vec<&str>, String)> = commands
        .into_iter()
        .map(|command| {
            let arguments = arguments(command);
            let output = run(folder.path(), &arguments);
            (arguments, output)
        })
        .collect();
    let said = |what: &str| {
        let found = outputs.iter().find(|(arguments, _)| arguments.contains(&what));
        found.unwrap_or_else(|| panic!("no command has {what}")).1.as_str()
    };
    let compared = said("outputs/lora.html");
    assert!(compared.contains("LoRA none in A, stand-left.safetensors at 1 in B"), "{compared}");
    assert!(compared.contains("“penguin” moved left by "), "{compared}");
    assert!(said("outputs/emphasis.html").contains("“heart”"));

    // The image with probes is the image without, and the learned word is one word.
    let record = |run: &str| -> Value {
        let file = folder.path().join("outputs").join(run).join("run.json");
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    };
    let words = |run: &str| record(run)["words"].as_array().unwrap().clone();
    assert_eq!(words("word")[1]["text"], "<granny-smith>");
    assert_eq!(words("file").len(), 8);
    assert_eq!(
        words("negative-words").iter().map(|word| word["text"].as_str().unwrap()).collect::<Vec<_>>(),
        ["red", "apple"]
    );
    assert_eq!(record("look")["kind"], "trace");

    // What the pictures in the text say: a green apple where the word's map lies, and none that is
    // red where red was to be avoided. The apple stays where black was, and the heart's half is
    // another picture.
    let image = |run: &str| image::open(folder.path().join("outputs").join(run).join("image.png")).unwrap().to_rgb8();
    let colour_at = |run: &str, word: usize| {
        let centre = &words(run)[word]["centroid"];
        let [x, y] = ["x", "y"].map(|side| (centre[side].as_f64().unwrap() * 128.0) as u32);
        image(run).get_pixel(x, y).0.map(i32::from)
    };
    let green_at = |run: &str, word: usize| {
        let [red, green, blue] = colour_at(run, word);
        assert!(green > red + 20 && green > blue + 60, "{run}: {red} {green} {blue} at word {word}");
    };
    let red_at = |run: &str, word: usize| {
        let [red, green, blue] = colour_at(run, word);
        red > green.max(blue)
    };
    assert!(red_at("fruit", 2) && !red_at("negative", 1), "red was to be avoided");
    green_at("word", 1);
    green_at("init", 9);
    let (before, after) = (image("fruit"), image("mask"));
    let apart = |columns: std::ops::Range<u32>| {
        let pixels = columns.clone().flat_map(|x| (0..128).map(move |y| (x, y)));
        let sum: i32 = pixels
            .map(|(x, y)| {
                let (a, b) = (before.get_pixel(x, y).0, after.get_pixel(x, y).0);
                a.iter().zip(b).map(|(a, b)| i32::from(a.abs_diff(b))).sum::<i32>()
            })
            .sum();
        f64::from(sum) / f64::from(3 * 128 * columns.len() as i32)
    };
    let (kept, drawn) = (apart(0..56), apart(64..128));
    // What is kept has been through the VAE and back.
    assert!(kept < 5.0 && drawn > 15.0, "{kept} {drawn}");
}

/// Centres of the first content word's map over some seeds, `x` from the left.
fn centres(folder: &Path, prompt: &str, more: &[&str]) -> Vec<f64> {
    let out = tempfile::tempdir_in(folder).unwrap();
    let out = out.path().join("sweep").display().to_string();
    let mut arguments = vec!["sweep", prompt, "--seeds", "100..108", "--json", "--out", &out];
    arguments.extend(more);
    let sweep: Value = serde_json::from_str(&run(folder, &arguments)).unwrap();
    let word = sweep["words"].as_array().unwrap().iter().find(|word| word["role"] == "content").unwrap();
    word["centroids"].as_array().unwrap().iter().map(|centre| centre["x"].as_f64().unwrap()).collect()
}

#[test]
fn the_example_lora_moves_a_lone_thing_and_leaves_two_alone() {
    let folder = place();
    let lora = ["--lora", "examples/lora/stand-left.safetensors"];
    // A scene that training never saw.
    let [plain, left] = [&[][..], &lora].map(|more| centres(folder.path(), "a panda in the desert", more));
    assert!(plain.iter().all(|&x| x > 0.35), "{plain:?}");
    assert!(left.iter().all(|&x| x < 0.30), "{left:?}");
    // With two things the prompt says where they stand, and the frog stays on the right.
    let frog = "a green frog to the right of a red apple on the beach";
    let right = centres(folder.path(), frog, &lora);
    assert!(right.iter().all(|&x| x > 0.6), "{right:?}");
    // Half of it moves things less.
    let half = centres(folder.path(), "a panda in the desert", &["--lora", "examples/lora/stand-left.safetensors:0.3"]);
    let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
    assert!(mean(&left) < mean(&half) && mean(&half) < mean(&plain), "{left:?} {half:?} {plain:?}");
}

#[test]
fn the_pictures_that_the_examples_show_are_there() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let readme = std::fs::read_to_string(examples.join("README.md")).unwrap();
    let pictures: Vec<PathBuf> = readme
        .split("](")
        .skip(1)
        .filter_map(|link| link.split_once(')'))
        .filter(|(link, _)| link.ends_with(".png"))
        .map(|(link, _)| examples.join(link))
        .collect();
    assert!(pictures.len() > 7);
    for picture in pictures {
        let size = std::fs::metadata(&picture).unwrap_or_else(|error| panic!("{}: {error}", picture.display())).len();
        assert!(size < 150_000, "{}: {size} bytes", picture.display());
    }
}

/// Every test that docs/CHECKPOINTS.md names is there.
#[test]
fn the_tests_that_the_list_of_layouts_names_are_there() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(repository.join("docs/CHECKPOINTS.md")).unwrap();
    let named: Vec<(&str, &str)> = list.split('`').filter_map(|code| code.split_once("::")).collect();
    assert!(named.len() > 40, "{}", named.len());
    for (module, test) in named {
        let source = std::fs::read_to_string(repository.join("tests/it").join(format!("{module}.rs")));
        let source = source.unwrap_or_else(|error| panic!("{module}: {error}"));
        assert!(source.contains(&format!("#[test]\nfn {test}()")), "no test {module}::{test}");
    }
}

/// README's commands between its headings, in order; each is run as it stands after README's first.
#[test]
fn readme_is_short_and_its_questions_are_answered_as_it_says() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(repository.join("README.md")).unwrap();
    assert!(readme.len() <= 10 * 1024, "{} bytes", readme.len());
    let first = readme.lines().find_map(|line| line.strip_prefix("cargo run --release -- ")).unwrap();
    let (_, questions) = readme.split_once("## Three questions").unwrap();
    let (questions, _) = questions.split_once("## Your own checkpoint").unwrap();
    let folder = place();
    let commands: Vec<&str> =
        [first].into_iter().chain(questions.lines().filter_map(|line| line.strip_prefix("attnmap "))).collect();
    assert!(commands.len() > 3, "{commands:?}");
    let said: Vec<String> = commands.iter().map(|command| run(folder.path(), &arguments(command))).collect();
    let explained = &said[commands.iter().position(|command| command.starts_with("explain")).unwrap()];
    assert!(explained.contains(" 11 % of the image"), "{explained}");
    let prompt = "a red apple to the left of a blue heart on the beach";
    let article = run(folder.path(), &["explain", prompt, "--words", "a#2"]);
    assert!(article.contains("mattered not at all"), "{article}");
    assert!(folder.path().join("outputs/compare.html").exists());
}

/// Links of README and of the pages in docs/ to files of the repository.
#[test]
fn links_of_the_documents_lead_somewhere() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![repository.join("README.md"), repository.join("examples/README.md")];
    pages.extend(std::fs::read_dir(repository.join("docs")).unwrap().map(|file| file.unwrap().path()));
    let mut links = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || file.starts_with("http") {
                continue;
            }
            links += 1;
            assert!(page.parent().unwrap().join(file).exists(), "{}: {link}", page.display());
        }
    }
    assert!(links > 40, "{links}");
}

/// Every command of the program is in README's table, and in that of docs/COMMANDS.md.
#[test]
fn every_command_is_in_the_tables() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let help = run(repository, &["--help"]);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let names: Vec<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(names.len() > 18, "{names:?}");
    for page in ["README.md", "docs/COMMANDS.md"] {
        let text = std::fs::read_to_string(repository.join(page)).unwrap();
        let rows: String = text.lines().filter(|line| line.starts_with('|')).collect();
        let missing: Vec<&&str> = names
            .iter()
            .filter(|name| !rows.contains(&format!("`{name} ")) && !rows.contains(&format!("`{name}`")))
            .collect();
        assert!(missing.is_empty(), "{page}: {missing:?}");
    }
}
