//! ONNX in and out.

mod error;
mod export;
mod metadata;
pub mod proto;

pub use error::{Error, Result, Unsupported, UnsupportedItem};
pub use export::{ExportOptions, save, to_bytes};
