//! NumPy's `.npy` arrays (format 1.0 to 3.0, NEP 1): bytes, floats and integers of either byte order and
//! either memory order.
//!
//! A header is believed only after it was checked: what it announces must be as long as what the file has,
//! and at most [`LIMIT`]; memory is taken after that. The crates there are for the format multiply the
//! announced sizes unchecked and parse the header by recursion, so this one has its own reader.

use crate::{Error, Result};
use std::io::Read;

/// The longest array that is read, in bytes: 8 GiB.
pub(crate) const LIMIT: u64 = 1 << 33;
/// The longest header. NumPy pads to 64 bytes; what is supported here needs less than 200.
const MAX_HEADER: usize = 1 << 16;
const MAGIC: &[u8] = b"\x93NUMPY";

/// What an array is to be used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Images,
    Labels,
}

/// The type of the elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unsigned,
    Signed,
    Float,
}

/// An array in row-major order, its elements little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Array {
    /// What errors call it.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub(crate) width: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// True if a file begins as an array does.
pub(crate) fn is_npy(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

/// Reads an array of `length` bytes in all.
pub(crate) fn read(mut source: impl Read, length: u64, name: &str, purpose: Use) -> Result<Array> {
    let bad = |why: String| Error::Format { file: name.to_string(), why };
    let (text, head) = header_text(&mut source, name)?;
    let header = header(&text).map_err(bad)?;
    let suits = match purpose {
        Use::Images => matches!((header.kind, header.width), (Kind::Unsigned, 1) | (Kind::Float, 4 | 8)),
        Use::Labels => header.kind != Kind::Float,
    };
    if !suits {
        let wanted = match purpose {
            Use::Images => "images have to be uint8 (0 to 255), or float32 or float64 (already preprocessed)",
            Use::Labels => "labels have to be integers",
        };
        return Err(bad(format!("is of type `{}`, but {wanted}; convert with `.astype`", header.descr)));
    }
    let needed = header.shape.iter().try_fold(header.width as u64, |p, &d| p.checked_mul(d as u64));
    let Some(needed) = needed.filter(|n| (1..=LIMIT).contains(n)) else {
        return Err(bad(format!("an array of shape {:?} is not between 1 and {LIMIT} bytes", header.shape)));
    };
    if length != head + needed {
        return Err(bad(format!("is {length} bytes long, but its header announces {}", head + needed)));
    }
    let mut bytes = Vec::new();
    let size = usize::try_from(needed).ok().filter(|&size| bytes.try_reserve_exact(size).is_ok());
    if size.is_none() {
        return Err(Error::Memory { what: name.to_string(), bytes: needed.into() });
    }
    source.take(needed + 1).read_to_end(&mut bytes).map_err(|e| bad(e.to_string()))?;
    if bytes.len() as u64 != needed {
        return Err(bad(format!("has {} bytes of values, but its header announces {needed}", bytes.len())));
    }
    if header.big_endian && header.width > 1 {
        bytes.chunks_exact_mut(header.width).for_each(<[u8]>::reverse);
    }
    if header.fortran && header.shape.iter().filter(|&&d| d > 1).count() > 1 {
        bytes = row_major(&bytes, header.width, &header.shape);
    }
    Ok(Array { name: name.to_string(), kind: header.kind, width: header.width, shape: header.shape, bytes })
}

struct Header {
    descr: String,
    kind: Kind,
    width: usize,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
}

/// The text of the header and the position of the values.
fn header_text(source: &mut impl Read, name: &str) -> Result<(String, u64)> {
    let bad = |why: &str| Error::Format { file: name.to_string(), why: why.to_string() };
    let mut take = |count: usize| {
        let mut bytes = vec![0; count];
        match source.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(bad("ends within its header")),
            Err(e) => Err(bad(&e.to_string())),
        }
    };
    let start = take(8)?;
    if !is_npy(&start) {
        return Err(bad("is not a NumPy array (the first bytes are not `\\x93NUMPY`)"));
    }
    let (prefix, size) = match start[6] {
        1 => (10, take(2)?.iter().rev().fold(0, |sum, &b| sum << 8 | usize::from(b))),
        2 | 3 => (12, take(4)?.iter().rev().fold(0, |sum, &b| sum << 8 | usize::from(b))),
        other => return Err(bad(&format!("is of format {other}, but 1, 2 and 3 are known"))),
    };
    if size > MAX_HEADER {
        return Err(bad(&format!("a header of {size} bytes is longer than {MAX_HEADER}")));
    }
    let text = String::from_utf8(take(size)?).map_err(|_| bad("the header is not text"))?;
    Ok((text, (prefix + size) as u64))
}

fn header(text: &str) -> Result<Header, String> {
    let descr = value(text, "descr")?;
    let quote = descr.chars().next().filter(|q| ['\'', '"'].contains(q));
    let descr =
        quote.and_then(|q| descr[1..].split(q).next()).ok_or("arrays of records are not supported")?;
    let unknown = || format!("elements of type `{descr}` are not supported");
    let (order, rest) = descr.split_at_checked(1).ok_or_else(unknown)?;
    let (kind, width) = match rest {
        "u1" | "u2" | "u4" | "u8" => (Kind::Unsigned, &rest[1..]),
        "i1" | "i2" | "i4" | "i8" => (Kind::Signed, &rest[1..]),
        "f4" | "f8" => (Kind::Float, &rest[1..]),
        _ => return Err(unknown()),
    };
    let big_endian = match order {
        "<" | "|" => false,
        ">" => true,
        "=" => cfg!(target_endian = "big"),
        _ => return Err(unknown()),
    };
    let fortran = match value(text, "fortran_order")? {
        v if v.starts_with("True") => true,
        v if v.starts_with("False") => false,
        _ => return Err("`fortran_order` is neither True nor False".into()),
    };
    let shape = value(text, "shape")?.strip_prefix('(').and_then(|v| v.split_once(')'));
    let (shape, _) = shape.ok_or("`shape` is not a tuple")?;
    let axes = shape.split(',').map(str::trim).filter(|axis| !axis.is_empty());
    let axis = |axis: &str| axis.trim_end_matches('L').parse().map_err(|_| format!("`{axis}` in its shape"));
    let shape = axes.map(axis).collect::<Result<Vec<usize>, String>>()?;
    if shape.is_empty() || shape.len() > 8 {
        return Err(format!("has {} axes", shape.len()));
    }
    let width = width.parse().map_err(|_| unknown())?;
    Ok(Header { descr: descr.to_string(), kind, width, big_endian, fortran, shape })
}

/// What follows a key of the dictionary.
fn value<'a>(text: &'a str, key: &str) -> Result<&'a str, String> {
    let found = [format!("'{key}'"), format!("\"{key}\"")].into_iter().find_map(|key| {
        let after = text.split_once(key.as_str())?.1;
        after.trim_start().strip_prefix(':').map(str::trim_start)
    });
    found.ok_or_else(|| format!("the header has no `{key}`"))
}

/// From column-major (the first axis runs fastest) to row-major order.
fn row_major(bytes: &[u8], width: usize, shape: &[usize]) -> Vec<u8> {
    let strides: Vec<usize> = shape
        .iter()
        .scan(width, |stride, &axis| {
            let this = *stride;
            *stride *= axis;
            Some(this)
        })
        .collect();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    while out.len() < bytes.len() {
        out.extend_from_slice(&bytes[at..at + width]);
        // the next index, last axis first
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}

impl Array {
    /// The elements as 64-bit integers.
    pub(crate) fn integers(&self) -> Result<Vec<i64>> {
        let signed = self.kind == Kind::Signed;
        let integer = |bytes: &[u8]| {
            let high = if signed && bytes[bytes.len() - 1] >= 0x80 { 0xff } else { 0 };
            let mut whole = [high; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            match signed {
                true => Ok(i64::from_le_bytes(whole)),
                false => i64::try_from(u64::from_le_bytes(whole)),
            }
        };
        let integers: Result<Vec<i64>, _> = self.bytes.chunks_exact(self.width).map(integer).collect();
        integers.map_err(|_| Error::Format { file: self.name.clone(), why: "a label is above 2^63".into() })
    }

    /// The elements of an array of floats.
    pub(crate) fn floats(&self) -> Vec<f32> {
        let float = |bytes: &[u8]| match *bytes {
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
            _ => f32::NAN,
        };
        self.bytes.chunks_exact(self.width).map(float).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An array as NumPy writes it.
    fn npy(descr: &str, fortran: bool, shape: &str, values: &[u8]) -> Vec<u8> {
        let order = if fortran { "True" } else { "False" };
        let mut text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
        while (text.len() + 11) % 64 != 0 {
            text.push(' ');
        }
        text.push('\n');
        let length = (text.len() as u16).to_le_bytes();
        [MAGIC, &[1, 0], &length, text.as_bytes(), values].concat()
    }

    fn parse(bytes: &[u8], purpose: Use) -> Result<Array> {
        read(bytes, bytes.len() as u64, "a.npy", purpose)
    }

    fn why(bytes: &[u8], purpose: Use) -> String {
        parse(bytes, purpose).unwrap_err().to_string()
    }

    #[test]
    fn integers_of_all_types() {
        let labels = |descr, values: &[u8]| {
            let count = values.len() / descr_width(descr);
            parse(&npy(descr, false, &format!("({count},)"), values), Use::Labels).unwrap().integers()
        };
        assert_eq!(labels("|u1", &[1, 255]).unwrap(), [1, 255]);
        assert_eq!(labels("|i1", &[1, 255]).unwrap(), [1, -1]);
        assert_eq!(labels("<i2", &[1, 2, 0xfe, 0xff]).unwrap(), [513, -2]);
        assert_eq!(labels(">i2", &[1, 2, 0xff, 0xfe]).unwrap(), [258, -2]);
        assert_eq!(labels("<u4", &[1, 0, 0, 0xff]).unwrap(), [0xff00_0001]);
        assert_eq!(labels(">i8", &(-7i64).to_be_bytes()).unwrap(), [-7]);
        assert_eq!(labels("<u8", &9u64.to_le_bytes()).unwrap(), [9]);
        assert!(labels("<u8", &u64::MAX.to_le_bytes()).is_err());
    }

    fn descr_width(descr: &str) -> usize {
        descr[2..].parse().unwrap()
    }

    #[test]
    fn floats_of_both_byte_orders() {
        let floats = |descr, values: &[u8]| {
            parse(&npy(descr, false, "(1, 1, 1)", values), Use::Images).unwrap().floats()
        };
        assert_eq!(floats("<f4", &1.5f32.to_le_bytes()), [1.5]);
        assert_eq!(floats(">f4", &1.5f32.to_be_bytes()), [1.5]);
        assert_eq!(floats(">f8", &(-0.25f64).to_be_bytes()), [-0.25]);
    }

    #[test]
    fn column_major_arrays_are_turned() {
        // numpy.asfortranarray(numpy.arange(6).reshape(1, 2, 3))
        let turned = parse(&npy("|u1", true, "(1, 2, 3)", &[0, 3, 1, 4, 2, 5]), Use::Images).unwrap();
        assert_eq!(turned.bytes, [0, 1, 2, 3, 4, 5]);
        let wide: Vec<u8> = [0u16, 3, 1, 4, 2, 5].iter().flat_map(|v| v.to_be_bytes()).collect();
        let turned = parse(&npy(">u2", true, "(2, 3)", &wide), Use::Labels).unwrap();
        assert_eq!(turned.integers().unwrap(), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn nothing_is_taken_for_what_a_header_claims() {
        let claim = why(&npy("|u1", false, "(1000000000000000, 1, 1)", &[]), Use::Images);
        assert!(claim.contains("not between 1 and"), "{claim}");
        let overflow = why(&npy("<i8", false, "(4294967296, 4294967296)", &[]), Use::Labels);
        assert!(overflow.contains("not between"), "{overflow}");
        assert!(why(&npy("|u1", false, "(99999999999999999999999,)", &[]), Use::Labels).contains("shape"));
        assert!(why(&npy("|u1", false, "(-1,)", &[1]), Use::Labels).contains("`-1`"));
        let truncated = why(&npy("|u1", false, "(5000000, 28, 28)", &[0; 100]), Use::Images);
        assert!(truncated.contains("its header announces 3920000128"), "{truncated}");
        assert!(why(&npy("|u1", false, "(2,)", &[0; 3]), Use::Labels).contains("announces"));
        assert!(why(&npy("|u1", false, "(0,)", &[]), Use::Labels).contains("not between 1"));
        assert!(why(&npy("|u1", false, "()", &[1]), Use::Labels).contains("0 axes"));
        // the length that is said to be there is not believed either
        let cut = npy("|u1", false, "(9,)", &[1]);
        assert!(read(&cut[..], cut.len() as u64 + 8, "a", Use::Labels).is_err());
        let mut long = [MAGIC, &[2, 0], &u32::MAX.to_le_bytes()].concat();
        assert!(why(&long, Use::Labels).contains("header of 4294967295 bytes"));
        long[6] = 9;
        assert!(why(&long, Use::Labels).contains("format 9"));
    }

    #[test]
    fn types_that_do_not_suit_are_named() {
        assert!(why(&npy("<f4", false, "(1,)", &[0; 4]), Use::Labels).contains("labels have to be integers"));
        assert!(why(&npy("<i8", false, "(1,1,1)", &[0; 8]), Use::Images).contains("have to be uint8"));
        assert!(why(&npy("<c8", false, "(1,)", &[0; 8]), Use::Labels).contains("`<c8` are not supported"));
        assert!(why(&npy("|O", false, "(1,)", &[0; 8]), Use::Labels).contains("not supported"));
        assert!(why(&npy("é", false, "(1,)", &[0; 8]), Use::Labels).contains("not supported"));
        let records = npy("x", false, "(1,)", &[0]);
        let records = String::from_utf8_lossy(&records[10..]).replace("'x'", "[('a', '<i4')]");
        let bytes = [MAGIC, &[1, 0], &(records.len() as u16).to_le_bytes(), records.as_bytes()].concat();
        assert!(why(&bytes, Use::Labels).contains("records"));
        assert!(why(b"PK\x03\x04........", Use::Labels).contains("not a NumPy array"));
    }

    proptest! {
        #[test]
        fn damage_gives_errors(at in 0usize..1_000, value: u8, cut: bool) {
            let mut bytes = npy("<u2", false, "(3, 2)", &[7; 12]);
            let at = at % bytes.len();
            if cut {
                prop_assert!(parse(&bytes[..at], Use::Labels).is_err());
            } else {
                bytes[at] = value;
                if let Ok(array) = parse(&bytes, Use::Labels) {
                    prop_assert_eq!(array.bytes.len(), array.shape.iter().product::<usize>() * array.width);
                    let _ = array.integers();
                }
            }
        }

        #[test]
        fn any_header_never_panics(text in "[{}()\\[\\]',: 0-9a-zé<>|]{0,60}", descr in "[<>|]?[uif][1248]") {
            let _ = header(&text);
            let _ = header(&format!("{{'descr': '{descr}', 'fortran_order': True, 'shape': {text}"));
        }
    }
}
