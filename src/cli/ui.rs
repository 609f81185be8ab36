//! What the user sees: lines on stdout, progress and messages on stderr, or JSON on both.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::exit::{Failure, Outcome};
use super::facts::ProgressFacts;
use crate::base::utc;

/// How a command talks.
pub(super) struct Ui {
    /// Machine-readable output.
    pub(super) json: bool,
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Ui {
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        Self {
            json,
            quiet,
            bar: Mutex::new(None),
        }
    }

    /// Prints one line on stdout.
    pub(super) fn line(&self, text: impl Display) -> Outcome<()> {
        written(writeln!(io::stdout().lock(), "{text}"))
    }

    /// Prints bytes on stdout as they are.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Outcome<()> {
        written(io::stdout().lock().write_all(bytes))
    }

    /// Prints one JSON document on a line of its own.
    pub(super) fn document(&self, value: &impl Serialize) -> Outcome<()> {
        let text = serde_json::to_string(value)
            .map_err(|e| Failure::new(super::exit::Exit::General, e.to_string()))?;
        self.line(text)
    }

    /// Prints `value` as JSON if asked for, else the text that `human` makes of it.
    pub(super) fn show<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Outcome<()> {
        if self.json {
            return self.document(value);
        }
        let text = human(value);
        if text.is_empty() {
            return Ok(());
        }
        self.line(text)
    }

    /// Tells something on stderr that is no result, unless `--quiet` or `--json`.
    pub(super) fn note(&self, text: impl Display) {
        if !self.quiet && !self.json {
            // A closed stderr must not fail the command.
            let _ = writeln!(io::stderr().lock(), "mmhfs: {text}");
        }
    }

    /// Reports a failure on stderr.
    pub(super) fn failure(&self, failure: &Failure) {
        let _ = if self.json {
            let doc = serde_json::json!({
                "error": failure.message,
                "exit": failure.exit,
                "code": failure.exit.code(),
            });
            writeln!(io::stderr().lock(), "{doc}")
        } else {
            writeln!(io::stderr().lock(), "mmhfs: {}", failure.message)
        };
    }

    /// Shows progress with rate and remaining time on stderr, when both outputs are terminals.
    pub(super) fn progress(&self, now: ProgressFacts) {
        if self.quiet || self.json {
            return;
        }
        let Ok(mut slot) = self.bar.lock() else {
            return;
        };
        let bar = slot.get_or_insert_with(new_bar);
        if now.bytes_total > 0 && bar.length() != Some(now.bytes_total) {
            bar.set_length(now.bytes_total);
            bar.set_style(style(
                "{bar:24} {bytes}/{total_bytes} {msg} {bytes_per_sec} ETA {eta}",
            ));
        }
        bar.set_message(format!("{} entries", now.entries));
        bar.set_position(now.bytes);
    }

    /// Takes the progress line away.
    pub(super) fn progress_done(&self) {
        if let Ok(mut slot) = self.bar.lock()
            && let Some(bar) = slot.take()
        {
            bar.finish_and_clear();
        }
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    let seen = io::stderr().is_terminal() && io::stdout().is_terminal();
    bar.set_draw_target(if seen {
        ProgressDrawTarget::stderr_with_hz(8)
    } else {
        ProgressDrawTarget::hidden()
    });
    bar.set_style(style("{spinner} {bytes} {msg} {bytes_per_sec} {elapsed}"));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A reader that went away (`mmhfs ls … | head`) ends the command quietly.
fn written(result: io::Result<()>) -> Outcome<()> {
    match result {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::new(
            super::exit::Exit::Success,
            "the reader closed the pipe",
        )),
        Err(e) => Err(Failure::io("cannot write the output", &e)),
    }
}

/// A size for people: binary units, three significant digits.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in UNITS.iter().skip(1) {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let digits = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    format!("{value:.digits$} {unit}")
}

/// A count with its noun, in the plural unless it is one.
pub(super) fn count(n: u64, one: &str, many: &str) -> String {
    if n == 1 {
        format!("1 {one}")
    } else {
        format!("{n} {many}")
    }
}

/// A UTC date and time to the second, RFC 3339.
pub(super) fn time(secs: i64) -> String {
    utc(secs, ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.50 KiB");
        assert_eq!(size(10 << 20), "10.0 MiB");
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }
}
