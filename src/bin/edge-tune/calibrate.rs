use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use edge_tune::Error;
use edge_tune::data::{Augment, Dataset};
use edge_tune::delta::Delta;
use edge_tune::methods::{self, Settings};
use edge_tune::runtime::InputLimit;
use edge_tune::train::{
    Budget, Evaluation, Event, Observer, OptimizerKind, Options, Report, Task, calibrate, examples,
};
use serde_json::{Value, json};

use crate::eval;
use crate::locate::BackboneArg;
use crate::output::{Output, usage};
use crate::plots::{self, Curves};
use crate::progress::{self, Progress};
use crate::values::{augment, bytes, duration, pair, size};

/// Train a delta on labelled examples, on this device.
///
/// Without --validation 0, a part of every class is held out: the state that does best on it is
/// kept, the untrained head included, and training stops early when it no longer gets better.
/// Ctrl-C leaves a checkpoint beside the output; the same command goes on from it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  edge-tune calibrate --method lora --data intents.csv --out intents.safetensors
  edge-tune calibrate --method prefix-tuning --set rows=10 --data trec.csv --shots 16 --seed 1 \\
      --eval trec.csv --max-ram 200M --max-time 2m --out trec.safetensors")]
pub struct Args {
    #[command(flatten)]
    backbone: BackboneArg,
    /// Tuning method; see `edge-tune methods`.
    #[arg(long, required_unless_present = "from", conflicts_with = "from")]
    method: Option<String>,
    /// Setting of the method.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = pair, conflicts_with = "from")]
    set: Vec<(String, String)>,
    /// Go on from this delta with more rows; new classes come behind those that it has.
    #[arg(long, value_name = "DELTA")]
    from: Option<PathBuf>,
    /// Delta file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Name of the task; that of the output file by default.
    #[arg(long, value_name = "NAME")]
    task: Option<String>,

    /// CSV with the columns text (or path), label and optionally split; or a folder or zip of
    /// LABEL/FILE or SPLIT/LABEL/FILE.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    data: PathBuf,
    /// Split to train on, if the file has splits.
    #[arg(long, default_value = "train", value_name = "NAME", help_heading = "Data")]
    split: String,
    /// Draw this many rows of every class.
    #[arg(long, value_name = "N", help_heading = "Data", conflicts_with = "rows")]
    shots: Option<usize>,
    /// Use the 0-based rows listed under KEY in a JSON file.
    #[arg(long, value_name = "FILE:KEY", help_heading = "Data")]
    rows: Option<String>,
    /// Share of the rows of every class that is held out.
    #[arg(long, default_value_t = 0.2, value_name = "SHARE", help_heading = "Data")]
    validation: f64,
    /// Measure the delta on the test split of this file afterwards.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    eval: Option<PathBuf>,
    /// Split of --eval.
    #[arg(long, default_value = "test", value_name = "NAME", help_heading = "Data")]
    eval_split: String,
    /// Write loss and validation accuracy over the steps as a picture.
    #[arg(long, value_name = "FILE.svg", value_parser = plots::file, help_heading = "Data")]
    plot: Option<PathBuf>,

    /// Seed of row draws, initial values and the order of rows.
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    seed: u64,
    /// Passes over the rows; the method's own by default.
    #[arg(long, value_name = "N", help_heading = "Training")]
    epochs: Option<usize>,
    /// Rows per step.
    #[arg(long, default_value_t = 16, value_name = "N", help_heading = "Training")]
    batch: usize,
    /// Peak learning rate; the method's own by default.
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    lr: Option<f64>,
    /// Weight decay of matrices; the method's own by default.
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    weight_decay: Option<f64>,
    /// Share of the steps in which the learning rate rises; it falls on a cosine afterwards.
    #[arg(long, default_value_t = 0.1, value_name = "SHARE", help_heading = "Training")]
    warmup: f64,
    /// Optimizer.
    #[arg(long, value_enum, default_value = "adamw", help_heading = "Training")]
    optimizer: OptimizerArg,
    /// Largest norm of all gradients together.
    #[arg(long, default_value_t = 1.0, value_name = "NORM", help_heading = "Training")]
    clip: f32,
    /// Train on random views of pictures: flip, crop or crop=AREA (a part of at least that share,
    /// 0.5 by default), shift=PIXELS; several with commas. Nothing is kept between steps then.
    #[arg(long, value_name = "LIST", value_parser = augment, help_heading = "Training")]
    augment: Option<Augment>,
    /// Let only the classes of these rows compete in the loss, so that those of --from are not
    /// unlearned; the method's own by default (true for l2p).
    #[arg(long, value_name = "BOOL", help_heading = "Training")]
    class_mask: Option<bool>,
    /// Stop after this many epochs without a better validation.
    #[arg(long, default_value_t = 10, value_name = "N", help_heading = "Training")]
    patience: usize,

    /// Most rows that go through the engine at once; a whole batch by default.
    #[arg(long, value_name = "N", help_heading = "Limits", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    micro_batch: Option<u32>,
    /// Memory limit, such as 256M: rows per pass and caching are chosen to fit, or it is refused.
    #[arg(long, value_name = "SIZE", value_parser = bytes, help_heading = "Limits")]
    max_ram: Option<usize>,
    /// Time limit for the whole command, such as 60s: steps are cut to fit.
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Limits")]
    max_time: Option<Duration>,
    /// Compute the frozen part anew in every step.
    #[arg(long, help_heading = "Limits")]
    no_cache: bool,
    /// Checkpoint of an interrupted run; OUT.checkpoint by default.
    #[arg(long, value_name = "FILE", help_heading = "Limits")]
    checkpoint: Option<PathBuf>,
    /// Start over even if there is a checkpoint.
    #[arg(long, help_heading = "Limits")]
    fresh: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OptimizerArg {
    #[value(name = "adamw")]
    AdamW,
    Sgd,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let started = Instant::now();
    progress::catch_interrupts()?;
    if let Some(dir) = args.out.parent().filter(|d| !d.as_os_str().is_empty() && !d.is_dir()) {
        return Err(usage(format!("--out: there is no directory {}", dir.display())));
    }
    if args.out.is_dir() {
        let out = args.out.display();
        return Err(usage(format!("--out: {out} is a directory; name a file in it")));
    }
    let name = match &args.task {
        Some(name) => name.clone(),
        None => task_name(&args.out),
    };
    let set = args.set.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let chosen = match &args.method {
        Some(method) => {
            let method = methods::find(method).map_err(Error::from)?;
            Some((method, Settings::resolve(method, set).map_err(Error::from)?))
        }
        None => None,
    };
    let parent = args.from.as_deref().map(Delta::read).transpose().map_err(Error::from)?;
    let data = Dataset::open(&args.data).map_err(Error::from)?;
    let (train, validation) = rows(&args, &data)?;
    // A bad file for the measurement shows before the training, not after it.
    let eval_data = args.eval.as_deref().map(|path| eval::read(path, &args.eval_split));
    let eval_data = eval_data.transpose()?;
    let model = args.backbone.open(out)?;
    let task = match (chosen, &parent) {
        (Some((method, settings)), _) => {
            Task::new(&model, method, settings, &data, &train, &validation)?.named(name)
        }
        (None, Some(parent)) => {
            let task = Task::from_parent(&model, parent, &data, &train, &validation)?;
            let own = if args.task.is_none() { task.name.clone() } else { String::new() };
            task.named(if own.is_empty() { name } else { own })
        }
        (None, None) => return Err(usage("name a method with --method")),
    };
    if let Some((data, rows)) = &eval_data {
        // Only to see that all labels are known.
        examples(&model, data, rows, &task.labels, InputLimit(1))?;
    }
    let checkpoint = args.checkpoint.clone().unwrap_or_else(|| beside(&args.out));
    if args.fresh && checkpoint.exists() {
        std::fs::remove_file(&checkpoint)
            .with_context(|| format!("cannot remove {}", checkpoint.display()))?;
    }
    let options = Options {
        epochs: args.epochs,
        batch: args.batch,
        learning_rate: args.lr,
        weight_decay: args.weight_decay,
        warmup: args.warmup,
        optimizer: match args.optimizer {
            OptimizerArg::AdamW => OptimizerKind::AdamW,
            OptimizerArg::Sgd => OptimizerKind::Sgd,
        },
        clip: args.clip,
        seed: args.seed,
        patience: args.patience,
        micro_batch: args.micro_batch.map(|n| n as usize),
        max_ram: args.max_ram,
        max_time: args.max_time.map(|t| t.saturating_sub(started.elapsed())),
        cache: !args.no_cache,
        augment: args.augment.unwrap_or_default(),
        mask_classes: args.class_mask,
        checkpoint: Some(checkpoint),
    };
    let mut watch = Watch { out, bar: None, steps: 0, validation: None, curves: Curves::default() };
    let result = calibrate(&task, &options, &mut watch);
    watch.finish();
    let (delta, report) = result?;
    delta.write(&args.out).map_err(Error::from)?;
    if let Some(path) = &args.plot {
        plots::write(path, &watch.curves.svg(format!("{} on {}", report.method, task.name)))?;
    }
    let eval = match &eval_data {
        Some(rows) => {
            let loaded = model.load(&delta)?;
            Some(eval::measure(&model, &loaded, rows, out)?)
        }
        None => None,
    };
    print(&args, &task, &report, eval.as_ref(), out)
}

/// What is trained on and what is held out.
fn rows(args: &Args, data: &Dataset) -> anyhow::Result<(Vec<usize>, Vec<usize>)> {
    let chosen = match &args.rows {
        Some(listed) => eval::rows_of(data, listed)?,
        None => {
            let all = data.split(&args.split).map_err(Error::from)?;
            match args.shots {
                Some(0) => return Err(usage("--shots 0: at least one row per class is needed")),
                Some(n) => data.shots(&all, n, args.seed).map_err(Error::from)?,
                None => all,
            }
        }
    };
    Ok(data.holdout(&chosen, args.validation, args.seed).map_err(Error::from)?)
}

/// The name of the file, less what a task name cannot have.
fn task_name(out: &Path) -> String {
    let stem = out.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = stem.chars().map(plain).take(64).collect();
    match name.trim_start_matches('.') {
        "" => "task".into(),
        name => name.into(),
    }
}

fn beside(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".checkpoint");
    name.into()
}

fn print(
    args: &Args,
    task: &Task<'_>,
    report: &Report,
    eval: Option<&Evaluation>,
    out: &Output,
) -> anyhow::Result<()> {
    let mut value = serde_json::to_value(report)?;
    if let Some(map) = value.as_object_mut() {
        map.insert("out".into(), json!(args.out));
        map.insert("task".into(), json!(task.name));
        map.insert("labels".into(), json!(task.labels));
        map.insert("train_rows".into(), json!(task.train.len()));
        map.insert("validation_rows".into(), json!(task.validation.len()));
        map.insert("eval".into(), eval.map_or(Value::Null, |e| json!(e)));
    }
    let percent = |v: Option<f64>| v.map_or("-".into(), |v| format!("{:.1} %", 100.0 * v));
    let mut text = format!(
        "{}: {}, task {}, {} parameters, {}\n{} steps in {:.1} s on {} rows",
        args.out.display(),
        report.method,
        task.name,
        report.budget.parameters,
        size(report.delta_bytes as u64),
        report.steps,
        report.seconds,
        task.train.len(),
    );
    if let Some(loss) = report.train_loss {
        text.push_str(&format!(", loss {loss:.4}"));
    }
    if report.validation_accuracy.is_some() {
        text.push_str(&format!(
            "\nvalidation accuracy {} on {} rows, {} before training",
            percent(report.validation_accuracy),
            task.validation.len(),
            percent(report.untrained_accuracy)
        ));
    }
    if report.kept_untrained {
        text.push_str("\nno trained state was better: the class-mean head was kept");
    }
    if let Some(e) = eval {
        text.push_str(&format!("\ntest accuracy {:.1} % on {} rows", 100.0 * e.accuracy, e.n));
    }
    out.print(&value, text)
}

/// Shows what a run tells.
struct Watch<'a> {
    out: &'a Output,
    bar: Option<(&'static str, Progress)>,
    steps: u64,
    validation: Option<f64>,
    curves: Curves,
}

impl Watch<'_> {
    fn bar(&mut self, what: &'static str, total: u64) -> &mut Progress {
        if self.bar.as_ref().is_none_or(|(w, _)| *w != what) {
            self.finish();
        }
        let quiet = self.out.quiet;
        &mut self.bar.get_or_insert_with(|| (what, Progress::new(what, total, quiet))).1
    }

    fn finish(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish();
        }
    }

    fn planned(&self, b: &Budget) {
        let cache = match (b.cached, b.cache_bytes) {
            (true, bytes) => format!("frozen part computed once and kept ({})", size(bytes as u64)),
            (false, _) => "frozen part computed in every step".to_owned(),
        };
        self.out.note(format_args!(
            "plan: {} parameters, {} steps, {} rows at once, {cache}, peak memory about {}",
            b.parameters,
            b.steps,
            b.workers * b.micro_batch,
            size(b.predicted_peak_bytes as u64)
        ));
    }
}

impl Observer for Watch<'_> {
    fn event(&mut self, event: Event) {
        self.curves.event(&event);
        match event {
            Event::Planned(budget) => {
                self.steps = budget.steps;
                self.planned(&budget);
            }
            Event::Resumed { step } => {
                self.finish();
                self.out.note(format_args!("going on from step {step} of an interrupted run"));
            }
            Event::Caching { done, total } => {
                self.bar("features", total as u64).set(done as u64, total as u64, String::new);
            }
            Event::Shortened { steps } => self.steps = steps,
            Event::Step { step, steps, loss } => {
                let held = self.validation;
                self.bar("training", steps).set(step, steps, || match held {
                    Some(v) => format!("loss {loss:.4}, validation {:.1} %", 100.0 * v),
                    None => format!("loss {loss:.4}"),
                });
            }
            Event::Validated(v) => self.validation = Some(v.accuracy),
        }
    }

    fn stop(&self) -> bool {
        progress::interrupted()
    }
}
