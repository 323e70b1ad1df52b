//! Convolutions.

use super::context::Context;
use super::window::Geometry;
use crate::op::Refusal;
use crate::slot::Slot;
use cnn_core::Tensor;
use cnn_core::layers::{Conv2d, ConvOptions};
use cnn_core::tensor::{elements, tensor};

/// `Conv` with constant weights, over one or two axes of positions.
pub(super) fn conv(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (mut x, shape) = at.image(0)?;
    let weight = at.weights(1, "weights")?;
    let bias = match at.inputs.get(2) {
        Some(_) => Some(at.weights(2, "a bias")?),
        None => None,
    };
    let name = at.name_by_weights(1);
    let axes = shape.len().saturating_sub(2);
    if !(1..=2).contains(&axes) {
        return Err(Refusal::unsupported(format!("a convolution over {axes} axes of positions")));
    }
    if weight.ndim() != shape.len() {
        return Err(Refusal::invalid(format!("weights of shape {:?} for data of {shape:?}", weight.shape())));
    }
    if weight.is_empty() {
        return Err(Refusal::invalid(format!("weights of shape {:?}, which has none", weight.shape())));
    }
    let (mut image, mut filters) = (shape.clone(), weight.shape().to_vec());
    if axes == 1 {
        image.insert(2, 1);
        filters.insert(2, 1);
        x = at.drafts.reshape(&format!("{name}.in"), x, &image)?;
    }
    let geometry = Geometry::read(&at.op, axes, [image[2], image[3]], Some([filters[2], filters[3]]))?;
    let groups = usize::try_from(at.op.int("group", 1)?).ok().filter(|&g| g > 0 && g <= image[1]);
    let groups = groups.ok_or_else(|| Refusal::invalid("the number of groups"))?;
    let options =
        ConvOptions { stride: geometry.stride, pad: geometry.pad, dilation: geometry.dilation, groups };
    let weight = shaped(weight, &filters)?;
    let mut y = at.drafts.push(&name, Conv2d::new(weight, bias, options)?, &[x])?;
    if axes == 1 {
        let mut shape = at.drafts.shape(y).to_vec();
        shape.remove(2);
        y = at.drafts.reshape(&format!("{name}.out"), y, &shape)?;
    }
    Ok(Context::one(y))
}

/// The same values in another shape of as many.
pub(super) fn shaped(t: Tensor, shape: &[usize]) -> Result<Tensor, Refusal> {
    debug_assert_eq!(t.len(), elements(shape));
    let (values, _) = t.into_raw_vec_and_offset();
    Ok(tensor(shape, values)?)
}
