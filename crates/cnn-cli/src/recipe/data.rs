//! What the images are to become, as it is written in `[data]`.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number of pixels, or [height, width]")]
pub enum Size {
    /// Height and width alike.
    Square(usize),
    /// Height, width.
    Sides([usize; 2]),
}

impl Size {
    /// Height, width.
    pub fn sides(self) -> [usize; 2] {
        match self {
            Size::Square(side) => [side; 2],
            Size::Sides(sides) => sides,
        }
    }
}

/// Numbers for each channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number, or a number for each channel")]
pub enum PerChannel {
    /// The same for all channels.
    All(f32),
    /// One for each.
    Each(Vec<f32>),
}

impl PerChannel {
    /// One number for each of `channels`.
    pub fn of(&self, channels: usize) -> Vec<f32> {
        match self {
            PerChannel::All(value) => vec![*value; channels],
            PerChannel::Each(values) => values.clone(),
        }
    }

    fn numbers(&self) -> &[f32] {
        match self {
            PerChannel::All(value) => std::slice::from_ref(value),
            PerChannel::Each(values) => values,
        }
    }
}

/// Order and number of colour channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Colours {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel.
    Gray,
}

/// Names of the classes, in the order of the network's outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a list of names, or a file with one name a line")]
pub enum Classes {
    /// Here.
    Names(Vec<String>),
    /// In a file, one a line.
    File(PathBuf),
}

/// Random changes of training images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Moved by up to so many pixels; black moves in.
    pub shift: Option<usize>,
    /// Padded by so many pixels and cut at random; the mean colour moves in.
    pub crop: Option<usize>,
    /// Every second image mirrored.
    pub flip: bool,
}

/// The section `[data]`; also what the command line says of images.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Size that images are scaled to: they are scaled to cover it, and the middle is cut out. With `crop`,
    /// their shorter side becomes the smaller of the two numbers.
    pub size: Option<Size>,
    /// What is cut out of the middle after scaling to `size`; all of `size` when it is not said.
    pub crop: Option<Size>,
    /// Subtracted, in units of pixel / 255.
    pub mean: Option<PerChannel>,
    /// Divided by, in units of pixel / 255.
    pub std: Option<PerChannel>,
    /// `"rgb"`, `"bgr"` or `"gray"`.
    pub channels: Option<Colours>,
    /// Order of the classes; sorted folder names when it is not said.
    pub classes: Option<Classes>,
    /// File with the label of each image, for images that are not in folders of classes.
    pub labels: Option<PathBuf>,
    /// Random changes of training images.
    pub augment: Option<Augmentation>,
    /// Share of the training images that is held out for decisions when there are no validation images.
    pub validation: Option<f64>,
    /// Stop at the first image that cannot be read.
    pub strict: Option<bool>,
    /// Folder for decoded pixels.
    pub cache: Option<PathBuf>,
}

impl DataSection {
    /// What is said here, and what `other` says where nothing is. `size` and `crop` go together, and so do
    /// `mean` and
    /// `std`.
    pub fn or(self, other: &DataSection) -> DataSection {
        let (size, crop) = match (self.size, self.crop) {
            (None, None) => (other.size, other.crop),
            own => own,
        };
        let (mean, std) = match (self.mean, self.std) {
            (None, None) => (other.mean.clone(), other.std.clone()),
            own => own,
        };
        DataSection {
            size,
            crop,
            mean,
            std,
            channels: self.channels.or(other.channels),
            classes: self.classes.or_else(|| other.classes.clone()),
            labels: self.labels.or_else(|| other.labels.clone()),
            augment: self.augment.or_else(|| other.augment.clone()),
            validation: self.validation.or(other.validation),
            strict: self.strict.or(other.strict),
            cache: self.cache.or_else(|| other.cache.clone()),
        }
    }

    /// Checks what can be checked without images: the wrong key, and why.
    ///
    /// # Errors
    /// The key and what it allows.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let no = |key, why: &str| Err((key, why.to_string()));
        let zero = |size: Option<Size>| size.is_some_and(|s| s.sides().contains(&0));
        if zero(self.size) {
            return no("size", "at least 1 pixel");
        }
        if zero(self.crop) {
            return no("crop", "at least 1 pixel");
        }
        match (self.size, self.crop) {
            (None, Some(_)) => {
                return no("crop", "it needs `size`, what images are scaled to before the crop");
            }
            (Some(size), Some(crop)) if size.sides().iter().min() < crop.sides().iter().max() => {
                return no("crop", "it must not be larger than `size`");
            }
            _ => {}
        }
        if self.mean.as_ref().is_some_and(|m| m.numbers().iter().any(|v| !v.is_finite())) {
            return no("mean", "finite numbers, in units of pixel / 255");
        }
        if self.std.as_ref().is_some_and(|s| s.numbers().iter().any(|v| !v.is_finite() || *v <= 0.0)) {
            return no("std", "positive numbers, in units of pixel / 255");
        }
        // of a pixel that was scaled to [0, 1], so 123.675 is from the other convention
        if self.mean.as_ref().is_some_and(|m| m.numbers().iter().any(|v| v.abs() > 2.0)) {
            return no("mean", "in units of pixel / 255: divide by 255");
        }
        match (&self.mean, &self.std) {
            (Some(_), None) => return no("mean", "it needs `std` beside it"),
            (None, Some(_)) => return no("std", "it needs `mean` beside it"),
            _ => {}
        }
        if self.validation.is_some_and(|v| !(v > 0.0 && v < 1.0)) {
            return no("validation", "a share between 0 and 1, as 0.1");
        }
        if matches!(&self.classes, Some(Classes::Names(names)) if names.is_empty()) {
            return no("classes", "at least one name");
        }
        Ok(())
    }

    /// Takes relative paths as relative to a folder: those of a recipe, to where it is.
    pub(super) fn relative_to(&mut self, folder: &Path) {
        let classes = match &mut self.classes {
            Some(Classes::File(path)) => Some(path),
            _ => None,
        };
        for path in [self.labels.as_mut(), self.cache.as_mut(), classes].into_iter().flatten() {
            *path = folder.join(&*path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_taken_together() {
        let recipe = DataSection {
            size: Some(Size::Square(256)),
            crop: Some(Size::Square(224)),
            mean: Some(PerChannel::All(0.5)),
            std: Some(PerChannel::All(0.25)),
            ..Default::default()
        };
        let flags = DataSection { size: Some(Size::Sides([32, 48])), ..Default::default() }.or(&recipe);
        assert_eq!((flags.size.unwrap().sides(), flags.crop), ([32, 48], None));
        assert_eq!(flags.mean.unwrap().of(3), [0.5; 3]);
    }

    #[test]
    fn absurd_values_name_the_key() {
        let key = |section: DataSection| section.check().unwrap_err().0;
        let all = |v| Some(PerChannel::All(v));
        assert_eq!(key(DataSection { size: Some(Size::Square(0)), ..Default::default() }), "size");
        assert_eq!(key(DataSection { crop: Some(Size::Square(8)), ..Default::default() }), "crop");
        assert_eq!(key(DataSection { mean: all(f32::NAN), std: all(1.0), ..Default::default() }), "mean");
        assert_eq!(key(DataSection { mean: all(123.7), std: all(1.0), ..Default::default() }), "mean");
        assert_eq!(key(DataSection { mean: all(0.5), std: all(0.0), ..Default::default() }), "std");
        assert_eq!(key(DataSection { std: all(1.0), ..Default::default() }), "std");
        assert_eq!(key(DataSection { validation: Some(1.0), ..Default::default() }), "validation");
        assert!(DataSection::default().check().is_ok());
    }
}
