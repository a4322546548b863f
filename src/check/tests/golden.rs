//! Images of version 1 of the format, as the store wrote them once, and what the checker said of
//! them. `tests/golden/README.md` says what they hold.

use serde_json::Value;

use crate::check::{Depth, Image, Report, check};

/// An image and its report.
pub(crate) struct Golden {
    /// Its file's name.
    pub(crate) name: &'static str,
    image: &'static str,
    report: &'static str,
}

/// All of them.
pub(crate) const GOLDEN: &[Golden] = &[
    Golden {
        name: "v1-closed",
        image: include_str!("../../../tests/golden/v1-closed.txt"),
        report: include_str!("../../../tests/golden/v1-closed.json"),
    },
    Golden {
        name: "v1-crashed",
        image: include_str!("../../../tests/golden/v1-crashed.txt"),
        report: include_str!("../../../tests/golden/v1-crashed.json"),
    },
];

impl Golden {
    /// Its bytes. Each line of the file is an offset and the bytes from there on, in hexadecimal,
    /// without the zeroes at their end; everything else is zero.
    pub(crate) fn image(&self) -> Vec<u8> {
        let mut lines = self.image.lines();
        let bytes = lines.next().and_then(|line| line.strip_prefix("bytes "));
        let mut image = vec![0; bytes.unwrap().parse().unwrap()];
        for line in lines {
            let (offset, digits) = line.split_once(' ').unwrap();
            let offset = usize::from_str_radix(offset, 16).unwrap();
            for (n, pair) in digits.as_bytes().chunks(2).enumerate() {
                let nibble = |digit: u8| char::from(digit).to_digit(16).unwrap() as u8;
                let low = pair.get(1).map_or(0, |digit| nibble(*digit));
                image[offset + n] = nibble(pair[0]) << 4 | low;
            }
        }
        image
    }
}

/// Checks bytes in memory.
pub(crate) fn check_bytes(bytes: &[u8], depth: Depth) -> Report {
    let mut read = |offset: u64, buffer: &mut [u8]| {
        let at = offset as usize;
        buffer.copy_from_slice(&bytes[at..at + buffer.len()]);
        Ok(())
    };
    check(&mut Image::new(bytes.len() as u64, &mut read), depth)
}

#[test]
fn golden_images_are_read_as_they_were() {
    for golden in GOLDEN {
        let report = check_bytes(&golden.image(), Depth::Data);
        let expected: Value = serde_json::from_str(golden.report).unwrap();
        assert_eq!(serde_json::to_value(&report).unwrap(), expected, "{}", golden.name);
        assert!(report.is_consistent(), "{}", golden.name);
    }
}
