//! How the outputs of a band are spread over the lanes of a vector.
//!
//! Each lane has a rectangle of the band to itself, all of one size, and vectors hold the same place of all rectangles. The input
//! under a weight is then a whole, aligned vector for every tap of the filter: rectangles with the seams that their filters
//! read are laid out side by side, a float of each.

use super::sums::VECTORS;
use cnn_core::ops::conv::ConvGeometry;

/// Cycles of a stored weight for some vectors of outputs: each of these, and itself.
const MULTIPLY: [f64; 2] = [0.65, 1.6];
/// Cycles of beginning and ending the sums of a filter.
const RUN: f64 = 25.0;
/// Cycles of turning a vector, in or out.
const TURN: f64 = 14.0;

/// One of the two directions in a rectangle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    /// Rectangles in this direction.
    pub lanes: usize,
    /// Outputs of a rectangle.
    pub outputs: usize,
    /// Places from the input of an output to that of the next.
    pub step: usize,
    /// Places from a tap of the filter to the next.
    tap: usize,
    /// Places that are laid out.
    pub places: usize,
    /// Input pixels from an output to the next.
    stride: usize,
    /// Taps of the filter and their distance, where no two outputs read the same pixel: what nobody reads is left out.
    apart: Option<(usize, usize)>,
}

impl Axis {
    fn of(all: usize, lanes: usize, stride: usize, taps: usize, dilation: usize) -> Option<Axis> {
        let outputs = all.div_ceil(lanes);
        let field = (taps - 1).checked_mul(dilation)?.checked_add(1)?;
        let axis = if stride >= field {
            let places = outputs.checked_mul(taps)?;
            Axis { lanes, outputs, step: taps, tap: 1, places, stride, apart: Some((taps, dilation)) }
        } else {
            let places = (outputs - 1).checked_mul(stride)?.checked_add(field)?;
            Axis { lanes, outputs, step: stride, tap: dilation, places, stride, apart: None }
        };
        Some(axis)
    }

    /// Input pixel of a place, from that of the rectangle's first tap on.
    pub fn pixel(&self, place: usize) -> usize {
        match self.apart {
            Some((taps, dilation)) => place / taps * self.stride + place % taps * dilation,
            None => place,
        }
    }

    /// Input pixel of the first tap of a lane's rectangle, from that of the band on.
    pub fn start(&self, lane: usize) -> usize {
        lane * self.outputs * self.stride
    }
}

/// The rectangles of a band.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strip {
    pub y: Axis,
    pub x: Axis,
    /// Vectors from a channel to the next: odd, so that the channels of a place do not share a set of the cache.
    pub channel: usize,
}

impl Strip {
    /// Rectangles for a band of so many rows and columns: those that cost least. `None` if numbers overflow.
    pub fn of(g: &ConvGeometry, lanes: usize, [rows, columns]: [usize; 2], stored: usize) -> Option<Strip> {
        let mut best: Option<(f64, Strip)> = None;
        for down in (0..=lanes.ilog2()).map(|bits| 1usize << bits) {
            let y = Axis::of(rows, down, g.stride[0], g.kernel[0], g.dilation[0])?;
            let x = Axis::of(columns, lanes / down, g.stride[1], g.kernel[1], g.dilation[1])?;
            let channel = y.places.checked_mul(x.places)? | 1;
            // offsets are bytes in 32 bits
            channel.checked_mul(g.c)?.checked_mul(4 * lanes).filter(|&bytes| bytes < 1 << 31)?;
            let strip = Strip { y, x, channel };
            let cost = strip.cost(g, stored);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, strip));
            }
        }
        best.map(|(_, strip)| strip)
    }

    /// Outputs of a rectangle.
    pub fn outputs(&self) -> usize {
        self.y.outputs * self.x.outputs
    }

    /// Rectangles.
    fn lanes(&self) -> usize {
        self.y.lanes * self.x.lanes
    }

    /// Cycles of turning the inputs of a band.
    pub fn turning(&self, g: &ConvGeometry) -> f64 {
        TURN * (self.channel * g.c.next_multiple_of(self.lanes())) as f64
    }

    /// Cycles of a band.
    pub fn cost(&self, g: &ConvGeometry, stored: usize) -> f64 {
        let (outputs, tiles) = (self.outputs() as f64, self.outputs().div_ceil(VECTORS) as f64);
        let multiply = (MULTIPLY[0] * outputs + MULTIPLY[1] * tiles) * stored as f64;
        let back = TURN * outputs * g.m.next_multiple_of(self.lanes()) as f64;
        self.turning(g) + multiply + RUN * tiles * g.m as f64 + back
    }

    /// Vectors from the first place of a channel to the input of an output's first tap.
    pub fn output(&self, output: usize) -> usize {
        let (oy, ox) = (output / self.x.outputs, output % self.x.outputs);
        oy * self.y.step * self.x.places + ox * self.x.step
    }

    /// Vectors from an output's first tap to another one.
    pub fn tap(&self, ky: usize, kx: usize) -> usize {
        ky * self.y.tap * self.x.places + kx * self.x.tap
    }
}
