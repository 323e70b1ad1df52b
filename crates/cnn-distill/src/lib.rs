//! Knowledge distillation for convolutional networks (Hinton, Vinyals & Dean 2015, "Distilling the knowledge
//! in a neural network"): a trained teacher says more of an image than its label, and a small student learns
//! from it.
//!
//! - [`SoftTargets`]: the objective, a weighted sum of the teacher's soft targets at a temperature and the
//!   labels. The temperature falls to 1 over the epochs ([`Anneal`]).
//! - [`Distill`] (`distill.soft_targets`): trains a registered, smaller network and puts it in the teacher's
//!   place.
//! - [`teach`], also as the method [`Teaching`] (`distill.teacher`): puts a teacher behind a run, so that
//!   pruning or quantization retrains under it and knows nothing of distillation.
//!
//! ```
//! use cnn_core::init::Init;
//! use cnn_core::layers::{Activation, Conv2d, ConvOptions, Flatten, GlobalAvgPool, Linear};
//! use cnn_core::testing::stripes;
//! use cnn_core::train::TrainSettings;
//! use cnn_core::{Compressor, Graph, NetworkOptions, Registry, Result, Run};
//! use cnn_distill::{Distill, mean_divergence};
//!
//! // one convolution of `16 width` filters
//! fn network(options: &NetworkOptions) -> Result<Graph> {
//!     let ([c, h, w], classes) = (options.input.unwrap_or([1, 8, 8]), options.classes.unwrap_or(3));
//!     let filters = (16.0 * options.width) as usize;
//!     let mut init = Init::new(options.seed);
//!     let mut graph = Graph::new(&[c, h, w]);
//!     graph.push("conv", Conv2d::new(init.he(&[filters, c, 3, 3])?, None, ConvOptions::default())?)?;
//!     graph.push("relu", Activation::relu())?;
//!     graph.push("pool", GlobalAvgPool)?;
//!     graph.push("flatten", Flatten)?;
//!     graph.push("fc", Linear::new(init.glorot(&[classes, filters])?, None)?)?;
//!     Ok(graph)
//! }
//! let mut registry = Registry::core();
//! registry.network("one_conv", network);
//! cnn_distill::register(&mut registry);
//!
//! let (train, validation) = (stripes(60, [1, 8, 8], 3, 1)?, stripes(60, [1, 8, 8], 3, 2)?);
//! let settings = TrainSettings { epochs: 10, batch: 10, ..TrainSettings::default() };
//! let mut run = Run::new(&train, &validation, settings.clone(), &registry);
//! let mut teacher = network(&NetworkOptions::default())?;
//! run.fine_tune(&mut teacher, &settings)?;
//!
//! let mut graph = teacher.clone();
//! Distill { student: "one_conv".into(), width: 0.25, ..Distill::default() }.apply(&mut graph, &mut run)?;
//! assert_eq!(graph.cost()?.params, 4 * 9 + 3 * 4);
//! println!("KL {} nats", mean_divergence(&teacher, &graph, &validation, 1.0)?);
//! # Ok::<(), cnn_core::Error>(())
//! ```

mod anneal;
mod distill;
mod error;
mod measure;
mod soft_targets;
mod softmax;
mod teach;
mod teacher;

pub use anneal::Anneal;
pub use distill::Distill;
pub use error::DistillError;
pub use measure::mean_divergence;
pub use soft_targets::{SoftTargets, Teaching};
pub use teach::teach;

use cnn_core::Registry;

/// Adds the methods `distill.soft_targets` and `distill.teacher`.
pub fn register(registry: &mut Registry) {
    registry.method(Distill::NAME, distill::build);
    registry.method(Teaching::NAME, teach::build);
}
