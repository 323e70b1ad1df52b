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
        label: u8,
        /// Number of classes.
        classes: usize,
    },
    /// Pixels, shape and normalisation that do not fit each other.
    #[error("a data set of bytes: {0}")]
    Shape(String),
}

impl From<Error> for cnn_core::Error {
    fn from(error: Error) -> cnn_core::Error {
        cnn_core::Error::method(error)
    }
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
