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

/// An instruction set, represented by a token that proves it is available.
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector of [`Simd::LANES`] floats.
    type V: Copy;
    /// Floats in a vector.
    const LANES: usize;
    /// Most accumulator rows that stay in registers with 1 and with 2 vectors per row.
    const ROWS: [usize; 2];

    /// Runs `op` inside a function compiled for this instruction set.
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
    /// Sum of all lanes, in a fixed order.
    fn sum(self, v: Self::V) -> f32;

    /// Reads a whole vector.
    ///
    /// # Safety
    /// `p` must be valid for reads of `LANES` floats.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// Writes a whole vector.
    ///
    /// # Safety
    /// `p` must be valid for writes of `LANES` floats.
    unsafe fn store(self, p: *mut f32, v: Self::V);
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
