//! Low-rank factorization of convolutional networks: layers become chains of smaller ordinary layers, so that
//! any platform runs the result.
//!
//! - [`Svd`] (`lowrank.svd`): a linear layer becomes two, by truncated singular value decomposition (Eckart &
//!   Young 1936; Denton et al. 2014, "Exploiting linear structure within convolutional networks").
//! - [`Tucker2`] (`lowrank.tucker2`): a convolution becomes 1 x 1, `K x K`, 1 x 1, by Tucker decomposition of
//!   its channel modes (Kim et al. 2016; De Lathauwer, De Moor & Vandewalle 2000, HOSVD and HOOI).
//! - [`LowRank`] (`lowrank`): both, for a whole network.
//!
//! Ranks come from the energy to keep, or are fixed. A layer is replaced only where that saves, a [`Report`]
//! says what was done and why not, and training afterwards recovers the accuracy. Apply low rank before
//! pruning and quantization: layers that are under constraints are refused.
//!
//! ```
//! use cnn_core::testing::stripes;
//! use cnn_core::layers::{Activation, Conv2d, ConvOptions, Flatten, GlobalAvgPool, Linear};
//! use cnn_core::train::TrainSettings;
//! use cnn_core::{Compressor, Graph, Registry, Run, init::Init};
//! use cnn_lowrank::LowRank;
//!
//! // a small network, trained
//! let (train, validation) = (stripes(96, [1, 8, 8], 3, 1)?, stripes(48, [1, 8, 8], 3, 2)?);
//! let mut init = Init::new(0);
//! let mut graph = Graph::new(&[1, 8, 8]);
//! graph.push("conv1", Conv2d::new(init.he(&[12, 1, 3, 3])?, None, ConvOptions::default().pad(1))?)?;
//! graph.push("relu1", Activation::relu())?;
//! graph.push("conv2", Conv2d::new(init.he(&[16, 12, 3, 3])?, None, ConvOptions::default())?)?;
//! graph.push("relu2", Activation::relu())?;
//! graph.push("pool", GlobalAvgPool)?;
//! graph.push("flatten", Flatten)?;
//! graph.push("fc", Linear::new(init.glorot(&[3, 16])?, None)?)?;
//! let mut registry = Registry::core();
//! cnn_lowrank::register(&mut registry);
//! let settings = TrainSettings { epochs: 3, batch: 16, ..TrainSettings::default() };
//! let mut run = Run::new(&train, &validation, settings.clone(), &registry);
//! run.fine_tune(&mut graph, &settings)?;
//!
//! // what would happen, then make it so and fine-tune for two epochs
//! let method = LowRank { conv_energy: 0.8, epochs: Some(2), ..LowRank::default() };
//! println!("{}", method.plan(&graph)?);
//! let before = graph.cost()?;
//! method.apply(&mut graph, &mut run)?;
//! assert!(graph.cost()?.params < before.params);
//! assert!(graph.cost()?.macs.total() < before.macs.total());
//! # Ok::<(), cnn_core::Error>(())
//! ```

mod error;
mod kernel;
mod low_rank;
mod matrix;
mod plan;
mod rank;
mod report;
mod spectrum;
mod svd;
mod tucker2;

pub use error::LowRankError;
pub use low_rank::LowRank;
pub use report::{LayerReport, Outcome, Report};
pub use svd::Svd;
pub use tucker2::{Tucker2, tucker2_macs};

use cnn_core::Registry;

/// Adds the methods `lowrank.svd`, `lowrank.tucker2` and `lowrank`.
pub fn register(registry: &mut Registry) {
    registry.method(Svd::NAME, svd::build);
    registry.method(Tucker2::NAME, tucker2::build);
    registry.method(LowRank::NAME, low_rank::build);
}
