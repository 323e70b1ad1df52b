//! Weights as codebooks and an index each, in memory and in the file: what both packed layers of `quant.kmeans` hold.

use crate::codebook::{Codebook, ends};
use crate::coding::symbols::{self, Form};
use crate::error::Error;
use crate::half16;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::tensor::tensor;
use cnn_core::{Param, Result, Tensor};
use std::collections::HashMap;

/// Values that a codebook holds at most.
pub const MOST_VALUES: usize = 256;

// flags in the file
const HALF: u8 = 1;
const ZERO: u8 = 2;
const BIAS: u8 = 4;
const HALF_BIAS: u8 = 8;
const GROUPS: u8 = 16;

/// Codebooks of at most 256 values and an index for each weight.
#[derive(Debug, Clone, PartialEq)]
pub struct CodebookWeights {
    shape: Vec<usize>,
    /// Where the rows (indices of the first axis) of each codebook end.
    ends: Vec<usize>,
    /// For each group of rows: zero first, if it occurs in any, then ascending.
    codebooks: Vec<Vec<f32>>,
    indices: Vec<u8>,
}

impl CodebookWeights {
    /// The different values of a tensor as its codebook; exact (a negative zero becomes zero).
    ///
    /// # Errors
    /// [`Error::TooManyValues`] for more than 256 different values, [`Error::CannotPack`] for NaN or infinity.
    pub fn new(weights: &Tensor) -> Result<CodebookWeights, Error> {
        let rows = weights.shape().first().copied().unwrap_or(1);
        CodebookWeights::with_groups(weights, vec![rows])
    }

    /// As [`CodebookWeights::new`], with a codebook for each group of neighbouring rows; `ends` are where they end, the number of rows
    /// the last.
    ///
    /// # Errors
    /// As [`CodebookWeights::new`].
    pub fn with_groups(weights: &Tensor, ends: Vec<usize>) -> Result<CodebookWeights, Error> {
        let zero = weights.iter().any(|&v| v == 0.0);
        let (mut codebooks, mut indices) = (Vec::new(), Vec::with_capacity(weights.len()));
        let mut rows = weights.outer_iter();
        let mut from = 0;
        for &end in &ends {
            let values: Vec<f32> =
                rows.by_ref().take(end - from).flat_map(|row| row.into_iter().copied()).collect();
            codebooks.push(index(&values, zero, &mut indices)?);
            from = end;
        }
        Ok(CodebookWeights { shape: weights.shape().to_vec(), ends, codebooks, indices })
    }

    /// The values of a parameter, grouped as its [`Codebook`] says if it has one.
    ///
    /// # Errors
    /// As [`CodebookWeights::new`].
    pub fn of(weight: &Param) -> Result<CodebookWeights, Error> {
        let codebook = weight.constraints().iter().find_map(|c| c.downcast_ref::<Codebook>());
        let Some(books) = codebook.map(Codebook::books) else { return CodebookWeights::new(weight.value()) };
        CodebookWeights::with_groups(weight.value(), ends(books))
    }

    /// The shape of the weights.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values of each codebook; zero first, if it occurs anywhere, then ascending.
    pub fn codebooks(&self) -> &[Vec<f32>] {
        &self.codebooks
    }

    /// The codebook of each row.
    pub fn books(&self) -> impl Iterator<Item = usize> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .enumerate()
            .flat_map(|(book, (from, &to))| std::iter::repeat_n(book, to - from))
    }

    /// The position in its codebook of each weight, in row-major order.
    pub fn indices(&self) -> &[u8] {
        &self.indices
    }

    /// Weights that are not zero.
    pub(crate) fn nonzeros(&self) -> u64 {
        let rows = self.indices.chunks((self.indices.len() / self.rows().max(1)).max(1)).zip(self.books());
        let of_row = |(row, book): (&[u8], usize)| {
            row.iter().filter(|&&i| self.codebooks[book][usize::from(i)] != 0.0).count() as u64
        };
        rows.map(of_row).sum()
    }

    /// The weights as floats.
    ///
    /// # Errors
    /// None in practice.
    pub fn decoded(&self) -> Result<Tensor> {
        let each = self.indices.len() / self.rows().max(1);
        let rows = self.indices.chunks(each.max(1)).zip(self.books());
        let values =
            rows.flat_map(|(row, book)| row.iter().map(move |&i| self.codebooks[book][usize::from(i)]));
        tensor(&self.shape, values.collect())
    }

    /// Bytes that the indices take in each form of the file; the shortest one is written.
    ///
    /// # Errors
    /// None in practice.
    pub fn sizes(&self) -> Result<Vec<(Form, usize)>> {
        symbols::sizes(self.rows(), self.alphabet(), &self.indices)
    }

    /// Values of the longest codebook.
    pub fn alphabet(&self) -> usize {
        self.codebooks.iter().map(Vec::len).max().unwrap_or(0)
    }

    fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Writes codebook, indices and the bias, whose length is the first size of the shape; not the shape.
    pub(crate) fn encode(&self, bias: Option<&[f32]>, out: &mut Encoder) -> Result<()> {
        let zero = self.codebooks.iter().any(|c| c.first() == Some(&0.0));
        let values: Vec<&[f32]> = self.codebooks.iter().map(|c| &c[usize::from(zero)..]).collect();
        let half = values.iter().all(|v| half16::all_half(v));
        let half_bias = bias.is_some_and(half16::all_half);
        let grouped = self.codebooks.len() > 1;
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.byte(
            flag(half, HALF)
                | flag(zero, ZERO)
                | flag(bias.is_some(), BIAS)
                | flag(half_bias, HALF_BIAS)
                | flag(grouped, GROUPS),
        );
        if grouped {
            out.uint(self.ends.len())?;
        }
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        for ((from, to), values) in starts.zip(&self.ends).zip(values) {
            if grouped {
                out.uint(to - from)?;
            }
            out.uint(values.len())?;
            half16::write(out, values, half);
        }
        symbols::encode(out, self.rows(), self.alphabet(), &self.indices)?;
        if let Some(bias) = bias {
            half16::write(out, bias, half_bias);
        }
        Ok(())
    }

    /// Reads what [`CodebookWeights::encode`] wrote.
    pub(crate) fn decode(
        shape: &[usize],
        from: &mut Decoder<'_>,
    ) -> Result<(CodebookWeights, Option<Vec<f32>>)> {
        let flags = from.byte()?;
        if flags >= 2 * GROUPS {
            return Err(cnn_core::Error::malformed(format!("unknown flags {flags:#x} of a codebook")));
        }
        let zero = flags & ZERO != 0;
        // once for the indices, once for the weights that are decoded from them
        let count = from.claim_shape(shape)?;
        from.claim(count)?;
        let groups = if flags & GROUPS == 0 { 1 } else { from.count(shape[0])? };
        let (mut ends, mut codebooks) = (Vec::new(), Vec::new());
        for _ in 0..groups {
            let start = ends.last().copied().unwrap_or(0);
            let rows = if flags & GROUPS == 0 { shape[0] } else { from.count(shape[0] - start)? };
            let values = from.count(MOST_VALUES - usize::from(zero))?;
            from.claim(values)?;
            let mut codebook = half16::read(from, values, flags & HALF != 0)?;
            if zero {
                codebook.insert(0, 0.0);
            }
            ends.push(start + rows);
            codebooks.push(codebook);
        }
        if count == 0 || codebooks.iter().any(Vec::is_empty) || ends.last() != Some(&shape[0]) {
            return Err(cnn_core::Error::malformed("a codebook layer without weights"));
        }
        let alphabet = codebooks.iter().map(Vec::len).max().unwrap_or(0);
        let indices = symbols::decode(from, shape[0], alphabet, count)?;
        let weights = CodebookWeights { shape: shape.to_vec(), ends, codebooks, indices };
        let rows = weights.indices.chunks(count / shape[0]).zip(weights.books());
        for (row, book) in rows {
            if row.iter().any(|&i| usize::from(i) >= weights.codebooks[book].len()) {
                return Err(cnn_core::Error::malformed("an index beyond its codebook"));
            }
        }
        let bias = match flags & BIAS {
            0 => None,
            _ => Some(half16::read(from, shape[0], flags & HALF_BIAS != 0)?),
        };
        Ok((weights, bias))
    }
}

/// The codebook of some values, whose positions in it are appended; with `zero` first, whether it occurs among them or not.
fn index(values: &[f32], zero: bool, indices: &mut Vec<u8>) -> Result<Vec<f32>, Error> {
    let plain = |v: f32| if v == 0.0 { 0.0 } else { v };
    let mut seen: HashMap<u32, u8> = zero.then_some((0, 0)).into_iter().collect();
    for &v in values {
        if !v.is_finite() {
            return Err(Error::CannotPack);
        }
        seen.insert(plain(v).to_bits(), 0);
        if seen.len() > MOST_VALUES {
            return Err(Error::TooManyValues { limit: MOST_VALUES });
        }
    }
    let mut codebook: Vec<f32> = seen.keys().map(|&bits| f32::from_bits(bits)).collect();
    codebook.sort_by(|a, b| (*a != 0.0).cmp(&(*b != 0.0)).then(a.total_cmp(b)));
    seen.extend(codebook.iter().enumerate().map(|(i, v)| (v.to_bits(), i as u8)));
    indices.extend(values.iter().map(|&v| seen.get(&plain(v).to_bits()).copied().unwrap_or(0)));
    Ok(codebook)
}
