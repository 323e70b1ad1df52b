//! The recipe: one TOML file that says what images are to become, how to train, and which methods to apply in
//! which order.
//!
//! ```toml
//! [data]                      # see DataSection
//! size = 32
//! mean = [0.485, 0.456, 0.406]
//! std = [0.229, 0.224, 0.225]
//!
//! [train]                     # see TrainSection: what fine-tuning takes that does not say otherwise
//! batch = 128
//!
//! [[step]]
//! method = "prune.weights"  # as `cnn methods` lists them
//! only = ["conv*"]            # and skip = [...]: patterns on the names of layers
//! ratio = 0.9                 # the method's own keys, as `cnn methods prune.weights` shows them
//! finetune = { epochs = 3 }   # after this step; keys as in [train]
//! ```
//!
//! Whatever is wrong is an error with line and column ([`RecipeError`]), and unknown keys list the known
//! ones.
//!
//! ```
//! use cnn_cli::{recipe::Recipe, registry};
//! let text = "[[step]]\nmethod = \"quant.kmeans\"\nbits = 5\nfinetune = { epochs = 1 }\n";
//! let recipe = Recipe::parse(text, "recipe.toml", &registry())?;
//! let chain = recipe.chain("small", &registry())?; // a Compressor
//! let wrong = Recipe::parse("[[step]]\nmethod = \"quant.kmeans\"\nbit = 5\n", "recipe.toml", &registry());
//! let message = wrong.unwrap_err().to_string();
//! assert!(message.starts_with("recipe.toml:3:1: unknown key `bit` of quant.kmeans"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod data;
mod error;
mod fine_tuned;
mod source;
mod step;
mod train;

pub use data::{Augmentation, Classes, Colours, DataSection, PerChannel, Size};
pub use error::{Located, RecipeError};
pub use fine_tuned::FineTuned;
pub use source::Source;
pub use step::{STEP_KEYS, Step};
pub use train::{Rule, TrainSection};

use cnn_core::train::TrainSettings;
use cnn_core::{Chain, Compressor, Graph, Registry};
use serde::de::DeserializeOwned;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// A recipe, checked against the methods that there are.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// What images are to become.
    pub data: DataSection,
    /// How to fine-tune, unless a step says otherwise.
    pub train: TrainSection,
    /// Methods in the order in which they are applied.
    pub steps: Vec<Step>,
    source: Source,
}

impl Recipe {
    /// Reads a recipe. Paths in it are relative to the folder it is in.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub fn load(path: &Path, registry: &Registry) -> Result<Recipe, RecipeError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| RecipeError::Io { path: path.to_path_buf(), source })?;
        let mut recipe = Recipe::parse(&text, &path.display().to_string(), registry)?;
        recipe.data.relative_to(path.parent().unwrap_or(Path::new("")));
        Ok(recipe)
    }

    /// Reads the text of a recipe; `name` is what errors call its file.
    ///
    /// # Errors
    /// [`RecipeError::At`] with the place.
    pub fn parse(text: &str, name: &str, registry: &Registry) -> Result<Recipe, RecipeError> {
        let source = Source::new(name, text);
        let whole = DeTable::parse(text).map_err(|e| toml_error(&source, 0..0, &e))?;
        let mut sections: Vec<_> = whole.into_inner().into_iter().collect();
        // `[train]` first, since steps are checked over it
        let rank = |key: &str| if key == "train" { 0 } else { 1 };
        sections.sort_by_key(|(key, _)| (rank(key.get_ref()), key.span().start));
        let mut recipe = Recipe {
            data: DataSection::default(),
            train: TrainSection::default(),
            steps: Vec::new(),
            source: source.clone(),
        };
        let mut base = TrainSettings::default();
        for (key, value) in sections {
            let at = key.span();
            match key.get_ref().as_ref() {
                "data" => {
                    recipe.data = read(&source, value.clone())?;
                    recipe
                        .data
                        .check()
                        .map_err(|(key, why)| source.error(place(&value, key), format!("`{key}`: {why}")))?;
                }
                "train" => {
                    recipe.train = read(&source, value.clone())?;
                    let over = recipe.train.over(&base);
                    base = over.map_err(|e| settings_error(&source, &value, &recipe.train, &base, &e))?;
                }
                "step" => {
                    let whole = value.span();
                    let DeValue::Array(steps) = value.into_inner() else {
                        let help =
                            Some("write [[step]], with two brackets: there may be several".to_string());
                        return Err(source.error_with(at, "`step` is a list of steps", help));
                    };
                    for step in steps {
                        let span = step.span();
                        let DeValue::Table(table) = step.into_inner() else {
                            return Err(source.error(whole, "a step is a table: write [[step]]"));
                        };
                        let table = Spanned::new(span, table);
                        recipe.steps.push(Step::read(&source, table, &base, registry)?);
                    }
                }
                other => {
                    let keys = ["data", "train", "step"];
                    let near = nearest(other, keys.into_iter());
                    let message = format!("unknown section `{other}`{near}");
                    let help = "the sections are: [data], [train], [[step]]".to_string();
                    return Err(source.error_with(at, message, Some(help)));
                }
            }
        }
        Ok(recipe)
    }

    /// How to fine-tune, unless a step says otherwise.
    ///
    /// # Errors
    /// None after parsing, unless `train` was changed.
    pub fn settings(&self) -> cnn_core::Result<TrainSettings> {
        self.train.over(&TrainSettings::default())
    }

    /// The methods, each without the fine-tuning after it.
    ///
    /// # Errors
    /// If a method is not in this registry.
    pub fn methods(&self, registry: &Registry) -> cnn_core::Result<Vec<Box<dyn Compressor>>> {
        self.steps.iter().map(|s| registry.build_method(&s.method, s.config.clone())).collect()
    }

    /// All steps as one method, fine-tuning included, for a run with [`Recipe::settings`].
    ///
    /// # Errors
    /// If a method is not in this registry.
    pub fn chain(&self, name: &str, registry: &Registry) -> cnn_core::Result<Chain> {
        let tuned =
            self.steps.iter().zip(self.methods(registry)?).map(|(step, method)| match &step.finetune {
                Some(finetune) => {
                    Box::new(FineTuned { method, finetune: finetune.clone() }) as Box<dyn Compressor>
                }
                None => method,
            });
        Ok(Chain::new(name, tuned.collect()))
    }

    /// Checks the patterns of a step against the network as it is before the step.
    ///
    /// # Errors
    /// [`RecipeError::At`] for a pattern that matches no layer; the layers are listed.
    pub fn check_step(&self, step: usize, graph: &Graph) -> Result<(), RecipeError> {
        self.steps.get(step).map_or(Ok(()), |s| s.check_patterns(&self.source, graph))
    }

    /// An error that points at a step.
    pub fn step_error(&self, step: usize, message: impl Into<String>) -> RecipeError {
        let at = self.steps.get(step).map_or(0..0, |s| s.at.clone());
        self.source.error(at, message)
    }

    /// An error that points at the file as a whole.
    pub fn error(&self, message: impl Into<String>) -> RecipeError {
        self.source.error(0..0, message)
    }
}

/// Reads a value as a type; what does not suit is an error at its place.
fn read<T: DeserializeOwned>(source: &Source, value: Spanned<DeValue<'_>>) -> Result<T, RecipeError> {
    let span = value.span();
    T::deserialize(ValueDeserializer::from(value)).map_err(|e| toml_error(source, span, &e))
}

fn toml_error(source: &Source, span: std::ops::Range<usize>, error: &toml::de::Error) -> RecipeError {
    let message = error.message().replace("unknown field", "unknown key").replace("\n", ": ");
    source.error(error.span().unwrap_or(span), message)
}

/// An error of training settings, at the key that causes it.
fn settings_error(
    source: &Source,
    value: &Spanned<DeValue<'_>>,
    section: &TrainSection,
    base: &TrainSettings,
    error: &cnn_core::Error,
) -> RecipeError {
    let keys = value.get_ref().as_table().into_iter().flat_map(DeTable::keys);
    let guilty = keys.map(|k| k.get_ref().as_ref()).find(|key| section.only(key).over(base).is_err());
    source.error(guilty.map_or(value.span(), |key| place(value, key)), error.to_string())
}

/// Where the value of a key stands; the whole section if it is not there.
fn place(section: &Spanned<DeValue<'_>>, key: &str) -> std::ops::Range<usize> {
    let found = section.get_ref().as_table().and_then(|t| t.get(key));
    found.map_or_else(|| section.span(), Spanned::span)
}

fn allowed(names: Vec<&str>) -> String {
    format!("allowed are: {}", names.join(", "))
}

/// `; did you mean ...?`, when one of the names is near.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let best = known.map(|k| (distance(name, k), k)).min();
    match best {
        Some((d, k)) if d <= 1 + name.chars().count() / 4 => format!("; did you mean `{k}`?"),
        _ => String::new(),
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
