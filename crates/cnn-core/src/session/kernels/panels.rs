//! Filters as panels of a matrix product, and how products are cut into parts.

use crate::kernels::layout::Transpose2d;
use crate::session::floats::Floats;
use crate::simd::Isa;

/// Columns of a panel: two vectors, or one where there are no more columns.
pub fn width(isa: Isa, columns: usize) -> usize {
    if columns > isa.lanes() { 2 * isa.lanes() } else { isa.lanes() }
}

/// `filters x inner`, row by row, to `[panel][inner][width]`, the last panel filled up with zeros.
pub fn pack(isa: Isa, filters: usize, inner: usize, width: usize, weights: &[f32]) -> Floats {
    let panels = filters.div_ceil(width);
    let mut packed = Floats::zeros(panels * inner * width);
    for (panel, dst) in packed.chunks_mut(inner * width).enumerate() {
        let first = panel * width;
        let rows = width.min(filters - first);
        isa.run(Transpose2d {
            src: weights[first * inner..(first + rows) * inner].as_ptr(),
            src_ld: inner,
            rows,
            cols: inner,
            dst: dst.as_mut_ptr(),
            dst_ld: width,
        });
    }
    packed
}

/// Values filled up with zeros to whole panels.
pub fn pad(values: &[f32], width: usize) -> Floats {
    let mut padded = Floats::zeros(values.len().next_multiple_of(width));
    padded[..values.len()].copy_from_slice(values);
    padded
}

/// Vector multiply-adds, about as many cycles, below which cutting costs more than a second thread gains.
const SMALL: usize = 12_000;
/// Parts of a large product: enough that two to eight threads end together.
const PARTS: usize = 8;
/// Floats of the left operand that a part reads again for each panel: a quarter of the second-level cache.
const BLOCK: usize = 64 * 1024;
/// Bytes of weights from which on each thread should read some of them rather than all.
const HEAVY: usize = 256 * 1024;

/// Into how many pieces pixels and panels are cut, from sizes alone. `rows` are pixels, or rows of pixels that stay together, of
/// `row_floats` input floats; `cost` is the vector multiply-adds of all.
pub fn cut(
    rows: usize,
    row_floats: usize,
    panels: usize,
    weight_bytes: usize,
    cost: usize,
) -> (usize, usize) {
    let want = (cost / SMALL).clamp(1, PARTS);
    let for_cache = rows.div_ceil((BLOCK / row_floats.max(1)).max(1)).min(rows);
    if weight_bytes > HEAVY && weight_bytes > rows * row_floats * 4 {
        let columns = want.min(panels);
        (for_cache.min(rows.div_ceil(14)).max(1), columns)
    } else {
        let pieces = for_cache.max(want.min(rows)).max(1);
        (pieces, want.div_ceil(pieces).min(panels))
    }
}

/// Start and end of piece `i` of `pieces`.
pub fn piece(len: usize, pieces: usize, i: usize) -> std::ops::Range<usize> {
    i * len / pieces..(i + 1) * len / pieces
}
