//! Pruning of convolutional networks: weights that matter least are removed, the others retrained.
//!
//! What is removed, and how it is chosen:
//!
//! - [`Weights`], method `prune.weights`: weights, N:M patterns, blocks or kernels go in rounds of pruning and retraining, or until an
//!   accuracy budget is used up (Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks").
//! - [`Gradual`], method `prune.gradual`: they go during one training, and may come back (Zhu & Gupta 2017, "To prune, or not to
//!   prune"; Guo, Yao & Chen 2016, "Dynamic Network Surgery").
//! - [`Channels`], method `prune.channels`: whole channels are removed through the dependency graph, by a share or a budget of
//!   multiply-adds, bytes or time (Li et al. 2017, Fang et al. 2023).
//! - [`Lasso`], method `prune.lasso`: input channels selected by LASSO, the layer reconstructed by least squares (He, Zhang & Sun 2017).
//! - [`Branches`], method `prune.branches`: residual branches are removed whole (Veit et al. 2016).
//! - [`Automatic`], method `prune.automatic`: every layer's ratio from its [`sensitivity`] and a budget of bytes, multiply-adds or time.
//! - [`SparseTraining`], method `prune.sparse_training`: before pruning, a regulariser pulls scales, filters or weights towards zero
//!   (Liu et al. 2017, Wen et al. 2016).
//! - [`Criterion`]: how much a weight or a channel matters; [`Granularity`]: what goes at once.
//!
//! What is left:
//!
//! - [`Mask`]: the constraint that keeps what was removed at zero, also while later methods train.
//! - [`SparseConv2d`], [`SparseLinear`]: the packed layers, which store and multiply only what is left.
//!   Zeros in blocks of 16 filters by one input weight, and at most `n` of `m` neighbouring channels, are found in the weights and have
//!   forms of their own in files; the blocks have a kernel of their own too.
//!   An exported ONNX file has only the non-zero weights, too; what reads it fills in the zeros ([`cnn_core::Express::sparse`]).
//! - [`sparsity`]: how many weights each layer has left. [`outlook`]: what that gains in a session on this machine.
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
//! let method = registry.build_method("prune.weights", config)?;
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
mod branches;
mod channels;
pub mod criteria;
mod error;
mod gradual;
mod granularity;
mod lasso;
mod mask;
mod memory;
mod pack;
mod regularize;
mod report;
mod retrain;
pub mod schedule;
mod sensitivity;
mod sparse;
mod targets;
mod weights;

pub use branches::Branches;
pub use channels::{Budget, ChannelGroup, Channels, Unit, certify, channel_groups, channel_scores};
pub use criteria::Criterion;
pub use error::PruneError;
pub use gradual::Gradual;
pub use granularity::{Granularity, Units};
pub use lasso::Lasso;
pub use mask::{Mask, mask_of, restrict};
pub use pack::pack;
pub use regularize::{Penalty, SparseTraining};
pub use report::{LayerSparsity, sparsity};
pub use schedule::Schedule;
pub use sensitivity::{Automatic, Curve, What, sensitivity};
pub use sparse::{Outlook, SparseConv2d, SparseLinear, SparseMatrix, outlook};
pub use weights::{Scope, Threshold, Weights};

use cnn_core::Registry;

/// Adds this crate's methods, constraint and layers.
pub fn register(registry: &mut Registry) {
    registry.method(Weights::NAME, Weights::build);
    registry.method(Gradual::NAME, Gradual::build);
    registry.method(Channels::NAME, Channels::build);
    registry.method(Lasso::NAME, Lasso::build);
    registry.method(Automatic::NAME, Automatic::build);
    registry.method(Branches::NAME, Branches::build);
    registry.method(SparseTraining::NAME, SparseTraining::build);
    registry.constraint(Mask::KIND, Mask::decode);
    registry.layer(SparseConv2d::KIND, SparseConv2d::decode);
    registry.layer(SparseLinear::KIND, SparseLinear::decode);
}
