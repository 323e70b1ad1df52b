//! `cnn methods`: the compression methods, and what one of them takes in a recipe.

use crate::descriptions;
use crate::recipe::nearest;
use crate::session::Session;
use crate::table::table;
use anyhow::{Result, bail};
use cnn_core::Registry;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::{Display, Formatter};

/// Options of the command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Show what this method takes in a step of a recipe
    pub name: Option<String>,
}

/// A method in the list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
}

/// A key of a method.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Key {
    /// Its name; with a dot within a table.
    pub key: String,
    /// Its default; `null` when it is not set.
    pub default: Value,
    /// What it takes, as the method itself says.
    pub takes: String,
    /// What it means.
    pub about: &'static str,
}

/// The list, or one method.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// All methods.
    List {
        /// By name.
        methods: Vec<Row>,
    },
    /// One method.
    One {
        /// Its name.
        name: String,
        /// What it does.
        about: &'static str,
        /// True if `only` and `skip` choose its layers.
        selects_layers: bool,
        /// Its keys.
        keys: Vec<Key>,
    },
}

/// Lists the methods, or shows one.
///
/// # Errors
/// If there is no method of that name.
pub fn run(options: &Options, session: &Session) -> Result<Report> {
    let registry = &session.registry;
    let Some(name) = &options.name else {
        let row = |name| Row { name, about: descriptions::of_method(name) };
        return Ok(Report::List { methods: registry.method_names().map(row).collect() });
    };
    if !registry.method_names().any(|n| n == name) {
        let near = nearest(name, registry.method_names());
        let names: Vec<&str> = registry.method_names().collect();
        bail!("no method is called `{name}`{near}\nthere are: {}", names.join(", "));
    }
    let config = registry.build_method(name, Value::Null)?.config();
    let mut keys = Vec::new();
    for (key, default) in config.as_object().into_iter().flatten() {
        if key == "layers" && default.get("only").is_some() {
            continue;
        }
        let about = descriptions::of_key(name, key);
        let takes = takes(registry, name, key, default);
        keys.push(Key { key: key.clone(), default: default.clone(), takes, about });
        // a table of settings, such as an optimizer's
        for (inner, value) in default.as_object().into_iter().flatten() {
            let takes = kind(value).to_string();
            keys.push(Key { key: format!("{key}.{inner}"), default: value.clone(), takes, about: "" });
        }
    }
    Ok(Report::One {
        name: name.clone(),
        about: descriptions::of_method(name),
        selects_layers: config.get("layers").is_some_and(|l| l.get("only").is_some()),
        keys,
    })
}

/// What a key takes: the method is asked with a value that cannot be meant, and its refusal says what it
/// expected.
fn takes(registry: &Registry, method: &str, key: &str, default: &Value) -> String {
    const ODD: &str = "\u{1}";
    let refusal = |value: Value| registry.build_method(method, json!({ key: value })).err();
    let Some(error) = refusal(json!(ODD)) else { return "text".to_string() };
    let text = error.to_string();
    match text.rfind("expected ") {
        Some(at) => {
            let said = text[at + "expected ".len()..].replace('`', "");
            match said.trim().trim_start_matches("one of ") {
                "f32" | "f64" => "number".to_string(),
                "usize" | "u8" | "u16" | "u32" | "u64" => "whole number".to_string(),
                "a boolean" => "true or false".to_string(),
                "a map" => "table".to_string(),
                other => other.to_string(),
            }
        }
        None => kind(default).to_string(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "",
        Value::Bool(_) => "true or false",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "whole number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "table",
    }
}

/// A default as it is written in a recipe.
fn written(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_string(),
        Value::Object(map) if map.is_empty() => "{}".to_string(),
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k} = {}", written(v))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        // a rate of 1e-4 is a 32-bit number, and its 64-bit digits mean nothing
        Value::Number(n) if n.is_f64() => {
            let number = n.as_f64().unwrap_or_default();
            let short = number as f32;
            if f64::from(short) == number { format!("{short:?}") } else { format!("{number:?}") }
        }
        other => other.to_string(),
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Report::List { methods } => {
                let rows: Vec<Vec<String>> =
                    methods.iter().map(|m| vec![m.name.to_string(), m.about.to_string()]).collect();
                writeln!(f, "{}", table(&["method", "what it does"], &rows))?;
                write!(f, "`cnn methods NAME` shows what one takes in a recipe")
            }
            Report::One { name, about, selects_layers, keys } => {
                writeln!(f, "{name}: {about}\n")?;
                writeln!(f, "[[step]]\nmethod = \"{name}\"\n")?;
                let mut rows: Vec<Vec<String>> = keys
                    .iter()
                    .map(|k| vec![k.key.clone(), written(&k.default), k.takes.clone(), k.about.to_string()])
                    .collect();
                let mut common = |key: &str, takes: &str, about: &str| {
                    rows.push(vec![key.into(), "not set".into(), takes.into(), about.into()]);
                };
                if *selects_layers {
                    common("only", "list of text", "patterns on names: only these layers, as [\"conv*\"]");
                    common("skip", "list of text", "not these layers");
                }
                common(
                    "finetune",
                    "table",
                    "training after this step, as { epochs = 3 }; keys as in [train]",
                );
                write!(f, "{}", table(&["key", "default", "takes", ""], &rows))
            }
        }
    }
}
