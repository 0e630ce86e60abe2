//! Integers in all the spellings that Go's protojson takes: `5`, `5.0`, `50e-1`, `0.05e2`.

/// Digits before the point after which it gives up, as protojson does: no 64-bit number has more.
const DIGITS_MAX: usize = 20;

/// The value of a JSON number, if it is a whole one that protojson would take.
///
/// The token may be anything that a client wrote into a string, so the grammar is checked here.
pub(super) fn integer(token: &[u8]) -> Option<i128> {
    let (negative, rest) = match token {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (mut whole, rest) = digits(rest);
    match whole {
        [] | [b'0', _, ..] => return None,
        [b'0'] => whole = &[],
        _ => {}
    }
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => match digits(rest) {
            ([], _) => return None,
            (fraction, rest) => (without_trailing_zeros(fraction), rest),
        },
        rest => (&[][..], rest),
    };
    let exponent = match rest {
        [] => "0",
        [b'e' | b'E', exponent @ ..] => {
            let (count, rest) = match exponent {
                [b'+' | b'-', count @ ..] => digits(count),
                count => digits(count),
            };
            if count.is_empty() || !rest.is_empty() {
                return None;
            }
            str::from_utf8(exponent).ok()?
        }
        _ => return None,
    };
    if whole.is_empty() && fraction.is_empty() {
        return Some(0);
    }
    let magnitude = shifted(whole, fraction, exponent.parse().ok()?)?;
    Some(if negative { -magnitude } else { magnitude })
}

/// Moves the point by `exponent` places; `None` if digits stay behind it or there are too many.
fn shifted(whole: &[u8], fraction: &[u8], exponent: i32) -> Option<i128> {
    let places = usize::try_from(exponent.unsigned_abs()).ok()?;
    if exponent >= 0 {
        let zeros = places.checked_sub(fraction.len())?;
        if whole.len().checked_add(places)? > DIGITS_MAX {
            return None;
        }
        value(whole.iter().chain(fraction).copied().chain(std::iter::repeat_n(b'0', zeros)))
    } else if fraction.is_empty() {
        let (kept, dropped) = whole.split_at(whole.len().checked_sub(places)?);
        if dropped.iter().any(|digit| *digit != b'0') {
            return None;
        }
        value(kept.iter().copied())
    } else {
        None
    }
}

fn value(mut digits: impl Iterator<Item = u8>) -> Option<i128> {
    digits.try_fold(0_i128, |value, digit| value.checked_mul(10)?.checked_add(i128::from(digit - b'0')))
}

/// The digits in front, and what follows them.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len()))
}

fn without_trailing_zeros(digits: &[u8]) -> &[u8] {
    &digits[..digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1)]
}
