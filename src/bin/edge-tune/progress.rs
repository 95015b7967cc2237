//! Progress on stderr: a bar on a terminal, a line now and then elsewhere. And Ctrl-C.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Seconds between lines where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

static STOP: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C asks the work to stop and the second one ends the process.
pub fn catch_interrupts() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    Ok(())
}

/// True after the first Ctrl-C.
pub fn interrupted() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// How far some work is.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    last_line: Instant,
    quiet: bool,
}

impl Progress {
    pub fn new(what: &'static str, total: u64, quiet: bool) -> Progress {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(
                "{prefix:>10} [{bar:32}] {pos}/{len} {elapsed}, {eta} left  {msg}",
            ) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(what);
            bar
        });
        Progress { bar, what, last_line: Instant::now(), quiet }
    }

    pub fn set(&mut self, done: u64, total: u64, message: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(message());
            }
            None if !self.quiet && self.last_line.elapsed() > LINE_EVERY => {
                eprintln!("{}: {done}/{total}  {}", self.what, message());
                self.last_line = Instant::now();
            }
            None => {}
        }
    }

    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
