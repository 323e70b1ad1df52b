//! The trainable layers.

/// What a layer without parameters says of its cost, its copies and its training.
macro_rules! without_parameters {
    () => {
        fn cost(&self, _inputs: &[&[usize]]) -> crate::Result<crate::Cost> {
            Ok(crate::Cost::default())
        }

        fn clone_box(&self) -> Box<dyn crate::Layer> {
            Box::new(Self::clone(self))
        }

        fn trainable(&mut self) -> Option<&mut dyn crate::train::Trainable> {
            Some(self)
        }
    };
}

/// Output channel `c` is input channel `c`, and there is nothing to slice.
macro_rules! same_channels {
    () => {
        fn channels(&self, _inputs: &[&[usize]]) -> crate::ChannelRule {
            crate::ChannelRule::Same
        }

        fn select(&mut self, _keep: crate::Keep<'_>) -> crate::Result<()> {
            Ok(())
        }
    };
}

mod activation;
mod arithmetic;
mod axis_map;
mod batch_norm;
mod channel_map;
mod conv2d;
mod fake_quantize;
mod linear;
mod mean;
mod merge;
mod pad;
mod pool;
mod reshape;
mod resize;
mod simple;
mod softmax;
mod transpose;

pub use crate::ops::activation::ActivationFn;
pub use crate::ops::resize::{NearestRounding, ResizeCoordinates, ResizeMode};
pub use activation::Activation;
pub use arithmetic::{Arithmetic, ArithmeticConstant, ArithmeticOperator};
pub use axis_map::AxisMap;
pub use batch_norm::BatchNorm;
pub use channel_map::ChannelMap;
pub use conv2d::{Conv2d, ConvOptions};
pub use fake_quantize::FakeQuantize;
pub use linear::Linear;
pub use mean::Mean;
pub use merge::{Add, Concat, Mul};
pub use pad::Pad;
pub use pool::{AdaptiveAvgPool, AvgPool2d, GlobalAvgPool, MaxPool2d, Window};
pub use reshape::{Flatten, Reshape};
pub use resize::Resize;
pub use simple::{Dropout, Identity, Input};
pub use softmax::Softmax;
pub use transpose::Transpose;

use crate::registry::Registry;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Adds the decoders of all core layers.
pub(crate) fn register(registry: &mut Registry) {
    registry.layer("input", Input::decode);
    registry.layer("identity", Identity::decode);
    registry.layer("dropout", Dropout::decode);
    registry.layer("conv2d", Conv2d::decode);
    registry.layer("linear", Linear::decode);
    registry.layer("batch_norm", BatchNorm::decode);
    registry.layer("activation", Activation::decode);
    registry.layer("max_pool2d", MaxPool2d::decode);
    registry.layer("avg_pool2d", AvgPool2d::decode);
    registry.layer("global_avg_pool", GlobalAvgPool::decode);
    registry.layer("adaptive_avg_pool", AdaptiveAvgPool::decode);
    registry.layer("add", Add::decode);
    registry.layer("mul", Mul::decode);
    registry.layer("concat", Concat::decode);
    registry.layer("channel_map", ChannelMap::decode);
    registry.layer("flatten", Flatten::decode);
    registry.layer("reshape", Reshape::decode);
    registry.layer("pad", Pad::decode);
    registry.layer("softmax", Softmax::decode);
    registry.layer("axis_map", AxisMap::decode);
    registry.layer("transpose", Transpose::decode);
    registry.layer("mean", Mean::decode);
    registry.layer("arithmetic", Arithmetic::decode);
    registry.layer("arithmetic_constant", ArithmeticConstant::decode);
    registry.layer("resize", Resize::decode);
    registry.layer("fake_quantize", FakeQuantize::decode);
}

/// The only input of a layer.
///
/// # Errors
/// If there are none or several.
pub fn one<T: Copy>(inputs: &[T]) -> Result<T> {
    match inputs {
        [input] => Ok(*input),
        _ => Err(Error::Shape(format!("the layer takes one input, got {}", inputs.len()))),
    }
}

/// The shape of the only input.
pub(crate) fn one_shape(inputs: &[&Tensor]) -> Result<Vec<usize>> {
    Ok(one(inputs)?.shape().to_vec())
}
