//! What can go wrong in a factorization.

/// Each message names the setting or the layer, and the remedy.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LowRankError {
    /// A share of energy that is none.
    #[error("`{key}` is {value}: the share of energy to keep is above 0 and at most 1")]
    Energy {
        /// The key in the configuration.
        key: &'static str,
        /// What was given.
        value: f64,
    },
    /// A fixed rank of 0.
    #[error("`{key}` is 0: a rank is at least 1")]
    RankZero {
        /// The key in the configuration.
        key: &'static str,
    },
    /// A share of the full rank that is none.
    #[error("`{key}` is {value}: a share of the full rank is above 0 and at most 1")]
    RankRatio {
        /// The key in the configuration.
        key: &'static str,
        /// What was given.
        value: f64,
    },
    /// Two settings for one rank.
    #[error("`{one}` and `{other}` are both given; choose one of them")]
    Both {
        /// One key.
        one: &'static str,
        /// The other key.
        other: &'static str,
    },
    /// Too many sweeps.
    #[error("`sweeps` is {sweeps}: at most {most}, and a few are enough")]
    Sweeps {
        /// What was given.
        sweeps: usize,
        /// The bound.
        most: usize,
    },
    /// A learning rate that is none.
    #[error("`rate` is {0}: a learning rate is finite and above 0")]
    Rate(f32),
    /// No layer among the selected ones that the method could work on.
    #[error(
        "none of the selected layers is {wanted}; change `layers`, or choose another method for this network"
    )]
    NoLayer {
        /// What kind of layer is needed.
        wanted: &'static str,
    },
    /// A layer that is already trained under constraints, which its factors could not keep.
    #[error(
        "layer `{node}` carries the constraint `{constraint}`, which its factors cannot keep: apply low rank \
         first, then prune or quantize; or leave the layer out (`layers.skip`)"
    )]
    Constrained {
        /// The layer.
        node: String,
        /// The kind of its first constraint.
        constraint: String,
    },
    /// Weights that are not numbers.
    #[error("layer `{node}` has weights that are not finite; train it again with a lower learning rate")]
    NotFinite {
        /// The layer.
        node: String,
    },
    /// The eigenvalues of a finite matrix were not found.
    #[error("the eigenvalues of layer `{node}` did not converge; leave it out (`layers.skip`)")]
    NoConvergence {
        /// The layer.
        node: String,
    },
}

impl From<LowRankError> for cnn_core::Error {
    fn from(error: LowRankError) -> cnn_core::Error {
        cnn_core::Error::method(error)
    }
}
