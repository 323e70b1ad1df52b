//! What can go wrong in pruning.

use std::collections::BTreeMap;

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
    /// No channel can be removed.
    #[error("no channels can be removed: {found}")]
    NoChannels {
        /// Why, for the first layer.
        found: String,
    },
    /// The thinned network is not the masked one.
    #[error(
        "the network without the channels is not the network with the channels at zero: `{node}` differs by {error:.1e} of \
         its largest value. Nothing was changed; protect what feeds that layer with `layers.skip`"
    )]
    Certificate {
        /// The first node that differs.
        node: String,
        /// `max|a - b| / max|b|`.
        error: f32,
    },
    /// A criterion that looks at images was given none.
    #[error(
        "the criterion `{what}` needs training images, and there are none; use `l1`, or set `samples` above 0"
    )]
    NoData {
        /// The criterion.
        what: &'static str,
    },
    /// A pattern with a share matches layers, but none that this method prunes.
    #[error("`ratios`: `{pattern}` matches no layer that is pruned here; check `layers`, or remove it")]
    Unused {
        /// The pattern.
        pattern: String,
    },
    /// Weights without a magnitude.
    #[error(
        "layer `{layer}` has weights, gradients or outputs that are not finite; they cannot be ranked. Train again with a lower rate"
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

/// Checks that a share and those of single layers can be removed.
pub(crate) fn check_ratios(ratio: f64, ratios: &BTreeMap<String, f64>) -> Result<(), PruneError> {
    let named = ratios.iter().map(|(pattern, &ratio)| (format!("ratios.{pattern}"), ratio));
    match named.chain([("ratio".to_string(), ratio)]).find(|(_, ratio)| !(0.0..1.0).contains(ratio)) {
        Some((what, ratio)) => Err(PruneError::Ratio { what, ratio }),
        None => Ok(()),
    }
}

impl From<PruneError> for cnn_core::Error {
    fn from(error: PruneError) -> cnn_core::Error {
        cnn_core::Error::method(error)
    }
}
