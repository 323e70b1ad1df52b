//! What the core asks of a data set: images with labels, by index.

use crate::tensor::{Tensor, elements, zeros};
use crate::{Error, Result};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;

/// How pixels become the numbers that a network is trained on: `(pixel / 255 - mean) / std`, per channel.
/// Recorded in the model file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    /// Mean of each channel, in units of `pixel / 255`.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, in units of `pixel / 255`.
    pub std: Vec<f32>,
}

/// A set of labelled images of one shape.
pub trait Dataset: Debug + Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;
    /// Shape `[c, h, w]` of an image.
    fn shape(&self) -> [usize; 3];
    /// Number of classes.
    fn classes(&self) -> usize;
    /// The class of an image, below [`Dataset::classes`].
    fn label(&self, index: usize) -> usize;
    /// Writes the preprocessed image into `out`, which has `c * h * w` elements.
    ///
    /// # Errors
    /// If the image cannot be read.
    fn image(&self, index: usize, out: &mut [f32]) -> Result<()>;
    /// How pixels were turned into values.
    fn preprocess(&self) -> Option<Preprocess> {
        None
    }
    /// True if there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A random change of a training image.
pub trait Augment: Debug + Send + Sync {
    /// Changes the image of shape `[c, h, w]` in place. All randomness comes from `rng`, which the trainer seeds
    /// from seed, epoch and image, so that the result does not depend on the order of work.
    fn apply(&self, image: &mut [f32], shape: [usize; 3], rng: &mut ChaCha8Rng);
}

/// Images that a thread reads one after the other.
const FEW: usize = 4;

/// Gathers images into a batch `[n, c, h, w]` and their labels, several at a time.
///
/// # Errors
/// If an index is out of range or an image cannot be read.
pub fn batch(data: &dyn Dataset, indices: &[usize]) -> Result<(Tensor, Vec<usize>)> {
    if let Some(index) = indices.iter().find(|&&index| index >= data.len()) {
        return Err(Error::Data(format!("image {index} of {}", data.len())));
    }
    let [c, h, w] = data.shape();
    let mut images = zeros(&[indices.len(), c, h, w]);
    let size = elements(&[c, h, w]).max(1);
    let rows = crate::tensor::slice_mut(&mut images)?.par_chunks_mut(size).zip(indices);
    rows.with_min_len(FEW).try_for_each(|(image, &index)| data.image(index, image))?;
    let labels = indices.iter().map(|&index| data.label(index)).collect();
    Ok((images, labels))
}

/// Images and labels in memory, already preprocessed.
#[derive(Debug, Clone)]
pub struct MemoryDataset {
    images: Tensor,
    labels: Vec<usize>,
    classes: usize,
    preprocess: Option<Preprocess>,
}

impl MemoryDataset {
    /// A data set from a batch `[n, c, h, w]` and `n` labels below `classes`.
    ///
    /// # Errors
    /// If the numbers do not fit or a label is out of range.
    pub fn new(images: Tensor, labels: Vec<usize>, classes: usize) -> Result<MemoryDataset> {
        let [n, ..] = crate::tensor::nchw(images.shape())?;
        if n != labels.len() {
            return Err(Error::Data(format!("{n} images but {} labels", labels.len())));
        }
        if let Some(bad) = labels.iter().find(|&&l| l >= classes) {
            return Err(Error::Data(format!("label {bad} with {classes} classes")));
        }
        let images = images.as_standard_layout().into_owned();
        Ok(MemoryDataset { images, labels, classes, preprocess: None })
    }

    /// Records how the images were preprocessed.
    pub fn with_preprocess(mut self, preprocess: Preprocess) -> MemoryDataset {
        self.preprocess = Some(preprocess);
        self
    }
}

impl Dataset for MemoryDataset {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn shape(&self) -> [usize; 3] {
        let s = self.images.shape();
        [s[1], s[2], s[3]]
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn label(&self, index: usize) -> usize {
        self.labels[index]
    }

    fn image(&self, index: usize, out: &mut [f32]) -> Result<()> {
        let size = out.len();
        out.copy_from_slice(&crate::tensor::slice(&self.images)?[index * size..][..size]);
        Ok(())
    }

    fn preprocess(&self) -> Option<Preprocess> {
        self.preprocess.clone()
    }
}

/// A part of another data set, by index.
#[derive(Debug)]
pub struct Subset<'a> {
    data: &'a dyn Dataset,
    indices: Vec<usize>,
}

impl<'a> Subset<'a> {
    /// The images of `data` at `indices`, in that order.
    ///
    /// # Errors
    /// If an index is out of range.
    pub fn new(data: &'a dyn Dataset, indices: Vec<usize>) -> Result<Subset<'a>> {
        match indices.iter().find(|&&i| i >= data.len()) {
            Some(bad) => Err(Error::Data(format!("image {bad} of {}", data.len()))),
            None => Ok(Subset { data, indices }),
        }
    }
}

impl Dataset for Subset<'_> {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn shape(&self) -> [usize; 3] {
        self.data.shape()
    }

    fn classes(&self) -> usize {
        self.data.classes()
    }

    fn label(&self, index: usize) -> usize {
        self.data.label(self.indices[index])
    }

    fn image(&self, index: usize, out: &mut [f32]) -> Result<()> {
        self.data.image(self.indices[index], out)
    }

    fn preprocess(&self) -> Option<Preprocess> {
        self.data.preprocess()
    }
}
