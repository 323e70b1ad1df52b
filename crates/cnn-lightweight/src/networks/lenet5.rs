//! LeNet-5.

use super::builder::Builder;
use cnn_core::layers::{Conv2d, ConvOptions, Flatten, MaxPool2d, Window};
use cnn_core::tensor::zeros;
use cnn_core::{Graph, NetworkOptions, Result};

/// LeNet-5 in Caffe's form, which the compression literature uses (Han et al. 2015, table 4): convolutions of
/// 20 and 50 filters of 5 x 5, each max-pooled by 2, then 500 neurons and the classes. At width 1, for 1 x 28
/// x 28 and 10 classes: 431,080 parameters, 2,293,000 multiply-adds. The width multiplies 20, 50 and 500.
///
/// # Errors
/// If an option is out of range, or the input is smaller than 16 x 16.
///
/// ```
/// use cnn_core::NetworkOptions;
/// let student = cnn_lightweight::lenet5(&NetworkOptions { width: 0.5, ..NetworkOptions::default() })?;
/// assert_eq!(student.cost()?.params, 260 + 6_275 + 100_250 + 2_510);
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn lenet5(options: &NetworkOptions) -> Result<Graph> {
    let mut b = Builder::new("lenet5", options, [1, 28, 28], 10)?;
    for (index, filters) in [(1, 20), (2, 50)] {
        let (m, inputs) = (b.scaled(filters), b.channels()?);
        let conv = Conv2d::new(b.glorot(&[m, inputs, 5, 5])?, Some(zeros(&[m])), ConvOptions::default())?;
        b.graph.push(&format!("conv{index}"), conv)?;
        b.graph.push(&format!("pool{index}"), MaxPool2d { window: Window::square(2) })?;
    }
    b.graph.push("flatten", Flatten)?;
    let (hidden, classes) = (b.scaled(500), b.classes);
    b.linear("fc1", hidden)?;
    b.relu("relu1")?;
    b.linear("fc2", classes)?;
    Ok(b.graph)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::model_file::deploy_bytes;

    #[test]
    fn it_is_the_same_network_as_the_core_s() {
        let options = NetworkOptions { seed: 5, ..NetworkOptions::default() };
        let ours = deploy_bytes(&lenet5(&options).unwrap(), true).unwrap();
        assert_eq!(ours, deploy_bytes(&cnn_core::testing::lenet5(5).unwrap(), true).unwrap());
    }

    #[test]
    fn options_are_respected() {
        let options = NetworkOptions { input: Some([3, 32, 40]), classes: Some(7), width: 0.25, seed: 1 };
        let graph = lenet5(&options).unwrap();
        assert_eq!(graph.input_shape(), [3, 32, 40]);
        let shapes = graph.shapes(1).unwrap();
        assert_eq!(shapes[1], [1, 5, 28, 36]);
        assert_eq!(shapes.last().unwrap(), &[1, 7]);
    }

    #[test]
    fn too_small_an_image_is_an_error() {
        let small =
            |side| lenet5(&NetworkOptions { input: Some([1, side, side]), ..NetworkOptions::default() });
        assert!(small(15).is_err());
        assert!(small(16).is_ok());
    }
}
