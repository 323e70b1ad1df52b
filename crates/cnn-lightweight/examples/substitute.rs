//! What the light forms of convolutions would save in a network, and how far its weights are from them.
//!
//! `cargo run -p cnn-lightweight --example substitute -- resnet20`

use cnn_core::{Graph, NetworkOptions, Registry};
use cnn_lightweight::{SubstituteGroupShuffle, SubstituteInverted, SubstituteSeparable, Substitution};

fn main() -> Result<(), cnn_core::Error> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "resnet20".to_string());
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    let graph = registry.build_network(&name, &NetworkOptions::default())?;
    let show = |method: &str, light: Graph, replaced: Vec<Substitution>| -> cnn_core::Result<()> {
        println!("{method}");
        println!("  {:24} {:>10} {:>14}", "layer", "cost ratio", "relative error");
        for change in &replaced {
            println!("  {:24} {:>10.4} {:>14.4}", change.layer, change.cost_ratio, change.relative_error);
        }
        let (before, after) = (graph.cost()?, light.cost()?);
        println!("  parameters    {:>12} -> {:>12}", before.params, after.params);
        println!("  multiply-adds {:>12} -> {:>12}", before.macs.total(), after.macs.total());
        Ok(())
    };
    let mut light = graph.clone();
    let replaced = SubstituteSeparable::default().substitute(&mut light)?;
    show("depthwise separable", light, replaced)?;
    let mut light = graph.clone();
    let replaced = SubstituteGroupShuffle::default().substitute(&mut light)?;
    show("grouped, shuffled", light, replaced)?;
    let mut light = graph.clone();
    let replaced = SubstituteInverted::default().substitute(&mut light)?;
    show("inverted residual", light, replaced)
}
