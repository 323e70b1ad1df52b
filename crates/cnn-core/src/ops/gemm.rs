//! Matrix product of row-major matrices.

use super::direct::panel_width;
use super::tasks::for_each;
use crate::kernels::layout::Transpose2d;
use crate::kernels::scratch::{Shared, with_scratch};
use crate::kernels::tiles::{Init, Tiles};
use crate::simd::{Isa, Simd, SimdOp};

/// Whether an operand is stored transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transpose {
    /// As named.
    No,
    /// Rows and columns exchanged.
    Yes,
}

/// Inner indices of a block: a panel of 2 x 16 columns then takes 32 KB, and
/// each cache line of `c` is visited rarely.
const INNER: usize = 256;
/// Rows of a task.
const ROWS: usize = 112;
/// Columns of a task.
const COLUMNS: usize = 512;

/// `c = op(a) * op(b)`, or `c += ...` if `accumulate`.
///
/// `op(a)`: `m x k`, `op(b)`: `k x n`, `c`: `m x n`, all row-major.
#[allow(clippy::too_many_arguments)]
pub fn gemm(
    ta: Transpose,
    tb: Transpose,
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    accumulate: bool,
) {
    gemm_on(Isa::active(), ta, tb, [m, n, k], a, b, c, accumulate);
}

/// [`gemm`] on a given instruction set, `mnk` are the three lengths.
#[allow(clippy::too_many_arguments)]
pub fn gemm_on(
    isa: Isa,
    ta: Transpose,
    tb: Transpose,
    mnk: [usize; 3],
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    accumulate: bool,
) {
    let [m, n, k] = mnk;
    assert_eq!(a.len(), m * k, "left operand");
    assert_eq!(b.len(), k * n, "right operand");
    assert_eq!(c.len(), m * n, "result");
    if c.is_empty() {
        return;
    }
    if k == 0 {
        if !accumulate {
            c.fill(0.0);
        }
        return;
    }
    let width = panel_width(isa, n);
    // Small products are cut finer, so that two threads have work.
    let columns = COLUMNS.min((n.div_ceil(4)).next_multiple_of(width));
    let col_tasks = n.div_ceil(columns);
    let row_tasks = if col_tasks >= 4 { m.div_ceil(4 * ROWS) } else { m.div_ceil(ROWS) };
    let rows = m.div_ceil(row_tasks);
    let out = Shared::new(c);
    for_each(row_tasks * col_tasks, |task| {
        let (i, j) = (task / col_tasks, task % col_tasks);
        let (i0, j0) = (i * rows, j * columns);
        if i0 >= m {
            return;
        }
        isa.run(Block {
            ta,
            tb,
            mnk,
            a,
            b,
            c: out.ptr(),
            accumulate,
            width,
            at: [i0, j0],
            size: [rows.min(m - i0), columns.min(n - j0)],
        });
    });
}

/// A rectangle of the result.
struct Block<'a> {
    ta: Transpose,
    tb: Transpose,
    mnk: [usize; 3],
    a: &'a [f32],
    b: &'a [f32],
    c: *mut f32,
    accumulate: bool,
    width: usize,
    at: [usize; 2],
    size: [usize; 2],
}

impl SimdOp for Block<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [m, n, k] = self.mnk;
        let [rows, columns] = self.size;
        let width = self.width;
        let panels = columns.div_ceil(width);
        let inner = INNER.min(k);
        let [i0, j0] = self.at;
        with_scratch(panels * width * inner, |packed| {
            let mut k0 = 0;
            while k0 < k {
                let kc = inner.min(k - k0);
                s.vectorize(PackB { block: &self, k0, kc, dst: packed });
                let init = if k0 == 0 && !self.accumulate { Init::Zero } else { Init::Accumulate };
                let (at, a_row, a_inner) = match self.ta {
                    Transpose::No => (i0 * k + k0, k, 1),
                    Transpose::Yes => (k0 * m + i0, 1, m),
                };
                for p in 0..panels {
                    s.vectorize(Tiles {
                        a: self.a[at..].as_ptr(),
                        a_row,
                        a_inner,
                        runs: &[0],
                        run_len: kc,
                        b: packed[p * width * kc..].as_ptr(),
                        b_inner: width,
                        next: std::ptr::null(),
                        // SAFETY: inside c, in this task's rectangle.
                        c: unsafe { self.c.add(i0 * n + j0 + p * width) },
                        c_row: n,
                        rows,
                        outer: 1,
                        a_outer: 0,
                        c_outer: 0,
                        lanes: width.min(columns - p * width),
                        init,
                        finish: None,
                    });
                }
                k0 += kc;
            }
        });
    }
}

/// Copies rows `k0..k0 + kc` of the rectangle's columns of `op(b)` into panels.
struct PackB<'a, 'b> {
    block: &'a Block<'b>,
    k0: usize,
    kc: usize,
    dst: &'a mut [f32],
}

impl SimdOp for PackB<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [_, n, k] = self.block.mnk;
        let width = self.block.width;
        let columns = self.block.size[1];
        let j0 = self.block.at[1];
        for p in 0..columns.div_ceil(width) {
            let lanes = width.min(columns - p * width);
            let j = j0 + p * width;
            let dst = &mut self.dst[p * width * self.kc..][..width * self.kc];
            if lanes < width {
                dst.fill(0.0);
            }
            match self.block.tb {
                Transpose::No => {
                    for (kk, row) in dst.chunks_exact_mut(width).enumerate() {
                        let src = &self.block.b[(self.k0 + kk) * n + j..][..lanes];
                        if lanes == width {
                            let mut v = 0;
                            while v < width {
                                // SAFETY: both rows hold `width` floats.
                                unsafe { s.store(row.as_mut_ptr().add(v), s.load(src.as_ptr().add(v))) };
                                v += S::LANES;
                            }
                        } else {
                            row[..lanes].copy_from_slice(src);
                        }
                    }
                }
                Transpose::Yes => {
                    let t = Transpose2d {
                        src: self.block.b[j * k + self.k0..].as_ptr(),
                        src_ld: k,
                        rows: lanes,
                        cols: self.kc,
                        dst: dst.as_mut_ptr(),
                        dst_ld: width,
                    };
                    // SAFETY: lanes rows of kc floats of b, kc rows of the panel.
                    unsafe { t.go(s) };
                }
            }
        }
    }
}
