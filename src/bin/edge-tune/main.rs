//! The edge-tune command line: one file per subcommand.

mod activate;
mod apply;
mod calibrate;
mod compare;
mod completions;
mod confirm;
mod diff;
mod doctor;
mod engine;
mod eval;
mod explain;
mod forget;
mod gc;
#[cfg(feature = "pull")]
mod index;
mod inspect;
mod limits;
mod lineage;
mod list;
mod locate;
mod memory;
mod methods;
#[cfg(feature = "pull")]
mod network;
mod output;
#[cfg(feature = "pull")]
mod patch;
mod plots;
mod predict;
mod prepare;
mod progress;
#[cfg(feature = "pull")]
mod pull;
#[cfg(feature = "oci")]
mod push;
mod remove;
mod rollback;
mod undo;
mod values;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::Output;

/// One frozen backbone, many tiny deltas: prepare, train, install and run them on the device.
///
/// Results go to stdout, progress and messages to stderr. Exit status: 0 done, 1 failed,
/// 2 wrong use, 130 interrupted.
#[derive(Parser)]
#[command(name = "edge-tune", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object on stdout.
    #[arg(long, global = true, help_heading = "General options")]
    json: bool,
    /// Print no progress.
    #[arg(long, short, global = true, help_heading = "General options")]
    quiet: bool,
    #[command(flatten)]
    engine: engine::EngineArg,
}

#[derive(Subcommand)]
enum Command {
    Prepare(prepare::Args),
    Inspect(inspect::Args),
    Methods(methods::Args),
    Calibrate(Box<calibrate::Args>),
    Apply(apply::Args),
    Predict(predict::Args),
    Eval(eval::Args),
    Compare(compare::Args),
    #[cfg(feature = "pull")]
    Pull(Box<pull::Args>),
    #[cfg(feature = "oci")]
    Push(push::Args),
    #[cfg(feature = "pull")]
    Index(index::Args),
    #[cfg(feature = "pull")]
    Patch(patch::Args),
    List(list::Args),
    Activate(activate::Args),
    Confirm(confirm::Args),
    Rollback(rollback::Args),
    Undo(undo::Args),
    Forget(forget::Args),
    Lineage(lineage::Args),
    Diff(diff::Args),
    Remove(remove::Args),
    Gc(gc::Args),
    Doctor(doctor::Args),
    Explain(explain::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    memory::keep_apart();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return output::wrong_use(&e),
    };
    let out = Output { json: cli.json, quiet: cli.quiet, engine: cli.engine };
    let result = match cli.command {
        Command::Prepare(args) => prepare::run(args, &out),
        Command::Inspect(args) => inspect::run(args, &out),
        Command::Methods(args) => methods::run(args, &out),
        Command::Calibrate(args) => calibrate::run(*args, &out),
        Command::Apply(args) => apply::run(args, &out),
        Command::Predict(args) => predict::run(args, &out),
        Command::Eval(args) => eval::run(args, &out),
        Command::Compare(args) => compare::run(args, &out),
        #[cfg(feature = "pull")]
        Command::Pull(args) => pull::run(*args, &out),
        #[cfg(feature = "oci")]
        Command::Push(args) => push::run(args, &out),
        #[cfg(feature = "pull")]
        Command::Index(args) => index::run(args, &out),
        #[cfg(feature = "pull")]
        Command::Patch(args) => patch::run(args, &out),
        Command::List(args) => list::run(args, &out),
        Command::Rollback(args) => rollback::run(args, &out),
        Command::Activate(args) => activate::run(args, &out),
        Command::Confirm(args) => confirm::run(args, &out),
        Command::Undo(args) => undo::run(args, &out),
        Command::Forget(args) => forget::run(args, &out),
        Command::Lineage(args) => lineage::run(args, &out),
        Command::Diff(args) => diff::run(args, &out),
        Command::Remove(args) => remove::run(args, &out),
        Command::Gc(args) => gc::run(args, &out),
        Command::Doctor(args) => doctor::run(args, &out),
        Command::Explain(args) => explain::run(args, &out),
        Command::Completions(args) => completions::run(args, &out),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => out.fail(&e),
    }
}
