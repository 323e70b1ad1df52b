//! What a layer costs: parameters, non-zeros, multiply-adds.

use std::iter::Sum;
use std::ops::Add;

/// Multiply-adds by the arithmetic they are done in. Convolutions and linear layers count; additions,
/// activations, pooling and normalisation do not, as is usual in the field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Macs {
    /// In 32-bit floating point.
    pub float: u64,
    /// In 8-bit integers with 32-bit accumulation.
    pub int8: u64,
    /// On single bits (xnor and popcount).
    pub binary: u64,
}

/// The cost of a layer for a given input, or the sum over a graph.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Trainable numbers of the layer (running statistics are not counted).
    pub params: u64,
    /// Those of them that are not zero.
    pub nonzeros: u64,
    /// Multiply-adds for the whole input batch.
    pub macs: Macs,
}

impl Macs {
    /// All multiply-adds, whatever the arithmetic.
    pub fn total(&self) -> u64 {
        self.float + self.int8 + self.binary
    }
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            params: self.params + other.params,
            nonzeros: self.nonzeros + other.nonzeros,
            macs: Macs {
                float: self.macs.float + other.macs.float,
                int8: self.macs.int8 + other.macs.int8,
                binary: self.macs.binary + other.macs.binary,
            },
        }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), Add::add)
    }
}
