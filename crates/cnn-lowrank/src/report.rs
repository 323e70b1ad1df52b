//! What was done to each layer, and why some were left alone.

use std::fmt;

/// What happened to a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Its factors stand in its place, under these names.
    Replaced(Vec<String>),
    /// It stays: at these ranks the factors would not be smaller and faster.
    NoGain,
    /// It stays: the method does not suit it, for the given reason.
    Unsuited(&'static str),
}

/// One layer of a report. Weights and multiply-adds are those of the kernel or matrix; the bias stays as it
/// is.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerReport {
    /// The layer's name.
    pub name: String,
    /// Chosen ranks: `[r]` of a matrix, `[R3, R4]` (input, output) of a kernel; empty if the method does not
    /// suit.
    pub ranks: Vec<usize>,
    /// The full ranks, in the same order.
    pub full: Vec<usize>,
    /// Share of the squared weights that the ranks keep, in `[0, 1]`.
    pub energy: f64,
    /// Weights before and after.
    pub weights: [u64; 2],
    /// Multiply-adds for one image before and after.
    pub macs: [u64; 2],
    /// Whether the layer was replaced.
    pub outcome: Outcome,
}

/// What a method does to the layers of a network, in execution order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The selected layers.
    pub layers: Vec<LayerReport>,
}

impl Report {
    /// Number of layers that were replaced.
    pub fn replaced(&self) -> usize {
        self.layers.iter().filter(|l| matches!(l.outcome, Outcome::Replaced(_))).count()
    }

    /// A layer by name.
    pub fn layer(&self, name: &str) -> Option<&LayerReport> {
        self.layers.iter().find(|l| l.name == name)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for layer in &self.layers {
            let LayerReport { name, ranks, full, energy, weights, macs, outcome } = layer;
            match outcome {
                Outcome::Unsuited(why) => writeln!(f, "{name}: left, {why}")?,
                outcome => {
                    let what = if *outcome == Outcome::NoGain {
                        "left, factors would not be smaller"
                    } else {
                        "replaced"
                    };
                    writeln!(
                        f,
                        "{name}: {what}; rank {ranks:?} of {full:?}, energy {energy:.4}, \
                         weights {} -> {}, multiply-adds {} -> {}",
                        weights[0], weights[1], macs[0], macs[1]
                    )?;
                }
            }
        }
        Ok(())
    }
}
