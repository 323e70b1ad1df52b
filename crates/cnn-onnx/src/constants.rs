//! Constants of a file: typed fields, raw bytes, or a section of another file.

use crate::kind::ElementKind;
use crate::proto::TensorProto;
use crate::value::{Data, MOST_AXES, Value, checked_elements, claimed_elements};
use crate::{Error, Result};
use prost::Message;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};

/// Most elements of a tensor that is read alone.
const ALONE: u64 = 1 << 29;

impl Value {
    /// Reads a `TensorProto` from its bytes, as the standard's test data has them.
    ///
    /// # Errors
    /// If the bytes are damaged, or of a type that is not supported.
    pub fn from_tensor_bytes(bytes: &[u8]) -> Result<Value> {
        let proto = TensorProto::decode(bytes).map_err(|e| Error::Damaged(e.to_string()))?;
        read(&proto, None, ALONE)
    }
}

/// Reads a constant; values in other files are looked for in `directory`.
pub(crate) fn read(proto: &TensorProto, directory: Option<&Path>, limit: u64) -> Result<Value> {
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
    let data = if proto.data_location == 1 {
        from_bytes(kind, count, &external(proto, directory, bytes)?)
    } else if let Some(raw) = proto.raw_data.as_ref().filter(|raw| !raw.is_empty() || bytes == 0) {
        if raw.len() != bytes {
            return Err(bad(format!(
                "{} bytes for {count} values of type {kind} ({bytes} bytes)",
                raw.len()
            )));
        }
        from_bytes(kind, count, raw)
    } else {
        typed(proto, kind, count).ok_or_else(|| {
            bad(format!("it does not hold the {count} values of type {kind} that its shape {shape:?} says"))
        })?
    };
    Ok(Value::new(kind, shape, data))
}

/// Little-endian elements; as many bytes as the count needs.
fn from_bytes(kind: ElementKind, count: usize, raw: &[u8]) -> Data {
    use ElementKind::*;
    match kind {
        Float => Data::F32(raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Double => Data::F64(raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()),
        Float16 => {
            Data::F32(raw.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect())
        }
        BFloat16 => {
            Data::F32(raw.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect())
        }
        Int64 => Data::I64(raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        UInt64 => Data::I64(raw.as_chunks().0.iter().map(|b| clamped(u64::from_le_bytes(*b))).collect()),
        UInt32 => Data::I64(raw.as_chunks().0.iter().map(|b| i64::from(u32::from_le_bytes(*b))).collect()),
        Int32 => Data::I32(raw.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()),
        Int16 => Data::I32(raw.as_chunks().0.iter().map(|b| i32::from(i16::from_le_bytes(*b))).collect()),
        UInt16 => Data::I32(raw.as_chunks().0.iter().map(|b| i32::from(u16::from_le_bytes(*b))).collect()),
        Int8 => Data::I8(raw.iter().map(|&b| b as i8).collect()),
        UInt8 => Data::U8(raw.to_vec()),
        Bool => Data::U8(raw.iter().map(|&b| u8::from(b != 0)).collect()),
        UInt4 => Data::U8(nibbles(raw, count).collect()),
        Int4 => Data::I8(nibbles(raw, count).map(|n| ((n << 4) as i8) >> 4).collect()),
    }
}

/// Values above the signed maximum do not occur in shapes and indices.
fn clamped(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Two a byte, the first in the low half.
fn nibbles(raw: &[u8], count: usize) -> impl Iterator<Item = u8> + '_ {
    raw.iter().flat_map(|b| [b & 15, b >> 4]).take(count)
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
            from_bytes(kind, count, &raw)
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

/// The section of another file that holds a constant: `needed` bytes.
fn external(proto: &TensorProto, directory: Option<&Path>, needed: usize) -> Result<Vec<u8>> {
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
    let mut file = File::open(&real).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
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
    let mut bytes = vec![0; needed];
    file.seek(SeekFrom::Start(offset)).map_err(io)?;
    file.read_exact(&mut bytes).map_err(io)?;
    Ok(bytes)
}
