//! `attnmap completions`: a completion script for a shell, on stdout.

use clap::Args;
use clap_complete::Shell;

/// Print a completion script for your shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  attnmap completions bash > ~/.local/share/bash-completion/completions/attnmap")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Writes the script.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "attnmap", &mut script);
    super::print::stdout(&script)
}
