//! Everything that the workspace knows by name.

use cnn_core::Registry;

/// Layers, constraints, methods and networks of all crates.
pub fn registry() -> Registry {
    let mut registry = Registry::core();
    cnn_prune::register(&mut registry);
    cnn_quant::register(&mut registry);
    cnn_lowrank::register(&mut registry);
    cnn_distill::register(&mut registry);
    cnn_lightweight::register(&mut registry);
    registry
}
