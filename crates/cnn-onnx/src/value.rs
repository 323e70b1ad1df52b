//! Constants: typed values with a shape.

use crate::kind::ElementKind;
use crate::op::Refusal;
use cnn_core::Tensor;
use cnn_core::tensor::{elements, tensor};
use std::sync::Arc;

/// A constant with its element type. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    pub(crate) kind: ElementKind,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Arc<Data>,
}

/// Elements in row-major order, as narrow as their kind allows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    /// Float, float16, bfloat16.
    F32(Vec<f32>),
    /// Double.
    F64(Vec<f64>),
    /// 64 bits, and unsigned 32 bits.
    I64(Vec<i64>),
    /// 32 bits, and 16 bits.
    I32(Vec<i32>),
    /// 8 and 4 bits.
    I8(Vec<i8>),
    /// Unsigned 8 and 4 bits, and truth values.
    U8(Vec<u8>),
    /// Integers that depend on the size of the batch, of any integer kind.
    Sym(Vec<Sym>),
}

/// `times * batch + plus`: an integer that depends on the size of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sym {
    pub times: i64,
    pub plus: i64,
}

impl Sym {
    /// The size of the batch.
    pub const BATCH: Sym = Sym { times: 1, plus: 0 };

    /// An integer that does not depend on it.
    pub fn known(plus: i64) -> Sym {
        Sym { times: 0, plus }
    }

    /// The integer, if it does not depend on the batch.
    pub fn get(self) -> Option<i64> {
        (self.times == 0).then_some(self.plus)
    }
}

/// Evaluates an expression for the elements of whatever type.
macro_rules! each {
    ($data:expr, $v:ident => $e:expr) => {
        match $data {
            Data::F32($v) => $e,
            Data::F64($v) => $e,
            Data::I64($v) => $e,
            Data::I32($v) => $e,
            Data::I8($v) => $e,
            Data::U8($v) => $e,
            Data::Sym($v) => $e,
        }
    };
}

/// Makes elements of the same type with an expression for whatever type.
macro_rules! same {
    ($data:expr, $v:ident => $e:expr) => {
        match $data {
            Data::F32($v) => Data::F32($e),
            Data::F64($v) => Data::F64($e),
            Data::I64($v) => Data::I64($e),
            Data::I32($v) => Data::I32($e),
            Data::I8($v) => Data::I8($e),
            Data::U8($v) => Data::U8($e),
            Data::Sym($v) => Data::Sym($e),
        }
    };
}

impl Value {
    /// A constant of 32-bit floats.
    pub fn from_tensor(tensor: &Tensor) -> Value {
        Value::floats(ElementKind::Float, tensor.shape().to_vec(), tensor.iter().copied().collect())
    }

    /// Element type.
    pub fn kind(&self) -> ElementKind {
        self.kind
    }

    /// Shape; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        each!(&*self.data, v => v.len())
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as 32-bit floats.
    pub fn to_f32(&self) -> Tensor {
        tensor(&self.shape, self.f32s()).unwrap_or_default()
    }

    /// As [`Value::to_f32`], in the memory that the elements have, if nobody else reads them.
    pub(crate) fn into_f32(self) -> Tensor {
        match Arc::try_unwrap(self.data) {
            Ok(Data::F32(values)) => tensor(&self.shape, values).unwrap_or_default(),
            Ok(data) => Value { data: Arc::new(data), ..self }.to_f32(),
            Err(data) => Value { data, ..self }.to_f32(),
        }
    }

    pub(crate) fn new(kind: ElementKind, shape: Vec<usize>, data: Data) -> Value {
        debug_assert_eq!(elements(&shape), each!(&data, v => v.len()));
        Value { kind, shape, data: Arc::new(data) }
    }

    /// Floats of kind float, or rounded to a half float.
    pub(crate) fn floats(kind: ElementKind, shape: Vec<usize>, mut values: Vec<f32>) -> Value {
        if matches!(kind, ElementKind::Float16 | ElementKind::BFloat16) {
            values.iter_mut().for_each(|v| *v = kind.round(*v));
        }
        Value::new(kind, shape, Data::F32(values))
    }

    /// Integers of an integer kind, wrapped into its range.
    pub(crate) fn integers(kind: ElementKind, shape: Vec<usize>, values: impl Iterator<Item = i64>) -> Value {
        use ElementKind::*;
        let values = values.map(|v| kind.wrap(v));
        let data = match kind {
            Int4 | Int8 => Data::I8(values.map(|v| v as i8).collect()),
            UInt4 | UInt8 | Bool => Data::U8(values.map(|v| v as u8).collect()),
            Int16 | UInt16 | Int32 => Data::I32(values.map(|v| v as i32).collect()),
            _ => Data::I64(values.collect()),
        };
        Value::new(kind, shape, data)
    }

    /// 64-bit integers in one axis.
    pub(crate) fn list(values: &[i64]) -> Value {
        Value::new(ElementKind::Int64, vec![values.len()], Data::I64(values.to_vec()))
    }

    /// Integers that may depend on the batch; plain ones if none does.
    pub(crate) fn symbols(kind: ElementKind, shape: Vec<usize>, values: Vec<Sym>) -> Value {
        if values.iter().any(|s| s.times != 0) {
            return Value::new(kind, shape, Data::Sym(values));
        }
        let plain = values.into_iter().map(|s| s.plus);
        match kind {
            ElementKind::Double => Value::new(kind, shape, Data::F64(plain.map(|v| v as f64).collect())),
            kind if kind.is_float() => Value::floats(kind, shape, plain.map(|v| v as f32).collect()),
            kind => Value::integers(kind, shape, plain),
        }
    }

    /// The same elements in another shape of as many.
    pub(crate) fn reshaped(&self, shape: Vec<usize>) -> Result<Value, Refusal> {
        match checked_elements(&shape) == Some(self.len()) {
            true => Ok(Value { kind: self.kind, shape, data: self.data.clone() }),
            false => Err(Refusal::invalid(format!("{:?} cannot become {shape:?}", self.shape))),
        }
    }

    /// The elements as 32-bit floats, in order.
    pub(crate) fn f32s(&self) -> Vec<f32> {
        match &*self.data {
            Data::F32(v) => v.clone(),
            Data::F64(v) => v.iter().map(|&x| x as f32).collect(),
            Data::I64(v) => v.iter().map(|&x| x as f32).collect(),
            Data::I32(v) => v.iter().map(|&x| x as f32).collect(),
            Data::I8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Data::U8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Data::Sym(v) => v.iter().map(|s| s.get().map_or(f32::NAN, |x| x as f32)).collect(),
        }
    }

    /// The elements as 64-bit floats, in order.
    pub(crate) fn f64s(&self) -> Vec<f64> {
        match &*self.data {
            Data::F64(v) => v.clone(),
            Data::I64(v) => v.iter().map(|&x| x as f64).collect(),
            _ => self.f32s().into_iter().map(f64::from).collect(),
        }
    }

    /// The elements of an integer kind.
    ///
    /// # Errors
    /// If they are floats, or depend on the batch.
    pub(crate) fn i64s(&self) -> Result<Vec<i64>, Refusal> {
        match &*self.data {
            Data::I64(v) => Ok(v.clone()),
            Data::I32(v) => Ok(v.iter().map(|&x| i64::from(x)).collect()),
            Data::I8(v) => Ok(v.iter().map(|&x| i64::from(x)).collect()),
            Data::U8(v) => Ok(v.iter().map(|&x| i64::from(x)).collect()),
            Data::Sym(v) => v
                .iter()
                .map(|s| {
                    s.get().ok_or_else(|| Refusal::unsupported("a setting depends on the size of the batch"))
                })
                .collect(),
            Data::F32(_) | Data::F64(_) => Err(Refusal::invalid(format!(
                "integers are needed where there are values of type {}",
                self.kind
            ))),
        }
    }

    /// The elements of an integer kind, which may depend on the batch.
    pub(crate) fn syms(&self) -> Result<Vec<Sym>, Refusal> {
        match &*self.data {
            Data::Sym(v) => Ok(v.clone()),
            _ => Ok(self.i64s()?.into_iter().map(Sym::known).collect()),
        }
    }

    /// The only element, as a float.
    pub(crate) fn scalar(&self) -> Result<f32, Refusal> {
        match self.f32s()[..] {
            [x] => Ok(x),
            _ => Err(Refusal::invalid(format!("one number is needed where there are {}", self.len()))),
        }
    }

    pub(crate) fn is_symbolic(&self) -> bool {
        matches!(*self.data, Data::Sym(_))
    }

    /// The only element in all places of a shape.
    pub(crate) fn repeated(&self, shape: &[usize]) -> Value {
        let count = elements(shape);
        let data = same!(&*self.data, v => v.iter().cycle().take(count).copied().collect());
        Value::new(self.kind, shape.to_vec(), data)
    }

    /// The element at `sum of tables[axis][i_axis]` for every position `i` of the shape given by the tables'
    /// lengths: transposition, slices, gathers and broadcasting are all such a walk. The offsets must be in
    /// range.
    pub(crate) fn walked(&self, tables: &[Vec<usize>]) -> Value {
        let shape: Vec<usize> = tables.iter().map(Vec::len).collect();
        let data = same!(&*self.data, v => walk(v, tables));
        Value::new(self.kind, shape, data)
    }
}

fn walk<T: Copy>(values: &[T], tables: &[Vec<usize>]) -> Vec<T> {
    let total: usize = tables.iter().map(Vec::len).product();
    let mut out = Vec::with_capacity(total);
    if total == 0 {
        return out;
    }
    let Some((inner, outer)) = tables.split_last() else {
        return values.first().copied().into_iter().collect();
    };
    let mut at = vec![0usize; outer.len()];
    loop {
        let base: usize = outer.iter().zip(&at).map(|(table, &i)| table[i]).sum();
        out.extend(inner.iter().map(|&offset| values[base + offset]));
        // the next position, last axis first
        let Some(axis) = (0..outer.len()).rev().find(|&axis| at[axis] + 1 < outer[axis].len()) else {
            return out;
        };
        at[axis] += 1;
        at[axis + 1..].fill(0);
    }
}

/// Number of elements, if it fits.
pub(crate) fn checked_elements(shape: &[usize]) -> Option<usize> {
    // an absurd size next to an empty axis is no size either
    let fits = shape.iter().filter(|&&d| d > 0).try_fold(1usize, |p, &d| p.checked_mul(d));
    fits.filter(|&p| p <= isize::MAX as usize / 8)?;
    Some(shape.iter().product())
}

/// More axes than any image network has; work grows with their square.
pub(crate) const MOST_AXES: usize = 64;

/// What a shape costs at least: an empty axis hides no large one beside it, for which tables are made.
pub(crate) fn claimed_elements(shape: &[usize]) -> Option<u64> {
    shape.iter().try_fold(1u64, |p, &d| p.checked_mul((d as u64).max(1)))
}

/// Distance between neighbours along each axis.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}

/// For each axis the offsets of all its positions.
pub(crate) fn plain_tables(shape: &[usize]) -> Vec<Vec<usize>> {
    strides(shape).iter().zip(shape).map(|(&stride, &size)| (0..size).map(|i| i * stride).collect()).collect()
}

/// An axis that may be counted from the end.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Result<usize, Refusal> {
    let counted = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    match counted.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank) {
        Some(axis) => Ok(axis),
        None => Err(Refusal::invalid(format!("axis {axis} of {rank}"))),
    }
}
