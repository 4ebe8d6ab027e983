//! `attnmap serve`: a local page that keeps the checkpoint warm.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use attnmap::files::check_place;
use attnmap::pipeline::LoadOptions;
use attnmap::run::parse_size;
use attnmap::serve::Server;
use clap::Args;
use serde_json::json;

use super::checkpoint::ModelArgs;
use super::inert;
use super::newest::OUTPUTS;
use super::open;
use super::print::{self, Terminal};

/// Try prompts on a local page that keeps the checkpoint in memory, and see what each change does
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// Size of the largest image to come, WIDTHxHEIGHT, which memory is planned for [default: the
    /// checkpoint's own]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    size: Option<[usize; 2]>,

    /// The folder of the runs: new ones are made there, and those that are there are shown
    /// [default: outputs]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,

    /// The port to listen at; 0 is any that is free
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,

    /// The address of this machine to listen at; 0.0.0.0 lets other machines in
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,

    /// Open the page in the browser
    #[arg(long)]
    open: bool,

    /// Print the page's address as JSON
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
The page's address is printed on stdout. It has a token: who knows it can make runs, so give it to nobody else.
Every run is an ordinary folder in outputs/, as `generate` makes it, with its command line; nothing is
overwritten. Ctrl-C ends the server.

On the page: Ctrl+Enter runs the prompt, Ctrl+Up and Ctrl+Down change the weight of the word at the cursor.
Outside of the fields: p pins the run that others are compared with, [ and ] choose a step, the arrows left and
right walk through the history.

Examples:
  attnmap serve --open
  attnmap serve --model ./model.safetensors --lora ./style.safetensors:0.8 --out tries
  attnmap serve --port 8123 --dtype bf16";

/// Runs the command.
pub fn run(args: &ServeArgs, terminal: &Terminal) -> anyhow::Result<()> {
    inert::at_once(&terminal.given, None).iter().for_each(print::warn);
    let out = args.out.clone().unwrap_or_else(|| Path::new(OUTPUTS).to_path_buf());
    if out.exists() && !out.is_dir() {
        let reason = format!("{} is no folder; give the folder of the runs", out.display());
        return Err(attnmap::Error::input("--out", reason).into());
    }
    check_place(&out.join("run"))?;
    let server = Server::bind(args.host, args.port)?;
    if !server.is_local() {
        print::warn(format!(
            "--host {} lets other machines in: whoever has the address can make runs here, and nothing is encrypted",
            args.host
        ));
    }
    let choice = args.model.choice()?;
    let pipeline = args.model.load(args.size, terminal)?;
    let load = LoadOptions { size: None, ..choice.load.clone() };
    let checkpoint = choice.open(None)?;
    let url = server.url();
    match args.json {
        true => print::json(&json!({"url": url, "out": out.display().to_string()}))?,
        false => print::stdout(format!("{url}\n").as_bytes())?,
    }
    print::note("the page is at this address until Ctrl-C");
    if args.open {
        open::address(&url);
    }
    server.serve(pipeline, checkpoint, load, out)?;
    Ok(())
}
