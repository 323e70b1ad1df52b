//! The proof that removing channels did to the network what masking them does.

use super::groups::Unit;
use crate::error::PruneError;
use cnn_core::tensor::relative_error;
use cnn_core::{Graph, Result, Tensor};
use ndarray::Axis;

/// Largest error of a node's values, relative to the largest of them.
const TOLERANCE: f32 = 1e-5;

/// Compares a thinned network with the one it was made of, node by node, on real images: `thinned` has to give what `graph` gives
/// when the removed channels are zero everywhere. Returns the largest error of any node, `max|a - b| / max|b|`.
///
/// This needs no knowledge of how layers slice themselves, only what they compute. It fails where a channel matters although it is
/// zero (a softmax over channels), and where a layer sliced itself wrongly.
///
/// # Errors
/// [`PruneError::Certificate`] naming the first node that differs by more than 1e-5.
pub fn certify(graph: &Graph, thinned: &Graph, removed: &[Unit], images: &Tensor) -> Result<f32> {
    let nodes = graph.nodes();
    let shapes = graph.shapes(1)?;
    let mut gone: Vec<Vec<bool>> =
        shapes.iter().map(|s| vec![false; s.get(1).copied().unwrap_or(1)]).collect();
    removed.iter().flatten().for_each(|&(at, channel)| gone[at][channel] = true);
    let stay: Vec<Vec<usize>> =
        gone.iter().map(|gone| (0..gone.len()).filter(|&c| !gone[c]).collect()).collect();
    let mut readers = vec![0usize; nodes.len()];
    nodes.iter().flat_map(|n| &n.inputs).for_each(|&i| readers[i] += 1);

    let mut masked: Vec<Option<Tensor>> = vec![None; nodes.len()];
    let mut thin: Vec<Option<Tensor>> = vec![None; nodes.len()];
    (masked[0], thin[0]) = (Some(images.clone()), Some(images.clone()));
    let mut worst = 0f32;
    for at in 1..nodes.len() {
        let node = &nodes[at];
        let inputs = |values: &[Option<Tensor>]| -> Vec<Tensor> {
            node.inputs.iter().filter_map(|&i| values[i].clone()).collect()
        };
        let (from_masked, from_thin) = (inputs(&masked), inputs(&thin));
        let mut expected = node.layer().infer(&from_masked.iter().collect::<Vec<_>>())?;
        for c in (0..gone[at].len()).filter(|&c| gone[at][c]) {
            expected.index_axis_mut(Axis(1), c).fill(0.0);
        }
        let found = thinned.nodes()[at].layer().infer(&from_thin.iter().collect::<Vec<_>>())?;
        let left = match stay[at].len() == gone[at].len() {
            true => expected.clone(),
            false => expected.select(Axis(1), &stay[at]),
        };
        let error = if left.shape() == found.shape() { relative_error(&found, &left) } else { f32::INFINITY };
        worst = worst.max(error);
        if error.is_nan() || error > TOLERANCE {
            return Err(PruneError::Certificate { node: node.name.clone(), error }.into());
        }
        (masked[at], thin[at]) = (Some(expected), Some(found));
        for &i in &node.inputs {
            readers[i] -= 1;
            if readers[i] == 0 {
                (masked[i], thin[i]) = (None, None);
            }
        }
    }
    Ok(worst)
}
