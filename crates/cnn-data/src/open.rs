//! One door to all data that a user may have.

use crate::arrays::Images;
use crate::{ByteDataset, Error, OpenOptions, Result, arrays, cifar, folder, listing, mnist, npy, npz};
use cnn_core::Dataset;
use std::io::Read;
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

/// Opens the data set at `path`, whatever it is:
///
/// | `kind` | what is there | parts |
/// |---|---|---|
/// | `image folder` | folder with `train/`, `val/` or `validation/`, `test/`; class folders in each | as
/// found |
/// | `class folders` | folder with a folder for each class | test |
/// | `labelled folder` | folder of pictures, and `labels` | test |
/// | `cifar-10`, `cifar-100` | folder with the files of the binary version, or the folder above | as found |
/// | `idx` | folder with the four files of MNIST | all three, see [`mnist::load_dir`] |
/// | `npz` | archive with `x_train`, `y_train`, `x_val`, ..., `x_test`, `y_test` | as found |
/// | `npz` | archive with `x` and `y`, `images` and `labels`, ...; or labels in `labels` | test |
/// | `npy` | array of images, and `labels` | test |
///
/// What has no part of its own is put into `test`; whoever knows better takes it as another part.
///
/// **Folders.** Pictures are files that end in `.jpg`, `.jpeg` or `.png`, in any case, also in folders within
/// a class folder; hidden files, other files and pictures outside class folders are passed over, links are
/// followed. Classes are those of the training part (or of the first part that is there); a class folder in
/// another part, or not in
/// `options.classes`, is an error; an empty class folder is a class without images. Pictures are resized
/// (triangle filter with antialias, bit for bit as Pillow and torchvision) and cut as the options say.
///
/// **Memory** is one byte a value; images as float arrays take four.
///
/// **Arrays.** uint8 images are pixels and are treated as decoded pictures; float32 and float64 images are
/// taken as already preprocessed: neither mean and std nor channels are applied, and they are not resized.
///
/// # Errors
/// [`Error::Option`] for options that cannot be meant or do not go with the data; all others name the file or
/// folder and, for label files, the line.
///
/// ```
/// use cnn_data::{OpenOptions, open};
/// let folder = tempfile::tempdir()?;
/// for class in ["cat", "dog"] {
///     let path = folder.path().join("train").join(class);
///     std::fs::create_dir_all(&path)?;
///     image::RgbImage::from_pixel(40, 30, image::Rgb([200, 100, 0])).save(path.join("1.png"))?;
///     std::fs::write(path.join("2.jpg"), "no picture")?;
/// }
/// let options = OpenOptions { size: Some([8, 8]), ..OpenOptions::default() };
/// let opened = open(folder.path(), &options)?;
/// let train = opened.train.ok_or("no training part")?;
/// assert_eq!((train.len(), train.shape()), (2, [3, 8, 8]));
/// assert_eq!(opened.classes, ["cat", "dog"]);
/// assert!(opened.broken[0].path.ends_with("cat/2.jpg"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn open(path: &Path, options: &OpenOptions) -> Result<Opened> {
    options.check()?;
    let kind = std::fs::metadata(path).map_err(Error::read(path))?;
    let opened = if kind.is_dir() { open_folder(path, options)? } else { open_file(path, options)? };
    let takes_labels = matches!(opened.kind, "labelled folder" | "npz" | "npy");
    if options.labels.is_some() && !takes_labels {
        let why = format!("{} is of kind `{}` and has its own labels", path.display(), opened.kind);
        return Err(Error::Option { option: "labels", why });
    }
    Ok(opened)
}

fn open_folder(path: &Path, options: &OpenOptions) -> Result<Opened> {
    if cifar::is_cifar(path) {
        return cifar::open(path, options);
    }
    if let Some(inner) = cifar::inner(path) {
        return cifar::open(&inner, options);
    }
    if mnist::is_mnist(path) {
        return open_mnist(path, options);
    }
    let parts = folder::parts(path)?;
    if parts.iter().any(Option::is_some) {
        return folder::open_parts(path, parts, options, "image folder");
    }
    let (folders, pictures) = listing::entries(path)?;
    if let Some(labels) = &options.labels {
        return folder::open_labelled(path, labels, options);
    }
    if !pictures.is_empty() && folders.is_empty() {
        let why = format!("{} holds pictures without class folders; name a file with labels", path.display());
        return Err(Error::Option { option: "labels", why });
    }
    if folders.is_empty() {
        return Err(Error::Unrecognised { path: path.to_path_buf(), why: WANTED.to_string() });
    }
    folder::open_parts(path, [None, None, Some(path.to_path_buf())], options, "class folders")
}

const WANTED: &str = "no data set is recognised; wanted is a folder with train/, val/, test/ and \
    class folders in them, a folder of class folders, pictures with a label file, the files of CIFAR (binary \
    version) or MNIST (IDX), an .npz or an .npy file";

fn open_file(path: &Path, options: &OpenOptions) -> Result<Opened> {
    let mut start = Vec::new();
    let file = std::fs::File::open(path).map_err(Error::read(path))?;
    file.take(8).read_to_end(&mut start).map_err(Error::read(path))?;
    match () {
        () if npy::is_npy(&start) => npz::open_npy(path, options),
        () if start.starts_with(b"PK") => npz::open_npz(path, options),
        () => Err(Error::Unrecognised { path: path.to_path_buf(), why: WANTED.to_string() }),
    }
}

fn open_mnist(path: &Path, options: &OpenOptions) -> Result<Opened> {
    let names =
        options.classes.clone().unwrap_or_else(|| (0..mnist::CLASSES).map(|d| d.to_string()).collect());
    if names.len() != mnist::CLASSES {
        let why = format!("{} has {} classes", path.display(), mnist::CLASSES);
        return Err(Error::Option { option: "classes", why });
    }
    let splits = mnist::load_dir(path)?;
    let name = path.display().to_string();
    let part = |data: ByteDataset| {
        let labels: Vec<i64> = data.labels().iter().map(|&l| l.into()).collect();
        let images = Images::Bytes { shape: data.shape(), pixels: data.into_pixels() };
        arrays::dataset(images, &labels, mnist::CLASSES, options, &name).map(Some)
    };
    let (train, validation, test) = (part(splits.train)?, part(splits.validation)?, part(splits.test)?);
    Ok(Opened { train, validation, test, ..Opened::new("idx", names) })
}
