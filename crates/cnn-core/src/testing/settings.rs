//! What the settings of every method have to keep.

use crate::compress::Config;
use crate::registry::Registry;
use crate::{Error, Result};
use serde_json::json;

/// Checks the methods of a registry against the README of their crate: it names each method as `` `name` `` and each setting in
/// a table's first column; and the learning rate, where there is one, goes by both `rate` and `learning_rate`, but not at once.
///
/// # Errors
/// What was violated, or if there are no methods.
pub fn check_settings(registry: &Registry, readme: &str) -> Result<()> {
    let build = |name: &str, config: Config| Ok::<_, Error>(registry.build_method(name, config)?.config());
    let require = |holds: bool, what: String| match holds {
        true => Ok(()),
        false => Err(Error::Edit(format!("settings: {what}"))),
    };
    require(registry.method_names().next().is_some(), "there are no methods".into())?;
    for name in registry.method_names() {
        let defaults = build(name, Config::Null)?;
        require(readme.contains(&format!("`{name}`")), format!("the README does not name {name}"))?;
        for key in defaults.as_object().into_iter().flat_map(|o| o.keys()) {
            let there = readme.contains(&format!("| `{key}` |"));
            require(there, format!("the README does not list `{key}` of {name}"))?;
        }
        if defaults.get("rate").or(defaults.get("learning_rate")).is_none() {
            let refused = build(name, json!({ "rate": 0.5 })).is_err();
            require(refused, format!("{name} takes a rate that it does not have"))?;
            continue;
        }
        let (rate, learning_rate) =
            (build(name, json!({ "rate": 0.5 }))?, build(name, json!({ "learning_rate": 0.5 }))?);
        require(rate == learning_rate, format!("`rate` and `learning_rate` of {name} differ"))?;
        require(rate != defaults, format!("`rate` of {name} does nothing"))?;
        let both = build(name, json!({ "rate": 0.5, "learning_rate": 0.5 }));
        require(both.is_err(), format!("{name} takes two learning rates"))?;
    }
    Ok(())
}
