//! What is done of a compression, beside the output: so that it goes on after Ctrl-C or a failure.

use crate::network::Loaded;
use crate::part::Part;
use crate::recipe::{DataSection, Recipe};
use crate::session::Session;
use anyhow::{Context, Result, bail};
use cnn_core::{Dataset, Graph, model_file};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const FILE: &str = "state.json";

/// A piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The method.
    Applied,
    /// The fine-tuning after it.
    Tuned,
}

/// A piece of work that is done, whose network is in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Step of the recipe, from 0.
    pub step: usize,
    /// Which part of it.
    pub stage: Stage,
    /// True if the method changed what later steps are lent (a teacher), so that it has to be applied again.
    pub changed_run: bool,
}

impl Done {
    fn file(&self) -> String {
        let stage = if self.stage == Stage::Applied { "applied" } else { "tuned" };
        format!("step-{}-{stage}.checkpoint", self.step + 1)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    /// What the work depends on, by name.
    identity: Vec<(String, Value)>,
    done: Vec<Done>,
}

/// The folder beside an output.
fn folder_of(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".checkpoint");
    PathBuf::from(name)
}

/// The folder with unfinished work.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    stored: Stored,
}

impl State {
    /// Opens the folder beside the output, or starts a new one.
    ///
    /// # Errors
    /// If there is unfinished work of another recipe, network or data; or the folder cannot be written.
    pub fn open(
        output: &Path,
        restart: bool,
        recipe: &Recipe,
        loaded: &Loaded,
        section: &DataSection,
        learn: &Part,
        session: &Session,
    ) -> Result<State> {
        let folder = folder_of(output);
        if folder.is_file() {
            bail!(
                "{}: this file belongs to `cnn train`; name another output, or remove it",
                folder.display()
            );
        }
        if restart && folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        let identity = vec![
            ("network".to_string(), json!([loaded.bytes, format!("{:016x}", loaded.hash)])),
            ("section [train] of the recipe".to_string(), serde_json::to_value(&recipe.train)?),
            ("steps of the recipe".to_string(), serde_json::to_value(&recipe.steps)?),
            // where decoded pixels are kept changes nothing
            ("images".to_string(), serde_json::to_value(DataSection { cache: None, ..section.clone() })?),
            ("training images".to_string(), json!([learn.len(), learn.shape(), learn.classes()])),
        ];
        let file = folder.join(FILE);
        if !file.exists() {
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            return Ok(State { folder, stored: Stored { identity, done: Vec::new() } });
        }
        let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let stored: Stored = serde_json::from_slice(&bytes)
            .with_context(|| format!("{}: damaged; --restart removes it and starts anew", file.display()))?;
        if let Some((what, _)) = identity.iter().find(|i| !stored.identity.contains(i)) {
            bail!(
                "{} holds unfinished work, but the {what} changed since; --restart removes it and starts \
                    anew",
                folder.display()
            );
        }
        if let Some(last) = stored.done.last() {
            let stage = if last.stage == Stage::Applied { "applied" } else { "fine-tuned" };
            session.note(format!("going on from {}: step {} is {stage}", folder.display(), last.step + 1));
        }
        Ok(State { folder, stored })
    }

    /// What is done.
    pub fn done(&self) -> &[Done] {
        &self.stored.done
    }

    /// The file for the state within the fine-tuning of a step.
    pub fn training(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{}-training.checkpoint", step + 1))
    }

    /// The folder for what methods keep of unfinished searches.
    pub fn memory(&self) -> PathBuf {
        self.folder.join("methods")
    }

    /// The network after a piece of work.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn network(&self, done: &Done, session: &Session) -> Result<Graph> {
        let file = self.folder.join(done.file());
        model_file::load_checkpoint(&file, &session.registry)
            .with_context(|| format!("{}; --restart removes it and starts anew", file.display()))
    }

    /// Notes that a piece of work is done: first its network is written, then that it is there.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn add(&mut self, done: Done, graph: &Graph) -> Result<()> {
        model_file::save_checkpoint(graph, &self.folder.join(done.file()))?;
        self.stored.done.push(done);
        let bytes = serde_json::to_vec_pretty(&self.stored)?;
        model_file::write_atomically(&self.folder.join(FILE), &bytes)?;
        Ok(())
    }

    /// Removes the folder if there is nothing in it: the work failed before a piece of it was done.
    pub fn remove_empty(output: &Path) {
        let _ = std::fs::remove_dir(folder_of(output)); // refused when there is something
    }

    /// Removes the folder: the output is written.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.folder).with_context(|| self.folder.display().to_string())
    }
}
