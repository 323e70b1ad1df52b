//! Rearranging channels: shuffle, slice, zero padding.

use super::axis_map::{progression, slice_axis};
use super::one;
use crate::express::{Attribute, Express, Numbers, Value};
use crate::layer::{ChannelRule, Keep, Layer};
use crate::model_file::{Decoder, Encoder};
use crate::ops::gather::{gather_channels, gather_channels_backward};
use crate::tensor::{Tensor, elements, slice, slice_mut, zeros};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};

/// Output channel `i` is input channel `map[i]`, or zero: the channel shuffle of ShuffleNet, a slice of channels, and the
/// zero-padded shortcut of the CIFAR ResNets (option A) are all such a map. It stays one when channels are removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelMap {
    channels: usize,
    map: Vec<Option<usize>>,
}

impl ChannelMap {
    /// A map from `channels` input channels.
    ///
    /// # Errors
    /// If it is empty, or reads a channel that does not exist.
    pub fn new(channels: usize, map: Vec<Option<usize>>) -> Result<ChannelMap> {
        match map.iter().flatten().find(|&&c| c >= channels) {
            Some(bad) => Err(Error::Shape(format!("the map reads channel {bad} of {channels}"))),
            None if map.is_empty() || channels == 0 => {
                Err(Error::Shape("a channel map of no channels".into()))
            }
            None => Ok(ChannelMap { channels, map }),
        }
    }

    /// The channel shuffle (Zhang et al. 2018, section 3.1): `[groups, c / groups]` transposed.
    ///
    /// # Errors
    /// If the channels do not divide into the groups.
    pub fn shuffle(channels: usize, groups: usize) -> Result<ChannelMap> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::Shape(format!("{channels} channels do not divide into {groups} groups")));
        }
        let size = channels / groups;
        ChannelMap::new(channels, (0..channels).map(|i| Some(i % groups * size + i / groups)).collect())
    }

    /// Channels `first .. first + count`.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn slice(channels: usize, first: usize, count: usize) -> Result<ChannelMap> {
        if count > channels {
            return Err(Error::Shape(format!("a slice of {count} of {channels} channels")));
        }
        ChannelMap::new(channels, (0..count).map(|i| Some(first.saturating_add(i))).collect())
    }

    /// Channels of zeros before and after.
    ///
    /// # Errors
    /// If there are no channels.
    pub fn pad(channels: usize, before: usize, after: usize) -> Result<ChannelMap> {
        if [channels, before, after].iter().any(|&n| n > 1 << 24) {
            return Err(Error::Shape(format!("{before} + {channels} + {after} channels are too many")));
        }
        let zeros = |count| std::iter::repeat_n(None, count);
        ChannelMap::new(channels, zeros(before).chain((0..channels).map(Some)).chain(zeros(after)).collect())
    }

    /// For each output channel the input channel it copies.
    pub fn map(&self) -> &[Option<usize>] {
        &self.map
    }

    /// First channel and number of channels, if the map is a slice.
    pub(crate) fn run(&self) -> Option<(usize, usize)> {
        let first = self.map[0]?;
        let slice = self.map.iter().enumerate().all(|(i, &c)| c == Some(first + i));
        slice.then_some((first, self.map.len()))
    }

    /// The groups, if the map is a shuffle.
    fn shuffle_groups(&self) -> Option<usize> {
        let c = self.channels;
        (2..c).filter(|&g| c.is_multiple_of(g)).find(|&g| ChannelMap::shuffle(c, g).is_ok_and(|s| s == *self))
    }

    /// Channels of zeros before and after, if the map is a padding.
    fn padding(&self) -> Option<(usize, usize)> {
        let before = self.map.iter().take_while(|m| m.is_none()).count();
        let after = self.map.len().checked_sub(before + self.channels)?;
        ChannelMap::pad(self.channels, before, after).is_ok_and(|p| p == *self).then_some((before, after))
    }

    fn check(&self, shape: &[usize]) -> Result<usize> {
        match shape {
            [_, c, rest @ ..] if *c == self.channels && elements(rest) > 0 => Ok(elements(rest)),
            other => Err(Error::Shape(format!("a map of {} channels got {other:?}", self.channels))),
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let form = from.byte()?;
        let channels = from.uint()?;
        let layer = match form {
            SHUFFLE => {
                from.claim(channels)?;
                ChannelMap::shuffle(channels, from.uint()?)?
            }
            PAD => {
                let (before, after) = (from.uint()?, from.uint()?);
                [channels, before, after].iter().try_for_each(|&n| from.claim(n))?;
                ChannelMap::pad(channels, before, after)?
            }
            LIST => {
                let count = from.uint()?;
                from.claim(count)?;
                let map = (0..count).map(|_| Ok(from.uint()?.checked_sub(1))).collect::<Result<Vec<_>>>()?;
                ChannelMap::new(channels, map)?
            }
            other => return Err(Error::malformed(format!("unknown form {other} of a channel map"))),
        };
        Ok(Box::new(layer))
    }
}

/// Channels of zeros before and after, in standard operators.
fn pad_channels(at: &mut Express<'_>, x: Value, rank: usize, before: usize, after: usize) -> Result<Value> {
    let mut pads = vec![0; 2 * rank];
    (pads[1], pads[rank + 1]) = (before as i64, after as i64);
    let pads = at.integers("pads", &pads)?;
    Ok(at.operator("Pad", &[x, pads], Vec::new()))
}

const SHUFFLE: u8 = 0;
const PAD: u8 = 1;
const LIST: u8 = 2;

impl Layer for ChannelMap {
    fn kind(&self) -> &'static str {
        "channel_map"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        self.check(one(inputs)?)?;
        let mut shape = inputs[0].to_vec();
        shape[1] = self.map.len();
        Ok(shape)
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        let mut y = zeros(&self.output_shape(&[x.shape()])?);
        gather_channels(slice(x)?, self.channels, self.check(x.shape())?, &self.map, slice_mut(&mut y)?);
        Ok(y)
    }

    /// A shuffle or a padding in a few bytes, any other map as a list.
    fn encode(&self, out: &mut Encoder) -> Result<()> {
        let c = self.channels;
        if let Some(groups) = self.shuffle_groups() {
            out.byte(SHUFFLE);
            out.uint(c)?;
            return out.uint(groups);
        }
        if let Some((before, after)) = self.padding() {
            out.byte(PAD);
            return [c, before, after].iter().try_for_each(|&n| out.uint(n));
        }
        out.byte(LIST);
        out.uint(c)?;
        out.uint(self.map.len())?;
        self.map.iter().try_for_each(|m| out.uint(m.map_or(0, |c| c + 1)))
    }

    fn channels(&self, _inputs: &[&[usize]]) -> ChannelRule {
        ChannelRule::Gather(self.map.clone())
    }

    fn select(&mut self, keep: Keep<'_>) -> Result<()> {
        if let Some(outputs) = keep.output {
            self.map = outputs.iter().map(|&o| self.map[o]).collect();
        }
        if let Some(inputs) = keep.inputs.first().copied().flatten() {
            for source in self.map.iter_mut().flatten() {
                *source = inputs.binary_search(source).map_err(|_| {
                    Error::Edit(format!("input channel {source} of the map is removed, but its copy stays"))
                })?;
            }
            self.channels = inputs.len();
        }
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let x = at.input(0)?;
        let shape = at.shape(0)?.to_vec();
        let c = self.channels;
        let y = if let Some(groups) = self.shuffle_groups() {
            // [n, g, c / g, ...] -> [n, c / g, g, ...]
            let rest = shape[2..].iter().map(|&d| d as i64);
            let split: Vec<i64> = [0, groups as i64, (c / groups) as i64].into_iter().chain(rest).collect();
            let mut order: Vec<i64> = (0..split.len() as i64).collect();
            order.swap(1, 2);
            let together: Vec<i64> = [0].into_iter().chain(shape[1..].iter().map(|&d| d as i64)).collect();
            let split = at.integers("split", &split)?;
            let together = at.integers("together", &together)?;
            let y = at.operator("Reshape", &[x, split], Vec::new());
            let y = at.operator("Transpose", &[y], vec![("perm", Attribute::Ints(order))]);
            at.operator("Reshape", &[y, together], Vec::new())
        } else if let Some((before, after)) = self.padding() {
            pad_channels(at, x, shape.len(), before, after)?
        } else if let Some((first, step)) = progression(&self.map) {
            slice_axis(at, x, 1, first, step, self.map.len())?
        } else {
            // where a channel of zeros is read, one is added first
            let has_zeros = self.map.iter().any(Option::is_none);
            let x = if has_zeros { pad_channels(at, x, shape.len(), 0, 1)? } else { x };
            let indices = self.map.iter().map(|m| m.unwrap_or(c) as i32).collect();
            let indices = at.constant("indices", &[self.map.len()], Numbers::I32(indices))?;
            at.operator("Gather", &[x, indices], vec![("axis", Attribute::Int(1))])
        };
        at.output(y);
        Ok(())
    }

    without_parameters!();
}

impl Trainable for ChannelMap {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let x = inputs[0].get();
        let mut y = step.pool.take(&self.output_shape(&[x.shape()])?);
        gather_channels(slice(x)?, self.channels, self.check(x.shape())?, &self.map, slice_mut(&mut y)?);
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let hw = self.check(at.shapes[0])?;
        let mut dx = step.pool.take(at.shapes[0]);
        gather_channels_backward(slice(&at.grad)?, self.channels, hw, &self.map, slice_mut(&mut dx)?);
        step.pool.give(at.grad);
        Ok(vec![Some(dx)])
    }
}
