//! What can be wrong with a data set.

use std::path::PathBuf;

/// An error of this crate; it names the file and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such directory.
    #[error("{0} is not a directory; name one that holds the four MNIST files")]
    NoDirectory(PathBuf),
    /// One of the standard files is missing, under every name it may have.
    #[error("{directory} has no {file} (with `-` or `.` before `idx`, plain or .gz)")]
    NoFile {
        /// Where it was looked for.
        directory: PathBuf,
        /// The standard name.
        file: String,
    },
    /// The operating system refused, or a gzip stream is damaged.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file does not begin as an IDX file of bytes with the needed number of axes.
    #[error("{file}: the magic number is {found:#010x}, but {wanted:#010x} is needed (IDX, unsigned bytes)")]
    Magic {
        /// The file.
        file: String,
        /// Its first four bytes.
        found: u32,
        /// What they have to be.
        wanted: u32,
    },
    /// The file ends before its header or its last item.
    #[error("{file}: ends after {found} bytes, but its header needs {needed}")]
    Truncated {
        /// The file.
        file: String,
        /// Bytes there are, uncompressed.
        found: u64,
        /// Bytes there should be, uncompressed.
        needed: u64,
    },
    /// The file goes on after its last item.
    #[error("{file}: goes on after the {needed} bytes that its header announces")]
    TooLong {
        /// The file.
        file: String,
        /// Bytes there should be, uncompressed.
        needed: u64,
    },
    /// The header announces more than this crate is ready to read, or nothing.
    #[error("{file}: a size of {axes:?} is not between 1 and {limit} bytes")]
    Size {
        /// The file.
        file: String,
        /// The sizes in the header.
        axes: Vec<u32>,
        /// The largest product allowed.
        limit: u64,
    },
    /// The images are not of the needed size.
    #[error("{file}: the images are {found:?}, but {wanted:?} is needed")]
    ImageShape {
        /// The file.
        file: String,
        /// Rows and columns found.
        found: [usize; 2],
        /// Rows and columns needed.
        wanted: [usize; 2],
    },
    /// Images and labels are not equally many.
    #[error("{images} images but {labels} labels")]
    Counts {
        /// Number of images.
        images: usize,
        /// Number of labels.
        labels: usize,
    },
    /// Too few images for the split.
    #[error("{file}: {found} images, but more than {needed} are needed for the split")]
    TooFew {
        /// The file.
        file: String,
        /// Images there are.
        found: usize,
        /// Images that go into the other part.
        needed: usize,
    },
    /// A label that is not a class.
    #[error("label {label} of image {index} is not below {classes}")]
    Label {
        /// Position of the image.
        index: usize,
        /// Its label.
        label: i64,
        /// Number of classes.
        classes: usize,
    },
    /// Pixels, shape and normalisation that do not fit each other.
    #[error("a data set of bytes: {0}")]
    Shape(String),
    /// The operating system refused a file or a directory.
    #[error("{path}: {source}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A path in which no data set is recognised.
    #[error("{path}: {why}")]
    Unrecognised {
        /// The path.
        path: PathBuf,
        /// What is there and what would do.
        why: String,
    },
    /// An option out of range, or one that does not go with the data.
    #[error("option `{option}`: {why}")]
    Option {
        /// The field of [`OpenOptions`](crate::OpenOptions).
        option: &'static str,
        /// What is allowed.
        why: String,
    },
    /// A folder without a single usable picture.
    #[error("{path}: {why}")]
    NoImages {
        /// The folder.
        path: PathBuf,
        /// What was found instead.
        why: String,
    },
    /// A class folder, or a name in a label file, that is not one of the classes.
    #[error("{path}: `{name}` is not one of the {} classes ({})", known.len(), few(known))]
    UnknownClass {
        /// The folder or label file.
        path: PathBuf,
        /// The unknown name.
        name: String,
        /// The classes.
        known: Vec<String>,
    },
    /// Pictures of several sizes where one is needed.
    #[error(
        "{path} is {found:?} (height, width), but {first} is {wanted:?}; set `size` to bring all to one size"
    )]
    Sizes {
        /// The picture that differs.
        path: PathBuf,
        /// Its height and width.
        found: [usize; 2],
        /// The first picture.
        first: PathBuf,
        /// The first picture's height and width.
        wanted: [usize; 2],
    },
    /// A picture that cannot be decoded, in strict mode.
    #[error("{path}: broken picture: {why}")]
    Broken {
        /// The picture.
        path: PathBuf,
        /// What the decoder says.
        why: String,
    },
    /// More memory than there is.
    #[error("{what} need {bytes} bytes of memory, more than there are")]
    Memory {
        /// What needs it.
        what: String,
        /// How much.
        bytes: u128,
    },
    /// A line of a label file.
    #[error("{path}, line {line}: {why}")]
    LabelFile {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong and what is right.
        why: String,
    },
    /// An array, archive or binary file that cannot be used.
    #[error("{file}: {why}")]
    Format {
        /// The file, with the array's name where there is one.
        file: String,
        /// What is wrong and, where there is one, the remedy.
        why: String,
    },
    /// A share of images that cannot be held out.
    #[error("cannot hold out images: {0}")]
    HoldOut(String),
}

/// The first few names of a list.
fn few(names: &[String]) -> String {
    let mut text = names.iter().take(20).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 20 {
        text.push_str(", ...");
    }
    text
}

impl Error {
    /// An [`Error::Read`] for `path`.
    pub(crate) fn read(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Read { path, source }
    }
}

impl From<Error> for cnn_core::Error {
    fn from(error: Error) -> cnn_core::Error {
        cnn_core::Error::method(error)
    }
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
