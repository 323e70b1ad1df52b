//! The networks, one file each.

mod builder;
mod fd_mobilenet;
mod lenet5;
mod lenet_300_100;
mod mobilenet_v1;
mod mobilenet_v2;
mod resnet;
mod resnet_imagenet;
mod shufflenet_v1;
mod shufflenet_v2;
mod squeezenet;
mod vgg16;

pub use fd_mobilenet::fd_mobilenet;
pub use lenet_300_100::lenet_300_100;
pub use lenet5::lenet5;
pub use mobilenet_v1::mobilenet_v1;
pub use mobilenet_v2::mobilenet_v2;
pub use resnet::{resnet20, resnet32, resnet44, resnet56, resnet110};
pub use resnet_imagenet::{resnet18, resnet34, resnet50};
pub use shufflenet_v1::{
    shufflenet_v1_g1, shufflenet_v1_g2, shufflenet_v1_g3, shufflenet_v1_g4, shufflenet_v1_g8,
};
pub use shufflenet_v2::shufflenet_v2;
pub use squeezenet::{squeezenet1_0, squeezenet1_1};
pub use vgg16::vgg16;

use cnn_core::Registry;

pub(crate) fn register(registry: &mut Registry) {
    registry.network("lenet5", lenet5);
    registry.network("lenet_300_100", lenet_300_100);
    registry.network("vgg16", vgg16);
    registry.network("resnet18", resnet18);
    registry.network("resnet34", resnet34);
    registry.network("resnet50", resnet50);
    registry.network("resnet20", resnet20);
    registry.network("resnet32", resnet32);
    registry.network("resnet44", resnet44);
    registry.network("resnet56", resnet56);
    registry.network("resnet110", resnet110);
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
}
