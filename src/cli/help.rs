//! How help is laid out: examples first, notes as paragraphs that are broken once, a short page
//! with `-h` and a whole one with `--help`.

use clap::Command;

/// Examples on the short page.
const MOST_EXAMPLES: usize = 4;

/// `command` with what its author wrote after the options laid out: the first examples with `-h`,
/// all of it with `--help`.
pub fn laid_out(command: Command) -> Command {
    let Some(after) = command.get_after_help().map(ToString::to_string) else { return command };
    let (examples, notes): (Vec<&str>, Vec<&str>) = after.split("\n\n").partition(|part| part.starts_with("Example"));
    let whole: Vec<String> =
        notes.iter().map(|note| reflowed(note)).chain(examples.iter().map(|&e| e.to_owned())).collect();
    let few: Vec<String> = examples.iter().map(|part| shortened(part)).collect();
    command.after_help(few.join("\n\n")).after_long_help(whole.join("\n\n"))
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
