//! Quantization of convolutional networks: weight sharing and 8-bit integers.
//!
//! - [`KMeansQuantizer`], `quant.kmeans`: the weights of a layer share a few values, found by k-means and fine-tuned
//!   (Han, Mao, Dally 2016, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman
//!   Coding"). Smaller files; the arithmetic stays.
//! - [`Int8Quantizer`], `quant.int8`: weights and activations as 8-bit integers, after training (Jacob et al. 2018,
//!   "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference").
//! - [`QuantizationAwareTraining`], `quant.qat`: 8 to 2 bits with training, the steps of the grids learned (Esser et al. 2020, "Learned Step Size
//!   Quantization").
//! - [`QdqLayers`], `quant.qdq`: integer layers for networks that come quantized from elsewhere.
//! - [`BinaryQuantizer`], `quant.binary`: weights of one bit or three values, activations of one bit (Courbariaux et al. 2015,
//!   "BinaryConnect"; Rastegari et al. 2016, "XNOR-Net"; Li, Zhang, Liu 2016, "Ternary Weight Networks"; Zhu et al. 2017, "Trained Ternary
//!   Quantization").
//!
//! All but weights of one bit, which has none, keep exact zeros, so that they go after pruning. A layer under both is packed by the one applied last.
//!
//! The packed layers express themselves in standard operators for export: `Gather` from the codebook by indices of eight bits
//! or four, and `QuantizeLinear` / `DequantizeLinear` around 8-bit layers.
//!
//! ```
//! use cnn_core::testing::{lenet5, stripes};
//! use cnn_core::train::TrainSettings;
//! use cnn_core::{Registry, Run, model_file};
//!
//! let mut registry = Registry::core();
//! cnn_quant::register(&mut registry);
//! let config = serde_json::json!({ "bits": 3, "per_layer": { "conv*": 6 }, "epochs": 0 });
//! let method = registry.build_method("quant.kmeans", config)?;
//!
//! let (train, validation) = (stripes(32, [1, 28, 28], 10, 0)?, stripes(16, [1, 28, 28], 10, 1)?);
//! let mut graph = lenet5(0)?;
//! method.apply(&mut graph, &mut Run::new(&train, &validation, TrainSettings::default(), &registry))?;
//! let constrained = graph.infer(&cnn_core::data::batch(&train, &[0, 1])?.0)?;
//!
//! method.pack(&mut graph)?;
//! let bytes = model_file::deploy_bytes(&graph, false)?;
//! assert!(bytes.len() < 180_000); // of 1,724,320: 3 bits a weight
//! let back = model_file::from_bytes(&bytes, &registry)?;
//! assert_eq!(back.infer(&cnn_core::data::batch(&train, &[0, 1])?.0)?, constrained); // packed = constrained, bit by bit
//! # Ok::<(), cnn_core::Error>(())
//! ```

mod adaround;
mod binary;
mod binary_activation;
mod bits;
mod cluster;
mod codebook;
mod codebook_conv2d;
mod codebook_linear;
mod codebook_weights;
mod coding;
mod conv2d_i8;
mod divergence;
mod equalize;
mod error;
mod express;
mod fold;
mod grid;
mod half16;
mod in_time;
mod int8;
mod int8_range;
mod int8_weights;
mod kernels;
mod kmeans;
mod learned_grid;
mod learned_step;
mod linear_i8;
mod lsq;
mod mixed;
mod observer;
mod qat;
mod qdq;
mod signs;
mod targets;
mod ternary;
mod tie;
mod xnor_conv2d;
mod xnor_linear;
mod xnor_weights;

pub use binary::{BinaryActivations, BinaryQuantizer, BinaryWeights};
pub use binary_activation::BinaryActivation;
pub use bits::Bits;
pub use cluster::{Init, centroids, nearest, weighted_centroids};
pub use codebook::{CODEBOOK, CentroidGradient, Codebook};
pub use codebook_conv2d::CodebookConv2d;
pub use codebook_linear::CodebookLinear;
pub use codebook_weights::{CodebookWeights, MOST_VALUES};
pub use coding::symbols::Form;
pub use conv2d_i8::Conv2dI8;
pub use error::Error;
pub use grid::Grid;
pub use half16::{HALF, Half};
pub use int8::{Int8Quantizer, Rounding};
pub use int8_range::{INT8_RANGE, Int8Range, WeightGrid, WeightRange};
pub use int8_weights::Int8Weights;
pub use kmeans::KMeansQuantizer;
pub use learned_grid::{LearnedGrid, StepGradient};
pub use learned_step::{LEARNED_STEP, LearnedStep};
pub use linear_i8::LinearI8;
pub use observer::Observer;
pub use qat::QuantizationAwareTraining;
pub use qdq::QdqLayers;
pub use signs::{SIGNS, Signs};
pub use ternary::{TERNARY, Ternary};
pub use tie::Sharing;
pub use xnor_conv2d::XnorConv2d;
pub use xnor_linear::XnorLinear;
pub use xnor_weights::XnorWeights;

use cnn_core::Registry;

/// Adds the methods, packed layers and constraints of this crate.
pub fn register(registry: &mut Registry) {
    registry.layer(CodebookConv2d::KIND, CodebookConv2d::decode);
    registry.layer(CodebookLinear::KIND, CodebookLinear::decode);
    registry.layer(Conv2dI8::KIND, Conv2dI8::decode);
    registry.layer(BinaryActivation::KIND, BinaryActivation::decode);
    registry.layer(XnorConv2d::KIND, XnorConv2d::decode);
    registry.layer(XnorLinear::KIND, XnorLinear::decode);
    registry.layer(LearnedGrid::KIND, LearnedGrid::decode);
    registry.layer(LinearI8::KIND, LinearI8::decode);
    registry.constraint(CODEBOOK, Codebook::decode);
    registry.constraint(HALF, Half::decode);
    registry.constraint(INT8_RANGE, Int8Range::decode);
    registry.constraint(LEARNED_STEP, LearnedStep::decode);
    registry.constraint(SIGNS, Signs::decode);
    registry.constraint(TERNARY, Ternary::decode);
    registry.method(KMeansQuantizer::NAME, KMeansQuantizer::build);
    registry.method(Int8Quantizer::NAME, Int8Quantizer::build);
    registry.method(BinaryQuantizer::NAME, BinaryQuantizer::build);
    registry.method(QdqLayers::NAME, QdqLayers::build);
    registry.method(QuantizationAwareTraining::NAME, QuantizationAwareTraining::build);
}

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
