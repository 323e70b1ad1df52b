//! The binary version of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): records of one label byte (CIFAR-100: a
//! coarse and a fine one) and 3,072 pixels, red, green, blue, 32 x 32 each.

use crate::arrays::Images;
use crate::open::Opened;
use crate::{Error, OpenOptions, Result, arrays};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;
/// The longest file that is read, in records: 100 times the official ones.
const MAX_RECORDS: u64 = 5_000_000;
const CIFAR_10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Where labels and names are.
struct Version {
    kind: &'static str,
    /// Bytes before the pixels.
    labels: usize,
    /// Which of them is the label.
    label: usize,
    classes: usize,
    train: Vec<&'static str>,
    test: &'static str,
    names: &'static str,
}

/// The version whose files a folder has.
fn version(folder: &Path, coarse: bool) -> Option<Version> {
    let has = |name: &str| folder.join(name).is_file();
    let ten =
        ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
    if ten.iter().any(|name| has(name)) || has("test_batch.bin") {
        let (train, test, names) = (ten.to_vec(), "test_batch.bin", "batches.meta.txt");
        return Some(Version { kind: "cifar-10", labels: 1, label: 0, classes: 10, train, test, names });
    }
    if !has("train.bin") && !has("test.bin") {
        return None;
    }
    let (label, classes, names) =
        if coarse { (0, 20, "coarse_label_names.txt") } else { (1, 100, "fine_label_names.txt") };
    let (train, test) = (vec!["train.bin"], "test.bin");
    Some(Version { kind: "cifar-100", labels: 2, label, classes, train, test, names })
}

/// Whether the folder holds one of the two.
pub(crate) fn is_cifar(folder: &Path) -> bool {
    version(folder, false).is_some()
}

/// The folder that unpacking the official archive makes in `folder`, if it is there.
pub(crate) fn inner(folder: &Path) -> Option<PathBuf> {
    let inner = ["cifar-10-batches-bin", "cifar-100-binary"].map(|name| folder.join(name));
    inner.into_iter().find(|folder| is_cifar(folder))
}

/// Opens the folder: training part from all training files, test part from the test file.
pub(crate) fn open(folder: &Path, options: &OpenOptions) -> Result<Opened> {
    let Some(version) = version(folder, options.coarse) else {
        return Err(Error::Unrecognised { path: folder.to_path_buf(), why: "has no CIFAR file".into() });
    };
    if options.classes.as_ref().is_some_and(|names| names.len() != version.classes) {
        let why = format!("{} has {} classes", version.kind, version.classes);
        return Err(Error::Option { option: "classes", why });
    }
    let mut opened = Opened::new(version.kind, names(folder, &version, options));
    let exists = |name: &&str| folder.join(name).is_file();
    if version.train.iter().any(exists) {
        if let Some(missing) = version.train.iter().find(|name| !exists(name)) {
            return Err(Error::NoFile { directory: folder.to_path_buf(), file: (*missing).to_string() });
        }
        let files: Vec<PathBuf> = version.train.iter().map(|name| folder.join(name)).collect();
        opened.train = Some(part(&files, &version, options)?);
    }
    if exists(&version.test) {
        opened.test = Some(part(&[folder.join(version.test)], &version, options)?);
    }
    Ok(opened)
}

fn part(files: &[PathBuf], version: &Version, options: &OpenOptions) -> Result<Box<dyn cnn_core::Dataset>> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for file in files {
        let record = version.labels + PIXELS;
        let bytes = read(file, record)?;
        for (index, record) in bytes.chunks_exact(record).enumerate() {
            let label = record[version.label];
            if usize::from(label) >= version.classes {
                let why = format!("label {label} of record {index} is not below {}", version.classes);
                return Err(Error::Format { file: file.display().to_string(), why });
            }
            labels.push(i64::from(label));
            pixels.extend_from_slice(&record[version.labels..]);
        }
    }
    let name = files.first().map(|f| f.display().to_string()).unwrap_or_default();
    arrays::dataset(Images::Bytes { pixels, shape: SHAPE }, &labels, version.classes, options, &name)
}

/// A whole number of records, at least one.
fn read(file: &Path, record: usize) -> Result<Vec<u8>> {
    let source = File::open(file).map_err(Error::read(file))?;
    let length = source.metadata().map_err(Error::read(file))?.len();
    let whole = length.is_multiple_of(record as u64);
    if !whole || !(1..=MAX_RECORDS).contains(&(length / record as u64)) {
        let why = format!("{length} bytes are not between 1 and {MAX_RECORDS} records of {record} bytes");
        return Err(Error::Format { file: file.display().to_string(), why });
    }
    let mut bytes = Vec::new();
    source.take(length).read_to_end(&mut bytes).map_err(Error::read(file))?;
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(Error::Truncated {
            file: file.display().to_string(),
            found: bytes.len() as u64,
            needed: length,
        }),
    }
}

/// Names as given, else as in the data set's own list of names, else the known ones.
fn names(folder: &Path, version: &Version, options: &OpenOptions) -> Vec<String> {
    if let Some(names) = &options.classes {
        return names.clone();
    }
    let text = std::fs::read_to_string(folder.join(version.names)).unwrap_or_default();
    let listed: Vec<String> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_string).collect();
    match version.classes {
        n if listed.len() == n => listed,
        10 => CIFAR_10.map(str::to_string).to_vec(),
        _ => Vec::new(),
    }
}
