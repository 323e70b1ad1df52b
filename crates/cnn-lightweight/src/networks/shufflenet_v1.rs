//! ShuffleNetV1.

use super::builder::Builder;
use cnn_core::layers::{Add, AvgPool2d, ChannelMap, Concat, ConvOptions, MaxPool2d, Window};
use cnn_core::{Graph, NetworkOptions, Result};

const STEM: usize = 24;
/// Units of the stages 2, 3 and 4, the first of each with stride 2 (Zhang et al. 2018, table 1).
const UNITS: [usize; 3] = [4, 8, 4];
/// Output channels over those inside a unit.
const BOTTLENECK: usize = 4;

/// `channels` are those of stage 2; each further stage has twice as many.
fn shufflenet(
    name: &'static str,
    groups: usize,
    channels: usize,
    options: &NetworkOptions,
) -> crate::Result<Graph> {
    let mut b = Builder::new(name, options, [3, 224, 224], 1_000)?;
    let stem = b.scaled_to(STEM, groups);
    let first = b.scaled_to(channels, BOTTLENECK * groups);
    let same = ConvOptions::default().pad(1);
    if b.small() {
        b.conv_bn("", "1", stem, 3, same)?;
        b.relu("relu1")?;
    } else {
        b.conv_bn("", "1", stem, 3, same.stride(2))?;
        b.relu("relu1")?;
        b.graph.push("pool1", MaxPool2d { window: Window::square(3).stride(2).pad(1) })?;
    }
    for (at, units) in UNITS.into_iter().enumerate() {
        for index in 0..units {
            let unit = Unit {
                prefix: format!("stage{}.unit{}.", at + 2, index + 1),
                outputs: first << at,
                groups,
                // the first unit reads so few channels that its first convolution is not grouped (section
                // 3.3)
                first_groups: if at == 0 && index == 0 { 1 } else { groups },
                halves: index == 0,
            };
            unit.push(&mut b)?;
        }
    }
    b.classify()
}

struct Unit {
    prefix: String,
    outputs: usize,
    groups: usize,
    first_groups: usize,
    halves: bool,
}

impl Unit {
    /// Figure 2 of the paper: a grouped convolution of 1 x 1 to a quarter of the channels, the channel
    /// shuffle, a depthwise convolution of 3 x 3, a grouped one of 1 x 1; then the input is added (b), or,
    /// with stride 2, its average pooling is put before the channels (c).
    fn push(&self, b: &mut Builder) -> crate::Result<()> {
        let (input, channels) = (b.last(), b.channels()?);
        let name = |part: &str| format!("{}{part}", self.prefix);
        let inner = self.outputs / BOTTLENECK;
        let point = |groups| ConvOptions::default().groups(groups);
        b.conv_bn(&self.prefix, "1", inner, 1, point(self.first_groups))?;
        b.relu(&name("relu1"))?;
        if self.groups > 1 {
            b.graph.push(&name("shuffle"), ChannelMap::shuffle(inner, self.groups)?)?;
        }
        let stride = if self.halves { 2 } else { 1 };
        b.conv_bn(&self.prefix, "2", inner, 3, ConvOptions::default().pad(1).stride(stride).groups(inner))?;
        let branch = if self.halves { self.outputs - channels } else { self.outputs };
        b.conv_bn(&self.prefix, "3", branch, 1, point(self.groups))?;
        let branch = b.last();
        if self.halves {
            let pool = AvgPool2d { window: Window::square(3).stride(2).pad(1), count_include_pad: true };
            b.graph.add(&name("pool"), pool, &[&input])?;
            b.graph.add(&name("concat"), Concat, &[&name("pool"), &branch])?;
        } else {
            b.graph.add(&name("add"), Add, &[&input, &branch])?;
        }
        b.relu(&name("relu2"))
    }
}

macro_rules! groups {
    ($name:ident, $groups:literal, $channels:literal, $more:literal) => {
        #[doc = concat!(
                    "ShuffleNetV1 with ", $groups, " groups (Zhang et al. 2018, table 1): ", $channels,
                    " channels in stage 2, twice as many in each of the two stages after it.", $more
                )]
        ///
        /// Under the width multiplier the channels of stage 2 are rounded to a multiple of 4 times the
        /// groups, those of the first convolution to one of the groups. Weights of convolutions by He's rule,
        /// each followed by batch normalization.
        ///
        /// # Small images
        /// With a side of less than 96 pixels the first convolution has stride 1 and there is no max pooling,
        /// so that 32 x 32 becomes 4 x 4 at the end, not 1 x 1.
        ///
        /// # Errors
        /// If an option is out of range.
        pub fn $name(options: &NetworkOptions) -> Result<Graph> {
            Ok(shufflenet(stringify!($name), $groups, $channels, options)?)
        }
    };
}

groups!(shufflenet_v1_g1, 1, 144, "");
groups!(shufflenet_v1_g2, 2, 200, "");
groups!(
    shufflenet_v1_g3,
    3,
    240,
    " At width 1, for 3 x 224 x 224 and 1,000 classes: 1,865,728 parameters, 137,460,672 multiply-adds."
);
groups!(shufflenet_v1_g4, 4, 272, "");
groups!(shufflenet_v1_g8, 8, 384, "");

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::layers::Conv2d;

    type Build = fn(&NetworkOptions) -> Result<Graph>;
    const ALL: [(Build, usize, usize); 5] = [
        (shufflenet_v1_g1, 1, 144),
        (shufflenet_v1_g2, 2, 200),
        (shufflenet_v1_g3, 3, 240),
        (shufflenet_v1_g4, 4, 272),
        (shufflenet_v1_g8, 8, 384),
    ];

    #[test]
    fn stages_are_those_of_the_table() {
        for (build, groups, channels) in ALL {
            let graph = build(&NetworkOptions::default()).unwrap();
            let shapes = graph.shapes(1).unwrap();
            let at = |name: &str| shapes[graph.find(name).unwrap()].clone();
            assert_eq!(at("stage2.unit4.relu2"), [1, channels, 28, 28]);
            assert_eq!(at("stage3.unit8.relu2"), [1, 2 * channels, 14, 14]);
            assert_eq!(at("stage4.unit4.relu2"), [1, 4 * channels, 7, 7]);
            let of = |name: &str| graph.layer::<Conv2d>(name).unwrap().unwrap().options.groups;
            assert_eq!(of("stage2.unit1.conv1"), 1);
            assert_eq!(of("stage2.unit1.conv3"), groups);
            assert_eq!(of("stage2.unit2.conv1"), groups);
            assert_eq!(graph.names_of::<ChannelMap>().len(), if groups > 1 { 16 } else { 0 });
        }
    }

    #[test]
    fn any_width_divides_into_the_groups() {
        for (build, ..) in ALL {
            for width in [0.01, 0.3, 0.5, 1.7] {
                let options = NetworkOptions { input: Some([3, 32, 32]), classes: Some(3), width, seed: 0 };
                let graph = build(&options).unwrap();
                assert_eq!(graph.shapes(2).unwrap().last().unwrap(), &[2, 3]);
            }
        }
    }
}
