//! The vector operations a kernel may use.

/// A piece of work that can be instantiated for any instruction set.
///
/// `run` must be `#[inline(always)]`, and so must everything it calls with the
/// token, otherwise the code ends up outside the function that enables the
/// CPU features and every operation becomes a call.
pub trait SimdOp {
    /// What the work returns.
    type Output;
    /// Does the work with the vectors of `S`.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Lanes of the widest vector.
const MOST_LANES: usize = 16;

/// Only the instruction sets of this module have one: the kernels rely on what they promise.
pub trait Sealed {}

/// An instruction set, represented by a token that proves it is available.
pub trait Simd: Sealed + Copy + Send + Sync + 'static {
    /// A vector of [`Simd::LANES`] floats.
    type V: Copy;
    /// Floats in a vector.
    const LANES: usize;
    /// Most accumulator rows that stay in registers with 1 and with 2 vectors per row.
    const ROWS: [usize; 2];

    /// Runs `op` inside a function of its own, compiled for this instruction set.
    fn vectorize<O: SimdOp>(self, op: O) -> O::Output;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Lane-wise `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise `a * b + c`.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Lane-wise larger one; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise smaller one; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise larger one; NaN where either is NaN. Which of two zeros is not said.
    fn maximum(self, a: Self::V, b: Self::V) -> Self::V;
    /// Sum of all lanes, in a fixed order.
    fn sum(self, v: Self::V) -> f32;

    /// Reads a whole vector.
    ///
    /// # Safety
    /// `p` must be valid for reads of `LANES` floats.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// Reads `LANES` bytes as the floats 0 to 255.
    ///
    /// # Safety
    /// `p` must be valid for reads of `LANES` bytes.
    unsafe fn load_bytes(self, p: *const u8) -> Self::V;
    /// Writes a whole vector.
    ///
    /// # Safety
    /// `p` must be valid for writes of `LANES` floats.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Writes the first `n` lanes and perhaps some of those that follow,
    /// whatever is fastest: a vector that crosses a cache line is slow.
    ///
    /// # Safety
    /// `p` must be valid for writes of `LANES` floats.
    #[inline(always)]
    unsafe fn store_at_least(self, p: *mut f32, n: usize, v: Self::V) {
        let _ = n;
        // SAFETY: the caller's promise.
        unsafe { self.store(p, v) };
    }
    /// Copies `n < LANES` floats, without masks: they are slow to write, and
    /// what they wrote is slow to read back.
    ///
    /// # Safety
    /// `src` must be valid for reads and `dst` for writes of `n` floats, apart.
    #[inline(always)]
    unsafe fn copy_short(self, src: *const f32, dst: *mut f32, n: usize) {
        for i in 0..n {
            // SAFETY: i < n.
            unsafe { *dst.add(i) = *src.add(i) };
        }
    }
    /// Reads `n <= LANES` floats, the other lanes are zero.
    ///
    /// # Safety
    /// `p` must be valid for reads of `n` floats.
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::V;
    /// Writes the first `n <= LANES` lanes.
    ///
    /// # Safety
    /// `p` must be valid for writes of `n` floats.
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Self::V);
    /// Asks for a cache line that will be read or written soon. Any address is allowed.
    #[inline(always)]
    fn prefetch(self, _p: *const f32) {}
    /// The even and the odd floats of `lo` followed by `hi`.
    #[inline(always)]
    fn split_pairs(self, lo: Self::V, hi: Self::V) -> (Self::V, Self::V) {
        let mut all = [0.0f32; 2 * MOST_LANES];
        let mut halves = [[0.0f32; MOST_LANES]; 2];
        // SAFETY: the arrays hold vectors of MOST_LANES, the largest there are.
        unsafe {
            self.store(all.as_mut_ptr(), lo);
            self.store(all.as_mut_ptr().add(Self::LANES), hi);
            for i in 0..Self::LANES {
                halves[0][i] = all[2 * i];
                halves[1][i] = all[2 * i + 1];
            }
            (self.load(halves[0].as_ptr()), self.load(halves[1].as_ptr()))
        }
    }
    /// The inverse of [`Simd::split_pairs`].
    #[inline(always)]
    fn join_pairs(self, even: Self::V, odd: Self::V) -> (Self::V, Self::V) {
        let mut all = [0.0f32; 2 * MOST_LANES];
        let mut halves = [[0.0f32; MOST_LANES]; 2];
        // SAFETY: as above.
        unsafe {
            self.store(halves[0].as_mut_ptr(), even);
            self.store(halves[1].as_mut_ptr(), odd);
            for i in 0..Self::LANES {
                all[2 * i] = halves[0][i];
                all[2 * i + 1] = halves[1][i];
            }
            (self.load(all.as_ptr()), self.load(all.as_ptr().add(Self::LANES)))
        }
    }
    /// `dst[j * dst_ld + i] = src[i * src_ld + j]` for `i < LANES`, `j < LANES`.
    ///
    /// # Safety
    /// All those places must be valid, and the two areas must not overlap.
    unsafe fn transpose_block(self, src: *const f32, src_ld: usize, dst: *mut f32, dst_ld: usize);
    /// The same for `i < rows <= LANES`, `j < cols <= LANES`.
    ///
    /// # Safety
    /// As for [`Simd::transpose_block`], for the places named by `rows` and `cols`.
    #[inline(always)]
    unsafe fn transpose_partial(
        self,
        src: *const f32,
        src_ld: usize,
        rows: usize,
        cols: usize,
        dst: *mut f32,
        dst_ld: usize,
    ) {
        for i in 0..rows {
            for j in 0..cols {
                // SAFETY: i < rows and j < cols, which the caller vouches for.
                unsafe { *dst.add(j * dst_ld + i) = *src.add(i * src_ld + j) };
            }
        }
    }
}
