//! Channels-last copies: NCHW images to padded NHWC scratch and back.

use crate::simd::{Simd, SimdOp};

/// Floats of a piece that is too short for the hardware's own prefetch.
const SHORT: usize = 256;

/// Asks for the lines of `planes` pieces of `len` floats, `stride` apart.
///
/// A transposition walks through as many streams as there are channels; the
/// hardware foresees them only if they are long, and then better than we do.
#[inline(always)]
fn fetch<S: Simd>(s: S, start: *const f32, planes: usize, stride: usize, len: usize) {
    const LINE: usize = 16;
    if len > SHORT {
        return;
    }
    for p in 0..planes {
        let mut i = 0;
        while i < len {
            s.prefetch(start.wrapping_add(p * stride + i));
            i += LINE;
        }
    }
}

/// `dst[j * dst_ld + i] = src[i * src_ld + j]`, `i < rows`, `j < cols`.
#[derive(Clone, Copy)]
pub struct Transpose2d {
    /// Source, `rows` rows of `cols` floats, `src_ld` apart.
    pub src: *const f32,
    /// Distance of source rows.
    pub src_ld: usize,
    /// Source rows.
    pub rows: usize,
    /// Source columns.
    pub cols: usize,
    /// Destination, `cols` rows of `rows` floats, `dst_ld` apart.
    pub dst: *mut f32,
    /// Distance of destination rows.
    pub dst_ld: usize,
}

impl Transpose2d {
    /// # Safety
    /// Source and destination must be valid and apart.
    #[inline(always)]
    pub unsafe fn go<S: Simd>(self, s: S) {
        let l = S::LANES;
        let mut i = 0;
        while i < self.rows {
            let ni = l.min(self.rows - i);
            let mut j = 0;
            while j < self.cols {
                let nj = l.min(self.cols - j);
                // SAFETY: the block lies inside the matrix.
                unsafe {
                    let src = self.src.add(i * self.src_ld + j);
                    let dst = self.dst.add(j * self.dst_ld + i);
                    if ni == l && nj == l {
                        s.transpose_block(src, self.src_ld, dst, self.dst_ld);
                    } else {
                        s.transpose_partial(src, self.src_ld, ni, nj, dst, self.dst_ld);
                    }
                }
                j += nj;
            }
            i += ni;
        }
    }
}

/// [`Transpose2d`] into image planes.
pub struct UnpackNhwc(pub Transpose2d);

impl SimdOp for UnpackNhwc {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        fetch(s, t.dst, t.cols, t.dst_ld, t.rows);
        // SAFETY: whoever built the value vouches for the pointers.
        unsafe { t.go(s) };
    }
}

// Raw pointers in a safe trait: the fields are filled in by the functions of
// this crate only, which check the slices they come from.
impl SimdOp for Transpose2d {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: whoever built the value vouches for the pointers.
        unsafe { self.go(s) };
    }
}

/// Copies rows of an NCHW image to channels-last scratch, with zeros around it.
pub struct PackNhwc<'a> {
    /// Planes of one image, `c x h x w`.
    pub src: &'a [f32],
    /// Channels, height and width of the source.
    pub chw: [usize; 3],
    /// First row to copy; rows outside the image are zeros.
    pub row0: isize,
    /// Rows to copy.
    pub rows: usize,
    /// Zero pixels to the left.
    pub left: usize,
    /// Pixels in a row of the destination.
    pub width: usize,
    /// Floats from a pixel to the next, at least `c`; what exceeds `c` becomes zero.
    pub ld: usize,
    /// `rows x width x ld`.
    pub dst: &'a mut [f32],
}

impl SimdOp for PackNhwc<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [c, h, w] = self.chw;
        let row_len = self.width * self.ld;
        assert!(self.src.len() >= c * h * w && self.dst.len() >= self.rows * row_len);
        assert!(self.ld >= c);
        let inside = w.min(self.width.saturating_sub(self.left));
        if self.ld > c {
            self.dst[..self.rows * row_len].fill(0.0);
        }
        let first = (-self.row0).clamp(0, self.rows as isize) as usize;
        let last = (h as isize - self.row0).clamp(first as isize, self.rows as isize) as usize;
        self.dst[..first * row_len].fill(0.0);
        self.dst[last * row_len..self.rows * row_len].fill(0.0);
        let head = self.left.min(self.width) * self.ld;
        let tail = head + inside * self.ld;
        // Without horizontal padding all the rows are one long row.
        let whole = inside == self.width && inside == w;
        let (runs, run_pixels) =
            if whole { (usize::from(last > first), (last - first) * w) } else { (last - first, inside) };
        if first == last {
            return; // nothing but padding
        }
        let start = self.src.as_ptr().wrapping_add((self.row0 + first as isize) as usize * w);
        fetch(s, start, c, h * w, (last - first) * w);
        for i in 0..runs {
            let row = first + i;
            let dst = &mut self.dst[row * row_len..];
            if !whole {
                dst[..head].fill(0.0);
                dst[tail..row_len].fill(0.0);
            }
            let y = (self.row0 + row as isize) as usize;
            let dst = &mut dst[head..];
            let t = Transpose2d {
                src: self.src[y * w..].as_ptr(),
                src_ld: h * w,
                rows: c,
                cols: run_pixels,
                dst: dst.as_mut_ptr(),
                dst_ld: self.ld,
            };
            // SAFETY: y < h and run_pixels end inside the image, for each of
            // the c planes; the destination holds the pixels by the assert.
            unsafe { t.go(s) };
        }
    }
}
