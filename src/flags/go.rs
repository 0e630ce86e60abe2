//! Text and numbers as Go's `flag`, `strconv` and `time` packages read and print them.
//!
//! etcd's command line is whatever these accept: `0x10` and `1_000` are numbers, `T` is true, `1h30m` is a
//! duration and `90` is not. The error texts are theirs too, scripts match on them.

use std::fmt::{self, Write as _};

/// Why a number was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberError {
    /// Not a number.
    Syntax,
    /// A number that does not fit.
    Range,
}

impl NumberError {
    /// The text of Go's `flag` package.
    pub fn flag_text(self) -> String {
        match self {
            NumberError::Syntax => "parse error".to_owned(),
            NumberError::Range => "value out of range".to_owned(),
        }
    }

    /// The text of Go's `strconv` package, for the flags that pass its errors through.
    pub fn strconv_text(self, function: &str, text: &str) -> String {
        let reason = match self {
            NumberError::Syntax => "invalid syntax",
            NumberError::Range => "value out of range",
        };
        format!("strconv.{function}: parsing {}: {reason}", quote(text))
    }
}

/// `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Result<bool, NumberError> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(NumberError::Syntax),
    }
}

/// `strconv.ParseUint(text, 0, bits)`: decimal, `0x`, `0o`, `0b` or a leading zero for octal, with underscores
/// between digits.
pub fn parse_uint(text: &str, bits: u32) -> Result<u64, NumberError> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', _, ..] => (16, &lower[2..]),
        [b'0', b'b', _, ..] => (2, &lower[2..]),
        [b'0', b'o', _, ..] => (8, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || !underscores_separate_digits(&lower) {
        return Err(NumberError::Syntax);
    }
    let max = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let mut value: u64 = 0;
    let mut overflow = false;
    for c in digits.chars().filter(|&c| c != '_') {
        let digit = c.to_digit(radix).ok_or(NumberError::Syntax)?;
        match value.checked_mul(u64::from(radix)).and_then(|v| v.checked_add(u64::from(digit))) {
            Some(v) if v <= max => value = v,
            // The rest is still read: a later wrong character is a syntax error first.
            _ => overflow = true,
        }
    }
    if overflow { Err(NumberError::Range) } else { Ok(value) }
}

/// `strconv.ParseInt(text, 0, 64)`: as [`parse_uint`], with an optional sign.
pub fn parse_int(text: &str) -> Result<i64, NumberError> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = parse_uint(digits, 64)?;
    if negative {
        0i64.checked_sub_unsigned(magnitude).ok_or(NumberError::Range)
    } else {
        i64::try_from(magnitude).map_err(|_| NumberError::Range)
    }
}

/// Go allows `_` only between digits, a base prefix counting as one.
fn underscores_separate_digits(lower: &str) -> bool {
    let (rest, hex, mut after_digit) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], true, true),
        [b'0', b'b' | b'o', ..] => (&lower[2..], false, true),
        _ => (lower, false, false),
    };
    let mut pending = false;
    for c in rest.bytes() {
        if c == b'_' {
            if !after_digit {
                return false;
            }
            (after_digit, pending) = (false, true);
        } else {
            let digit = c.is_ascii_digit() || (hex && c.is_ascii_hexdigit());
            if pending && !digit {
                return false;
            }
            (after_digit, pending) = (digit, false);
        }
    }
    !pending
}

/// A signed duration in nanoseconds, as Go's `time.Duration`. Prints as Go prints it: `1m0s`, `300ms`, `2h0m0s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub i64);

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl Duration {
    pub const fn from_millis(ms: i64) -> Duration {
        Duration(ms * 1_000_000)
    }

    pub const fn from_secs(s: i64) -> Duration {
        Duration(s * 1_000_000_000)
    }

    /// The duration for code that has no use for a negative one.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// `time.ParseDuration`, with its error texts.
    pub fn parse(text: &str) -> Result<Duration, String> {
        let invalid = || format!("time: invalid duration {}", quote(text));
        let (negative, mut rest) = match text.as_bytes() {
            [b'-', ..] => (true, &text[1..]),
            [b'+', ..] => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Duration(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (whole, after_whole) = leading_digits(rest);
            let (fraction, after) = match after_whole.strip_prefix('.') {
                Some(tail) => leading_digits(tail),
                None => ("", after_whole),
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(invalid());
            }
            let unit_len = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, tail) = after.split_at(unit_len);
            if unit.is_empty() {
                return Err(format!("time: missing unit in duration {}", quote(text)));
            }
            let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(format!("time: unknown unit {} in duration {}", quote(unit), quote(text)));
            };
            let part = scaled(whole, fraction, *scale).ok_or_else(invalid)?;
            total = total.checked_add(part).filter(|sum| *sum <= 1 << 63).ok_or_else(invalid)?;
            rest = tail;
        }
        let signed = if negative { 0i64.checked_sub_unsigned(total) } else { i64::try_from(total).ok() };
        signed.map(Duration).ok_or_else(invalid)
    }
}

fn leading_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `whole.fraction × scale` in nanoseconds, digits past a nanosecond cut off.
fn scaled(whole: &str, fraction: &str, scale: u64) -> Option<u64> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // A unit has at most 3.6e12 ns: thirteen digits decide every nanosecond.
    let (mut numerator, mut divisor) = (0u128, 1u128);
    for digit in fraction.bytes().take(13) {
        numerator = numerator * 10 + u128::from(digit - b'0');
        divisor *= 10;
    }
    let part = u64::try_from(numerator * u128::from(scale) / divisor).ok()?;
    whole.checked_mul(scale)?.checked_add(part)
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_char('-')?;
        }
        let nanos = self.0.unsigned_abs();
        match nanos {
            0 => return f.write_str("0s"),
            1..1_000 => return write!(f, "{nanos}ns"),
            1_000..1_000_000 => return write!(f, "{}µs", decimal(nanos, 1_000)),
            1_000_000..1_000_000_000 => return write!(f, "{}ms", decimal(nanos, 1_000_000)),
            _ => {}
        }
        let minutes = nanos / 60_000_000_000;
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        write!(f, "{}s", decimal(nanos % 60_000_000_000, 1_000_000_000))
    }
}

/// `value / unit` without trailing zeros; `unit` is a power of ten.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, fraction) = (value / unit, value % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    format!("{whole}.{}", format!("{fraction:0width$}").trim_end_matches('0'))
}

/// Go's `%q`: a quoted string on one line.
pub fn quote(text: &str) -> String {
    forebay_utl::gotext::quote(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_go_base_zero() {
        for (text, want) in [
            ("0", Ok(0)),
            ("100", Ok(100)),
            ("0x10", Ok(16)),
            ("0X1f", Ok(31)),
            ("0b101", Ok(5)),
            ("0o17", Ok(15)),
            ("017", Ok(15)),
            ("1_0", Ok(10)),
            ("0x_f", Ok(15)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(NumberError::Range)),
            ("99999999999999999999999", Err(NumberError::Range)),
            ("", Err(NumberError::Syntax)),
            ("-1", Err(NumberError::Syntax)),
            ("+1", Err(NumberError::Syntax)),
            ("1.5", Err(NumberError::Syntax)),
            ("1__0", Err(NumberError::Syntax)),
            ("_1", Err(NumberError::Syntax)),
            ("1_", Err(NumberError::Syntax)),
            ("08", Err(NumberError::Syntax)),
            ("0x", Err(NumberError::Syntax)),
            ("99999999999999999999x", Err(NumberError::Syntax)),
        ] {
            assert_eq!(parse_uint(text, 64), want, "{text:?}");
        }
        assert_eq!(parse_uint("4294967296", 32), Err(NumberError::Range));
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_int("9223372036854775808"), Err(NumberError::Range));
        assert_eq!(parse_int("+7"), Ok(7));
        assert_eq!(parse_int("--7"), Err(NumberError::Syntax));
    }

    #[test]
    fn durations_read_and_print_as_go_does() {
        for (text, nanos, printed) in [
            ("0", 0, "0s"),
            ("-0", 0, "0s"),
            ("100ms", 100_000_000, "100ms"),
            ("1h2m3.5s", 3_723_500_000_000, "1h2m3.5s"),
            ("1m", 60_000_000_000, "1m0s"),
            ("2h", 7_200_000_000_000, "2h0m0s"),
            ("-5s", -5_000_000_000, "-5s"),
            (".5s", 500_000_000, "500ms"),
            ("1.s", 1_000_000_000, "1s"),
            ("1500us", 1_500_000, "1.5ms"),
            ("3ns", 3, "3ns"),
            ("2µs", 2_000, "2µs"),
            ("0.100000000000000000000h", 360_000_000_000, "6m0s"),
            ("9223372036854775807ns", i64::MAX, "2562047h47m16.854775807s"),
            ("-9223372036854775808ns", i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(Duration::parse(text), Ok(Duration(nanos)), "{text:?}");
            assert_eq!(Duration(nanos).to_string(), printed, "{text:?}");
        }
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("10", "time: missing unit in duration \"10\""),
            ("-5", "time: missing unit in duration \"-5\""),
            ("3x", "time: unknown unit \"x\" in duration \"3x\""),
            (".s", "time: invalid duration \".s\""),
            ("abc", "time: invalid duration \"abc\""),
            ("99999999h", "time: invalid duration \"99999999h\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("1s 2s", "time: unknown unit \"s \" in duration \"1s 2s\""),
        ] {
            assert_eq!(Duration::parse(text), Err(error.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn quoting_leaves_one_printable_line() {
        assert_eq!(quote("a\"b\\c\n\x1b[31m\u{9b}é"), "\"a\\\"b\\\\c\\n\\x1b[31m\\u009bé\"");
    }
}
