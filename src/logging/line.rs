//! One line of the log, as zap's encoders write it.

use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Level, LogFormat};

/// The value of a field.
pub(super) enum Value<'a> {
    Text(&'a str),
    Bool(bool),
    Int(i128),
    Float(f64),
}

/// A line as it grows: first the head, then the message, then the fields.
pub(super) struct Line {
    format: LogFormat,
    text: String,
    fields: usize,
}

impl Line {
    pub(super) fn new(format: LogFormat, level: Level, place: Option<(&str, u32)>, colour: bool) -> Line {
        let mut text = String::with_capacity(256);
        let time = timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros());
        let level_text = level.as_str();
        match format {
            LogFormat::Json => {
                let _ = write!(text, "{{\"level\":\"{level_text}\",\"ts\":\"{time}\"");
                if let Some((file, line)) = place {
                    text.push_str(",\"caller\":\"");
                    escape(&mut text, short(file));
                    let _ = write!(text, ":{line}\"");
                }
            }
            LogFormat::Console => {
                let (on, off) = if colour { (colour_of(level), "\x1b[0m") } else { ("", "") };
                let _ = write!(text, "{time}\t{on}{level_text}{off}");
                if let Some((file, line)) = place {
                    text.push('\t');
                    escape(&mut text, short(file));
                    let _ = write!(text, ":{line}");
                }
            }
        }
        Line { format, text, fields: 0 }
    }

    pub(super) fn message(&mut self, message: &str) {
        match self.format {
            LogFormat::Json => {
                self.text.push_str(",\"msg\":\"");
                escape(&mut self.text, message);
                self.text.push('"');
            }
            LogFormat::Console => {
                self.text.push('\t');
                control_free(&mut self.text, message);
            }
        }
    }

    pub(super) fn field(&mut self, key: &str, value: Value<'_>) {
        match (self.format, self.fields) {
            (LogFormat::Json, _) => self.text.push_str(",\""),
            (LogFormat::Console, 0) => self.text.push_str("\t{\""),
            (LogFormat::Console, _) => self.text.push_str(", \""),
        }
        self.fields += 1;
        escape(&mut self.text, key);
        self.text.push_str(if self.format == LogFormat::Json { "\":" } else { "\": " });
        let _ = match value {
            Value::Text(text) => {
                self.text.push('"');
                escape(&mut self.text, text);
                self.text.push('"');
                Ok(())
            }
            Value::Bool(value) => write!(self.text, "{value}"),
            Value::Int(value) => write!(self.text, "{value}"),
            Value::Float(value) if value.is_finite() => write!(self.text, "{value}"),
            // JSON has no number for it; zap writes the name.
            Value::Float(value) => write!(self.text, "\"{value}\""),
        };
    }

    pub(super) fn finish(mut self) -> String {
        match (self.format, self.fields) {
            (LogFormat::Console, 0) => self.text.push('\n'),
            _ => self.text.push_str("}\n"),
        }
        self.text
    }
}

/// JSON's escapes, and the same for what could move a cursor or turn text around.
fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c => push_visible(out, c),
        }
    }
}

fn control_free(out: &mut String, text: &str) {
    text.chars().for_each(|c| push_visible(out, c));
}

fn push_visible(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        // Line and paragraph separators, and the marks that reorder text.
        c if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
        {
            let _ = write!(out, "\\u{:04x}", c as u32);
        }
        c => out.push(c),
    }
}

fn colour_of(level: Level) -> &'static str {
    match level {
        Level::Debug => "\x1b[2m",
        Level::Info => "\x1b[36m",
        Level::Warn => "\x1b[33m",
        Level::Error | Level::Panic | Level::Fatal => "\x1b[31m",
    }
}

/// The last two parts of a source file's path.
fn short(file: &str) -> &str {
    let cut = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    &file[cut..]
}

/// `2026-11-22T23:25:44.589506Z` of microseconds since 1970.
pub(super) fn timestamp(micros: u128) -> String {
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days: years that begin in March put the leap day last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u128::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_to_the_microsecond() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (1_704_067_199_999_999, "2023-12-31T23:59:59.999999Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
            (1_795_389_944_589_506, "2026-11-22T23:25:44.589506Z"),
        ] {
            assert_eq!(timestamp(micros), text);
        }
    }

    #[test]
    fn callers_are_cut_to_two_parts() {
        assert_eq!(short("/a/b/server/src/raft/driver.rs"), "raft/driver.rs");
        assert_eq!(short("src/main.rs"), "src/main.rs");
        assert_eq!(short("main.rs"), "main.rs");
    }
}
