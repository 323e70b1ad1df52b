//! The IDX format of the MNIST files: a magic number, the axes' sizes, then unsigned bytes; all integers
//! big-endian.
//!
//! Files are plain or gzipped, told apart by their first two bytes. A header is believed only up to
//! [`LIMIT`], and no more is unpacked than it announces, so that damaged or hostile files give errors and do
//! not fill the memory.

use crate::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::io::{Cursor, Read};
use std::path::Path;

/// The largest number of values in a file, in bytes: 1 GiB.
pub const LIMIT: u64 = 1 << 30;

/// Bytes with the sizes of their axes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx<const AXES: usize> {
    /// The sizes; their product is the number of values.
    pub axes: [usize; AXES],
    /// The values in row-major order.
    pub values: Vec<u8>,
}

/// Reads a file. `AXES` is 3 for images (`[n, rows, columns]`) and 1 for labels.
///
/// # Errors
/// As [`parse`], and if the file cannot be read.
pub fn read<const AXES: usize>(path: &Path) -> Result<Idx<AXES>> {
    let file = path.display().to_string();
    let source = std::fs::File::open(path).map_err(|source| Error::Io { file: file.clone(), source })?;
    from_reader(source, &file)
}

/// Reads bytes, plain or gzipped; `file` is what errors call them.
///
/// # Errors
/// [`Error::Magic`], [`Error::Truncated`], [`Error::TooLong`], [`Error::Size`]; [`Error::Io`] for a damaged
/// gzip stream.
///
/// ```
/// let labels = cnn_data::idx::parse::<1>(&[0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1], "labels")?;
/// assert_eq!(labels.values, [7, 2, 1]);
/// # Ok::<(), cnn_data::Error>(())
/// ```
pub fn parse<const AXES: usize>(bytes: &[u8], file: &str) -> Result<Idx<AXES>> {
    from_reader(bytes, file)
}

fn from_reader<const AXES: usize>(mut source: impl Read, file: &str) -> Result<Idx<AXES>> {
    let io = |source| Error::Io { file: file.to_string(), source };
    let mut start = Vec::with_capacity(2);
    source.by_ref().take(2).read_to_end(&mut start).map_err(io)?;
    let gzipped = start == [0x1f, 0x8b];
    let whole = Cursor::new(start).chain(source);
    match gzipped {
        true => uncompressed(MultiGzDecoder::new(whole), file),
        false => uncompressed(whole, file),
    }
}

fn uncompressed<const AXES: usize>(mut source: impl Read, file: &str) -> Result<Idx<AXES>> {
    let io = |source| Error::Io { file: file.to_string(), source };
    let head_size = 4 * (1 + AXES) as u64;
    let mut head = Vec::new();
    source.by_ref().take(head_size).read_to_end(&mut head).map_err(io)?;
    let mut numbers = head.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    // two zero bytes, 8 for unsigned bytes, the number of axes
    let wanted = 0x0800 | AXES as u32;
    if let Some(found) = numbers.next().filter(|&found| found != wanted) {
        return Err(Error::Magic { file: file.to_string(), found, wanted });
    }
    if (head.len() as u64) < head_size {
        return Err(Error::Truncated { file: file.to_string(), found: head.len() as u64, needed: head_size });
    }
    let announced: Vec<u32> = numbers.collect();
    let count = announced.iter().try_fold(1u64, |p, &d| p.checked_mul(u64::from(d)));
    let Some(count) = count.filter(|c| (1..=LIMIT).contains(c)) else {
        return Err(Error::Size { file: file.to_string(), axes: announced, limit: LIMIT });
    };

    // grows with what is there, not with what is announced; one byte more shows whether the file ends
    let mut values = Vec::new();
    source.take(count + 1).read_to_end(&mut values).map_err(io)?;
    let (found, needed) = (head_size + values.len() as u64, head_size + count);
    match found.cmp(&needed) {
        std::cmp::Ordering::Less => Err(Error::Truncated { file: file.to_string(), found, needed }),
        std::cmp::Ordering::Greater => Err(Error::TooLong { file: file.to_string(), needed }),
        std::cmp::Ordering::Equal => Ok(Idx { axes: std::array::from_fn(|i| announced[i] as usize), values }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    fn images(axes: [u32; 3], values: &[u8]) -> Vec<u8> {
        let head = [0x0803].iter().chain(&axes).flat_map(|n| n.to_be_bytes());
        head.chain(values.iter().copied()).collect()
    }

    fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::default());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn sample() -> Vec<u8> {
        images([3, 2, 4], &(0..24).collect::<Vec<u8>>())
    }

    #[test]
    fn plain_and_gzipped_are_the_same() {
        let plain = parse::<3>(&sample(), "a").unwrap();
        assert_eq!(plain.axes, [3, 2, 4]);
        assert_eq!(plain.values, (0..24).collect::<Vec<u8>>());
        assert_eq!(parse::<3>(&gzipped(&sample()), "a").unwrap(), plain);
    }

    #[test]
    fn each_damage_has_its_error() {
        let labels = |bytes: &[u8]| parse::<1>(bytes, "labels").unwrap_err();
        assert!(matches!(labels(&sample()), Error::Magic { found: 0x0803, wanted: 0x0801, .. }));
        assert!(matches!(labels(&[]), Error::Truncated { found: 0, needed: 8, .. }));
        assert!(matches!(labels(&[0, 0, 8, 1, 0, 0, 0, 0]), Error::Size { .. }));
        let huge = images([u32::MAX; 3], &[1]);
        assert!(matches!(parse::<3>(&huge, "a"), Err(Error::Size { .. })));
        let large = images([1 << 10, 1 << 10, 1 << 10], &[1]);
        assert!(matches!(parse::<3>(&large, "a"), Err(Error::Truncated { found: 17, .. })));
        let longer = images([1, 1, 1], &[1, 2]);
        assert!(matches!(parse::<3>(&longer, "a"), Err(Error::TooLong { needed: 17, .. })));
        let cut = &gzipped(&sample())[..30];
        assert!(matches!(parse::<3>(cut, "a"), Err(Error::Io { .. })));
        let error = read::<3>(Path::new("nowhere/images")).unwrap_err();
        assert!(error.to_string().contains("nowhere/images"));
    }

    #[test]
    fn a_small_file_that_unpacks_to_much_is_not_unpacked() {
        let mut bomb = images([1, 1, 1], &[]);
        bomb.extend(std::iter::repeat_n(0, 50_000_000));
        let packed = gzipped(&bomb);
        assert!(packed.len() < 100_000);
        assert!(matches!(parse::<3>(&packed, "a"), Err(Error::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_never_panics(at in 0usize..1_000, bit in 0u8..8, packed: bool) {
            let mut bytes = if packed { gzipped(&sample()) } else { sample() };
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(idx) = parse::<3>(&bytes, "a") {
                prop_assert_eq!(idx.axes.iter().product::<usize>(), idx.values.len());
            }
        }

        #[test]
        fn a_cut_file_is_an_error(at in 0usize..1_000, packed: bool) {
            let bytes = if packed { gzipped(&sample()) } else { sample() };
            prop_assert!(parse::<3>(&bytes[..at % bytes.len()], "a").is_err());
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse::<3>(&bytes, "a");
            let _ = parse::<1>(&bytes, "a");
            let _ = parse::<1>(&[&[0, 0, 8, 1], bytes.as_slice()].concat(), "a");
        }
    }
}
