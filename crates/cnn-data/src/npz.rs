//! Data sets in NumPy files: an `.npz` archive with arrays of images and labels, or an `.npy` array of
//! images.

use crate::npy::{Array, Use};
use crate::open::Opened;
use crate::{Error, OpenOptions, Result, arrays, label_file, npy};
use cnn_core::Dataset;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use zip::ZipArchive;

/// What the parts are called in the names of arrays.
const PARTS: [&[&str]; 3] = [&["train"], &["val", "valid", "validation"], &["test"]];
/// What images are called, also behind `train_` or before `_train`, and so on.
const IMAGES: [&str; 4] = ["x", "images", "image", "data"];
/// What labels are called.
const LABELS: [&str; 5] = ["y", "labels", "label", "targets", "target"];
/// Deflate makes at most 1,032 bytes of one: what announces more is no archive.
const MAX_RATIO: u64 = 1_032;

type Archive = ZipArchive<BufReader<File>>;

/// Opens an archive. Images without a part in their name, as `x` and `y` or `images` and `labels`, are the
/// test part.
pub(crate) fn open_npz(path: &Path, options: &OpenOptions) -> Result<Opened> {
    let bad = |why: String| Error::Format { file: path.display().to_string(), why };
    let file = BufReader::new(File::open(path).map_err(Error::read(path))?);
    let mut archive = ZipArchive::new(file).map_err(|e| bad(e.to_string()))?;
    let names: Vec<String> = archive
        .file_names()
        .map(|name| name.map(|n| n.into_owned()))
        .collect::<Result<_, _>>()
        .map_err(|e| bad(e.to_string()))?;
    let [images, labels] = [&IMAGES[..], &LABELS].map(|what| PARTS.map(|part| find(&names, part, what)));
    let mut pairs = Vec::new();
    for (part, (images, labels)) in images.into_iter().zip(labels).enumerate() {
        if let Some(images) = images.map_err(bad)? {
            pairs.push((part, images, labels.map_err(bad)?));
        }
    }
    if pairs.is_empty() {
        let of = |what: &[&str], nameless: &str| match find(&names, &[], what).map_err(bad)? {
            None => Ok(names.iter().find(|name| *name == nameless).cloned()),
            found => Ok(found),
        };
        let labels = of(&LABELS, "arr_1.npy")?;
        pairs.extend(of(&IMAGES, "arr_0.npy")?.map(|images| (2, images, labels)));
    }
    if pairs.is_empty() {
        return Err(bad(format!(
            "has no images under a known name; it has {}, but `x_train`, `y_train`, `x_test`, `y_test` or \
             `images`, `labels` are needed",
            names.join(", ")
        )));
    }
    if options.labels.is_some() && (pairs.len() > 1 || pairs.iter().any(|(_, _, labels)| labels.is_some())) {
        let why = "the archive has its own labels".to_string();
        return Err(Error::Option { option: "labels", why });
    }
    let mut parts = Vec::new();
    for (part, images, labels) in pairs {
        let labels = match (labels, &options.labels) {
            (Some(labels), _) => {
                Labels::Numbers(arrays::labels(&array(&mut archive, &labels, path, Use::Labels)?)?)
            }
            (None, Some(file)) => Labels::File(label_file::read(file, options.classes.as_deref())?),
            (None, None) => {
                return Err(bad(format!("has `{images}` but no labels for it (as `y_train` for `x_train`)")));
            }
        };
        parts.push((part, array(&mut archive, &images, path, Use::Images)?, labels));
    }
    open_arrays("npz", parts, options)
}

/// Opens an array of images, whose labels are in the file that the options name.
pub(crate) fn open_npy(path: &Path, options: &OpenOptions) -> Result<Opened> {
    let Some(labels) = &options.labels else {
        let why =
            format!("{} holds images only; name a file with their labels (.npy or text)", path.display());
        return Err(Error::Option { option: "labels", why });
    };
    let labels = Labels::File(label_file::read(labels, options.classes.as_deref())?);
    open_arrays("npy", vec![(2, read_npy(path, Use::Images)?, labels)], options)
}

/// Reads an `.npy` file.
pub(crate) fn read_npy(path: &Path, purpose: Use) -> Result<Array> {
    let file = File::open(path).map_err(Error::read(path))?;
    let length = file.metadata().map_err(Error::read(path))?.len();
    npy::read(BufReader::new(file), length, &path.display().to_string(), purpose)
}

enum Labels {
    Numbers(Vec<i64>),
    File(label_file::Labels),
}

fn open_arrays(
    kind: &'static str,
    parts: Vec<(usize, Array, Labels)>,
    options: &OpenOptions,
) -> Result<Opened> {
    let mut names = options.classes.clone().unwrap_or_default();
    let mut classes = names.len();
    let mut labelled = Vec::new();
    for (part, images, labels) in parts {
        let numbers = match labels {
            Labels::Numbers(numbers) => {
                classes = classes.max(arrays::class_count(&numbers, options));
                numbers
            }
            Labels::File(labels) => {
                classes = classes.max(labels.classes);
                names = labels.class_names.clone();
                labels.nameless()?
            }
        };
        labelled.push((part, images, numbers));
    }
    let mut opened = Opened::new(kind, names);
    for (part, images, numbers) in labelled {
        let name = images.name.clone();
        let data: Box<dyn Dataset> =
            arrays::dataset(arrays::images(images)?, &numbers, classes, options, &name)?;
        *[&mut opened.train, &mut opened.validation, &mut opened.test][part] = Some(data);
    }
    Ok(opened)
}

/// The one file in the archive that holds `what` of a part, or `what` alone if no part is asked for.
fn find(names: &[String], part: &[&str], what: &[&str]) -> Result<Option<String>, String> {
    let mut wanted: Vec<String> = part
        .iter()
        .flat_map(|part| {
            what.iter().flat_map(move |what| [format!("{what}_{part}"), format!("{part}_{what}")])
        })
        .collect();
    if part.is_empty() {
        wanted.extend(what.iter().map(|what| what.to_string()));
    }
    let stem = |name: &str| name.strip_suffix(".npy").unwrap_or(name).to_lowercase();
    let mut found = names.iter().filter(|name| wanted.contains(&stem(name)));
    match (found.next(), found.next()) {
        (Some(one), Some(other)) => Err(format!("has both `{one}` and `{other}`; keep one of them")),
        (found, _) => Ok(found.cloned()),
    }
}

fn array(archive: &mut Archive, entry: &str, path: &Path, purpose: Use) -> Result<Array> {
    let name = format!("{} ({entry})", path.display());
    let bad = |why: String| Error::Format { file: name.clone(), why };
    let file = archive.by_name(entry).map_err(|e| bad(e.to_string()))?;
    let (length, packed) = (file.size(), file.compressed_size());
    let on_disk = std::fs::metadata(path).map_err(Error::read(path))?.len();
    if length / MAX_RATIO > packed.min(on_disk) {
        return Err(bad(format!("announces {length} bytes, more than can be in {packed} packed ones")));
    }
    npy::read(file, length, &name, purpose)
}
