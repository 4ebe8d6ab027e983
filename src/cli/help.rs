//! How help is laid out: examples first, what is written where under one heading, notes as
//! paragraphs that are broken once. `-h` prints a short page and `--help` all of it.

use clap::{Arg, Command};

/// Examples on the short page.
const MOST_EXAMPLES: usize = 4;

/// `command` with what its author wrote after the options laid out: the first examples with `-h`,
/// all of it with `--help`.
pub fn laid_out(command: Command) -> Command {
    let has_out = command.get_arguments().any(|arg| arg.get_id() == "out");
    let command = command.mut_args(|arg| under_output(arg, has_out));
    let Some(after) = command.get_after_help().map(ToString::to_string) else { return command };
    let (examples, notes): (Vec<&str>, Vec<&str>) = after.split("\n\n").partition(|part| part.starts_with("Example"));
    let whole: Vec<String> =
        notes.iter().map(|note| reflowed(note)).chain(examples.iter().map(|&e| e.to_owned())).collect();
    let few: Vec<String> = examples.iter().map(|part| shortened(part)).collect();
    command.after_help(few.join("\n\n")).after_long_help(whole.join("\n\n"))
}

/// Has what is written, and where, under one heading of a command's help. An option that is
/// declared after a group of others would else stand under that group's heading.
fn under_output(arg: Arg, has_out: bool) -> Arg {
    let of_output = match arg.get_id().as_str() {
        "out" | "open" | "json" => true,
        "force" => has_out,
        _ => false,
    };
    // A command whose options have no headings keeps one list.
    if of_output && arg.get_help_heading().is_some() { arg.help_heading("Output") } else { arg }
}

/// A paragraph on one line, for the terminal's width to break; lines that are set in, as of a list,
/// stay lines of their own.
fn reflowed(paragraph: &str) -> String {
    let mut text = String::new();
    let mut inset = true;
    for line in paragraph.lines() {
        let now = line.starts_with(' ');
        if !text.is_empty() {
            text.push(if now || inset { '\n' } else { ' ' });
        }
        text += line;
        inset = now;
    }
    text
}

/// The first examples.
fn shortened(examples: &str) -> String {
    let more = examples.lines().count() > MOST_EXAMPLES + 1;
    let few: Vec<&str> = examples.lines().take(MOST_EXAMPLES + 1).collect();
    few.join("\n") + if more { "\n\nMore examples and notes: --help" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_lines_and_lists_stay() {
        let text = "One sentence that\nis broken here:\n  mask  this\n  drop  that\nAnd on\nit goes.";
        assert_eq!(reflowed(text), "One sentence that is broken here:\n  mask  this\n  drop  that\nAnd on it goes.");
        let examples = "Examples:\n  1\n  2\n  3\n  4\n  5";
        assert_eq!(shortened(examples), "Examples:\n  1\n  2\n  3\n  4\n\nMore examples and notes: --help");
        assert_eq!(shortened("Examples:\n  1"), "Examples:\n  1");
    }

    #[test]
    fn what_is_written_stands_under_one_heading() {
        let whole = super::super::command();
        for command in whole.get_subcommands() {
            for arg in command.get_arguments().filter(|arg| ["out", "open", "json"].contains(&arg.get_id().as_str())) {
                let heading = arg.get_help_heading().unwrap_or("Output");
                assert_eq!(heading, "Output", "{} {}", command.get_name(), arg.get_id());
            }
        }
    }

    /// Lines that `-h` takes at the width of a terminal, and the longest of all help.
    #[test]
    fn short_help_fits_a_few_screens_and_no_line_is_broken_twice() {
        let mut whole = super::super::command();
        whole.build();
        for command in whole.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let name = command.get_name().to_owned();
            let (short, long) = (command.render_help().to_string(), command.render_long_help().to_string());
            assert!(short.lines().count() < 120, "{name} -h takes {} lines", short.lines().count());
            for line in short.lines().chain(long.lines()) {
                assert!(line.chars().count() <= 100, "{name}: {line}");
            }
            let notes = long.split("\n\n").filter(|part| !part.contains("\n  ") && part.lines().count() > 2);
            for line in notes.flat_map(|part| part.lines().rev().skip(1)) {
                assert!(line.starts_with(' ') || line.chars().count() > 70, "{name}: broken twice: {line}");
            }
            let own = command.get_arguments().filter(|arg| arg.get_long().is_some() && !arg.is_hide_set()).count();
            let headed = command.get_arguments().filter(|arg| arg.get_help_heading().is_some()).count();
            assert!(own < 20 || headed * 2 > own, "{name}: {headed} of {own} options under headings");
        }
    }
}
