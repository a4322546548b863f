//! Sizes and durations as the command line has them, and numbers as the table has them.

use std::time::Duration;

/// Bytes: a number, or one with `k`, `m` or `g` behind it, each 1,024 times the last.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" => Some(1),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "g" | "gib" => Some(1_u64 << 30),
        _ => None,
    };
    let bytes = number
        .parse()
        .ok()
        .zip(factor)
        .and_then(|(n, factor): (u64, _)| n.checked_mul(factor).filter(|bytes| *bytes > 0));
    bytes.ok_or_else(|| "write a size such as 4096, 4k, 256m or 1g".into())
}

/// A duration: a number with `ms`, `s` or `m` behind it; seconds where there is none.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let factor_ms = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    let ms = number.parse().ok().zip(factor_ms).and_then(|(n, ms): (u64, u64)| n.checked_mul(ms));
    ms.map(Duration::from_millis).ok_or_else(|| "write a duration such as 500ms, 5s or 1m".into())
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Bytes in the largest unit that leaves no rest.
pub(crate) fn show_size(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let fit = units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    fit.map_or_else(|| format!("{bytes} B"), |(unit, name)| format!("{} {name}", bytes / unit))
}

/// A whole number with a comma before each three digits.
pub(crate) fn show_count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut shown = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("4096", 4096),
            ("4k", 4096),
            ("4K", 4096),
            ("256m", 256 << 20),
            ("1GiB", 1 << 30),
            (" 8k ", 8192),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "k", "0", "4x", "-4k", "1.5m", "99999999999g", "4 kk"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, ms) in [("5s", 5_000), ("5", 5_000), ("250ms", 250), ("2m", 120_000), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "s", "5h", "1.5s", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_shown() {
        assert_eq!(show_size(4096), "4 KiB");
        assert_eq!(show_size(256 << 20), "256 MiB");
        assert_eq!(show_size((1 << 20) + 1), "1048577 B");
        for (number, text) in
            [(0.4, "0"), (999.0, "999"), (1000.0, "1,000"), (1234567.0, "1,234,567")]
        {
            assert_eq!(show_count(number), text);
        }
    }
}
