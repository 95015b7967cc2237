use clap::CommandFactory;

use crate::output::{Output, line};

/// Print a shell completion script.
///
/// For example: edge-tune completions bash > ~/.local/share/bash-completion/completions/edge-tune
#[derive(clap::Args)]
pub struct Args {
    shell: clap_complete::Shell,
}

pub fn run(args: Args, _: &Output) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "edge-tune", &mut script);
    line(String::from_utf8_lossy(&script))
}
