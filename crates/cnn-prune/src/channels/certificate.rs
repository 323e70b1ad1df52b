//! The proof that removing channels did to the network what masking them does.

use super::groups::Unit;
use crate::error::PruneError;
use cnn_core::tensor::relative_error;
use cnn_core::{Graph, Result, Tensor};
use ndarray::Axis;

/// Largest error of a node's values, relative to the largest of them.
const TOLERANCE: f32 = 1e-5;

/// Compares a thinned network with the one it was made of, node by node, on real images: given what the masked network has, `graph` with
/// the removed channels at zero behind every node, each node of `thinned` has to give what the masked network gives. By induction the
/// whole networks are then the same; comparing node by node keeps the rounding of one layer from adding up over all. Returns the
/// largest error of any node, `max|a - b| / max|b|`.
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
    masked[0] = Some(images.clone());
    let mut worst = 0f32;
    for (at, node) in nodes.iter().enumerate().skip(1) {
        let inputs: Vec<&Tensor> = node.inputs.iter().filter_map(|&i| masked[i].as_ref()).collect();
        let mut expected = node.layer().infer(&inputs)?;
        for c in (0..gone[at].len()).filter(|&c| gone[at][c]) {
            expected.index_axis_mut(Axis(1), c).fill(0.0);
        }
        let left = |at: usize, value: &Tensor| match stay[at].len() == gone[at].len() {
            true => value.clone(),
            false => value.select(Axis(1), &stay[at]).as_standard_layout().into_owned(),
        };
        let of_thin: Vec<Tensor> =
            node.inputs.iter().zip(&inputs).map(|(&i, value)| left(i, value)).collect();
        let found = thinned.nodes()[at].layer().infer(&of_thin.iter().collect::<Vec<_>>())?;
        let wanted = left(at, &expected);
        let error =
            if wanted.shape() == found.shape() { relative_error(&found, &wanted) } else { f32::INFINITY };
        worst = worst.max(error);
        if error.is_nan() || error > TOLERANCE {
            return Err(PruneError::Certificate { node: node.name.clone(), error }.into());
        }
        masked[at] = Some(expected);
        for &i in &node.inputs {
            readers[i] -= 1;
            if readers[i] == 0 {
                masked[i] = None;
            }
        }
    }
    Ok(worst)
}
