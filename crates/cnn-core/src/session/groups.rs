//! Which nodes become one kernel: a layer and the normalization, addition and activation that follow it.

use super::lowering::{Epilogue, channels_are_rows};
use crate::graph::Graph;
use crate::layers::{
    Activation, Add, BatchNorm, ChannelMap, Concat, Dropout, Flatten, Identity, Input, Reshape,
};

/// Nodes that are computed together, at the place of the last of them.
#[derive(Debug)]
pub(super) struct Group {
    /// The node whose layer is lowered.
    pub head: usize,
    /// The node whose value comes out.
    pub last: usize,
    pub epilogue: Epilogue,
    /// The node that is added.
    pub residual: Option<usize>,
    /// For a channel map that reads a concatenation: the nodes concatenated.
    pub gathers: Option<Vec<usize>>,
}

/// All groups of the nodes that the output needs, in the order in which they can be computed.
pub(super) fn groups(graph: &Graph, shapes: &[Vec<usize>]) -> Vec<Group> {
    let nodes = graph.nodes();
    let mut needed = vec![false; nodes.len()];
    needed[graph.output()] = true;
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for at in (0..nodes.len()).rev().filter(|&at| at > 0) {
        if needed[at] {
            nodes[at].inputs.iter().for_each(|&i| {
                needed[i] = true;
                readers[i].push(at);
            });
        }
    }
    let only_reader = |at: usize| match readers[at].as_slice() {
        [reader] if at != graph.output() => Some(*reader),
        _ => None,
    };
    let mut taken = vec![false; nodes.len()];
    let mut all = Vec::new();
    for head in 0..nodes.len() {
        if !needed[head] || taken[head] || nodes[head].layer().is::<Input>() {
            continue;
        }
        let mut group =
            Group { head, last: head, epilogue: Epilogue::default(), residual: None, gathers: None };
        let layer = nodes[head].layer();
        if layer.is::<Concat>() {
            if let Some(reader) = only_reader(head).filter(|&r| gathers(graph, r, shapes)) {
                (group.last, group.gathers) = (reader, Some(nodes[head].inputs.clone()));
                taken[reader] = true;
            }
        } else if gathers(graph, head, shapes) {
            group.gathers = Some(nodes[head].inputs.clone());
        } else if !passes(graph, head) {
            while let Some(reader) = only_reader(group.last) {
                if taken[reader] || shapes[reader] != shapes[head] || !group.absorb(graph, reader) {
                    break;
                }
                taken[reader] = true;
                group.last = reader;
            }
        }
        all.push(group);
    }
    all.sort_by_key(|g| g.last);
    activate_before_concat(graph, shapes, &mut all, &only_reader);
    all
}

/// An activation after a concatenation is done by the layers that are concatenated, where it costs nothing.
fn activate_before_concat(
    graph: &Graph,
    shapes: &[Vec<usize>],
    all: &mut Vec<Group>,
    only_reader: &impl Fn(usize) -> Option<usize>,
) {
    let nodes = graph.nodes();
    for at in 0..all.len() {
        let concat = all[at].last;
        if !nodes[concat].layer().is::<Concat>() || !channels_are_rows(&shapes[concat]) {
            continue;
        }
        let Some(reader) = only_reader(concat) else { continue };
        let Some(f) = nodes[reader].layer().downcast_ref::<Activation>().map(|a| a.function) else {
            continue;
        };
        let inputs = &nodes[concat].inputs;
        let alone = |g: &Group| g.head == reader && g.last == reader;
        let willing = |g: &Group| {
            inputs.contains(&g.last)
                && only_reader(g.last) == Some(concat)
                && g.epilogue.activation.is_none()
                && g.gathers.is_none()
                && !passes(graph, g.head)
                && !nodes[g.head].layer().is::<Concat>()
        };
        if !all.iter().any(alone) || all.iter().filter(|g| willing(g)).count() != inputs.len() {
            continue;
        }
        all.iter_mut().filter(|g| willing(g)).for_each(|g| g.epilogue.activation = Some(f));
        all[at].last = reader;
    }
    // the groups of activations that were taken over: others end where they do
    let taken: Vec<usize> = all
        .iter()
        .filter(|g| g.last != g.head && nodes[g.head].layer().is::<Concat>())
        .map(|g| g.last)
        .collect();
    all.retain(|g| g.head != g.last || !taken.contains(&g.last));
}

/// A channel map that is no mere slice.
fn gathers(graph: &Graph, node: usize, shapes: &[Vec<usize>]) -> bool {
    let layer = graph.nodes()[node].layer();
    channels_are_rows(&shapes[node]) && layer.downcast_ref::<ChannelMap>().is_some_and(|m| m.run().is_none())
}

/// Layers that compute nothing.
fn passes(graph: &Graph, node: usize) -> bool {
    let layer = graph.nodes()[node].layer();
    layer.is::<Identity>()
        || layer.is::<Dropout>()
        || layer.is::<Flatten>()
        || layer.is::<Reshape>()
        || layer.is::<ChannelMap>()
}

impl Group {
    /// Takes over what the reader of the last node does, if it fits `f(scale x + shift + residual)`.
    fn absorb(&mut self, graph: &Graph, reader: usize) -> bool {
        let node = &graph.nodes()[reader];
        let layer = node.layer();
        let epilogue = &mut self.epilogue;
        if epilogue.activation.is_some() {
            return false;
        }
        if let Some(activation) = layer.downcast_ref::<Activation>() {
            epilogue.activation = Some(activation.function);
            return true;
        }
        if epilogue.residual {
            return false;
        }
        if let Some(norm) = layer.downcast_ref::<BatchNorm>() {
            let Ok((scale, shift)) = norm.scale_shift() else { return false };
            // s (a x + b) + t = (s a) x + (s b + t)
            let moved = match &epilogue.shift {
                Some(b) => b.iter().zip(&scale).zip(&shift).map(|((b, s), t)| b * s + t).collect(),
                None => shift,
            };
            epilogue.scale = Some(match &epilogue.scale {
                Some(a) => a.iter().zip(&scale).map(|(a, s)| a * s).collect(),
                None => scale,
            });
            epilogue.shift = Some(moved);
            return true;
        }
        match node.inputs.as_slice() {
            &[a, b] if layer.is::<Add>() => {
                self.residual = Some(if a == self.last { b } else { a });
                epilogue.residual = true;
                true
            }
            _ => false,
        }
    }
}
