//! The stored weights in the order in which a part reads them.

use super::super::super::matrix::SparseMatrix;
use super::strip::Strip;
use cnn_core::ops::conv::ConvGeometry;
use std::ops::Range;

/// A stored weight.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Entry {
    /// Bytes from the first place of the planes to the input for an output at the first place.
    pub at: u32,
    pub value: f32,
}

/// The entries of one filter in one piece.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// The filter, counted from the first of the column on.
    pub filter: u32,
    pub count: u32,
}

/// The entries of some filters whose inputs are some channels, few enough for their planes to stay in the first-level cache.
/// Filters with as many entries follow each other: a loop that ends where it ended before costs nothing.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub runs: Vec<Run>,
    pub entries: Vec<Entry>,
}

/// Some filters: those of a part.
#[derive(Debug)]
pub(super) struct Column {
    pub filters: Range<usize>,
    pub pieces: Vec<Piece>,
}

impl Column {
    /// The entries of some filters, in pieces of so many input channels, each multiplied by its filter's factor.
    pub fn of(
        w: &SparseMatrix,
        g: &ConvGeometry,
        strip: &Strip,
        lanes: usize,
        filters: Range<usize>,
        channels: usize,
        scale: Option<&[f32]>,
    ) -> Column {
        let taps = g.kernel[0] * g.kernel[1];
        let (group_in, group_out) = (g.c / g.groups, g.m / g.groups);
        let mut pieces: Vec<Piece> = Vec::new();
        let count = g.c.div_ceil(channels);
        for first in (0..g.c).step_by(channels) {
            let piece = first..g.c.min(first + channels);
            // for each filter its entries in the piece: columns are channels of the filter's group, tap by tap
            let mut found: Vec<(u32, Range<usize>, usize)> = Vec::with_capacity(filters.len());
            for (i, row) in filters.clone().enumerate() {
                let group = row / group_out * group_in;
                let bound = |channel: usize| channel.saturating_sub(group) * taps;
                let columns = w.row(row).0;
                let start = columns.partition_point(|&c| (c as usize) < bound(piece.start));
                let end = columns.partition_point(|&c| (c as usize) < bound(piece.end));
                found.push((i as u32, start..end, group));
            }
            found.sort_by_key(|(_, range, _)| range.len());
            let mut piece = Piece::default();
            for (filter, range, group) in found {
                // the first piece writes the bias, the last one ends the sums; in between nothing is changed without entries
                if range.is_empty() && !pieces.is_empty() && pieces.len() + 1 < count {
                    continue;
                }
                piece.runs.push(Run { filter, count: range.len() as u32 });
                let row = filters.start + filter as usize;
                let scale = scale.map_or(1.0, |scale| scale[row]);
                let (columns, values) = w.row(row);
                piece.entries.extend(columns[range.clone()].iter().zip(&values[range]).map(
                    |(&column, &value)| {
                        let (channel, tap) = (column as usize / taps, column as usize % taps);
                        let vectors = (group + channel) * strip.channel
                            + strip.tap(tap / g.kernel[1], tap % g.kernel[1]);
                        Entry { at: (vectors * lanes * 4) as u32, value: value * scale }
                    },
                ));
            }
            pieces.push(piece);
        }
        Column { filters, pieces }
    }

    /// Bytes that are read.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(|p| std::mem::size_of_val(&*p.runs) + std::mem::size_of_val(&*p.entries)).sum()
    }
}
