use std::fmt::Write;

use edge_tune::Error;
use edge_tune::backbone::Backbone;
use edge_tune::explain;
use edge_tune::store::{Finding, Severity, check};
use serde_json::json;

use crate::locate::{BackboneArg, StoreArg};
use crate::output::{Output, Told};

const NO_BACKBONE: &str = "check.no-backbone";

/// Check backbone, engine and store, and say what to do about what is wrong.
///
/// Every file of the backbone and every installed delta is read and compared with its digest.
/// Nothing is changed. Exit status: 0 nothing is broken, 1 something is.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    backbone: BackboneArg,
    #[command(flatten)]
    store: StoreArg,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let mut findings = Vec::new();
    let mut broken = |error: Error| {
        let (code, message) = (error.code(), error.to_string());
        findings.push(Finding { severity: Severity::Broken, code, message });
    };
    let version = env!("CARGO_PKG_VERSION");
    let engine = match out.engine.engine(None) {
        Ok(engine) => Some(engine.name()),
        Err(e) => match e.downcast::<Error>() {
            Ok(e) => {
                broken(e);
                None
            }
            Err(e) => return Err(e),
        },
    };
    let dir = args.backbone.dir();
    let digest = dir.as_ref().ok().and_then(|dir| {
        let whole = Backbone::load(dir).and_then(|b| b.verify().map(|()| b.digest().to_owned()));
        whole.map_err(|e| broken(e.into())).ok()
    });
    if let Err(e) = &dir {
        let (severity, message) = (Severity::Warning, e.to_string());
        findings.push(Finding { severity, code: NO_BACKBONE, message });
    }
    let store = args.store.dir()?;
    findings.extend(check(&store, &digest.as_deref().into_iter().collect::<Vec<_>>()));
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));

    let worst = findings.iter().map(|f| f.severity).max();
    let mut text = String::new();
    let dir = dir.ok();
    let shown = dir.as_ref().map_or("-".into(), |d| d.display().to_string());
    let _ = writeln!(text, "edge-tune  {version}");
    let _ = writeln!(text, "engine     {}", engine.unwrap_or("-"));
    let _ = writeln!(text, "backbone   {shown}  {}", digest.as_deref().unwrap_or("-"));
    let _ = writeln!(text, "store      {}", store.display());
    for f in &findings {
        let severity = format!("{:?}", f.severity).to_lowercase();
        let _ = writeln!(text, "{severity:<8} {}  {}", f.code, f.message);
        if let Some(remedy) = remedy(f.code) {
            let _ = writeln!(text, "         do: {remedy}");
        }
    }
    let listed: Vec<_> = findings
        .iter()
        .map(|f| {
            json!({ "severity": f.severity, "code": f.code, "message": f.message, "remedy": remedy(f.code) })
        })
        .collect();
    let good = worst != Some(Severity::Broken);
    let _ = write!(text, "{}", if good { "nothing is broken" } else { "something is broken" });
    let value = json!({
        "version": version,
        "engine": engine,
        "backbone": dir,
        "digest": digest,
        "store": store,
        "broken": !good,
        "findings": listed,
    });
    out.print(&value, text)?;
    match good {
        true => Ok(()),
        false => Err(Told.into()),
    }
}

/// What the page of errors says is to be done.
fn remedy(code: &str) -> Option<&'static str> {
    let (_, text) = explain::section(code)?.split_once("\nDo: ")?;
    Some(text)
}
