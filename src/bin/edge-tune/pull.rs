use std::path::PathBuf;

use edge_tune::Error;
use edge_tune::delta::Delta;
use edge_tune::fetch::{Offer, Options, Outcome, Pull};
use edge_tune::store::Admission;
use serde_json::{Value, json};

use crate::apply::{TrialArg, standing};
use crate::locate::{BackboneArg, StoreArg};
use crate::network::NetworkArgs;
use crate::output::Output;
use crate::progress::Progress;
use crate::values::{bytes, size};

/// Fetch published deltas and install them.
///
/// The publisher's index must be signed by keys that the store trusts, must not be older than one
/// seen before and must not have expired. A delta that was downloaded passes the same checks as
/// with `apply`. An interrupted download goes on where it was.
#[derive(clap::Args)]
pub struct Args {
    /// Address below which the publisher's index.json lies, https://... or, with feature `oci`,
    /// oci://HOST/REPOSITORY:TAG; more are mirrors of it.
    #[arg(value_name = "URL", required = true)]
    sources: Vec<String>,
    #[command(flatten)]
    backbone: BackboneArg,
    #[command(flatten)]
    store: StoreArg,
    /// Task to install; the tasks that are installed already by default. May be repeated.
    #[arg(long = "task", value_name = "NAME", conflicts_with = "all")]
    tasks: Vec<String>,
    /// Install every task that is published for this backbone.
    #[arg(long)]
    all: bool,
    /// Root file of the publisher, when the store trusts none yet.
    #[arg(long, value_name = "FILE", conflicts_with = "unsigned")]
    trust: Option<PathBuf>,
    /// Accept an index without signatures.
    #[arg(long)]
    unsigned: bool,
    /// Most bytes to download a second, such as 64K.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    limit_rate: Option<usize>,
    /// The network is metered: download at most this much for a task, 256K if no size is given.
    #[arg(long, value_name = "SIZE", value_parser = bytes, num_args = 0..=1,
          default_missing_value = "256K", require_equals = true)]
    metered: Option<usize>,
    #[command(flatten)]
    trial: TrialArg,
    /// Download and check, and leave it to `activate` to make it the active one.
    #[arg(long, conflicts_with = "trial")]
    stage: bool,
    /// Install a delta too whose trial failed here before.
    #[arg(long)]
    failed_too: bool,
    #[command(flatten)]
    network: NetworkArgs,
    /// How often to try each mirror.
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..100))]
    attempts: u32,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let model = args.backbone.open(out)?;
    let (store, dir) = (args.store.open()?, args.store.dir()?);
    let network = args.network.open()?;
    let mut options = Options::new(args.sources);
    options.trust = args.trust;
    options.unsigned = args.unsigned;
    options.allow_http = args.network.allow_http;
    options.admission = if args.stage { Admission::Staged } else { args.trial.admission() };
    options.failed_too = args.failed_too;
    options.limit_rate = args.limit_rate.map(|n| n as u64);
    options.metered = args.metered.map(|n| n as u64);
    options.retry.attempts = args.attempts;
    options.grace = args.network.timeout;
    let pull = Pull::open(&store, &dir, &network, options).map_err(Error::from)?;
    let index = pull.index().map_err(Error::from)?;
    if args.unsigned {
        out.note("warning: nobody vouches for what is installed: --unsigned");
    }
    let backbone = model.backbone().digest();
    let offers = match args.all {
        true => index.offers(backbone).collect(),
        false => pull.choose(&index, backbone, &args.tasks)?,
    };
    let check = |delta: &Delta| -> Result<(), Error> {
        let loaded = model.load(delta)?;
        model.self_test(&loaded)
    };
    let (mut tasks, mut text, mut failed) = (Vec::new(), Vec::new(), None);
    for offer in offers {
        let mut bar = Progress::new("pull", offer.bytes, out.quiet);
        let mut tell = |done, total| bar.set(done, total, || offer.task.clone());
        let result = pull.update(offer, check, &mut tell);
        bar.finish();
        match result {
            Ok(outcome) => {
                let (value, line) = describe(offer, &outcome, out);
                tasks.push(value);
                text.push(line);
            }
            // One task that does not pass must not keep the others from being updated.
            Err(e) => {
                out.note(format!("task {}: {e}", offer.task));
                failed.get_or_insert(e);
            }
        }
    }
    if let Some(e) = failed {
        return Err(e.into());
    }
    if text.is_empty() {
        text.push("nothing is published for this backbone".into());
    }
    let value = json!({ "index_version": index.version, "expires": index.expires, "tasks": tasks,
        "store": dir });
    out.print(&value, text.join("\n"))
}

fn describe(offer: &Offer, outcome: &Outcome, out: &Output) -> (Value, String) {
    let task = &offer.task;
    match outcome {
        Outcome::Current(entry) => (
            json!({ "task": task, "generation": entry.generation, "digest": entry.digest,
                "updated": false }),
            format!("task {task}: generation {} is up to date", entry.generation),
        ),
        Outcome::Staged(entry) => (
            json!({ "task": task, "generation": entry.generation, "digest": entry.digest,
                "updated": false, "state": entry.state }),
            format!("task {task}: generation {} is staged already", entry.generation),
        ),
        Outcome::Failed(entry) => (
            json!({ "task": task, "generation": entry.generation, "digest": entry.digest,
                "updated": false, "state": entry.state }),
            format!(
                "task {task}: the published delta failed its trial as generation {}; --failed-too \
                 installs it again",
                entry.generation
            ),
        ),
        Outcome::Installed { entry, patched, downloaded, patch_failed } => {
            if let Some(reason) = patch_failed {
                out.note(format!("task {task}: fetched in full, the patch did not do: {reason}"));
            }
            let how = if *patched { "by a patch" } else { "in full" };
            (
                json!({ "task": task, "generation": entry.generation, "digest": entry.digest,
                    "updated": true, "state": entry.state, "patched": patched, "bytes": entry.bytes,
                    "downloaded": downloaded, "patch_failed": patch_failed }),
                format!(
                    "task {task}: generation {} is {} ({}, {}; {} downloaded, {how})",
                    entry.generation,
                    standing(entry),
                    entry.method,
                    size(entry.bytes),
                    size(*downloaded)
                ),
            )
        }
    }
}
