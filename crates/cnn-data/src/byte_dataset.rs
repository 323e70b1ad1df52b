//! Images kept as bytes.

use crate::{Error, Result};
use cnn_core::{Dataset, Preprocess};

/// Labelled images whose pixels are kept as bytes, a quarter of the memory of floats, and become
/// `(pixel / 255 - mean) / std` when an image is asked for: one table look-up a pixel.
#[derive(Debug, Clone)]
pub struct ByteDataset {
    shape: [usize; 3],
    classes: usize,
    pixels: Vec<u8>,
    labels: Vec<u16>,
    preprocess: Preprocess,
    /// For each channel what each of the 256 bytes becomes.
    tables: Vec<[f32; 256]>,
}

impl ByteDataset {
    /// A data set from the pixels of all images, one after the other as `[c, h, w]`, and their labels.
    ///
    /// # Errors
    /// If the numbers do not fit, a label is not below `classes`, or the normalisation is not finite or does
    /// not have a mean and a positive std for each channel.
    pub fn new(
        pixels: Vec<u8>,
        labels: Vec<u16>,
        shape: [usize; 3],
        classes: usize,
        preprocess: Preprocess,
    ) -> Result<ByteDataset> {
        let size = shape.iter().try_fold(1usize, |p, &d| p.checked_mul(d)).filter(|&s| s > 0);
        let size = size.ok_or_else(|| Error::Shape(format!("images of shape {shape:?}")))?;
        if !pixels.len().is_multiple_of(size) {
            return Err(Error::Shape(format!(
                "{} pixels are not whole images of shape {shape:?}",
                pixels.len()
            )));
        }
        if pixels.len() / size != labels.len() {
            return Err(Error::Counts { images: pixels.len() / size, labels: labels.len() });
        }
        if let Some((index, &label)) = labels.iter().enumerate().find(|(_, l)| usize::from(**l) >= classes) {
            return Err(Error::Label { index, label: i64::from(label), classes });
        }
        let tables = tables(&preprocess, shape[0])?;
        Ok(ByteDataset { shape, classes, pixels, labels, preprocess, tables })
    }

    /// The same images under another normalisation.
    ///
    /// # Errors
    /// If it is not finite or does not have a mean and a positive std for each channel.
    pub fn with_preprocess(mut self, preprocess: Preprocess) -> Result<ByteDataset> {
        self.tables = tables(&preprocess, self.shape[0])?;
        self.preprocess = preprocess;
        Ok(self)
    }

    /// The bytes of an image, as `[c, h, w]`; `None` if there are not so many images.
    pub fn pixels(&self, index: usize) -> Option<&[u8]> {
        let size: usize = self.shape.iter().product();
        self.pixels.chunks_exact(size).nth(index)
    }

    /// The bytes of all images, one after the other.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// The labels of all images.
    pub fn labels(&self) -> &[u16] {
        &self.labels
    }

    /// Cuts the data set in two: the first `first` images (all, if there are fewer) and the rest.
    pub fn split(mut self, first: usize) -> (ByteDataset, ByteDataset) {
        let size: usize = self.shape.iter().product();
        let first = first.min(self.labels.len());
        let rest = ByteDataset {
            pixels: self.pixels.split_off(first * size),
            labels: self.labels.split_off(first),
            preprocess: self.preprocess.clone(),
            tables: self.tables.clone(),
            ..self
        };
        (self, rest)
    }
}

/// For each channel what each of the 256 bytes becomes.
fn tables(preprocess: &Preprocess, channels: usize) -> Result<Vec<[f32; 256]>> {
    let Preprocess { mean, std } = preprocess;
    let valid = mean.iter().all(|m| m.is_finite()) && std.iter().all(|s| s.is_finite() && *s > 0.0);
    if !valid || [mean.len(), std.len()] != [channels; 2] {
        return Err(Error::Shape(format!(
            "a normalisation needs a finite mean and a positive std for each of {channels} channels"
        )));
    }
    let table = |(m, s): (&f32, &f32)| std::array::from_fn(|byte| (byte as f32 / 255.0 - m) / s);
    Ok(mean.iter().zip(std).map(table).collect())
}

impl Dataset for ByteDataset {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn label(&self, index: usize) -> usize {
        usize::from(self.labels[index])
    }

    fn image(&self, index: usize, out: &mut [f32]) -> cnn_core::Result<()> {
        let Some(pixels) = self.pixels(index).filter(|p| p.len() == out.len()) else {
            return Err(cnn_core::Error::Data(format!(
                "image {index} of {} does not exist or does not have {} values",
                self.len(),
                out.len()
            )));
        };
        let plane = self.shape[1] * self.shape[2];
        for ((out, pixels), table) in out.chunks_mut(plane).zip(pixels.chunks(plane)).zip(&self.tables) {
            for (value, &pixel) in out.iter_mut().zip(pixels) {
                *value = table[usize::from(pixel)];
            }
        }
        Ok(())
    }

    fn preprocess(&self) -> Option<Preprocess> {
        Some(self.preprocess.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_channels() -> Preprocess {
        Preprocess { mean: vec![0.5, 0.25], std: vec![0.5, 2.0] }
    }

    #[test]
    fn pixels_are_normalised_by_channel() {
        let data =
            ByteDataset::new(vec![0, 255, 51, 0, 1, 2, 3, 4], vec![1, 0], [2, 1, 2], 2, two_channels())
                .unwrap();
        let mut image = [0f32; 4];
        data.image(0, &mut image).unwrap();
        assert_eq!(image, [-1.0, 1.0, (0.2 - 0.25) / 2.0, -0.125]);
        assert_eq!(data.pixels(1).unwrap(), [1, 2, 3, 4]);
        assert_eq!(data.pixels(2), None);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let new = |pixels: usize, labels: &[u16], shape, classes, p| {
            ByteDataset::new(vec![0; pixels], labels.to_vec(), shape, classes, p)
        };
        assert!(matches!(new(7, &[0], [2, 1, 2], 2, two_channels()), Err(Error::Shape(_))));
        assert!(matches!(
            new(8, &[0], [2, 1, 2], 2, two_channels()),
            Err(Error::Counts { images: 2, labels: 1 })
        ));
        let bad_label = new(8, &[0, 2], [2, 1, 2], 2, two_channels());
        assert!(matches!(bad_label, Err(Error::Label { index: 1, label: 2, classes: 2 })));
        assert!(matches!(new(0, &[], [2, 0, 2], 2, two_channels()), Err(Error::Shape(_))));
        assert!(matches!(new(0, &[], [2, usize::MAX, 2], 2, two_channels()), Err(Error::Shape(_))));
        let flat = Preprocess { mean: vec![0.0; 2], std: vec![1.0, 0.0] };
        assert!(matches!(new(8, &[0, 1], [2, 1, 2], 2, flat), Err(Error::Shape(_))));
        assert!(matches!(new(8, &[0, 1], [1, 2, 2], 2, two_channels()), Err(Error::Shape(_))));
    }

    #[test]
    fn an_index_beyond_the_end_is_an_error() {
        let data = ByteDataset::new(vec![0; 4], vec![0], [2, 1, 2], 1, two_channels()).unwrap();
        assert!(data.image(1, &mut [0.0; 4]).is_err());
        assert!(data.image(0, &mut [0.0; 3]).is_err());
    }

    #[test]
    fn split_cuts_images_and_labels() {
        let data = ByteDataset::new((0..12).collect(), vec![0, 1, 2], [2, 1, 2], 3, two_channels()).unwrap();
        let (first, rest) = data.split(1);
        assert_eq!((first.len(), rest.len()), (1, 2));
        assert_eq!(rest.pixels(0).unwrap(), [4, 5, 6, 7]);
        assert_eq!(rest.labels(), [1, 2]);
        let (all, none) = rest.split(9);
        assert_eq!((all.len(), none.len()), (2, 0));
    }
}
