//! One door to all data that a user may have.

use crate::{Error, OpenOptions, Result, folder, listing};
use cnn_core::Dataset;
use std::path::{Path, PathBuf};

/// A picture that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The file.
    pub path: PathBuf,
    /// Why it cannot be decoded.
    pub why: String,
}

/// What [`open`] found.
#[derive(Debug)]
pub struct Opened {
    /// What it is: "image folder", "cifar-10", ...
    pub kind: &'static str,
    /// To learn from.
    pub train: Option<Box<dyn Dataset>>,
    /// For decisions.
    pub validation: Option<Box<dyn Dataset>>,
    /// For the final number.
    pub test: Option<Box<dyn Dataset>>,
    /// The names of the classes by number; empty if they have none.
    pub classes: Vec<String>,
    /// Pictures that were left out because they cannot be decoded.
    pub broken: Vec<Broken>,
}

impl Opened {
    pub(crate) fn new(kind: &'static str, classes: Vec<String>) -> Opened {
        Opened { kind, train: None, validation: None, test: None, classes, broken: Vec::new() }
    }
}

/// Opens the data set at `path`.
///
/// # Errors
/// Every error names the file or folder.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Opened> {
    options.check()?;
    let parts = folder::parts(path)?;
    if parts.iter().any(Option::is_some) {
        return folder::open_parts(parts, options);
    }
    let (folders, _) = listing::entries(path)?;
    if !folders.is_empty() {
        let opened = folder::open_parts([None, None, Some(path.to_path_buf())], options)?;
        return Ok(Opened { kind: "class folders", ..opened });
    }
    Err(Error::Unrecognised { path: path.to_path_buf(), why: "no data set is recognised".into() })
}
