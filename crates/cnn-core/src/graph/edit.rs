//! Edits: each works on a cheap clone, is validated by shape inference, and is committed as a whole or not at all.

use super::{Graph, Node};
use crate::layer::Layer;
use crate::{Error, Result};
use std::sync::Arc;

impl Graph {
    /// Makes any change as one edit: when `change` or the validation after it fails, the graph stays as it was.
    ///
    /// # Errors
    /// Those of `change`, and of [`Graph::shapes`] afterwards.
    pub fn edit<T>(&mut self, change: impl FnOnce(&mut Graph) -> Result<T>) -> Result<T> {
        let mut next = self.clone();
        let result = change(&mut next)?;
        next.shapes(1)?;
        *self = next;
        Ok(result)
    }

    /// Puts another layer in a node's place, with the same inputs and name.
    ///
    /// # Errors
    /// If there is no such node or the shapes do not fit; the graph is then as before.
    pub fn replace(&mut self, name: &str, layer: Box<dyn Layer>) -> Result<()> {
        let at = self.find(name)?;
        let old = std::mem::replace(&mut self.nodes[at].layer, Arc::from(layer));
        self.shapes(1).map(|_| ()).inspect_err(|_| self.nodes[at].layer = old)
    }

    /// Puts a chain of nodes in the place of one with a single input. The last takes over its readers.
    ///
    /// # Errors
    /// If there is no such node, a name is taken, the chain is empty, or the shapes do not fit; the graph is then as
    /// before.
    pub fn splice(&mut self, name: &str, chain: Vec<(String, Box<dyn Layer>)>) -> Result<()> {
        self.edit(|graph| {
            let at = graph.find(name)?;
            let [mut input] = graph.nodes[at].inputs[..] else {
                return Err(Error::Edit(format!("`{name}` does not have exactly one input")));
            };
            let Some(last) = chain.len().checked_sub(1) else {
                return Err(Error::Edit(format!("nothing to put in the place of `{name}`; use `remove`")));
            };
            for node in &mut graph.nodes {
                node.inputs.iter_mut().filter(|i| **i > at).for_each(|i| *i += last);
            }
            graph.nodes.remove(at);
            for (offset, (new_name, layer)) in chain.into_iter().enumerate() {
                if graph.nodes.iter().any(|n| n.name == new_name) {
                    return Err(Error::DuplicateNode(new_name));
                }
                let node = Node { name: new_name, inputs: vec![input], layer: Arc::from(layer) };
                graph.nodes.insert(at + offset, node);
                input = at + offset;
            }
            // the readers of the old node, which stood at `at`, now read the end of the chain
            for node in &mut graph.nodes[at + last + 1..] {
                node.inputs.iter_mut().filter(|i| **i == at).for_each(|i| *i = at + last);
            }
            if graph.output >= at {
                graph.output += last;
            }
            Ok(())
        })
    }

    /// Puts a new node between a node and all its readers.
    ///
    /// # Errors
    /// If there is no such node, the name is taken, or the shapes do not fit; the graph is then as before.
    pub fn insert_after(&mut self, name: &str, new_name: &str, layer: Box<dyn Layer>) -> Result<()> {
        self.edit(|graph| {
            let at = graph.find(name)?;
            if graph.nodes.iter().any(|n| n.name == new_name) {
                return Err(Error::DuplicateNode(new_name.to_string()));
            }
            for node in &mut graph.nodes {
                node.inputs.iter_mut().filter(|i| **i >= at).for_each(|i| *i += 1);
            }
            let node = Node { name: new_name.to_string(), inputs: vec![at], layer: Arc::from(layer) };
            graph.nodes.insert(at + 1, node);
            if graph.output >= at {
                graph.output += 1;
            }
            Ok(())
        })
    }

    /// Removes a node with a single input; its readers read that input.
    ///
    /// # Errors
    /// If there is no such node, it is the input or has several inputs, or the shapes do not fit; the graph is then as
    /// before.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.edit(|graph| {
            let at = graph.find(name)?;
            let [input] = graph.nodes[at].inputs[..] else {
                return Err(Error::Edit(format!(
                    "`{name}` does not have exactly one input and cannot be bypassed"
                )));
            };
            graph.nodes.remove(at);
            let moved = |i: usize| match i {
                i if i == at => input,
                i if i > at => i - 1,
                i => i,
            };
            for node in &mut graph.nodes {
                node.inputs.iter_mut().for_each(|i| *i = moved(*i));
            }
            graph.output = moved(graph.output);
            Ok(())
        })
    }

    /// Puts the value of one of a node's inputs in the node's place, and removes everything that nobody reads any more: how a residual
    /// branch goes, addition and all.
    ///
    /// # Errors
    /// If there is no such node or input, or the shapes do not fit; the graph is then as before.
    ///
    /// ```
    /// use cnn_core::layers::{Activation, Add};
    /// use cnn_core::Graph;
    /// let mut graph = Graph::new(&[4, 6, 6]);
    /// graph.push("stem", Activation::relu())?;
    /// graph.push("branch", Activation::relu())?;
    /// graph.add("sum", Add, &["branch", "stem"])?;
    /// graph.bypass("sum", 1)?;
    /// let names: Vec<&str> = graph.nodes().iter().map(|n| n.name.as_str()).collect();
    /// assert_eq!(names, ["input", "stem"]);
    /// # Ok::<(), cnn_core::Error>(())
    /// ```
    pub fn bypass(&mut self, name: &str, input: usize) -> Result<()> {
        self.edit(|graph| {
            let at = graph.find(name)?;
            let Some(&source) = graph.nodes[at].inputs.get(input) else {
                return Err(Error::Edit(format!("`{name}` has no input {input}")));
            };
            for node in &mut graph.nodes {
                node.inputs.iter_mut().filter(|i| **i == at).for_each(|i| *i = source);
            }
            if graph.output == at {
                graph.output = source;
            }
            graph.drop_unread();
            Ok(())
        })
    }

    /// Removes all nodes on which the output does not depend, but for the input.
    fn drop_unread(&mut self) {
        let mut stays = self.needed(&[self.output]);
        stays[0] = true;
        // where each node that stays is afterwards
        let places: Vec<usize> = stays
            .iter()
            .scan(0, |next, &stays| Some(std::mem::replace(next, *next + usize::from(stays))))
            .collect();
        let mut at = 0;
        self.nodes.retain(|_| {
            at += 1;
            stays[at - 1]
        });
        self.nodes.iter_mut().for_each(|node| node.inputs.iter_mut().for_each(|i| *i = places[*i]));
        self.output = places[self.output];
    }
}
