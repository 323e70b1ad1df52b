//! What depthwise separable convolutions would save in a network, and how far its weights are from them.
//!
//! `cargo run -p cnn-lightweight --example substitute -- resnet20`

use cnn_core::{NetworkOptions, Registry, Selection};

fn main() -> Result<(), cnn_core::Error> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "resnet20".to_string());
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    let mut graph = registry.build_network(&name, &NetworkOptions::default())?;
    let before = graph.cost()?;
    let replaced = cnn_lightweight::substitute(&mut graph, &Selection::default(), 4)?;
    println!("{:24} {:>10} {:>14}", "layer", "cost ratio", "relative error");
    for change in &replaced {
        println!("{:24} {:>10.4} {:>14.4}", change.layer, change.cost_ratio, change.relative_error);
    }
    let after = graph.cost()?;
    println!("parameters    {:>12} -> {:>12}", before.params, after.params);
    println!("multiply-adds {:>12} -> {:>12}", before.macs.total(), after.macs.total());
    Ok(())
}
