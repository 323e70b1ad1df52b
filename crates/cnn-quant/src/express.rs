//! The packed layers in operators of the standard, for export.
//!
//! - A codebook: `Gather(values, Cast(indices))` are the weights; with several codebooks, one after the other in `values`, the start of
//!   each row's is added to its indices. Indices are unsigned bytes, or four bits each for at most 16
//!   values where four-bit constants are allowed. Entropy coding has no place in the standard.
//! - Signs: `Clip(2^100 (x - t) + 1, -1, 1)`, which the standard's `Sign` is not, being 0 at `t`; the weights as a codebook of -1 and 1. Sums
//!   are scaled afterwards: until then all numbers are whole.
//! - 8 bits: the input through `QuantizeLinear` and back, weights and bias as integers through `DequantizeLinear`: the form that
//!   runtimes recognise and compute in integers.

use crate::codebook_weights::CodebookWeights;
use crate::grid::Grid;
use crate::int8_weights::Int8Weights;
use crate::xnor_weights::XnorWeights;
use cnn_core::express::{Attribute, ElementType, Express, Numbers, Value};
use cnn_core::{Param, Result};

/// Codebooks up to this length have indices of four bits.
const FOUR_BITS: usize = 16;

/// About the bytes that `Cast` and `Gather` themselves, and the names of their constants, take in a file.
const OPERATORS: usize = 160;

/// Input, weights and bias of a layer under a codebook. Weights so few that the codebook would not pay are plain floats.
pub fn codebook(at: &mut Express<'_>, weights: &CodebookWeights, bias: Option<&Param>) -> Result<Vec<Value>> {
    let (codebooks, indices) = (weights.codebooks(), weights.indices());
    let values = codebooks.concat();
    let four_bit = at.four_bit && weights.alphabet() <= FOUR_BITS;
    let mut bytes = if four_bit { indices.len().div_ceil(2) } else { indices.len() };
    bytes += if codebooks.len() > 1 { 4 * weights.shape()[0] + OPERATORS } else { 0 };
    let mut inputs = vec![at.input(0)?];
    if bytes + 4 * values.len() + OPERATORS > 4 * indices.len() {
        inputs.push(at.tensor("weight", &weights.decoded()?)?);
    } else {
        let numbers = if four_bit { Numbers::U4(indices.to_vec()) } else { Numbers::U8(indices.to_vec()) };
        let values = at.constant("codebook", &[values.len()], Numbers::F32(values))?;
        let indices = at.constant("indices", weights.shape(), numbers)?;
        let mut wide = at.operator("Cast", &[indices], vec![("to", Attribute::Type(ElementType::I32))]);
        if codebooks.len() > 1 {
            let starts =
                codebooks.iter().scan(0, |next, c| Some(std::mem::replace(next, *next + c.len() as i32)));
            let starts: Vec<i32> = starts.collect();
            let of_rows = weights.books().map(|book| starts[book]).collect();
            let mut shape = vec![1; weights.shape().len()];
            shape[0] = weights.shape()[0];
            let of_rows = at.constant("codebook_starts", &shape, Numbers::I32(of_rows))?;
            wide = at.operator("Add", &[wide, of_rows], Vec::new());
        }
        inputs.push(at.operator("Gather", &[values, wide], Vec::new()));
    }
    if let Some(bias) = bias {
        inputs.push(at.param("bias", bias)?);
    }
    Ok(inputs)
}

/// The signs of an input with so many thresholds: what is not negative when the threshold is taken from it is 1. NaN stays NaN, which is -1
/// for the layer, and a negative difference of less than `2^-99`, which only numbers next to zero have, becomes one between -1 and 1.
pub fn signs(at: &mut Express<'_>, thresholds: &[f32], rank: usize) -> Result<Value> {
    const LARGE: f32 = (1u128 << 100) as f32;
    let thresholds =
        at.constant("thresholds", &of_channels(thresholds.len(), rank), Numbers::F32(thresholds.to_vec()))?;
    let numbers = [("large", LARGE), ("one", 1.0), ("minus_one", -1.0)];
    let [large, one, minus_one] =
        numbers.map(|(name, value)| at.constant(name, &[], Numbers::F32(vec![value])));
    let x = at.input(0)?;
    let x = at.operator("Sub", &[x, thresholds], Vec::new());
    let (large, one) = (large?, one?);
    let x = at.operator("Mul", &[x, large], Vec::new());
    let x = at.operator("Add", &[x, one], Vec::new());
    Ok(at.operator("Clip", &[x, minus_one?, one], Vec::new()))
}

/// Input and weights of a layer of signs.
pub fn xnor(at: &mut Express<'_>, weights: &XnorWeights) -> Result<Vec<Value>> {
    let x = signs(at, weights.thresholds(), weights.shape().len())?;
    let bits = weights.bits().to_vec();
    let numbers = if at.four_bit { Numbers::U4(bits) } else { Numbers::U8(bits) };
    let values = at.constant("codebook", &[2], Numbers::F32(vec![-1.0, 1.0]))?;
    let bits = at.constant("indices", weights.shape(), numbers)?;
    let wide = at.operator("Cast", &[bits], vec![("to", Attribute::Type(ElementType::I32))]);
    Ok(vec![x, at.operator("Gather", &[values, wide], Vec::new())])
}

/// The sums of a layer of signs, scaled, and the bias.
pub fn scaled(at: &mut Express<'_>, sums: Value, weights: &XnorWeights) -> Result<Value> {
    let (scales, bias) = weights.ending();
    let shape = of_channels(scales.len(), weights.shape().len());
    let scales = at.constant("scales", &shape, Numbers::F32(scales))?;
    let y = at.operator("Mul", &[sums, scales], Vec::new());
    if bias.iter().all(|&b| b == 0.0) {
        return Ok(y);
    }
    let bias = at.constant("bias", &shape, Numbers::F32(bias))?;
    Ok(at.operator("Add", &[y, bias], Vec::new()))
}

/// The shape of a number for each channel of a value of this rank.
fn of_channels(channels: usize, rank: usize) -> Vec<usize> {
    let mut shape = vec![1; rank];
    if let Some(size) = shape.get_mut(1) {
        *size = channels;
    }
    shape
}

/// Input, weights and bias of an 8-bit layer, each as floats made of integers.
///
/// Weights are unsigned with a zero point for each output channel, 128 on the symmetric grid: the same byte a weight as signed
/// ones, but processors without an instruction for it saturate sums of products of unsigned and signed bytes at 16 bits.
pub fn int8(at: &mut Express<'_>, weights: &Int8Weights) -> Result<Vec<Value>> {
    let (input, grids) = (weights.input(), weights.grids());
    let scale = at.constant("input_scale", &[], Numbers::F32(vec![input.step]))?;
    let zero = at.constant("input_zero", &[], Numbers::U8(vec![zero_point(&input)]))?;
    let mut x = at.input(0)?;
    if input.bits() < 8 {
        // bytes hold more levels than the grid has
        let ends = [("input_low", input.value(input.low)), ("input_high", input.value(input.high))];
        let [low, high] = ends.map(|(name, value)| at.constant(name, &[], Numbers::F32(vec![value])));
        x = at.operator("Clip", &[x, low?, high?], Vec::new());
    }
    // rounds to even and saturates, as `Grid::level` does
    let x = at.operator("QuantizeLinear", &[x, scale, zero], Vec::new());
    let mut inputs = vec![at.operator("DequantizeLinear", &[x, scale, zero], Vec::new())];

    let channels = [grids.len()];
    let rows = || weights.levels().chunks(weights.levels().len() / grids.len().max(1)).zip(grids);
    // between 0 and 255 since `low <= level <= high <= low + 255`
    let bytes =
        rows().flat_map(|(row, g)| row.iter().map(|&l| (l + i16::from(zero_point(g))) as u8)).collect();
    let bytes = at.constant("weight", weights.shape(), Numbers::U8(bytes))?;
    let scales =
        at.constant("weight_scale", &channels, Numbers::F32(grids.iter().map(|g| g.step).collect()))?;
    let zeros = at.constant("weight_zero", &channels, Numbers::U8(grids.iter().map(zero_point).collect()))?;
    let each_channel = || vec![("axis", Attribute::Int(0))];
    inputs.push(at.operator("DequantizeLinear", &[bytes, scales, zeros], each_channel()));

    let Some(bias) = weights.bias() else { return Ok(inputs) };
    let scales: Vec<f32> = grids.iter().map(|g| input.step * g.step).collect();
    // a runtime adds the bias to the sum in 32 bits, while `Int8Weights::finish` has 64
    let fits =
        rows().zip(bias).all(|((row, _), &b)| most(row, &input) + i64::from(b).abs() <= i64::from(i32::MAX));
    inputs.push(match fits {
        true => {
            let bias = at.constant("bias", &channels, Numbers::I32(bias.to_vec()))?;
            let scales = at.constant("bias_scale", &channels, Numbers::F32(scales))?;
            at.operator("DequantizeLinear", &[bias, scales], each_channel())
        }
        // of floats, it keeps the whole layer in floats
        false => {
            let values = bias.iter().zip(scales).map(|(&b, s)| b as f32 * s).collect();
            at.constant("bias", &channels, Numbers::F32(values))?
        }
    });
    Ok(inputs)
}

/// Where level 0 is among the bytes: `z`, and 128 on the symmetric grid.
fn zero_point(grid: &Grid) -> u8 {
    (255 - grid.high) as u8
}

/// A bound of the absolute sum of products with any input levels.
fn most(row: &[i16], input: &Grid) -> i64 {
    let largest = i64::from(input.high.max(-input.low));
    row.iter().map(|&l| i64::from(l).abs()).sum::<i64>() * largest
}
