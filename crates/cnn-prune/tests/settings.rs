//! Every setting of every method is in the README, and the learning rate goes by both of its names.
#![allow(clippy::unwrap_used)] // helpers of tests

use cnn_core::{Config, Registry};
use serde_json::json;

fn configurations(registry: &Registry) -> impl Iterator<Item = (&'static str, Config)> + '_ {
    registry.method_names().map(|name| (name, registry.build_method(name, Config::Null).unwrap().config()))
}

#[test]
fn the_readme_names_all_settings() {
    let mut registry = Registry::core();
    cnn_prune::register(&mut registry);
    let readme = include_str!("../README.md");
    let mut methods = 0;
    for (name, config) in configurations(&registry) {
        assert!(readme.contains(&format!("`{name}`")), "{name}");
        for key in config.as_object().unwrap().keys() {
            assert!(readme.contains(&format!("| `{key}` |")), "{key} of {name}");
        }
        methods += 1;
    }
    assert!(methods > 0);
}

#[test]
fn rate_and_learning_rate_are_the_same() {
    let mut registry = Registry::core();
    cnn_prune::register(&mut registry);
    for (name, config) in configurations(&registry) {
        if config.get("rate").or(config.get("learning_rate")).is_none() {
            assert!(registry.build_method(name, json!({ "rate": 0.5 })).is_err());
            continue;
        }
        let built = |key: &str| registry.build_method(name, json!({ key: 0.5 })).unwrap().config();
        assert_eq!(built("rate"), built("learning_rate"));
        assert_ne!(built("rate"), config);
        assert!(registry.build_method(name, json!({ "rate": 0.5, "learning_rate": 0.5 })).is_err());
    }
}
