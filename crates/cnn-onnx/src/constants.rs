//! Constants of a file: typed fields, raw bytes, or a section of another file.

use crate::kind::ElementKind;
use crate::outline::{Kind, LARGE, outline};
use crate::proto::TensorProto;
use crate::source::{ReadSeek, Source};
use crate::value::{Data, MOST_AXES, Value, checked_elements, claimed_elements};
use crate::{Error, Result};
use prost::Message;
use std::fs::File;
use std::io;
use std::path::{Component, Path};

/// Most elements of a tensor that is read alone.
const ALONE: u64 = 1 << 29;

impl Value {
    /// Reads a `TensorProto` from its bytes, as the standard's test data has them.
    ///
    /// # Errors
    /// If the bytes are damaged, or of a type that is not supported.
    pub fn from_tensor_bytes(bytes: &[u8]) -> Result<Value> {
        let source = Source::bytes(bytes);
        let outline = outline(&source, Kind::Tensor, LARGE)?;
        let proto = TensorProto::decode(&outline[..]).map_err(|e| Error::Damaged(e.to_string()))?;
        read(&proto, &source, None, ALONE)
    }
}

/// Reads a constant of the file; values in other files are looked for in `directory`.
pub(crate) fn read(
    proto: &TensorProto,
    source: &Source<'_>,
    directory: Option<&Path>,
    limit: u64,
) -> Result<Value> {
    let bad = |why: String| Error::Tensor { name: proto.name.clone(), why };
    let kind = ElementKind::from_code(proto.data_type)
        .ok_or_else(|| bad(format!("the element type {} is not supported", proto.data_type)))?;
    let shape = proto.dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<Vec<_>>>();
    let shape = shape.ok_or_else(|| bad(format!("its shape {:?} has a negative size", proto.dims)))?;
    let within = claimed_elements(&shape).is_some_and(|n| n <= limit) && shape.len() <= MOST_AXES;
    let count = checked_elements(&shape).filter(|_| within);
    let count = count.ok_or_else(|| Error::TooLarge {
        what: format!("the constant `{}`", proto.name),
        elements: shape.iter().map(|d| d.to_string()).collect::<Vec<_>>().join(" x "),
        limit,
    })?;
    let bytes = (count * kind.bits()).div_ceil(8);
    let fits = |length: u64| match length == bytes as u64 {
        true => Ok(()),
        false => Err(bad(format!("{length} bytes for {count} values of type {kind} ({bytes} bytes)"))),
    };
    let raw = proto.raw_data.as_ref().filter(|raw| !raw.is_empty() || bytes == 0);
    let data = if proto.data_location == 1 {
        let (file, offset) = external(proto, directory, bytes)?;
        file.read(offset, |from| decode(kind, count, from))?
    } else if let Some(section) = proto.section.filter(|s| !s.packed_floats || kind == ElementKind::Float) {
        // as many bytes as there are, before memory is taken for them
        fits(section.length)?;
        source.read(section.offset, |from| decode(kind, count, from))?
    } else if let Some(raw) = raw {
        fits(raw.len() as u64)?;
        Source::bytes(raw).read(0, |from| decode(kind, count, from))?
    } else {
        typed(proto, kind, count).ok_or_else(|| {
            bad(format!("it does not hold the {count} values of type {kind} that its shape {shape:?} says"))
        })?
    };
    Ok(Value::new(kind, shape, data))
}

/// Little-endian elements, from as many bytes as the count needs.
fn decode(kind: ElementKind, count: usize, from: &mut dyn ReadSeek) -> io::Result<Data> {
    use ElementKind::*;
    Ok(match kind {
        Float => Data::F32(values(count, from, f32::from_le_bytes)?),
        Double => Data::F64(values(count, from, f64::from_le_bytes)?),
        Float16 => Data::F32(values(count, from, |b| half::f16::from_le_bytes(b).to_f32())?),
        BFloat16 => Data::F32(values(count, from, |b| half::bf16::from_le_bytes(b).to_f32())?),
        Int64 => Data::I64(values(count, from, i64::from_le_bytes)?),
        UInt64 => Data::I64(values(count, from, |b| clamped(u64::from_le_bytes(b)))?),
        UInt32 => Data::I64(values(count, from, |b| i64::from(u32::from_le_bytes(b)))?),
        Int32 => Data::I32(values(count, from, i32::from_le_bytes)?),
        Int16 => Data::I32(values(count, from, |b| i32::from(i16::from_le_bytes(b)))?),
        UInt16 => Data::I32(values(count, from, |b| i32::from(u16::from_le_bytes(b)))?),
        Int8 => Data::I8(values(count, from, i8::from_le_bytes)?),
        UInt8 => Data::U8(values(count, from, u8::from_le_bytes)?),
        Bool => Data::U8(values(count, from, |[b]| u8::from(b != 0))?),
        Int4 | UInt4 => nibbles(kind, count, &values(count.div_ceil(2), from, u8::from_le_bytes)?),
    })
}

/// Bytes that are read at once, a multiple of the size of any element.
const BLOCK: usize = 64 * 1024;

/// Elements of `N` bytes each, by blocks: memory holds them once.
fn values<T, const N: usize>(
    count: usize,
    from: &mut dyn ReadSeek,
    value: impl Fn([u8; N]) -> T,
) -> io::Result<Vec<T>> {
    let mut values = Vec::with_capacity(count);
    let mut block = vec![0; BLOCK.min(count * N)];
    while values.len() < count {
        let bytes = block.len().min((count - values.len()) * N);
        from.read_exact(&mut block[..bytes])?;
        values.extend(block[..bytes].as_chunks().0.iter().map(|b| value(*b)));
    }
    Ok(values)
}

/// Values above the signed maximum do not occur in shapes and indices.
fn clamped(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Two elements a byte, the first in the low half.
fn nibbles(kind: ElementKind, count: usize, raw: &[u8]) -> Data {
    let nibbles = raw.iter().flat_map(|b| [b & 15, b >> 4]).take(count);
    match kind {
        ElementKind::Int4 => Data::I8(nibbles.map(|n| ((n << 4) as i8) >> 4).collect()),
        _ => Data::U8(nibbles.collect()),
    }
}

/// The values of the field that the standard has for the type.
fn typed(proto: &TensorProto, kind: ElementKind, count: usize) -> Option<Data> {
    use ElementKind::*;
    let small = &proto.int32_data;
    let data = match kind {
        Float => Data::F32(proto.float_data.clone()),
        Double => Data::F64(proto.double_data.clone()),
        Float16 => Data::F32(small.iter().map(|&b| half::f16::from_bits(b as u16).to_f32()).collect()),
        BFloat16 => Data::F32(small.iter().map(|&b| half::bf16::from_bits(b as u16).to_f32()).collect()),
        Int64 => Data::I64(proto.int64_data.clone()),
        UInt64 | UInt32 => Data::I64(proto.uint64_data.iter().map(|&v| clamped(v)).collect()),
        Int32 | Int16 | UInt16 => Data::I32(small.iter().map(|&v| kind.wrap(i64::from(v)) as i32).collect()),
        Int8 => Data::I8(small.iter().map(|&v| v as i8).collect()),
        UInt8 => Data::U8(small.iter().map(|&v| v as u8).collect()),
        Bool => Data::U8(small.iter().map(|&v| u8::from(v != 0)).collect()),
        Int4 | UInt4 => {
            let raw: Vec<u8> = small.iter().map(|&v| v as u8).collect();
            if raw.len() != count.div_ceil(2) {
                return None;
            }
            nibbles(kind, count, &raw)
        }
    };
    let length = match &data {
        Data::F32(v) => v.len(),
        Data::F64(v) => v.len(),
        Data::I64(v) => v.len(),
        Data::I32(v) => v.len(),
        Data::I8(v) => v.len(),
        Data::U8(v) => v.len(),
        Data::Sym(v) => v.len(),
    };
    (length == count).then_some(data)
}

/// The other file that holds a constant, and from where on it has the `needed` bytes.
fn external(proto: &TensorProto, directory: Option<&Path>, needed: usize) -> Result<(Source<'static>, u64)> {
    let bad = |why: String| Error::Tensor { name: proto.name.clone(), why };
    let entry = |key: &str| proto.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(text) => {
            text.parse::<u64>().map(Some).map_err(|_| bad(format!("`{text}` is no {key} in another file")))
        }
    };
    let location =
        entry("location").ok_or_else(|| bad("its values are in another file without a name".into()))?;
    let Some(directory) = directory else {
        return Err(bad(format!(
            "its values are in another file, `{location}`; load the model from its path, not from bytes"
        )));
    };
    let relative = Path::new(location);
    let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside || location.is_empty() {
        return Err(bad(format!(
            "its values are in `{location}`, outside the model's directory, where nothing is read; put the file next to the model and export again"
        )));
    }
    let path = directory.join(relative);
    let io = |source| Error::Io { path: path.clone(), source };
    let real = path.canonicalize().map_err(io)?;
    if !real.starts_with(directory.canonicalize().map_err(io)?) {
        return Err(bad(format!(
            "`{location}` is a link out of the model's directory, where nothing is read; copy the file"
        )));
    }
    // before it is opened: opening a pipe waits for a writer
    let metadata = std::fs::metadata(&real).map_err(io)?;
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    if length.is_some_and(|l| l != needed as u64) {
        return Err(bad(format!("a section of {} bytes where {needed} are needed", length.unwrap_or(0))));
    }
    let end = offset.checked_add(needed as u64);
    if !metadata.is_file() || end.is_none_or(|end| end > metadata.len()) {
        return Err(bad(format!(
            "`{location}` has {} bytes, but {needed} from {offset} on are needed; the file is cut or not the right one",
            metadata.len()
        )));
    }
    let file = File::open(&real).map_err(io)?;
    Ok((Source::File { file, path: real, length: metadata.len() }, offset))
}
