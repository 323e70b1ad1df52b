//! Gradients against finite differences.

use crate::layer::Layer;
use crate::tensor::{Tensor, slice, slice_mut};
use crate::train::{Backward, Input, Pool, Saved, Step};
use crate::{Error, Result};

/// Compares every gradient of a trainable layer, with respect to inputs and parameters, with central differences of
/// `sum(output * probe)`, where the probe is fixed and irregular. Layers under straight-through constraints need another
/// oracle.
///
/// # Errors
/// If a gradient deviates by more than `tolerance * (1 + |gradient|)`; the message says which.
pub fn check_gradients(layer: &dyn Layer, inputs: &[Tensor], tolerance: f32) -> Result<()> {
    let mut trained = layer.clone_box();
    let probe = probe_for(layer, inputs)?;
    let (grads, param_grads) = analytic(trained.as_mut(), inputs, &probe)?;

    for (which, grad) in grads.iter().enumerate() {
        let numeric = |at: usize, h: f32| {
            let mut changed = inputs.to_vec();
            slice_mut(&mut changed[which])?[at] += h;
            objective(layer.clone_box().as_mut(), &changed, &probe)
        };
        compare(&format!("input {which}"), grad, tolerance, numeric)?;
    }
    for (which, grad) in param_grads.iter().enumerate() {
        let numeric = |at: usize, h: f32| {
            let mut changed = layer.clone_box();
            if let Some(trainable) = changed.trainable() {
                let param = &mut trainable.params_mut()[which];
                let mut base = param.base().clone();
                slice_mut(&mut base)?[at] += h;
                param.set_base(base);
            }
            objective(changed.as_mut(), inputs, &probe)
        };
        compare(&format!("parameter {which}"), grad, tolerance, numeric)?;
    }
    Ok(())
}

fn compare(
    what: &str,
    grad: &Tensor,
    tolerance: f32,
    numeric: impl Fn(usize, f32) -> Result<f64>,
) -> Result<()> {
    const H: f32 = 1.0 / 512.0;
    for (at, &analytic) in slice(grad)?.iter().enumerate() {
        let difference = ((numeric(at, H)? - numeric(at, -H)?) / (2.0 * f64::from(H))) as f32;
        let deviation = (analytic - difference).abs();
        if deviation.is_nan() || deviation > tolerance * (1.0 + difference.abs()) {
            return Err(Error::Edit(format!(
                "gradient of {what} at {at}: {analytic} analytic, {difference} by finite differences"
            )));
        }
    }
    Ok(())
}

fn probe_for(layer: &dyn Layer, inputs: &[Tensor]) -> Result<Tensor> {
    let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
    let shape = layer.output_shape(&shapes)?;
    let count: usize = shape.iter().product();
    crate::tensor::tensor(&shape, (0..count).map(|i| ((i * 7 + 3) % 11) as f32 / 11.0 - 0.4).collect())
}

fn forward(layer: &mut dyn Layer, inputs: &[Tensor], pool: &mut Pool, saved: &mut Saved) -> Result<Tensor> {
    let mut lent: Vec<Input<'_>> = inputs.iter().map(Input::Shared).collect();
    let kind = layer.kind();
    let trainable = layer.trainable().ok_or_else(|| Error::NotTrainable(kind.to_string()))?;
    trainable.forward(&mut lent, &mut Step { pool, saved, seed: 7 })
}

fn objective(layer: &mut dyn Layer, inputs: &[Tensor], probe: &Tensor) -> Result<f64> {
    let y = forward(layer, inputs, &mut Pool::default(), &mut Saved::default())?;
    Ok(y.iter().zip(probe).map(|(&y, &p)| f64::from(y) * f64::from(p)).sum())
}

fn analytic(layer: &mut dyn Layer, inputs: &[Tensor], probe: &Tensor) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
    let (mut pool, mut saved) = (Pool::default(), Saved::default());
    let output = forward(layer, inputs, &mut pool, &mut saved)?;
    let kind = layer.kind();
    let trainable = layer.trainable().ok_or_else(|| Error::NotTrainable(kind.to_string()))?;
    let needs = trainable.needs();
    let lent: Vec<Option<&Tensor>> = inputs.iter().map(|t| needs.inputs.then_some(t)).collect();
    let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
    let wanted = vec![true; inputs.len()];
    let request = Backward {
        inputs: &lent,
        output: needs.output.then_some(&output),
        shapes: &shapes,
        grad: probe.clone(),
        wanted: &wanted,
    };
    let mut step = Step { pool: &mut pool, saved: &mut saved, seed: 7 };
    let grads = trainable.backward(request, &mut step)?;
    let grads = grads.into_iter().flatten().collect::<Vec<_>>();
    if grads.len() != inputs.len() {
        return Err(Error::Edit(format!("{} gradients for {} inputs", grads.len(), inputs.len())));
    }
    let params = trainable.params_mut().iter().filter_map(|p| p.grad().cloned()).collect();
    Ok((grads, params))
}
