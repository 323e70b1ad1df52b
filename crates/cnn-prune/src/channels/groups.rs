//! Which channels can be removed, and which go together.

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
/// input, or a layer that does not say how channels pass. Channels of a grouped convolution that have the same place in
/// their group go together, so that the groups stay alike.
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

/// The classes of channels, where those of grouped convolutions that have the same place in their group are one.
fn units(graph: &Graph) -> Result<Vec<(Unit, Option<Fixed>)>> {
    let classes = graph.channel_classes()?;
    let mut class_of: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (i, class) in classes.iter().enumerate() {
        class.members.iter().for_each(|&member| _ = class_of.insert(member, i));
    }
    let mut parent: Vec<usize> = (0..classes.len()).collect();
    fn find(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    for (at, node) in graph.nodes().iter().enumerate() {
        let Some(conv) = node.layer().downcast_ref::<Conv2d>() else { continue };
        let groups = conv.options.groups;
        if groups == 1 || conv.is_depthwise() {
            continue;
        }
        for (node, channels) in [(at, conv.filters()), (node.inputs[0], conv.channels_in())] {
            let size = channels / groups;
            for c in size..channels {
                let [a, b] =
                    [class_of[&(node, c % size)], class_of[&(node, c)]].map(|i| find(&mut parent, i));
                parent[a.max(b)] = a.min(b);
            }
        }
    }
    let mut merged: BTreeMap<usize, (Unit, Option<Fixed>)> = BTreeMap::new();
    for (i, class) in classes.into_iter().enumerate() {
        let (members, fixed) = merged.entry(find(&mut parent, i)).or_default();
        members.extend(class.members);
        *fixed = fixed.or(class.fixed);
    }
    merged.values_mut().for_each(|(members, _)| members.sort_unstable());
    Ok(merged.into_values().collect())
}
