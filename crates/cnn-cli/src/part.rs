//! Some images of a data set, owned.

use cnn_core::{Dataset, Preprocess, Result};
use std::sync::Arc;

/// Images of another data set, by index, for a stated number of classes, normalised once more if need be.
#[derive(Debug, Clone)]
pub struct Part {
    data: Arc<dyn Dataset>,
    indices: Arc<[usize]>,
    classes: usize,
    normalise: Option<Preprocess>,
}

impl Part {
    /// All images.
    pub fn whole(data: Box<dyn Dataset>) -> Part {
        let (indices, classes) = ((0..data.len()).collect(), data.classes());
        Part { data: data.into(), indices, classes, normalise: None }
    }

    /// The images at those of these positions that exist.
    pub fn at(&self, positions: &[usize]) -> Part {
        let indices = positions.iter().filter_map(|&at| self.indices.get(at).copied()).collect();
        Part { indices, ..self.clone() }
    }

    /// At most so many images, evenly spread.
    pub fn limited(&self, most: Option<usize>) -> Part {
        match most {
            Some(most) if most < self.len() => {
                self.at(&(0..most).map(|i| i * self.len() / most).collect::<Vec<_>>())
            }
            _ => self.clone(),
        }
    }

    /// The same images, said to be of so many classes.
    pub fn of_classes(self, classes: usize) -> Part {
        Part { classes, ..self }
    }

    /// Values become `(value - mean) / std`, for data that are not normalised yet.
    pub fn normalised(self, preprocess: &Preprocess) -> Part {
        Part { normalise: Some(preprocess.clone()), ..self }
    }

    /// Mean and standard deviation of each channel over at most `most` images.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn moments(&self, most: usize) -> Result<Preprocess> {
        let some = self.limited(Some(most));
        let [c, h, w] = self.shape();
        let (mut image, mut sums) = (vec![0f32; c * h * w], vec![(0f64, 0f64); c]);
        for at in 0..some.len() {
            some.image(at, &mut image)?;
            for (plane, (sum, square)) in image.chunks((h * w).max(1)).zip(&mut sums) {
                *sum += plane.iter().map(|&v| f64::from(v)).sum::<f64>();
                *square += plane.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
            }
        }
        let n = (some.len() * h * w).max(1) as f64;
        let mean = sums.iter().map(|(s, _)| s / n).collect::<Vec<f64>>();
        let deviation = |((_, square), m): (&(f64, f64), &f64)| (square / n - m * m).max(1e-6).sqrt() as f32;
        let std = sums.iter().zip(&mean).map(deviation).collect();
        Ok(Preprocess { mean: mean.iter().map(|&m| m as f32).collect(), std })
    }
}

impl Dataset for Part {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn shape(&self) -> [usize; 3] {
        self.data.shape()
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn label(&self, index: usize) -> usize {
        self.data.label(self.indices[index])
    }

    fn image(&self, index: usize, out: &mut [f32]) -> Result<()> {
        let Some(&at) = self.indices.get(index) else {
            return Err(cnn_core::Error::Data(format!("image {index} of {}", self.len())));
        };
        self.data.image(at, out)?;
        if let Some(Preprocess { mean, std }) = &self.normalise {
            let [_, h, w] = self.shape();
            for ((plane, m), s) in out.chunks_mut((h * w).max(1)).zip(mean).zip(std) {
                plane.iter_mut().for_each(|v| *v = (*v - m) / s);
            }
        }
        Ok(())
    }

    fn preprocess(&self) -> Option<Preprocess> {
        self.normalise.clone().or_else(|| self.data.preprocess())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::data::MemoryDataset;
    use cnn_core::tensor::tensor;

    fn four() -> Part {
        let images = tensor(&[4, 2, 1, 1], vec![0.0, 1.0, 1.0, 3.0, 2.0, 5.0, 3.0, 7.0]).unwrap();
        Part::whole(Box::new(MemoryDataset::new(images, vec![0, 1, 0, 1], 2).unwrap()))
    }

    #[test]
    fn limits_spread_evenly() {
        let labels = |p: &Part| (0..p.len()).map(|i| p.label(i)).collect::<Vec<_>>();
        assert_eq!(labels(&four().limited(Some(2))), [0, 0]);
        assert_eq!(four().limited(Some(9)).len(), 4);
        assert_eq!(labels(&four().at(&[3, 9, 0]).limited(Some(1))), [1]);
    }

    #[test]
    fn moments_normalise_to_zero_and_one() {
        let moments = four().moments(10).unwrap();
        assert_eq!(moments.mean, [1.5, 4.0]);
        assert!((moments.std[0] - 1.118_034).abs() < 1e-5 && (moments.std[1] - 2.236_068).abs() < 1e-5);
        let again = four().normalised(&moments).moments(10).unwrap();
        assert!(again.mean.iter().all(|m| m.abs() < 1e-6));
        assert!(again.std.iter().all(|s| (s - 1.0).abs() < 1e-5));
    }
}
