//! MobileNetV2.

use super::builder::{Builder, divisible};
use cnn_core::layers::{Activation, ActivationFn, Add, ConvOptions, Dropout, Flatten, GlobalAvgPool};
use cnn_core::{Graph, NetworkOptions, Result};

/// Expansion `t`, channels `c`, repetitions `n` and stride `s` of the inverted residual blocks (Sandler et
/// al. 2018, table 2).
const BLOCKS: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];
const STEM: usize = 32;
const LAST: usize = 1280;
/// Channels are multiples of this.
const DIVISOR: usize = 8;

/// MobileNetV2 (Sandler et al. 2018, table 2): a convolution of 3 x 3, seventeen inverted residual blocks, a
/// convolution of 1 x 1 to 1,280 channels, the mean over the image, and the classes; batch normalization
/// after each convolution, and `min(max(x, 0), 6)` after all but those that end a block. At width 1, for 3 x
/// 224 x 224 and 1,000 classes: 3,504,872 parameters, 300,774,272 multiply-adds.
///
/// Channels under the width multiplier are rounded to multiples of 8 and not below nine tenths, as in the
/// authors' code; a width below 1 does not shrink the last convolution (section 4.1 of the paper). Weights of
/// convolutions by He's rule.
///
/// # Small images
/// With a side of less than 96 pixels the first convolution and the first block of 24 channels have stride 1,
/// so that 32 x 32 becomes 4 x 4 at the end, not 1 x 1.
///
/// # Errors
/// If an option is out of range.
///
/// ```
/// use cnn_core::NetworkOptions;
/// let options = NetworkOptions { input: Some([3, 32, 32]), classes: Some(10), width: 0.5, seed: 0 };
/// let graph = cnn_lightweight::mobilenet_v2(&options)?;
/// assert_eq!(graph.shapes(1)?[graph.find("block17.bn3")?], [1, 160, 4, 4]);
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn mobilenet_v2(options: &NetworkOptions) -> Result<Graph> {
    let mut b = Builder::new("mobilenet_v2", options, [3, 224, 224], 1_000)?;
    let small = b.small();
    let stem = b.scaled_to(STEM, DIVISOR);
    let stride = if small { 1 } else { 2 };
    b.conv_bn("", "1", stem, 3, ConvOptions::default().pad(1).stride(stride))?;
    relu6(&mut b, "relu1")?;
    let mut index = 0;
    for (at, (t, c, n, s)) in BLOCKS.into_iter().enumerate() {
        let filters = b.scaled_to(c, DIVISOR);
        for repetition in 0..n {
            index += 1;
            let stride = if repetition == 0 && !(small && at == 1) { s } else { 1 };
            inverted_residual(&mut b, &format!("block{index}."), t, filters, stride)?;
        }
    }
    let last = divisible(LAST as f64 * b.width().max(1.0), DIVISOR);
    b.conv_bn("", "2", last, 1, ConvOptions::default())?;
    relu6(&mut b, "relu2")?;
    b.graph.push("pool", GlobalAvgPool)?;
    b.graph.push("flatten", Flatten)?;
    b.graph.push("drop", Dropout::new(0.2)?)?;
    let classes = b.classes;
    b.linear("fc", classes)?;
    Ok(b.graph)
}

/// `conv1` expands the channels `t` times (not for `t = 1`), `conv2` is depthwise, `conv3` projects without a
/// rectifier; the input is added where the size stays (table 1, figure 4).
fn inverted_residual(
    b: &mut Builder,
    prefix: &str,
    t: usize,
    filters: usize,
    stride: usize,
) -> crate::Result<()> {
    let (input, channels) = (b.last(), b.channels()?);
    let expanded = t * channels;
    if t > 1 {
        b.conv_bn(prefix, "1", expanded, 1, ConvOptions::default())?;
        relu6(b, &format!("{prefix}relu1"))?;
    }
    b.conv_bn(prefix, "2", expanded, 3, ConvOptions::default().pad(1).stride(stride).groups(expanded))?;
    relu6(b, &format!("{prefix}relu2"))?;
    b.conv_bn(prefix, "3", filters, 1, ConvOptions::default())?;
    if stride == 1 && filters == channels {
        let branch = b.last();
        b.graph.add(&format!("{prefix}add"), Add, &[&branch, &input])?;
    }
    Ok(())
}

fn relu6(b: &mut Builder, name: &str) -> crate::Result<()> {
    Ok(b.graph.push(name, Activation { function: ActivationFn::Relu6 })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_maps_are_those_of_the_table() {
        let graph = mobilenet_v2(&NetworkOptions { width: 0.35, ..NetworkOptions::default() }).unwrap();
        assert_eq!(graph.names_of::<Add>().len(), 10);
        let shapes = graph.shapes(1).unwrap();
        let at = |name: &str| shapes[graph.find(name).unwrap()].clone();
        assert_eq!(at("block1.bn3"), [1, 8, 112, 112]);
        assert_eq!(at("block3.bn3"), [1, 8, 56, 56]);
        assert_eq!(at("block17.bn3"), [1, 112, 7, 7]);
        assert_eq!(at("relu2"), [1, 1280, 7, 7]);
    }

    #[test]
    fn a_wide_one_widens_the_last_convolution() {
        let options = NetworkOptions { input: Some([3, 32, 32]), width: 1.4, ..NetworkOptions::default() };
        let graph = mobilenet_v2(&options).unwrap();
        assert_eq!(graph.shapes(1).unwrap()[graph.find("relu2").unwrap()], [1, 1792, 4, 4]);
    }
}
