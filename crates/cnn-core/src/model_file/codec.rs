//! Reading and writing the values that model files are made of.
//!
//! This is the only file that knows bincode: integers are its varints (values below 251 take one byte), and structures
//! go through its serde support.

use crate::error::FormatError;
use crate::param::{Constraint, Param, Role};
use crate::registry::Registry;
use crate::tensor::{Tensor, slice, tensor};
use crate::{Error, Result};
use bincode::config::standard;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Kinds that need no name in the file, by position. Append only: the positions are part of the format.
const WELL_KNOWN: &[&str] = &[
    "input",
    "conv2d",
    "linear",
    "batch_norm",
    "activation",
    "max_pool2d",
    "avg_pool2d",
    "global_avg_pool",
    "flatten",
    "add",
    "mul",
    "concat",
    "channel_map",
    "pad",
    "softmax",
    "reshape",
    "dropout",
    "adaptive_avg_pool",
    "identity",
];

/// Structures (states of hooks and the like) longer than this are refused.
const STRUCTURE_LIMIT: usize = 1 << 26;

const MOST_AXES: usize = 8;
const MOST_SLOTS: usize = 4;
const MOST_CONSTRAINTS: usize = 16;
/// Constraints have parameters, which may have constraints.
const MOST_DEPTH: usize = 4;

/// What a file is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be run: constrained parameters are refused, so that no masked dense network passes for a small one.
    Deploy,
    /// To go on training: base values, constraints and optimizer state are written. No size is reported from it.
    Checkpoint,
}

/// Collects the bytes of a file.
#[derive(Debug)]
pub struct Encoder {
    purpose: Purpose,
    bytes: Vec<u8>,
    /// Byte strings stored once: names of kinds, and tables (codebooks, code lengths) that layers share.
    shared: Vec<Vec<u8>>,
    /// Parameters within constraints within parameters.
    depth: usize,
}

impl Encoder {
    /// An empty encoder.
    pub fn new(purpose: Purpose) -> Encoder {
        Encoder { purpose, bytes: Vec::new(), shared: Vec::new(), depth: 0 }
    }

    /// What the bytes are for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The body written so far and the shared byte strings, in order.
    pub(super) fn finish(self) -> (Vec<u8>, Vec<Vec<u8>>) {
        (self.bytes, self.shared)
    }

    /// Bytes written so far, shared strings not counted.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True if nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// An unsigned integer; one byte below 251.
    ///
    /// # Errors
    /// None in practice: writing goes to memory.
    pub fn uint(&mut self, value: usize) -> Result<()> {
        bincode::encode_into_std_write(value as u64, &mut self.bytes, standard()).map_err(encoding)?;
        Ok(())
    }

    /// One byte.
    pub fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// One value, in four bytes.
    pub fn float(&mut self, value: f32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Values, in four bytes each; the reader must know how many.
    pub fn floats(&mut self, values: &[f32]) {
        self.bytes.reserve(4 * values.len());
        values.iter().for_each(|&v| self.float(v));
    }

    /// Bytes as they are; the reader must know how many.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes behind their number.
    ///
    /// # Errors
    /// As [`Encoder::uint`].
    pub fn blob(&mut self, bytes: &[u8]) -> Result<()> {
        self.uint(bytes.len())?;
        self.raw(bytes);
        Ok(())
    }

    /// A short text.
    ///
    /// # Errors
    /// As [`Encoder::uint`].
    pub fn text(&mut self, text: &str) -> Result<()> {
        self.blob(text.as_bytes())
    }

    /// A shape: number of axes, then sizes.
    ///
    /// # Errors
    /// As [`Encoder::uint`].
    pub fn shape(&mut self, shape: &[usize]) -> Result<()> {
        within(shape.len(), MOST_AXES, "axes")?;
        self.uint(shape.len())?;
        shape.iter().try_for_each(|&n| self.uint(n))
    }

    /// A table that other layers may have written too: equal bytes are stored once in the file.
    ///
    /// # Errors
    /// As [`Encoder::uint`].
    pub fn table(&mut self, bytes: &[u8]) -> Result<()> {
        let at = self.intern(bytes);
        self.uint(at)
    }

    fn intern(&mut self, bytes: &[u8]) -> usize {
        if let Some(at) = self.shared.iter().position(|known| known == bytes) {
            return at;
        }
        self.shared.push(bytes.to_vec());
        self.shared.len() - 1
    }

    /// The number that stands for a kind in the file.
    pub(super) fn kind_id(&mut self, kind: &str) -> usize {
        match WELL_KNOWN.iter().position(|&known| known == kind) {
            Some(id) => id,
            None => WELL_KNOWN.len() + self.intern(kind.as_bytes()),
        }
    }

    /// A structure, through serde.
    ///
    /// # Errors
    /// If the structure refuses to be serialized.
    pub fn structure<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let bytes = bincode::serde::encode_to_vec(value, standard()).map_err(encoding)?;
        within(bytes.len(), STRUCTURE_LIMIT, "bytes of a structure")?;
        self.blob(&bytes)
    }

    /// A parameter whose shape and role the reader knows. Deployed: its values. In a checkpoint: base, optimizer
    /// state, and constraints.
    ///
    /// # Errors
    /// [`Error::Constrained`] when a constrained parameter is to be deployed.
    pub fn param(&mut self, param: &Param) -> Result<()> {
        if self.purpose == Purpose::Deploy {
            param.refuse_constraints()?;
            self.floats(slice(param.value())?);
            return Ok(());
        }
        self.floats(slice(param.base())?);
        within(param.slots().len(), MOST_SLOTS, "optimizer slots")?;
        within(param.constraints().len(), MOST_CONSTRAINTS, "constraints")?;
        self.uint(param.steps() as usize)?;
        self.uint(param.slots().len())?;
        for slot in param.slots() {
            self.floats(slice(slot)?);
        }
        self.uint(param.constraints().len())?;
        self.depth += 1;
        within(self.depth, MOST_DEPTH, "levels of constraints within constraints")?;
        for constraint in param.constraints() {
            self.table(constraint.kind().as_bytes())?;
            constraint.encode(self)?;
        }
        self.depth -= 1;
        Ok(())
    }
}

/// Reads what an [`Encoder`] wrote. Every read is bounded by the bytes there are and by a limit on decoded elements, so
/// that no file leads to a panic or to a huge allocation.
#[derive(Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    shared: Vec<Vec<u8>>,
    purpose: Purpose,
    registry: &'a Registry,
    limit: u64,
    claimed: u64,
    /// Parameters within constraints within parameters.
    depth: usize,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8], purpose: Purpose, registry: &'a Registry, limit: u64) -> Decoder<'a> {
        Decoder { bytes, at: 0, shared: Vec::new(), purpose, registry, limit, claimed: 0, depth: 0 }
    }

    pub(super) fn read_shared(&mut self) -> Result<()> {
        let count = self.count(self.bytes.len())?;
        for _ in 0..count {
            let table = self.blob()?.to_vec();
            self.shared.push(table);
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<()> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            rest => Err(Error::malformed(format!("{rest} bytes are left over"))),
        }
    }

    /// What the file was written for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Announces that so many elements will be allocated; entropy-coded input makes the file's length no bound.
    ///
    /// # Errors
    /// If the file's total passes the limit.
    pub fn claim(&mut self, elements: usize) -> Result<()> {
        self.claimed = self.claimed.saturating_add(elements as u64);
        match self.claimed <= self.limit {
            true => Ok(()),
            false => Err(FormatError::TooLarge { limit: self.limit }.into()),
        }
    }

    /// Claims a whole shape and returns its number of elements.
    ///
    /// # Errors
    /// If the product overflows or passes the limit.
    pub fn claim_shape(&mut self, shape: &[usize]) -> Result<usize> {
        let count = shape
            .iter()
            .try_fold(1usize, |product, &n| product.checked_mul(n))
            .ok_or(FormatError::TooLarge { limit: self.limit })?;
        self.claim(count)?;
        Ok(count)
    }

    /// Holds the size of one activation against the limit, on its own.
    pub(super) fn claim_activation(&self, shape: &[usize]) -> Result<()> {
        let elements = shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n as u64));
        match elements.is_some_and(|n| n <= self.limit) {
            true => Ok(()),
            false => Err(FormatError::TooLarge { limit: self.limit }.into()),
        }
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// If the file ends before.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or(FormatError::Truncated(self.bytes.len()))?;
        self.at += len;
        Ok(taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// If the file ends before.
    pub fn byte(&mut self) -> Result<u8> {
        Ok(self.raw(1)?[0])
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// If the file ends before, or the number does not fit.
    pub fn uint(&mut self) -> Result<usize> {
        let rest = &self.bytes[self.at..];
        let (value, used): (u64, usize) = bincode::decode_from_slice(rest, standard().with_limit::<16>())
            .map_err(|_| FormatError::Truncated(self.bytes.len()))?;
        self.at += used;
        usize::try_from(value).map_err(|_| Error::malformed(format!("the number {value} is too large")))
    }

    /// An unsigned integer that must not pass `most`.
    ///
    /// # Errors
    /// If it does.
    pub fn count(&mut self, most: usize) -> Result<usize> {
        match self.uint()? {
            n if n <= most => Ok(n),
            n => Err(Error::malformed(format!("{n} where at most {most} can be"))),
        }
    }

    /// One value.
    ///
    /// # Errors
    /// If the file ends before.
    pub fn float(&mut self) -> Result<f32> {
        let b = self.raw(4)?;
        Ok(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// So many values.
    ///
    /// # Errors
    /// If the file ends before.
    pub fn floats(&mut self, count: usize) -> Result<Vec<f32>> {
        let len = count.checked_mul(4).ok_or(FormatError::Truncated(self.bytes.len()))?;
        let bytes = self.raw(len)?;
        self.claim(count)?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Bytes behind their number.
    ///
    /// # Errors
    /// If the file ends before.
    pub fn blob(&mut self) -> Result<&'a [u8]> {
        let len = self.uint()?;
        self.raw(len)
    }

    /// A short text.
    ///
    /// # Errors
    /// If the file ends before, or the bytes are not UTF-8.
    pub fn text(&mut self) -> Result<String> {
        String::from_utf8(self.blob()?.to_vec()).map_err(|_| Error::malformed("a name is not UTF-8"))
    }

    /// A shape of at most eight axes.
    ///
    /// # Errors
    /// If the file ends before.
    pub fn shape(&mut self) -> Result<Vec<usize>> {
        let axes = self.count(MOST_AXES)?;
        (0..axes).map(|_| self.uint()).collect()
    }

    /// A shared table.
    ///
    /// # Errors
    /// If the file has no such table.
    pub fn table(&mut self) -> Result<Vec<u8>> {
        let at = self.uint()?;
        self.table_at(at)
    }

    fn table_at(&self, at: usize) -> Result<Vec<u8>> {
        self.shared.get(at).cloned().ok_or_else(|| Error::malformed(format!("there is no shared table {at}")))
    }

    /// The kind behind the number that stands for it.
    pub(super) fn kind(&self, id: usize) -> Result<String> {
        match WELL_KNOWN.get(id) {
            Some(kind) => Ok((*kind).to_string()),
            None => kind_name(self.table_at(id - WELL_KNOWN.len())?),
        }
    }

    /// A structure, through serde.
    ///
    /// # Errors
    /// If the bytes are not such a structure.
    pub fn structure<T: DeserializeOwned>(&mut self) -> Result<T> {
        let bytes = self.blob()?;
        let config = standard().with_limit::<STRUCTURE_LIMIT>();
        let (value, used) = bincode::serde::decode_from_slice(bytes, config)
            .map_err(|e| Error::malformed(format!("a structure cannot be read: {e}")))?;
        match used == bytes.len() {
            true => Ok(value),
            false => Err(Error::malformed("a structure is longer than it should be")),
        }
    }

    /// A tensor of a known shape.
    ///
    /// # Errors
    /// If the file ends before, or asks for too much.
    pub fn tensor(&mut self, shape: &[usize]) -> Result<Tensor> {
        let count = self.claim_shape(shape)?;
        self.claimed -= count as u64; // `floats` claims again, once the bytes are known to be there
        tensor(shape, self.floats(count)?)
    }

    /// A parameter of a known shape and role.
    ///
    /// # Errors
    /// If the file ends before, or a constraint is not registered.
    pub fn param(&mut self, role: Role, shape: &[usize]) -> Result<Param> {
        let base = self.tensor(shape)?;
        if self.purpose == Purpose::Deploy {
            return Ok(Param::new(role, base));
        }
        let steps = self.uint()? as u64;
        let slots = self.count(MOST_SLOTS)?;
        let slots = (0..slots).map(|_| self.tensor(shape)).collect::<Result<Vec<_>>>()?;
        let constraints = self.count(MOST_CONSTRAINTS)?;
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(Error::malformed("constraints are nested too deeply"));
        }
        let constraints = (0..constraints).map(|_| self.constraint()).collect::<Result<Vec<_>>>()?;
        self.depth -= 1;
        Ok(Param::restore(role, base, slots, steps, constraints))
    }

    fn constraint(&mut self) -> Result<Box<dyn Constraint>> {
        let kind = kind_name(self.table()?)?;
        let registry = self.registry;
        registry.decode_constraint(&kind, self)
    }

    /// A layer of the given kind.
    pub(super) fn layer(&mut self, kind: &str) -> Result<Box<dyn crate::layer::Layer>> {
        let registry = self.registry;
        registry.decode_layer(kind, self)
    }
}

/// What could not be read back must not be written.
fn within(count: usize, most: usize, what: &str) -> Result<()> {
    match count <= most {
        true => Ok(()),
        false => Err(Error::malformed(format!("{count} {what} cannot be written, at most {most}"))),
    }
}

fn kind_name(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::malformed("a kind is not UTF-8"))
}

fn encoding(e: bincode::error::EncodeError) -> Error {
    Error::malformed(format!("cannot be written: {e}"))
}
