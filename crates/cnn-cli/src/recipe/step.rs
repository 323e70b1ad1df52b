//! One step of a recipe: a method, its layers, its settings, and fine-tuning after it.

use super::error::RecipeError;
use super::source::Source;
use super::train::TrainSection;
use super::{allowed, nearest, read, settings_error};
use cnn_core::train::TrainSettings;
use cnn_core::{Config, Graph, Registry, Role};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use wildmatch::WildMatch;

/// Keys that every step takes, whatever its method.
pub const STEP_KEYS: [&str; 4] = ["method", "only", "skip", "finetune"];

/// A step of a recipe.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Name of a registered method.
    pub method: String,
    /// The method's configuration: the step's own keys, and `only` and `skip` as its selection of layers.
    pub config: Config,
    /// Fine-tuning after the method, over what `[train]` says.
    pub finetune: Option<TrainSection>,
    /// Where the method is named.
    #[serde(skip)]
    pub(super) at: Range<usize>,
    /// The patterns of `only` and `skip`, and where they stand.
    #[serde(skip)]
    patterns: Vec<(String, Range<usize>)>,
}

/// A key of a step that goes to the method.
struct Own {
    key: String,
    at: Range<usize>,
    value_at: Range<usize>,
    value: Value,
}

impl Step {
    /// Reads a step and builds its method once, so that what is wrong is found now.
    pub(super) fn read(
        source: &Source,
        table: Spanned<DeTable<'_>>,
        base: &TrainSettings,
        registry: &Registry,
    ) -> Result<Step, RecipeError> {
        let header = table.span();
        let mut keys: Vec<_> = table.into_inner().into_iter().collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        let (mut method, mut finetune) = (None, None);
        let (mut selection, mut patterns, mut own) = (Vec::new(), Vec::new(), Vec::new());
        for (key, value) in keys {
            let at = key.span();
            match key.get_ref().as_ref() {
                "method" => method = Some((at, read::<Spanned<String>>(source, value)?)),
                "finetune" => {
                    let section: TrainSection = read(source, value.clone())?;
                    section.over(base).map_err(|e| settings_error(source, &value, &section, base, &e))?;
                    finetune = Some(section);
                }
                name @ ("only" | "skip") => {
                    let listed: Vec<Spanned<String>> = read(source, value)?;
                    let names: Vec<String> = listed.iter().map(|p| p.get_ref().clone()).collect();
                    patterns.extend(listed.into_iter().map(|p| (p.get_ref().clone(), p.span())));
                    selection.push((at, name.to_string(), names));
                }
                name => own.push(Own {
                    key: name.to_string(),
                    at,
                    value_at: value.span(),
                    value: to_json(source, &value)?,
                }),
            }
        }
        let Some((_, method)) = method else {
            let help = Some(methods_help(registry));
            return Err(source.error_with(header, "a step needs a `method`", help));
        };
        let (at, method) = (method.span(), method.into_inner());
        let mut step = Step { method, config: Value::Null, finetune, at, patterns };
        let defaults = step.defaults(source, registry)?;
        step.config = step.configuration(source, &defaults, &own, selection, registry)?;
        Ok(step)
    }

    /// The method's default configuration.
    fn defaults(&self, source: &Source, registry: &Registry) -> Result<Map<String, Value>, RecipeError> {
        if !registry.method_names().any(|name| name == self.method) {
            let near = nearest(&self.method, registry.method_names());
            let message = format!("no method is called `{}`{near}", self.method);
            return Err(source.error_with(self.at.clone(), message, Some(methods_help(registry))));
        }
        let built = registry.build_method(&self.method, Value::Null);
        let built = built.map_err(|e| source.error(self.at.clone(), e.to_string()))?;
        match built.config() {
            Value::Object(defaults) => Ok(defaults),
            _ => Ok(Map::new()),
        }
    }

    /// The whole configuration, which the method accepts.
    fn configuration(
        &self,
        source: &Source,
        defaults: &Map<String, Value>,
        own: &[Own],
        selection: Vec<(Range<usize>, String, Vec<String>)>,
        registry: &Registry,
    ) -> Result<Value, RecipeError> {
        let method = &self.method;
        let build = |config: &Map<String, Value>| registry.build_method(method, config.clone().into());
        let takes_selection = defaults.get("layers").is_some_and(|l| l.get("only").is_some());
        let usual = STEP_KEYS.iter().filter(|k| takes_selection || !matches!(**k, "only" | "skip")).copied();
        let keys = || {
            let own = defaults.keys().map(String::as_str).filter(|k| *k != "layers" || !takes_selection);
            usual.clone().chain(own).collect::<Vec<_>>()
        };
        let mut config = Map::new();
        if let Some((at, key, _)) = selection.first()
            && !takes_selection
        {
            let message = format!("{method} works on the network as a whole and takes no `{key}`");
            return Err(source.error_with(at.clone(), message, Some(allowed(keys()))));
        }
        for Own { key, at, value_at, value } in own {
            if key == "layers" && takes_selection {
                let help = Some("write `only = [...]` and `skip = [...]` in the step".to_string());
                return Err(source.error_with(at.clone(), "layers are chosen by `only` and `skip`", help));
            }
            let alone = Map::from_iter([(key.clone(), value.clone())]);
            // alone over the defaults: what fails is this key
            if let Err(error) = build(&alone) {
                return Err(if defaults.contains_key(key) {
                    let why = plain(method, &error.to_string());
                    let help = Some(format!("`cnn methods {method}` shows what it takes"));
                    source.error_with(value_at.clone(), format!("`{key}` of {method}: {why}"), help)
                } else {
                    let near = nearest(key, keys().into_iter());
                    let message = format!("unknown key `{key}` of {method}{near}");
                    source.error_with(at.clone(), message, Some(allowed(keys())))
                });
            }
            config.insert(key.clone(), value.clone());
        }
        if !selection.is_empty() {
            let layers: Map<String, Value> =
                selection.into_iter().map(|(_, key, names)| (key, json!(names))).collect();
            config.insert("layers".to_string(), layers.into());
        }
        match build(&config) {
            Ok(_) => Ok(config.into()),
            // each key alone is fine, so it is how they go together
            Err(error) => {
                let why = plain(method, &error.to_string());
                Err(source.error(self.at.clone(), format!("settings of {method}: {why}")))
            }
        }
    }

    /// An error that points at the patterns of this step that match no layer.
    pub(super) fn check_patterns(&self, source: &Source, graph: &Graph) -> Result<(), RecipeError> {
        for (pattern, at) in &self.patterns {
            let wild = WildMatch::new(pattern);
            if !graph.nodes().iter().any(|n| wild.matches(&n.name)) {
                let weighted =
                    |n: &&cnn_core::Node| n.layer().params().iter().any(|p| p.role() == Role::Weight);
                let names: Vec<&str> =
                    graph.nodes().iter().filter(weighted).map(|n| n.name.as_str()).collect();
                let message = format!("no layer's name matches `{pattern}`");
                let help = format!("layers with weights are: {}", names.join(", "));
                return Err(source.error_with(at.clone(), message, Some(help)));
            }
        }
        Ok(())
    }
}

fn methods_help(registry: &Registry) -> String {
    allowed(registry.method_names().collect())
}

/// An error's text without what the place already says.
fn plain(method: &str, error: &str) -> String {
    error.trim_start_matches(&format!("invalid configuration of {method}: ")).to_string()
}

/// The same value, as methods take it.
fn to_json(source: &Source, value: &Spanned<DeValue<'_>>) -> Result<Value, RecipeError> {
    Ok(match value.get_ref() {
        DeValue::String(text) => json!(text.as_ref()),
        DeValue::Boolean(b) => json!(b),
        DeValue::Integer(_) | DeValue::Float(_) => number(source, value)?,
        DeValue::Datetime(_) => return Err(source.error(value.span(), "no method takes a date")),
        DeValue::Array(values) => {
            Value::Array(values.iter().map(|v| to_json(source, v)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let pair = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, _)| {
                Ok((key.get_ref().to_string(), to_json(source, value)?))
            };
            Value::Object(table.iter().map(pair).collect::<Result<_, RecipeError>>()?)
        }
    })
}

fn number(source: &Source, value: &Spanned<DeValue<'_>>) -> Result<Value, RecipeError> {
    if let DeValue::Integer(_) = value.get_ref() {
        if let Ok(i) = read::<i64>(source, value.clone()) {
            return Ok(json!(i));
        }
        return Ok(json!(read::<u64>(source, value.clone())?));
    }
    let float: f64 = read(source, value.clone())?;
    match float.is_finite() {
        true => Ok(json!(float)),
        false => Err(source.error(value.span(), "a finite number is needed")),
    }
}
