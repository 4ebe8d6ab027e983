//! The command line: one file per subcommand; turns flags into plain option structs, prints, shows
//! progress.

mod again;
mod animate;
mod arguments;
mod ask;
mod attribute;
mod captions;
mod check;
mod checkpoint;
mod compare;
mod completions;
mod components;
mod display;
mod eval;
mod expect;
mod explain;
mod facts;
mod gallery;
mod gallery_progress;
mod generate;
mod help;
mod inert;
mod init;
mod lens;
mod lists;
mod models;
mod newest;
mod open;
mod output;
mod print;
mod probe;
mod progress;
mod prompt;
mod regions;
mod report;
mod sampling;
mod seed;
mod self_attention;
#[cfg(feature = "serve")]
mod serve;
mod signals;
mod sweep;
mod trace;
mod view;
mod why;

use std::io::Write;
use std::process::ExitCode;

use attnmap::{Error, one_line};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// See where a Stable Diffusion model looked for every word of a prompt.
///
/// Attention describes what a head looked at; it does not explain why the model decided.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, max_term_width = 100, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Threads to use [default: as many as the process may use]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,

    /// No progress on stderr; warnings and errors stay
    #[arg(long, short, global = true)]
    quiet: bool,

    /// What was typed, for what is said of options that do nothing.
    #[arg(skip)]
    given: inert::TypedArguments,
}

const EXAMPLES: &str = "\
Examples:
  attnmap generate \"a red apple to the left of a blue heart on the beach\"
  attnmap view --words heart --style contour
  attnmap models

The default checkpoint is a small demonstration model with a small world of its own. Give a real
one with --model, a folder or a hub name: --model stable-diffusion-v1-5/stable-diffusion-v1-5";

#[derive(Debug, Subcommand)]
enum Command {
    Generate(Box<generate::GenerateArgs>),
    Trace(Box<trace::TraceArgs>),
    View(view::ViewArgs),
    Models(models::ModelsArgs),
    Report(report::ReportArgs),
    Check(check::CheckArgs),
    Compare(compare::CompareArgs),
    Animate(animate::AnimateArgs),
    Explain(Box<explain::ExplainArgs>),
    Why(Box<why::WhyArgs>),
    Facts(Box<facts::FactsArgs>),
    Ask(Box<ask::AskArgs>),
    Probe(Box<probe::ProbeCommandArgs>),
    #[command(alias = "ties")]
    SelfAttention(self_attention::SelfAttentionArgs),
    Attribute(Box<attribute::AttributeArgs>),
    Components(components::ComponentsArgs),
    Lens(Box<lens::LensArgs>),
    Sweep(Box<sweep::SweepArgs>),
    Eval(eval::EvalArgs),
    Gallery(Box<gallery::GalleryArgs>),
    #[cfg(feature = "serve")]
    Serve(Box<serve::ServeArgs>),
    Completions(completions::CompletionsArgs),
}

impl Cli {
    /// Runs the chosen subcommand.
    pub fn run(self) -> anyhow::Result<()> {
        attnmap::kernels::threads::init(self.threads.map(usize::from))?;
        // Half-made files are removed by the handler itself: the working thread may be deep in a
        // step of many seconds.
        signals::on_end(|| {
            let said = signals::last_words();
            attnmap::files::abandon(|| {
                let usual = "interrupted; runs that were not finished are not kept";
                print::complain(said.as_deref().unwrap_or(usual));
                std::process::exit(130)
            })
        })?;
        print::set_quiet(self.quiet);
        seed::tell();
        let terminal = print::Terminal { quiet: self.quiet, given: self.given };
        match self.command {
            Command::Generate(args) => generate::run(&args, &terminal),
            Command::Trace(args) if args.is_many() => captions::run(&args, &terminal),
            Command::Trace(args) => trace::run(&args, &terminal),
            Command::View(args) => view::run(&args, &terminal),
            Command::Models(args) => models::run(&args, &terminal),
            Command::Report(args) => report::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Compare(args) => compare::run(&args),
            Command::Animate(args) => animate::run(&args, &terminal),
            Command::Explain(args) => explain::run(&args, &terminal),
            Command::Why(args) => why::run(&args, &terminal),
            Command::Facts(args) => facts::run(&args, &terminal),
            Command::Ask(args) => ask::run(&args, &terminal),
            Command::Probe(args) => probe::run(&args, &terminal),
            Command::SelfAttention(args) => self_attention::run(&args, &terminal),
            Command::Attribute(args) => attribute::run(&args, &terminal),
            Command::Components(args) => components::run(&args, &terminal),
            Command::Lens(args) => lens::run(&args, &terminal),
            Command::Sweep(args) => sweep::run(&args, &terminal),
            Command::Eval(args) => eval::run(&args, &terminal),
            Command::Gallery(args) => gallery::run(&args, &terminal),
            #[cfg(feature = "serve")]
            Command::Serve(args) => serve::run(&args, &terminal),
            Command::Completions(args) => completions::run(&args),
        }
    }
}

/// The command line as clap knows it. A number with a sign is a value, so that its option says what
/// is wrong with it.
fn command() -> clap::Command {
    let signed = |arg: clap::Arg| match arg.get_action().takes_values() {
        true => arg.allow_negative_numbers(true),
        false => arg,
    };
    Cli::command().mut_args(signed).mut_subcommands(|command| help::laid_out(command.mut_args(signed)))
}

/// The command line, or the exit code after help was printed or a wrong option named in one line on
/// stderr.
pub fn parse() -> Result<Cli, ExitCode> {
    let command = command();
    arguments::spell(&command);
    let parsed = command.clone().try_get_matches().and_then(|matches| {
        Ok(Cli { given: inert::TypedArguments::new(&command, &matches), ..Cli::from_arg_matches(&matches)? })
    });
    parsed.map_err(|error| {
        use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
        if !error.use_stderr() || error.kind() == DisplayHelpOnMissingArgumentOrSubcommand {
            return match print::written(error.print().and_then(|()| std::io::stdout().flush())) {
                Ok(()) => ExitCode::from(error.exit_code() as u8),
                Err(error) => exit_code(Err(error)),
            };
        }
        if let Some(meant) = meant(&error) {
            print::complain(&meant);
            return ExitCode::from(2);
        }
        let message = error.render().to_string();
        let told = message.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
        // A mistyped option is no value, whatever clap thinks of it.
        let told = told.filter(|line| !(line.contains("tip: to pass") && line.contains("as a value")));
        let told = one_line(&told.collect::<Vec<_>>().join(" "));
        print::complain(&format!(
            "{} (see --help)",
            plainly(&named_once(told.strip_prefix("error: ").unwrap_or(&told)))
        ));
        ExitCode::from(2)
    })
}

/// The words of Rust's parsers in a user's words.
fn plainly(message: &str) -> String {
    const WORDS: [(&str, &str); 4] = [
        ("invalid digit found in string", "write a whole number"),
        ("cannot parse integer from empty string", "write a whole number"),
        ("number too large to fit in target type", "the number is too large"),
        ("invalid float literal", "write a number"),
    ];
    WORDS.iter().fold(message.to_owned(), |message, (theirs, ours)| message.replace(theirs, ours))
}

/// What was meant by a prompt without quotes or without a command, or by a value that its option
/// does not take. The option takes none, or takes one with `=` alone.
fn meant(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let is_nothing = |value: &ContextValue| matches!(value, ContextValue::String(text) if text.is_empty());
    match (error.kind(), error.get(ContextKind::InvalidSubcommand), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(text)), _) if text.contains(' ') => {
            Some(format!("to make an image of it: attnmap generate {}", attnmap::run::quoted(text)))
        }
        (ErrorKind::InvalidValue, _, Some(_)) if error.get(ContextKind::InvalidValue).is_none_or(is_nothing) => {
            again::text_with_a_dash()
        }
        (ErrorKind::UnknownArgument, _, Some(ContextValue::String(word)))
            if word.starts_with('-') && !word.starts_with("--") =>
        {
            again::text_with_a_dash()
        }
        (ErrorKind::UnknownArgument, _, Some(ContextValue::String(word))) if !word.starts_with('-') => {
            let quotes = || Some(format!("put the prompt in quotes: {}", again::with_quotes()?));
            again::value_of_a_switch(word).or_else(quotes)
        }
        _ => None,
    }
}

/// A message of clap's around one of ours, both of which name the option: `invalid value 'x' for
/// '--spacing <NAME>': --spacing: there is ...`.
fn named_once(message: &str) -> String {
    let (before, ours) = message.split_once("': ").unwrap_or((message, ""));
    match ours.split_once(": ") {
        Some((option, reason)) if option.starts_with("--") && !option.contains(' ') => format!("{before}': {reason}"),
        _ => message.to_owned(),
    }
}

/// Prints an error as one line on stderr and maps it to the exit code. That is 2 for usage, 3 for
/// what was expected and is not so, 130 for Ctrl-C, 1 for the rest.
pub fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // A cause that the message above it already tells is not told again.
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message += &format!(": {cause}");
        }
    }
    print::complain(&one_line(&message));
    if error.is::<expect::Unmet>() {
        return ExitCode::from(expect::Unmet::CODE);
    }
    let code = error.chain().find_map(|cause| cause.downcast_ref::<Error>()).map_or(1, Error::exit_code);
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::named_once;

    #[test]
    fn an_option_is_named_once() {
        let told = "invalid value 'x' for '--spacing <NAME>': --spacing: there is no spacing \"x\"";
        assert_eq!(named_once(told), "invalid value 'x' for '--spacing <NAME>': there is no spacing \"x\"");
        for other in
            ["unexpected argument '--sed' found", "invalid value 'a: b' for '--steps <N>': invalid digit: a: b"]
        {
            assert_eq!(named_once(other), other);
        }
    }
}
