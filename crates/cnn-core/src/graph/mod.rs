//! The network as data: a flat list of named nodes in topological order.
//!
//! Compression is graph surgery, so structure is data and the set of layers is open. Nodes are reached by name;
//! positions are valid until the next edit. Layers are shared copy-on-write, so that cloning a graph is cheap: an
//! edit works on a clone, validates it, and commits it as a whole.

mod channels;
mod edit;
mod exec;
mod table;

pub use channels::{ChannelClass, Fixed};

use crate::cost::Cost;
use crate::data::Preprocess;
use crate::layer::Layer;
use crate::layers::Input;
use crate::{Error, Result};
use std::collections::HashSet;
use std::sync::Arc;

/// One operation with its name and where its inputs come from.
#[derive(Debug, Clone)]
pub struct Node {
    /// Unique name.
    pub name: String,
    /// Positions of the nodes it reads, all before its own.
    pub inputs: Vec<usize>,
    layer: Arc<dyn Layer>,
}

impl Node {
    /// The layer.
    pub fn layer(&self) -> &dyn Layer {
        self.layer.as_ref()
    }

    pub(crate) fn shared_layer(&self) -> &Arc<dyn Layer> {
        &self.layer
    }

    /// The layer, to be changed; copied first when another graph shares it.
    pub(crate) fn layer_mut(&mut self) -> &mut dyn Layer {
        if Arc::get_mut(&mut self.layer).is_none() {
            self.layer = Arc::from(self.layer.clone_box());
        }
        Arc::get_mut(&mut self.layer).unwrap_or_else(|| unreachable!("the layer was just copied"))
    }
}

/// A network with one input and one output.
#[derive(Debug, Clone)]
pub struct Graph {
    nodes: Vec<Node>,
    output: usize,
    /// How pixels become input values, when it is known.
    pub preprocess: Option<Preprocess>,
}

impl Graph {
    /// A graph that only has its input node, `"input"`, for images of shape `[c, h, w]` (or any shape without batch).
    pub fn new(input: &[usize]) -> Graph {
        let layer: Arc<dyn Layer> = Arc::new(Input { shape: input.to_vec() });
        let node = Node { name: "input".to_string(), inputs: Vec::new(), layer };
        Graph { nodes: vec![node], output: 0, preprocess: None }
    }

    pub(crate) fn empty() -> Graph {
        Graph { nodes: Vec::new(), output: 0, preprocess: None }
    }

    /// A graph from all its nodes at once: names, layers, and the positions each one reads, where 0 is the input. The last one is the
    /// output. Shapes are inferred once, so that this takes linear time where adding one by one does not.
    ///
    /// # Errors
    /// If a name comes twice or is that of the input, a node reads one that does not come before it, or the shapes do not fit.
    pub fn from_nodes(input: &[usize], nodes: Vec<(String, Box<dyn Layer>, Vec<usize>)>) -> Result<Graph> {
        let mut graph = Graph::new(input);
        let mut names: HashSet<String> = graph.nodes.iter().map(|n| n.name.clone()).collect();
        for (name, layer, inputs) in nodes {
            if !names.insert(name.clone()) {
                return Err(Error::DuplicateNode(name));
            }
            graph.append_unchecked(name, layer, inputs);
        }
        graph.output = graph.nodes.len() - 1;
        graph.shapes(1)?;
        Ok(graph)
    }

    /// Adds a node that reads the last one added.
    ///
    /// # Errors
    /// If the name is taken or the shapes do not fit; the graph is then as before.
    pub fn push(&mut self, name: &str, layer: impl Layer) -> Result<()> {
        let last = self.nodes.len() - 1;
        self.append_checked(name, Box::new(layer), vec![last])
    }

    /// Adds a node that reads the named ones.
    ///
    /// # Errors
    /// As [`Graph::push`], and if an input does not exist.
    pub fn add(&mut self, name: &str, layer: impl Layer, inputs: &[&str]) -> Result<()> {
        let inputs = inputs.iter().map(|i| self.find(i)).collect::<Result<Vec<_>>>()?;
        self.append_checked(name, Box::new(layer), inputs)
    }

    fn append_checked(&mut self, name: &str, layer: Box<dyn Layer>, inputs: Vec<usize>) -> Result<()> {
        self.append(name.to_string(), layer, inputs)?;
        let output = std::mem::replace(&mut self.output, self.nodes.len() - 1);
        if let Err(e) = self.shapes(1) {
            self.nodes.pop();
            self.output = output;
            return Err(e);
        }
        Ok(())
    }

    /// Adds a node without inferring shapes; the caller does it once at the end.
    pub(crate) fn append(&mut self, name: String, layer: Box<dyn Layer>, inputs: Vec<usize>) -> Result<()> {
        if self.nodes.iter().any(|n| n.name == name) {
            return Err(Error::DuplicateNode(name));
        }
        self.append_unchecked(name, layer, inputs);
        Ok(())
    }

    /// As [`Graph::append`], for a caller that knows the name to be new.
    pub(crate) fn append_unchecked(&mut self, name: String, layer: Box<dyn Layer>, inputs: Vec<usize>) {
        self.nodes.push(Node { name, inputs, layer: Arc::from(layer) });
    }

    /// The nodes in execution order; the first one is the input.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// The layer of the node at a position of [`Graph::nodes`], to be changed in place; copied first when another graph
    /// shares it. What changes shapes goes through the edits.
    ///
    /// # Panics
    /// If there is no such position.
    pub fn layer_at_mut(&mut self, at: usize) -> &mut dyn Layer {
        self.nodes[at].layer_mut()
    }

    /// Drops a layer: the node computes nothing any more.
    pub(crate) fn forget_layer(&mut self, at: usize) {
        self.nodes[at].layer = Arc::new(crate::layers::Identity);
    }

    /// Position of the output node.
    pub fn output(&self) -> usize {
        self.output
    }

    pub(crate) fn set_output(&mut self, at: usize) -> Result<()> {
        if at >= self.nodes.len() {
            return Err(Error::malformed(format!("output {at} of {} nodes", self.nodes.len())));
        }
        self.output = at;
        Ok(())
    }

    /// Position of a node.
    ///
    /// # Errors
    /// [`Error::UnknownNode`].
    pub fn find(&self, name: &str) -> Result<usize> {
        self.nodes.iter().position(|n| n.name == name).ok_or_else(|| Error::UnknownNode {
            name: name.to_string(),
            known: self.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// A node by name.
    ///
    /// # Errors
    /// [`Error::UnknownNode`].
    pub fn node(&self, name: &str) -> Result<&Node> {
        Ok(&self.nodes[self.find(name)?])
    }

    /// The named node's layer as a concrete type, or `None` if it is another type.
    ///
    /// # Errors
    /// [`Error::UnknownNode`].
    pub fn layer<T: Layer>(&self, name: &str) -> Result<Option<&T>> {
        Ok(self.node(name)?.layer().downcast_ref())
    }

    /// The named node's layer as a concrete type, mutable.
    ///
    /// # Errors
    /// [`Error::UnknownNode`].
    pub fn layer_mut<T: Layer>(&mut self, name: &str) -> Result<Option<&mut T>> {
        let at = self.find(name)?;
        Ok(self.nodes[at].layer_mut().downcast_mut())
    }

    /// Names of all nodes whose layer is of one type, in execution order.
    pub fn names_of<T: Layer>(&self) -> Vec<String> {
        self.nodes.iter().filter(|n| n.layer().is::<T>()).map(|n| n.name.clone()).collect()
    }

    /// The input's shape without the batch axis.
    pub fn input_shape(&self) -> &[usize] {
        match self.nodes.first().and_then(|n| n.layer().downcast_ref::<Input>()) {
            Some(input) => &input.shape,
            None => &[],
        }
    }

    /// The output shape of every node for a batch of `n`: shape inference, and the validation of the whole graph.
    ///
    /// # Errors
    /// An [`Error::Node`] that names the first node whose inputs do not fit.
    pub fn shapes(&self, n: usize) -> Result<Vec<Vec<usize>>> {
        self.shapes_for(&[&[n], self.input_shape()].concat())
    }

    /// As [`Graph::shapes`] for a batch of any shape, as a session may be compiled for another size of images.
    pub(crate) fn shapes_for(&self, images: &[usize]) -> Result<Vec<Vec<usize>>> {
        let mut shapes: Vec<Vec<usize>> = Vec::with_capacity(self.nodes.len());
        for (at, node) in self.nodes.iter().enumerate() {
            let is_input = node.layer().is::<Input>();
            if is_input != (at == 0) {
                return Err(
                    Error::Edit("the first node, and only that one, is the input".into()).at(&node.name)
                );
            }
            if let Some(bad) = node.inputs.iter().find(|&&i| i >= at) {
                return Err(
                    Error::Edit(format!("it reads node {bad}, which does not come before it")).at(&node.name)
                );
            }
            let inputs: Vec<&[usize]> = node.inputs.iter().map(|&i| shapes[i].as_slice()).collect();
            let shape = match is_input {
                true => images.to_vec(),
                false => node.layer().output_shape(&inputs).map_err(|e| e.at(&node.name))?,
            };
            if shape
                .iter()
                .try_fold(1usize, |p, &d| p.checked_mul(d))
                .is_none_or(|p| p > isize::MAX as usize / 8)
            {
                return Err(Error::Shape(format!("{shape:?} is too large")).at(&node.name));
            }
            shapes.push(shape);
        }
        if self.nodes.is_empty() {
            return Err(Error::Edit("the graph has no nodes".into()));
        }
        Ok(shapes)
    }

    /// The cost of every node for one image, in execution order.
    ///
    /// # Errors
    /// As [`Graph::shapes`].
    pub fn costs(&self) -> Result<Vec<Cost>> {
        let shapes = self.shapes(1)?;
        let cost = |node: &Node| {
            let inputs: Vec<&[usize]> = node.inputs.iter().map(|&i| shapes[i].as_slice()).collect();
            node.layer().cost(&inputs).map_err(|e| e.at(&node.name))
        };
        self.nodes.iter().map(cost).collect()
    }

    /// The cost of the whole graph for one image.
    ///
    /// # Errors
    /// As [`Graph::shapes`].
    pub fn cost(&self) -> Result<Cost> {
        Ok(self.costs()?.into_iter().sum())
    }
}
