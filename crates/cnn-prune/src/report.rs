//! How sparse a network is.

use crate::sparse::{SparseConv2d, SparseLinear, SparseMatrix};
use crate::targets;
use cnn_core::{Graph, Layer};

/// Weights of one layer, biases not counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSparsity {
    /// Name of the node.
    pub name: String,
    /// Kind of the layer.
    pub kind: &'static str,
    /// Number of weights.
    pub weights: usize,
    /// Those that are not zero.
    pub nonzeros: usize,
}

impl LayerSparsity {
    /// Share of weights that are zero, in `[0, 1]`.
    pub fn sparsity(&self) -> f64 {
        1.0 - self.nonzeros as f64 / self.weights.max(1) as f64
    }
}

/// The sparsity of every convolution and linear layer, masked, dense or packed by this crate, in execution
/// order.
///
/// ```
/// let graph = cnn_core::testing::lenet5(0)?;
/// let report = cnn_prune::sparsity(&graph);
/// assert_eq!((report[2].name.as_str(), report[2].weights, report[2].sparsity()), ("fc1", 400_000, 0.0));
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn sparsity(graph: &Graph) -> Vec<LayerSparsity> {
    let nodes = graph.nodes().iter();
    nodes
        .filter_map(|node| {
            let (weights, nonzeros) = count(node.layer())?;
            Some(LayerSparsity { name: node.name.clone(), kind: node.layer().kind(), weights, nonzeros })
        })
        .collect()
}

fn count(layer: &dyn Layer) -> Option<(usize, usize)> {
    if let Some(weight) = targets::weight(layer) {
        return Some((weight.len(), weight.nonzeros() as usize));
    }
    let of = |matrix: &SparseMatrix| (matrix.rows() * matrix.cols(), matrix.nonzeros());
    let conv = layer.downcast_ref::<SparseConv2d>().map(|l| of(l.weight()));
    conv.or_else(|| layer.downcast_ref::<SparseLinear>().map(|l| of(l.weight())))
}
