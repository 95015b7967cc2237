use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use edge_tune::Error;
use edge_tune::data::Dataset;
use edge_tune::methods::{self, Method, MethodError, Settings};
use edge_tune::train::{Comparison, Event, Observer, Runs, Table, TrainError};
use serde_json::{Value, json};

use crate::eval;
use crate::locate::BackboneArg;
use crate::output::{Output, usage};
use crate::plots;
use crate::progress::{self, Progress};
use crate::values::{duration, pair};

/// Compare tuning methods on one few-shot problem: accuracy, size, time and memory.
///
/// Every method is trained with every seed, and measured on the test rows. A finished run is kept
/// in DIR/runs.jsonl at once: after Ctrl-C or a power cut the same command goes on, and more
/// methods or seeds can be added later. DIR/table.txt, .json and .csv hold all runs of the
/// directory, DIR/plot.svg shows accuracy against the size of the delta.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  edge-tune compare --data trec.csv --out compared
  edge-tune compare --data trec.csv --methods linear,lora,prefix-tuning --set lora.rank=8 \\
      --shots 8 --seeds 5 --out compared")]
pub struct Args {
    #[command(flatten)]
    backbone: BackboneArg,
    /// Directory of the results; it is made if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Methods, separated by commas; all that the backbone can have by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    methods: Vec<String>,
    /// Setting of one of the methods.
    #[arg(long = "set", value_name = "METHOD.NAME=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,

    /// CSV with the columns text (or path), label and optionally split; or a folder or zip of
    /// LABEL/FILE or SPLIT/LABEL/FILE.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    data: PathBuf,
    /// Split to draw from, if the file has splits.
    #[arg(long, default_value = "train", value_name = "NAME", help_heading = "Data")]
    split: String,
    /// File to measure on; a split of --data by default.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    eval: Option<PathBuf>,
    /// Split to measure on, if that file has splits.
    #[arg(long, default_value = "test", value_name = "NAME", help_heading = "Data")]
    eval_split: String,
    /// Draw this many rows of every class.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Data")]
    shots: u32,
    /// Share of the drawn rows of every class that is held out to choose the best state by.
    #[arg(long, default_value_t = 0.2, value_name = "SHARE", help_heading = "Data")]
    validation: f64,

    /// How many seeds, or which, as in 0,1,2 (`7,` is seed 7 alone).
    #[arg(long, default_value = "3", value_name = "N|LIST", value_parser = seeds, help_heading = "Training")]
    seeds: Seeds,
    /// Passes over the rows; each method's own by default.
    #[arg(long, value_name = "N", help_heading = "Training")]
    epochs: Option<usize>,
    /// Time limit for the training of one run, such as 60s: steps are cut to fit.
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Training")]
    max_time: Option<Duration>,
}

#[derive(Clone)]
struct Seeds(Vec<u64>);

/// Most seeds.
const MOST_SEEDS: u64 = 1000;

fn seeds(text: &str) -> Result<Seeds, String> {
    let wrong = || format!("expected a number of seeds up to {MOST_SEEDS}, or a list as in 0,1,2");
    let number = |t: &str| t.trim().parse::<u64>().map_err(|_| wrong());
    let mut list = match text.strip_suffix(',').unwrap_or(text) {
        one if one == text && !text.contains(',') => match number(one)? {
            n if (1..=MOST_SEEDS).contains(&n) => (0..n).collect(),
            _ => return Err(wrong()),
        },
        list => list.split(',').map(number).collect::<Result<Vec<u64>, _>>()?,
    };
    list.sort_unstable();
    list.dedup();
    Ok(Seeds(list))
}

/// A method with its settings.
type Chosen = (&'static dyn Method, Settings);

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    progress::catch_interrupts()?;
    let chosen = chosen(&args)?;
    if args.out.exists() && !args.out.is_dir() {
        return Err(usage(format!("--out: {} is not a directory", args.out.display())));
    }
    let data = Dataset::open(&args.data).map_err(Error::from)?;
    let rows = data.split(&args.split).map_err(Error::from)?;
    let (test, test_rows) = match &args.eval {
        Some(path) => eval::read(path, &args.eval_split)?,
        None if data.rows.iter().all(|r| r.split.is_none()) => {
            return Err(usage(format!(
                "{} has no splits: name a file to measure on with --eval",
                args.data.display()
            )));
        }
        None if args.split == args.eval_split => {
            return Err(usage("--eval-split is what is trained on; choose another"));
        }
        None => (data.clone(), data.split(&args.eval_split).map_err(Error::from)?),
    };
    let model = args.backbone.open(out)?;
    let (data, test) = ((&data, rows.as_slice()), (&test, test_rows.as_slice()));
    let comparison = Comparison::new(&model, data, test, args.shots as usize, args.validation)?;
    let comparison = comparison.limited(args.epochs, args.max_time);
    let (chosen, skipped) = possible(&args, &comparison, chosen)?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create {}", args.out.display()))?;
    let mut runs = Runs::open(&args.out.join("runs.jsonl")).map_err(Error::from)?;
    runs.check(comparison.terms(), &chosen).map_err(Error::from)?;
    for (method, reason) in &skipped {
        out.note(format_args!("{method}: skipped, {reason}"));
    }
    let failed = all_runs(&args, &comparison, &chosen, &mut runs, out)?;
    let table = Table::of(runs.trials());
    let name = &model.backbone().manifest().name;
    report(&args, name, &comparison, &table, (&skipped, &failed), out)?;
    match failed.first() {
        None => Ok(()),
        Some((method, seed, reason)) => anyhow::bail!(
            "{} of the runs failed; the first is {method} with seed {seed}: {reason}",
            failed.len()
        ),
    }
}

/// Method and reason.
type Skipped = (&'static str, String);

/// The methods asked for, with their settings.
fn chosen(args: &Args) -> anyhow::Result<Vec<Chosen>> {
    let mut list: Vec<&dyn Method> = vec![];
    for name in &args.methods {
        let method = methods::find(name.trim()).map_err(Error::from)?;
        if !list.iter().any(|m| m.name() == method.name()) {
            list.push(method);
        }
    }
    if list.is_empty() {
        list = methods::all().to_vec();
    }
    let mut set: Vec<(&str, &str, &str)> = vec![];
    for (key, value) in &args.set {
        let (method, name) = key.split_once('.').unwrap_or(("", key));
        if !list.iter().any(|m| m.name() == method) {
            let known: Vec<&str> = list.iter().map(|m| m.name()).collect();
            return Err(usage(format!(
                "--set {key}={value}: expected METHOD.NAME=VALUE with one of the methods {}",
                known.join(", ")
            )));
        }
        set.push((method, name, value));
    }
    let with_settings = |method: &'static dyn Method| {
        let own = set.iter().filter(|s| s.0 == method.name()).map(|s| (s.1, s.2));
        Ok((method, Settings::resolve(method, own).map_err(Error::from)?))
    };
    list.into_iter().map(with_settings).collect()
}

/// Leaves out what the backbone cannot have; says why.
fn possible(
    args: &Args,
    comparison: &Comparison<'_>,
    chosen: Vec<Chosen>,
) -> anyhow::Result<(Vec<Chosen>, Vec<Skipped>)> {
    let (mut can, mut skipped) = (vec![], vec![]);
    for (method, settings) in chosen {
        let set = args.set.iter().any(|s| s.0.split('.').next() == Some(method.name()));
        match comparison.check(method, &settings) {
            Ok(()) => can.push((method, settings)),
            // A value that was asked for is wrong use, not a lack of the backbone.
            Err(e @ MethodError::Setting { .. }) if set => return Err(Error::from(e).into()),
            Err(e) => skipped.push((method.name(), e.to_string())),
        }
    }
    Ok((can, skipped))
}

/// Method, seed and reason.
type Failed = (&'static str, u64, String);

/// Makes the runs that are missing. Some may fail; an interrupt ends them all.
fn all_runs(
    args: &Args,
    comparison: &Comparison<'_>,
    chosen: &[Chosen],
    runs: &mut Runs,
    out: &Output,
) -> anyhow::Result<Vec<Failed>> {
    let all: Vec<(&Chosen, u64)> =
        chosen.iter().flat_map(|c| args.seeds.0.iter().map(move |s| (c, *s))).collect();
    let missing = |runs: &Runs| all.iter().filter(|(c, s)| !runs.has(c.0.name(), *s)).count();
    match all.len() - missing(runs) {
        0 => {}
        n => out.note(format_args!("{n} of {} runs are finished already", all.len())),
    }
    let mut failed = vec![];
    for (n, ((method, settings), seed)) in all.iter().enumerate() {
        let name = method.name();
        if runs.has(name, *seed) {
            continue;
        }
        let mut watch = Watch { bar: Progress::new(name, 1, out.quiet) };
        let result = comparison.run(*method, settings, *seed, &mut watch);
        watch.bar.finish();
        let place = format!("[{}/{}] {name}, seed {seed}", n + 1, all.len());
        match result {
            Ok(trial) => {
                runs.add(&trial).map_err(Error::from)?;
                out.note(format_args!(
                    "{place}: accuracy {:.1} %, {:.1} s",
                    100.0 * trial.accuracy,
                    trial.seconds
                ));
            }
            Err(e @ Error::Train(TrainError::Interrupted { .. })) => {
                let left = missing(runs);
                return Err(anyhow::Error::from(e).context(format!(
                    "{left} of {} runs are left; the same command goes on with them",
                    all.len()
                )));
            }
            Err(e @ (Error::Train(TrainError::Setting { .. }) | Error::Data(_))) => {
                return Err(e.into());
            }
            Err(e) => {
                out.note(format_args!("{place}: failed, {e}"));
                failed.push((name, *seed, e.to_string()));
            }
        }
    }
    Ok(failed)
}

/// Writes the tables and the picture, and prints.
fn report(
    args: &Args,
    backbone: &str,
    comparison: &Comparison<'_>,
    table: &Table,
    (skipped, failed): (&[Skipped], &[Failed]),
    out: &Output,
) -> anyhow::Result<()> {
    let terms = comparison.terms();
    let skips = skipped.iter().map(|(m, reason)| json!({ "method": m, "reason": reason }));
    let fails = failed.iter().map(|(m, s, r)| json!({ "method": m, "seed": s, "reason": r }));
    let value = json!({
        "backbone": backbone,
        "options": terms,
        "methods": table,
        "skipped": skips.collect::<Vec<Value>>(),
        "failed": fails.collect::<Vec<Value>>(),
        "out": args.out,
    });
    let mut text = table.text();
    let with = |list: &mut dyn Iterator<Item = String>| list.map(|l| l + "\n").collect::<String>();
    text += &with(&mut skipped.iter().map(|(m, reason)| format!("{m}: skipped, {reason}")));
    text += &with(&mut failed.iter().map(|(m, s, r)| format!("{m}, seed {s}: failed, {r}")));
    let data = args.data.file_stem().map(|s| s.to_string_lossy()).unwrap_or_default();
    let title = format!("{data}, {} shots per class, {backbone}", terms.shots);
    save(&args.out, "table.txt", &text)?;
    save(&args.out, "table.json", &format!("{}\n", serde_json::to_string_pretty(&value)?))?;
    save(&args.out, "table.csv", &table.csv())?;
    save(&args.out, "plot.svg", &table.svg(&title))?;
    out.print(&value, text)
}

fn save(dir: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    plots::write(&dir.join(name), text)
}

/// Shows how far a run is.
struct Watch {
    bar: Progress,
}

impl Observer for Watch {
    fn event(&mut self, event: Event) {
        match event {
            Event::Caching { done, total } => {
                self.bar.set(done as u64, total as u64, || "features".into());
            }
            Event::Step { step, steps, loss } => {
                self.bar.set(step, steps, || format!("loss {loss:.4}"));
            }
            _ => {}
        }
    }

    fn stop(&self) -> bool {
        progress::interrupted()
    }
}

#[cfg(test)]
mod tests {
    use super::seeds;

    #[test]
    fn a_number_of_seeds_or_a_list() {
        let of = |text: &str| seeds(text).map(|s| s.0).ok();
        assert_eq!(of("3"), Some(vec![0, 1, 2]));
        assert_eq!(of("4,1, 4"), Some(vec![1, 4]));
        assert_eq!(of("7,"), Some(vec![7]));
        assert!(["", "0", ",", "a", "1,b", "-1", "1001", "1,,2"].iter().all(|t| of(t).is_none()));
    }
}
