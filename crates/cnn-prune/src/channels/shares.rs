//! The shares of groups that have one of their own.

use super::groups::ChannelGroup;
use crate::error::PruneError;
use crate::targets;
use cnn_core::{Graph, Result};
use std::collections::BTreeMap;

/// What identifies a group, whatever happens to the network: the names of the layers that make its channels.
pub(crate) type GroupKey = Vec<String>;

impl ChannelGroup {
    /// The group's key.
    pub(crate) fn key(&self, graph: &Graph) -> GroupKey {
        self.producers.iter().map(|&at| graph.nodes()[at].name.clone()).collect()
    }
}

/// The shares that patterns give to groups: to those of which any layer matches.
pub(super) fn by_pattern(
    graph: &Graph,
    groups: &[ChannelGroup],
    ratios: &BTreeMap<String, f64>,
) -> Result<BTreeMap<GroupKey, f64>> {
    let mut own: BTreeMap<GroupKey, (&str, f64)> = BTreeMap::new();
    for (pattern, &ratio) in ratios {
        let layers = targets::matching(graph, pattern)?;
        let mut used = false;
        for group in groups.iter().filter(|g| g.producers.iter().any(|at| layers.contains(at))) {
            used = true;
            if let Some((first, other)) = own.insert(group.key(graph), (pattern, ratio))
                && other != ratio
            {
                let layer = group.name(graph).to_string();
                let (first, second) = (first.to_string(), pattern.clone());
                return Err(PruneError::Ambiguous { layer, first, second }.into());
            }
        }
        if !used {
            return Err(PruneError::Unused { pattern: pattern.clone() }.into());
        }
    }
    Ok(own.into_iter().map(|(key, (_, ratio))| (key, ratio)).collect())
}
