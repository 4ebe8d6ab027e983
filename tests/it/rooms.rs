//! The rooms of the house: which folder of `src/` uses which, without cycles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Folders of `src/` that the code in each of them names as `crate::FOLDER`, tests aside.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let folders = fs::read_dir(&src).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let names: BTreeSet<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    let mut uses = BTreeMap::new();
    for name in &names {
        let mut found = BTreeSet::new();
        for file in crate::cli::walk(&src.join(name)).iter().filter(|file| file.extension().is_some_and(|e| e == "rs"))
        {
            let paths = Module::read(&fs::read_to_string(file).unwrap()).paths;
            let named = paths.iter().filter_map(|path| path.strip_prefix("crate::")?.split("::").next());
            found.extend(named.filter(|other| *other != name && names.contains(*other)).map(str::to_owned));
        }
        uses.insert(name.clone(), found);
    }
    uses
}

#[test]
fn folders_use_each_other_without_cycles() {
    let mut left = uses();
    assert!(left.len() > 15 && left["pipeline"].contains("model") && left["files"].is_empty(), "{left:?}");
    // In braces with others: `use crate::{Error, Result, files};`.
    assert!(left["pipeline"].contains("files"), "{left:?}");
    // Take away what uses nothing that is left, until nothing is.
    while !left.is_empty() {
        let free: Vec<String> = left
            .iter()
            .filter(|(_, uses)| uses.iter().all(|other| !left.contains_key(other)))
            .map(|(name, _)| name.clone())
            .collect();
        assert!(!free.is_empty(), "these folders use each other in a circle: {left:?}");
        left.retain(|name, _| !free.contains(name));
    }
}

/// A file of `src/` by its path of modules, with the names that it takes from elsewhere.
struct Module {
    /// What `use` names: the last part of each path, and the path.
    imports: BTreeMap<String, String>,
    /// Every path in the code.
    paths: Vec<String>,
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expanded(path: &str) -> Vec<String> {
    let (Some(open), Some(end)) = (path.find('{'), path.rfind('}')) else { return vec![path.trim().to_string()] };
    let (before, inside) = (&path[..open], &path[open + 1..end]);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in inside.chars() {
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                parts.last_mut().unwrap().push(c);
            }
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(|part| expanded(&format!("{before}{part}"))).collect()
}

impl Module {
    fn read(code: &str) -> Self {
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let code = code.split("#[cfg(all(test").next().unwrap_or_default();
        let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = lines.join("\n");
        let mut imports = BTreeMap::new();
        let mut paths = Vec::new();
        // Of a declaration; the word stands in texts too.
        let starts = code.match_indices("use ").filter(|(at, _)| {
            let before = code[..*at].rsplit('\n').next().unwrap_or_default().trim();
            before.is_empty() || before.starts_with("pub")
        });
        for (at, word) in starts {
            let Some((used, _)) = code[at + word.len()..].split_once(';') else { continue };
            if !used.split_whitespace().next().is_some_and(|first| first.contains("::")) {
                continue;
            }
            for path in expanded(used) {
                let (path, name) = match path.split_once(" as ") {
                    Some((path, name)) => (path.to_string(), name.to_string()),
                    None => (path.clone(), path.rsplit("::").next().unwrap_or_default().to_string()),
                };
                imports.insert(name, path.clone());
                paths.push(path);
            }
        }
        for start in ["super::", "crate::"] {
            let starts = code
                .match_indices(start)
                .filter(|(at, _)| !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
            for (at, _) in starts {
                let path = code[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':');
                let path: String = path.collect();
                // Of a list in braces, which is read above.
                if !path.ends_with("::") {
                    paths.push(path);
                }
            }
        }
        Self { imports, paths }
    }
}

/// The module that owns what `path` names in `from`; re-exports are followed.
fn owner(modules: &BTreeMap<Vec<String>, Module>, from: &[String], path: &str, depth: usize) -> Option<Vec<String>> {
    let mut parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
    let mut at = match *parts.first()? {
        "crate" => Vec::new(),
        "super" | "self" => from.to_vec(),
        first if modules.contains_key(&[from, &[first.to_string()]].concat()) => from.to_vec(),
        _ => return None,
    };
    while matches!(parts.first(), Some(&("super" | "crate" | "self"))) {
        if parts[0] == "super" {
            at.pop();
        }
        parts.remove(0);
    }
    while let Some(part) = parts.first() {
        let below = [at.as_slice(), &[part.to_string()]].concat();
        if !modules.contains_key(&below) {
            break;
        }
        at = below;
        parts.remove(0);
    }
    let import = modules.get(&at).and_then(|module| module.imports.get(*parts.first()?));
    match import {
        Some(import) if at != from && depth < 8 => owner(modules, &at, import, depth + 1).or(Some(at)),
        _ => Some(at),
    }
}

#[test]
fn files_use_each_other_without_cycles() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    for file in crate::cli::walk(&src).iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
        let path = file.strip_prefix(&src).unwrap().with_extension("");
        let mut names: Vec<String> = path.iter().map(|part| part.to_str().unwrap().to_string()).collect();
        if matches!(names.last().map(String::as_str), Some("mod" | "lib")) {
            names.pop();
        }
        if names != ["main"] {
            modules.insert(names, Module::read(&fs::read_to_string(file).unwrap()));
        }
    }
    let mut left: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = modules
        .iter()
        .map(|(name, module)| {
            let used = module.paths.iter().filter_map(|path| owner(&modules, name, path, 0));
            (name.clone(), used.filter(|other| other != name).collect())
        })
        .collect();
    let unet: Vec<String> = ["model", "denoiser", "unet"].map(String::from).to_vec();
    assert!(left.len() > 200 && left.contains_key(&unet), "{} modules", left.len());
    // Take away what uses nothing that is left, until nothing is.
    while !left.is_empty() {
        let free: Vec<_> = left
            .iter()
            .filter(|(_, used)| !used.iter().any(|u| left.contains_key(u)))
            .map(|(n, _)| n.clone())
            .collect();
        if free.is_empty() {
            // What nobody uses is no part of a circle either.
            let used: BTreeSet<_> = left.values().flatten().cloned().collect();
            let before = left.len();
            left.retain(|name, _| used.contains(name));
            let circle: Vec<String> = left.keys().map(|name| name.join("/")).collect();
            assert!(left.len() < before, "these files use each other in a circle: {}", circle.join(", "));
        } else {
            left.retain(|name, _| !free.contains(name));
        }
    }
}

#[test]
fn lines_fit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut long = Vec::new();
    for folder in ["src", "tests", "examples", "benches"] {
        for file in &crate::cli::walk(&root.join(folder)) {
            let extension = file.extension().and_then(|extension| extension.to_str());
            if !matches!(extension, Some("rs" | "js" | "css")) {
                continue;
            }
            let (mut is_listing, mut is_block) = (false, false);
            for (number, line) in fs::read_to_string(file).unwrap().lines().enumerate() {
                let text = line.trim_start();
                // Comments of styles may go on over lines.
                is_block |= extension != Some("rs") && text.starts_with("/*");
                let comment = match text.strip_prefix("//") {
                    Some(text) => Some(text.trim_start_matches(['/', '!']).trim_start()),
                    None => is_block.then_some(text),
                };
                is_block &= !text.contains("*/");
                is_listing = match comment {
                    Some(text) => is_listing != text.starts_with("```"),
                    None => false,
                };
                let columns = line.chars().count();
                let fits = match comment {
                    // A listing or table would be another one in shorter lines.
                    Some(text) => columns <= 100 || is_listing || text.starts_with('|'),
                    // So would a raw string or a pattern.
                    None => columns <= 120 || line.contains("r#\"") || line.contains("\\u{"),
                };
                if !fits {
                    let file = file.strip_prefix(root).unwrap().display();
                    long.push(format!("{file}:{}: {columns} columns", number + 1));
                }
            }
        }
    }
    assert!(long.is_empty(), "code has at most 120 columns, comments have 100:\n{}", long.join("\n"));
}

/// Whether a line of a doc comment has text behind the heading `# Errors` or begins with
/// `Errors:`.
fn hides_its_errors(line: &str) -> bool {
    let line = line.trim_start();
    let Some(text) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).map(str::trim) else { return false };
    text.starts_with("Errors:") || text.strip_prefix("# Errors").is_some_and(|behind| !behind.is_empty())
}

/// rustdoc lists what lies under the heading; text on its line would be part of the heading.
#[test]
fn errors_have_a_heading_of_their_own() {
    assert!(hides_its_errors("    /// # Errors When it is full.") && hides_its_errors("//! Errors: as `build`."));
    let plain = ["    /// # Errors", "//! Errors are one enum.", "let x = 1; // Errors: none"];
    assert!(!plain.iter().any(|line| hides_its_errors(line)));
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for file in crate::cli::walk(&src).iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
        for (number, line) in fs::read_to_string(file).unwrap().lines().enumerate() {
            if hides_its_errors(line) {
                found.push(format!("{}:{}: {}", file.strip_prefix(&src).unwrap().display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "put the text on the line below `# Errors`:\n{}", found.join("\n"));
}

/// Files of the library that write command lines for users to run: on pages, in `run.json`, to
/// cargo.
const COMMAND_LINES: [&str; 10] = [
    "argument.rs",
    "evidence/asked.rs",
    "gallery/looks.rs",
    "gallery/make.rs",
    "gallery/sweep.rs",
    "gallery/sweep_page.rs",
    "pipeline/names.rs",
    "pipeline/settings.rs",
    "report/compare.rs",
    "run/again.rs",
];

/// The lines of `code` that write `--steps` or its like outside of comments and of a whole command
/// (`attnmap generate --steps 3`). A text that goes on over several lines is one.
fn options_named(code: &str) -> Vec<String> {
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code = code.split("\\\n").map(str::trim_start).collect::<String>();
    let named = |line: &str| {
        let line = line.split_once("attnmap ").map_or(line, |(before, _)| before);
        line.match_indices("--").any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let inside = before.is_some_and(|c| c.is_alphanumeric() || c == '-' || c == '_');
            !inside && line[at + 2..].starts_with(|c: char| c.is_ascii_lowercase())
        })
    };
    code.lines().filter(|line| !line.trim_start().starts_with("//") && named(line)).map(str::to_owned).collect()
}

/// The library speaks of arguments; only the command line, which may be one program of several,
/// knows what they are called there.
#[test]
fn the_library_names_arguments_and_no_options() {
    assert_eq!(options_named("\"raise --steps\"\n// --steps\nformat!(\"--lora {x}\")\na--b").len(), 2);
    let commands =
        "\"see `attnmap eval --help` or attnmap \\\n   generate --steps 3\"\n#[cfg(test)]\nmod tests { \"--x\" }";
    assert!(options_named(commands).is_empty());
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for file in crate::cli::walk(&src).iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
        let name = file.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
        if name.starts_with("cli/") || COMMAND_LINES.contains(&name.as_str()) {
            continue;
        }
        let code = fs::read_to_string(file).unwrap();
        found.extend(options_named(&code).iter().map(|text| format!("src/{name}: {}", text.trim())));
    }
    assert!(found.is_empty(), "name the argument, as `argument::STEPS`:\n{}", found.join("\n"));
}

/// Types of `src/model/denoiser/` that are named as the parts of their checkpoints are, or as what
/// every network has: each stands once in the folder of its network.
const OF_EACH_NETWORK: [&str; 5] = ["Attention", "Block", "Pass", "Streams", "TimeTextEmbed"];

/// The name of the type that a line of code declares. An alias with space before it is a function's
/// own, or is named by the trait of its `impl` (`type Err`).
fn type_declared(line: &str) -> Option<&str> {
    let text = line.trim_start();
    let text = match text.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1.trim_start(),
        Some(rest) => rest.trim_start(),
        None => text,
    };
    let (word, rest) = text.strip_prefix("unsafe ").unwrap_or(text).split_once(' ')?;
    let declares = match word {
        "struct" | "enum" | "trait" | "union" => true,
        "type" => !line.starts_with(' '),
        _ => false,
    };
    let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    (declares && name.starts_with(|c: char| c.is_ascii_uppercase())).then_some(name)
}

/// Private ones count too. These do not: types of tests, [`OF_EACH_NETWORK`] in the folder of the
/// networks, types that belong to a trait, and an alias `Result`, which every Rust crate may have.
#[test]
fn no_type_name_stands_for_two_things() {
    let declare = ["struct A;", "pub enum B<T> {", "    pub(super) struct C<'a> {", "pub unsafe trait D: Send {"];
    assert_eq!(declare.map(type_declared), ["A", "B", "C", "D"].map(Some));
    assert_eq!(type_declared("pub(crate) type E = Vec<u8>;"), Some("E"));
    let plain = ["    type Err = String;", "// struct A;", "let a = A { b };", "pub(super) fn a() {"];
    assert!(!plain.iter().any(|line| type_declared(line).is_some()));
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut declared: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in crate::cli::walk(&src).iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
        let path = file.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
        if path.ends_with("/tests.rs") {
            continue;
        }
        let code = fs::read_to_string(file).unwrap();
        let code = code.split("]\nmod tests {").next().unwrap_or_default();
        for name in code.lines().filter_map(type_declared) {
            let of_a_network = path.starts_with("model/denoiser/") && OF_EACH_NETWORK.contains(&name);
            if !of_a_network && name != "Result" {
                declared.entry(name.to_string()).or_default().push(path.clone());
            }
        }
    }
    assert!(declared.len() > 400, "{} types", declared.len());
    let twice = declared.iter().filter(|(_, files)| files.len() > 1);
    let twice: Vec<String> = twice.map(|(name, files)| format!("{name}: {}", files.join(", "))).collect();
    assert!(twice.is_empty(), "give all but one of these another name:\n{}", twice.join("\n"));
}
