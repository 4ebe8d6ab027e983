//! `attnmap models`, as a user runs it.

use crate::checkpoint::Copy;
use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

fn models(home: &Path) -> Command {
    let mut command = Command::cargo_bin("attnmap").unwrap();
    command.arg("models").env("HF_HOME", home).env_remove("HF_HUB_CACHE").env_remove("HUGGINGFACE_HUB_CACHE");
    // Nothing here may reach for a network: nobody listens on this port.
    command.env("HF_ENDPOINT", "http://127.0.0.1:9").env_remove("HF_HUB_OFFLINE");
    command
}

/// A hub cache that holds `copy` as `repo`, branch `main`.
fn cache(home: &Path, repo: &str, copy: &Copy) {
    let folder = home.join("hub").join(format!("models--{}", repo.replace('/', "--")));
    fs::create_dir_all(folder.join("snapshots")).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    crate::checkpoint::copy_folder(copy.path(), &folder.join("snapshots").join(COMMIT));
}

#[test]
fn the_list_has_the_embedded_checkpoint_and_the_cache() {
    let home = TempDir::new().unwrap();
    models(home.path()).assert().success().stdout(contains("embedded").and(contains("No pipelines in the hub cache")));

    cache(home.path(), "owner/tiny", &Copy::of("tiny-sd2"));
    let other = Copy::of("tiny-sd1");
    let index = other.path().join("model_index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("StableDiffusionPipeline", "KandinskyPipeline")).unwrap();
    cache(home.path(), "owner/kand", &other);
    models(home.path()).assert().success().stdout(
        contains("owner/tiny  Stable Diffusion layout, own shape, 460 k parameters, 1.14 MB on disk, 128x128 px")
            .and(contains("owner/kand  cannot be used:").and(contains("Kandinsky"))),
    );
    let output = models(home.path()).arg("--json").assert().success().get_output().stdout.clone();
    let list: Value = serde_json::from_slice(&output).unwrap();
    let ids: Vec<&str> = list.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["embedded", "owner/kand", "owner/tiny"]);
    assert_eq!(list[2]["parameters"], 459_571);
}

#[test]
fn one_checkpoint_is_described_without_a_download() {
    let home = TempDir::new().unwrap();
    models(home.path()).arg("owner/tiny").assert().code(1).stdout("").stderr(
        contains("owner/tiny: no network is used here")
            .and(contains("attnmap generate PROMPT --model"))
            .and(one_line()),
    );
    cache(home.path(), "owner/tiny", &Copy::of("tiny-sd2"));
    models(home.path())
        .arg("owner/tiny")
        .assert()
        .success()
        .stdout(contains("DDIMScheduler, predicts v_prediction").and(contains("13 cross-attention layers")));
    let output = models(home.path()).args(["owner/tiny", "--json"]).assert().success().get_output().stdout.clone();
    let description: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(description["sites"].as_array().unwrap().len(), 13);
    assert_eq!(description["digest"].as_str().unwrap().len(), 16);
    let bytes = |dtype: &str| -> u64 {
        let parts = description["memory"][dtype]["parts"].as_array().unwrap();
        parts.iter().map(|part| part["bytes"].as_u64().unwrap()).sum()
    };
    assert_eq!((bytes("f32"), bytes("bf16")), (4 * 459_571, 2 * 459_571));
}

/// Python writes `-Infinity` bare, and in a cache without links no name is a digest that says so.
#[test]
fn what_python_writes_is_no_damage() {
    let home = TempDir::new().unwrap();
    let copy = Copy::of("tiny-sd1");
    let file = copy.path().join("scheduler/scheduler_config.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen('{', "{\"lambda_min_clipped\": -Infinity,", 1)).unwrap();
    cache(home.path(), "owner/tiny", &copy);
    models(home.path()).arg("owner/tiny").assert().success().stdout(contains("owner/tiny"));
}

#[test]
fn what_is_no_checkpoint_is_a_usage_error() {
    let home = TempDir::new().unwrap();
    for (name, expected) in
        [("nonsense", "neither a folder nor a hub id"), ("./model.ckpt", "pickle"), ("/no/such", "no folder")]
    {
        models(home.path()).arg(name).assert().code(2).stdout("").stderr(contains(expected).and(one_line()));
    }
}

fn one_line() -> impl Predicate<str> {
    predicate::function(|text: &str| text.lines().count() == 1)
}
