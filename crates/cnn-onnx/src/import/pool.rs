//! Pooling.

use super::context::{Context, LONGEST};
use super::window::Geometry;
use crate::op::Refusal;
use crate::slot::Slot;
use cnn_core::layers::{
    ArithmeticConstant, ArithmeticOperator, AvgPool2d, GlobalAvgPool, MaxPool2d, Mean, Pad, Window,
};
use cnn_core::tensor::tensor;

/// `MaxPool` and `AveragePool` over one or two axes of positions.
pub(super) fn pool(at: &mut Context<'_>, more_outputs_used: bool) -> Result<Vec<Slot>, Refusal> {
    let (mut x, shape) = at.image(0)?;
    let name = at.name();
    let axes = shape.len().saturating_sub(2);
    if !(1..=2).contains(&axes) {
        return Err(Refusal::unsupported(format!("a pool over {axes} axes of positions")));
    }
    if more_outputs_used {
        return Err(Refusal::unsupported("the positions of the maxima"));
    }
    let mut image = shape;
    if axes == 1 {
        image.insert(2, 1);
        x = at.drafts.reshape(&format!("{name}.in"), x, &image)?;
    }
    let size = [image[2], image[3]];
    let geometry = Geometry::read(&at.op, axes, size, None)?;
    let ceil_mode = at.op.flag("ceil_mode", false)?;
    let mut y = match at.op.kind() {
        "MaxPool" => max_pool(at, &name, x, size, geometry, ceil_mode)?,
        _ => average_pool(at, &name, x, size, geometry, ceil_mode)?,
    };
    if axes == 1 {
        let mut shape = at.drafts.shape(y).to_vec();
        shape.remove(2);
        y = at.drafts.reshape(&format!("{name}.out"), y, &shape)?;
    }
    Ok(Context::one(y))
}

/// The core's pools ask for undilated kernels and less padding than kernel.
fn is_plain(g: &Geometry) -> bool {
    g.dilation == [1, 1] && (0..4).all(|side| g.pad[side] < g.kernel[side % 2])
}

fn max_pool(
    at: &mut Context<'_>,
    name: &str,
    x: usize,
    size: [usize; 2],
    g: Geometry,
    ceil_mode: bool,
) -> Result<usize, Refusal> {
    if is_plain(&g) {
        let window = Window { kernel: g.kernel, stride: g.stride, pad: g.pad, ceil_mode };
        return at.drafts.push(name, MaxPool2d { window }, &[x]);
    }
    // padded by what no maximum is, the positions of each window side by side, and those pooled
    let outputs = outputs(&g, size, ceil_mode)?;
    let pad = reached(&g, size, outputs);
    let y = match pad {
        [0, 0, 0, 0] => x,
        pad => at.drafts.push(&format!("{name}.pad"), Pad { pad, value: f32::NEG_INFINITY }, &[x])?,
    };
    let y = side_by_side(at, name, y, &Geometry { pad: [0; 4], ..g }, outputs)?;
    let window = Window { kernel: g.kernel, stride: g.kernel, pad: [0; 4], ceil_mode: false };
    at.drafts.push(name, MaxPool2d { window }, &[y])
}

fn outputs(g: &Geometry, size: [usize; 2], ceil_mode: bool) -> Result<[usize; 2], Refusal> {
    Ok([g.outputs(0, size[0], ceil_mode)?, g.outputs(1, size[1], ceil_mode)?])
}

/// The padding with as much behind as the last windows reach, which may be more or less than was asked for.
fn reached(g: &Geometry, size: [usize; 2], outputs: [usize; 2]) -> [usize; 4] {
    let behind = |axis: usize| {
        let end = (outputs[axis] - 1).saturating_mul(g.stride[axis]).saturating_add(g.reach(axis));
        end.saturating_sub(g.pad[axis] + size[axis])
    };
    [g.pad[0], g.pad[1], behind(0), behind(1)]
}

/// The positions that each window reads, one window after the other; zeros outside the image.
fn side_by_side(
    at: &mut Context<'_>,
    name: &str,
    mut x: usize,
    g: &Geometry,
    outputs: [usize; 2],
) -> Result<usize, Refusal> {
    for axis in [0, 1] {
        let size = at.drafts.shape(x)[axis + 2];
        if outputs[axis].checked_mul(g.kernel[axis]).is_none_or(|n| n > LONGEST) {
            return Err(Refusal::invalid("windows with too many positions"));
        }
        let position = |o: usize, k: usize| {
            (o * g.stride[axis] + k * g.dilation[axis]).checked_sub(g.pad[axis]).filter(|&p| p < size)
        };
        let kernel = g.kernel[axis];
        let map = (0..outputs[axis] * kernel).map(|i| position(i / kernel, i % kernel));
        x = at.map_axis(&format!("{name}.windows{axis}"), x, axis + 2, map)?;
    }
    Ok(x)
}

fn average_pool(
    at: &mut Context<'_>,
    name: &str,
    x: usize,
    size: [usize; 2],
    g: Geometry,
    ceil_mode: bool,
) -> Result<usize, Refusal> {
    let count_include_pad = at.op.flag("count_include_pad", false)?;
    if is_plain(&g) {
        let window = Window { kernel: g.kernel, stride: g.stride, pad: g.pad, ceil_mode };
        return at.drafts.push(name, AvgPool2d { window, count_include_pad }, &[x]);
    }
    let outputs = outputs(&g, size, ceil_mode)?;
    let y = side_by_side(at, name, x, &g, outputs)?;
    let window = Window { kernel: g.kernel, stride: g.kernel, pad: [0; 4], ceil_mode: false };
    let y = at.drafts.push(name, AvgPool2d { window, count_include_pad: true }, &[y])?;
    // by how many positions of the window count the sum is divided, along each axis
    let counted = |axis: usize| -> Vec<usize> {
        let (low, high) = match count_include_pad {
            true => (0, g.pad[axis] + size[axis] + g.pad[axis + 2]),
            false => (g.pad[axis], g.pad[axis] + size[axis]),
        };
        let within = |o: usize| {
            (0..g.kernel[axis])
                .filter(|k| (low..high).contains(&(o * g.stride[axis] + k * g.dilation[axis])))
                .count()
        };
        (0..outputs[axis]).map(within).collect()
    };
    let (rows, columns) = (counted(0), counted(1));
    let window = (g.kernel[0] * g.kernel[1]) as f32;
    let factors: Vec<f32> =
        rows.iter().flat_map(|r| columns.iter().map(move |c| window / (r * c) as f32)).collect();
    if factors.iter().all(|&f| f == 1.0) {
        return Ok(y);
    }
    let factors = tensor(&[1, 1, outputs[0], outputs[1]], factors)?;
    let layer = ArithmeticConstant::new(ArithmeticOperator::Mul, factors, false)?;
    at.drafts.push(&format!("{name}.counts"), layer, &[y])
}

/// `GlobalAveragePool` and `GlobalMaxPool`.
pub(super) fn global(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    let name = at.name();
    let y = match (at.op.kind(), &shape[..]) {
        ("GlobalAveragePool", [_, _, _, _]) => at.drafts.push(&name, GlobalAvgPool, &[x])?,
        ("GlobalAveragePool", [_, _, _, ..]) => {
            at.drafts.push(&name, Mean::new((2..shape.len()).collect(), true)?, &[x])?
        }
        (_, &[_, _, h, w]) => largest(at, &name, x, [h, w])?,
        (_, &[_, c, w]) => {
            let y = at.drafts.reshape(&format!("{name}.in"), x, &[1, c, 1, w])?;
            let y = largest(at, &name, y, [1, w])?;
            at.drafts.reshape(&format!("{name}.out"), y, &[1, c, 1])?
        }
        _ => return Err(Refusal::unsupported(format!("a pool over {shape:?}"))),
    };
    Ok(Context::one(y))
}

/// The largest value of each channel.
pub(super) fn largest(
    at: &mut Context<'_>,
    name: &str,
    x: usize,
    size: [usize; 2],
) -> Result<usize, Refusal> {
    let window = Window { kernel: size, stride: size, pad: [0; 4], ceil_mode: false };
    at.drafts.push(name, MaxPool2d { window }, &[x])
}
