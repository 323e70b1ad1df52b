//! Pruning of convolutional networks: weights that matter least are removed, the others retrained.
//!
//! - [`Magnitude`], method `prune.magnitude`: the smallest weights go, in rounds of pruning and retraining
//!   (Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks"; schedule of Zhu
//!   & Gupta 2017).
//! - [`Mask`]: the constraint that keeps what was removed at zero, also while later methods train.
//! - [`SparseConv2d`], [`SparseLinear`]: the packed layers, which store and multiply only what is left.
//!   An exported file has only those, too; what reads it fills in the zeros ([`cnn_core::Express::sparse`]).
//! - [`sparsity`]: how many weights each layer has left.
//!
//! ```
//! use cnn_core::layers::{Activation, Conv2d, ConvOptions, Flatten, Linear};
//! use cnn_core::train::{Optimizer, TrainSettings};
//! use cnn_core::{Graph, Registry, Run, init::Init, model_file, testing::stripes};
//!
//! let mut registry = Registry::core();
//! cnn_prune::register(&mut registry);
//!
//! let mut init = Init::new(1);
//! let mut graph = Graph::new(&[1, 8, 8]);
//! graph.push("conv", Conv2d::new(init.glorot(&[8, 1, 3, 3])?, None, ConvOptions::default())?)?;
//! graph.push("relu", Activation::relu())?;
//! graph.push("flatten", Flatten)?;
//! graph.push("fc", Linear::new(init.glorot(&[3, 8 * 36])?, None)?)?;
//!
//! let data = stripes(120, [1, 8, 8], 3, 1)?;
//! let optimizer = Optimizer::sgd(0.05, 5e-4);
//! let settings = TrainSettings { epochs: 6, batch: 12, optimizer, ..TrainSettings::default() };
//! let mut run = Run::new(&data, &data, settings.clone(), &registry);
//! run.fine_tune(&mut graph, &settings)?;
//! let before = model_file::deploy_bytes(&graph, false)?.len();
//!
//! let config = serde_json::json!({ "ratio": 0.9, "ratios": { "conv": 0.5 }, "rounds": 3 });
//! let method = registry.build_method("prune.magnitude", config)?;
//! method.apply(&mut graph, &mut run)?;
//! method.pack(&mut graph)?;
//!
//! let bytes = model_file::deploy_bytes(&graph, false)?;
//! assert!(bytes.len() * 4 < before);
//! let back = model_file::from_bytes(&bytes, &registry)?;
//! assert!(run.accuracy(&back)? > 0.9);
//! # Ok::<(), cnn_core::Error>(())
//! ```

mod bits;
pub mod criteria;
mod error;
mod magnitude;
mod mask;
mod pack;
mod report;
pub mod schedule;
mod sparse;
mod targets;

pub use error::PruneError;
pub use magnitude::{Magnitude, Scope, Threshold};
pub use mask::{Mask, mask_of, restrict};
pub use pack::pack;
pub use report::{LayerSparsity, sparsity};
pub use sparse::{SparseConv2d, SparseLinear, SparseMatrix};

use cnn_core::Registry;

/// Adds this crate's method, constraint and layers.
pub fn register(registry: &mut Registry) {
    registry.method(Magnitude::NAME, Magnitude::build);
    registry.constraint(Mask::KIND, Mask::decode);
    registry.layer(SparseConv2d::KIND, SparseConv2d::decode);
    registry.layer(SparseLinear::KIND, SparseLinear::decode);
}
