//! How much accuracy each layer costs when it is pruned alone, and what follows from it.

mod allocate;
mod automatic;
mod curve;

pub use automatic::Automatic;
pub use curve::{Curve, sensitivity};

use serde::{Deserialize, Serialize};

/// What is pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Single weights of each convolution and linear layer.
    Weights,
    /// Channels of each group that goes together.
    #[default]
    Channels,
}
