//! What is said about the mirror, and about who the gateway is to its upstream.

use std::{fs, time::Duration};

use super::{Problem, Settings};
use crate::flags::go;

/// The validated configuration of the mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorFlags {
    /// What is mirrored if all keys do not fit.
    pub prefixes: Vec<String>,
    pub max_bytes: u64,
    pub progress_interval: Duration,
}

/// Less could not hold the history of a few large values.
const MAX_BYTES_LEAST: u64 = 16 << 20;

/// What is said, or that there is to be no mirror.
pub(super) fn validate(s: &Settings) -> Result<Option<MirrorFlags>, Problem> {
    let max_bytes = bytes(&s.mirror_max_bytes).filter(|bytes| *bytes >= MAX_BYTES_LEAST).ok_or_else(|| {
        Problem::new(format!("--mirror-max-bytes of {} is no size of 16MiB or more", go::quote(&s.mirror_max_bytes)))
            .hint("write bytes, or a number with KiB, MiB or GiB: --mirror-max-bytes=1GiB")
    })?;
    if s.watch_progress_notify_interval <= go::Duration(0) {
        let given = s.watch_progress_notify_interval;
        return Err(Problem::new(format!(
            "--watch-progress-notify-interval must be more than nothing (set to {given})"
        )));
    }
    let progress_interval = s.watch_progress_notify_interval.to_std();
    let prefixes = s.mirror_prefix.iter().filter(|prefix| !prefix.is_empty()).cloned().collect();
    Ok((s.mirror == "on").then_some(MirrorFlags { prefixes, max_bytes, progress_interval }))
}

/// The upstream's user as whom the gateway fills its mirror and writes its own keys, and that user's password.
pub(super) fn user(s: &Settings) -> Result<Option<(String, String)>, Problem> {
    match (s.upstream_user.as_str(), s.upstream_password_file.as_str()) {
        ("", "") => Ok(None),
        ("", _) => {
            Err(Problem::new("--upstream-password-file is given without a user")
                .hint("name the user with --upstream-user"))
        }
        (user, "") => Err(Problem::new(format!("--upstream-user={user} is given without a password"))
            .hint("put it into a file and name that with --upstream-password-file")),
        (user, path) => {
            let password = fs::read_to_string(path)
                .map_err(|error| Problem::new(format!("--upstream-password-file {path}: {error}")))?;
            Ok(Some((user.to_owned(), password.trim_end_matches(['\r', '\n']).to_owned())))
        }
    }
}

/// A number of bytes, with a unit or without.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("1GiB"), Some(1 << 30));
        assert_eq!(bytes("1048576"), Some(1 << 20));
        assert_eq!(bytes("16 MiB"), Some(16 << 20));
        for bad in ["", "GiB", "1GB", "-1", "1.5GiB", "99999999999GiB"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_password_comes_from_a_file_and_only_with_a_user() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("password");
        fs::write(&path, "secret\n").expect("a writable file");
        let path = path.to_str().expect("a UTF-8 path").to_owned();
        let said = |name: &str, path: &str| Settings {
            upstream_user: name.into(),
            upstream_password_file: path.into(),
            ..Settings::default()
        };
        assert_eq!(user(&said("root", &path)).expect("accepted"), Some(("root".into(), "secret".into())));
        for (name, path) in [("root", ""), ("", &path[..]), ("root", "/nonexistent")] {
            assert!(user(&said(name, path)).is_err(), "{name:?} {path:?}");
        }
        let off = Settings { mirror: "off".into(), ..Settings::default() };
        assert_eq!(validate(&off).expect("accepted"), None);
    }
}
