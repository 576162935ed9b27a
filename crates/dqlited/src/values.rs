//! Reads single values as etcd (that is, Go) reads them: booleans, numbers, durations.
//!
//! Each function answers with the fault in words that fit behind `--flag: `.

use std::time::Duration;

/// Go's `strconv.ParseBool`.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// A whole number from 0 to `max`.
pub fn unsigned(text: &str, max: u64) -> Result<u64, String> {
    text.parse::<u64>()
        .ok()
        .filter(|number| *number <= max)
        .ok_or_else(|| format!("{text:?} is not a whole number from 0 to {max}"))
}

/// A whole number of 64 bits with a sign.
pub fn signed(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number of 64 bits"))
}

/// Go's `time.ParseDuration`, without negative ones.
pub fn duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration like 500ms, 5s, 10m or 1h30m";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.starts_with('-') {
        return Err(format!("{text:?} is negative, {EXPECTED}"));
    }
    if rest.is_empty() {
        return Err(format!("no number in {text:?}, {EXPECTED}"));
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        if !number.contains(|c: char| c.is_ascii_digit()) {
            return Err(format!("no number in {text:?}, {EXPECTED}"));
        }
        let unit_nanos: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(format!("no unit in {text:?}, {EXPECTED}")),
            _ => return Err(format!("unknown unit {unit:?} in {text:?}, {EXPECTED}")),
        };
        nanos = decimal(number, unit_nanos)
            .and_then(|part| nanos.checked_add(part))
            .filter(|sum| *sum <= i64::MAX as u128)
            .ok_or_else(|| format!("{text:?} is no duration of 64 bits, {EXPECTED}"))?;
        rest = tail;
    }
    Ok(Duration::from_nanos(u64::try_from(nanos).expect("checked against i64::MAX above")))
}

/// `number` (digits, perhaps with one dot) times `unit`; what is below one is cut off, as in Go.
fn decimal(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut sum = whole.checked_mul(unit)?;
    let mut scale = unit;
    for digit in fraction.chars() {
        // Exact: every unit is a product of tens and sixties, and digits below one nanosecond do not count.
        let digit = u128::from(digit.to_digit(10)?);
        sum = sum.checked_add(digit * scale / 10)?;
        scale /= 10;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let table: &[(&str, u64)] = &[
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("10m", 600_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("100ms", 100_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("1.000000001s", 1_000_000_001),
            ("39h9m14.425s", 140_954_425_000_000),
            ("10us", 10_000),
            ("10\u{b5}s", 10_000),
            ("52763797000ns", 52_763_797_000),
        ];
        for (text, nanos) in table {
            assert_eq!(duration(text), Ok(Duration::from_nanos(*nanos)), "{text}");
        }
    }

    #[test]
    fn bad_durations_say_what_is_missing() {
        let table = [
            ("5", r#"no unit in "5", expected a duration like 500ms, 5s, 10m or 1h30m"#),
            ("", r#"no number in "", expected a duration like 500ms, 5s, 10m or 1h30m"#),
            ("s", r#"no number in "s", expected a duration like 500ms, 5s, 10m or 1h30m"#),
            ("5 s", r#"unknown unit " s" in "5 s", expected a duration like 500ms, 5s, 10m or 1h30m"#),
            ("-5s", r#""-5s" is negative, expected a duration like 500ms, 5s, 10m or 1h30m"#),
            ("3d", r#"unknown unit "d" in "3d", expected a duration like 500ms, 5s, 10m or 1h30m"#),
            (
                "1.2.3s",
                r#""1.2.3s" is no duration of 64 bits, expected a duration like 500ms, 5s, 10m or 1h30m"#,
            ),
            (
                "3000000h",
                r#""3000000h" is no duration of 64 bits, expected a duration like 500ms, 5s, 10m or 1h30m"#,
            ),
        ];
        for (text, fault) in table {
            assert_eq!(duration(text), Err(fault.to_string()), "{text}");
        }
    }

    #[test]
    fn booleans_and_numbers_are_read_as_go_reads_them() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(boolean(text), Ok(true));
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(boolean(text), Ok(false));
        }
        assert_eq!(boolean("yes"), Err(r#""yes" is neither true nor false"#.into()));
        assert_eq!(unsigned("128", u64::from(u32::MAX)), Ok(128));
        assert_eq!(unsigned("-1", 255), Err(r#""-1" is not a whole number from 0 to 255"#.into()));
        assert_eq!(unsigned("256", 255), Err(r#""256" is not a whole number from 0 to 255"#.into()));
        assert_eq!(signed("-1"), Ok(-1));
        assert_eq!(signed("2GB"), Err(r#""2GB" is not a whole number of 64 bits"#.into()));
    }
}
