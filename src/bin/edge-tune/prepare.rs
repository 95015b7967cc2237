use std::path::PathBuf;

use clap::ValueEnum;
use edge_tune::Error;
use edge_tune::backbone::{Pooling, Prepare, Weights, prepare};
use edge_tune::graph::canonical::MaskReport;

use crate::inspect;
use crate::output::Output;

/// Make a backbone directory from a torch.onnx export.
///
/// Finds every place where a delta can attach, stores the weights as int8 or int4, and compares the
/// result with the export. A wrong padding mask of the legacy exporter is repaired or refused.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  edge-tune prepare export/model.onnx --tokenizer export/tokenizer.json --out my-backbone"
)]
pub struct Args {
    /// The export; external data must lie beside it.
    model: PathBuf,
    /// Directory to write; must be absent or empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// tokenizer.json of a text model.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// preprocessor_config.json of a picture model; values in -1..1 by default.
    #[arg(long, value_name = "FILE")]
    preprocess: Option<PathBuf>,
    /// ONNX graph from sound, 16 kHz f32 [batch, samples], to the features of a speech model.
    #[arg(long, value_name = "FILE")]
    frontend: Option<PathBuf>,
    /// Height and width of pictures where the model leaves them free; 224 by default.
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// How linear and embedding weights are stored; with int4, embeddings are int8.
    #[arg(long, value_enum, default_value = "int8")]
    weights: WeightsArg,
    /// How the feature is taken: the mean of the rows, the class row, or the model's own output.
    #[arg(long, value_enum)]
    pooling: Option<PoolingArg>,
    /// Longest input in tokens; what the model's positions allow by default.
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// A name for people; the export's folder by default.
    #[arg(long)]
    name: Option<String>,
    /// SPDX expression of the weights' licence, such as Apache-2.0.
    #[arg(long, value_name = "SPDX")]
    licence: Option<String>,
    /// Where the weights come from.
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum WeightsArg {
    Int8,
    Int4,
    F32,
}

#[derive(Clone, Copy, ValueEnum)]
enum PoolingArg {
    Cls,
    Mean,
    Output,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let options = Prepare {
        tokenizer: args.tokenizer,
        weights: match args.weights {
            WeightsArg::Int8 => Weights::Int8,
            WeightsArg::Int4 => Weights::Int4,
            WeightsArg::F32 => Weights::F32,
        },
        compute: out.engine.compute(),
        pooling: args.pooling.map(|p| match p {
            PoolingArg::Cls => Pooling::Cls,
            PoolingArg::Mean => Pooling::Mean,
            PoolingArg::Output => Pooling::Output,
        }),
        preprocess: args.preprocess,
        frontend: args.frontend,
        image_size: args.image_size,
        max_length: args.max_length,
        name: args.name,
        licence: args.licence,
        source: args.source,
        ..Prepare::new(args.model, &args.out)
    };
    let manifest =
        prepare(&options, &*out.engine.engine(None)?, |step| out.note(format_args!("{step} ...")))
            .map_err(Error::from)?;
    if manifest.report.mask == MaskReport::Repaired {
        out.note("repaired: the export ignored its padding mask (a defect of the legacy exporter)");
    }
    let text = format!("{}\nwritten to {}", inspect::backbone_text(&manifest), args.out.display());
    out.print(&inspect::backbone_json(&manifest), text)
}
