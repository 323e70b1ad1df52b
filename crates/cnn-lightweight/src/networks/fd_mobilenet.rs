//! FD-MobileNet.

use super::builder::Builder;
use cnn_core::layers::ConvOptions;
use cnn_core::{Graph, NetworkOptions, Result};

/// Output channels and stride of the depthwise separable blocks (Qin, Zhang, Chen, Peng 2018, table 1).
const BLOCKS: [(usize, usize); 11] = [
    (64, 2),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 1),
];

/// FD-MobileNet (Qin et al. 2018): MobileNet with fast downsampling, so that the image is down to a 32nd of
/// its side within the first 12 layers and most of the work is done on small maps with many channels. A
/// convolution of 3 x 3, eleven blocks of depthwise 3 x 3 and pointwise convolution, each followed by batch
/// normalization and a rectifier, the mean over the image, and the classes. At width 1, for 3 x 224 x 224 and
/// 1,000 classes: 2,901,288 parameters, 144,489,728 multiply-adds. Weights of convolutions by He's rule.
///
/// # Small images
/// With a side of less than 96 pixels the first convolution and the first block have stride 1, so that 32 x
/// 32 becomes 4 x 4 at the end, not 1 x 1; the other three strides of 2 still come within five blocks.
///
/// # Errors
/// If an option is out of range.
///
/// ```
/// use cnn_core::NetworkOptions;
/// let options = NetworkOptions { input: Some([3, 32, 32]), classes: Some(10), width: 0.25, seed: 0 };
/// let graph = cnn_lightweight::fd_mobilenet(&options)?;
/// assert_eq!(graph.shapes(1)?[graph.find("block11.relu2")?], [1, 256, 4, 4]);
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn fd_mobilenet(options: &NetworkOptions) -> Result<Graph> {
    let mut b = Builder::new("fd_mobilenet", options, [3, 224, 224], 1_000)?;
    let small = b.small();
    let (stem, same) = (b.scaled(32), ConvOptions::default().pad(1));
    b.conv_bn("", "1", stem, 3, same.stride(if small { 1 } else { 2 }))?;
    b.relu("relu1")?;
    for (at, (filters, stride)) in BLOCKS.into_iter().enumerate() {
        let stride = if small && at == 0 { 1 } else { stride };
        b.separable(&format!("block{}.", at + 1), filters, stride)?;
    }
    Ok(b.classify()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_small_after_six_blocks() {
        let graph = fd_mobilenet(&NetworkOptions { width: 0.25, ..NetworkOptions::default() }).unwrap();
        let shapes = graph.shapes(1).unwrap();
        let side = |name: &str| shapes[graph.find(name).unwrap()][2];
        let names =
            ["relu1", "block1.relu2", "block2.relu2", "block4.relu2", "block6.relu2", "block11.relu2"];
        assert_eq!(names.map(side), [112, 56, 28, 14, 7, 7]);
    }
}
