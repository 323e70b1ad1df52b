//! Folders of pictures.

use crate::listing::{self, Item};
use crate::open::{Broken, Opened};
use crate::pictures::{self, Decoded};
use crate::{ByteDataset, Error, OpenOptions, Result, cache, label_file};
use cnn_core::Dataset;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
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
pub(crate) fn open_parts(
    root: &Path,
    parts: [Option<PathBuf>; 3],
    options: &OpenOptions,
    kind: &'static str,
) -> Result<Opened> {
    let classes = match (&options.classes, parts.iter().flatten().next()) {
        (Some(classes), _) => classes.clone(),
        (None, Some(first)) => listing::class_names(first)?,
        (None, None) => Vec::new(),
    };
    let list = |part: &Option<PathBuf>| {
        part.as_ref().map(|folder| listing::class_folders(folder, &classes)).transpose()
    };
    let mut lists = [list(&parts[0])?, list(&parts[1])?, list(&parts[2])?];
    // a folder without parts is what it is asked for
    if let Some(wanted) = options.only.filter(|_| kind == "image folder") {
        let others = lists.iter_mut().enumerate().filter(|(at, _)| *at != wanted as usize);
        others.for_each(|(_, list)| *list = None);
    }
    open_lists(root, lists, classes.len(), Opened::new(kind, classes), options)
}

/// Opens a folder of pictures whose labels are in a file; the test part.
pub(crate) fn open_labelled(root: &Path, labels: &Path, options: &OpenOptions) -> Result<Opened> {
    let labels = label_file::read(labels, options.classes.as_deref())?;
    let (_, pictures) = listing::entries(root)?;
    let paths = match labels.names.is_empty() {
        true => pictures,
        false => named(root, &pictures, &labels)?,
    };
    if paths.len() != labels.numbers.len() {
        let why =
            format!("{} has {} images but {} labels", root.display(), paths.len(), labels.numbers.len());
        return Err(Error::Format { file: labels.path.display().to_string(), why });
    }
    let item = |(index, (path, &label)): (usize, (PathBuf, &i64))| match u16::try_from(label) {
        Ok(small) if usize::from(small) < labels.classes => Ok(Item { path, label: small }),
        _ => Err(Error::Format {
            file: labels.path.display().to_string(),
            why: format!("label {label} of image {index} is not between 0 and {}", labels.classes.max(1) - 1),
        }),
    };
    let items =
        paths.into_iter().zip(&labels.numbers).enumerate().map(item).collect::<Result<Vec<Item>>>()?;
    let opened = Opened::new("labelled folder", labels.class_names);
    open_lists(root, [None, None, Some(items)], labels.classes, opened, options)
}

/// The files that a label file names: by their path in the folder, or without the ending of a picture.
fn named(root: &Path, pictures: &[PathBuf], labels: &label_file::Labels) -> Result<Vec<PathBuf>> {
    let here = pictures.iter().filter_map(|path| Some((path.file_name()?, path)));
    let stems = pictures.iter().filter_map(|path| Some((path.file_stem()?, path)));
    // a full name wins over a stem
    let known: HashMap<&OsStr, &PathBuf> = stems.chain(here).collect();
    let mut seen: HashMap<PathBuf, usize> = HashMap::new();
    let mut paths = Vec::with_capacity(labels.names.len());
    for (line, name) in &labels.names {
        let bad = |why| Error::LabelFile { path: labels.path.clone(), line: *line, why };
        let below = root.join(name);
        let path = match known.get(OsStr::new(name)) {
            Some(path) => (*path).clone(),
            None if listing::is_picture(&below) && below.is_file() => below,
            None => {
                let why = format!(
                    "{} has no picture `{name}` (each line is `name label`; remove a line of headings)",
                    root.display()
                );
                return Err(bad(why));
            }
        };
        if let Some(before) = seen.insert(path.clone(), *line) {
            return Err(bad(format!("`{name}` was already in line {before}")));
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Decodes the pictures of up to three parts, or takes them from the cache.
fn open_lists(
    root: &Path,
    lists: cache::Lists,
    classes: usize,
    mut opened: Opened,
    options: &OpenOptions,
) -> Result<Opened> {
    let manifest = options.cache.as_ref().map(|path| (path, cache::manifest(root, &lists, options)));
    let cached = manifest.as_ref().and_then(|(path, manifest)| cache::read(path, manifest, &lists));
    let decoded = match cached {
        Some(decoded) => decoded,
        None => {
            let mut decoded = [None, None, None];
            for (list, decoded) in lists.iter().zip(&mut decoded) {
                if let Some(list) = list {
                    let paths: Vec<PathBuf> = list.iter().map(|item| item.path.clone()).collect();
                    *decoded = Some(pictures::decode_all(&paths, options)?);
                }
            }
            if let Some((path, manifest)) = &manifest {
                cache::write(path, manifest, &decoded)?;
            }
            decoded
        }
    };
    let to = [&mut opened.train, &mut opened.validation, &mut opened.test];
    for ((list, decoded), to) in lists.into_iter().zip(decoded).zip(to) {
        let (Some(list), Some(Decoded { shape, pixels, broken })) = (list, decoded) else { continue };
        let left_out: BTreeSet<usize> = broken.iter().map(|(position, _)| *position).collect();
        let good = list.iter().enumerate().filter(|(position, _)| !left_out.contains(position));
        let labels = good.map(|(_, item)| item.label).collect();
        let broken = broken.into_iter().map(|(at, why)| Broken { path: list[at].path.clone(), why });
        opened.broken.extend(broken);
        let data = ByteDataset::new(pixels, labels, shape, classes, options.preprocess(shape[0])?)?;
        *to = Some(Box::new(data) as Box<dyn Dataset>);
    }
    match opened.broken.first() {
        // from a cache that was made without `strict`
        Some(Broken { path, why }) if options.strict => {
            Err(Error::Broken { path: path.clone(), why: why.clone() })
        }
        _ => Ok(opened),
    }
}
