//! Residual networks for large images; those for small ones are in `resnet`.

use super::builder::Builder;
use cnn_core::layers::{Add, ConvOptions, MaxPool2d, Window};
use cnn_core::{Graph, NetworkOptions, Result};

/// Filters of the 3 x 3 convolutions of the four stages (He, Zhang, Ren, Sun 2016, table 1).
const STAGES: [usize; 4] = [64, 128, 256, 512];
/// Output channels of a bottleneck over the filters of its 3 x 3 convolution.
const EXPANSION: usize = 4;

/// A convolution of 7 x 7, a max pooling, four stages of blocks, each stage after the first at half the
/// resolution, the mean over the image, and the classes (He et al. 2016, table 1).
fn resnet(
    name: &'static str,
    blocks: [usize; 4],
    bottleneck: bool,
    options: &NetworkOptions,
) -> crate::Result<Graph> {
    let mut b = Builder::new(name, options, [3, 224, 224], 1_000)?;
    let stem = b.scaled(STAGES[0]);
    if b.small() {
        b.conv_bn("", "1", stem, 3, ConvOptions::default().pad(1))?;
        b.relu("relu1")?;
    } else {
        b.conv_bn("", "1", stem, 7, ConvOptions::default().pad(3).stride(2))?;
        b.relu("relu1")?;
        b.graph.push("pool1", MaxPool2d { window: Window::square(3).stride(2).pad(1) })?;
    }
    for (stage, filters) in STAGES.into_iter().enumerate() {
        let filters = b.scaled(filters);
        for block in 0..blocks[stage] {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            residual(
                &mut b,
                &format!("stage{}.block{}.", stage + 1, block + 1),
                filters,
                stride,
                bottleneck,
            )?;
        }
    }
    b.classify()
}

/// `relu(F(x) + x')`. `F` is two convolutions of 3 x 3, or 1 x 1, 3 x 3, 1 x 1 with four times the channels
/// at the end (figure 5), each with batch normalization. `x' = x`, or, where the size changes, a normalized
/// convolution of 1 x 1 (option B).
fn residual(
    b: &mut Builder,
    prefix: &str,
    filters: usize,
    stride: usize,
    bottleneck: bool,
) -> crate::Result<()> {
    let (input, channels) = (b.last(), b.channels()?);
    let (same, point) = (ConvOptions::default().pad(1), ConvOptions::default());
    let outputs = if bottleneck {
        b.conv_bn(prefix, "1", filters, 1, point)?;
        b.relu(&format!("{prefix}relu1"))?;
        b.conv_bn(prefix, "2", filters, 3, same.stride(stride))?;
        b.relu(&format!("{prefix}relu2"))?;
        b.conv_bn(prefix, "3", EXPANSION * filters, 1, point)?;
        EXPANSION * filters
    } else {
        b.conv_bn(prefix, "1", filters, 3, same.stride(stride))?;
        b.relu(&format!("{prefix}relu1"))?;
        b.conv_bn(prefix, "2", filters, 3, same)?;
        filters
    };
    let (branch, mut shortcut) = (b.last(), input);
    if stride > 1 || outputs != channels {
        b.conv_bn_of(&shortcut, &format!("{prefix}shortcut."), "1", outputs, 1, point.stride(stride))?;
        shortcut = b.last();
    }
    b.graph.add(&format!("{prefix}add"), Add, &[&branch, &shortcut])?;
    b.relu(&format!("{prefix}relu"))
}

macro_rules! depth {
    ($name:ident, $blocks:expr, $bottleneck:literal, $form:literal, $params:literal, $macs:literal) => {
        #[doc = concat!(
            "`", stringify!($name), "`: the ImageNet ResNet of that depth (He et al. 2016, table 1), ", $form,
            " Shortcuts by projection where the size changes (option B), weights of convolutions by He's \
             rule as section 3.4 says. At width 1, for 3 x 224 x 224 and 1,000 classes: ", $params,
            " parameters, ", $macs, " multiply-adds."
        )]
        ///
        /// # Small images
        /// With a side of less than 96 pixels, the first convolution is 3 x 3 with stride 1 (not 7 x 7 with
        /// 2) and there is no max pooling, so that 32 x 32 becomes 4 x 4 at the end, not 1 x 1.
        ///
        /// # Errors
        /// If an option is out of range.
        pub fn $name(options: &NetworkOptions) -> Result<Graph> {
            Ok(resnet(stringify!($name), $blocks, $bottleneck, options)?)
        }
    };
}

depth!(
    resnet18,
    [2, 2, 2, 2],
    false,
    "with blocks of two 3 x 3 convolutions.",
    "11,689,512",
    "1,814,073,344"
);
depth!(
    resnet34,
    [3, 4, 6, 3],
    false,
    "with blocks of two 3 x 3 convolutions.",
    "21,797,672",
    "3,663,761,408"
);
depth!(
    resnet50,
    [3, 4, 6, 3],
    true,
    "with bottlenecks in the form known as v1.5: the stride is on the 3 x 3 convolution, not on the 1 x 1 \
     before it.",
    "25,557,032",
    "4,089,184,256"
);

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::layers::Conv2d;

    fn small(width: f64) -> NetworkOptions {
        NetworkOptions { input: Some([3, 32, 32]), classes: Some(10), width, seed: 0 }
    }

    #[test]
    fn maps_are_the_paper_s() {
        for (build, last) in [(resnet18 as fn(&_) -> _, 64), (resnet50, 256)] {
            let large: Graph = build(&NetworkOptions { width: 0.125, ..NetworkOptions::default() }).unwrap();
            let side = |graph: &Graph, name: &str| graph.shapes(1).unwrap()[graph.find(name).unwrap()][2];
            assert_eq!(side(&large, "relu1"), 112);
            for (stage, expected) in [(1, 56), (2, 28), (3, 14), (4, 7)] {
                assert_eq!(side(&large, &format!("stage{stage}.block1.relu")), expected);
            }
            assert_eq!(large.shapes(1).unwrap()[large.find("pool").unwrap()], [1, last, 1, 1]);
            let small = build(&small(0.125)).unwrap();
            assert_eq!(side(&small, "stage1.block1.relu"), 32);
            assert_eq!(side(&small, "stage4.block2.relu"), 4);
        }
    }

    #[test]
    fn layers_with_weights_are_as_many_as_the_name_says() {
        // without the projections of the shortcuts, and with the fully connected layer
        for (build, depth, projections) in
            [(resnet18 as fn(&_) -> _, 18, 3), (resnet34, 34, 3), (resnet50, 50, 4)]
        {
            let graph: Graph = build(&small(0.125)).unwrap();
            let names = graph.names_of::<Conv2d>();
            let shortcuts = names.iter().filter(|n| n.contains("shortcut")).count();
            assert_eq!((names.len() - shortcuts + 1, shortcuts), (depth, projections));
        }
    }

    #[test]
    fn fifty_strides_on_the_3_by_3() {
        let graph = resnet50(&small(0.125)).unwrap();
        let stride = |name: &str| graph.layer::<Conv2d>(name).unwrap().unwrap().options.stride;
        assert_eq!(stride("stage2.block1.conv1"), [1, 1]);
        assert_eq!(stride("stage2.block1.conv2"), [2, 2]);
        assert_eq!(stride("stage2.block1.shortcut.conv1"), [2, 2]);
        assert_eq!(stride("stage2.block2.conv2"), [1, 1]);
    }
}
