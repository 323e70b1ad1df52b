//! VGG-16.

use super::builder::Builder;
use cnn_core::layers::{
    AdaptiveAvgPool, Conv2d, ConvOptions, Dropout, Flatten, GlobalAvgPool, MaxPool2d, Window,
};
use cnn_core::tensor::zeros;
use cnn_core::{Graph, NetworkOptions, Result};

/// Convolutions and filters of the five stages (Simonyan & Zisserman 2015, table 1, configuration D).
const STAGES: [(usize, usize); 5] = [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)];
/// Neurons of the two hidden layers, for large images and for small ones.
const HIDDEN: usize = 4096;
const HIDDEN_SMALL: usize = 512;
/// The map that the hidden layers read.
const MAP: [usize; 2] = [7, 7];

/// VGG-16 (Simonyan & Zisserman 2015, table 1, configuration D): thirteen convolutions of 3 x 3 with
/// rectifiers, each of the five stages max-pooled by 2, two hidden layers of 4,096 neurons with dropout, and
/// the classes. At width 1, for 3 x 224 x 224 and 1,000 classes: 138,357,544 parameters, 15,470,264,320
/// multiply-adds. The width multiplies filters and neurons. Where the last map is not 7 x 7 it is averaged to
/// that size. Weights by Glorot's rule, which section 3.1 of the paper says works for all its networks.
///
/// # Small images
/// For images with a side of less than 96 pixels it is the form that the pruning literature uses for CIFAR-10
/// (Li et al. 2017, table 1, after Zagoruyko 2015): batch normalization after each convolution, and one
/// hidden layer of 512 neurons on the mean over the last map, which for 32 x 32 is 1 x 1. The strides are the
/// large form's; a side that is down to 1 is not pooled further. Weights of convolutions by He's rule. For
/// 3 x 32 x 32 and 10 classes: 14,986,698 parameters, 313,463,808 multiply-adds.
///
/// # Errors
/// If an option is out of range.
///
/// ```
/// use cnn_core::NetworkOptions;
/// let options = NetworkOptions { input: Some([3, 32, 32]), classes: Some(10), width: 0.25, seed: 0 };
/// let graph = cnn_lightweight::vgg16(&options)?;
/// assert_eq!(graph.shapes(1)?[graph.find("pool5")?], [1, 128, 1, 1]);
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn vgg16(options: &NetworkOptions) -> Result<Graph> {
    let mut b = Builder::new("vgg16", options, [3, 224, 224], 1_000)?;
    let small = b.small();
    for (at, (convolutions, filters)) in STAGES.into_iter().enumerate() {
        let (stage, filters) = (at + 1, b.scaled(filters));
        for index in 1..=convolutions {
            let index = format!("{stage}_{index}");
            let same = ConvOptions::default().pad(1);
            if small {
                b.conv_bn("", &index, filters, 3, same)?;
            } else {
                let inputs = b.channels()?;
                let weight = b.glorot(&[filters, inputs, 3, 3])?;
                let conv = Conv2d::new(weight, Some(zeros(&[filters])), same)?;
                b.graph.push(&format!("conv{index}"), conv)?;
            }
            b.relu(&format!("relu{index}"))?;
        }
        halve(&mut b, &format!("pool{stage}"))?;
    }
    let classes = b.classes;
    if small {
        let hidden = b.scaled(HIDDEN_SMALL);
        b.graph.push("mean", GlobalAvgPool)?;
        b.graph.push("flatten", Flatten)?;
        b.linear("fc1", hidden)?;
        b.relu("relu6")?;
        b.linear("fc2", classes)?;
        return Ok(b.graph);
    }
    if b.shape()?[2..] != MAP {
        b.graph.push("mean", AdaptiveAvgPool { size: MAP })?;
    }
    b.graph.push("flatten", Flatten)?;
    let hidden = b.scaled(HIDDEN);
    for index in [1, 2] {
        b.linear(&format!("fc{index}"), hidden)?;
        b.relu(&format!("relu{}", index + 5))?;
        b.graph.push(&format!("drop{index}"), Dropout::new(0.5)?)?;
    }
    b.linear("fc3", classes)?;
    Ok(b.graph)
}

/// A max pooling by 2 along the sides that are longer than 1.
fn halve(b: &mut Builder, name: &str) -> crate::Result<()> {
    let shape = b.shape()?;
    let window = [shape[2].min(2), shape[3].min(2)];
    let window = Window { kernel: window, stride: window, ..Window::square(2) };
    Ok(b.graph.push(name, MaxPool2d { window })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_form_is_that_of_the_pruning_literature() {
        let options =
            NetworkOptions { input: Some([3, 32, 32]), classes: Some(10), ..NetworkOptions::default() };
        let graph = vgg16(&options).unwrap();
        let cost = graph.cost().unwrap();
        assert_eq!((cost.params, cost.macs.total()), (14_986_698, 313_463_808));
        let convolutions = graph.names_of::<Conv2d>();
        assert_eq!(convolutions.len(), 13);
        assert_eq!((convolutions[0].as_str(), convolutions[12].as_str()), ("conv1_1", "conv5_3"));
    }

    #[test]
    fn the_maps_of_other_sizes() {
        let shape = |input, name: &str| {
            let options = NetworkOptions { input: Some(input), width: 0.1, ..NetworkOptions::default() };
            let graph = vgg16(&options).unwrap();
            graph.find(name).map(|at| graph.shapes(1).unwrap()[at].clone())
        };
        assert_eq!(shape([3, 224, 224], "pool5").unwrap(), [1, 51, 7, 7]);
        assert!(shape([3, 224, 224], "mean").is_err());
        assert_eq!(shape([3, 128, 96], "mean").unwrap(), [1, 51, 7, 7]);
        assert_eq!(shape([1, 28, 28], "pool5").unwrap(), [1, 51, 1, 1]);
        assert_eq!(shape([1, 5, 64], "pool5").unwrap(), [1, 51, 1, 2]);
    }
}
