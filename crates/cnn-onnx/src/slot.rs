//! What is known of each value of a file while it is imported.

use crate::kind::ElementKind;
use crate::op::Refusal;
use crate::value::Value;
use std::cell::Cell;
use std::sync::Arc;

/// A value of the file.
#[derive(Debug, Clone)]
pub(crate) enum Slot {
    /// Known before any image is seen; with the name of the constant in the file that it comes from.
    Constant(Value, Option<Arc<str>>),
    /// Computed from the image, by the draft at this position.
    Dynamic(usize),
    /// What `QuantizeLinear` makes: levels on a grid, which only `DequantizeLinear` can read.
    Levels(Arc<Levels>),
    /// Not known, since what makes it is not supported.
    Lost,
}

impl Slot {
    pub fn constant(value: Value) -> Slot {
        Slot::Constant(value, None)
    }
}

/// Levels of a grid.
#[derive(Debug, PartialEq)]
pub(crate) struct Levels {
    /// Position of the draft that quantizes and goes back.
    pub fake: usize,
    /// The grid.
    pub scale: Value,
    /// The level of zero.
    pub zero_point: Option<Value>,
    /// Along which axis the scales are.
    pub axis: usize,
}

/// The inputs of an operator.
#[derive(Debug)]
pub(crate) struct Inputs(pub Vec<Option<Slot>>);

impl Inputs {
    pub fn get(&self, at: usize) -> Option<&Slot> {
        self.0.get(at).and_then(Option::as_ref)
    }

    /// An optional input that must be constant.
    pub fn value(&self, at: usize, what: &str) -> Result<Option<&Value>, Refusal> {
        match self.get(at) {
            None => Ok(None),
            Some(Slot::Constant(value, _)) => Ok(Some(value)),
            Some(_) => Err(Refusal::unsupported(format!("{what} computed from the image"))),
        }
    }

    /// An input that must be there and constant.
    pub fn need(&self, at: usize, what: &str) -> Result<&Value, Refusal> {
        self.value(at, what)?.ok_or_else(|| missing(at, what))
    }

    /// As [`Inputs::need`], taken out, so that the last reader of large weights can have their memory. The
    /// input keeps its name, but is empty.
    pub fn take(&mut self, at: usize, what: &str) -> Result<Value, Refusal> {
        self.need(at, what)?;
        match self.0.get_mut(at) {
            Some(Some(Slot::Constant(value, _))) => {
                let empty = Value::floats(ElementKind::Float, vec![0], Vec::new());
                Ok(std::mem::replace(value, empty))
            }
            _ => Err(missing(at, what)),
        }
    }

    /// An input that must be computed from the image.
    pub fn dynamic(&self, at: usize) -> Result<usize, Refusal> {
        match self.get(at) {
            Some(Slot::Dynamic(draft)) => Ok(*draft),
            None => Err(Refusal::invalid(format!("input {at} is missing"))),
            Some(Slot::Levels(_)) => Err(Refusal::unsupported("arithmetic on quantized values")),
            Some(_) => Err(Refusal::unsupported(format!("a constant as input {at}"))),
        }
    }

    /// The name in the file of the constant at an input.
    pub fn origin(&self, at: usize) -> Option<&str> {
        match self.get(at) {
            Some(Slot::Constant(_, origin)) => origin.as_deref(),
            _ => None,
        }
    }
}

fn missing(at: usize, what: &str) -> Refusal {
    Refusal::invalid(format!("input {at} ({what}) is missing"))
}

/// How many elements may still be made that no bytes of the file stand for.
#[derive(Debug)]
pub(crate) struct Budget {
    left: Cell<u64>,
}

impl Budget {
    pub fn new(elements: u64) -> Budget {
        Budget { left: Cell::new(elements) }
    }

    /// Allows more, for bytes that were read from another file.
    pub fn grant(&self, elements: u64) {
        self.left.set(self.left.get().saturating_add(elements));
    }

    /// Takes elements of a shape; before memory is.
    pub fn claim(&self, shape: &[usize]) -> Result<(), Refusal> {
        let wanted = crate::value::claimed_elements(shape);
        match wanted.and_then(|n| self.left.get().checked_sub(n)) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(Refusal::invalid(format!(
                "a constant of shape {shape:?} is more than a file of this size may ask for"
            ))),
        }
    }
}
