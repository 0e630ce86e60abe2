//! What is seen while a load runs: on a terminal one line that is drawn again, elsewhere a line now and then.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use super::{
    meter::Interval,
    run::{Measured, milliseconds},
};

/// Without a terminal, a line each so many seconds.
const PLAIN_EVERY: usize = 10;

/// Columns of the progress bar.
const BAR: usize = 24;

/// Writes to standard error, so that reports can go elsewhere.
#[derive(Debug)]
pub struct View {
    is_drawn: bool,
    is_quiet: bool,
    label: String,
    seconds: f64,
    ticks: usize,
}

impl View {
    /// Finds out by itself how to look; quiet if nothing is to be seen.
    pub fn new(is_quiet: bool) -> View {
        let is_drawn = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        View { is_drawn, is_quiet, label: String::new(), seconds: 1.0, ticks: 0 }
    }

    /// A sentence.
    pub fn say(&self, text: &str) {
        if !self.is_quiet {
            self.write(&format!("{text}\n"));
        }
    }

    /// A run begins.
    pub fn begin(&mut self, target: &str, round: usize, rounds: usize, duration: Duration) {
        self.label = if rounds > 1 { format!("{target} {}/{rounds}", round + 1) } else { target.to_owned() };
        (self.seconds, self.ticks) = (duration.as_secs_f64(), 0);
    }

    /// A second has passed.
    pub fn tick(&mut self, measured: &Measured, last: &Interval) {
        self.ticks += 1;
        if self.is_quiet || (!self.is_drawn && self.ticks % PLAIN_EVERY != 1) {
            return;
        }
        // What is wider than the terminal is cut off: a second line would not be drawn over.
        let line = line(&self.label, measured.seconds / self.seconds, last, measured.all.failed());
        self.write(&if self.is_drawn { format!("\r\x1b[2K\x1b[?7l{line}\x1b[?7h") } else { format!("{line}\n") });
    }

    /// All runs have ended.
    pub fn end(&self) {
        if self.is_drawn && !self.is_quiet && self.ticks > 0 {
            self.write("\r\x1b[2K");
        }
    }

    /// Nobody is told when standard error is closed.
    fn write(&self, text: &str) {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

fn line(label: &str, done: f64, last: &Interval, failed: u64) -> String {
    let done = done.clamp(0.0, 1.0);
    let filled = (done * BAR as f64).round() as usize;
    let mut line = format!("{label} [{}{}] {:>3.0} %", "#".repeat(filled), ".".repeat(BAR - filled), done * 100.0);
    if failed > 0 {
        line += &format!("  {failed} errors");
    }
    for (name, latencies) in &last.series {
        let (p50, p99) = (milliseconds(latencies.percentile(50.0)), milliseconds(latencies.percentile(99.0)));
        line += &format!("  {name} {}/s p50 {p50:.2} p99 {p99:.2} ms", last.answered_of(name));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_progress_rates_and_errors() {
        let mut interval = Interval::default();
        interval.series.entry("put".to_owned()).or_default().record(Duration::from_millis(2));
        let text = line("etcd 1/3", 0.5, &interval, 7);
        assert!(text.starts_with("etcd 1/3 [############............]  50 %  7 errors  put 1/s p50 2.0"), "{text}");
    }
}
