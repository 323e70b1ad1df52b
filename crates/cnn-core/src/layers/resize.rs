//! Resizing of images.

use super::one;
use crate::express::{Attribute, Express, Numbers, Value};
use crate::layer::Layer;
use crate::model_file::{Decoder, Encoder};
use crate::ops::resize::{
    NearestRounding, ResizeCoordinates, ResizeMode, Taps, resize, resize_backward, taps,
};
use crate::tensor::{Tensor, nchw, slice, slice_mut, zeros};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};

/// Makes images `[n, c, h, w]` larger or smaller, with the definitions of the ONNX standard (operator `Resize`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resize {
    /// How values between positions are made.
    pub mode: ResizeMode,
    /// Where output positions lie in the input.
    pub coordinates: ResizeCoordinates,
    /// Height and width of the output.
    pub size: [usize; 2],
    /// Output by input size, as it enters the coordinates; the size may be its product rounded down.
    pub scale: [f32; 2],
}

const COORDINATES: [(ResizeCoordinates, &str); 4] = [
    (ResizeCoordinates::HalfPixel, "half_pixel"),
    (ResizeCoordinates::PytorchHalfPixel, "pytorch_half_pixel"),
    (ResizeCoordinates::AlignCorners, "align_corners"),
    (ResizeCoordinates::Asymmetric, "asymmetric"),
];

const ROUNDINGS: [(NearestRounding, &str); 4] = [
    (NearestRounding::PreferFloor, "round_prefer_floor"),
    (NearestRounding::PreferCeil, "round_prefer_ceil"),
    (NearestRounding::Floor, "floor"),
    (NearestRounding::Ceil, "ceil"),
];

impl Resize {
    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let mode = match from.byte()? {
            0 => ResizeMode::Linear,
            1 => ResizeMode::Cubic(from.float()?),
            n => match ROUNDINGS.get(usize::from(n) - 2) {
                Some((rounding, _)) => ResizeMode::Nearest(*rounding),
                None => return Err(Error::malformed(format!("unknown mode {n} of resizing"))),
            },
        };
        let at = usize::from(from.byte()?);
        let Some(&(coordinates, _)) = COORDINATES.get(at) else {
            return Err(Error::malformed(format!("unknown coordinates {at} of resizing")));
        };
        let size = [from.uint()?, from.uint()?];
        Ok(Box::new(Resize { mode, coordinates, size, scale: [from.float()?, from.float()?] }))
    }

    /// Height and width of an input.
    fn check(&self, shape: &[usize]) -> Result<[usize; 2]> {
        let [_, _, h, w] = nchw(shape)?;
        let sizes = [h, w, self.size[0], self.size[1]];
        let scaled = self.scale.iter().all(|&s| s.is_finite() && s > 0.0);
        match scaled && sizes.iter().all(|&s| s > 0 && s <= 1 << 24) {
            true => Ok([h, w]),
            false => Err(Error::Shape(format!("{shape:?} to {:?} by {:?}", self.size, self.scale))),
        }
    }

    /// Taps of rows and columns.
    fn taps(&self, from: [usize; 2]) -> [Taps; 2] {
        [0, 1].map(|i| taps(from[i], self.size[i], self.scale[i], self.mode, self.coordinates))
    }
}

/// The scale from which the standard computes the size `outputs` as `floor(inputs * scale)`.
fn exact_scale(inputs: usize, outputs: usize, scale: f32) -> Option<f32> {
    // a quotient of two sizes may be rounded down, and its product then be a little less than the size
    [scale, scale.next_up()].into_iter().find(|s| (inputs as f32 * s).floor() == outputs as f32)
}

impl Layer for Resize {
    fn kind(&self) -> &'static str {
        "resize"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let shape = one(inputs)?;
        self.check(shape)?;
        Ok(vec![shape[0], shape[1], self.size[0], self.size[1]])
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        let from = self.check(x.shape())?;
        let [rows, columns] = self.taps(from);
        let mut y = zeros(&self.output_shape(&[x.shape()])?);
        resize(slice(x)?, from, &rows, &columns, slice_mut(&mut y)?);
        Ok(y)
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        match self.mode {
            ResizeMode::Linear => out.byte(0),
            ResizeMode::Cubic(a) => {
                out.byte(1);
                out.float(a);
            }
            ResizeMode::Nearest(rounding) => {
                let at = ROUNDINGS.iter().position(|(r, _)| *r == rounding).unwrap_or(0);
                out.byte(2 + at as u8);
            }
        }
        let at = COORDINATES.iter().position(|(c, _)| *c == self.coordinates).unwrap_or(0);
        out.byte(at as u8);
        self.size.iter().try_for_each(|&s| out.uint(s))?;
        out.floats(&self.scale);
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let from = self.check(at.shape(0)?)?;
        let [Some(vertical), Some(horizontal)] =
            [0, 1].map(|i| exact_scale(from[i], self.size[i], self.scale[i]))
        else {
            return Err(Error::Shape(format!("{from:?} scaled by {:?} is not {:?}", self.scale, self.size)));
        };
        let name = |names: &[(ResizeCoordinates, &'static str)]| {
            names.iter().find(|(c, _)| *c == self.coordinates).map_or("half_pixel", |(_, name)| *name)
        };
        let mut attributes = vec![("coordinate_transformation_mode", Attribute::Text(name(&COORDINATES)))];
        match self.mode {
            ResizeMode::Linear => attributes.push(("mode", Attribute::Text("linear"))),
            ResizeMode::Cubic(a) => {
                attributes.push(("mode", Attribute::Text("cubic")));
                attributes.push(("cubic_coeff_a", Attribute::Float(a)));
            }
            ResizeMode::Nearest(rounding) => {
                attributes.push(("mode", Attribute::Text("nearest")));
                let name = ROUNDINGS.iter().find(|(r, _)| *r == rounding).map_or("floor", |(_, name)| *name);
                attributes.push(("nearest_mode", Attribute::Text(name)));
            }
        }
        let scales = Numbers::F32(vec![1.0, 1.0, vertical, horizontal]);
        let scales = at.constant("scales", &[4], scales)?;
        let y = at.operator("Resize", &[at.input(0)?, Value::NONE, scales], attributes);
        at.output(y);
        Ok(())
    }

    without_parameters!();
    same_channels!();
}

impl Trainable for Resize {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], _step: &mut Step<'_>) -> Result<Tensor> {
        self.infer(&[inputs[0].get()])
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let from = self.check(at.shapes[0])?;
        let [rows, columns] = self.taps(from);
        let mut dx = step.pool.take(at.shapes[0]);
        resize_backward(slice(&at.grad)?, from, &rows, &columns, slice_mut(&mut dx)?);
        step.pool.give(at.grad);
        Ok(vec![Some(dx)])
    }
}
