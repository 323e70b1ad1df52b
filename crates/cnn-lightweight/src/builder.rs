//! What the builders of all networks share: checked options, channels by width, and blocks of layers.

use crate::{Error, Result};
use cnn_core::init::Init;
use cnn_core::layers::{Activation, BatchNorm, Conv2d, ConvOptions, Linear};
use cnn_core::tensor::{Tensor, zeros};
use cnn_core::{Graph, NetworkOptions};

/// The largest number of weights a builder allocates: 1 GiB of floats.
const LIMIT: usize = 1 << 28;
/// The largest number of values of an input image.
const INPUT_LIMIT: usize = 1 << 26;
const WIDEST: f64 = 16.0;

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

    /// The shape, for a batch of one, of the last node.
    pub fn shape(&self) -> Result<Vec<usize>> {
        Ok(self.graph.shapes(1)?.pop().unwrap_or_default())
    }

    /// The channels of the last node.
    pub fn channels(&self) -> Result<usize> {
        Ok(self.shape()?.get(1).copied().unwrap_or(0))
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

    /// Convolution `{name}conv{index}` of `m` filters `k x k` without bias, and batch normalization
    /// `{name}bn{index}`.
    pub fn conv_bn(
        &mut self,
        prefix: &str,
        index: &str,
        m: usize,
        k: usize,
        options: ConvOptions,
    ) -> Result<()> {
        let inputs = self.channels()? / options.groups;
        let conv = Conv2d::new(self.he(&[m, inputs, k, k])?, None, options)?;
        self.graph.push(&format!("{prefix}conv{index}"), conv)?;
        Ok(self.graph.push(&format!("{prefix}bn{index}"), BatchNorm::new(m))?)
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
}
