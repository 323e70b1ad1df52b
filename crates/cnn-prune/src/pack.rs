//! From masked dense layers to sparse ones.

use crate::mask::Mask;
use crate::sparse::{SparseConv2d, SparseLinear};
use crate::targets;
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::model_file::{Encoder, Purpose};
use cnn_core::{Graph, Layer, Node, Result};

/// Replaces every convolution and linear layer whose weights carry a [`Mask`] and no other constraint by a
/// sparse one, where that makes the file smaller; where it does not, the layer stays dense with the zeros in
/// its weights. The weights keep no mask.
///
/// Layers under further constraints, and layers that another method has packed, are left to that method.
///
/// # Errors
/// None in practice; the graph is then as before.
pub fn pack(graph: &mut Graph) -> Result<()> {
    let mut candidates = Vec::new();
    for node in graph.nodes().iter().filter(|node| is_ours(node)) {
        candidates.push(Candidate::of(node)?);
    }
    // the name of a kind is stored once in a file: the layers of a kind together have to save more than that
    let pays = |kind: &'static str| {
        let name = match graph.nodes().iter().any(|n| n.layer().kind() == kind) {
            true => 0,
            false => 1 + kind.len(),
        };
        candidates.iter().filter(|c| c.sparse.kind() == kind).map(|c| c.saving).sum::<usize>() > name
    };
    let (convs, linears) = (pays(SparseConv2d::KIND), pays(SparseLinear::KIND));
    graph.edit(|graph| {
        for Candidate { node, sparse, dense, saving } in candidates {
            let kind_pays = if sparse.kind() == SparseConv2d::KIND { convs } else { linears };
            graph.replace(&node, if saving > 0 && kind_pays { sparse } else { dense })?;
        }
        Ok(())
    })
}

/// A layer in both forms.
struct Candidate {
    node: String,
    sparse: Box<dyn Layer>,
    dense: Box<dyn Layer>,
    /// Bytes that the sparse form saves in a file; 0 if it is the larger one.
    saving: usize,
}

impl Candidate {
    fn of(node: &Node) -> Result<Candidate> {
        let layer = node.layer();
        let conv = layer.downcast_ref::<Conv2d>().map(SparseConv2d::from_dense).transpose()?;
        let linear = layer.downcast_ref::<Linear>().map(SparseLinear::from_dense).transpose()?;
        let mut dense = layer.clone_box();
        if let Some(weight) = targets::weight_mut(dense.as_mut()) {
            weight.bake();
        }
        let sparse: Box<dyn Layer> = match (conv, linear) {
            (Some(conv), _) => Box::new(conv),
            (None, Some(linear)) => Box::new(linear),
            (None, None) => dense.clone_box(),
        };
        let saving = size(dense.as_ref())?.saturating_sub(size(sparse.as_ref())?);
        Ok(Candidate { node: node.name.clone(), sparse, dense, saving })
    }
}

/// True if a layer's weights carry a mask and nothing else does any constraint.
fn is_ours(node: &Node) -> bool {
    let Some(weight) = targets::weight(node.layer()) else { return false };
    let masked = matches!(weight.constraints(), [only] if only.downcast_ref::<Mask>().is_some());
    masked && targets::bias(node.layer()).is_none_or(|bias| bias.constraints().is_empty())
}

/// Bytes of a layer in a file.
fn size(layer: &dyn Layer) -> Result<usize> {
    let mut out = Encoder::new(Purpose::Deploy);
    layer.encode(&mut out)?;
    Ok(out.len())
}
