//! The one error type of the core.

use std::path::PathBuf;

/// What can go wrong in the core; each message names the thing and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error inside a node of a graph.
    #[error("node `{node}`: {source}")]
    Node {
        /// The node's name.
        node: String,
        /// What went wrong there.
        #[source]
        source: Box<Error>,
    },
    /// Shapes that do not fit together.
    #[error("shape: {0}")]
    Shape(String),
    /// A node name that the graph does not have.
    #[error("no node is named `{name}`; the graph has: {known}")]
    UnknownNode {
        /// The name that was asked for.
        name: String,
        /// The names there are, comma separated.
        known: String,
    },
    /// A second node with a name that is taken.
    #[error("the graph already has a node named `{0}`; choose another name")]
    DuplicateNode(String),
    /// An edit of the graph that cannot be made.
    #[error("edit: {0}")]
    Edit(String),
    /// A setting outside its range.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// The setting.
        what: String,
        /// What is allowed.
        why: String,
    },
    /// Channels cannot be removed through a layer that does not say how they pass.
    #[error("channels cannot be removed through a `{kind}` layer: {why}")]
    Opaque {
        /// The kind of the layer.
        kind: String,
        /// Why it refuses.
        why: String,
    },
    /// A network that is trained with constraints was about to be deployed.
    #[error(
        "a parameter of shape {shape:?} still carries the constraint `{constraint}`; `pack` the network (or `bake` the parameter) before writing a deployable file"
    )]
    Constrained {
        /// Kind of the constraint.
        constraint: String,
        /// Shape of the parameter.
        shape: Vec<usize>,
    },
    /// A layer that cannot be trained met the trainer.
    #[error("a `{0}` layer cannot be trained; train first, pack afterwards")]
    NotTrainable(String),
    /// A layer that cannot be exported.
    #[error("a `{0}` layer cannot be written in standard operators; keep the network in the native format")]
    NotExpressible(String),
    /// A kind of layer, constraint, method or network that is not registered.
    #[error("unknown {what} `{name}`; registered are: {known}. Register the crate that provides it.")]
    Unregistered {
        /// "layer", "constraint", "method" or "network".
        what: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names there are, comma separated.
        known: String,
    },
    /// Bytes that are not a model file, or a damaged one.
    #[error("model file: {0}")]
    Format(#[from] FormatError),
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// NaN or infinity during training.
    #[error(
        "{what} is not finite at epoch {epoch}, step {step}; first seen at node `{node}`. Lower the learning rate or clip gradients; {rescue}"
    )]
    NonFinite {
        /// "loss", "activation" or "gradient".
        what: &'static str,
        /// The first node, in execution order, whose values are not finite.
        node: String,
        /// Epoch, from 0.
        epoch: usize,
        /// Step within the epoch, from 0.
        step: usize,
        /// Where the last good state is.
        rescue: String,
    },
    /// A hook stopped the work on the user's request.
    #[error("interrupted")]
    Interrupted,
    /// A data set that cannot be used.
    #[error("data: {0}")]
    Data(String),
    /// An error of a method crate.
    #[error(transparent)]
    Method(Box<dyn std::error::Error + Send + Sync>),
}

/// Why bytes could not be read as a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The first bytes are not the magic number.
    #[error("not a model file (the first bytes are not `CNN`)")]
    NotAModel,
    /// A version this program does not know.
    #[error("version {found} is not supported (this program reads up to {supported})")]
    Version {
        /// The file's version.
        found: u8,
        /// The newest version understood.
        supported: u8,
    },
    /// A deployed model where a checkpoint is needed, or the other way round.
    #[error("the file is a {found}, but a {wanted} is needed")]
    Purpose {
        /// What the file is.
        found: &'static str,
        /// What the caller needs.
        wanted: &'static str,
    },
    /// The file ends too early.
    #[error("the file ends too early (at byte {0})")]
    Truncated(usize),
    /// The checksum does not match: the file is damaged.
    #[error("the checksum does not match: the file is damaged")]
    Checksum,
    /// The file asks for more memory than the limit.
    #[error("the file decodes to more than {limit} elements; raise the limit if you trust it")]
    TooLarge {
        /// The limit on decoded elements.
        limit: u64,
    },
    /// Something else that cannot be.
    #[error("{0}")]
    Malformed(String),
}

/// Result of the core.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps an error with the node in which it happened.
    pub fn at(self, node: &str) -> Error {
        Error::Node { node: node.to_string(), source: Box::new(self) }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Error {
        Error::Invalid { what: what.into(), why: why.into() }
    }

    /// Wraps the error of a method crate.
    pub fn method(error: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Method(Box::new(error))
    }

    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }

    /// A malformed model file.
    pub fn malformed(why: impl Into<String>) -> Error {
        Error::Format(FormatError::Malformed(why.into()))
    }
}
