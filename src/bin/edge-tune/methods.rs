use std::fmt::Write;

use edge_tune::Error;
use edge_tune::backbone::Manifest;
use edge_tune::methods::{self, COMMON_SETTINGS, Settings};
use serde_json::{Value, json};

use crate::locate::BackboneArg;
use crate::output::Output;
use crate::values::{pair, size};

/// List every tuning method: its parameters and bytes on a backbone, and its settings.
#[derive(clap::Args)]
pub struct Args {
    /// One method, with its settings.
    method: Option<String>,
    #[command(flatten)]
    backbone: BackboneArg,
    /// Number of classes to count for.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    classes: u32,
    /// Settings to count with, for one method.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = pair, requires = "method")]
    set: Vec<(String, String)>,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let manifest = Manifest::read(&args.backbone.dir()?).map_err(Error::from)?;
    let classes = args.classes as usize;
    let list = match &args.method {
        Some(name) => vec![methods::find(name).map_err(Error::from)?],
        None => methods::all().to_vec(),
    };
    let mut rows = Vec::new();
    let mut text = String::new();
    if args.method.is_none() {
        let _ = writeln!(text, "{:<15} {:>11} {:>10}  what", "method", "parameters", "delta");
    }
    for method in list {
        let set = args.set.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let settings = Settings::resolve(method, set).map_err(Error::from)?;
        let plan = method.plan(&manifest, classes, &settings);
        let parameters = match &plan {
            Ok(plan) => Some(plan.parameters()),
            // In the list, a method that this backbone cannot have is only marked.
            Err(_) if args.method.is_none() => None,
            Err(e) => return Err(Error::from(e.clone()).into()),
        };
        let own = COMMON_SETTINGS.iter().chain(method.settings());
        let h = method.hyperparameters();
        rows.push(json!({
            "method": method.name(),
            "summary": method.summary(),
            "parameters": parameters,
            "bytes": parameters.map(|p| 2 * p),
            "available": parameters.is_some(),
            "epochs": h.epochs,
            "learning_rate": h.learning_rate,
            "weight_decay": h.weight_decay,
            "settings": own.clone().map(|s| json!({
                "name": s.name, "default": s.default, "help": s.help,
            })).collect::<Vec<Value>>(),
        }));
        let bytes = parameters.map_or("-".into(), |p| size(2 * p as u64));
        let count = parameters.map_or("-".into(), |p| p.to_string());
        if args.method.is_none() {
            let _ = writeln!(
                text,
                "{:<15} {count:>11} {bytes:>10}  {}",
                method.name(),
                method.summary()
            );
            continue;
        }
        let _ = writeln!(text, "{}: {}", method.name(), method.summary());
        let _ = writeln!(
            text,
            "{count} parameters, {bytes} in f16 with {classes} classes on {}",
            manifest.name
        );
        let _ = writeln!(
            text,
            "learning rate {}, weight decay {}, {} epochs unless set otherwise\n\nsettings (--set NAME=VALUE):",
            h.learning_rate, h.weight_decay, h.epochs
        );
        for s in own {
            let _ = writeln!(text, "  {:<12} {:<14} {}", s.name, s.default, s.help);
        }
    }
    if args.method.is_none() {
        let _ = writeln!(
            text,
            "\nwith {classes} classes on {}, heads included; `edge-tune methods NAME` shows the settings",
            manifest.name
        );
    }
    out.print(&rows, text)
}
