//! ShuffleNetV2.

use super::builder::Builder;
use cnn_core::layers::{ChannelMap, Concat, ConvOptions, MaxPool2d, Window};
use cnn_core::{Graph, NetworkOptions, Result};

/// Width, and the channels of the first convolution, of stage 2 and of the last convolution (Ma et al. 2018,
/// table 5).
const COLUMNS: [(f64, [usize; 3]); 4] =
    [(0.5, [24, 48, 1024]), (1.0, [24, 116, 1024]), (1.5, [24, 176, 1024]), (2.0, [24, 244, 2048])];
/// Units of the stages 2, 3 and 4, the first of each with stride 2.
const UNITS: [usize; 3] = [4, 8, 4];

/// ShuffleNetV2 (Ma et al. 2018, table 5): a convolution of 3 x 3, a max pooling, sixteen units that split
/// their channels, work on one half, and shuffle, a convolution of 1 x 1, the mean over the image, and the
/// classes. At width 1, for 3 x 224 x 224 and 1,000 classes: 2,278,604 parameters, 144,907,992 multiply-adds.
/// Weights of convolutions by He's rule, each followed by batch normalization.
///
/// The widths 0.5, 1, 1.5 and 2 are the columns of the paper's table, whose channels are not multiples of
/// each other. Between two columns, the channels are on the straight line; below the first and above the last
/// they are in proportion to the width.
///
/// # Small images
/// With a side of less than 96 pixels the first convolution has stride 1 and there is no max pooling, so that
/// 32 x 32 becomes 4 x 4 at the end, not 1 x 1.
///
/// # Errors
/// If an option is out of range.
///
/// ```
/// use cnn_core::NetworkOptions;
/// let options = NetworkOptions { input: Some([3, 32, 32]), classes: Some(10), width: 0.5, seed: 0 };
/// let graph = cnn_lightweight::shufflenet_v2(&options)?;
/// assert_eq!(graph.shapes(1)?[graph.find("stage4.unit4.shuffle")?], [1, 192, 4, 4]);
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn shufflenet_v2(options: &NetworkOptions) -> Result<Graph> {
    let mut b = Builder::new("shufflenet_v2", options, [3, 224, 224], 1_000)?;
    let [stem, first, last] = channels(b.width());
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
            let prefix = format!("stage{}.unit{}.", at + 2, index + 1);
            match index {
                0 => halving_unit(&mut b, &prefix, first << at)?,
                _ => unit(&mut b, &prefix)?,
            }
        }
    }
    b.conv_bn("", "5", last, 1, ConvOptions::default())?;
    b.relu("relu5")?;
    Ok(b.classify()?)
}

/// The channels of the first convolution, of stage 2 (even) and of the last convolution at a width.
fn channels(width: f64) -> [usize; 3] {
    let [first, .., last] = COLUMNS;
    let above = COLUMNS.iter().position(|(w, _)| width <= *w);
    let ((w0, from), (w1, to)) = match above {
        Some(0) => ((0.0, [0; 3]), first),
        Some(at) => (COLUMNS[at - 1], COLUMNS[at]),
        None => ((0.0, [0; 3]), last),
    };
    std::array::from_fn(|i| {
        let (a, b) = (from[i] as f64, to[i] as f64);
        let exact = a + (b - a) * (width - w0) / (w1 - w0);
        ((exact / 2.0).round() as usize).max(1) * 2
    })
}

/// Figure 3 (c): half of the channels pass, the other half goes through 1 x 1, depthwise 3 x 3 and 1 x 1;
/// then both are shuffled.
fn unit(b: &mut Builder, prefix: &str) -> crate::Result<()> {
    let (input, channels) = (b.last(), b.channels()?);
    let name = |part: &str| format!("{prefix}{part}");
    let half = channels / 2;
    b.graph.add(&name("pass"), ChannelMap::slice(channels, 0, half)?, &[&input])?;
    b.graph.add(&name("work"), ChannelMap::slice(channels, half, channels - half)?, &[&input])?;
    b.conv_bn(prefix, "1", half, 1, ConvOptions::default())?;
    b.relu(&name("relu1"))?;
    b.conv_bn(prefix, "2", half, 3, ConvOptions::default().pad(1).groups(half))?;
    b.conv_bn(prefix, "3", half, 1, ConvOptions::default())?;
    b.relu(&name("relu3"))?;
    join(b, prefix, "pass", "relu3", channels)
}

/// Figure 3 (d): both branches see all channels and halve the image; the channels double.
fn halving_unit(b: &mut Builder, prefix: &str, outputs: usize) -> crate::Result<()> {
    let (input, channels) = (b.last(), b.channels()?);
    let name = |part: &str| format!("{prefix}{part}");
    let half = outputs / 2;
    let halve = |channels| ConvOptions::default().pad(1).stride(2).groups(channels);
    b.conv_bn(prefix, "1", half, 1, ConvOptions::default())?;
    b.relu(&name("relu1"))?;
    b.conv_bn(prefix, "2", half, 3, halve(half))?;
    b.conv_bn(prefix, "3", half, 1, ConvOptions::default())?;
    b.relu(&name("relu3"))?;
    let pass = name("pass.");
    b.conv_bn_of(&input, &pass, "1", channels, 3, halve(channels))?;
    b.conv_bn(&pass, "2", half, 1, ConvOptions::default())?;
    b.relu(&name("pass.relu2"))?;
    join(b, prefix, "pass.relu2", "relu3", 2 * half)
}

fn join(b: &mut Builder, prefix: &str, pass: &str, work: &str, channels: usize) -> crate::Result<()> {
    let name = |part: &str| format!("{prefix}{part}");
    b.graph.add(&name("concat"), Concat, &[&name(pass), &name(work)])?;
    Ok(b.graph.push(&name("shuffle"), ChannelMap::shuffle(channels, 2)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_of_the_table_are_exact_and_others_lie_between() {
        for (width, column) in COLUMNS {
            assert_eq!(channels(width), column);
        }
        assert_eq!(channels(0.75), [24, 82, 1024]);
        assert_eq!(channels(1.75), [24, 210, 1536]);
        assert_eq!(channels(0.25), [12, 24, 512]);
        assert_eq!(channels(4.0), [48, 488, 4096]);
        assert_eq!(channels(1e-6), [2, 2, 2]);
    }

    #[test]
    fn stages_are_those_of_the_table() {
        for (width, [stem, first, last]) in COLUMNS {
            let graph = shufflenet_v2(&NetworkOptions { width, ..NetworkOptions::default() }).unwrap();
            let shapes = graph.shapes(1).unwrap();
            let at = |name: &str| shapes[graph.find(name).unwrap()].clone();
            assert_eq!(at("pool1"), [1, stem, 56, 56]);
            assert_eq!(at("stage2.unit4.shuffle"), [1, first, 28, 28]);
            assert_eq!(at("stage3.unit8.shuffle"), [1, 2 * first, 14, 14]);
            assert_eq!(at("stage4.unit4.shuffle"), [1, 4 * first, 7, 7]);
            assert_eq!(at("relu5"), [1, last, 7, 7]);
        }
    }
}
