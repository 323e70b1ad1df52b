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
mod axis_map;
mod batch_norm;
mod channel_map;
mod conv2d;
mod linear;
mod merge;
mod pad;
mod pool;
mod reshape;
mod simple;
mod softmax;

pub use crate::ops::activation::ActivationFn;
pub use activation::Activation;
pub use axis_map::AxisMap;
pub use batch_norm::BatchNorm;
pub use channel_map::ChannelMap;
pub use conv2d::{Conv2d, ConvOptions};
pub use linear::Linear;
pub use merge::{Add, Concat, Mul};
pub use pad::Pad;
pub use pool::{AdaptiveAvgPool, AvgPool2d, GlobalAvgPool, MaxPool2d, Window};
pub use reshape::{Flatten, Reshape};
pub use simple::{Dropout, Identity, Input};
pub use softmax::Softmax;

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
