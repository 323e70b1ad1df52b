//! Products with constant matrices.

use super::context::{Context, floats};
use super::conv::shaped;
use crate::op::Refusal;
use crate::slot::Slot;
use cnn_core::Tensor;
use cnn_core::layers::{AdaptiveAvgPool, Arithmetic, ArithmeticOperator, Conv2d, ConvOptions, Linear};
use cnn_core::tensor::tensor;

fn transposed(t: &Tensor) -> Tensor {
    t.t().as_standard_layout().into_owned()
}

/// `Gemm`: `alpha A B + beta C` for `A` from the image and a constant `B`.
pub(super) fn gemm(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let b = at.weights(1, "a matrix")?;
    let name = at.name_by_weights(1);
    if shape.len() != 2 || b.ndim() != 2 {
        return Err(Refusal::invalid(format!("matrices of shapes {shape:?} and {:?}", b.shape())));
    }
    if at.op.flag("transA", false)? {
        return Err(Refusal::unsupported("transA, which mixes the images of a batch"));
    }
    let alpha = at.op.float("alpha", 1.0)?;
    let beta = at.op.float("beta", 1.0)?;
    let mut weight = if at.op.flag("transB", false)? { b } else { transposed(&b) };
    if alpha != 1.0 {
        weight.mapv_inplace(|w| w * alpha);
    }
    let outputs = weight.shape()[0];
    let mut bias = None;
    let mut added = None;
    match at.inputs.get(2) {
        None => {}
        Some(Slot::Constant(c, _)) => {
            let c = floats(c, "a bias")?;
            let fits = c.ndim() <= 2 && (c.ndim() < 2 || c.shape()[0] == 1);
            let row: Vec<f32> = c.iter().map(|v| v * beta).collect();
            bias = match row.len() {
                n if fits && n == outputs => Some(tensor(&[outputs], row)?),
                1 => Some(tensor(&[outputs], vec![row[0]; outputs])?),
                _ if c.ndim() == 2 => {
                    return Err(Refusal::unsupported("a bias that differs between the images of a batch"));
                }
                _ => {
                    return Err(Refusal::invalid(format!(
                        "a bias of shape {:?} for {outputs} outputs",
                        c.shape()
                    )));
                }
            };
        }
        Some(_) => added = Some(at.inputs.dynamic(2)?),
    }
    let mut y = at.drafts.push(&name, Linear::new(weight, bias)?, &[x])?;
    if let Some(mut added) = added {
        if beta != 1.0 {
            added = at.with_number(&format!("{name}.beta"), ArithmeticOperator::Mul, beta, false, added)?;
        }
        let layer = Arithmetic { operator: ArithmeticOperator::Add };
        y = at.drafts.push(&format!("{name}.add"), layer, &[y, added])?;
    }
    Ok(Context::one(y))
}

/// `MatMul` with a constant on one side. Over more than two axes it is a convolution with 1 x 1 kernels, or a
/// mean of bins.
pub(super) fn matmul(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let from_left = matches!(at.inputs.get(0), Some(Slot::Constant(..)));
    let (constant, dynamic) = if from_left { (0, 1) } else { (1, 0) };
    if !from_left && !matches!(at.inputs.get(1), Some(Slot::Constant(..))) {
        return Err(Refusal::unsupported("a product of two matrices that are computed from the image"));
    }
    let (x, shape) = at.image(dynamic)?;
    let matrix = at.weights(constant, "a matrix")?;
    let name = at.name_by_weights(constant);
    let rank = shape.len();
    if matrix.ndim() != 2 || rank < 2 {
        return Err(Refusal::unsupported(format!("a product of shapes {:?} and {shape:?}", matrix.shape())));
    }
    // rows are outputs, columns inputs
    let weight = if from_left { matrix } else { transposed(&matrix) };
    let (outputs, features) = (weight.shape()[0], weight.shape()[1]);
    let axis = if from_left { rank - 2 } else { rank - 1 };
    if shape[axis] != features {
        return Err(Refusal::invalid(format!("a product of shapes {:?} and {shape:?}", weight.shape())));
    }
    if axis == 0 {
        return Err(Refusal::unsupported("a product that mixes the images of a batch"));
    }
    if rank == 2 {
        return Ok(Context::one(at.drafts.push(&name, Linear::new(weight, None)?, &[x])?));
    }
    if rank == 4 && axis >= 2 && is_averaging(&weight) {
        let mut size = [shape[2], shape[3]];
        size[axis - 2] = outputs;
        return Ok(Context::one(at.drafts.push(&name, AdaptiveAvgPool { size }, &[x])?));
    }
    // the summed axis becomes the channels of an image, the others its positions
    let others: Vec<usize> = (1..rank).filter(|&a| a != axis).collect();
    let order: Vec<usize> = [0, axis].into_iter().chain(others.iter().copied()).collect();
    let mut y = at.transpose(&format!("{name}.in"), x, &order)?;
    let positions: usize = others.iter().map(|&a| shape[a]).product();
    y = at.drafts.reshape(&format!("{name}.image"), y, &[1, features, positions, 1])?;
    let filters = shaped(weight, &[outputs, features, 1, 1])?;
    y = at.drafts.push(&name, Conv2d::new(filters, None, ConvOptions::default())?, &[y])?;
    let moved: Vec<usize> = [1, outputs].into_iter().chain(others.iter().map(|&a| shape[a])).collect();
    y = at.drafts.reshape(&format!("{name}.back"), y, &moved)?;
    let mut back = vec![0; rank];
    for (to, &from) in order.iter().enumerate() {
        back[from] = to;
    }
    Ok(Context::one(at.transpose(&format!("{name}.out"), y, &back)?))
}

/// True for the matrix of means of the bins `floor(i n / m) .. ceil((i + 1) n / m)`: an adaptive average
/// pool.
fn is_averaging(matrix: &Tensor) -> bool {
    let (bins, size) = (matrix.shape()[0], matrix.shape()[1]);
    bins <= size
        && matrix.outer_iter().enumerate().all(|(i, row)| {
            let (from, to) = (i * size / bins, ((i + 1) * size).div_ceil(bins));
            let share = 1.0 / (to - from) as f32;
            row.iter().enumerate().all(|(j, &v)| v == if (from..to).contains(&j) { share } else { 0.0 })
        })
}
