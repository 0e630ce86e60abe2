//! What a key is put down to: its first names between slashes.

use crate::gotext;

/// The part of a key that its first `depth` names make, with the slash behind them: `/registry/pods/` of
/// `/registry/pods/default/a` at depth 2. A key of fewer names counts under all but its last.
#[must_use]
pub fn prefix(key: &[u8], depth: usize) -> &[u8] {
    let skip = usize::from(key.first() == Some(&b'/'));
    let slashes = key.iter().enumerate().skip(skip).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1);
    let end = slashes.take(depth).last().unwrap_or(if depth == 0 { 0 } else { skip });
    &key[..end]
}

/// A key or a prefix in a table: on one line, and never nothing.
#[must_use]
pub fn readable(key: &[u8]) -> String {
    let quoted = gotext::quote(key);
    if key.is_empty() { quoted } else { quoted[1..quoted.len() - 1].to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_behind_a_slash() {
        for (key, depth, expected) in [
            ("/registry/pods/default/a", 2, "/registry/pods/"),
            ("/registry/pods/default/a", 1, "/registry/"),
            ("/registry/pods/default/a", 9, "/registry/pods/default/"),
            ("app/cfg/x", 1, "app/"),
            ("app", 2, ""),
            ("/app", 2, "/"),
            ("/a/b", 0, ""),
            ("", 3, ""),
        ] {
            assert_eq!(prefix(key.as_bytes(), depth), expected.as_bytes(), "{key} at {depth}");
        }
    }
}
