//! What reaches stdout and stderr, and the exit status.

use std::error::Error as StdError;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use edge_tune::Error;
use edge_tune::data::DataError;
#[cfg(feature = "pull")]
use edge_tune::fetch::FetchError;
use edge_tune::store::StoreError;
use edge_tune::train::TrainError;
use serde::Serialize;
use serde_json::json;

use crate::engine::EngineArg;

/// The general options.
pub struct Output {
    pub json: bool,
    pub quiet: bool,
    pub engine: EngineArg,
}

/// Flags or arguments that do not go together.
#[derive(Debug)]
pub struct Usage(pub String);

impl Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Usage {}

/// What went wrong is on stdout already: exit status 1.
#[derive(Debug)]
pub struct Told;

impl Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("something is broken")
    }
}

impl StdError for Told {}

/// An error of wrong use: exit status 2.
pub fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

impl Output {
    /// Prints `value` as JSON, or `text`, with a line break at the end.
    pub fn print(&self, value: &impl Serialize, text: impl Display) -> anyhow::Result<()> {
        match self.json {
            true => line(serde_json::to_string(value)?),
            false => line(text),
        }
    }

    /// A message on stderr.
    pub fn note(&self, text: impl Display) {
        if !self.quiet {
            // Nothing can be done about a closed stderr.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Reports the error; with `--json` also on stdout.
    pub fn fail(&self, error: &anyhow::Error) -> ExitCode {
        if broken_pipe(error) {
            return ExitCode::SUCCESS;
        }
        if error.is::<Told>() {
            return ExitCode::FAILURE;
        }
        let library = error.chain().find_map(|e| e.downcast_ref::<Error>());
        let code = match library {
            Some(e) => code(e),
            None if error.downcast_ref::<Usage>().is_some() => "usage",
            None => "failed",
        };
        let message = describe(error);
        let _ = writeln!(io::stderr(), "error: {message}");
        let interrupted = matches!(library, Some(Error::Train(TrainError::Interrupted { .. })));
        if library.is_some() && !interrupted {
            self.note(format_args!("more: edge-tune explain {code}"));
        }
        if self.json {
            let _ = line(json!({ "error": { "code": code, "message": message } }));
        }
        match library {
            _ if interrupted => ExitCode::from(130),
            Some(
                Error::Method(_)
                | Error::Data(DataError::Fraction { .. })
                | Error::Train(TrainError::Setting { .. })
                | Error::Store(StoreError::TaskName { .. }),
            ) => ExitCode::from(2),
            #[cfg(feature = "pull")]
            Some(Error::Fetch(FetchError::Url { .. } | FetchError::PlainHttp { .. })) => {
                ExitCode::from(2)
            }
            _ if code == "usage" => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Reports arguments that cannot be parsed: exit status 2. What was asked for, help or the version,
/// goes to stdout with status 0.
pub fn wrong_use(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a closed stream.
    let _ = error.print();
    if error.exit_code() == 0 {
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|a| a == "--json") {
        let text = error.to_string();
        let first = text.split("\n\n").next().unwrap_or_default();
        let first = first.strip_prefix("error: ").unwrap_or(first);
        let message = first.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = line(json!({ "error": { "code": "usage", "message": message } }));
    }
    ExitCode::from(2)
}

/// The code of what a check inside the store refused, not only that it was refused.
fn code(error: &Error) -> &'static str {
    if let Error::Store(StoreError::Refused { source, .. }) = error
        && let Some(inner) = source.downcast_ref::<Error>()
    {
        return inner.code();
    }
    error.code()
}

/// The error and its causes on one line, each said once. Names from files that are not trusted
/// must not steer a terminal.
fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    let plain = |c: char| match c.is_control() && c != '\n' {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(plain).collect()
}

/// Replaces a file, whole or not at all.
#[cfg(feature = "pull")]
pub fn write(path: &std::path::Path, bytes: &[u8]) -> anyhow::Result<()> {
    Ok(edge_tune::fetch::publish::write(path, bytes).map_err(Error::from)?)
}

/// Writes a line to stdout.
pub fn line(text: impl Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.to_string().trim_end_matches('\n'))?;
    out.flush()?;
    Ok(())
}

/// True if the reader of stdout went away, as `head` does.
fn broken_pipe(error: &anyhow::Error) -> bool {
    let is = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(is)
}
