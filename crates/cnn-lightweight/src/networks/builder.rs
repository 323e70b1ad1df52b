//! What the builders of all networks share: checked options, channels by width, and blocks of layers.

use crate::{Error, Result};
use cnn_core::init::Init;
use cnn_core::layers::{Activation, BatchNorm, Conv2d, ConvOptions, Flatten, GlobalAvgPool, Linear};
use cnn_core::tensor::{Tensor, zeros};
use cnn_core::{Graph, NetworkOptions};

/// The largest number of weights a builder allocates: 1 GiB of floats.
const LIMIT: usize = 1 << 28;
/// The largest number of values of an input image.
const INPUT_LIMIT: usize = 1 << 26;
const WIDEST: f64 = 16.0;
/// An image with a side below this is small: the networks for large images then halve it less often.
const SMALL: usize = 96;

/// A graph in the making.
pub(crate) struct Builder {
    pub graph: Graph,
    pub input: [usize; 3],
    pub classes: usize,
    pub init: Init,
    network: &'static str,
    width: f64,
    weights: usize,
}

impl Builder {
    /// Checks the options, with the network's own input shape and classes where they say nothing.
    pub fn new(
        network: &'static str,
        options: &NetworkOptions,
        input: [usize; 3],
        classes: usize,
    ) -> Result<Builder> {
        let (input, classes) = (options.input.unwrap_or(input), options.classes.unwrap_or(classes));
        let wrong = |option, value, allowed| Err(Error::Option { network, option, value, allowed });
        let size = input.iter().try_fold(1usize, |p, &d| p.checked_mul(d));
        if !size.is_some_and(|s| (1..=INPUT_LIMIT).contains(&s)) {
            return wrong(
                "input",
                format!("{input:?}"),
                "[channels, height, width], at least 1 each and 2^26 in all",
            );
        }
        if !(1..=LIMIT).contains(&classes) {
            return wrong("classes", classes.to_string(), "at least 1 and at most 2^28");
        }
        if !(options.width > 0.0 && options.width <= WIDEST) {
            return wrong("width", options.width.to_string(), "more than 0 and at most 16");
        }
        let init = Init::new(options.seed);
        Ok(Builder {
            graph: Graph::new(&input),
            input,
            classes,
            init,
            network,
            width: options.width,
            weights: 0,
        })
    }

    /// A number of channels under the width multiplier: rounded, at least 1.
    pub fn scaled(&self, channels: usize) -> usize {
        ((channels as f64 * self.width).round() as usize).max(1)
    }

    /// Channels under the width multiplier, rounded to a multiple of `divisor` as [`divisible`] does.
    pub fn scaled_to(&self, channels: usize, divisor: usize) -> usize {
        divisible(channels as f64 * self.width, divisor)
    }

    /// The width multiplier.
    pub fn width(&self) -> f64 {
        self.width
    }

    /// True if the image has a side of less than 96 pixels, so that a network for large images keeps the
    /// resolution in its first layers.
    pub fn small(&self) -> bool {
        self.input[1].min(self.input[2]) < SMALL
    }

    /// The shape, for a batch of one, of the last node.
    pub fn shape(&self) -> Result<Vec<usize>> {
        Ok(self.graph.shapes(1)?.pop().unwrap_or_default())
    }

    /// The channels of the last node.
    pub fn channels(&self) -> Result<usize> {
        Ok(self.shape()?.get(1).copied().unwrap_or(0))
    }

    /// The channels of a node.
    pub fn channels_of(&self, name: &str) -> Result<usize> {
        let at = self.graph.find(name)?;
        Ok(self.graph.shapes(1)?[at].get(1).copied().unwrap_or(0))
    }

    /// The name of the last node.
    pub fn last(&self) -> String {
        self.graph.nodes().last().map(|n| n.name.clone()).unwrap_or_default()
    }

    /// Counts weights before they are allocated.
    pub fn claim(&mut self, shape: &[usize]) -> Result<()> {
        let size = shape.iter().try_fold(1usize, |p, &d| p.checked_mul(d));
        let sum = size.and_then(|s| self.weights.checked_add(s)).filter(|&s| s <= LIMIT);
        self.weights = sum.ok_or(Error::TooLarge { network: self.network, limit: LIMIT })?;
        Ok(())
    }

    /// Weights by Glorot's rule.
    pub fn glorot(&mut self, shape: &[usize]) -> Result<Tensor> {
        self.claim(shape)?;
        Ok(self.init.glorot(shape)?)
    }

    /// Weights by He's rule.
    pub fn he(&mut self, shape: &[usize]) -> Result<Tensor> {
        self.claim(shape)?;
        Ok(self.init.he(shape)?)
    }

    /// Convolution `{prefix}conv{index}` of `m` filters `k x k` without bias, and batch normalization
    /// `{prefix}bn{index}`.
    pub fn conv_bn(
        &mut self,
        prefix: &str,
        index: &str,
        m: usize,
        k: usize,
        options: ConvOptions,
    ) -> Result<()> {
        let last = self.last();
        self.conv_bn_of(&last, prefix, index, m, k, options)
    }

    /// As [`Builder::conv_bn`], reading the node `input`.
    pub fn conv_bn_of(
        &mut self,
        input: &str,
        prefix: &str,
        index: &str,
        m: usize,
        k: usize,
        options: ConvOptions,
    ) -> Result<()> {
        let inputs = self.channels_of(input)? / options.groups;
        let conv = Conv2d::new(self.he(&[m, inputs, k, k])?, None, options)?;
        self.graph.add(&format!("{prefix}conv{index}"), conv, &[input])?;
        Ok(self.graph.push(&format!("{prefix}bn{index}"), BatchNorm::new(m))?)
    }

    /// A convolution of `m` filters `k x k` with zero bias and He's weights that reads the node `input`.
    pub fn conv_of(
        &mut self,
        input: &str,
        name: &str,
        m: usize,
        k: usize,
        options: ConvOptions,
    ) -> Result<()> {
        let inputs = self.channels_of(input)? / options.groups;
        let conv = Conv2d::new(self.he(&[m, inputs, k, k])?, Some(zeros(&[m])), options)?;
        Ok(self.graph.add(name, conv, &[input])?)
    }

    /// A rectifier.
    pub fn relu(&mut self, name: &str) -> Result<()> {
        Ok(self.graph.push(name, Activation::relu())?)
    }

    /// A fully connected layer with zero bias and Glorot's weights.
    pub fn linear(&mut self, name: &str, outputs: usize) -> Result<()> {
        let inputs = self.channels()?;
        let weight = self.glorot(&[outputs, inputs])?;
        Ok(self.graph.push(name, Linear::new(weight, Some(zeros(&[outputs])))?)?)
    }

    /// The depthwise separable block of the MobileNets (Howard et al. 2017, figure 3): depthwise 3 x 3 and
    /// pointwise convolution to `filters` under the width multiplier, both normalized and rectified.
    pub fn separable(&mut self, prefix: &str, filters: usize, stride: usize) -> Result<()> {
        let (inputs, filters) = (self.channels()?, self.scaled(filters));
        self.conv_bn(prefix, "1", inputs, 3, ConvOptions::default().pad(1).stride(stride).groups(inputs))?;
        self.relu(&format!("{prefix}relu1"))?;
        self.conv_bn(prefix, "2", filters, 1, ConvOptions::default())?;
        self.relu(&format!("{prefix}relu2"))
    }

    /// The mean over the image (`pool`) and the classes (`fc`), and the graph is done.
    pub fn classify(mut self) -> Result<Graph> {
        self.graph.push("pool", GlobalAvgPool)?;
        self.graph.push("flatten", Flatten)?;
        let classes = self.classes;
        self.linear("fc", classes)?;
        Ok(self.graph)
    }
}

/// The multiple of `divisor` nearest to `channels`, at least one, and not below nine tenths of `channels`:
/// the rule of MobileNetV2's authors for fractions of channels (`_make_divisible` of their code).
pub(crate) fn divisible(channels: f64, divisor: usize) -> usize {
    let step = divisor as f64;
    let nearest = ((channels / step + 0.5).floor() as usize).max(1) * divisor;
    if (nearest as f64) < 0.9 * channels { nearest + divisor } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::divisible;

    #[test]
    fn channels_are_rounded_as_the_reference_code_rounds() {
        let at = |width: f64| [16, 24, 32, 64, 96, 160, 320].map(|c| divisible(f64::from(c) * width, 8));
        assert_eq!(at(1.0), [16, 24, 32, 64, 96, 160, 320]);
        assert_eq!(at(0.75), [16, 24, 24, 48, 72, 120, 240]); // 18: the nearest, 16, is less than 0.9 x 18
        assert_eq!(at(0.35), [8, 8, 16, 24, 32, 56, 112]);
        assert_eq!(at(0.1), [8, 8, 8, 8, 16, 16, 32]);
    }
}
