use edge_tune::explain;
use serde_json::json;

use crate::output::{Output, usage};

/// Explain an error code: what it means, its likely cause, what to do.
#[derive(clap::Args)]
pub struct Args {
    /// The code that an error came with, such as delta.wrong-digest; all codes are listed without one.
    #[arg(value_name = "CODE")]
    code: Option<String>,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let Some(code) = args.code else {
        let codes: Vec<&str> = explain::codes().collect();
        return out.print(&json!({ "codes": codes }), codes.join("\n"));
    };
    match explain::section(&code) {
        Some(text) => {
            out.print(&json!({ "code": code, "text": text }), format_args!("{code}\n\n{text}"))
        }
        None => Err(usage(format!(
            "no error has the code {code:?}; near it: {}",
            explain::near(&code).join(", ")
        ))),
    }
}
