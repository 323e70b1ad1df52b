//! The network while it is put together: layers with the shapes they make, before names are final.

use crate::names;
use crate::op::Refusal;
use crate::value::{MOST_AXES, claimed_elements};
use crate::{Error, Result};
use cnn_core::layers::{Flatten, Identity, Input, Reshape};
use cnn_core::{Graph, Layer};

/// One layer.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The name it should get, if it is free.
    pub name: String,
    layer: Box<dyn Layer>,
    /// Positions of the drafts it reads, all before its own.
    pub inputs: Vec<usize>,
    /// The shape it makes of one image, with a batch of 1.
    pub shape: Vec<usize>,
}

impl Draft {
    /// The layer as a concrete type.
    pub fn layer<T: Layer>(&self) -> Option<&T> {
        self.layer.downcast_ref()
    }
}

/// All layers so far; the first is the input.
#[derive(Debug)]
pub(crate) struct Drafts {
    list: Vec<Draft>,
    limit: u64,
}

impl Drafts {
    /// Only the input, of a shape without batch; no value may have more elements than the limit.
    pub fn new(input: &[usize], limit: u64) -> Result<Drafts, Refusal> {
        let mut drafts = Drafts { list: Vec::new(), limit };
        drafts.push("input", Input { shape: input.to_vec() }, &[])?;
        Ok(drafts)
    }

    pub fn get(&self, at: usize) -> &Draft {
        &self.list[at]
    }

    /// The shape a draft makes of one image, with a batch of 1.
    pub fn shape(&self, at: usize) -> &[usize] {
        &self.list[at].shape
    }

    fn make<L: Layer>(&self, name: &str, layer: L, inputs: &[usize]) -> Result<Draft, Refusal> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|&i| self.shape(i)).collect();
        let shape = layer.output_shape(&shapes)?;
        if shape.len() > MOST_AXES {
            return Err(Refusal::unsupported(format!("a value of {} axes", shape.len())));
        }
        let size = claimed_elements(&shape);
        if size.is_none_or(|n| n > self.limit) {
            return Err(Refusal::invalid(format!(
                "a value of shape {shape:?} has more elements than the limit of {}; raise `ImportOptions::limit` if you trust the file",
                self.limit
            )));
        }
        let inputs = inputs.to_vec();
        Ok(Draft { name: name.to_string(), layer: Box::new(layer), inputs, shape })
    }

    /// Adds a layer and returns its position.
    pub fn push<L: Layer>(&mut self, name: &str, layer: L, inputs: &[usize]) -> Result<usize, Refusal> {
        let draft = self.make(name, layer, inputs)?;
        self.list.push(draft);
        Ok(self.list.len() - 1)
    }

    /// Adds something of a given shape, where an operator is not supported but what follows should be looked
    /// at.
    pub fn push_placeholder(&mut self, shape: &[usize]) -> usize {
        let draft =
            Draft { name: String::new(), layer: Box::new(Identity), inputs: vec![0], shape: shape.to_vec() };
        self.list.push(draft);
        self.list.len() - 1
    }

    /// Puts another layer in a draft's place, that makes the same shape.
    pub fn replace<L: Layer>(
        &mut self,
        at: usize,
        name: &str,
        layer: L,
        inputs: &[usize],
    ) -> Result<(), Refusal> {
        let draft = self.make(name, layer, inputs)?;
        if draft.shape != self.list[at].shape || inputs.iter().any(|&i| i >= at) {
            return Err(Refusal::invalid("a layer was to be replaced by one of another shape"));
        }
        self.list[at] = draft;
        Ok(())
    }

    /// As [`Drafts::replace`], for a layer that makes another shape: its readers must be seen to.
    pub fn put<L: Layer>(
        &mut self,
        at: usize,
        name: &str,
        layer: L,
        inputs: &[usize],
    ) -> Result<(), Refusal> {
        self.list[at] = self.make(name, layer, inputs)?;
        Ok(())
    }

    /// Lets a draft read another one, of another shape: its readers must be seen to.
    pub fn rewire(&mut self, at: usize, input: usize) -> Result<(), Refusal> {
        let shape = self.list[at].layer.output_shape(&[self.shape(input)])?;
        let draft = &mut self.list[at];
        draft.shape = shape;
        draft.inputs = vec![input];
        Ok(())
    }

    /// Lets the readers of identities read what those read.
    pub fn skip_identities(&mut self) {
        for at in 1..self.list.len() {
            for i in 0..self.list[at].inputs.len() {
                // those before are done, so one step is enough
                let input = &self.list[self.list[at].inputs[i]];
                if let (Some(_), [from]) = (input.layer::<Identity>(), &input.inputs[..]) {
                    self.list[at].inputs[i] = *from;
                }
            }
        }
    }

    /// The same values in another shape, with a batch of 1 in front; nothing is added if it has that shape.
    pub fn reshape(&mut self, name: &str, from: usize, shape: &[usize]) -> Result<usize, Refusal> {
        match shape {
            _ if self.shape(from) == shape => Ok(from),
            [1, _] if self.shape(from).len() > 1 => self.push(name, Flatten, &[from]),
            [1, rest @ ..] => self.push(name, Reshape { shape: rest.to_vec() }, &[from]),
            _ => Err(Refusal::unsupported("a shape that mixes the images of a batch")),
        }
    }

    /// True for each draft that the output depends on.
    pub fn live(&self, output: usize) -> Vec<bool> {
        let mut live = vec![false; self.list.len()];
        live[output] = true;
        live[0] = true;
        for at in (0..=output).rev().filter(|&at| at > 0) {
            if live[at] {
                self.list[at].inputs.iter().for_each(|&i| live[i] = true);
            }
        }
        live
    }

    /// How many live drafts read each draft; the output counts as a reader.
    pub fn readers(&self, output: usize) -> Vec<usize> {
        let live = self.live(output);
        let mut readers = vec![0; self.list.len()];
        readers[output] += 1;
        let inputs = self.list.iter().zip(&live).filter(|(_, live)| **live).flat_map(|(d, _)| &d.inputs);
        inputs.for_each(|&i| readers[i] += 1);
        readers
    }

    /// The graph of what the output depends on, without identities.
    pub fn build(self, output: usize) -> Result<Graph> {
        let live = self.live(output);
        let mut taken = names::Taken::default();
        taken.unique("input".to_string());
        let mut nodes = Vec::new();
        // where each draft is found among the nodes, the input being the first
        let mut built = vec![0];
        let mut drafts = self.list.into_iter();
        let shape = drafts.next().map(|input| input.shape).unwrap_or_default();
        for (at, draft) in (1..).zip(drafts) {
            let inputs: Vec<usize> = draft.inputs.iter().map(|&i| built[i]).collect();
            let passes = draft.layer.is::<Identity>() && (at != output || inputs != [0]);
            if !live[at] || passes {
                built.push(inputs.first().copied().unwrap_or(0));
                continue;
            }
            nodes.push((taken.unique(draft.name), draft.layer, inputs));
            built.push(nodes.len());
        }
        Graph::from_nodes(shape.get(1..).unwrap_or_default(), nodes).map_err(Error::Core)
    }
}
