//! LeNet-300-100.

use super::builder::Builder;
use cnn_core::layers::Flatten;
use cnn_core::{Graph, NetworkOptions, Result};

/// Two hidden layers of 300 and 100 neurons (LeCun et al. 1998; Han et al. 2015, table 3). At width 1, for 1
/// x 28 x 28 and 10 classes: 266,610 parameters. The width multiplies 300 and 100.
///
/// # Errors
/// If an option is out of range.
///
/// ```
/// let graph = cnn_lightweight::lenet_300_100(&cnn_core::NetworkOptions::default())?;
/// assert_eq!(graph.cost()?.params, 266_610);
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn lenet_300_100(options: &NetworkOptions) -> Result<Graph> {
    let mut b = Builder::new("lenet_300_100", options, [1, 28, 28], 10)?;
    b.graph.push("flatten", Flatten)?;
    for (index, neurons) in [(1, 300), (2, 100)] {
        let neurons = b.scaled(neurons);
        b.linear(&format!("fc{index}"), neurons)?;
        b.relu(&format!("relu{index}"))?;
    }
    let classes = b.classes;
    b.linear("fc3", classes)?;
    Ok(b.graph)
}
