//! Bits for each layer from a budget of bytes: what a layer's rounding changes of the network's answers, against what it saves.

use crate::bits::{Bits, PerLayer};
use crate::divergence::{answers, divergence};
use crate::int8::Int8Quantizer;
use crate::targets;
use cnn_core::{Compressor, Error, Graph, Result, Tensor, model_file};
use rayon::prelude::*;

/// Bits that are tried, from many to few.
const BITS: [u8; 6] = [8, 6, 5, 4, 3, 2];

/// What fewer bits do to a layer.
pub struct Choice {
    name: String,
    /// Mean divergence of the answers from the original ones with this layer alone rounded, for each of [`BITS`] that is allowed.
    costs: Vec<(u8, f64)>,
    /// Which of them is chosen.
    at: usize,
    weights: usize,
}

/// What fewer bits do to each of the layers at `found`; all begin with the most that are allowed.
///
/// # Errors
/// If the network does not fit the images.
pub fn choices(
    method: &Int8Quantizer,
    graph: &Graph,
    found: &[usize],
    images: &Tensor,
) -> Result<Vec<Choice>> {
    let expected = answers(graph, images)?;
    let choice = |&at: &usize| {
        let node = &graph.nodes()[at];
        let most = method.bits_of(&node.name).weights;
        let mut costs = Vec::new();
        for bits in BITS.into_iter().filter(|&bits| bits <= most) {
            let rounded = method.rounded(node, bits)?;
            let mut alone = graph.clone();
            alone.replace(&node.name, rounded)?;
            costs.push((bits, divergence(&expected, &answers(&alone, images)?)));
        }
        // more bits are never worse but by chance
        for i in (1..costs.len()).rev() {
            costs[i - 1].1 = costs[i - 1].1.min(costs[i].1);
        }
        let weights = targets::params(node.layer()).first().map_or(0, |w| w.len());
        Ok(Choice { name: node.name.clone(), costs, at: 0, weights })
    };
    found.par_iter().map(choice).collect()
}

/// Bits of weights by layer so that the file has at most `bytes`: the layer loses bits next that changes the answers least for the bits it gives
/// back. Activations keep theirs. What single layers change is taken to add up.
///
/// # Errors
/// If not even the fewest bits make the file so small.
pub fn fit(method: &Int8Quantizer, graph: &Graph, choices: &mut [Choice], bytes: u64) -> Result<PerLayer> {
    loop {
        let chosen = per_layer(method, choices);
        let size = rough_size(method, graph, &chosen)?;
        if size <= bytes {
            return Ok(chosen);
        }
        let price = |c: &Choice| {
            let (now, next) = (c.costs.get(c.at)?, c.costs.get(c.at + 1)?);
            Some((next.1 - now.1) / (c.weights.max(1) as f64 * f64::from(now.0 - next.0)))
        };
        let prices = choices.iter().enumerate().filter_map(|(i, c)| price(c).map(|price| (i, price)));
        let Some((cheapest, _)) = prices.min_by(|a, b| a.1.total_cmp(&b.1)) else {
            let why = format!(
                "with 2 bits a weight the file has {size} bytes; skip fewer layers, prune first, or allow more"
            );
            return Err(Error::invalid(format!("`bytes` of `{}`", Int8Quantizer::NAME), why));
        };
        choices[cheapest].at += 1;
    }
}

/// Bytes of the file of a network under its constraints.
///
/// # Errors
/// If it cannot be packed.
pub fn file_size(method: &Int8Quantizer, graph: &Graph) -> Result<u64> {
    let mut packed = graph.clone();
    method.pack(&mut packed)?;
    Ok(model_file::deploy_bytes(&packed, false)?.len() as u64)
}

fn per_layer(method: &Int8Quantizer, choices: &[Choice]) -> PerLayer {
    let bits = |c: &Choice| {
        let weights = c.costs.get(c.at).map_or(8, |c| c.0);
        (c.name.clone(), Bits { weights, ..method.bits_of(&c.name) })
    };
    choices.iter().map(bits).collect()
}

/// Bytes of the file that these bits make when weights go to the nearest points; elsewhere they are a little harder or easier to code.
fn rough_size(method: &Int8Quantizer, graph: &Graph, per_layer: &PerLayer) -> Result<u64> {
    let method = Int8Quantizer { per_layer: per_layer.clone(), ..method.clone() };
    let mut constrained = graph.clone();
    method.constrain_blindly(&mut constrained)?;
    file_size(&method, &constrained)
}
