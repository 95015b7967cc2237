//! The edge-tune command line: one file per subcommand.

mod apply;
mod calibrate;
mod compare;
mod completions;
mod doctor;
mod engine;
mod eval;
mod explain;
mod inspect;
mod limits;
mod list;
mod locate;
mod memory;
mod methods;
mod output;
mod plots;
mod predict;
mod prepare;
mod progress;
mod remove;
mod rollback;
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
    List(list::Args),
    Rollback(rollback::Args),
    Remove(remove::Args),
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
        Command::List(args) => list::run(args, &out),
        Command::Rollback(args) => rollback::run(args, &out),
        Command::Remove(args) => remove::run(args, &out),
        Command::Doctor(args) => doctor::run(args, &out),
        Command::Explain(args) => explain::run(args, &out),
        Command::Completions(args) => completions::run(args, &out),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => out.fail(&e),
    }
}
