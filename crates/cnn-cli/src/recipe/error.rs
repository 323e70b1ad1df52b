//! What can be wrong with a recipe.

use std::fmt::{Display, Formatter};
use std::path::PathBuf;

/// An error in a recipe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Something is wrong at a place.
    #[error("{0}")]
    At(Box<Located>),
}

/// A place in a recipe and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Located {
    /// Name of the file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Characters of the line that are meant.
    pub width: usize,
    /// The line.
    pub line_text: String,
    /// What is wrong.
    pub message: String,
    /// What is allowed, or what to do.
    pub help: Option<String>,
}

impl Display for Located {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let number = self.line.to_string();
        writeln!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        writeln!(f, "  {number} | {}", self.line_text)?;
        // tabs stay tabs, so that the caret stands under what it means
        let before: String = self.line_text.chars().take(self.column - 1).map(under).collect();
        write!(f, "  {:w$} | {before}{}", "", "^".repeat(self.width.min(120)), w = number.len())?;
        match &self.help {
            Some(help) => write!(f, "\n  {help}"),
            None => Ok(()),
        }
    }
}

fn under(c: char) -> char {
    if c == '\t' { '\t' } else { ' ' }
}
