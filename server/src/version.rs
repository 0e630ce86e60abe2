//! The versions that a member reports. Clients decide by them what they may ask for, so they name
//! the etcd release whose behaviour this one has.

use std::fmt;

/// The release of etcd that a member behaves as.
pub const SERVER: &str = "3.7.1";
/// The oldest cluster version that a member takes part in.
pub const MIN_CLUSTER: &str = "3.0.0";
/// The version of the cluster: major and minor of the lowest member.
pub const CLUSTER: &str = "3.7.0";

/// The version of the db file's schema in a cluster of this version. It had none of its own before 3.6.
pub fn storage(cluster: &str) -> Option<&str> {
    let is_old = ["3.0.", "3.1.", "3.2.", "3.3.", "3.4.", "3.5."].iter().any(|old| cluster.starts_with(old));
    (!is_old).then_some(cluster)
}

/// A release of etcd. What follows its three numbers is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u64,
    /// The second.
    pub minor: u64,
    /// The third.
    pub patch: u64,
}

impl Version {
    /// Reads `3.7.1`, or `3.8.0-alpha.0+git`.
    pub fn parse(text: &str) -> Option<Version> {
        let core = text.split(['-', '+']).next().unwrap_or_default();
        let mut numbers = core.split('.').map(|number| match number.as_bytes() {
            [b'0', _, ..] => None,
            digits if digits.iter().all(u8::is_ascii_digit) => number.parse().ok(),
            _ => None,
        });
        let version = Version { major: numbers.next()??, minor: numbers.next()??, patch: numbers.next()?? };
        numbers.next().is_none().then_some(version)
    }

    /// What this member is.
    pub fn server() -> Version {
        Version::parse(SERVER).expect("our own version is one")
    }

    /// Without the third number, as cluster versions are.
    pub fn minor(self) -> Version {
        Version { patch: 0, ..self }
    }

    /// The only version that a cluster of this one can go back to.
    pub fn one_below(self) -> Version {
        Version { major: self.major, minor: self.minor.wrapping_sub(1), patch: 0 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_a_version_since_3_6() {
        assert_eq!([storage("3.5.0"), storage("3.6.0"), storage("3.10.0")], [None, Some("3.6.0"), Some("3.10.0")]);
    }

    #[test]
    fn versions_are_three_numbers() {
        let version = |text| Version::parse(text).map(|version| version.to_string());
        assert_eq!(version("3.7.1").as_deref(), Some("3.7.1"));
        assert_eq!(version("3.8.0-alpha.0+git").as_deref(), Some("3.8.0"));
        for wrong in ["", "3", "3.7", "3.7.x", "v3.7.1", "3.7.1.0", "3.07.1", "not_decided"] {
            assert_eq!(version(wrong), None, "{wrong}");
        }
        assert!(Version::parse("3.10.0") > Version::parse("3.9.9"));
        assert_eq!(Version::server().minor().one_below().to_string(), "3.6.0");
    }
}
