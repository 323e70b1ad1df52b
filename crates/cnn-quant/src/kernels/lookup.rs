//! Linear layers whose weights are looked up as they are multiplied: the values of a codebook lie in registers, and what is read of a
//! weight is its index, at most five bits. A layer for one image is as fast as its weights are read.

use super::lowered::piece;
use crate::codebook_weights::CodebookWeights;
use cnn_core::Result;
use cnn_core::session::{Epilogue, Inputs, Kernel, Layout, Lowered, Lowering, Part, Target};
#[cfg(target_arch = "x86_64")]
use cnn_core::simd::Isa;
use std::sync::Arc;

/// Indices that lie next to each other: the words of a vector.
const LANES: usize = 16;
/// Bits of an index at most: two registers hold 32 values.
const BITS: usize = 5;
/// Rows that are multiplied together, as they share the input.
const ROWS: usize = 4;
/// Images that are multiplied together, as they share what was looked up.
const IMAGES: usize = 4;
/// Weights from which on this is faster for one image: fewer are as fast read as floats from a near cache.
const LARGE: usize = 1 << 20;
/// Weights from which on it is for up to [`IMAGES`], which share the floats too.
const HUGE: usize = 1 << 23;
/// Weights of a part.
const PART: usize = 1 << 18;

#[derive(Debug)]
struct Lookup {
    inputs: usize,
    bits: usize,
    /// Words of a row.
    row: usize,
    /// `[row][block][lane]`; the index of input `(block per + t) LANES + lane` begins at bit `t bits` of its word, `per` of them a word.
    words: Arc<Vec<u32>>,
    /// The values of each codebook, again and again: bits above an index are those of the next one.
    tables: Vec<[f32; 1 << BITS]>,
    /// The codebook of each row.
    books: Vec<usize>,
    bias: Vec<f32>,
    epilogue: Epilogue,
    parts: Vec<Part>,
}

/// Bits of an index.
fn bits(alphabet: usize) -> usize {
    (usize::BITS - alphabet.saturating_sub(1).leading_zeros()).max(1) as usize
}

/// The kernel, where it pays: on a processor that looks up sixteen values at a time, for few images, at most 32 values and a large layer.
pub fn lower(at: &Lowering<'_>, weights: &CodebookWeights, bias: Option<&[f32]>) -> Option<Lowered> {
    let (&[images, _], &[outputs, inputs]) = (at.inputs.first()?.shape.as_slice(), weights.shape()) else {
        return None;
    };
    let bits = bits(weights.alphabet());
    let pays = match images {
        1 => inputs * outputs >= LARGE,
        2..=IMAGES => inputs * outputs >= HUGE,
        _ => false,
    };
    if at.isa.name() != "avx512" || bits > BITS || !pays {
        return None;
    }
    let row = inputs.div_ceil(LANES * (32 / bits)) * LANES;
    let count = (inputs * outputs / PART).clamp(1, outputs.div_ceil(ROWS));
    let parts = (0..count).map(|i| {
        let rows = piece(outputs.div_ceil(ROWS), count, i);
        Part { pixels: 0..images, channels: rows.start * ROWS..outputs.min(rows.end * ROWS) }
    });
    let table =
        |values: &Vec<f32>| std::array::from_fn(|i| values.get(i % (1 << bits)).copied().unwrap_or(0.0));
    let kernel = Lookup {
        inputs,
        bits,
        row,
        words: at.shared("lookup", || pack(weights.indices(), inputs, bits, row)),
        tables: weights.codebooks().iter().map(table).collect(),
        books: weights.books().collect(),
        bias: bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec),
        epilogue: at.epilogue.clone(),
        parts: parts.collect(),
    };
    Some(Lowered { inputs: vec![Layout::Planar], output: Layout::Planar, ..Lowered::channels_last(kernel) })
}

fn pack(indices: &[u8], inputs: usize, bits: usize, row: usize) -> Vec<u32> {
    let per = 32 / bits;
    let mut words = vec![0; indices.len() / inputs * row];
    for (words, indices) in words.chunks_exact_mut(row).zip(indices.chunks_exact(inputs)) {
        for (words, indices) in words.chunks_exact_mut(LANES).zip(indices.chunks(LANES * per)) {
            for (at, &index) in indices.iter().enumerate() {
                words[at % LANES] |= u32::from(index) << (at / LANES * bits);
            }
        }
    }
    words
}

impl Lookup {
    /// Inputs of a row with those that fill up its last words.
    fn padded(&self) -> usize {
        self.row * (32 / self.bits)
    }

    /// The products of up to [`ROWS`] rows from `first` on with `x`, `images` inputs filled up with zeros.
    fn products(&self, first: usize, count: usize, x: &[f32], images: usize) -> [[f32; IMAGES]; ROWS] {
        // fewer rows: the last one again, and its sums are not used
        let at = |r: usize| first + r.min(count - 1);
        let words = std::array::from_fn(|r| &self.words[at(r) * self.row..][..self.row]);
        let tables = std::array::from_fn(|r| &self.tables[self.books[at(r)]]);
        assert!(x.len() == images * self.padded() && (1..=IMAGES).contains(&images));
        #[cfg(target_arch = "x86_64")]
        if Isa::active().name() == "avx512" {
            // SAFETY: the instruction set is there, and `x` has as many floats for each image as the words have indices.
            return unsafe { x86::products(self.bits, words, tables, x, images) };
        }
        portable(self.bits, words, tables, x, images)
    }
}

/// What the instructions do.
fn portable(
    bits: usize,
    words: [&[u32]; ROWS],
    tables: [&[f32; 1 << BITS]; ROWS],
    x: &[f32],
    images: usize,
) -> [[f32; IMAGES]; ROWS] {
    let per = 32 / bits;
    let mut sums = [[0.0; IMAGES]; ROWS];
    for (sums, (words, table)) in sums.iter_mut().zip(words.into_iter().zip(tables)) {
        for (sum, x) in sums.iter_mut().zip(x.chunks_exact(x.len() / images)) {
            for (i, x) in x.iter().enumerate() {
                let (block, t, lane) = (i / (LANES * per), i / LANES % per, i % LANES);
                let index = words[block * LANES + lane] >> (t * bits) & ((1 << bits) - 1);
                *sum += table[index as usize] * x;
            }
        }
    }
    sums
}

impl Kernel for Lookup {
    fn algorithm(&self) -> &'static str {
        "lookup"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        (IMAGES * self.padded()).next_multiple_of(16)
    }

    fn weight_bytes(&self) -> usize {
        (self.words.len() + self.tables.len() * (1 << BITS) + self.bias.len()) * 4
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (x, part) = (inputs.get(0), out.part().clone());
        let residual = self.epilogue.residual.then(|| inputs.get(1));
        let channels = part.channels.clone();
        let xs = &mut scratch[..part.pixels.len() * self.padded()];
        for (p, to) in part.pixels.clone().zip(xs.chunks_exact_mut(self.padded())) {
            let (to, rest) = to.split_at_mut(self.inputs);
            to.copy_from_slice(x.pixel(p));
            rest.fill(0.0);
        }
        for row in channels.clone().step_by(ROWS) {
            let rows = row..channels.end.min(row + ROWS);
            let sums = self.products(row, rows.len(), xs, part.pixels.len());
            for (row, sums) in rows.zip(sums) {
                for (p, sum) in part.pixels.clone().zip(sums) {
                    out.pixel(p)[row - channels.start] = sum + self.bias[row];
                }
            }
        }
        for p in part.pixels {
            self.epilogue.finish(channels.clone(), out.pixel(p), residual.map(|r| r.pixel(p)));
        }
        Ok(())
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BITS, IMAGES, LANES, ROWS};
    use std::arch::x86_64::*;

    /// # Safety
    /// AVX-512 F must be there, and `x` must have `32 / bits` floats for each word and image.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn products(
        bits: usize,
        words: [&[u32]; ROWS],
        tables: [&[f32; 1 << BITS]; ROWS],
        x: &[f32],
        images: usize,
    ) -> [[f32; IMAGES]; ROWS] {
        macro_rules! of_bits {
            ($($bits:literal)*) => {
                match (bits, images) {
                    $(($bits, 1) => rows::<$bits, 1>(words, tables, x),
                    ($bits, 2) => rows::<$bits, 2>(words, tables, x),
                    ($bits, 3) => rows::<$bits, 3>(words, tables, x),
                    ($bits, 4) => rows::<$bits, 4>(words, tables, x),)*
                    _ => unreachable!("at most {BITS} bits and {IMAGES} images"),
                }
            };
        }
        // SAFETY: the caller's promise.
        unsafe { of_bits!(1 2 3 4 5) }
    }

    /// # Safety
    /// As [`products`], for `N` images.
    #[target_feature(enable = "avx512f")]
    unsafe fn rows<const B: u32, const N: usize>(
        words: [&[u32]; ROWS],
        tables: [&[f32; 1 << BITS]; ROWS],
        x: &[f32],
    ) -> [[f32; IMAGES]; ROWS] {
        let (per, each) = (32 / B as usize, x.len() / N);
        let mut sums = [[_mm512_setzero_ps(); N]; ROWS];
        // SAFETY: a table has two vectors; the rest is the caller's promise.
        unsafe {
            let tables = tables.map(|t| [_mm512_loadu_ps(t.as_ptr()), _mm512_loadu_ps(t[LANES..].as_ptr())]);
            let mut x = x.as_ptr();
            for block in (0..words[0].len()).step_by(LANES) {
                let mut indices = words.map(|w| _mm512_loadu_si512(w.as_ptr().add(block).cast()));
                for _ in 0..per {
                    for r in 0..ROWS {
                        // bits above those of an index of the table do not count
                        let w = match B {
                            5 => _mm512_permutex2var_ps(tables[r][0], indices[r], tables[r][1]),
                            _ => _mm512_permutexvar_ps(indices[r], tables[r][0]),
                        };
                        for (n, sum) in sums[r].iter_mut().enumerate() {
                            *sum = _mm512_fmadd_ps(w, _mm512_loadu_ps(x.add(n * each)), *sum);
                        }
                        indices[r] = _mm512_srli_epi32::<B>(indices[r]);
                    }
                    x = x.add(LANES);
                }
            }
        }
        let mut done = [[0.0; IMAGES]; ROWS];
        for (done, sums) in done.iter_mut().zip(sums) {
            for (done, sum) in done.iter_mut().zip(sums) {
                *done = _mm512_reduce_add_ps(sum);
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_weight_is_looked_up(
            (bits, inputs, images) in (1..=BITS, 1usize..300, 1..=IMAGES),
            seed: u32,
        ) {
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 16) as usize
            };
            let indices: Vec<u8> = (0..ROWS * inputs).map(|_| (next() % (1 << bits)) as u8).collect();
            let row = inputs.div_ceil(LANES * (32 / bits)) * LANES;
            let words = pack(&indices, inputs, bits, row);
            let books: [[f32; 1 << BITS]; ROWS] = std::array::from_fn(|_| {
                let values: Vec<f32> = (0..1 << bits).map(|_| (next() % 64) as f32 - 31.0).collect();
                std::array::from_fn(|i| values[i % (1 << bits)])
            });
            let padded = row * (32 / bits);
            let x: Vec<f32> = (0..images * padded)
                .map(|i| if i % padded < inputs { (next() % 64) as f32 - 31.0 } else { 0.0 })
                .collect();
            let rows = || std::array::from_fn(|r| &words[r * row..][..row]);
            let tables = || std::array::from_fn(|r| &books[r]);
            let portable = portable(bits, rows(), tables(), &x, images);
            // small whole numbers: their sums are exact in any order
            for (r, n) in (0..ROWS).flat_map(|r| (0..images).map(move |n| (r, n))) {
                let product = |i: usize| books[r][usize::from(indices[r * inputs + i])] * x[n * padded + i];
                prop_assert_eq!(portable[r][n], (0..inputs).map(product).sum::<f32>());
            }
            #[cfg(target_arch = "x86_64")]
            if Isa::available().iter().any(|isa| isa.name() == "avx512") {
                // SAFETY: the instruction set is there, and `x` was made as long.
                let found = unsafe { x86::products(bits, rows(), tables(), &x, images) };
                prop_assert_eq!(found, portable);
            }
        }
    }
}
