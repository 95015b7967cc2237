use std::path::PathBuf;

use edge_tune::Error;
use edge_tune::delta::Delta;
use edge_tune::store::{Admission, Budget, Entry, Source, State};
use serde_json::json;

use crate::limits::LimitArgs;
use crate::locate::{BackboneArg, StoreArg};
use crate::output::Output;
use crate::values::{bytes, size};

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
    /// Signature of the file by minisign; the file is refused if it is not by --key.
    #[cfg(feature = "pull")]
    #[arg(long, value_name = "FILE", requires = "key")]
    signature: Option<PathBuf>,
    /// Public key of minisign: its line of text, or a .pub file.
    #[cfg(feature = "pull")]
    #[arg(long, value_name = "KEY", requires = "signature")]
    key: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Refuse to keep more bytes of deltas, those for a rollback included.
    #[arg(long, value_parser = bytes, value_name = "SIZE", help_heading = "Limits")]
    max_store: Option<usize>,
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
    let limits = args.limits.budget();
    // What is over a limit is not even read.
    let (metadata, bytes) = Delta::read_header(&args.delta).map_err(Error::from)?;
    let name = args.delta.display().to_string();
    limits.check(&metadata, bytes, &name).map_err(Error::from)?;
    let model = args.backbone.open(out)?.with_budget(limits);
    let store = args.store.open()?.with_budget(Budget {
        max_tasks: args.limits.max_tasks,
        max_bytes: args.max_store.map(|n| n as u64),
    });
    let mut task = String::new();
    let mut tests = 0;
    let check = |delta: &Delta| -> Result<(), Error> {
        let loaded = model.load(delta)?;
        model.self_test(&loaded)?;
        task = args.task.clone().unwrap_or_else(|| delta.metadata().task.clone());
        tests = delta.metadata().self_test.len();
        Ok(())
    };
    let admission = if args.stage { Admission::Staged } else { args.trial.admission() };
    #[cfg(feature = "pull")]
    let bytes = args.signed_bytes()?;
    #[cfg(not(feature = "pull"))]
    let bytes: Option<Vec<u8>> = None;
    let source = bytes.as_ref().map_or(Source::from(&args.delta), Source::from);
    let entry = store.admit(source, args.task.as_deref(), admission, check);
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

#[cfg(feature = "pull")]
impl Args {
    /// The bytes of the delta, where a signature was asked for and is right.
    fn signed_bytes(&self) -> anyhow::Result<Option<Vec<u8>>> {
        use edge_tune::fetch::{Key, MAX_SIGNATURE_BYTES, publish::read, verify};
        let (Some(signature), Some(key)) = (&self.signature, &self.key) else { return Ok(None) };
        let key = match std::path::Path::new(key).is_file() {
            true => {
                let bytes = read(key.as_ref(), MAX_SIGNATURE_BYTES).map_err(Error::from)?;
                Key::parse(&String::from_utf8_lossy(&bytes), key)
            }
            false => Key::parse(key, "--key"),
        };
        let key = key.map_err(Error::from)?;
        // Read once: what was verified is what gets installed.
        let bytes = read(&self.delta, edge_tune::delta::MAX_FILE_BYTES).map_err(Error::from)?;
        let signature = read(signature, MAX_SIGNATURE_BYTES).map_err(Error::from)?;
        let name = self.delta.display().to_string();
        verify(&key, &bytes, &signature, &name).map_err(Error::from)?;
        Ok(Some(bytes))
    }
}
