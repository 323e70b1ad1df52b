//! The outline of a file: its messages without the values of large constants, of which only the places are
//! noted.
//!
//! A model is a few kilobytes of structure around many megabytes of weights. The outline is decoded at once,
//! the weights are read one by one when they are asked for.

use crate::Result;
use crate::proto::SectionProto;
use crate::source::{ReadSeek, Source};
use prost::Message;
use std::io::{Error, ErrorKind, Read, SeekFrom};

/// Bytes from which on values stay in the file.
pub(crate) const LARGE: u64 = 4096;

/// The messages that lead to constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
}

impl Kind {
    /// The message in a field, if it is to be looked into.
    fn inner(self, field: u64) -> Option<Kind> {
        match (self, field) {
            (Kind::Model, 7) => Some(Kind::Graph),
            (Kind::Graph, 1) => Some(Kind::Node),
            (Kind::Graph, 5) | (Kind::Attribute, TENSOR) => Some(Kind::Tensor),
            (Kind::Node, 5) => Some(Kind::Attribute),
            _ => None,
        }
    }
}

/// The field of an attribute for its tensor.
const TENSOR: u64 = 5;
/// Fields of a constant: floats one after the other, and little-endian bytes, which is the same for floats.
const FLOAT_DATA: u64 = 4;
const RAW_DATA: u64 = 9;
/// The field for a place in the file; one that the file has itself is left out.
const SECTION: u64 = 1_000_000;

/// Types of fields in protobuf.
mod wire {
    pub const VARINT: u64 = 0;
    pub const EIGHT_BYTES: u64 = 1;
    pub const BYTES: u64 = 2;
    pub const FOUR_BYTES: u64 = 5;
}

/// Reads the outline of a file that is a message of a kind; values of `large` bytes or more stay there.
pub(crate) fn outline(source: &Source<'_>, kind: Kind, large: u64) -> Result<Vec<u8>> {
    source.read(0, |from| {
        let mut outline = Outline { from, at: 0, large, out: Vec::new() };
        outline.message(kind, source.length())?;
        Ok(outline.out)
    })
}

struct Outline<'a> {
    from: &'a mut dyn ReadSeek,
    /// How far the file is read.
    at: u64,
    large: u64,
    out: Vec<u8>,
}

fn damaged(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, why.into())
}

impl Outline<'_> {
    /// Copies the fields of a message up to its end.
    fn message(&mut self, kind: Kind, end: u64) -> std::io::Result<()> {
        let (begin, start) = (self.at, self.out.len());
        // fields that hold the values, and the large one
        let (mut fields, mut section) = (0, None);
        while self.at < end {
            let key = self.varint(end)?;
            let (field, wire) = (key >> 3, key & 7);
            if wire == wire::VARINT {
                let value = self.varint(end)?;
                if field != SECTION {
                    self.put(key);
                    self.put(value);
                }
                continue;
            }
            let size = match wire {
                wire::EIGHT_BYTES => 8,
                wire::FOUR_BYTES => 4,
                wire::BYTES => self.varint(end)?,
                _ => return Err(damaged(format!("a field of type {wire} at byte {}", self.at))),
            };
            if size > end - self.at {
                return Err(damaged(format!(
                    "{size} bytes at byte {}, where {} are left",
                    self.at,
                    end - self.at
                )));
            }
            let values = kind == Kind::Tensor && [FLOAT_DATA, RAW_DATA].contains(&field);
            fields += u64::from(values || kind == Kind::Attribute && field == TENSOR);
            if kind == Kind::Attribute && fields > 1 {
                return Err(damaged(format!("a second tensor in an attribute at byte {}", self.at)));
            }
            if field == SECTION {
                self.skip(size)?;
            } else if let Some(inner) = kind.inner(field).filter(|_| wire == wire::BYTES) {
                self.put(key);
                self.inner(inner, self.at + size)?;
            } else if values && wire == wire::BYTES && size >= self.large {
                section =
                    Some(SectionProto { offset: self.at, length: size, packed_floats: field == FLOAT_DATA });
                self.skip(size)?;
            } else {
                self.put(key);
                if wire == wire::BYTES {
                    self.put(size);
                }
                self.copy(size)?;
            }
        }
        match section {
            // values in pieces, which nobody writes, are put together where the message is decoded
            Some(_) if fields > 1 => {
                self.out.truncate(start);
                self.from.seek(SeekFrom::Start(begin))?;
                self.at = begin;
                let large = std::mem::replace(&mut self.large, u64::MAX);
                self.message(kind, end)?;
                self.large = large;
            }
            Some(section) => {
                self.put(SECTION << 3 | wire::BYTES);
                self.out.extend(section.encode_length_delimited_to_vec());
            }
            None => {}
        }
        Ok(())
    }

    /// Copies a message inside another one, with its new length in front.
    fn inner(&mut self, kind: Kind, end: u64) -> std::io::Result<()> {
        let length_at = self.out.len();
        self.out.extend([0; LENGTH]);
        self.message(kind, end)?;
        let mut length = (self.out.len() - length_at - LENGTH) as u64;
        for (i, byte) in self.out[length_at..][..LENGTH].iter_mut().enumerate() {
            *byte = (length & 127) as u8 | if i + 1 < LENGTH { 128 } else { 0 };
            length >>= 7;
        }
        match length {
            0 => Ok(()),
            _ => Err(damaged("too much besides weights")),
        }
    }

    fn byte(&mut self, end: u64) -> std::io::Result<u8> {
        if self.at == end {
            return Err(damaged(format!("a number goes beyond its message at byte {end}")));
        }
        let mut byte = [0];
        self.from.read_exact(&mut byte)?;
        self.at += 1;
        Ok(byte[0])
    }

    /// A number, seven bits a byte, the lowest first.
    fn varint(&mut self, end: u64) -> std::io::Result<u64> {
        let mut value = 0;
        for i in 0..10 {
            let byte = self.byte(end)?;
            value |= u64::from(byte & 127) << (7 * i);
            match (i, byte) {
                // only one bit of the tenth byte is left
                (9, 2..) => break,
                (_, ..128) => return Ok(value),
                _ => {}
            }
        }
        Err(damaged(format!("a number of more than 64 bits at byte {}", self.at)))
    }

    fn put(&mut self, mut value: u64) {
        while value >= 128 {
            self.out.push((value & 127) as u8 | 128);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn copy(&mut self, size: u64) -> std::io::Result<()> {
        self.at += size;
        let copied = (&mut *self.from).take(size).read_to_end(&mut self.out)?;
        match copied as u64 == size {
            true => Ok(()),
            false => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    fn skip(&mut self, size: u64) -> std::io::Result<()> {
        self.at += size;
        let size = i64::try_from(size).map_err(|_| damaged("an absurd size"))?;
        self.from.seek_relative(size)
    }
}

/// Bytes of the length of a message, whatever it is: it is known only behind the message.
const LENGTH: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
    use proptest::prelude::*;
    use proptest::sample::Index;

    /// Constants in all forms, as initializers and in a node.
    fn model() -> Vec<u8> {
        let raw = TensorProto { dims: vec![2], raw_data: Some((0..8).collect()), ..Default::default() };
        let floats = TensorProto { float_data: vec![1.0, -2.0, 0.5], data_type: 1, ..Default::default() };
        let both = TensorProto { int64_data: vec![7, 300], name: "both".into(), ..raw.clone() };
        let pieces = TensorProto { raw_data: raw.raw_data.clone(), ..floats.clone() };
        let attribute = AttributeProto { t: Some(raw.clone()), ints: vec![1, 2], ..Default::default() };
        let node = NodeProto { name: "n".into(), attribute: vec![attribute; 2], ..Default::default() };
        let graph = GraphProto {
            node: vec![node, NodeProto::default()],
            initializer: vec![raw, floats, both, TensorProto::default(), pieces],
            ..Default::default()
        };
        ModelProto { ir_version: 8, graph: Some(graph), ..Default::default() }.encode_to_vec()
    }

    /// Puts the values that were left in the file back to where they belong; false if they are no floats.
    fn put_back(tensor: &mut TensorProto, bytes: &[u8]) -> bool {
        let Some(section) = tensor.section.take() else { return true };
        let values = &bytes[section.offset as usize..][..section.length as usize];
        match section.packed_floats {
            true => tensor.float_data = values.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            false => tensor.raw_data = Some(values.to_vec().into()),
        }
        !section.packed_floats || values.len().is_multiple_of(4)
    }

    /// The outline with the values is what the decoder makes of the whole file.
    fn check(bytes: &[u8], large: u64) {
        let whole = ModelProto::decode(bytes);
        let outline = match outline(&Source::bytes(bytes), Kind::Model, large) {
            Ok(outline) => ModelProto::decode(&outline[..]),
            Err(error) => {
                // the decoder skips groups, and puts tensors together
                let why = error.to_string();
                let stricter = ["a field of type 3", "a second tensor"].iter().any(|s| why.contains(s));
                assert!(whole.is_err() || stricter, "{why}");
                return;
            }
        };
        let Ok(mut outline) = outline else {
            assert!(whole.is_err());
            return;
        };
        let mut floats = true;
        for graph in outline.graph.iter_mut() {
            let inside = graph.node.iter_mut().flat_map(|n| &mut n.attribute).filter_map(|a| a.t.as_mut());
            for tensor in inside.chain(&mut graph.initializer) {
                floats &= put_back(tensor, bytes);
            }
        }
        if floats {
            let whole = whole.expect("the outline can be decoded");
            assert_eq!(outline.encode_to_vec(), whole.encode_to_vec()); // NaN is not equal to itself
        }
    }

    #[test]
    fn the_outline_is_the_file_without_large_values() {
        let bytes = model();
        for large in [1, 8, 9, 12, 13, LARGE] {
            check(&bytes, large);
        }
        let sections = |large| {
            let outline = outline(&Source::bytes(&bytes), Kind::Model, large).unwrap();
            let graph = ModelProto::decode(&outline[..]).unwrap().graph.unwrap();
            graph.initializer.iter().map(|t| t.section.is_some()).collect::<Vec<_>>()
        };
        assert_eq!(sections(8), [true, true, true, false, false]);
        assert_eq!(sections(9), [false, true, false, false, false]);
        assert_eq!(sections(LARGE), [false; 5]);
    }

    #[test]
    fn a_place_that_a_file_names_is_not_looked_at() {
        let section = Some(SectionProto { offset: 1, length: 2, packed_floats: false });
        let bytes = TensorProto { section, name: "a".into(), ..Default::default() }.encode_to_vec();
        let outline = outline(&Source::bytes(&bytes), Kind::Tensor, LARGE).unwrap();
        assert_eq!(
            TensorProto::decode(&outline[..]).unwrap(),
            TensorProto { section: None, name: "a".into(), ..Default::default() }
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn damaged_files(changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4), large in 1u64..16) {
            let mut bytes = model();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            check(&bytes, large);
        }

        #[test]
        fn cut_and_joined_files(a in any::<Index>(), b in any::<Index>(), large in 1u64..16) {
            let mut bytes = model();
            let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
            bytes.drain(a.min(b)..a.max(b));
            check(&bytes, large);
        }
    }
}
