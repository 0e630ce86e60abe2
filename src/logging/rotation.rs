//! Log files that are put aside when they are full, by etcd's flag and under the names of its library (lumberjack).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, write::GzEncoder};
use serde::Deserialize;

use super::line;

/// When a file is full, and what becomes of full ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The size at which a file is put aside.
    pub bytes_max: u64,
    /// How long a file is kept then.
    pub age_max: Option<Duration>,
    /// How many are kept.
    pub backups_max: Option<usize>,
    /// Whether they are compressed.
    pub compress: bool,
}

/// The flag's JSON, in mebibytes and days; zeros are etcd's way to leave a number out.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Given {
    maxsize: u32,
    maxage: u32,
    maxbackups: u32,
    localtime: bool,
    compress: bool,
}

impl Rotation {
    /// Reads what `--log-rotation-config-json` says.
    pub fn parse(json: &str) -> Result<Rotation, String> {
        let given: Given = serde_json::from_str(json).map_err(|error| match error.classify() {
            serde_json::error::Category::Eof => {
                "improperly formatted log rotation config: unexpected end of JSON input".to_owned()
            }
            serde_json::error::Category::Syntax => format!("improperly formatted log rotation config: {error}"),
            _ => format!("invalid log rotation config: {error}"),
        })?;
        if given.localtime {
            return Err("invalid log rotation config: local time is not supported here, only UTC".to_owned());
        }
        let megabytes = if given.maxsize == 0 { 100 } else { given.maxsize };
        Ok(Rotation {
            bytes_max: u64::from(megabytes) << 20,
            age_max: (given.maxage > 0).then(|| Duration::from_secs(u64::from(given.maxage) * 24 * 3600)),
            backups_max: (given.maxbackups > 0).then_some(given.maxbackups as usize),
            compress: given.compress,
        })
    }
}

/// A log file that puts itself aside.
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    len: u64,
    rotation: Rotation,
    /// Held by whoever compresses and removes.
    tidying: Arc<Mutex<()>>,
}

impl RotatingFile {
    pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<RotatingFile> {
        let file = append_to(path)?;
        let len = file.metadata()?.len();
        Ok(RotatingFile { path: path.to_owned(), file, len, rotation, tidying: Arc::default() })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let (stem, extension) = parts(&self.path);
        let aside = self.path.with_file_name(format!("{stem}-{}{extension}", stamp(SystemTime::now())));
        // A file that cannot be put aside goes on growing: better a long log than none.
        fs::rename(&self.path, &aside)?;
        self.file = append_to(&self.path)?;
        self.len = 0;
        let (path, rotation, tidying) = (self.path.clone(), self.rotation, self.tidying.clone());
        let tidy = move || {
            let _turn = tidying.lock().unwrap_or_else(PoisonError::into_inner);
            // A log has nobody to tell that it cannot be tidied.
            let _ = tidy(&path, rotation, SystemTime::now());
        };
        // Whoever writes a line does not wait for it.
        std::thread::Builder::new().name("log-rotation".into()).spawn(tidy).map(drop)
    }
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.len > 0 && self.len + line.len() as u64 > self.rotation.bytes_max {
            let _ = self.rotate();
        }
        let written = self.file.write(line)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

pub(super) fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A file's name without its extension, and that with its dot.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    (text(path.file_stem()), extension.unwrap_or_default())
}

/// A time as it stands in names: `2026-11-22T23-25-44.589`. Later ones are greater.
fn stamp(time: SystemTime) -> String {
    let micros = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    line::timestamp(micros)[..STAMP_LEN].replace(':', "-")
}

const STAMP_LEN: usize = "2026-11-22T23-25-44.589".len();

/// The files that were put aside, the newest first: when, and where.
fn backups(path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let (stem, extension) = parts(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?.path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rest = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.split_at_checked(STAMP_LEN));
        let Some((when, end)) = rest else { continue };
        let is_time = when.bytes().all(|byte| byte.is_ascii_digit() || b"-T.".contains(&byte));
        if is_time && (end == extension || end == format!("{extension}.gz")) {
            found.push((when.to_owned(), entry));
        }
    }
    found.sort();
    found.reverse();
    Ok(found)
}

/// Removes what is too old or too much, and compresses the rest.
fn tidy(path: &Path, rotation: Rotation, now: SystemTime) -> io::Result<()> {
    let oldest = rotation.age_max.and_then(|age| now.checked_sub(age)).map(stamp);
    for (at, (when, backup)) in backups(path)?.into_iter().enumerate() {
        let is_too_many = rotation.backups_max.is_some_and(|most| at >= most);
        if is_too_many || oldest.as_ref().is_some_and(|oldest| when < *oldest) {
            fs::remove_file(backup)?;
        } else if rotation.compress && backup.extension().is_none_or(|extension| extension != "gz") {
            compress(&backup)?;
        }
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let mut packed = GzEncoder::new(File::create(&name)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut packed)?;
    packed.finish()?.sync_all()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(bytes_max: u64) -> Rotation {
        Rotation { bytes_max, age_max: None, backups_max: None, compress: false }
    }

    /// What the folder of a log holds, and how much; the times in names are masked.
    fn listing(folder: &Path) -> Vec<(String, u64)> {
        let mut found: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().to_string_lossy().into_owned();
                let masked =
                    if name.len() > STAMP_LEN { name.replace(|c: char| c.is_ascii_digit(), "0") } else { name };
                (masked, entry.metadata().unwrap().len())
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn the_flag_is_etcds() {
        let etcds = r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;
        assert_eq!(Rotation::parse(etcds), Ok(rotation(100 << 20)));
        let all = Rotation::parse(r#"{"maxsize":1,"maxage":2,"maxbackups":3,"compress":true,"filename":"x"}"#).unwrap();
        assert_eq!((all.bytes_max, all.backups_max, all.compress), (1 << 20, Some(3), true));
        assert_eq!(all.age_max, Some(Duration::from_secs(2 * 86_400)));
        for (text, begins) in [
            ("{", "improperly formatted log rotation config: unexpected end of JSON input"),
            ("{x}", "improperly formatted log rotation config: "),
            (r#"{"maxsize":"x"}"#, "invalid log rotation config: "),
            (r#"{"maxsize":-1}"#, "invalid log rotation config: "),
            (r#"{"localtime":true}"#, "invalid log rotation config: local time"),
        ] {
            let error = Rotation::parse(text).unwrap_err();
            assert!(error.starts_with(begins), "{text}: {error}");
        }
    }

    #[test]
    fn a_full_file_is_put_aside_and_no_line_is_cut_or_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log");
        fs::write(&path, "from before\n").unwrap();
        let mut log = RotatingFile::open(&path, rotation(20)).unwrap();
        for line in ["0123456\n", "too much\n", "a line that is longer than a file\n", "last\n"] {
            log.write_all(line.as_bytes()).unwrap();
            // Names are told apart by milliseconds.
            std::thread::sleep(Duration::from_millis(2));
        }
        let aside = "etcd-0000-00-00T00-00-00.000.log".to_owned();
        let expected = [(aside.clone(), 9), (aside.clone(), 20), (aside, 34), ("etcd.log".to_owned(), 5)];
        assert_eq!(listing(dir.path()), expected);
    }

    #[test]
    fn what_is_too_old_or_too_much_goes_and_the_rest_is_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let now = UNIX_EPOCH + Duration::from_secs(100 * 86_400);
        for (days, name) in [(1, ""), (2, ""), (3, ".gz"), (40, "")] {
            let when = stamp(now - Duration::from_secs(days * 86_400));
            fs::write(dir.path().join(format!("log-{when}{name}")), "aside").unwrap();
        }
        for other in ["log", "log-of-another", "catalog-1970-01-01T00-00-00.000", "log-1970-01-01T00-00-00.000.txt"] {
            fs::write(dir.path().join(other), "").unwrap();
        }
        let days = |count: u64| Some(Duration::from_secs(count * 86_400));
        tidy(&path, Rotation { age_max: days(30), compress: true, ..rotation(1) }, now).unwrap();
        let kept: Vec<PathBuf> = backups(&path).unwrap().into_iter().map(|(_, path)| path).collect();
        assert_eq!(kept.len(), 3);
        assert!(kept.iter().all(|path| path.extension().is_some_and(|end| end == "gz")), "{kept:?}");
        let mut text = String::new();
        let packed = File::open(&kept[0]).unwrap();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
        assert_eq!(text, "aside");
        tidy(&path, Rotation { backups_max: Some(1), ..rotation(1) }, now).unwrap();
        assert_eq!(backups(&path).unwrap().len(), 1);
        assert_eq!(listing(dir.path()).len(), 5, "what is not ours stays");
    }
}
