//! A file as a model: recognized, decoded, and checked as a graph of values.

use crate::outline::{Kind, LARGE, outline};
use crate::proto::{
    Dimension, GraphProto, ModelProto, NodeProto, TensorProto, TensorTypeProto, ValueInfoProto,
};
use crate::source::Source;
use crate::{Error, Result};
use prost::Message;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::io::Read;

/// The versions of the standard whose operators are known. From 22 on they only gained element types and rare
/// settings.
pub(crate) const OPSETS: std::ops::RangeInclusive<i64> = 9..=28;

/// What other files begin with, what they are, and what to do.
const ALIENS: [(&[u8], &str, &str); 8] = [
    (b"version https://git-lfs", "a pointer of git-lfs", "run `git lfs pull` to fetch the model itself"),
    (b"<", "a web page or an XML file", "download the file itself (the \"raw\" link)"),
    (b"{", "a JSON file", "name the .onnx file"),
    (b"CNN", "a model in the native format of this toolkit", "read it with `cnn_core::model_file`"),
    (
        b"PK\x03\x04",
        "a zip archive, perhaps a PyTorch checkpoint",
        "export it with `torch.onnx.export`, or unpack it",
    ),
    (b"\x1f\x8b", "a gzip file", "unpack it first"),
    (b"\x80", "a Python pickle, perhaps a PyTorch checkpoint", "export it with `torch.onnx.export`"),
    (b"\x89HDF", "an HDF5 file, perhaps a Keras model", "convert it with `tf2onnx`"),
];

/// Bytes that tell what a file is.
const HEAD: u64 = 4096;

/// Decodes a file but for the large values in it.
pub(crate) fn decode(source: &Source<'_>) -> Result<ModelProto> {
    let mut start = Vec::new();
    source.read(0, |from| from.take(HEAD).read_to_end(&mut start))?;
    let start = start.trim_ascii_start();
    if let Some(&(_, found, remedy)) = ALIENS.iter().find(|(magic, ..)| start.starts_with(magic)) {
        return Err(Error::NotOnnx { found, remedy });
    }
    if source.length() == 0 {
        return Err(Error::Damaged("it is empty".to_string()));
    }
    // values are copied out of the outline, so that it can go
    let outline = outline(source, Kind::Model, LARGE)?;
    ModelProto::decode(&outline[..]).map_err(|e| Error::Damaged(e.to_string()))
}

/// The version of the standard that a file uses.
pub(crate) fn opset(model: &ModelProto) -> Result<i64> {
    let standard = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    let versions = model.opset_import.iter().filter(|o| standard(&o.domain)).map(|o| o.version);
    let Some(found) = versions.max() else {
        return Err(Error::Damaged("it does not say which version of the operators it uses".to_string()));
    };
    match OPSETS.contains(&found) {
        true => Ok(found),
        false => Err(Error::Opset { found, lowest: *OPSETS.start(), highest: *OPSETS.end() }),
    }
}

/// The values of a graph by name, and who makes them.
pub(crate) struct Index<'a> {
    pub graph: &'a GraphProto,
    pub initializers: HashMap<&'a str, &'a TensorProto>,
    /// Inputs that are no initializers.
    pub inputs: HashMap<&'a str, &'a ValueInfoProto>,
    producers: HashMap<&'a str, usize>,
}

/// Name of a node for messages.
pub(crate) fn label(node: &NodeProto) -> &str {
    if node.name.is_empty() { node.output.first().map_or("", String::as_str) } else { &node.name }
}

impl<'a> Index<'a> {
    /// Looks at all names: each value is made once, and each that is read is made.
    pub fn new(graph: &'a GraphProto) -> Result<Index<'a>> {
        let twice = |name: &str| Error::Model(format!("the value `{name}` is made twice"));
        let mut initializers = HashMap::new();
        for tensor in &graph.initializer {
            if initializers.insert(tensor.name.as_str(), tensor).is_some() {
                return Err(twice(&tensor.name));
            }
        }
        let mut inputs = HashMap::new();
        for input in graph.input.iter().filter(|i| !initializers.contains_key(i.name.as_str())) {
            if inputs.insert(input.name.as_str(), input).is_some() {
                return Err(twice(&input.name));
            }
        }
        let mut producers = HashMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                let taken =
                    initializers.contains_key(output.as_str()) || inputs.contains_key(output.as_str());
                if producers.insert(output.as_str(), at).is_some() || taken {
                    return Err(twice(output));
                }
            }
        }
        let index = Index { graph, initializers, inputs, producers };
        for node in &graph.node {
            if let Some(bad) = node.input.iter().find(|i| !i.is_empty() && !index.exists(i)) {
                return Err(Error::Node {
                    node: label(node).to_string(),
                    operator: node.op_type.clone(),
                    why: format!("it reads the value `{bad}`, which nothing makes"),
                });
            }
        }
        Ok(index)
    }

    /// True if there is such a value.
    pub fn exists(&self, name: &str) -> bool {
        self.producers.contains_key(name)
            || self.initializers.contains_key(name)
            || self.inputs.contains_key(name)
    }

    /// The nodes that the outputs depend on, in an order in which each comes after those it reads, else as in
    /// the file.
    pub fn order(&self, outputs: &[&str]) -> Result<Vec<usize>> {
        let makers =
            |node: &'a NodeProto| node.input.iter().filter_map(|i| self.producers.get(i.as_str()).copied());
        let mut needed = HashSet::new();
        let mut open: Vec<usize> = outputs.iter().filter_map(|o| self.producers.get(o).copied()).collect();
        while let Some(at) = open.pop() {
            if needed.insert(at) {
                open.extend(makers(&self.graph.node[at]));
            }
        }
        let mut waits: HashMap<usize, usize> = HashMap::new();
        let mut readers: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut ready = BinaryHeap::new();
        for &at in &needed {
            let before: HashSet<usize> = makers(&self.graph.node[at]).collect();
            if before.is_empty() {
                ready.push(Reverse(at));
            }
            waits.insert(at, before.len());
            before.into_iter().for_each(|b| readers.entry(b).or_default().push(at));
        }
        let mut order = Vec::with_capacity(needed.len());
        while let Some(Reverse(at)) = ready.pop() {
            order.push(at);
            for &reader in readers.get(&at).into_iter().flatten() {
                if let Some(wait) = waits.get_mut(&reader) {
                    *wait -= 1;
                    if *wait == 0 {
                        ready.push(Reverse(reader));
                    }
                }
            }
        }
        if order.len() < needed.len() {
            let done: HashSet<usize> = order.iter().copied().collect();
            let stuck = needed.iter().filter(|at| !done.contains(at)).min();
            let name = stuck.map_or("", |&at| label(&self.graph.node[at]));
            return Err(Error::Model(format!("its nodes form a cycle, in which is `{name}`")));
        }
        Ok(order)
    }
}

/// A tensor's type, if the value is one.
pub(crate) fn tensor_type(info: &ValueInfoProto) -> Option<&TensorTypeProto> {
    info.r#type.as_ref()?.tensor_type.as_ref()
}

/// The sizes of a type; `None` where they are open.
pub(crate) fn sizes(of: &TensorTypeProto) -> Option<Vec<Option<usize>>> {
    let size = |value: &Option<Dimension>| match value {
        Some(Dimension::Value(n)) => usize::try_from(*n).ok().filter(|&n| n > 0),
        _ => None,
    };
    Some(of.shape.as_ref()?.dim.iter().map(|d| size(&d.value)).collect())
}
