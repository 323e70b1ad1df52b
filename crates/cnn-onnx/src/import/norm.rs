//! Normalization.

use super::context::Context;
use crate::op::Refusal;
use crate::slot::Slot;
use cnn_core::layers::BatchNorm;

/// `BatchNormalization` with the averages of training.
pub(super) fn batch_norm(at: &mut Context<'_>) -> Result<Vec<Slot>, Refusal> {
    let (x, shape) = at.image(0)?;
    if at.op.flag("training_mode", false)? {
        return Err(Refusal::unsupported("training_mode"));
    }
    let mut vector =
        |i: usize, what: &str| at.weights(i, what).map(|t| t.iter().copied().collect::<Vec<f32>>());
    let (gamma, beta) = (vector(1, "a scale")?, vector(2, "a shift")?);
    let (mean, var) = (vector(3, "a mean")?, vector(4, "a variance")?);
    if shape.len() < 2 || gamma.len() != shape[1] {
        return Err(Refusal::invalid(format!("{} scales for data of shape {shape:?}", gamma.len())));
    }
    let mut layer = BatchNorm::trained(gamma, beta, mean, var, at.op.float("epsilon", 1e-5)?)?;
    // the standard's momentum is the weight of the old average, the core's that of the new batch
    let momentum = 1.0 - at.op.float("momentum", 0.9)?;
    if momentum > 0.0 && momentum <= 1.0 {
        layer.momentum = momentum;
    }
    let name = at.name_by_weights(1);
    Ok(Context::one(at.drafts.push(&name, layer, &[x])?))
}
