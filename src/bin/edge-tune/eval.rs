use std::fmt::Write;
use std::path::{Path, PathBuf};

use edge_tune::Error;
use edge_tune::data::Dataset;
use edge_tune::runtime::{Model, Task};
use edge_tune::train::{Evaluation, evaluate, examples};
use serde_json::json;

use crate::locate::{BackboneArg, DeltaArg};
use crate::output::{Output, usage};
use crate::plots;
use crate::progress::{self, Progress};

/// Measure a delta on labelled data.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    backbone: BackboneArg,
    #[command(flatten)]
    delta: DeltaArg,
    /// CSV with the columns text (or path), label and optionally split; or a folder or zip of
    /// LABEL/FILE or SPLIT/LABEL/FILE.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Split to use, if the file has splits.
    #[arg(long, default_value = "test", value_name = "NAME")]
    split: String,
    /// Use the 0-based rows listed under KEY in a JSON file.
    #[arg(long, value_name = "FILE:KEY", conflicts_with = "split")]
    rows: Option<String>,
    /// Write the confusion matrix as a picture.
    #[arg(long, value_name = "FILE.svg", value_parser = plots::file)]
    plot: Option<PathBuf>,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    progress::catch_interrupts()?;
    let model = args.backbone.open(out)?;
    let (task, generation) = args.delta.load(&model, out)?;
    let data = match &args.rows {
        Some(listed) => {
            let data = Dataset::open(&args.data).map_err(Error::from)?;
            let rows = rows_of(&data, listed)?;
            (data, rows)
        }
        None => read(&args.data, &args.split)?,
    };
    let result = measure(&model, &task, &data, out)?;
    if let Some(path) = &args.plot {
        plots::write(path, &plots::confusion(&task.metadata().task, &result))?;
    }
    let mut value = serde_json::to_value(&result)?;
    if let Some(map) = value.as_object_mut() {
        map.insert("task".into(), json!(task.metadata().task));
        map.insert("method".into(), json!(task.metadata().method));
        map.insert("generation".into(), json!(generation));
        let split = args.rows.is_none().then_some(&args.split);
        map.insert("split".into(), json!(split));
    }
    out.print(&value, text(&result))
}

/// The rows that `FILE.json:KEY` lists.
pub fn rows_of(data: &Dataset, listed: &str) -> anyhow::Result<Vec<usize>> {
    let parts = listed.rsplit_once(':').filter(|(f, k)| !f.is_empty() && !k.is_empty());
    let (file, key) = parts.ok_or_else(|| {
        usage(format!("--rows {listed}: expected FILE.json:KEY, such as rows.json:k16_s0"))
    })?;
    Ok(data.rows_from_json(file, key).map_err(Error::from)?)
}

/// One split of a file: its rows, by their numbers.
pub fn read(path: &Path, split: &str) -> anyhow::Result<(Dataset, Vec<usize>)> {
    let data = Dataset::open(path).map_err(Error::from)?;
    let rows = data.split(split).map_err(Error::from)?;
    Ok((data, rows))
}

/// Evaluates `task` on rows of a file.
pub fn measure(
    model: &Model,
    task: &Task,
    (data, rows): &(Dataset, Vec<usize>),
    out: &Output,
) -> anyhow::Result<Evaluation> {
    let labels = &task.metadata().labels;
    let examples = examples(model, data, rows, labels, task.limit())?;
    let total = examples.len() as u64;
    let mut bar = Progress::new("evaluating", total, out.quiet);
    let result = evaluate(model, task, &examples, |done| {
        bar.set(done as u64, total, String::new);
        !progress::interrupted()
    });
    bar.finish();
    Ok(result?)
}

fn text(e: &Evaluation) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "accuracy {:.4}, macro F1 {:.4}, {} rows, {:.1} s",
        e.accuracy, e.macro_f1, e.n, e.seconds
    );
    let width = e.labels.iter().map(|l| l.chars().count()).max().unwrap_or(0).max(5);
    let _ = writeln!(
        text,
        "\n{:<width$}  {:>6} {:>8} {:>9} {:>6}",
        "class", "rows", "accuracy", "precision", "F1"
    );
    for label in &e.labels {
        let c = &e.per_class[label];
        let _ = writeln!(
            text,
            "{label:<width$}  {:>6} {:>8.4} {:>9.4} {:>6.4}",
            c.n, c.accuracy, c.precision, c.f1
        );
    }
    text
}
