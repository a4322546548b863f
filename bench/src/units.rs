//! Sizes, counts and times, read as fio 3.33 reads them on the command line.
//!
//! Sizes are bytes with `kb_base=1024`. fio's trap is kept, because a job that moves over from fio
//! must not change its meaning: `4k`, `4kb` and `4ki` are 4096, but `4kib` is **4000**. Times
//! without a suffix are seconds for `runtime` and `ramp_time`, microseconds for `spin`.
//!
//! Where fio quietly reads half of a value (`1.5k` is 1 byte, `4x` is 4, `1sec` is 1 microsecond),
//! this module refuses it. Every refusal is a [`UnitError`] with field, value and accepted form.

use std::time::Duration;

use thiserror::Error;

/// The accepted form of a size, as error messages print it.
const SIZE_FORM: &str = "whole bytes, optionally with a suffix: k m g t p are powers of 1024 \
     (4k = 4096); kib mib gib are fio's powers of 1000 (4kib = 4000)";

/// The accepted form of a size that may be relative to the device.
const SPAN_FORM: &str = "whole bytes with an optional suffix k m g t p (powers of 1024), \
     or a percentage from 1% to 100%";

/// The accepted form of a time.
const TIME_FORM: &str = "a whole number with an optional suffix: us ms s m h d (90, 90s, 500ms)";

/// A value that does not read as a size, a count or a time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}={value}: expected {accepted}")]
pub struct UnitError {
    /// The option as the user spelled it, without dashes: `bs`.
    pub field: String,
    /// The value as the user spelled it.
    pub value: String,
    /// What would have been accepted.
    pub accepted: String,
}

/// How much of a disk a job covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// All of it, from the offset to the end.
    All,
    /// So many bytes.
    Bytes(u64),
    /// This share of the disk's size, 1 to 100 percent.
    Percent(u8),
}

impl Span {
    /// Bytes of a disk of `disk_bytes` that this covers, at most all of it.
    #[must_use]
    pub fn of(self, disk_bytes: u64) -> u64 {
        match self {
            Self::All => disk_bytes,
            Self::Bytes(bytes) => bytes.min(disk_bytes),
            Self::Percent(percent) => {
                let share = u128::from(disk_bytes) * u128::from(percent) / 100;
                u64::try_from(share).unwrap_or(disk_bytes)
            }
        }
    }
}

/// What a time without a suffix means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainTime {
    /// Seconds, as for fio's `runtime` and `ramp_time`.
    Seconds,
    /// Microseconds, as for fio's `thinktime`, and for `spin`.
    Microseconds,
}

/// Reads a size in bytes.
///
/// ```
/// use dynamicfs_bench::units::size_bytes;
/// assert_eq!(size_bytes("bs", "4k"), Ok(4096));
/// assert_eq!(size_bytes("bs", "4kib"), Ok(4000));
/// assert!(size_bytes("bs", "1.5k").is_err());
/// ```
///
/// # Errors
/// [`UnitError`] when the text is not a whole number with a known suffix, or exceeds 64 bits.
pub fn size_bytes(field: &str, value: &str) -> Result<u64, UnitError> {
    scaled(value).ok_or_else(|| refused(field, value, SIZE_FORM))
}

/// Reads a size that may be a percentage of the disk (`size`, `offset`). `0` is all of it.
///
/// # Errors
/// [`UnitError`] when the text is neither a size nor `1%` to `100%`.
pub fn span(field: &str, value: &str) -> Result<Span, UnitError> {
    if let Some(digits) = value.strip_suffix('%') {
        let percent = whole(digits).and_then(|number| u8::try_from(number).ok());
        return match percent {
            Some(percent @ 1..=100) => Ok(Span::Percent(percent)),
            _ => Err(refused(field, value, SPAN_FORM)),
        };
    }
    match scaled(value) {
        Some(0) => Ok(Span::All),
        Some(bytes) => Ok(Span::Bytes(bytes)),
        None => Err(refused(field, value, SPAN_FORM)),
    }
}

/// Reads a count between `min` and `max`; fio's size suffixes count too (`iodepth=1k` is 1024).
///
/// # Errors
/// [`UnitError`] naming the range.
pub fn count(field: &str, value: &str, min: u64, max: u64) -> Result<u64, UnitError> {
    scaled(value)
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| refused(field, value, &format!("a whole number from {min} to {max}")))
}

/// Reads a time.
///
/// # Errors
/// [`UnitError`] when the text is not a whole number with a known suffix, or exceeds 64 bits of
/// microseconds.
pub fn time(field: &str, value: &str, plain: PlainTime) -> Result<Duration, UnitError> {
    let error = || refused(field, value, TIME_FORM);
    let (digits, suffix) = split(value);
    let number = whole(digits).ok_or_else(error)?;
    let micros_each: u64 = match (suffix.to_ascii_lowercase().as_str(), plain) {
        ("us" | "usec", _) | ("", PlainTime::Microseconds) => 1,
        ("ms" | "msec", _) => 1_000,
        ("s", _) | ("", PlainTime::Seconds) => 1_000_000,
        ("m", _) => 60 * 1_000_000,
        ("h", _) => 3_600 * 1_000_000,
        ("d", _) => 86_400 * 1_000_000,
        _ => return Err(error()),
    };
    number.checked_mul(micros_each).map(Duration::from_micros).ok_or_else(error)
}

/// Reads a list of percentiles as fio writes it: `50:99:99.9`, at most 20, returned ascending.
///
/// # Errors
/// [`UnitError`] when an entry is not a number from 0 to 100, or there are none or more than 20.
pub fn percentiles(field: &str, value: &str) -> Result<Vec<f64>, UnitError> {
    let error =
        || refused(field, value, "1 to 20 numbers from 0 to 100 joined by ':' (50:99:99.9)");
    let parsed: Result<Vec<f64>, _> = value.split(':').map(str::parse::<f64>).collect();
    let mut list = parsed.map_err(|_| error())?;
    if list.len() > 20 || list.iter().any(|number| !(0.0..=100.0).contains(number)) {
        return Err(error());
    }
    list.sort_by(f64::total_cmp);
    list.dedup();
    Ok(list)
}

/// Reads a list of CPUs as fio and the kernel write it: `0-3,8`, returned ascending.
///
/// # Errors
/// [`UnitError`] when a range is reversed, a number is above 4095, or an entry is no number.
pub fn cpu_list(field: &str, value: &str) -> Result<Vec<usize>, UnitError> {
    let error = || refused(field, value, "CPU numbers from 0 to 4095 and ranges: 0-3,8");
    let mut cpus = Vec::new();
    for part in value.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| error())?;
        let last: usize = last.parse().map_err(|_| error())?;
        if last > 4095 || first > last {
            return Err(error());
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(cpus)
}

/// Splits at fio's separator, where a backslash takes away its meaning: `a\:b:c` is `a:b` and `c`.
#[must_use]
pub fn split_escaped(value: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = value.chars().peekable();
    while let Some(letter) = chars.next() {
        let escaped = letter == '\\' && chars.peek() == Some(&separator);
        if letter == separator {
            parts.push(String::new());
            continue;
        }
        let kept = if escaped { chars.next().unwrap_or(letter) } else { letter };
        if let Some(part) = parts.last_mut() {
            part.push(kept);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn refused(field: &str, value: &str, accepted: &str) -> UnitError {
    UnitError { field: field.into(), value: value.into(), accepted: accepted.into() }
}

/// The leading number (decimal, or hexadecimal after `0x`) and what follows it.
fn split(value: &str) -> (&str, &str) {
    let hexadecimal = value.starts_with("0x") || value.starts_with("0X");
    let start = if hexadecimal { 2 } else { 0 };
    let is_digit = |letter: char| letter.is_digit(if hexadecimal { 16 } else { 10 });
    let end = value[start..].find(|letter| !is_digit(letter)).map_or(value.len(), |at| start + at);
    value.split_at(end)
}

fn whole(digits: &str) -> Option<u64> {
    match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16).ok(),
        None if digits.starts_with('+') => None,
        None => digits.parse().ok(),
    }
}

fn scaled(value: &str) -> Option<u64> {
    let (digits, suffix) = split(value);
    let suffix = suffix.to_ascii_lowercase();
    let (unit, base) = match suffix.as_str() {
        "" | "b" => return whole(digits),
        long if long.len() == 3 && long.ends_with("ib") => (&long[..1], 1000_u64),
        long if long.len() == 2 && long.ends_with(['b', 'i']) => (&long[..1], 1024),
        short => (short, 1024),
    };
    let power = match unit {
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    whole(digits)?.checked_mul(base.pow(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row was run through fio 3.33: `--ioengine=null --number_ios=1 --bs=VALUE`, and its
    /// bytes read from the JSON.
    const SIZES_SEEN_IN_FIO: [(&str, u64); 17] = [
        ("4096", 4096),
        ("4k", 4096),
        ("4K", 4096),
        ("4ki", 4096),
        ("4kib", 4000),
        ("4KiB", 4000),
        ("4kb", 4096),
        ("4KB", 4096),
        ("4kB", 4096),
        ("4b", 4),
        ("1m", 1_048_576),
        ("1mi", 1_048_576),
        ("1MiB", 1_000_000),
        ("1mb", 1_048_576),
        ("0x1000", 4096),
        ("010", 10),
        ("1t", 1_099_511_627_776),
    ];

    #[test]
    fn sizes_read_as_in_fio() {
        for (text, bytes) in SIZES_SEEN_IN_FIO {
            assert_eq!(size_bytes("bs", text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_fio_reads_by_half_is_refused() {
        let texts = ["", "k", "1.5k", "4x", "4kk", "4e3", "-1", "+1", "4 k", " 4k", "4kbb", "4%"];
        for text in texts {
            let error = size_bytes("bs", text).expect_err(text);
            assert_eq!((error.field.as_str(), error.value.as_str()), ("bs", text));
        }
        assert!(size_bytes("bs", "99999999p").is_err(), "more than 64 bits");
        assert!(size_bytes("bs", "4k,8k").is_err(), "one size for both directions");
    }

    #[test]
    fn spans_are_sizes_or_percentages() {
        assert_eq!(span("size", "20%"), Ok(Span::Percent(20)));
        assert_eq!(span("size", "1m"), Ok(Span::Bytes(1 << 20)));
        assert_eq!(span("size", "0"), Ok(Span::All));
        for text in ["0%", "101%", "%", "1.5%", "-1%"] {
            assert!(span("size", text).is_err(), "{text}");
        }
        assert_eq!(Span::Percent(20).of(1000), 200);
        assert_eq!(Span::Percent(100).of(u64::MAX), u64::MAX);
        assert_eq!(Span::Bytes(5000).of(1000), 1000);
        assert_eq!(Span::All.of(77), 77);
    }

    /// Each row was run through fio 3.33 with `--time_based --runtime=VALUE`; the run time, or for
    /// the long ones the announced end, was compared.
    #[test]
    fn times_read_as_in_fio() {
        let rows = [
            ("1", 1_000_000),
            ("1s", 1_000_000),
            ("1S", 1_000_000),
            ("500ms", 500_000),
            ("500msec", 500_000),
            ("300000us", 300_000),
            ("300000usec", 300_000),
            ("1m", 60_000_000),
            ("1M", 60_000_000),
            ("1h", 3_600_000_000),
            ("2H", 7_200_000_000),
            ("1d", 86_400_000_000),
        ];
        for (text, micros) in rows {
            let read = time("runtime", text, PlainTime::Seconds);
            assert_eq!(read, Ok(Duration::from_micros(micros)), "{text}");
        }
        for text in ["", "s", "1sec", "0.5", "1x", "1.5s", "-1", "2min"] {
            assert!(time("runtime", text, PlainTime::Seconds).is_err(), "{text}");
        }
        let spin = time("spin", "20", PlainTime::Microseconds);
        assert_eq!(spin, Ok(Duration::from_micros(20)));
    }

    #[test]
    fn counts_name_their_range() {
        assert_eq!(count("iodepth", "1k", 1, 4096), Ok(1024));
        let error = count("iodepth", "5000", 1, 4096).expect_err("too deep");
        assert_eq!(error.to_string(), "iodepth=5000: expected a whole number from 1 to 4096");
    }

    #[test]
    fn lists_read_as_in_fio() {
        assert_eq!(percentiles("percentile_list", "99.9:50:5"), Ok(vec![5.0, 50.0, 99.9]));
        assert!(percentiles("percentile_list", "50:101").is_err());
        assert!(percentiles("percentile_list", "").is_err());
        assert!(percentiles("percentile_list", "nan").is_err());
        assert_eq!(cpu_list("cpus", "0-2,8,1"), Ok(vec![0, 1, 2, 8]));
        for text in ["", "3-1", "a", "0-99999", "1,"] {
            assert!(cpu_list("cpus", text).is_err(), "{text}");
        }
        assert_eq!(split_escaped(r"/a\:b:/c", ':'), ["/a:b", "/c"]);
        assert_eq!(split_escaped(r"/a\b", ':'), [r"/a\b"]);
        assert!(split_escaped("", ':').is_empty());
    }
}
