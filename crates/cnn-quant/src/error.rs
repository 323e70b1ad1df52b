//! What can go wrong in quantization.

/// Errors of this crate; they reach callers as [`cnn_core::Error::Method`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting outside its range.
    #[error("`{key}` of `{method}` is {found}: {allowed}")]
    Setting {
        /// The method.
        method: &'static str,
        /// The key of its configuration.
        key: String,
        /// What was given.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The selection leaves no layer.
    #[error("`{method}` found no convolution or linear layer to work on; widen `layers`")]
    NothingSelected {
        /// The method.
        method: &'static str,
    },
    /// A network that is not quantized.
    #[error(
        "no layer reads values on a grid with weights on one too; `quant.qdq` is for networks that come quantized, `quant.int8` quantizes"
    )]
    NothingQuantized,
    /// NaN or infinity where numbers are to be quantized.
    #[error(
        "{what} of `{layer}` are not finite and cannot be quantized; train again with a lower rate, or check the data"
    )]
    NotFinite {
        /// "weights", "bias values" or "calibration activations".
        what: &'static str,
        /// The layer.
        layer: String,
    },
    /// A layer that already carries the constraint.
    #[error(
        "`{layer}` already carries the constraint `{constraint}`; pack it, or release the constraint first"
    )]
    AlreadyConstrained {
        /// The layer.
        layer: String,
        /// Kind of the constraint.
        constraint: &'static str,
    },
    /// More different values than a codebook holds.
    #[error(
        "the weights have more than {limit} different values and need no codebook; apply `quant.kmeans` last"
    )]
    TooManyValues {
        /// Largest number of values.
        limit: usize,
    },
    /// NaN or infinity in weights that are to be packed.
    #[error("weights or biases that are not finite cannot be packed; train again with a lower rate")]
    CannotPack,
    /// A sum of products that could overflow 32 bits.
    #[error("a neuron sums {terms} products, but 32 bits hold at most {limit} of them; skip this layer")]
    RowTooLong {
        /// Products in a sum.
        terms: usize,
        /// The largest number that cannot overflow.
        limit: usize,
    },
    /// The clustering library refused.
    #[error("k-means failed: {0}")]
    KMeans(String),
}

impl From<Error> for cnn_core::Error {
    fn from(error: Error) -> cnn_core::Error {
        cnn_core::Error::method(error)
    }
}
