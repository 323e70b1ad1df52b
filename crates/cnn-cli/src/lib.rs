//! What the `cnn` command is made of: [`recipe`] is the one format in which methods are written down, for the
//! command and for benchmarks; [`commands`] are functions that take options and return reports.
//!
//! ```
//! use cnn_cli::commands::networks::{self, Options, Report};
//! use cnn_cli::session::{Session, Voice};
//! let session = Session::new(Voice::Quiet);
//! let report = networks::run(&Options { name: Some("lenet5".into()), ..Options::default() }, &session)?;
//! let Report::One { params, .. } = report else { unreachable!() };
//! assert_eq!(params, 431_080);
//! # Ok::<(), anyhow::Error>(())
//! ```

pub mod answer;
pub mod blame;
pub mod cli;
pub mod commands;
pub mod descriptions;
pub mod images;
pub mod latency;
pub mod measure;
pub mod network;
pub mod part;
pub mod recipe;
mod registry;
pub mod session;
pub mod statistics;
pub mod stop;
pub mod table;

pub use registry::registry;

/// True if an error is the user's wish to stop.
pub fn is_interruption(error: &anyhow::Error) -> bool {
    error.chain().any(|e| matches!(e.downcast_ref(), Some(cnn_core::Error::Interrupted)))
}
