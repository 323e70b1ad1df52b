//! ONNX in and out: networks that other programs trained become graphs of this toolkit, and every network of
//! the toolkit, compressed or not, becomes a file of standard operators that ONNX Runtime runs unchanged.
//!
//! - [`load`] and [`from_bytes`] read opsets 9 to 28. Constants are folded, shapes that exporters compute
//!   vanish, and what they write in several operators (channel shuffle, squeeze-and-excitation, `x
//!   sigmoid(x)`) becomes the one layer that it is. The result can be trained and pruned. What is not
//!   supported is reported in one error, all of it.
//! - [`save`] and [`to_bytes`] write opset 17 through [`cnn_core::express`](mod@cnn_core::express).
//!
//! ```
//! use cnn_core::{tensor::relative_error, testing::lenet5, Tensor};
//! use cnn_onnx::{ExportOptions, ImportOptions, from_bytes, to_bytes};
//!
//! let graph = lenet5(7)?;
//! let bytes = to_bytes(&graph, &ExportOptions::default())?;
//! let imported = from_bytes(&bytes, None, &ImportOptions::default())?;
//! assert_eq!(imported.operators["Conv"], 2);
//!
//! let x = Tensor::ones(vec![2, 1, 28, 28]);
//! assert!(relative_error(&imported.graph.infer(&x)?, &graph.infer(&x)?) < 1e-6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The standard: <https://github.com/onnx/onnx/blob/main/docs/Operators.md> and `onnx.proto` there.

mod constants;
mod draft;
mod error;
mod export;
mod fold;
mod import;
mod kind;
mod load;
mod metadata;
mod model;
mod names;
mod op;
mod outline;
mod patterns;
pub mod proto;
mod slot;
mod source;
mod value;

pub use error::{Error, Result, Unsupported, UnsupportedItem};
pub use export::{ExportOptions, save, to_bytes};
pub use import::{folded_operators, supported_operators};
pub use kind::ElementKind;
pub use load::{ImportOptions, Imported, evaluate, from_bytes, load};
pub use value::Value;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
