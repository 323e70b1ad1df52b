//! Channels of several inputs in a new order: concatenation, channel shuffle, padded shortcut.

use super::kernel::{Inputs, Kernel, Part, Target, parts_by_pixels};
use super::lowering::{Edge, Layout};
use crate::Result;

/// Values that a part moves.
const PART: usize = 1 << 15;

/// `out[p][i] = input[p][channel]`, for each `i` its input and channel, or zero.
#[derive(Debug)]
pub(super) struct Gather {
    pixels: usize,
    /// Runs of channels: first output channel, source, length.
    runs: Vec<(usize, Source, usize)>,
    channels: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    Zero,
    /// Input, its first channel, step from one output channel's source to the next.
    Input(usize, usize),
}

impl Gather {
    /// `map` reads the channels of all inputs one after the other, `widths` of each.
    pub fn new(shape: &[usize], map: &[Option<usize>], widths: &[usize]) -> Gather {
        let (pixels, channels) = Edge::rows(shape, Layout::ChannelsLast);
        let source = |at: Option<usize>| {
            let Some(mut c) = at else { return Source::Zero };
            let mut input = 0;
            while c >= widths[input] {
                c -= widths[input];
                input += 1;
            }
            Source::Input(input, c)
        };
        let mut runs: Vec<(usize, Source, usize)> = Vec::new();
        for (i, &at) in map.iter().enumerate() {
            let source = source(at);
            let continues = runs.last().is_some_and(|&(_, first, len)| match (first, source) {
                (Source::Zero, Source::Zero) => true,
                (Source::Input(a, c), Source::Input(b, d)) => a == b && c + len == d,
                _ => false,
            });
            match runs.last_mut().filter(|_| continues) {
                Some(run) => run.2 += 1,
                None => runs.push((i, source, 1)),
            }
        }
        Gather { pixels, runs, channels }
    }
}

impl Kernel for Gather {
    fn algorithm(&self) -> &'static str {
        "copy"
    }

    fn parts(&self) -> Vec<Part> {
        parts_by_pixels(self.pixels, self.channels, (PART / self.channels).max(1))
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        for p in out.part().pixels.clone() {
            let row = out.pixel(p);
            for &(to, source, len) in &self.runs {
                match source {
                    Source::Zero => row[to..to + len].fill(0.0),
                    Source::Input(i, c) if len == 1 => row[to] = inputs.get(i).pixel(p)[c],
                    Source::Input(i, c) => {
                        row[to..to + len].copy_from_slice(&inputs.get(i).pixel(p)[c..c + len]);
                    }
                }
            }
        }
        Ok(())
    }
}
