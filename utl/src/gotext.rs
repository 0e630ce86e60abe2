//! Text as Go's standard library and etcd's tools write it.

use std::fmt::Write as _;

/// Go's `%q` of a string of any bytes: quoted, on one line, what is no UTF-8 as `\x`.
#[must_use]
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\x07' => out.push_str("\\a"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x0b' => out.push_str("\\v"),
                c if c.is_ascii_control() => hex(&mut out, c as u8),
                c if !is_printable(c) => match c as u32 {
                    code @ ..=0xffff => write!(out, "\\u{code:04x}").expect("a string takes everything"),
                    code => write!(out, "\\U{code:08x}").expect("a string takes everything"),
                },
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| hex(&mut out, *byte));
    }
    out.push('"');
    out
}

/// Whether there is something to see: Go and Rust agree on what that is, but for what one knows a newer Unicode of.
fn is_printable(c: char) -> bool {
    // Behind another, since what combines is escaped only where it stands first.
    let mut text = [b'a'; 5];
    let len = 1 + c.encode_utf8(&mut text[1..]).len();
    let text = std::str::from_utf8(&text[..len]).expect("invariant: an encoded char is UTF-8");
    c == '\'' || text.escape_debug().nth(1) == Some(c)
}

fn hex(out: &mut String, byte: u8) {
    write!(out, "\\x{byte:02x}").expect("a string takes everything");
}

/// Bytes in thousands, as etcd's tools print them: `25 kB`, `2.1 MB`.
#[must_use]
pub fn humane_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let unit = bytes.ilog(1000) as usize;
    let value = (bytes as f64 / 1000f64.powi(unit as i32) * 10.0 + 0.5).floor() / 10.0;
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_go_does() {
        for (bytes, quoted) in [
            (&b"k '\xc3\xa9\"x"[..], "\"k 'é\\\"x\""),
            (b"v\x01\xff\n", "\"v\\x01\\xff\\n\""),
            (b"\xc2\xa0\xe2\x80\xa8", "\"\\u00a0\\u2028\""),
            (
                "\u{f50e}\u{feff}\u{10ffff}e\u{301}\u{1f600}".as_bytes(),
                "\"\\uf50e\\ufeff\\U0010ffffe\u{301}\u{1f600}\"",
            ),
            (b"", "\"\""),
        ] {
            assert_eq!(quote(bytes), quoted);
        }
    }

    #[test]
    fn sizes_are_rounded_as_etcd_rounds_them() {
        for (bytes, text) in [(7, "7 B"), (82, "82 B"), (24_576, "25 kB"), (2_071_552, "2.1 MB"), (9_960, "10 kB")] {
            assert_eq!(humane_bytes(bytes), text, "{bytes}");
        }
    }
}
