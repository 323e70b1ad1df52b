//! Image data sets for the compression toolkit: what a user has (folders of pictures, CIFAR, MNIST, NumPy
//! files), ten thousand embedded handwritten digits, and random changes of training images.
//!
//! - [`open()`]: one door to a data set on disk; [`OpenOptions`] say size, crop, normalisation, channels,
//!   labels, cache.
//! - [`hold_out`], [`split`]: a validation part cut off a training part, the same for the same seed.
//! - [`mnist`]: [`mnist::embedded`] needs no file, [`mnist::load_dir`] reads the four standard files.
//! - [`ByteDataset`]: images kept as bytes and normalised when they are asked for.
//! - [`augment`]: [`Shift`], [`RandomCrop`], [`HorizontalFlip`] and [`Compose`].
//! - [`idx`]: the IDX format, plain or gzipped.
//!
//! ```
//! use cnn_core::{Dataset, data::batch};
//! let digits = cnn_data::mnist::embedded()?;
//! assert_eq!([digits.train.len(), digits.validation.len(), digits.test.len()], [7_000, 1_500, 1_500]);
//! let (images, labels) = batch(&digits.train, &[0, 1, 2])?;
//! assert_eq!(images.shape(), [3, 1, 28, 28]);
//! assert_eq!(labels, [4, 7, 4]);
//! # Ok::<(), cnn_core::Error>(())
//! ```

mod arrays;
pub mod augment;
mod byte_dataset;
mod cache;
mod cifar;
mod decode;
mod error;
mod folder;
mod hold_out;
pub mod idx;
mod jpeg;
mod label_file;
mod listing;
pub mod mnist;
mod npy;
mod npz;
mod open;
mod options;
mod picture;
mod pictures;
mod resize;

pub use augment::{Compose, HorizontalFlip, RandomCrop, Shift};
pub use byte_dataset::ByteDataset;
pub use error::{Error, Result};
pub use hold_out::{hold_out, split};
pub use mnist::Splits;
pub use open::{Broken, Opened, open};
pub use options::{Channels, OpenOptions, Part};
