//! What can go wrong with an ONNX file; each message names the thing and, where there is one, the remedy.

use std::fmt;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are something else.
    #[error("this is not an ONNX file but {found}; {remedy}")]
    NotOnnx {
        /// What it is instead.
        found: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The bytes end early or do not follow the format.
    #[error("the ONNX file is damaged: {0}; fetch or export it again")]
    Damaged(String),
    /// An opset out of the supported range.
    #[error(
        "the file uses opset {found}; opsets {lowest} to {highest} are supported. Export it again (`opset_version=17`), or convert it with `onnx.version_converter`"
    )]
    Opset {
        /// The file's opset.
        found: i64,
        /// Lowest supported.
        lowest: i64,
        /// Highest supported.
        highest: i64,
    },
    /// Operators or attributes that this crate does not have; all of them.
    #[error("the network uses what is not supported:\n{0}")]
    Unsupported(Unsupported),
    /// A network that contradicts itself or the standard.
    #[error("the model: {0}")]
    Model(String),
    /// A node that contradicts the standard.
    #[error("node `{node}` ({operator}): {why}")]
    Node {
        /// Name of the node, or of its first output.
        node: String,
        /// The operator.
        operator: String,
        /// What is wrong.
        why: String,
    },
    /// A constant that cannot be used.
    #[error("constant `{name}`: {why}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// More elements than the limit allows.
    #[error(
        "{what} has {elements} elements, more than the limit of {limit}; raise `ImportOptions::limit` if you trust the file"
    )]
    TooLarge {
        /// The value or the sum of values.
        what: String,
        /// How many it would have.
        elements: String,
        /// The limit.
        limit: u64,
    },
    /// An export beyond what protobuf can hold.
    #[error(
        "the ONNX file would have {bytes} bytes, but protobuf allows 2 GiB; compress the network first or keep the native format"
    )]
    FileTooLarge {
        /// How many it would have.
        bytes: u64,
    },
    /// The graph could not be built or expressed.
    #[error(transparent)]
    Core(#[from] cnn_core::Error),
}

impl From<Error> for cnn_core::Error {
    fn from(error: Error) -> cnn_core::Error {
        match error {
            Error::Core(core) => core,
            other => cnn_core::Error::method(other),
        }
    }
}

/// Everything in a network that is not supported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unsupported {
    /// Each thing with the node that uses it.
    pub items: Vec<UnsupportedItem>,
}

/// One thing that is not supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedItem {
    /// The node, or its first output if it has no name.
    pub node: String,
    /// The operator, with its domain if it is not the standard's.
    pub operator: String,
    /// What of it is not supported; `None` if nothing is.
    pub why: Option<String>,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            match &item.why {
                None => writeln!(f, "  {} (node `{}`)", item.operator, item.node)?,
                Some(why) => writeln!(f, "  {} (node `{}`): {why}", item.operator, item.node)?,
            }
        }
        write!(
            f,
            "  Simplify the network before the export, or import a part of it by naming an earlier value as the output"
        )
    }
}
