//! Parse, dispatch, exit code; nothing else.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(cli) => cli::exit_code(cli.run()),
        Err(code) => code,
    }
}
