//! The units of policy files: Kubernetes' quantities (`20k`, `256MiB`), rates (`5/s`, `50MiB/s`), Go's durations
//! (`1m30s`) and percentages.

use std::{fmt, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

/// A count or a number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(pub u64);

/// So many of something in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Invariant: not 0.
    amount: u64,
    /// Invariant: a second, a minute or an hour.
    period: Duration,
}

/// A duration as Go writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

/// A share of a hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Quantity, String> {
        Quantity::parse(text)
    }
}

/// The longest suffixes come first, so that the first that fits is the one that was meant.
const SUFFIXES: [(&str, u64); 13] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("B", 1),
];

impl Quantity {
    fn parse(text: &str) -> Result<Quantity, String> {
        let malformed = || format!("{text:?} is no quantity; write a number like 500, 20k, 64KiB or 1.5GiB");
        let found = SUFFIXES.iter().find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|number| (number, *unit)));
        let (number, unit) = found.unwrap_or((text, 1));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || number.ends_with('.') || fraction.len() > 6 {
            return Err(malformed());
        }
        let digits = |part: &str| match part {
            "" => Ok(0),
            part if part.bytes().all(|byte| byte.is_ascii_digit()) => part.parse::<u64>().map_err(|_| malformed()),
            _ => Err(malformed()),
        };
        let scale = 10u64.pow(fraction.len() as u32);
        let part = digits(fraction)? * unit / scale;
        let whole = digits(whole)?.checked_mul(unit).and_then(|bytes| bytes.checked_add(part));
        whole.map(Quantity).ok_or_else(|| format!("{text:?} is more than can be counted"))
    }
}

impl Rate {
    /// `amount`, which must not be 0, in each second.
    pub fn per_second(amount: u64) -> Rate {
        assert!(amount > 0, "invariant: a rate is not 0");
        Rate { amount, period: Duration::from_secs(1) }
    }

    /// How many in each period.
    pub fn amount(self) -> u64 {
        self.amount
    }

    /// The period: a second, a minute or an hour.
    pub fn period(self) -> Duration {
        self.period
    }

    /// How long the rate takes for `cost`, to the nanosecond.
    pub fn time_for(self, cost: u64) -> Duration {
        let nanos = u128::from(cost) * self.period.as_nanos() / u128::from(self.amount);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// So many millionths of the rate, one at least.
    pub fn part(self, millionths: u32) -> Rate {
        let nanos = self.period.as_nanos() * 1_000_000 / u128::from(millionths.max(1));
        Rate { amount: self.amount, period: Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)) }
    }

    /// How many in a second, at least 1.
    pub fn amount_per_second(self) -> u64 {
        (u128::from(self.amount) * 1_000_000_000 / self.period.as_nanos()).max(1) as u64
    }

    fn parse(text: &str) -> Result<Rate, String> {
        let Some((amount, period)) = text.split_once('/') else {
            return Err(format!("{text:?} is no rate; write one like 5/s, 300/m or 50MiB/s"));
        };
        let period = match period {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            other => return Err(format!("{text:?}: a rate is per s, m or h, not per {other:?}")),
        };
        match Quantity::parse(amount)?.0 {
            0 => Err(format!("{text:?} lets nothing through; to refuse a request say so with mode and onLimit")),
            amount => Ok(Rate { amount, period: Duration::from_secs(period) }),
        }
    }
}

impl GoDuration {
    fn parse(text: &str) -> Result<GoDuration, String> {
        let malformed = || format!("{text:?} is no duration; write one like 250ms, 2s or 1m30s");
        let mut rest = text;
        let mut nanos = 0u64;
        if text == "0" {
            return Ok(GoDuration(Duration::ZERO));
        }
        if text.is_empty() {
            return Err(malformed());
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
            let (number, after) = rest.split_at(end);
            let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            let unit: u64 = match unit {
                "ns" => 1,
                "us" | "µs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return Err(malformed()),
            };
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') || number.ends_with('.') {
                return Err(malformed());
            }
            let whole: u64 = whole.parse().map_err(|_| malformed())?;
            let fraction_nanos = match fraction {
                "" => 0,
                digits => {
                    let value: u64 = digits.parse().map_err(|_| malformed())?;
                    (u128::from(value) * u128::from(unit) / 10u128.pow(digits.len() as u32)) as u64
                }
            };
            let part = whole.checked_mul(unit).and_then(|part| part.checked_add(fraction_nanos));
            nanos = part.and_then(|part| nanos.checked_add(part)).ok_or_else(malformed)?;
            rest = after;
        }
        Ok(GoDuration(Duration::from_nanos(nanos)))
    }
}

impl Percent {
    /// This share of a number, rounded down.
    pub fn of(self, number: u64) -> u64 {
        (u128::from(number) * u128::from(self.0) / 100) as u64
    }

    fn parse(text: &str) -> Result<Percent, String> {
        let percent = text.strip_suffix('%').and_then(|number| number.parse::<u8>().ok());
        match percent {
            Some(percent) if percent <= 100 => Ok(Percent(percent)),
            _ => Err(format!("{text:?} is no share; write 0% to 100%")),
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SUFFIXES.iter().filter(|(suffix, _)| suffix.len() == 3 || suffix.len() == 1 && *suffix != "B");
        let fitting = exact.filter(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        match fitting.max_by_key(|(_, unit)| *unit) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = match self.period.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{period}", Quantity(self.amount))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// Reads the type from text, and from a bare number where one is as clear.
macro_rules! in_files {
    ($type:ident, $expected:literal, $number:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct Units;

                impl Visitor<'_> for Units {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$type, E> {
                        let read: fn(u64) -> Option<$type> = $number;
                        read(number).ok_or_else(|| E::invalid_type(de::Unexpected::Unsigned(number), &self))
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        $type::parse(text).map_err(E::custom)
                    }
                }

                deserializer.deserialize_any(Units)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

in_files!(Quantity, "a quantity like 500, 20k or 64KiB", |number| Some(Quantity(number)));
in_files!(Rate, "a rate like 5/s, 300/m or 50MiB/s", |_| None);
in_files!(GoDuration, "a duration like 250ms or 2s", |number| (number == 0).then_some(GoDuration(Duration::ZERO)));
in_files!(Percent, "a share like 80%", |_| None);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_kubernetes_suffixes() {
        for (text, value) in [
            ("0", 0),
            ("20k", 20_000),
            ("256MiB", 256 << 20),
            ("64Ki", 64 << 10),
            ("1.5GiB", 3 << 29),
            ("1GiB", 1 << 30),
            ("100B", 100),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(Quantity::parse(text), Ok(Quantity(value)), "{text}");
        }
        for text in
            ["", "k", "-1", "1..5k", "1.k", "20K", "1 k", "99999999999999999999", "18446744073709551615k", "1e3"]
        {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_per_second_minute_or_hour_and_never_nothing() {
        let rate = Rate::parse("50MiB/s").expect("a rate");
        assert_eq!((rate.amount(), rate.period().as_secs()), (50 << 20, 1));
        assert_eq!(Rate::parse("300/m").expect("a rate").time_for(5), Duration::from_secs(1));
        assert_eq!(Rate::per_second(3).time_for(3), Duration::from_secs(1));
        assert_eq!(Rate::per_second(1).time_for(u64::MAX), Duration::from_nanos(u64::MAX));
        for text in ["5", "0/s", "5/d", "/s", "5/", "x/s"] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, millis) in
            [("250ms", 250), ("2s", 2_000), ("1m30s", 90_000), ("1.5s", 1_500), ("0", 0), ("1h", 3_600_000)]
        {
            assert_eq!(GoDuration::parse(text), Ok(GoDuration(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "5", "s", "1d", "-1s", "1.s", "1.2.3s", "99999999999h", "1s5"] {
            assert!(GoDuration::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        for value in [0, 1, 999, 1000, 1024, 20_000, 1 << 20, (1 << 30) + 1, 5 << 40, u64::MAX] {
            assert_eq!(Quantity::parse(&Quantity(value).to_string()), Ok(Quantity(value)));
        }
        for text in ["5/s", "20k/m", "1GiB/h"] {
            let rate = Rate::parse(text).expect("a rate");
            assert_eq!(Rate::parse(&rate.to_string()), Ok(rate));
        }
        for millis in [0, 1, 250, 1_500, 90_000] {
            let duration = GoDuration(Duration::from_millis(millis));
            assert_eq!(GoDuration::parse(&duration.to_string()), Ok(duration));
        }
        assert_eq!(Percent::parse("80%"), Ok(Percent(80)));
        assert!(Percent::parse("101%").is_err() && Percent::parse("80").is_err());
    }
}
