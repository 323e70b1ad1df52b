//! What can go wrong in this crate.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that the network cannot be built for.
    #[error("{network}: {option} is {value}, but must be {allowed}")]
    Option {
        /// The network's name.
        network: &'static str,
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The network would be too large.
    #[error("{network}: more than {limit} weights; choose a smaller input, fewer classes or a smaller width")]
    TooLarge {
        /// The network's name.
        network: &'static str,
        /// The largest number of weights.
        limit: usize,
    },
    /// A layer that cannot be replaced.
    #[error(
        "it cannot be replaced by a light form: {0}; replaced are convolutions with one group and a kernel \
             larger than 1 x 1"
    )]
    NotReplaceable(String),
    /// A parameter of the convolution carries a constraint, which the replacement would drop.
    #[error(
        "the convolution carries the constraint `{0}`; replace convolutions first, constrain them afterwards"
    )]
    Constrained(String),
    /// Weights that are NaN or infinite.
    #[error("the convolution has weights that are not finite; train it again")]
    NotFinite,
    /// The singular values of weights could not be found.
    #[error("the singular values of the weights were not found; train the layer again, or skip it")]
    NoSingularValues,
    /// No convolution was found that can be replaced.
    #[error("no convolution can be replaced: {0}")]
    Nothing(String),
    /// An error of the core.
    #[error(transparent)]
    Core(#[from] cnn_core::Error),
}

impl From<Error> for cnn_core::Error {
    fn from(error: Error) -> cnn_core::Error {
        match error {
            Error::Core(error) => error,
            error => cnn_core::Error::method(error),
        }
    }
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
