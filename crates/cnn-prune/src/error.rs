//! What can go wrong in pruning.

/// Errors of this crate; they reach the caller as [`cnn_core::Error::Method`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// A share of weights that cannot be removed.
    #[error("{what} = {ratio}: the share of weights to remove must be at least 0 and below 1")]
    Ratio {
        /// The setting.
        what: String,
        /// Its value.
        ratio: f64,
    },
    /// Another setting outside its range.
    #[error("{what}: {why}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// What is allowed.
        why: String,
    },
    /// Nothing to prune.
    #[error(
        "no convolution or linear layer to prune ({found}); prune before packing, and check `layers.only` and `layers.skip`"
    )]
    NoLayers {
        /// What the selection found instead.
        found: String,
    },
    /// A pattern names layers of kinds that have no weights to prune, or that are packed already.
    #[error(
        "`{pattern}` matches `{node}`, a `{kind}` layer: only trainable convolutions and linear layers are pruned"
    )]
    NotPrunable {
        /// The pattern.
        pattern: String,
        /// The first node it matches.
        node: String,
        /// That node's kind.
        kind: String,
    },
    /// Two overrides want the same layer.
    #[error("`ratios`: both `{first}` and `{second}` match the layer `{layer}`; make one of them narrower")]
    Ambiguous {
        /// The layer.
        layer: String,
        /// One pattern.
        first: String,
        /// The other.
        second: String,
    },
    /// Weights without a magnitude.
    #[error(
        "layer `{layer}` has weights that are not finite; they cannot be ranked. Train again with a lower rate"
    )]
    NotFinite {
        /// The layer.
        layer: String,
    },
    /// A matrix whose sizes do not fit.
    #[error("{values} values are not a matrix of {rows} rows and {cols} columns (columns at most 2^32 - 1)")]
    Matrix {
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// Values given.
        values: usize,
    },
}

impl From<PruneError> for cnn_core::Error {
    fn from(error: PruneError) -> cnn_core::Error {
        cnn_core::Error::method(error)
    }
}
