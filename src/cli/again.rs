//! Command lines as they are recorded and advised: what was typed, in a form that a shell reads as
//! the same.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use attnmap::run::quoted;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// What is not of the run itself: it is told anew, or says only where the run goes and what is said
/// of it.
const TOLD: [&str; 9] = ["seed", "images", "prompt", "prompt_option", "prompt_file", "out", "json", "force", "open"];

/// The command line that makes the run of `seed` again. It is the one that was typed, with this
/// seed, and with the prompt in place of the file that it came from. Where a folder was named it
/// has the run's own.
pub fn command(prompt: &str, seed: u64, out: Option<&Path>) -> String {
    let mut all = super::command();
    all.build();
    let Ok(typed) = all.clone().try_get_matches_from(std::env::args_os()) else { return String::new() };
    let Some((name, typed)) = typed.subcommand() else { return String::new() };
    let mut words = vec!["attnmap".to_owned(), name.to_owned()];
    let option = all.find_subcommand(name).map_or_else(Vec::new, |command| {
        words.extend(paths(command, typed));
        options(command, typed, &[&TOLD[..], &["caption", "caption_option", "quiet"]].concat())
    });
    let text = if name == "trace" { "--caption" } else { "--prompt" };
    // Behind `--` no option could be added to it.
    words.push(if prompt.starts_with('-') { option_word(text, prompt.as_ref()) } else { quoted(prompt) });
    words.extend(option);
    words.extend(out.map(|out| option_word("--out", out.as_os_str())));
    words.push(format!("--seed {seed}"));
    words.join(" ")
}

/// The positional arguments that are files.
fn paths(command: &Command, typed: &ArgMatches) -> Vec<String> {
    let files = command.get_positionals().filter(|arg| arg.get_id() == "image");
    files
        .flat_map(|arg| values(arg, typed))
        .map(|value| {
            let dashed = value.to_string_lossy().starts_with('-');
            quoted_os(&if dashed { Path::new(".").join(&value).into_os_string() } else { value })
        })
        .collect()
}

/// The options that were typed but for those of `without`, each as words of a shell.
fn options(command: &Command, typed: &ArgMatches, without: &[&str]) -> Vec<String> {
    let given = command.get_opts().chain(command.get_arguments().filter(|arg| is_switch(arg)));
    let mut words = Vec::new();
    for arg in given.filter(|arg| !arg.is_positional() && !without.contains(&arg.get_id().as_str())) {
        let Some(long) = arg.get_long().map(|long| format!("--{long}")) else { continue };
        if typed.value_source(arg.get_id().as_str()) != Some(ValueSource::CommandLine) {
            continue;
        }
        match is_switch(arg) {
            true => words.push(long),
            false if arg.is_require_equals_set() => {
                words.extend(values(arg, typed).iter().map(|value| bound_word(&long, value)));
            }
            false => words.extend(values(arg, typed).iter().map(|value| option_word(&long, value))),
        }
    }
    words
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// What was typed of `arg`, a value each time.
fn values(arg: &Arg, typed: &ArgMatches) -> Vec<OsString> {
    let delimiter = arg.get_value_delimiter().map_or(String::new(), String::from);
    let Ok(Some(raw)) = typed.try_get_raw_occurrences(arg.get_id().as_str()) else { return Vec::new() };
    raw.map(|values| values.collect::<Vec<&OsStr>>().join(OsStr::new(&delimiter))).collect()
}

/// `--name value`, or `--name=value` where the value could be taken for something else.
fn option_word(name: &str, value: &OsStr) -> String {
    let text = value.to_string_lossy();
    if text.is_empty() || text.starts_with('-') {
        bound_word(name, value)
    } else {
        format!("{name} {}", quoted_os(value))
    }
}

/// `--name=value`.
fn bound_word(name: &str, value: &OsStr) -> String {
    let mut whole = OsString::from(format!("{name}="));
    whole.push(value);
    quoted_os(&whole)
}

/// `word` as a word of a command line; what is no UTF-8, in the way of POSIX's `$'...'`.
fn quoted_os(word: &OsStr) -> String {
    match word.to_str() {
        Some(word) => quoted(word),
        None => {
            let byte = |&byte: &u8| match byte {
                b'\'' | b'\\' | 0x80.. | ..=0x1f => format!("\\x{byte:02x}"),
                _ => char::from(byte).to_string(),
            };
            format!("$'{}'", word.as_encoded_bytes().iter().map(byte).collect::<String>())
        }
    }
}

/// What is wrong with `word`, a number or list that was typed behind an option which takes no
/// value, or takes one with `=` alone. Other words may be those of a prompt.
pub fn value_of_a_switch(word: &str) -> Option<String> {
    let number = word.starts_with(|c: char| c.is_ascii_digit());
    let list = word.contains(',') && !word.contains(' ');
    if !number && !list {
        return None;
    }
    let typed: Vec<OsString> = std::env::args_os().collect();
    let behind = typed.windows(2).find(|pair| pair[1] == word && pair[0].to_string_lossy().starts_with("--"))?;
    let option = behind[0].to_string_lossy();
    let mut all = super::command();
    all.build();
    let command = all.find_subcommand(typed.get(1)?)?;
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(&option[2..]))?;
    match is_switch(arg) {
        true => number.then(|| format!("{option} takes no value; leave {word} out")),
        false => Some(format!("{option} takes a value behind an equals sign: {option}={word}")),
    }
}

/// How a text that begins with a dash is given: it was typed behind an option that takes one, or
/// alone. A single letter may be a mistyped option.
pub fn text_with_a_dash() -> Option<String> {
    let typed: Vec<OsString> = std::env::args_os().collect();
    let mut all = super::command();
    all.build();
    let command = all.find_subcommand(typed.get(1)?)?;
    let takes_text = |option: &str| {
        let arg = command.get_arguments().find(|arg| option.len() > 2 && arg.get_long() == Some(&option[2..]));
        arg.is_some_and(|arg| !is_switch(arg))
    };
    let is_text = |word: &str| {
        let mut letters = word.chars().skip(1);
        let begins = word.starts_with('-') && letters.next().is_some_and(|c| c.is_alphanumeric() || c == ' ');
        begins && letters.next().is_some()
    };
    for pair in typed.windows(2) {
        let (option, word) = (pair[0].to_string_lossy(), pair[1].to_string_lossy());
        let bound = option.starts_with("--") && !option.contains('=') && takes_text(&option);
        if bound && word == "--" || !is_text(&word) {
            continue;
        }
        let known = command.get_arguments().any(|arg| word.chars().nth(1) == arg.get_short());
        return match bound {
            true => Some(format!(
                "a value that begins with a dash stands behind an equals sign: {}",
                option_word(&option, &pair[1])
            )),
            // Behind a short option its value may follow at once.
            false if known => None,
            false => Some(format!("a prompt that begins with a dash comes last, behind two: -- {}", quoted(&word))),
        };
    }
    None
}

/// What was meant where a prompt was typed without quotes: the command line with them.
pub fn with_quotes() -> Option<String> {
    const MORE: &str = "the words after the first";
    let typed: Vec<OsString> = std::env::args_os().collect();
    let name = ["generate", "sweep", "explain", "trace"]
        .into_iter()
        .find(|name| typed.get(1).is_some_and(|word| word == name))?;
    let more = Arg::new(MORE).num_args(1..).action(ArgAction::Append);
    let mut all = super::command().mut_subcommand(name, |command| command.arg(more));
    all.build();
    let matches = all.clone().try_get_matches_from(typed).ok()?;
    let (name, matches) = matches.subcommand()?;
    let command = all.find_subcommand(name)?;
    let first =
        ["prompt", "subject", "caption"].into_iter().find(|id| matches.try_contains_id(id).is_ok_and(|there| there))?;
    let words = [first, MORE].into_iter().filter_map(|id| matches.get_raw(id)).flatten();
    let prompt = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    let plain = !prompt.contains(['"', '$', '`', '\\', '!']);
    let prompt = if plain { format!("\"{prompt}\"") } else { quoted(&prompt) };
    let words = ["attnmap".to_owned(), name.to_owned()].into_iter().chain(paths(command, matches)).chain([prompt]);
    Some(words.chain(options(command, matches, &[])).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_look_like_something_else_are_bound_to_their_option() {
        for (value, expected) in [
            ("3", "--x 3"),
            ("-1", "--x=-1"),
            ("", "--x="),
            ("a b", "--x 'a b'"),
            ("-it's", "'--x=-it'\\''s'"),
            ("two\nlines", "--x 'two\nlines'"),
        ] {
            assert_eq!(option_word("--x", OsStr::new(value)), expected);
        }
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            assert_eq!(quoted_os(OsStr::from_bytes(b"a'\xff.png")), "$'a\\x27\\xff.png'");
        }
    }
}
