//! The reference executor: every layer's `infer`, one after the other.

use super::Graph;
use crate::tensor::Tensor;
use crate::{Error, Result};

impl Graph {
    /// The output for a batch: the reference answer.
    ///
    /// # Errors
    /// If the batch does not have the graph's input shape, or a layer fails; the node is named.
    pub fn infer(&self, images: &Tensor) -> Result<Tensor> {
        let mut outputs = self.run(images, &[self.output])?;
        outputs.pop().ok_or_else(|| Error::Edit("the graph has no nodes".into()))
    }

    /// The outputs of named nodes for a batch, in the order of the names.
    ///
    /// # Errors
    /// As [`Graph::infer`], and if a node does not exist.
    pub fn capture(&self, names: &[&str], images: &Tensor) -> Result<Vec<Tensor>> {
        let wanted = names.iter().map(|n| self.find(n)).collect::<Result<Vec<_>>>()?;
        self.run(images, &wanted)
    }

    fn run(&self, images: &Tensor, wanted: &[usize]) -> Result<Vec<Tensor>> {
        self.check_input(images)?;
        // how often each output is still to be read; at zero it is freed
        let mut readers = vec![0usize; self.nodes.len()];
        let needed = self.needed(wanted);
        for (node, _) in self.nodes.iter().zip(&needed).filter(|(_, needed)| **needed) {
            node.inputs.iter().for_each(|&i| readers[i] += 1);
        }
        wanted.iter().for_each(|&at| readers[at] += 1);

        let mut values: Vec<Option<Tensor>> = vec![None; self.nodes.len()];
        values[0] = Some(images.as_standard_layout().into_owned());
        for (at, node) in self.nodes.iter().enumerate().skip(1).filter(|(at, _)| needed[*at]) {
            let inputs: Vec<&Tensor> = node.inputs.iter().filter_map(|&i| values[i].as_ref()).collect();
            values[at] = Some(node.layer().infer(&inputs).map_err(|e| e.at(&node.name))?);
            for &input in &node.inputs {
                readers[input] -= 1;
                if readers[input] == 0 {
                    values[input] = None;
                }
            }
        }
        Ok(wanted.iter().filter_map(|&at| values[at].clone()).collect())
    }

    /// The nodes on which the wanted ones depend, themselves included.
    pub(super) fn needed(&self, wanted: &[usize]) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        wanted.iter().for_each(|&at| needed[at] = true);
        for at in (0..self.nodes.len()).rev() {
            if needed[at] {
                self.nodes[at].inputs.iter().for_each(|&i| needed[i] = true);
            }
        }
        needed
    }

    /// Checks a batch against the graph's input shape.
    pub(crate) fn check_input(&self, images: &Tensor) -> Result<()> {
        self.check_input_shape(images.shape())
    }

    /// Checks the shape of a batch against the graph's input shape.
    pub(crate) fn check_input_shape(&self, images: &[usize]) -> Result<()> {
        let expected = self.input_shape();
        match images {
            [n, rest @ ..] if rest == expected && *n > 0 => Ok(()),
            other => Err(Error::Shape(format!(
                "the network takes batches of shape [n, {}] with n > 0, got {other:?}",
                expected.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}
