//! Light structures: networks by name, and standard convolutions replaced by depthwise separable ones.
//!
//! - [`lenet5`], [`lenet_300_100`]: the classic small networks for digits (LeCun, Bottou, Bengio, Haffner
//!   1998, in the forms that the compression literature compares on: Han et al. 2015).
//! - [`resnet20`] to [`resnet110`]: residual networks for small images (He, Zhang, Ren, Sun 2016, section
//!   4.2).
//! - [`mobilenet_v1`]: depthwise separable throughout (Howard et al. 2017).
//! - [`separable`]: the depthwise separable convolution nearest to a trained one; [`SubstituteSeparable`]
//!   puts it into a network and fine-tunes, as the method `light.separable`.
//! - [`cost`]: what the operations cost, in formulas.
//!
//! All networks take [`cnn_core::NetworkOptions`]: input shape, classes, width multiplier, seed. With a width
//! below 1 they serve as students.
//!
//! ```
//! use cnn_core::{Compressor, NetworkOptions, Registry, Run, testing::stripes, train::TrainSettings};
//! use cnn_lightweight::SubstituteSeparable;
//!
//! let mut registry = Registry::core();
//! cnn_lightweight::register(&mut registry);
//! let options = NetworkOptions { input: Some([1, 20, 20]), classes: Some(4), width: 0.5, seed: 1 };
//! let mut network = registry.build_network("lenet5", &options)?;
//! let before = network.cost()?;
//!
//! let (train, validation) = (stripes(64, [1, 20, 20], 4, 1)?, stripes(16, [1, 20, 20], 4, 2)?);
//! let settings = TrainSettings { epochs: 1, ..TrainSettings::default() };
//! let mut run = Run::new(&train, &validation, settings, &registry);
//! SubstituteSeparable::default().apply(&mut network, &mut run)?; // conv2: 10 -> 25 channels, 5 x 5
//! assert_eq!(before.params - network.cost()?.params, 25 * 10 * 25 - (25 * 10 + 10 * 25));
//! # Ok::<(), cnn_core::Error>(())
//! ```

mod builder;
pub mod cost;
mod error;
mod fd_mobilenet;
mod lenet5;
mod lenet_300_100;
mod mobilenet_v1;
mod mobilenet_v2;
mod resnet;
mod resnet_imagenet;
mod separable;
mod shufflenet_v1;
mod shufflenet_v2;
mod squeezenet;
mod substitute;
mod vgg16;

pub use error::{Error, Result};
pub use fd_mobilenet::fd_mobilenet;
pub use lenet_300_100::lenet_300_100;
pub use lenet5::lenet5;
pub use mobilenet_v1::mobilenet_v1;
pub use mobilenet_v2::mobilenet_v2;
pub use resnet::{resnet20, resnet32, resnet44, resnet56, resnet110};
pub use resnet_imagenet::{resnet18, resnet34, resnet50};
pub use separable::{Separable, separable};
pub use shufflenet_v1::{
    shufflenet_v1_g1, shufflenet_v1_g2, shufflenet_v1_g3, shufflenet_v1_g4, shufflenet_v1_g8,
};
pub use shufflenet_v2::shufflenet_v2;
pub use squeezenet::{squeezenet1_0, squeezenet1_1};
pub use substitute::{SubstituteSeparable, Substitution, substitute};
pub use vgg16::vgg16;

use cnn_core::Registry;

/// Adds the networks and the method `light.separable`.
pub fn register(registry: &mut Registry) {
    registry.network("lenet5", lenet5);
    registry.network("lenet_300_100", lenet_300_100);
    registry.network("resnet20", resnet20);
    registry.network("resnet32", resnet32);
    registry.network("resnet44", resnet44);
    registry.network("resnet56", resnet56);
    registry.network("resnet110", resnet110);
    registry.network("resnet18", resnet18);
    registry.network("resnet34", resnet34);
    registry.network("resnet50", resnet50);
    registry.network("vgg16", vgg16);
    registry.network("squeezenet1_0", squeezenet1_0);
    registry.network("squeezenet1_1", squeezenet1_1);
    registry.network("mobilenet_v1", mobilenet_v1);
    registry.network("mobilenet_v2", mobilenet_v2);
    registry.network("fd_mobilenet", fd_mobilenet);
    registry.network("shufflenet_v1_g1", shufflenet_v1_g1);
    registry.network("shufflenet_v1_g2", shufflenet_v1_g2);
    registry.network("shufflenet_v1_g3", shufflenet_v1_g3);
    registry.network("shufflenet_v1_g4", shufflenet_v1_g4);
    registry.network("shufflenet_v1_g8", shufflenet_v1_g8);
    registry.network("shufflenet_v2", shufflenet_v2);
    registry.method(substitute::NAME, substitute::build);
}
