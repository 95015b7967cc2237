use std::io::{self, BufRead};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use edge_tune::Error;
use edge_tune::data::read_file;
use edge_tune::graph::sites::Modality;
use edge_tune::runtime::{Follower, Model, Prediction, Task};
use serde::Serialize;

use crate::limits::LimitArgs;
use crate::locate::{BackboneArg, DeltaArg, catch_up};
use crate::output::{Output, line};

/// Classify inputs with a delta from a file or with an installed task.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  edge-tune predict --delta intents.safetensors \"dim the lights\"
  edge-tune predict --task intents --json \"dim the lights\" \"what's on my list\"
  cat texts.txt | edge-tune predict --task intents -
  edge-tune predict --all-tasks \"dim the lights\"
  edge-tune predict --backbone models/vit-tiny --task pets cat.jpg dog.png")]
pub struct Args {
    /// Texts to classify, or files for a backbone over pictures or sounds; `-` reads one per line
    /// from stdin, and each line is answered by what is active then.
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<String>,
    #[command(flatten)]
    backbone: BackboneArg,
    #[command(flatten)]
    delta: DeltaArg,
    /// Answer with every installed task of the backbone, which runs once for all of them.
    #[arg(long, conflicts_with_all = ["delta", "task"])]
    all_tasks: bool,
    /// How many labels to print for each text.
    #[arg(long, default_value_t = 1, value_name = "N")]
    top: usize,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Serialize)]
struct Answer {
    input: String,
    label: String,
    scores: serde_json::Map<String, serde_json::Value>,
    task: String,
    generation: u64,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let model = args.backbone.open(out)?.with_budget(args.limits.budget());
    let store;
    let mut serving = match (args.all_tasks, args.delta.file(&model)?) {
        (true, _) => Serving::Fixed(args.delta.load_all(&model, out)?),
        (false, Some(task)) => Serving::Fixed(vec![(task, 0)]),
        (false, None) => {
            store = args.delta.open_store()?;
            Serving::Following(Box::new(args.delta.follow(&model, &store)?))
        }
    };
    let text = model.backbone().sites().modality == Modality::Text;
    let mut answers = Vec::new();
    let mut answer = |input: String| -> anyhow::Result<()> {
        let tasks = serving.now(out)?;
        for (p, (task, _)) in predictions(&model, &tasks, &input, text)?.into_iter().zip(&tasks) {
            let named = task.metadata().labels.iter().zip(&p.scores);
            if out.json {
                let scores = named.map(|(label, s)| (label.clone(), (*s).into())).collect();
                let (input, generation) = (input.clone(), p.generation);
                answers.push(Answer { input, label: p.label, scores, task: p.task, generation });
                continue;
            }
            let mut ranked: Vec<_> = named.collect();
            ranked.sort_by(|a, b| b.1.total_cmp(a.1));
            let top = ranked.iter().take(args.top.max(1));
            let top: Vec<String> = top.map(|(label, s)| format!("{label} {s:.3}")).collect();
            match args.all_tasks {
                true => line(format_args!("{}\t{}\t{input}", p.task, top.join(", ")))?,
                false => line(format_args!("{}\t{input}", top.join(", ")))?,
            }
        }
        Ok(())
    };
    for input in args.inputs {
        if input != "-" {
            answer(input)?;
            continue;
        }
        for text in io::stdin().lock().lines() {
            let text = text.context("stdin is not UTF-8 text")?;
            if !text.trim().is_empty() {
                answer(text)?;
            }
        }
    }
    match out.json {
        true => line(serde_json::json!({ "predictions": answers })),
        false => Ok(()),
    }
}

/// The tasks that answer, and their generations.
enum Serving<'a> {
    Fixed(Vec<(Arc<Task>, u64)>),
    /// What another process installs while this one reads stdin answers the next line.
    Following(Box<Follower<'a>>),
}

impl Serving<'_> {
    fn now(&mut self, out: &Output) -> anyhow::Result<Vec<(Arc<Task>, u64)>> {
        match self {
            Serving::Fixed(tasks) => Ok(tasks.clone()),
            Serving::Following(follower) => Ok(vec![catch_up(follower, out)?]),
        }
    }
}

/// What every task says, in their order, to an input: a text, or the path of a file.
fn predictions(
    model: &Model,
    tasks: &[(Arc<Task>, u64)],
    input: &str,
    text: bool,
) -> anyhow::Result<Vec<Prediction>> {
    let tasks: Vec<(&Task, u64)> = tasks.iter().map(|(task, g)| (&**task, *g)).collect();
    if text {
        return Ok(model.predict_with_all(&tasks, input)?);
    }
    let path = Path::new(input);
    let bytes = read_file(path).map_err(Error::from)?;
    Ok(model.classify_with_all(&tasks, &model.sample_of_file(&bytes, path)?)?)
}
