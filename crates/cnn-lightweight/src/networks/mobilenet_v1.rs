//! MobileNetV1.

use super::builder::Builder;
use cnn_core::layers::ConvOptions;
use cnn_core::{Graph, NetworkOptions, Result};

/// Output channels and stride of the depthwise separable blocks (Howard et al. 2017, table 1; the last stride
/// of the table, 2 for an input of 7 x 7 and an output of 7 x 7, is 1).
const BLOCKS: [(usize, usize); 13] = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
];

/// MobileNetV1 (Howard et al. 2017): a convolution of 3 x 3, thirteen blocks of depthwise 3 x 3 and pointwise
/// convolution, each followed by batch normalization and a rectifier, the mean over the image, and the
/// classes. At width 1, for 3 x 224 x 224 and 1,000 classes: 4,231,976 parameters, 568,740,352 multiply-adds.
///
/// An image with a side of less than 96 pixels is not halved by the first convolution: 32 x 32 becomes 2 x 2
/// at the end, not 1 x 1.
///
/// # Errors
/// If an option is out of range.
///
/// ```
/// use cnn_core::NetworkOptions;
/// let options = NetworkOptions { input: Some([3, 32, 32]), classes: Some(10), width: 0.25, seed: 0 };
/// let graph = cnn_lightweight::mobilenet_v1(&options)?;
/// assert_eq!(graph.shapes(1)?[graph.find("block13.relu2")?], [1, 256, 2, 2]);
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn mobilenet_v1(options: &NetworkOptions) -> Result<Graph> {
    let mut b = Builder::new("mobilenet_v1", options, [3, 224, 224], 1_000)?;
    let small = b.small();
    let (stem, same) = (b.scaled(32), ConvOptions::default().pad(1));
    b.conv_bn("", "1", stem, 3, same.stride(if small { 1 } else { 2 }))?;
    b.relu("relu1")?;
    for (at, (filters, stride)) in BLOCKS.into_iter().enumerate() {
        b.separable(&format!("block{}.", at + 1), filters, stride)?;
    }
    Ok(b.classify()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_224_the_last_map_is_7_by_7() {
        let graph = mobilenet_v1(&NetworkOptions { width: 0.25, ..NetworkOptions::default() }).unwrap();
        let shapes = graph.shapes(1).unwrap();
        assert_eq!(shapes[graph.find("relu1").unwrap()], [1, 8, 112, 112]);
        assert_eq!(shapes[graph.find("block13.relu2").unwrap()], [1, 256, 7, 7]);
        assert_eq!(shapes.last().unwrap(), &[1, 1_000]);
    }

    #[test]
    fn it_is_as_the_paper_says_depthwise() {
        let graph = mobilenet_v1(&NetworkOptions { width: 0.25, ..NetworkOptions::default() }).unwrap();
        let depthwise =
            |name: &str| graph.layer::<cnn_core::layers::Conv2d>(name).unwrap().unwrap().is_depthwise();
        assert!(
            (1..=13).all(|i| depthwise(&format!("block{i}.conv1")) && !depthwise(&format!("block{i}.conv2")))
        );
    }
}
