//! What a layer that brings no kernel runs by: its reference semantics. Slow, never wrong.

use super::kernel::{Inputs, Kernel, Part, Target, View};
use super::lowering::{Epilogue, Lowering};
use crate::Result;
use crate::layer::Layer;
use crate::tensor::{Tensor, elements, slice, tensor};

/// A layer's `infer` on planar tensors. It allocates.
#[derive(Debug)]
pub(super) struct Infer {
    layer: Box<dyn Layer>,
    inputs: Vec<Vec<usize>>,
    output: Vec<usize>,
    epilogue: Epilogue,
}

impl Infer {
    pub fn new(layer: Box<dyn Layer>, at: &Lowering<'_>) -> Infer {
        let inputs = at.inputs.iter().map(|e| e.shape.clone()).collect();
        Infer { layer, inputs, output: at.output.to_vec(), epilogue: at.epilogue.clone() }
    }

    /// The epilogue on one image, whose channels are planes.
    fn finish(&self, values: &mut [f32], residual: Option<&[f32]>) {
        let (channels, plane) = match self.output.as_slice() {
            [_, c, rest @ ..] => (*c, elements(rest)),
            _ => (values.len(), 1),
        };
        let Epilogue { scale, shift, activation, .. } = &self.epilogue;
        let wide = |v: &Option<Vec<f32>>| {
            v.as_ref().map(|v| (0..channels).flat_map(|c| std::iter::repeat_n(v[c], plane)).collect())
        };
        let wide =
            Epilogue { scale: wide(scale), shift: wide(shift), residual: false, activation: *activation };
        wide.finish(0..values.len(), values, residual);
    }
}

fn to_tensor(view: View<'_>, shape: &[usize]) -> Result<Tensor> {
    tensor(shape, (0..view.pixels).flat_map(|p| view.pixel(p)).copied().collect())
}

impl Kernel for Infer {
    fn algorithm(&self) -> &'static str {
        "reference"
    }

    fn parts(&self) -> Vec<Part> {
        let (n, rest) =
            (self.output.first().copied().unwrap_or(1), elements(self.output.get(1..).unwrap_or(&[])));
        vec![Part { pixels: 0..n, channels: 0..rest }]
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        let tensors = self
            .inputs
            .iter()
            .enumerate()
            .map(|(i, shape)| to_tensor(inputs.get(i), shape))
            .collect::<Result<Vec<_>>>()?;
        let y = self.layer.infer(&tensors.iter().collect::<Vec<_>>())?;
        let values = slice(&y)?;
        let residual = self.epilogue.residual.then(|| inputs.get(self.inputs.len()));
        let each = out.part().channels.len();
        for p in out.part().pixels.clone() {
            let row = out.pixel(p);
            row.copy_from_slice(&values[p * each..(p + 1) * each]);
            if !self.epilogue.is_empty() {
                self.finish(row, residual.map(|r| r.pixel(p)));
            }
        }
        Ok(())
    }
}
