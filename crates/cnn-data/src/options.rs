//! How a data set is to be opened.

use crate::{Error, Result};
use cnn_core::Preprocess;
use std::path::PathBuf;

/// The largest height or width that pictures are brought to.
pub const MAX_SIDE: usize = 16_384;

/// Which channels an image has, and in which order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Channels {
    /// Red, green, blue. Grey pictures of a folder are repeated three times.
    #[default]
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One: `(19595 R + 38470 G + 7471 B + 32768) >> 16`, the luma of ITU-R 601-2 as Pillow rounds it.
    Gray,
}

impl Channels {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Channels::Rgb | Channels::Bgr => 3,
            Channels::Gray => 1,
        }
    }
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// To learn from.
    Train,
    /// For decisions.
    Validation,
    /// For the final number.
    Test,
}

/// How [`open`](crate::open()) is to open a data set. The default takes it as it is stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OpenOptions {
    /// Height and width of the images, after resizing and centre crop. `None`: as stored, and all must agree.
    pub size: Option<[usize; 2]>,
    /// What the shorter side is resized to before the centre crop; not less than either number of `size`.
    /// `None`: just enough to cover `size`.
    pub resize: Option<usize>,
    /// Mean of each channel in units of `pixel / 255`, in the order of `channels`. `None`: 0.
    pub mean: Option<Vec<f32>>,
    /// Standard deviation of each channel, likewise. `None`: 1.
    pub std: Option<Vec<f32>>,
    /// Channels of the images. Data that are stored with one channel as arrays (IDX, `.npy`) keep one.
    pub channels: Channels,
    /// Names of the classes in the order of their numbers. `None`: folder names, sorted; or what the data
    /// say.
    pub classes: Option<Vec<String>>,
    /// A file with labels, for a flat folder of pictures or for arrays without labels: an `.npy` array of
    /// integers, or text with a line for each image. A line is `name label`, separated by a tab, a comma or
    /// blanks, or `label` alone for the pictures by sorted name; a label is the name of a class or its number
    /// from 0. Empty lines and lines that begin with `#` are passed over. With names, pictures that are not
    /// in the file are passed over too.
    pub labels: Option<PathBuf>,
    /// Stop at the first picture that cannot be decoded. Otherwise it is left out and reported.
    pub strict: bool,
    /// A file that keeps the decoded pictures of a folder for the next time.
    pub cache: Option<PathBuf>,
    /// The only part that is wanted of an image folder with several: the others' pictures are not decoded.
    pub only: Option<Part>,
    /// CIFAR-100: the 20 coarse labels in place of the 100 fine ones.
    pub coarse: bool,
}

impl OpenOptions {
    /// Whether the options can be meant.
    ///
    /// # Errors
    /// [`Error::Option`] names the first that cannot.
    pub fn check(&self) -> Result<()> {
        let bad = |option, why: String| Err(Error::Option { option, why });
        if let Some([h, w]) = self.size.filter(|size| size.iter().any(|s| !(1..=MAX_SIDE).contains(s))) {
            return bad("size", format!("{h} x {w} is not between 1 and {MAX_SIDE}"));
        }
        match (self.resize, self.size) {
            (Some(_), None) => return bad("resize", "needs `size`, what is cut out after resizing".into()),
            (Some(side), Some([h, w])) if !(h.max(w)..=MAX_SIDE).contains(&side) => {
                return bad(
                    "resize",
                    format!("{side} is not between {}, what `size` needs, and {MAX_SIDE}", h.max(w)),
                );
            }
            _ => {}
        }
        if self.mean.iter().flatten().any(|m| !m.is_finite()) {
            return bad("mean", "has a value that is not finite".into());
        }
        if self.std.iter().flatten().any(|s| !(s.is_finite() && *s > 0.0)) {
            return bad("std", "has a value that is not finite and above 0".into());
        }
        let classes = self.classes.as_deref().unwrap_or_default();
        if self.classes.is_some() && !(1..=usize::from(u16::MAX)).contains(&classes.len()) {
            return bad("classes", format!("{} names are not between 1 and {}", classes.len(), u16::MAX));
        }
        let mut sorted: Vec<&String> = classes.iter().collect();
        sorted.sort();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return bad("classes", format!("`{}` is there twice", twice[0]));
        }
        Ok(())
    }

    /// The normalisation of images with that many channels.
    pub(crate) fn preprocess(&self, channels: usize) -> Result<Preprocess> {
        let values = |option, given: &Option<Vec<f32>>, default| match given {
            None => Ok(vec![default; channels]),
            Some(values) if values.len() == channels => Ok(values.clone()),
            Some(values) => Err(Error::Option {
                option,
                why: format!("has {} values, but the images have {channels} channels", values.len()),
            }),
        };
        Ok(Preprocess { mean: values("mean", &self.mean, 0.0)?, std: values("std", &self.std, 1.0)? })
    }
}
