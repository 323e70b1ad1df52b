//! Which channels can be removed, and which go together.

use super::balance::balanced;
use crate::error::PruneError;
use crate::targets;
use cnn_core::graph::Fixed;
use cnn_core::layers::Conv2d;
use cnn_core::{ChannelRule, Graph, Result, Selection};
use std::collections::BTreeMap;

/// Channels that go together: position of a node and channel of its output, in order.
pub type Unit = Vec<(usize, usize)>;

/// Channels that are made by the same layers, and are therefore ranked with each other: the filters of one convolution, or those of
/// all convolutions that meet in the additions of a stage (the groups of Fang et al. 2023, "DepGraph: Towards Any Structural
/// Pruning").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelGroup {
    /// Positions of the convolutions and linear layers that make the channels.
    pub producers: Vec<usize>,
    /// What can be removed, each as a whole.
    pub units: Vec<Unit>,
}

impl ChannelGroup {
    /// Name of the first layer that makes the channels.
    pub fn name<'a>(&self, graph: &'a Graph) -> &'a str {
        self.producers.first().map_or("", |&at| graph.nodes()[at].name.as_str())
    }

    /// What the group looks like, whatever its width: kinds and kernels of all layers that its channels pass. Groups that look alike
    /// are *isomorphic* (Fang et al. 2024, "Isomorphic Pruning for Vision Models").
    pub fn signature(&self, graph: &Graph) -> String {
        let mut parts: Vec<String> = Vec::new();
        let nodes: std::collections::BTreeSet<usize> =
            self.units.iter().flatten().map(|&(at, _)| at).collect();
        for at in nodes {
            let layer = graph.nodes()[at].layer();
            let kernel =
                layer.downcast_ref::<Conv2d>().map(|c| (c.kernel(), c.is_depthwise(), c.options.stride));
            parts.push(format!("{} {kernel:?}", layer.kind()));
        }
        parts.sort();
        parts.dedup();
        parts.join(", ")
    }
}

/// The groups of a network whose channels can be removed: all of their layers are selected, and none is the network's output, its
/// input, or a layer that does not say how channels pass. Where convolutions are grouped, a unit has as many channels in each of
/// their groups, so that these stay alike.
///
/// ```
/// use cnn_core::Selection;
/// let graph = cnn_core::testing::lenet5(0)?;
/// let groups = cnn_prune::channel_groups(&graph, &Selection::default())?;
/// let found: Vec<_> = groups.iter().map(|g| (g.name(&graph), g.units.len())).collect();
/// assert_eq!(found, [("conv1", 20), ("conv2", 50), ("fc1", 500)]);
/// # Ok::<(), cnn_core::Error>(())
/// ```
///
/// # Errors
/// If a pattern matches nothing, or nothing that is selected can lose channels; the reason is named.
pub fn channel_groups(graph: &Graph, selection: &Selection) -> Result<Vec<ChannelGroup>> {
    let selected = targets::find(graph, selection)?;
    let shapes = graph.shapes(1)?;
    let mut groups: BTreeMap<Vec<usize>, Vec<Unit>> = BTreeMap::new();
    let mut why = None;
    for (members, fixed) in units(graph)? {
        let makes = |&&(at, _): &&(usize, usize)| {
            let inputs: Vec<&[usize]> =
                graph.nodes()[at].inputs.iter().map(|&i| shapes[i].as_slice()).collect();
            at > 0 && graph.nodes()[at].layer().channels(&inputs) == ChannelRule::Free
        };
        let mut producers: Vec<usize> = members.iter().filter(makes).map(|&(at, _)| at).collect();
        producers.dedup();
        if producers.is_empty() || !producers.iter().any(|at| selected.contains(at)) {
            continue;
        }
        let stray = producers.iter().find(|at| !selected.contains(at));
        match (fixed, stray) {
            (None, None) => groups.entry(producers).or_default().push(members),
            (Some(fixed), _) => why = why.or(Some(reason(graph, producers[0], fixed))),
            (None, Some(&stray)) => {
                let (first, other) = (&graph.nodes()[producers[0]].name, &graph.nodes()[stray].name);
                why = why.or(Some(format!(
                    "the channels of `{first}` go together with those of `{other}`, which is not selected"
                )));
            }
        }
    }
    if groups.is_empty() {
        let found = why.unwrap_or_else(|| "no convolution or linear layer is selected".to_string());
        return Err(PruneError::NoChannels { found }.into());
    }
    Ok(groups.into_iter().map(|(producers, units)| ChannelGroup { producers, units }).collect())
}

fn reason(graph: &Graph, producer: usize, fixed: Fixed) -> String {
    let name = |at: usize| graph.nodes()[at].name.as_str();
    match fixed {
        Fixed::Input => format!("the channels of `{}` are tied to the network's input", name(producer)),
        Fixed::Output => format!("the channels of `{}` are tied to the network's output", name(producer)),
        Fixed::Opaque(at) => format!(
            "the channels of `{}` reach `{}`, a `{}` layer, which does not say how channels pass",
            name(producer),
            name(at),
            graph.nodes()[at].layer().kind()
        ),
    }
}

/// The classes of channels, where those that grouped convolutions must lose together are one.
fn units(graph: &Graph) -> Result<Vec<(Unit, Option<Fixed>)>> {
    let classes = graph.channel_classes()?;
    let merged = |set: Vec<usize>| {
        let mut members: Unit = set.iter().flat_map(|&class| classes[class].members.clone()).collect();
        members.sort_unstable();
        (members, set.iter().find_map(|&class| classes[class].fixed))
    };
    Ok(balanced(graph, &classes).into_iter().map(merged).collect())
}
