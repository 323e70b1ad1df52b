//! Every setting of every method is in the README, and the learning rate goes by both of its names.

use cnn_core::Registry;
use cnn_core::testing::check_settings;

#[test]
fn settings_are_documented() -> cnn_core::Result<()> {
    let mut registry = Registry::core();
    cnn_lowrank::register(&mut registry);
    check_settings(&registry, include_str!("../README.md"))
}
