//! How many bits weights and activations have, layer by layer.

use crate::error::Error;
use cnn_core::{Graph, Selection};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wildmatch::WildMatch;

/// Bits of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bits {
    /// Of a weight, 2 to 8.
    pub weights: u8,
    /// Of an activation, 2 to 8.
    pub activations: u8,
}

/// The bits of layers by name; of several patterns that match, the longest counts.
pub type PerLayer = BTreeMap<String, Bits>;

/// Bits of the named layer, if a pattern matches.
pub fn of_layer(per_layer: &PerLayer, name: &str) -> Option<Bits> {
    let matching = per_layer.iter().filter(|(pattern, _)| WildMatch::new(pattern).matches(name));
    matching.max_by_key(|(pattern, _)| pattern.len()).map(|(_, &bits)| bits)
}

/// Refuses what is not 2 to 8 bits, naming the key.
pub fn check(method: &'static str, single: &[(&str, u8)], per_layer: &PerLayer) -> Result<(), Error> {
    let single = single.iter().map(|&(key, bits)| (key.to_string(), bits));
    let each = per_layer.iter().flat_map(|(pattern, bits)| {
        let key = |which| format!("per_layer.{pattern}.{which}");
        [(key("weights"), bits.weights), (key("activations"), bits.activations)]
    });
    match single.chain(each).find(|(_, bits)| !(2..=8).contains(bits)) {
        None => Ok(()),
        Some((key, bits)) => {
            Err(Error::Setting { method, key, found: bits.to_string(), allowed: "2 to 8 bits" })
        }
    }
}

/// Refuses a pattern that matches no layer.
pub fn check_patterns(per_layer: &PerLayer, graph: &Graph) -> cnn_core::Result<()> {
    let mut patterns = per_layer.keys();
    patterns.try_for_each(|pattern| Selection { only: vec![pattern.clone()], skip: Vec::new() }.check(graph))
}
