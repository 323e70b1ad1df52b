//! Light structures: networks by name, and light forms in the place of standard convolutions of a trained
//! network.
//!
//! Networks, one builder each; multiply-adds are for 3 x 224 x 224 and 1,000 classes, unless the network is
//! for small images:
//!
//! | name | paper | parameters | multiply-adds |
//! |---|---|---|---|
//! | [`vgg16`] | Simonyan & Zisserman 2015 | 138,357,544 | 15,470,264,320 |
//! | [`resnet18`] | He, Zhang, Ren, Sun 2016 | 11,689,512 | 1,814,073,344 |
//! | [`resnet34`] | | 21,797,672 | 3,663,761,408 |
//! | [`resnet50`] (v1.5) | | 25,557,032 | 4,089,184,256 |
//! | [`resnet20`], [`resnet32`], [`resnet44`], [`resnet56`], [`resnet110`] | the same, section 4.2, for CIFAR-10 | 269,722 to 1,727,962 | 40,551,040 to 252,887,680 |
//! | [`squeezenet1_0`] | Iandola et al. 2016 | 1,248,424 | 818,924,576 |
//! | [`squeezenet1_1`] | | 1,235,496 | 349,151,936 |
//! | [`mobilenet_v1`] | Howard et al. 2017 | 4,231,976 | 568,740,352 |
//! | [`mobilenet_v2`] | Sandler et al. 2018 | 3,504,872 | 300,774,272 |
//! | [`fd_mobilenet`] | Qin et al. 2018 | 2,901,288 | 144,489,728 |
//! | [`shufflenet_v1_g3`], and `_g1`, `_g2`, `_g4`, `_g8` | Zhang et al. 2018 | 1,865,728 | 137,460,672 |
//! | [`shufflenet_v2`] | Ma et al. 2018 | 2,278,604 | 144,907,992 |
//! | [`lenet5`] | LeCun et al. 1998, in the form of Han et al. 2015 | 431,080 | 2,293,000 |
//! | [`lenet_300_100`] | | 266,610 | 266,200 |
//!
//! All networks take [`cnn_core::NetworkOptions`]: input shape, classes, width multiplier, seed. With a width
//! below 1 they serve as students. Networks for large images have a **stride plan for small ones** (a side
//! below 96 pixels): the strides that become 1 are
//!
//! | network | become 1 | last map at 32 x 32 |
//! |---|---|---|
//! | [`vgg16`] | none; batch normalization, one hidden layer of 512 | 1 x 1 |
//! | [`resnet18`] to [`resnet50`] | the first convolution (3 x 3, not 7 x 7), no max pooling after it | 4 x 4 |
//! | [`squeezenet1_0`], [`squeezenet1_1`] | the first convolution (3 x 3, padded) | 4 x 4 |
//! | [`mobilenet_v1`] | the first convolution | 2 x 2 |
//! | [`mobilenet_v2`] | the first convolution, the first block of 24 channels | 4 x 4 |
//! | [`fd_mobilenet`] | the first convolution, the first block | 4 x 4 |
//! | [`shufflenet_v1_g3`] and the like, [`shufflenet_v2`] | the first convolution, no max pooling after it | 4 x 4 |
//!
//! Forms that replace a standard convolution of `M` filters `K x K` over `N` channels, each the nearest of
//! its kind in least squares over the weights, and the methods that put them into a network and fine-tune:
//!
//! | form | method | cost over the standard convolution |
//! |---|---|---|
//! | [`separable`]: `r` depthwise filters a channel, pointwise | `light.separable`, [`SubstituteSeparable`] | `r (1 / M + 1 / K^2)` |
//! | [`group_shuffle`]: `g` groups, shuffle, grouped pointwise | `light.group_shuffle`, [`SubstituteGroupShuffle`] | `(1 + 1 / K^2) / g` for `N = M` |
//! | [`inverted_residual`]: expansion `t`, depthwise, projection | `light.inverted_residual`, [`SubstituteInverted`] | `t (2 / K^2 + 1 / M)` for `N = M` |
//!
//! Each method's `substitute` says, for each layer, how far off the weights are and what the layer costs now
//! ([`Substitution`]). [`cost`] has the formulas.
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

pub mod cost;
mod error;
mod forms;
mod networks;
mod substitute;

pub use error::{Error, Result};
pub use forms::{GroupShuffle, InvertedResidual, Separable, group_shuffle, inverted_residual, separable};
pub use networks::*;
pub use substitute::{SubstituteGroupShuffle, SubstituteInverted, SubstituteSeparable, Substitution};

use cnn_core::Registry;

/// Adds the networks, and the methods `light.separable`, `light.group_shuffle` and `light.inverted_residual`.
pub fn register(registry: &mut Registry) {
    networks::register(registry);
    substitute::register(registry);
}
