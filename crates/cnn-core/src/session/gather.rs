//! Channels of several inputs in a new order: concatenation, channel shuffle, padded shortcut.

use super::kernel::{Inputs, Kernel, Part, Target, parts_by_pixels};
use super::lowering::{Edge, Layout};
use crate::Result;
use crate::simd::{Isa, Simd, SimdOp};
use std::ops::Range;

/// Values that a part moves.
const PART: usize = 1 << 15;

/// Largest distance at which a shuffle is looked for.
const MOST_GROUPS: usize = 64;

/// `out[p][i] = input[p][channel]`, for each `i` its input and channel, or zero.
#[derive(Debug)]
pub(super) struct Gather {
    isa: Isa,
    pixels: usize,
    channels: usize,
    pieces: Vec<Piece>,
}

/// An input and one of its channels.
type Source = (usize, usize);

/// Some output channels.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Piece {
    Zero {
        to: usize,
        len: usize,
    },
    Copy {
        to: usize,
        from: Source,
        len: usize,
    },
    /// Two runs of `len`, interleaved.
    Pairs {
        to: usize,
        from: [Source; 2],
        len: usize,
    },
    /// `out[to + i to_step] = in[from + i from_step]`
    Steps {
        to: usize,
        to_step: usize,
        from: Source,
        from_step: usize,
        len: usize,
    },
}

impl Gather {
    /// `map` reads the channels of all inputs one after the other, `widths` of each.
    pub fn new(isa: Isa, shape: &[usize], map: &[Option<usize>], widths: &[usize]) -> Gather {
        let (pixels, channels) = Edge::rows(shape, Layout::ChannelsLast);
        let source = |&at: &Option<usize>| {
            let (mut input, mut c) = (0, at?);
            while c >= widths[input] {
                c -= widths[input];
                input += 1;
            }
            Some((input, c))
        };
        Gather { isa, pixels, channels, pieces: pieces(&map.iter().map(source).collect::<Vec<_>>()) }
    }
}

/// The output channels from `at` on that continue each other at a distance: channel `i + apart` reads `step` after channel `i`.
fn span(map: &[Option<Source>], at: usize, apart: usize, step: usize) -> usize {
    let follows = |i: usize| match (map[i], map.get(i + apart)) {
        (Some((a, c)), Some(&Some((b, d)))) => a == b && c + step == d,
        _ => false,
    };
    apart + (at..).take_while(|&i| follows(i)).count()
}

fn pieces(map: &[Option<Source>]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut to = 0;
    while to < map.len() {
        let Some(from) = map[to] else {
            let len = map[to..].iter().take_while(|s| s.is_none()).count();
            pieces.push(Piece::Zero { to, len });
            to += len;
            continue;
        };
        let run = span(map, to, 1, 1);
        let shuffle = (2..=MOST_GROUPS.min((map.len() - to) / 2))
            .map(|g| (span(map, to, g, 1) / g * g, g))
            .filter(|&(len, g)| len >= 2 * g && map[to..to + g].iter().all(Option::is_some))
            .max_by_key(|&(len, g)| (len, std::cmp::Reverse(g)));
        let from_step = match map.get(to + 1) {
            Some(&Some((input, c))) if input == from.0 && c > from.1 => c - from.1,
            _ => 1,
        };
        let stepped = span(map, to, 1, from_step);
        match shuffle {
            Some((len, g)) if len > run.max(stepped) => {
                let sources: Vec<Source> = map[to..to + g].iter().copied().flatten().collect();
                match sources.as_slice() {
                    &[a, b] => pieces.push(Piece::Pairs { to, from: [a, b], len: len / 2 }),
                    sources => pieces.extend(sources.iter().enumerate().map(|(i, &from)| Piece::Steps {
                        to: to + i,
                        to_step: g,
                        from,
                        from_step: 1,
                        len: len / g,
                    })),
                }
                to += len;
            }
            _ if stepped > run.max(2) => {
                pieces.push(Piece::Steps { to, to_step: 1, from, from_step, len: stepped });
                to += stepped;
            }
            _ => {
                pieces.push(Piece::Copy { to, from, len: run });
                to += run;
            }
        }
    }
    pieces
}

impl Kernel for Gather {
    fn algorithm(&self) -> &'static str {
        match self.pieces.iter().any(|p| matches!(p, Piece::Pairs { .. } | Piece::Steps { .. })) {
            true => "shuffle",
            false => "copy",
        }
    }

    fn parts(&self) -> Vec<Part> {
        parts_by_pixels(self.pixels, self.channels, (PART / self.channels).max(1))
    }

    fn run(&self, inputs: Inputs<'_>, out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        let (pixels, y, y_pitch) = (out.part().pixels.clone(), out.as_ptr(), out.pitch());
        for &piece in &self.pieces {
            self.isa.run(Move { piece, inputs, pixels: pixels.clone(), y, y_pitch });
        }
        Ok(())
    }
}

/// One piece of some pixels.
struct Move<'a> {
    piece: Piece,
    inputs: Inputs<'a>,
    pixels: Range<usize>,
    y: *mut f32,
    y_pitch: usize,
}

impl SimdOp for Move<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let start = |(input, c): Source| {
            let view = self.inputs.get(input);
            (view.as_ptr().wrapping_add(c), view.pitch)
        };
        // SAFETY: the map was checked to read channels that exist, and the part's pixels are this call's alone.
        unsafe {
            match self.piece {
                Piece::Zero { to, len } => {
                    for p in self.pixels {
                        std::slice::from_raw_parts_mut(self.y.add(p * self.y_pitch + to), len).fill(0.0);
                    }
                }
                Piece::Copy { to, from, len } => {
                    let (x, pitch) = start(from);
                    for p in self.pixels {
                        copy(s, x.add(p * pitch), self.y.add(p * self.y_pitch + to), len);
                    }
                }
                Piece::Pairs { to, from, len } => {
                    let [(a, a_pitch), (b, b_pitch)] = from.map(start);
                    for p in self.pixels {
                        let y = self.y.add(p * self.y_pitch + to);
                        interleave(s, a.add(p * a_pitch), b.add(p * b_pitch), y, len);
                    }
                }
                Piece::Steps { to, to_step, from, from_step, len } => {
                    let (x, pitch) = start(from);
                    for p in self.pixels {
                        let (x, y) = (x.add(p * pitch), self.y.add(p * self.y_pitch + to));
                        for i in 0..len {
                            *y.add(i * to_step) = *x.add(i * from_step);
                        }
                    }
                }
            }
        }
    }
}

/// Whole vectors, the last of which overlaps the one before it.
///
/// # Safety
/// Both must hold `len` floats, apart from each other.
#[inline(always)]
unsafe fn copy<S: Simd>(s: S, x: *const f32, y: *mut f32, len: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if len < S::LANES {
            return s.copy_short(x, y, len);
        }
        let mut from = 0;
        while from < len {
            let at = from.min(len - S::LANES);
            s.store(y.add(at), s.load(x.add(at)));
            from += S::LANES;
        }
    }
}

/// `y = a0 b0 a1 b1 ...`, `len` of each.
///
/// # Safety
/// `y` must hold `2 len` floats, apart from the others.
#[inline(always)]
unsafe fn interleave<S: Simd>(s: S, a: *const f32, b: *const f32, y: *mut f32, len: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if len < S::LANES {
            for i in 0..len {
                *y.add(2 * i) = *a.add(i);
                *y.add(2 * i + 1) = *b.add(i);
            }
            return;
        }
        let mut from = 0;
        while from < len {
            let at = from.min(len - S::LANES);
            let (lo, hi) = s.join_pairs(s.load(a.add(at)), s.load(b.add(at)));
            s.store(y.add(2 * at), lo);
            s.store(y.add(2 * at + S::LANES), hi);
            from += S::LANES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(map: impl IntoIterator<Item = usize>) -> Vec<Option<Source>> {
        map.into_iter().map(|c| Some((0, c))).collect()
    }

    #[test]
    fn maps_become_few_pieces() {
        let shuffle = |c: usize, g: usize| pieces(&of((0..c).map(|i| i % g * (c / g) + i / g)));
        assert_eq!(shuffle(116, 2), [Piece::Pairs { to: 0, from: [(0, 0), (0, 58)], len: 58 }]);
        let steps = |i| Piece::Steps { to: i, to_step: 3, from: (0, 80 * i), from_step: 1, len: 80 };
        assert_eq!(shuffle(240, 3), [0, 1, 2].map(steps));
        assert_eq!(pieces(&of(4..20)), [Piece::Copy { to: 0, from: (0, 4), len: 16 }]);
        let odd = Piece::Steps { to: 0, to_step: 1, from: (0, 1), from_step: 2, len: 8 };
        assert_eq!(pieces(&of((0..8).map(|i| 2 * i + 1))), [odd]);
        let padded = [vec![None; 3], of(0..5), vec![None; 2]].concat();
        let expected = [
            Piece::Zero { to: 0, len: 3 },
            Piece::Copy { to: 3, from: (0, 0), len: 5 },
            Piece::Zero { to: 8, len: 2 },
        ];
        assert_eq!(pieces(&padded), expected);
    }
}
