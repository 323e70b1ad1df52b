//! Which pictures a folder holds: names and classes only, nothing is decoded.
//!
//! Pictures are files whose name ends in `.jpg`, `.jpeg` or `.png`, in any case. What begins with a dot is
//! hidden and passed over, as are other files. Links are followed. All orders are by the bytes of the names,
//! so that they are the same on every machine.

use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Folders in folders in a class folder: so many and no more, against links that lead in circles.
const MAX_DEPTH: usize = 16;

/// A picture and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) path: PathBuf,
    pub(crate) label: u16,
}

/// The sub-folders and the pictures directly in a folder, both sorted.
pub(crate) fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut folders, mut pictures) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(Error::read(folder))? {
        let entry = entry.map_err(Error::read(folder))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            folders.push(path);
        } else if is_picture(&path) {
            pictures.push(path);
        }
    }
    folders.sort();
    pictures.sort();
    Ok((folders, pictures))
}

/// Whether the name is that of a picture.
pub(crate) fn is_picture(path: &Path) -> bool {
    let known = |e: &str| ["jpg", "jpeg", "png"].iter().any(|k| e.eq_ignore_ascii_case(k));
    path.extension().and_then(|e| e.to_str()).is_some_and(known)
}

/// The names of the class folders in a folder, sorted.
pub(crate) fn class_names(folder: &Path) -> Result<Vec<String>> {
    entries(folder)?.0.iter().map(|path| name(path)).collect()
}

/// The pictures in the class folders of `folder`, class by class in the order of the folders' names, and in
/// each by path. A class folder may be empty or missing; one that is not in `classes` is an error.
pub(crate) fn class_folders(folder: &Path, classes: &[String]) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for path in entries(folder)?.0 {
        let name = name(&path)?;
        let position = classes.iter().position(|c| *c == name).and_then(|p| u16::try_from(p).ok());
        let Some(label) = position else {
            return Err(Error::UnknownClass { path: folder.to_path_buf(), name, known: classes.to_vec() });
        };
        let mut pictures = Vec::new();
        collect(&path, 0, &mut pictures)?;
        pictures.sort();
        items.extend(pictures.into_iter().map(|path| Item { path, label }));
    }
    match items.is_empty() {
        true => Err(Error::NoImages {
            path: folder.to_path_buf(),
            why: "no .jpg, .jpeg or .png file in its class folders".into(),
        }),
        false => Ok(items),
    }
}

fn collect(folder: &Path, depth: usize, pictures: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        let why = format!("folders are nested deeper than {MAX_DEPTH}");
        return Err(Error::Unrecognised { path: folder.to_path_buf(), why });
    }
    let (folders, here) = entries(folder)?;
    pictures.extend(here);
    folders.iter().try_for_each(|folder| collect(folder, depth + 1, pictures))
}

/// The last part of a path, which has to be UTF-8 when it is the name of a class.
fn name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|n| n.to_str());
    name.map(str::to_string).ok_or_else(|| Error::Unrecognised {
        path: path.to_path_buf(),
        why: "the name of a class folder has to be UTF-8".into(),
    })
}
