//! Forward and backward over a graph in training mode.

use super::pool::Pool;
use super::seed::mix;
use super::trainable::{Backward, Input, Needs, Saved, Step};
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The activations of one forward pass, as far as the backward pass needs them, and the buffers behind them. Kept from
/// step to step, so that the buffers are used again.
#[derive(Debug, Default)]
pub struct Tape {
    pool: Pool,
    values: Vec<Option<Tensor>>,
    shapes: Vec<Vec<usize>>,
    saved: Vec<Saved>,
    seed: u64,
}

impl Tape {
    /// Runs the graph in training mode; read the wanted outputs with [`Tape::value`].
    /// `wanted` are positions whose values must stay readable; `seed` drives dropout.
    ///
    /// # Errors
    /// If the batch does not fit, or a layer cannot be trained.
    pub fn forward(&mut self, graph: &mut Graph, images: &Tensor, wanted: &[usize], seed: u64) -> Result<()> {
        graph.check_input(images)?;
        self.clear();
        let count = graph.nodes().len();
        self.seed = seed;
        self.shapes = graph.shapes(images.shape()[0])?;
        self.values.resize_with(count, || None);
        self.saved.resize_with(count, Saved::default);
        let needs = all_needs(graph)?;
        let mut uses = Uses::of(graph, &needs, wanted);

        let mut first = self.pool.take(images.shape());
        first.assign(images);
        self.values[0] = Some(first);
        for at in 1..count {
            let positions = graph.nodes()[at].inputs.clone();
            let owned: Vec<Option<Tensor>> = positions
                .iter()
                .map(|&i| if uses.may_take(i, &positions) { self.values[i].take() } else { None })
                .collect();
            let mut inputs: Vec<Input<'_>> = Vec::with_capacity(positions.len());
            for (&i, owned) in positions.iter().zip(owned) {
                inputs.push(match (owned, &self.values[i]) {
                    (Some(tensor), _) => Input::Owned(tensor),
                    (None, Some(tensor)) => Input::Shared(tensor),
                    (None, None) => {
                        return Err(Error::Edit(format!("the value of node {i} was freed too early")));
                    }
                });
            }
            let node = &mut graph.nodes_mut()[at];
            let mut step = Step { pool: &mut self.pool, saved: &mut self.saved[at], seed: mix(seed, at, 0) };
            let name = node.name.clone();
            let kind = node.layer().kind();
            let layer = node.layer_mut().trainable();
            let layer = layer.ok_or_else(|| Error::NotTrainable(kind.to_string()).at(&name))?;
            let output = layer.forward(&mut inputs, &mut step).map_err(|e| e.at(&name))?;
            for input in inputs {
                if let Input::Owned(tensor) = input {
                    self.pool.give(tensor);
                }
            }
            self.values[at] = Some(output);
            for &i in &positions {
                if uses.read(i) {
                    self.free(i);
                }
            }
        }
        Ok(())
    }

    /// The value of a node after [`Tape::forward`], if it was wanted or is still needed.
    pub fn value(&self, at: usize) -> Option<&Tensor> {
        self.values.get(at)?.as_ref()
    }

    /// Propagates gradients, given for some nodes' outputs, back through the graph. Parameters gather theirs; the
    /// constraints have pulled them back when this returns.
    ///
    /// # Errors
    /// If a layer fails.
    pub fn backward(&mut self, graph: &mut Graph, grads: Vec<(usize, Tensor)>) -> Result<()> {
        let count = graph.nodes().len();
        let mut pending: Vec<Option<Tensor>> = Vec::new();
        pending.resize_with(count, || None);
        for (at, grad) in grads {
            self.gather(&mut pending[at], grad);
        }
        let needs = all_needs(graph)?;
        let useful = reaches_params(graph);
        for at in (1..count).rev() {
            let grad = pending[at].take();
            let positions = graph.nodes()[at].inputs.clone();
            let Some(grad) = grad.filter(|_| useful[at]) else {
                self.free(at);
                continue;
            };
            let keeps = |wanted: bool, i: usize| if wanted { self.values[i].as_ref() } else { None };
            let inputs: Vec<Option<&Tensor>> =
                positions.iter().map(|&i| keeps(needs[at].inputs, i)).collect();
            let shapes: Vec<&[usize]> = positions.iter().map(|&i| self.shapes[i].as_slice()).collect();
            let wanted: Vec<bool> = positions.iter().map(|&i| useful[i]).collect();
            let request = Backward {
                inputs: &inputs,
                output: keeps(needs[at].output, at),
                shapes: &shapes,
                grad,
                wanted: &wanted,
            };
            let node = &mut graph.nodes_mut()[at];
            let mut step =
                Step { pool: &mut self.pool, saved: &mut self.saved[at], seed: mix(self.seed, at, 0) };
            let name = node.name.clone();
            let kind = node.layer().kind();
            let layer = node.layer_mut().trainable();
            let layer = layer.ok_or_else(|| Error::NotTrainable(kind.to_string()).at(&name))?;
            let results = layer.backward(request, &mut step).map_err(|e| e.at(&name))?;
            layer.params_mut().into_iter().for_each(|p| p.pull_back());
            for (&i, grad) in positions.iter().zip(results) {
                if let Some(grad) = grad {
                    self.gather(&mut pending[i], grad);
                }
            }
            self.free(at);
        }
        Ok(())
    }

    /// The first node, in execution order, that has a value which is not finite.
    pub fn first_not_finite(&self, graph: &Graph) -> Option<String> {
        let bad = |v: &Option<Tensor>| v.as_ref().is_some_and(|t| t.iter().any(|x| !x.is_finite()));
        self.values.iter().position(bad).map(|at| graph.nodes()[at].name.clone())
    }

    fn gather(&mut self, sum: &mut Option<Tensor>, grad: Tensor) {
        match sum {
            None => *sum = Some(grad),
            Some(sum) => {
                match (sum.as_slice_mut(), grad.as_slice()) {
                    (Some(a), Some(b)) => crate::ops::merge::add_in_place(a, b),
                    _ => *sum += &grad,
                }
                self.pool.give(grad);
            }
        }
    }

    fn free(&mut self, at: usize) {
        if let Some(tensor) = self.values[at].take() {
            self.pool.give(tensor);
        }
    }

    fn clear(&mut self) {
        (0..self.values.len()).for_each(|at| self.free(at));
        self.values.clear();
    }
}

/// Who will still read each node's value.
struct Uses {
    /// Forward reads to come.
    forward: Vec<usize>,
    /// The backward pass or the caller reads it, so that forward must keep it.
    kept: Vec<bool>,
}

impl Uses {
    fn of(graph: &Graph, needs: &[Needs], wanted: &[usize]) -> Uses {
        let count = graph.nodes().len();
        let mut uses = Uses { forward: vec![0; count], kept: vec![false; count] };
        for (at, node) in graph.nodes().iter().enumerate() {
            for &i in &node.inputs {
                uses.forward[i] += 1;
                uses.kept[i] |= needs[at].inputs;
            }
            uses.kept[at] |= needs[at].output;
        }
        wanted.iter().chain([&graph.output()]).for_each(|&at| uses.kept[at] = true);
        uses
    }

    /// True if a node with these inputs is the last to read node `i`, so that it may have the memory.
    fn may_take(&self, i: usize, inputs: &[usize]) -> bool {
        self.forward[i] == 1 && !self.kept[i] && inputs.iter().filter(|&&j| j == i).count() == 1
    }

    /// Counts a read; true if the value can be freed.
    fn read(&mut self, i: usize) -> bool {
        self.forward[i] -= 1;
        self.forward[i] == 0 && !self.kept[i]
    }
}

fn all_needs(graph: &mut Graph) -> Result<Vec<Needs>> {
    let mut needs = vec![Needs::default()];
    for node in graph.nodes_mut().iter_mut().skip(1) {
        let kind = node.layer().kind();
        let name = node.name.clone();
        match node.layer_mut().trainable() {
            Some(layer) => needs.push(layer.needs()),
            None => return Err(Error::NotTrainable(kind.to_string()).at(&name)),
        }
    }
    Ok(needs)
}

/// Nodes through which gradients reach a parameter: their own, or one before them.
fn reaches_params(graph: &Graph) -> Vec<bool> {
    let mut reaches = vec![false; graph.nodes().len()];
    for (at, node) in graph.nodes().iter().enumerate() {
        reaches[at] = !node.layer().params().is_empty() || node.inputs.iter().any(|&i| reaches[i]);
    }
    reaches
}
