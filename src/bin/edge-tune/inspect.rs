use std::fmt::Write;
use std::path::PathBuf;

use edge_tune::Error;
use edge_tune::backbone::{Backbone, Manifest};
use edge_tune::delta::Delta;
use edge_tune::graph::sites::Modality;
use serde_json::{Value, json};

use crate::output::Output;
use crate::values::size;

/// Show a backbone directory (sites, sizes, digest) or what a delta file holds.
#[derive(clap::Args)]
pub struct Args {
    /// Backbone directory or delta file.
    path: PathBuf,
    /// Also read every file of a backbone and compare its SHA-256 with the manifest.
    #[arg(long)]
    verify: bool,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    if !args.path.is_dir() {
        let delta = Delta::read(&args.path).map_err(Error::from)?;
        let summary = delta.summary();
        return out.print(&summary, &summary);
    }
    let backbone = Backbone::load(&args.path).map_err(Error::from)?;
    let mut text = backbone_text(backbone.manifest());
    if args.verify {
        backbone.verify().map_err(Error::from)?;
        text.push_str("\nverified    every file has its recorded SHA-256");
    }
    out.print(&backbone_json(backbone.manifest()), text)
}

/// The manifest with the sums that people ask for.
pub fn backbone_json(m: &Manifest) -> Value {
    let mut value = serde_json::to_value(m).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        let s = &m.sites;
        map.insert("bytes".into(), m.bytes().into());
        map.insert("layers".into(), s.layers.len().into());
        map.insert("width".into(), s.width.into());
        map.insert("heads".into(), s.heads.into());
        let modality = serde_json::to_value(s.modality).unwrap_or_default();
        map.insert("modality".into(), modality);
        let positions = s.positions.as_ref().map(|p| json!({ "learned": p.rows }));
        map.insert("position_mode".into(), positions.unwrap_or_else(|| "none".into()));
    }
    value
}

pub fn backbone_text(m: &Manifest) -> String {
    let s = &m.sites;
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<11} {value}");
    };
    row("name", m.name.clone());
    let kind = match s.modality {
        Modality::Text => "text",
        Modality::Image => "pictures",
        Modality::Audio => "sounds",
    };
    row(
        "family",
        format!("{} ({kind}, {}-norm)", m.family, if s.pre_norm { "pre" } else { "post" }),
    );
    let feature = format!("{:?} of the last hidden state", m.pooling).to_lowercase();
    match &s.cnn {
        Some(cnn) => {
            row("size", format!("{} blocks, feature of {}", cnn.blocks.len(), s.width));
            row("feature", format!("{:?}", m.pooling).to_lowercase());
            row("sites", format!("{} convolutions", cnn.convs.len()));
        }
        None => {
            row("size", format!("{} layers, width {}, {} heads", s.layers.len(), s.width, s.heads));
            row("input", format!("at most {} tokens", m.max_length));
            row(
                "positions",
                match &s.positions {
                    Some(p) => format!("learned, table of {} rows", p.rows),
                    None => "no table over tokens".into(),
                },
            );
            row("feature", feature);
            row(
                "sites",
                format!(
                    "{} attentions, {} linear layers, {} normalisations, tokens after row {}",
                    s.layers.len(),
                    s.linears.len(),
                    s.norms.len(),
                    s.tokens.after
                ),
            );
        }
    }
    let r = &m.report;
    row("weights", format!("{}, {} matrices and tables quantized", m.weights, r.quantized));
    if let Some(compute) = m.compute {
        row("compute", format!("in {compute}, unless --compute says otherwise"));
    }
    row(
        "measured",
        format!(
            "cosine {:.6} to the export, largest difference {:.2e}",
            r.cosine, r.max_difference
        ),
    );
    row("mask", format!("{:?}", r.mask).to_lowercase());
    row("licence", m.licence.clone().unwrap_or_else(|| "not given".into()));
    if let Some(source) = &m.source {
        row("source", source.clone());
    }
    row("digest", m.digest.clone());
    for f in &m.files {
        row(&format!("  {}", f.name), size(f.bytes));
    }
    text.truncate(text.trim_end().len());
    text
}
