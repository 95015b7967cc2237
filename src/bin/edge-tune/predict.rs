use std::io::{self, BufRead};

use anyhow::Context;
use edge_tune::Error;
use edge_tune::data::read_file;
use edge_tune::graph::sites::Modality;
use serde::Serialize;

use crate::locate::{BackboneArg, DeltaArg};
use crate::output::{Output, line};

/// Classify inputs with a delta from a file or with an installed task.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  edge-tune predict --delta intents.safetensors \"dim the lights\"
  edge-tune predict --task intents --json \"dim the lights\" \"what's on my list\"
  cat texts.txt | edge-tune predict --task intents -
  edge-tune predict --backbone models/vit-tiny --task pets cat.jpg dog.png")]
pub struct Args {
    /// Texts to classify, or files for a backbone over pictures or sounds; `-` reads one per line
    /// from stdin.
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<String>,
    #[command(flatten)]
    backbone: BackboneArg,
    #[command(flatten)]
    delta: DeltaArg,
    /// How many labels to print for each text.
    #[arg(long, default_value_t = 1, value_name = "N")]
    top: usize,
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
    let model = args.backbone.open(out)?;
    let (task, generation) = args.delta.load(&model)?;
    let text = model.backbone().sites().modality == Modality::Text;
    let mut answers = Vec::new();
    let mut answer = |input: String| -> anyhow::Result<()> {
        let p = match text {
            true => model.predict_with(&task, generation, &input)?,
            false => {
                let path = std::path::Path::new(&input);
                let bytes = read_file(path).map_err(Error::from)?;
                model.classify(&task, generation, &model.sample_of_file(&bytes, path)?)?
            }
        };
        let named = task.metadata().labels.iter().zip(&p.scores);
        if !out.json {
            let mut ranked: Vec<_> = named.collect();
            ranked.sort_by(|a, b| b.1.total_cmp(a.1));
            let top = ranked.iter().take(args.top.max(1));
            let top: Vec<String> = top.map(|(label, s)| format!("{label} {s:.3}")).collect();
            return line(format_args!("{}\t{input}", top.join(", ")));
        }
        let scores = named.map(|(label, s)| (label.clone(), (*s).into())).collect();
        answers.push(Answer { input, label: p.label, scores, task: p.task, generation });
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
