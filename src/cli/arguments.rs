//! The library's arguments as a user types them: the options and positional arguments that clap
//! has.

use std::collections::BTreeMap;

use attnmap::argument;

/// Has every message name arguments as `command` takes them, `steps` as `--steps` and `run` as
/// `RUN`.
pub fn spell(command: &clap::Command) {
    let typed = typed(command);
    argument::spell_with(move |name| typed.get(name).cloned());
}

/// What is typed for an argument, by its name in the library. An option is preferred to a
/// positional argument of another command.
fn typed(command: &clap::Command) -> BTreeMap<String, String> {
    let commands = || std::iter::once(command).chain(command.get_subcommands());
    let positional = commands().flat_map(|command| command.get_positionals().filter_map(|arg| arg.get_value_names()));
    let positional = positional.flatten().map(|name| (name.to_ascii_lowercase(), name.to_string()));
    let options = commands().flat_map(|command| command.get_arguments().filter_map(|arg| arg.get_long()));
    let options = options.map(|long| (long.replace('-', "_"), format!("--{long}")));
    positional.chain(options).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_of_the_library_can_be_typed() {
        let typed = typed(&crate::cli::command());
        // Options of `serve`, which may be left out of a build.
        let left_out = |name: &str| !cfg!(feature = "serve") && ["host", "port"].contains(&name);
        for argument in argument::ALL.iter().filter(|argument| !left_out(argument.name())) {
            let known = typed.get(argument.name());
            assert!(known.is_some(), "no option and no positional argument is {argument}");
        }
        for (name, as_typed) in [("keep_queries", "--keep-queries"), ("run", "RUN"), ("prompt", "--prompt")] {
            assert_eq!(typed[name], as_typed);
        }
    }
}
