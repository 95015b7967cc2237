use std::path::PathBuf;

use edge_tune::Error;
use edge_tune::store::{Admission, Entry, State};
use serde_json::json;

use crate::locate::{BackboneArg, StoreArg};
use crate::output::Output;
use crate::values::size;

/// Install a delta and make it the active one of its task.
///
/// The file is copied into the store, checked against the backbone, and must pass the self-test it
/// carries on this device. If anything is wrong, the delta that was active stays so.
#[derive(clap::Args)]
pub struct Args {
    /// Delta file.
    delta: PathBuf,
    #[command(flatten)]
    backbone: BackboneArg,
    #[command(flatten)]
    store: StoreArg,
    /// Task to install it for; the name in the delta by default.
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    #[command(flatten)]
    trial: TrialArg,
    /// Store and check it, and leave it to `activate` to make it the active one.
    #[arg(long, conflicts_with = "trial")]
    stage: bool,
}

/// Whether a delta is on trial first.
#[derive(clap::Args)]
pub struct TrialArg {
    /// Go back by itself to the delta before, unless `confirm` is called within N runs (3 by
    /// default) or if a run crashes while it comes up.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "3",
          value_parser = clap::value_parser!(u32).range(1..))]
    trial: Option<u32>,
}

impl TrialArg {
    pub fn admission(&self) -> Admission {
        self.trial.map_or(Admission::Confirmed, Admission::Trial)
    }
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let model = args.backbone.open(out)?;
    let store = args.store.open()?;
    let mut task = String::new();
    let mut tests = 0;
    let check = |delta: &edge_tune::delta::Delta| -> Result<(), Error> {
        let loaded = model.load(delta)?;
        model.self_test(&loaded)?;
        task = args.task.clone().unwrap_or_else(|| delta.metadata().task.clone());
        tests = delta.metadata().self_test.len();
        Ok(())
    };
    let admission = if args.stage { Admission::Staged } else { args.trial.admission() };
    let entry = store.admit(&args.delta, args.task.as_deref(), admission, check);
    let entry = entry.map_err(Error::from)?;
    let value = json!({
        "task": task,
        "generation": entry.generation,
        "digest": entry.digest,
        "method": entry.method,
        "bytes": entry.bytes,
        "self_tests": tests,
        "state": entry.state,
        "store": args.store.dir()?,
    });
    let text = format!(
        "task {task}: generation {} is {} ({}, {}, {tests} self-tests passed)",
        entry.generation,
        standing(&entry),
        entry.method,
        size(entry.bytes)
    );
    out.print(&value, text)
}

/// How an entry that was just changed stands, in words.
pub fn standing(entry: &Entry) -> String {
    match entry.state {
        State::Confirmed => "active".into(),
        State::Trial { left, .. } => format!("active on trial for {left} runs"),
        State::Staged => "staged".into(),
        State::Failed => "failed".into(),
    }
}
