//! Element types of constants.

use crate::proto::data_type as code;
use std::fmt;

/// The element type of a constant, as the standard has them. Half floats are held in 32 bits, rounded to
/// their type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names say it
pub enum ElementKind {
    Float,
    Float16,
    BFloat16,
    Double,
    Int64,
    Int32,
    Int16,
    Int8,
    Int4,
    UInt64,
    UInt32,
    UInt16,
    UInt8,
    UInt4,
    Bool,
}

impl ElementKind {
    /// All kinds with their codes and names in the standard.
    const ALL: [(ElementKind, i32, &'static str); 15] = [
        (ElementKind::Float, code::FLOAT, "float"),
        (ElementKind::Float16, code::FLOAT16, "float16"),
        (ElementKind::BFloat16, code::BFLOAT16, "bfloat16"),
        (ElementKind::Double, code::DOUBLE, "double"),
        (ElementKind::Int64, code::INT64, "int64"),
        (ElementKind::Int32, code::INT32, "int32"),
        (ElementKind::Int16, code::INT16, "int16"),
        (ElementKind::Int8, code::INT8, "int8"),
        (ElementKind::Int4, code::INT4, "int4"),
        (ElementKind::UInt64, code::UINT64, "uint64"),
        (ElementKind::UInt32, code::UINT32, "uint32"),
        (ElementKind::UInt16, code::UINT16, "uint16"),
        (ElementKind::UInt8, code::UINT8, "uint8"),
        (ElementKind::UInt4, code::UINT4, "uint4"),
        (ElementKind::Bool, code::BOOL, "bool"),
    ];

    /// The kind with a code of the standard.
    pub(crate) fn from_code(code: i32) -> Option<ElementKind> {
        ElementKind::ALL.iter().find(|(_, c, _)| *c == code).map(|(kind, ..)| *kind)
    }

    pub(crate) fn is_float(self) -> bool {
        use ElementKind::{BFloat16, Double, Float, Float16};
        matches!(self, Float | Float16 | BFloat16 | Double)
    }

    /// Bits of an element in a file.
    pub(crate) fn bits(self) -> usize {
        use ElementKind::*;
        match self {
            Int4 | UInt4 => 4,
            Int8 | UInt8 | Bool => 8,
            Float16 | BFloat16 | Int16 | UInt16 => 16,
            Float | Int32 | UInt32 => 32,
            Double | Int64 | UInt64 => 64,
        }
    }

    /// The smallest and largest integer of an integer kind; unsigned 64-bit integers only up to the signed
    /// maximum.
    pub(crate) fn range(self) -> (i64, i64) {
        use ElementKind::*;
        match self {
            Int4 => (-8, 7),
            UInt4 => (0, 15),
            Int8 => (-128, 127),
            UInt8 => (0, 255),
            Int16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
            UInt16 => (0, i64::from(u16::MAX)),
            Int32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
            UInt32 => (0, i64::from(u32::MAX)),
            UInt64 => (0, i64::MAX),
            Bool => (0, 1),
            Int64 | Float | Float16 | BFloat16 | Double => (i64::MIN, i64::MAX),
        }
    }

    /// An integer in this kind, as a conversion in C does it: the low bits.
    pub(crate) fn wrap(self, value: i64) -> i64 {
        use ElementKind::*;
        match self {
            Int4 => (value << 60) >> 60,
            UInt4 => value & 15,
            Int8 => i64::from(value as i8),
            UInt8 => i64::from(value as u8),
            Int16 => i64::from(value as i16),
            UInt16 => i64::from(value as u16),
            Int32 => i64::from(value as i32),
            UInt32 => i64::from(value as u32),
            Bool => i64::from(value != 0),
            _ => value,
        }
    }

    /// A float in this kind, held in 32 bits.
    pub(crate) fn round(self, value: f32) -> f32 {
        match self {
            ElementKind::Float16 => half::f16::from_f32(value).to_f32(),
            ElementKind::BFloat16 => half::bf16::from_f32(value).to_f32(),
            _ => value,
        }
    }
}

impl fmt::Display for ElementKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ElementKind::ALL.iter().find(|(kind, ..)| kind == self).map_or("", |(.., name)| name);
        f.write_str(name)
    }
}
