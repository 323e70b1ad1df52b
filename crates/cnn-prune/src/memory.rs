//! Under which name a method keeps what took it long.

use cnn_core::{Config, Graph, Result, Run};

/// The start of a method's keys for [`Run::remember`] with this network and these settings. Empty without a memory: then nothing is kept, and the
/// network need not be looked at.
pub(crate) fn key(name: &str, graph: &Graph, config: &Config, run: &Run<'_>) -> Result<String> {
    match run.memory {
        Some(_) => Ok(format!("{name}-{}", run.fingerprint(graph, config)?)),
        None => Ok(String::new()),
    }
}
