//! The fuzz targets without cargo-fuzz: inputs made from the seeds by proptest with a fixed seed.
//!
//! Each target gets the same inputs on every machine, and at most a second. With `--ignored` it
//! gets as long as `ATTNMAP_FUZZ_SECONDS` says. See docs/FUZZING.md.

#[path = "../fuzz_targets/mod.rs"]
mod targets;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};
use targets::{TARGETS, Target};

/// What stands for a number, a name or a list where it should not.
const TOKENS: [&[u8]; 20] = [
    b"null",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551615",
    b"4294967297",
    b"[]",
    b"{}",
    b"\"\"",
    b"true",
    b"NaN",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x00\x00\xc0\x7f",
    b"\x00\x7e",
    b",",
    b":",
    b"\n",
    "\u{301}".as_bytes(),
    "\u{202e}🐸".as_bytes(),
];

/// A change of an input. Places are shares of its length, as one change moves those after it.
#[derive(Debug, Clone)]
enum Change {
    Set(f64, u8),
    Flip(f64, u8),
    Remove(f64, usize),
    Repeat(f64, usize),
    Insert(f64, usize),
    Replace(f64, usize),
    Cut(f64),
}

fn change() -> impl Strategy<Value = Change> {
    // Headers and short texts lie in front, where most is decided.
    let place = || prop_oneof![0.0..1.0f64, (0.0..1.0f64).prop_map(|at| at * at * at * at)];
    let length = prop_oneof![1usize..9, 1usize..300];
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (place(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (place(), length.clone()).prop_map(|(at, length)| Change::Remove(at, length)),
        (place(), length).prop_map(|(at, length)| Change::Repeat(at, length)),
        (place(), 0..TOKENS.len()).prop_map(|(at, token)| Change::Insert(at, token)),
        (place(), 0..TOKENS.len()).prop_map(|(at, token)| Change::Replace(at, token)),
        place().prop_map(Change::Cut),
    ]
}

fn apply(input: &mut Vec<u8>, change: &Change) {
    let at = |share: f64| ((share * input.len() as f64) as usize).min(input.len());
    match *change {
        Change::Set(share, byte) => {
            let at = at(share);
            input.get_mut(at).into_iter().for_each(|old| *old = byte);
        }
        Change::Flip(share, bit) => {
            let at = at(share);
            input.get_mut(at).into_iter().for_each(|old| *old ^= 1 << bit);
        }
        Change::Remove(share, length) => drop(input.drain(at(share)..(at(share) + length).min(input.len()))),
        Change::Repeat(share, length) => {
            let part = input[at(share)..(at(share) + length).min(input.len())].to_vec();
            input.splice(at(share)..at(share), part);
        }
        Change::Insert(share, token) => drop(input.splice(at(share)..at(share), TOKENS[token].iter().copied())),
        Change::Replace(share, token) => {
            let token = TOKENS[token];
            let start = at(share);
            // In place of a whole number or name, where one stands there.
            let word = input[start..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'.').count();
            input.splice(start..start + word.max(1).min(input.len() - start), token.iter().copied());
        }
        Change::Cut(share) => input.truncate(at(share)),
    }
}

/// The most inputs of a target in an ordinary run: a faster machine is to see no other ones.
const INPUTS: usize = 3000;

/// Tries up to `most` inputs of `target` for `time`; gives their number. An input that breaks a
/// rule is kept in `target/fuzz/` and named.
fn try_for(target: &Target, time: Duration, most: usize) -> usize {
    let seeds = (target.seeds)();
    seeds.iter().for_each(|seed| (target.take)(seed));
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[29; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let inputs = (0..seeds.len(), prop::collection::vec(change(), 1..6));
    let (began, mut count) = (Instant::now(), seeds.len());
    while began.elapsed() < time && count < most {
        let (seed, changes) = inputs.new_tree(&mut runner).unwrap().current();
        let mut input = seeds[seed].clone();
        changes.iter().for_each(|change| apply(&mut input, change));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.take)(&input))) {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
            fs::create_dir_all(&folder).unwrap();
            let kept = folder.join(format!("{}-{count}", target.name));
            fs::write(&kept, &input).unwrap();
            eprintln!("{}: input {count} broke a rule; it is in {}", target.name, kept.display());
            resume_unwind(panic);
        }
        count += 1;
    }
    count
}

fn named(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap()
}

macro_rules! second {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            let count = try_for(named(stringify!($name)), Duration::from_secs(1), INPUTS);
            assert!(count > 10, "{count} inputs");
        }
    )*};
}

second!(trace, run, picture, metadata, configs, weights, lora, embedding, prompt, prompt_list, plan);

/// Every target for `ATTNMAP_FUZZ_SECONDS` (60), and how many inputs were tried.
#[test]
#[ignore = "takes minutes"]
fn long() {
    let seconds = std::env::var("ATTNMAP_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    for target in &TARGETS {
        println!(
            "{}: {} inputs in {seconds} s",
            target.name,
            try_for(target, Duration::from_secs(seconds), usize::MAX)
        );
    }
}

/// Writes the seeds to `fuzz/corpus/`, where cargo-fuzz looks for them.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn seeds() {
    for target in &TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
        fs::create_dir_all(&folder).unwrap();
        for (index, seed) in (target.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{index}")), seed).unwrap();
        }
    }
}
