//! Geometry that convolutions and pools share: kernel, steps, padding, dilation.

use crate::op::{Op, Refusal};

/// How a kernel moves over an image. One-dimensional data are images of height 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Top, left, bottom, right.
    pub pad: [usize; 4],
}

/// Largest kernel, step, padding or dilation.
const LARGEST: i64 = 1 << 24;

/// The sizes of an attribute, for two axes.
fn pair(op: &Op<'_>, name: &str, axes: usize, neutral: usize) -> Result<[usize; 2], Refusal> {
    let Some(list) = op.ints(name)? else { return Ok([neutral; 2]) };
    let size = |&s: &i64| usize::try_from(s).ok().filter(|_| s > 0 && s <= LARGEST);
    match list.iter().map(size).collect::<Option<Vec<_>>>().as_deref() {
        Some(&[a, b]) if axes == 2 => Ok([a, b]),
        Some(&[a]) if axes == 1 => Ok([neutral, a]),
        _ => {
            Err(Refusal::invalid(format!("the attribute `{name}` is {list:?} for {axes} axes of positions")))
        }
    }
}

impl Geometry {
    /// Reads the attributes for an image of height and width `size`; the kernel from the weights, if there
    /// are any.
    pub fn read(
        op: &Op<'_>,
        axes: usize,
        size: [usize; 2],
        weights: Option<[usize; 2]>,
    ) -> Result<Geometry, Refusal> {
        let given = op.has("kernel_shape").then(|| pair(op, "kernel_shape", axes, 1)).transpose()?;
        let kernel = match (weights, given) {
            (Some(kernel), Some(given)) if kernel != given => {
                return Err(Refusal::invalid(format!("kernel_shape {given:?}, but weights of {kernel:?}")));
            }
            (Some(kernel), _) | (None, Some(kernel)) => kernel,
            (None, None) => return Err(Refusal::invalid("the attribute `kernel_shape` is missing")),
        };
        let stride = pair(op, "strides", axes, 1)?;
        let dilation = pair(op, "dilations", axes, 1)?;
        let mut geometry = Geometry { kernel, stride, dilation, pad: [0; 4] };
        match op.text("auto_pad", "NOTSET")? {
            "NOTSET" | "" => geometry.pad = explicit_pad(op, axes)?,
            "VALID" => {}
            "SAME_UPPER" => geometry.pad_to_same(size, true)?,
            "SAME_LOWER" => geometry.pad_to_same(size, false)?,
            other => return Err(Refusal::invalid(format!("auto_pad is `{other}`"))),
        }
        Ok(geometry)
    }

    /// How far the kernel reaches along an axis.
    pub fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1).saturating_mul(self.dilation[axis]).saturating_add(1)
    }

    /// Pads so that the output has `ceil(size / stride)` positions.
    fn pad_to_same(&mut self, size: [usize; 2], more_behind: bool) -> Result<(), Refusal> {
        for axis in [0, 1] {
            let outputs = size[axis].div_ceil(self.stride[axis]);
            let covered =
                outputs.saturating_sub(1).saturating_mul(self.stride[axis]).saturating_add(self.reach(axis));
            let total = covered.saturating_sub(size[axis]);
            if total > LARGEST as usize {
                return Err(Refusal::invalid(format!("a padding of {total}")));
            }
            let (less, more) = (total / 2, total - total / 2);
            let (before, after) = if more_behind { (less, more) } else { (more, less) };
            (self.pad[axis], self.pad[axis + 2]) = (before, after);
        }
        Ok(())
    }

    /// Positions that the kernel takes along an axis, rounded down or up; with the rule that the last one
    /// must begin inside the image or the padding before it.
    pub fn outputs(&self, axis: usize, size: usize, ceil: bool) -> Result<usize, Refusal> {
        let padded = size.saturating_add(self.pad[axis]).saturating_add(self.pad[axis + 2]);
        let Some(room) = padded.checked_sub(self.reach(axis)) else {
            return Err(Refusal::invalid(format!(
                "a kernel of {:?} with dilation {:?} does not fit an axis of {size} padded by {:?}",
                self.kernel, self.dilation, self.pad
            )));
        };
        let stride = self.stride[axis];
        if !ceil {
            return Ok(room / stride + 1);
        }
        let outputs = room.div_ceil(stride) + 1;
        Ok(if (outputs - 1) * stride >= size + self.pad[axis] { outputs - 1 } else { outputs })
    }
}

fn explicit_pad(op: &Op<'_>, axes: usize) -> Result<[usize; 4], Refusal> {
    let Some(list) = op.ints("pads")? else { return Ok([0; 4]) };
    if list.iter().any(|&p| p < 0) {
        return Err(Refusal::unsupported(format!("negative padding {list:?}")));
    }
    let size = |&p: &i64| usize::try_from(p).ok().filter(|_| p <= LARGEST);
    match list.iter().map(size).collect::<Option<Vec<_>>>().as_deref() {
        Some(&[top, left, bottom, right]) if axes == 2 => Ok([top, left, bottom, right]),
        Some(&[left, right]) if axes == 1 => Ok([0, left, 0, right]),
        _ => Err(Refusal::invalid(format!("the attribute `pads` is {list:?} for {axes} axes of positions"))),
    }
}
