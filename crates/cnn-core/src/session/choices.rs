//! The algorithms that were chosen, to be recorded and replayed.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// For each place where several algorithms would do (`node@input shape`), the name of the one in use.
///
/// A decision from measured time differs from run to run; recorded here and handed to [`super::SessionOptions::choices`] it is made
/// alike again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Choices(pub BTreeMap<String, String>);

impl Choices {
    /// The key of a node for an input shape.
    pub fn key(node: &str, shape: &[usize]) -> String {
        let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
        format!("{node}@{}", shape.join("x"))
    }
}
