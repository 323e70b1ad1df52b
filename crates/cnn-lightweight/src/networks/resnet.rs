//! Residual networks for small images; those for large ones are in `resnet_imagenet`.

use super::builder::Builder;
use cnn_core::layers::{Add, ChannelMap, ConvOptions, MaxPool2d, Window};
use cnn_core::{Graph, NetworkOptions, Result};

/// Filters of the three stages.
const STAGES: [usize; 3] = [16, 32, 64];

/// `6 n + 2` layers with weights (He, Zhang, Ren, Sun 2016, section 4.2): a convolution of 3 x 3, three
/// stages of `n` blocks of two, with 16, 32 and 64 filters, each followed by batch normalization, the last
/// two stages at half the resolution of the one before; then the mean over the image and the classes.
fn resnet(name: &'static str, n: usize, options: &NetworkOptions) -> crate::Result<Graph> {
    let mut b = Builder::new(name, options, [3, 32, 32], 10)?;
    let stem = b.scaled(STAGES[0]);
    b.conv_bn("", "1", stem, 3, ConvOptions::default().pad(1))?;
    b.relu("relu1")?;
    for (stage, filters) in STAGES.into_iter().enumerate() {
        let filters = b.scaled(filters);
        for block in 0..n {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            residual(&mut b, &format!("stage{}.block{}.", stage + 1, block + 1), filters, stride)?;
        }
    }
    b.classify()
}

/// `relu(x' + bn(conv(relu(bn(conv(x))))))` with `x' = x`, or, where the size changes, every second pixel of
/// `x` with channels of zeros around (option A, without parameters).
fn residual(b: &mut Builder, prefix: &str, filters: usize, stride: usize) -> crate::Result<()> {
    let (input, channels) = (b.last(), b.channels()?);
    let same = ConvOptions::default().pad(1);
    b.conv_bn(prefix, "1", filters, 3, same.stride(stride))?;
    b.relu(&format!("{prefix}relu1"))?;
    b.conv_bn(prefix, "2", filters, 3, same)?;
    let branch = b.last();

    let mut shortcut = input;
    if stride > 1 {
        let name = format!("{prefix}subsample");
        b.graph.add(&name, MaxPool2d { window: Window::square(1).stride(stride) }, &[&shortcut])?;
        shortcut = name;
    }
    if filters > channels {
        let name = format!("{prefix}widen");
        let before = (filters - channels) / 2;
        let widen = ChannelMap::pad(channels, before, filters - channels - before)?;
        b.graph.add(&name, widen, &[&shortcut])?;
        shortcut = name;
    }
    b.graph.add(&format!("{prefix}add"), Add, &[&branch, &shortcut])?;
    b.relu(&format!("{prefix}relu2"))
}

macro_rules! depth {
    ($name:ident, $n:literal, $params:literal, $macs:literal) => {
        #[doc = concat!(
            "`", stringify!($name), "`: the CIFAR ResNet of that depth (He et al. 2016, section 4.2, option A shortcuts). \
             At width 1, for 3 x 32 x 32 and 10 classes: ", $params, " parameters, ", $macs, " multiply-adds."
        )]
        ///
        /// # Errors
        /// If an option is out of range.
        pub fn $name(options: &NetworkOptions) -> Result<Graph> {
            Ok(resnet(stringify!($name), $n, options)?)
        }
    };
}

depth!(resnet20, 3, "269,722", "40,551,040");
depth!(resnet32, 5, "464,154", "68,862,592");
depth!(resnet44, 7, "658,586", "97,174,144");
depth!(resnet56, 9, "853,018", "125,485,696");
depth!(resnet110, 18, "1,727,962", "252,887,680");

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::layers::Conv2d;

    #[test]
    fn twenty_has_19_convolutions_and_the_sizes_of_the_paper() {
        let graph = resnet20(&NetworkOptions::default()).unwrap();
        assert_eq!(graph.names_of::<Conv2d>().len(), 19);
        let shapes = graph.shapes(1).unwrap();
        let at = |name: &str| shapes[graph.find(name).unwrap()].clone();
        assert_eq!(at("stage1.block3.relu2"), [1, 16, 32, 32]);
        assert_eq!(at("stage2.block1.relu2"), [1, 32, 16, 16]);
        assert_eq!(at("stage3.block3.relu2"), [1, 64, 8, 8]);
        assert_eq!(at("fc"), [1, 10]);
    }

    #[test]
    fn the_shortcut_is_every_second_pixel_between_zeros() {
        let graph = resnet20(&NetworkOptions::default()).unwrap();
        let image = ndarray::Array::from_shape_fn(ndarray::IxDyn(&[1, 3, 32, 32]), |i| {
            ((i[1] * 7 + i[2] * 3 + i[3]) % 5) as f32
        });
        let values = graph.capture(&["stage1.block3.relu2", "stage2.block1.widen"], &image).unwrap();
        for ((n, c, y, x), &value) in
            values[1].view().into_dimensionality::<ndarray::Ix4>().unwrap().indexed_iter()
        {
            let expected = if (8..24).contains(&c) { values[0][[n, c - 8, 2 * y, 2 * x]] } else { 0.0 };
            assert_eq!(value, expected);
        }
    }

    #[test]
    fn odd_images_and_widths_fit() {
        for (input, width) in [([1, 28, 28], 0.3), ([3, 33, 31], 1.7), ([2, 5, 9], 0.01)] {
            let options = NetworkOptions { input: Some(input), classes: Some(3), width, seed: 0 };
            assert_eq!(resnet20(&options).unwrap().shapes(2).unwrap().last().unwrap(), &[2, 3]);
        }
    }
}
