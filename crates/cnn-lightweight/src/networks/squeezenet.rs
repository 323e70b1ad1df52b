//! SqueezeNet.

use super::builder::Builder;
use cnn_core::layers::{Concat, Conv2d, ConvOptions, Dropout, Flatten, GlobalAvgPool, MaxPool2d, Window};
use cnn_core::tensor::zeros;
use cnn_core::{Graph, NetworkOptions, Result};

/// Filters of the squeezing convolution, and of each of the two expanding ones, of the modules fire2 to fire9
/// (Iandola et al. 2016, table 1).
const FIRES: [(usize, usize); 8] =
    [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)];
/// Standard deviation of the weights of the last convolution, which no rectifier's gain follows.
const LAST_STD: f32 = 0.01;

/// What tells the two versions apart.
struct Version {
    name: &'static str,
    filters: usize,
    kernel: usize,
    /// The fire modules before which the image is halved; the first convolution is fire 1.
    pools: [usize; 3],
}

fn squeezenet(version: &Version, options: &NetworkOptions) -> crate::Result<Graph> {
    let mut b = Builder::new(version.name, options, [3, 224, 224], 1_000)?;
    let stem = b.scaled(version.filters);
    let (kernel, first) = match b.small() {
        true => (3, ConvOptions::default().pad(1)),
        false => (version.kernel, ConvOptions::default().stride(2)),
    };
    let input = b.last();
    b.conv_of(&input, "conv1", stem, kernel, first)?;
    b.relu("relu1")?;
    for (at, (squeeze, expand)) in FIRES.into_iter().enumerate() {
        let index = at + 2;
        if version.pools.contains(&index) {
            let window = Window { ceil_mode: true, ..Window::square(3).stride(2) };
            b.graph.push(&format!("pool{}", index - 1), MaxPool2d { window })?;
        }
        let (squeeze, expand) = (b.scaled(squeeze), b.scaled(expand));
        fire(&mut b, &format!("fire{index}."), squeeze, expand)?;
    }
    b.graph.push("drop9", Dropout::new(0.5)?)?;
    let shape = [b.classes, b.channels()?, 1, 1];
    b.claim(&shape)?;
    let weight = b.init.normal(&shape, LAST_STD)?;
    let last = Conv2d::new(weight, Some(zeros(&shape[..1])), ConvOptions::default())?;
    b.graph.push("conv10", last)?;
    if !b.small() {
        b.relu("relu10")?;
    }
    b.graph.push("pool10", GlobalAvgPool)?;
    b.graph.push("flatten", Flatten)?;
    Ok(b.graph)
}

/// The fire module (section 3.2): `squeeze` filters of 1 x 1, then `expand` of 1 x 1 and as many of 3 x 3
/// side by side, all with rectifiers.
fn fire(b: &mut Builder, prefix: &str, squeeze: usize, expand: usize) -> crate::Result<()> {
    let name = |part: &str| format!("{prefix}{part}");
    let point = ConvOptions::default();
    let input = b.last();
    b.conv_of(&input, &name("squeeze"), squeeze, 1, point)?;
    b.relu(&name("relu1"))?;
    let squeezed = b.last();
    b.conv_of(&squeezed, &name("expand1"), expand, 1, point)?;
    b.conv_of(&squeezed, &name("expand3"), expand, 3, point.pad(1))?;
    b.graph.add(&name("concat"), Concat, &[&name("expand1"), &name("expand3")])?;
    b.relu(&name("relu2"))
}

macro_rules! version {
    ($function:ident, $version:expr, $text:literal, $params:literal, $macs:literal) => {
        #[doc = concat!(
            $text, " At width 1, for 3 x 224 x 224 and 1,000 classes: ", $params, " parameters, ", $macs,
            " multiply-adds (torchvision's form: no padding in the first convolution, poolings rounded up)."
        )]
        ///
        /// There is no fully connected layer: the last convolution has a filter for each class, and the
        /// answer is the mean over its map. Weights by He's rule, in the last convolution with standard
        /// deviation 0.01, biases zero, as torchvision starts it.
        ///
        /// # Small images
        /// With a side of less than 96 pixels, the first convolution is 3 x 3, padded, with stride 1: 32 x 32
        /// becomes 4 x 4 at the end, not 1 x 1. The rectifier after the last convolution is left out: with
        /// few classes, those whose map is negative early in training get no gradient through it and are
        /// never learnt.
        ///
        /// # Errors
        /// If an option is out of range, or the image is smaller than 12 x 12.
        pub fn $function(options: &NetworkOptions) -> Result<Graph> {
            Ok(squeezenet(&$version, options)?)
        }
    };
}

version!(
    squeezenet1_0,
    Version { name: "squeezenet1_0", filters: 96, kernel: 7, pools: [2, 5, 9] },
    "SqueezeNet 1.0 (Iandola et al. 2016, table 1): a convolution of 7 x 7, eight fire modules, a convolution \
     of 1 x 1.",
    "1,248,424",
    "818,924,576"
);
version!(
    squeezenet1_1,
    Version { name: "squeezenet1_1", filters: 64, kernel: 3, pools: [2, 4, 6] },
    "SqueezeNet 1.1 (the authors' later release): a first convolution of 3 x 3, and earlier poolings.",
    "1,235,496",
    "349,151,936"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn side(graph: &Graph, name: &str) -> usize {
        graph.shapes(1).unwrap()[graph.find(name).unwrap()][2]
    }

    #[test]
    fn maps_are_those_of_the_table() {
        let large = NetworkOptions { width: 0.25, ..NetworkOptions::default() };
        let graph = squeezenet1_0(&large).unwrap();
        let sides = ["conv1", "pool1", "pool4", "pool8"].map(|name| side(&graph, name));
        assert_eq!(sides, [109, 54, 27, 13]); // the paper's table pads: 111, 55, 27, 13
        let graph = squeezenet1_1(&large).unwrap();
        let sides = ["conv1", "pool1", "pool3", "pool5"].map(|name| side(&graph, name));
        assert_eq!(sides, [111, 55, 27, 13]);
        let small = NetworkOptions { input: Some([3, 32, 32]), ..large };
        for build in [squeezenet1_0, squeezenet1_1] {
            let graph = build(&small).unwrap();
            assert_eq!((side(&graph, "conv1"), side(&graph, "conv10")), (32, 4));
        }
    }

    #[test]
    fn too_small_an_image_is_an_error() {
        let at = |side| {
            let options = NetworkOptions { input: Some([1, side, side]), ..NetworkOptions::default() };
            (squeezenet1_0(&options).is_ok(), squeezenet1_1(&options).is_ok())
        };
        assert_eq!(at(11), (false, false));
        assert_eq!(at(12), (true, true));
    }
}
