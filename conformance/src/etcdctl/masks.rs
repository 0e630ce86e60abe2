//! What of etcdctl's output depends on the run and not on the server.

use crate::outcome::Names;

/// Fields whose number says nothing: sizes, indices, times and what is left of a TTL.
const FIELDS: [&str; 17] = [
    "dbSize",
    "dbSizeInUse",
    "DBSize",
    "DBSizeInUse",
    "raftIndex",
    "RaftIndex",
    "raftAppliedIndex",
    "RaftAppliedIndex",
    "RaftTerm",
    "raft_term",
    "raftTerm",
    "ttl",
    "TTL",
    "remaining",
    "totalSize",
    "Size",
    "took",
];

/// The output line by line with the run's own things replaced. Space and the rules of tables are
/// dropped: columns are as wide as what was masked. `numbers` masks every number.
pub(super) fn mask(names: &Names, text: &str, numbers: bool) -> Vec<String> {
    text.lines()
        // etcdctl's own log.
        .filter(|line| !line.starts_with("{\"level\"") && !line.starts_with(['+', '┌', '├', '└']))
        .map(|line| mask_line(&names.in_text(line), numbers))
        .collect()
}

fn mask_line(line: &str, numbers: bool) -> String {
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut words: Vec<String> = Vec::new();
    let mut field = String::new();
    let pieces = split(&line);
    for (at, piece) in pieces.iter().enumerate() {
        let next = pieces.get(at + 1..at + 3).unwrap_or_default();
        let unit = matches!(next, [space, unit] if *space == " " && ["B", "kB", "MB", "GB"].contains(unit));
        let masked = if is_number(piece) && (numbers || unit || FIELDS.contains(&field.as_str())) {
            "<number>"
        } else if is_duration(piece) {
            "<duration>"
        } else if piece.len() >= 12 && piece.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            "<id>"
        } else if piece.starts_with("3.") && piece.split('.').all(|part| part.parse::<u16>().is_ok()) {
            "<version>"
        } else {
            piece
        };
        words.push(masked.to_owned());
        if is_word(piece) {
            field = (*piece).to_owned();
        }
    }
    words.concat()
}

/// The line in words and what stands between them.
fn split(line: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let inside = |character: char| character.is_alphanumeric() || matches!(character, '.' | '_');
        let end = match inside(first) {
            true => rest.find(|character| !inside(character)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

fn is_word(piece: &str) -> bool {
    piece.starts_with(char::is_alphabetic)
}

/// `12`, `1.5`, and `99s` as in a remaining TTL.
fn is_number(piece: &str) -> bool {
    let digits = piece.strip_suffix('s').unwrap_or(piece);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// `1.234567ms`, `812.5µs`, `1m2.5s`; a whole number of seconds is a TTL.
fn is_duration(piece: &str) -> bool {
    let has_unit =
        ["ns", "µs", "ms"].iter().any(|unit| piece.ends_with(unit)) || (piece.contains('.') && piece.ends_with('s'));
    has_unit && piece.starts_with(|character: char| character.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_what_depends_on_the_run_and_nothing_else() {
        let mask = |line| mask_line(line, false);
        assert_eq!(
            mask(r#"{"revision":5,"raft_term":2},"dbSize":20480"#),
            r#"{"revision":5,"raft_term":<number>},"dbSize":<number>"#
        );
        assert_eq!(mask(r#""RaftIndex" : 12"#), r#""RaftIndex" : <number>"#);
        assert_eq!(
            mask("lease 694d8c1f2a3b4c5d granted with TTL(100s), remaining(99s)"),
            "lease <id> granted with TTL(<number>), remaining(<number>)"
        );
        assert_eq!(
            mask("healthy: successfully committed proposal: took = 1.5ms"),
            "healthy: successfully committed proposal: took = <duration>"
        );
        assert_eq!(mask("| 3.7.1 | 20 kB |   7 |"), "| <version> | <number> kB | 7 |");
    }
}
