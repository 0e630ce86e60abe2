//! Log lines in the shape that zap gives etcd's: one JSON object a line, or tabs between columns for people.
//!
//! `tracing` events of every crate come through [`Logger`] as a layer; what is known before there are events (flags,
//! notices) is written with [`Logger::write`]. Whatever a client put into a text, a line stays one line and moves no
//! terminal's cursor.

mod line;
mod rotation;

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    panic::Location,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{Event, Subscriber, field::Visit};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

pub use self::rotation::Rotation;
use self::{
    line::{Line, Value},
    rotation::RotatingFile,
};

use crate::flags::{Notice, file::os_text, go::quote};

/// etcd's levels, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Panic,
    Fatal,
}

impl Level {
    /// Upper and lower case alike; nothing is `info`.
    pub fn parse(text: &str) -> Option<Level> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Some(Level::Debug),
            "info" | "" => Some(Level::Info),
            "warn" | "warning" => Some(Level::Warn),
            "error" => Some(Level::Error),
            "dpanic" | "panic" => Some(Level::Panic),
            "fatal" => Some(Level::Fatal),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Panic => "panic",
            Level::Fatal => "fatal",
        }
    }
}

impl From<&tracing::Level> for Level {
    fn from(level: &tracing::Level) -> Level {
        match *level {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG | tracing::Level::TRACE => Level::Debug,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Console,
}

impl LogFormat {
    pub fn parse(text: &str) -> Option<LogFormat> {
        match text {
            "json" | "" => Some(LogFormat::Json),
            "console" => Some(LogFormat::Console),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    Stderr,
    Stdout,
    File(PathBuf),
}

impl LogOutput {
    /// etcd's words for outputs. systemd takes stderr to the journal, so that is what its name means too.
    pub fn parse(text: &str) -> LogOutput {
        match text {
            "default" | "stderr" | "systemd/journal" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            path => LogOutput::File(PathBuf::from(path)),
        }
    }
}

/// What is logged, how and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub level: Level,
    pub format: LogFormat,
    pub outputs: Vec<LogOutput>,
    /// How files are put aside when they are full; without it they grow.
    pub rotation: Option<Rotation>,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { level: Level::Info, format: LogFormat::Json, outputs: vec![LogOutput::Stderr], rotation: None }
    }
}

/// Writes lines. Cheap to clone.
#[derive(Clone)]
pub struct Logger {
    level: Level,
    format: LogFormat,
    sinks: Arc<[Sink]>,
}

struct Sink {
    writer: Mutex<Box<dyn io::Write + Send>>,
    colour: bool,
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logger").field("level", &self.level).field("format", &self.format).finish_non_exhaustive()
    }
}

impl Logger {
    /// Opens the outputs.
    pub fn open(config: &LogConfig) -> Result<Logger, String> {
        let discard = config.outputs.iter().any(|output| *output == LogOutput::File("/dev/null".into()));
        let mut sinks = Vec::new();
        for output in config.outputs.iter().filter(|_| !discard) {
            sinks.push(match output {
                LogOutput::Stderr => Sink::new(io::stderr(), config.format, io::stderr().is_terminal()),
                LogOutput::Stdout => Sink::new(io::stdout(), config.format, io::stdout().is_terminal()),
                LogOutput::File(path) => {
                    let opened = match config.rotation {
                        Some(rotation) => {
                            RotatingFile::open(path, rotation).map(|file| Sink::new(file, config.format, false))
                        }
                        None => rotation::append_to(path).map(|file| Sink::new(file, config.format, false)),
                    };
                    opened.map_err(|error| cannot_open(path, &error))?
                }
            });
        }
        Ok(Logger { level: config.level, format: config.format, sinks: sinks.into() })
    }

    /// Makes every `tracing` event of the process a line.
    ///
    /// Once in a process; later calls are refused by `tracing` and change nothing.
    pub fn install(&self) {
        let filter = match self.level {
            Level::Debug => tracing::level_filters::LevelFilter::DEBUG,
            Level::Info => tracing::level_filters::LevelFilter::INFO,
            Level::Warn => tracing::level_filters::LevelFilter::WARN,
            Level::Error => tracing::level_filters::LevelFilter::ERROR,
            Level::Panic | Level::Fatal => tracing::level_filters::LevelFilter::OFF,
        };
        let _ = tracing_subscriber::registry().with(self.clone().with_filter(filter)).try_init();
    }

    /// Writes one line with the caller's place in the source.
    #[track_caller]
    pub fn write(&self, level: Level, message: &str, fields: &[(&'static str, String)]) {
        let place = Location::caller();
        self.emit(level, Some((place.file(), place.line())), |line| {
            line.message(message);
            for (key, value) in fields {
                line.field(key, Value::Text(value));
            }
        });
    }

    #[track_caller]
    pub fn notice(&self, notice: &Notice) {
        self.write(notice.level, &notice.message, &notice.fields);
    }

    fn emit(&self, level: Level, place: Option<(&str, u32)>, fill: impl Fn(&mut Line)) {
        if level < self.level {
            return;
        }
        let mut plain = Line::new(self.format, level, place, false);
        fill(&mut plain);
        let plain = plain.finish();
        for sink in self.sinks.iter() {
            let coloured = sink.colour.then(|| {
                let mut line = Line::new(self.format, level, place, true);
                fill(&mut line);
                line.finish()
            });
            let mut writer = sink.writer.lock().unwrap_or_else(PoisonError::into_inner);
            // A log that cannot be written has nobody to tell.
            let _ = writer.write_all(coloured.as_ref().unwrap_or(&plain).as_bytes()).and_then(|()| writer.flush());
        }
    }
}

impl Sink {
    fn new(writer: impl io::Write + Send + 'static, format: LogFormat, terminal: bool) -> Sink {
        let colour =
            terminal && format == LogFormat::Console && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Sink { writer: Mutex::new(Box::new(writer)), colour }
    }
}

fn cannot_open(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    format!("open sink {}: open {shown}: {}", quote(&shown.to_string()), os_text(error))
}

impl<S: Subscriber> Layer<S> for Logger {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let place = metadata.file().zip(metadata.line());
        self.emit(Level::from(metadata.level()), place, |line| {
            // zap has the message first, whatever the order of the fields.
            event.record(&mut Fields { line, message: true });
            event.record(&mut Fields { line, message: false });
        });
    }
}

/// Writes either the message of an event or its other fields.
struct Fields<'a> {
    line: &'a mut Line,
    message: bool,
}

impl Fields<'_> {
    fn add(&mut self, field: &tracing::field::Field, value: Value<'_>) {
        match (field.name() == "message", self.message) {
            (true, true) => {
                if let Value::Text(text) = value {
                    self.line.message(text);
                }
            }
            (false, false) => self.line.field(field.name(), value),
            _ => {}
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.add(field, Value::Text(value));
    }

    fn record_bool(&mut self, field: &tracing::field::Field, value: bool) {
        self.add(field, Value::Bool(value));
    }

    fn record_i64(&mut self, field: &tracing::field::Field, value: i64) {
        self.add(field, Value::Int(value.into()));
    }

    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        self.add(field, Value::Int(value.into()));
    }

    fn record_i128(&mut self, field: &tracing::field::Field, value: i128) {
        self.add(field, Value::Int(value));
    }

    fn record_f64(&mut self, field: &tracing::field::Field, value: f64) {
        self.add(field, Value::Float(value));
    }

    fn record_error(&mut self, field: &tracing::field::Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.add(field, Value::Text(&text));
    }

    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.add(field, Value::Text(&format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events logged by `body`, as lines.
    fn logged(config: &LogConfig, body: impl FnOnce()) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("log");
        let config = LogConfig { outputs: vec![LogOutput::File(path.clone())], ..config.clone() };
        let logger = Logger::open(&config).expect("a file that can be opened");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(logger), body);
        std::fs::read_to_string(&path).expect("a readable log").lines().map(str::to_owned).collect()
    }

    #[test]
    fn an_event_is_one_json_object_with_zaps_keys() {
        let lines = logged(&LogConfig::default(), || {
            tracing::info!(member = "m1", term = 7u64, ready = true, took = 0.5, "hello\n\x1b[31m \"world\"");
        });
        assert_eq!(lines.len(), 1);
        let object: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!(object["level"], "info");
        assert_eq!(object["msg"], "hello\n\x1b[31m \"world\"");
        assert_eq!((&object["member"], &object["term"]), (&"m1".into(), &7.into()));
        assert_eq!((&object["ready"], &object["took"]), (&true.into(), &0.5.into()));
        let ts = object["ts"].as_str().expect("a time");
        assert!(ts.len() == "2026-11-22T23:25:44.589506Z".len() && ts.ends_with('Z'), "{ts}");
        let caller = object["caller"].as_str().expect("a caller");
        assert!(caller.starts_with("src/logging.rs:"), "{caller}");
        assert!(lines[0].starts_with("{\"level\":\"info\",\"ts\":\""), "{}", lines[0]);
        assert!(!lines[0].contains('\x1b'));
    }

    #[test]
    fn the_console_has_columns_and_never_a_control_character() {
        let config = LogConfig { format: LogFormat::Console, ..LogConfig::default() };
        let lines = logged(&config, || tracing::warn!(key = "a\tb", "one\ntwo \x1b[0m\u{202e}"));
        assert_eq!(lines.len(), 1);
        let columns: Vec<&str> = lines[0].split('\t').collect();
        assert_eq!(columns[1], "warn");
        assert_eq!(columns[3..], [r"one\ntwo \u001b[0m\u202e", r#"{"key": "a\tb"}"#]);
    }

    #[test]
    fn levels_below_the_chosen_one_are_silent() {
        let config = LogConfig { level: Level::Warn, ..LogConfig::default() };
        let lines = logged(&config, || {
            tracing::info!("no");
            tracing::error!("yes");
        });
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn an_output_that_cannot_be_opened_is_refused_as_zap_does() {
        let config = LogConfig { outputs: vec![LogOutput::File("/nonexistent/dir/x".into())], ..LogConfig::default() };
        let error = Logger::open(&config).expect_err("no such directory");
        assert_eq!(error, "open sink \"/nonexistent/dir/x\": open /nonexistent/dir/x: no such file or directory");
    }
}
