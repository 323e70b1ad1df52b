//! The core of a toolkit that makes convolutional networks small and fast.
//!
//! - [`tensor`], [`ops`]: values and the operations on them, forward and backward.
//! - [`layer`], [`layers`], [`graph`]: a network as a flat list of open layers, and surgery on it.
//! - [`param`]: *train dense, deploy packed*: constraints under which parameters are trained.
//! - [`train`]: the training loop, bit-reproducible and resumable.
//! - [`compress`]: the trait of all compression methods; [`registry`] finds them by name.
//! - [`express`](mod@express): a network in operators of the ONNX standard, for exporters.
//! - [`session`]: a network compiled to be run fast.
//! - [`model_file`]: the compact file; a network's size is the length of that file.
//!
//! ```
//! use cnn_core::{model_file, testing::lenet5, Registry};
//! let graph = lenet5(0)?;
//! assert_eq!(graph.cost()?.params, 431_080);
//! let bytes = model_file::deploy_bytes(&graph, false)?;
//! let back = model_file::from_bytes(&bytes, &Registry::core())?;
//! assert_eq!(back.cost()?, graph.cost()?);
//! # Ok::<(), cnn_core::Error>(())
//! ```

pub mod compress;
pub mod cost;
pub mod data;
pub mod error;
pub mod express;
pub mod graph;
pub mod init;
mod kernels;
pub mod layer;
pub mod layers;
pub mod model_file;
pub mod ops;
pub mod param;
pub mod registry;
pub mod session;
pub mod simd;
pub mod tensor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod train;

pub use compress::{Chain, Compressor, Config, Run, Selection};
pub use cost::{Cost, Macs};
pub use data::{Augment, Dataset, Preprocess};
pub use error::{Error, FormatError, Result};
pub use express::Express;
pub use graph::{ChannelClass, Graph, Node};
pub use layer::{ChannelRule, Keep, Layer};
pub use model_file::{Decoder, Encoder};
pub use param::{Constraint, Param, Role};
pub use registry::{NetworkOptions, Registry};
pub use tensor::Tensor;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
