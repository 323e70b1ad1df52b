//! Names of layers that people can use, out of what exporters write.

use crate::op::Op;
use std::collections::{HashMap, HashSet};

/// What the name of a constant ends with when the rest of it names the layer.
const WEIGHTS: [&str; 9] =
    [".weight", "/weight", "_weight", ".kernel", "/kernel", ".gamma", "/gamma", ".weight_quantized", ".W"];

/// The name for the layer of an operator: that of its weights (`"conv1.weight"` gives `"conv1"`), or the
/// node's own, cleaned.
pub(crate) fn layer_name(op: &Op<'_>, weights: Option<&str>) -> String {
    let stem = weights.and_then(|w| WEIGHTS.iter().find_map(|end| w.strip_suffix(end)));
    if let Some(stem) = stem.map(clean).filter(|s| !s.is_empty()) {
        return stem;
    }
    let name = node_name(&op.node.name, op.kind());
    if name.is_empty() { op.kind().to_lowercase() } else { name }
}

/// `"/layer1/layer1.0/conv1/Conv"` of PyTorch becomes `"layer1.0.conv1"`.
fn node_name(name: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').filter(|p| !p.is_empty()).collect();
    // a scope that is repeated, longer, in the next one says nothing
    let mut at = 0;
    while at + 1 < parts.len() {
        let repeated = parts[at + 1].strip_prefix(parts[at]).is_some_and(|rest| rest.starts_with('.'));
        if repeated || parts[at] == "module" || parts[at] == "model" {
            parts.remove(at);
        } else {
            at += 1;
        }
    }
    let scoped = name.starts_with('/');
    if scoped && parts.len() > 1 && parts.last() == Some(&kind) && !parts[parts.len() - 2].is_empty() {
        // a module that is one operator gives the name; in a larger one the operator has to be told apart
        let scope = parts[parts.len() - 2];
        let generic =
            ["Add", "Mul", "Sub", "Div", "Concat", "Reshape", "Transpose", "Slice", "Split", "Pad", "Gather"];
        if !generic.contains(&kind) && !scope.ends_with(|c: char| c.is_ascii_digit() && scope.contains('.')) {
            parts.pop();
        }
    }
    let mut name = clean(&parts.join("."));
    if scoped && name.starts_with(kind) {
        name = name.to_lowercase();
    } else if scoped
        && let Some(at) = name.rfind('.')
        && name[at + 1..].starts_with(kind)
    {
        name = format!("{}{}", &name[..at], name[at..].to_lowercase());
    }
    name
}

/// Without what makes trouble in patterns, files and terminals.
fn clean(name: &str) -> String {
    let usable = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '.' };
    let name: String = name.chars().map(usable).take(200).collect();
    name.trim_matches('.').to_string()
}

/// Names that are given away, each only once.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    names: HashSet<String>,
    /// How often each name was asked for, so that the next number is found at once.
    counts: HashMap<String, usize>,
}

impl Taken {
    /// The name, with a number behind if it is taken.
    pub fn unique(&mut self, name: String) -> String {
        let name = if name.is_empty() { "layer".to_string() } else { name };
        let mut candidate = name.clone();
        while !self.names.insert(candidate.clone()) {
            let count = self.counts.entry(name.clone()).or_insert(1);
            *count += 1;
            candidate = format!("{name}_{count}");
        }
        candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_exporters_become_names_of_modules() {
        for (name, kind, wanted) in [
            ("/conv1/Conv", "Conv", "conv1"),
            ("/layer1/layer1.0/conv1/Conv", "Conv", "layer1.0.conv1"),
            ("/layer1/layer1.0/Add", "Add", "layer1.0.add"),
            ("/layer1/layer1.0/relu_1/Relu", "Relu", "layer1.0.relu_1"),
            ("/features/features.3/Relu", "Relu", "features.3.relu"),
            ("/Relu_4", "Relu", "relu_4"),
            ("/Flatten", "Flatten", "flatten"),
            ("conv1", "Conv", "conv1"),
            ("Conv_12", "Conv", "Conv_12"),
            ("a b:0", "Conv", "a.b.0"),
            ("", "Conv", ""),
            ("///", "Conv", ""),
        ] {
            assert_eq!(node_name(name, kind), wanted, "{name}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut taken = Taken::default();
        let made: Vec<String> = ["a", "a", "", "a_2", ""].map(|n| taken.unique(n.to_string())).into();
        assert_eq!(made, ["a", "a_2", "layer", "a_2_2", "layer_2"]);
    }
}
