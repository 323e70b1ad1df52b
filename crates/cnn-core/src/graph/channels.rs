//! Channel surgery: removing channels of one node and of everything that is tied to them.
//!
//! Every channel of every node is an element; [`ChannelRule`]s tie elements together (residual adds, concats, shuffles,
//! flatten). Removing a channel removes its whole class. Union-find over elements makes this independent of topology.

use super::Graph;
use crate::layer::{ChannelRule, Keep, Layer};
use crate::{Error, Result};

/// Channels that are removed together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelClass {
    /// Position of a node and channel of its output, in order.
    pub members: Vec<(usize, usize)>,
    /// Why they cannot be removed, if so.
    pub fixed: Option<Fixed>,
}

/// Why channels cannot be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fixed {
    /// They are the network's input.
    Input,
    /// They are the network's output.
    Output,
    /// The layer of this node, which makes or reads them, does not say how channels pass.
    Opaque(usize),
}

impl Graph {
    /// Keeps only the given output channels of a node, and follows every dependency: through residual adds, concats,
    /// depthwise and grouped convolutions, shuffles, and flatten into linear layers. Channels are physically removed.
    ///
    /// # Errors
    /// If there is no such node, an index is out of range or repeated, nothing would be left, the graph's input or output
    /// would change, or a layer on the way does not let channels through; the graph is then as before.
    ///
    /// ```
    /// use cnn_core::testing::lenet5;
    /// let mut graph = lenet5(0)?;
    /// graph.keep_channels("conv1", &[0, 3, 4])?;
    /// assert_eq!(graph.shapes(1)?[1], [1, 3, 24, 24]);
    /// # Ok::<(), cnn_core::Error>(())
    /// ```
    pub fn keep_channels(&mut self, name: &str, keep: &[usize]) -> Result<()> {
        let target = self.find(name)?;
        let classes = Classes::of(self)?;
        let count = classes.channels[target];
        let mut kept = vec![false; count];
        for &c in keep {
            match kept.get_mut(c) {
                None => {
                    return Err(Error::Edit(format!(
                        "channel {c} of `{name}` is out of range (it has {count})"
                    )));
                }
                Some(true) => return Err(Error::Edit(format!("channel {c} of `{name}` is listed twice"))),
                Some(flag) => *flag = true,
            }
        }
        if keep.is_empty() {
            return Err(Error::Edit(format!("`{name}` would lose all its channels; keep at least one")));
        }
        let gone: Vec<(usize, usize)> = (0..count).filter(|&c| !kept[c]).map(|c| (target, c)).collect();
        let removed = classes.removed(self, &gone)?;
        if let Some(c) = (0..count).find(|&c| kept[c] && removed[target][c]) {
            return Err(Error::Edit(format!(
                "channel {c} of `{name}` is tied to a channel that is removed; remove both or keep both"
            )));
        }
        self.drop_channels(&removed)
    }

    /// Which channels can only go together: every channel of every node is in exactly one class. In execution order of each
    /// class's first channel.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn channel_classes(&self) -> Result<Vec<ChannelClass>> {
        let mut classes = Classes::of(self)?;
        let mut found: Vec<ChannelClass> = Vec::new();
        let mut class_of = vec![usize::MAX; classes.parent.len()];
        for at in 0..self.nodes.len() {
            for channel in 0..classes.channels[at] {
                let root = classes.find(classes.offset[at] + channel);
                if class_of[root] == usize::MAX {
                    class_of[root] = found.len();
                    found.push(ChannelClass { members: Vec::new(), fixed: None });
                }
                found[class_of[root]].members.push((at, channel));
            }
        }
        let touched: Vec<usize> = classes.opaque.clone();
        let opaque = touched.iter().flat_map(|&at| {
            self.nodes[at]
                .inputs
                .iter()
                .chain([&at])
                .map(move |&i| (i, Fixed::Opaque(at)))
                .collect::<Vec<_>>()
        });
        for (at, why) in [(0, Fixed::Input), (self.output, Fixed::Output)].into_iter().chain(opaque) {
            for channel in 0..classes.channels[at] {
                let root = classes.find(classes.offset[at] + channel);
                found[class_of[root]].fixed.get_or_insert(why);
            }
        }
        Ok(found)
    }

    /// Removes channels, given as position of a node and channel of its output, and whatever is tied to them, as one edit.
    ///
    /// # Errors
    /// If there is no such channel, a node would lose all its channels, the graph's input or output would change, or a layer
    /// on the way does not let channels through; the graph is then as before.
    ///
    /// ```
    /// use cnn_core::testing::lenet5;
    /// let mut graph = lenet5(0)?;
    /// let (conv1, conv2) = (graph.find("conv1")?, graph.find("conv2")?);
    /// graph.remove_channels(&[(conv1, 0), (conv1, 7), (conv2, 49)])?;
    /// assert_eq!(graph.shapes(1)?[conv1][1], 18);
    /// assert_eq!(graph.shapes(1)?[conv2][1], 49);
    /// # Ok::<(), cnn_core::Error>(())
    /// ```
    pub fn remove_channels(&mut self, channels: &[(usize, usize)]) -> Result<()> {
        let classes = Classes::of(self)?;
        for &(at, channel) in channels {
            if at >= self.nodes.len() || channel >= classes.channels[at] {
                return Err(Error::Edit(format!("there is no channel {channel} of node {at}")));
            }
        }
        let removed = classes.removed(self, channels)?;
        self.drop_channels(&removed)
    }

    /// Slices all layers; `removed` says for every channel of every node whether it goes.
    fn drop_channels(&mut self, removed: &[Vec<bool>]) -> Result<()> {
        self.edit(|graph| {
            // per node, the sorted channels that stay; None when all do
            let stay: Vec<Option<Vec<usize>>> = removed
                .iter()
                .map(|gone| gone.contains(&true).then(|| (0..gone.len()).filter(|&c| !gone[c]).collect()))
                .collect();
            for (at, node) in graph.nodes.iter_mut().enumerate() {
                let inputs: Vec<Option<&[usize]>> = node.inputs.iter().map(|&i| stay[i].as_deref()).collect();
                let output = stay[at].as_deref();
                if output.is_some_and(<[usize]>::is_empty) {
                    return Err(Error::Edit("it would lose all its channels".into()).at(&node.name));
                }
                if output.is_some() || inputs.iter().any(Option::is_some) {
                    let name = node.name.clone();
                    node.layer_mut().select(Keep { inputs: &inputs, output }).map_err(|e| e.at(&name))?;
                }
            }
            Ok(())
        })
    }

    /// The nodes whose output channels go together with those of `name`, itself included, in execution order.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn tied_channels(&self, name: &str) -> Result<Vec<String>> {
        let target = self.find(name)?;
        let mut classes = Classes::of(self)?;
        let roots: Vec<usize> =
            (0..classes.channels[target]).map(|c| classes.find(classes.offset[target] + c)).collect();
        let mut tied = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if (0..classes.channels[at]).any(|c| roots.contains(&classes.find(classes.offset[at] + c))) {
                tied.push(node.name.clone());
            }
        }
        Ok(tied)
    }
}

/// Union-find over all (node, channel) pairs.
struct Classes {
    /// First element of each node.
    offset: Vec<usize>,
    /// Channels of each node.
    channels: Vec<usize>,
    parent: Vec<usize>,
    /// Nodes that do not let channels through.
    opaque: Vec<usize>,
}

impl Classes {
    fn of(graph: &Graph) -> Result<Classes> {
        let shapes = graph.shapes(1)?;
        let channels: Vec<usize> = shapes.iter().map(|s| s.get(1).copied().unwrap_or(1)).collect();
        let offset: Vec<usize> = channels
            .iter()
            .scan(0, |sum, &c| {
                let at = *sum;
                *sum += c;
                Some(at)
            })
            .collect();
        let parent = (0..channels.iter().sum()).collect();
        let mut classes = Classes { offset, channels, parent, opaque: Vec::new() };
        for (at, node) in graph.nodes.iter().enumerate().skip(1) {
            let inputs: Vec<&[usize]> = node.inputs.iter().map(|&i| shapes[i].as_slice()).collect();
            classes.tie(at, &node.inputs, node.layer(), &inputs);
        }
        Ok(classes)
    }

    fn tie(&mut self, at: usize, inputs: &[usize], layer: &dyn Layer, shapes: &[&[usize]]) {
        match layer.channels(shapes) {
            ChannelRule::Free => {}
            ChannelRule::Opaque => self.opaque.push(at),
            ChannelRule::Same => {
                for &input in inputs {
                    (0..self.channels[at].min(self.channels[input]))
                        .for_each(|c| self.union((input, c), (at, c)));
                }
            }
            ChannelRule::Concat => {
                let mut first = 0;
                for &input in inputs {
                    (0..self.channels[input]).for_each(|c| self.union((input, c), (at, first + c)));
                    first += self.channels[input];
                }
            }
            ChannelRule::Gather(map) => {
                for (c, source) in map.iter().enumerate() {
                    if let Some(source) = *source {
                        self.union((inputs[0], source), (at, c));
                    }
                }
            }
            ChannelRule::Expand(factor) => {
                (0..self.channels[at]).for_each(|c| self.union((inputs[0], c / factor.max(1)), (at, c)));
            }
        }
    }

    fn find(&mut self, mut element: usize) -> usize {
        while self.parent[element] != element {
            self.parent[element] = self.parent[self.parent[element]];
            element = self.parent[element];
        }
        element
    }

    fn union(&mut self, a: (usize, usize), b: (usize, usize)) {
        let a = self.find(self.offset[a.0] + a.1);
        let b = self.find(self.offset[b.0] + b.1);
        self.parent[a.max(b)] = a.min(b);
    }

    /// For every node the channels that go when the given ones do.
    fn removed(mut self, graph: &Graph, channels: &[(usize, usize)]) -> Result<Vec<Vec<bool>>> {
        let mut gone = vec![false; self.parent.len()];
        for &(at, channel) in channels {
            let root = self.find(self.offset[at] + channel);
            gone[root] = true;
        }
        let mut removed = Vec::with_capacity(graph.nodes.len());
        for at in 0..graph.nodes.len() {
            let channels: Vec<bool> =
                (0..self.channels[at]).map(|c| gone[self.find(self.offset[at] + c)]).collect();
            removed.push(channels);
        }
        let name = |at: usize| graph.nodes[at].name.as_str();
        for (at, what) in [(0, "input"), (graph.output, "output")] {
            if removed[at].contains(&true) {
                return Err(Error::Edit(format!(
                    "channels of the network's {what} `{}` would be removed",
                    name(at)
                )));
            }
        }
        for &at in &self.opaque {
            let touched = graph.nodes[at].inputs.iter().chain([&at]).any(|&i| removed[i].contains(&true));
            if touched {
                let kind = graph.nodes[at].layer().kind().to_string();
                let why = "it does not say how channels pass; protect what feeds it".to_string();
                return Err(Error::Opaque { kind, why }.at(name(at)));
            }
        }
        Ok(removed)
    }
}
