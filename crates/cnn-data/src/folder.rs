//! Folders of pictures.

use crate::listing::{self, Item};
use crate::open::{Broken, Opened};
use crate::pictures::{self, Decoded};
use crate::{ByteDataset, Error, OpenOptions, Result};
use cnn_core::Dataset;
use std::path::{Path, PathBuf};

/// The parts of a data set and the folder names they go by.
const PARTS: [&[&str]; 3] = [&["train"], &["val", "validation"], &["test"]];

/// The folders of the training, validation and test part, as far as they are there.
pub(crate) fn parts(path: &Path) -> Result<[Option<PathBuf>; 3]> {
    let mut found = [None, None, None];
    for (part, names) in found.iter_mut().zip(PARTS) {
        let mut folders = names.iter().map(|name| path.join(name)).filter(|folder| folder.is_dir());
        *part = folders.next();
        if let (Some(one), Some(other)) = (&*part, folders.next()) {
            let why = format!("{} is there too; keep one of them", other.display());
            return Err(Error::Unrecognised { path: one.clone(), why });
        }
    }
    Ok(found)
}

/// Opens a folder with a folder of class folders for each part.
pub(crate) fn open_parts(parts: [Option<PathBuf>; 3], options: &OpenOptions) -> Result<Opened> {
    let classes = match (&options.classes, parts.iter().flatten().next()) {
        (Some(classes), _) => classes.clone(),
        (None, Some(first)) => listing::class_names(first)?,
        (None, None) => Vec::new(),
    };
    let list = |part: &Option<PathBuf>| {
        part.as_ref().map(|folder| listing::class_folders(folder, &classes)).transpose()
    };
    let lists = [list(&parts[0])?, list(&parts[1])?, list(&parts[2])?];
    open_lists("image folder", lists, classes, options)
}

/// Decodes the pictures of up to three parts.
pub(crate) fn open_lists(
    kind: &'static str,
    lists: [Option<Vec<Item>>; 3],
    classes: Vec<String>,
    options: &OpenOptions,
) -> Result<Opened> {
    let count = classes.len();
    let mut opened = Opened::new(kind, classes);
    for (list, to) in lists.into_iter().zip([&mut opened.train, &mut opened.validation, &mut opened.test]) {
        let Some(list) = list else { continue };
        let paths: Vec<PathBuf> = list.iter().map(|item| item.path.clone()).collect();
        let Decoded { shape, pixels, broken } = pictures::decode_all(&paths, options)?;
        let bad: std::collections::BTreeSet<usize> = broken.iter().map(|b| b.0).collect();
        let good = list.iter().enumerate().filter(|(position, _)| !bad.contains(position));
        let labels = good.map(|(_, item)| item.label).collect();
        opened.broken.extend(broken.into_iter().map(|(p, why)| Broken { path: paths[p].clone(), why }));
        let data = ByteDataset::new(pixels, labels, shape, count, options.preprocess(shape[0])?)?;
        *to = Some(Box::new(data) as Box<dyn Dataset>);
    }
    Ok(opened)
}
