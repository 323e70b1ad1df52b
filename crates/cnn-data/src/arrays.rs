//! Images and labels that come as arrays, not as files of pictures.

use crate::npy::{Array, Kind};
use crate::picture::Picture;
use crate::{ByteDataset, Channels, Error, OpenOptions, Result};
use cnn_core::Dataset;
use cnn_core::data::MemoryDataset;
use rayon::prelude::*;

/// The images of an array.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Images {
    /// Pixels as `[n, c, h, w]`; the shape is without `n`.
    Bytes { pixels: Vec<u8>, shape: [usize; 3] },
    /// Values that are already preprocessed, as `[n, c, h, w]`.
    Values { values: Vec<f32>, shape: [usize; 3] },
}

/// Takes an array as images. Bytes are `[n, h, w]`, `[n, h, w, c]` or `[n, c, h, w]` with 1 or 3 channels,
/// told apart by where the 1 or 3 is; floats are `[n, h, w]` or `[n, c, h, w]`.
pub(crate) fn images(array: Array) -> Result<Images> {
    let bad = |why: String| Err(Error::Format { file: array.name.clone(), why });
    let floats = array.kind == Kind::Float;
    let is_channels = |axis: usize| [1, 3].contains(&axis);
    let shape @ [c, h, w] = match *array.shape {
        [_, h, w] => [1, h, w],
        [_, c, h, w] if floats => [c, h, w],
        [_, c, h, w] if is_channels(c) && !is_channels(w) => [c, h, w],
        [_, h, w, c] if is_channels(c) && !is_channels(h) => [c, h, w],
        [_, a, _, b] if is_channels(a) && is_channels(b) => {
            return bad(format!(
                "a shape of {:?} may be [n, h, w, c] or [n, c, h, w]; drop a channel axis of 1 (to [n, h, w]), \
                 or give preprocessed float32 values, which are always [n, c, h, w]",
                array.shape
            ));
        }
        _ => {
            return bad(format!(
                "a shape of {:?} is not [n, h, w], or [n, h, w, c] or [n, c, h, w] with 1 or 3 channels c",
                array.shape
            ));
        }
    };
    if floats {
        let values = array.floats();
        let size = c * h * w;
        if let Some(position) = values.iter().position(|v| !v.is_finite()) {
            return bad(format!("image {} has a value that is not finite", position / size.max(1)));
        }
        return Ok(Images::Values { values, shape });
    }
    let channels_last = array.shape.len() == 4 && array.shape[1] != c;
    if !channels_last || c == 1 {
        return Ok(Images::Bytes { pixels: array.bytes, shape });
    }
    let planar = |image: &[u8]| Picture::from_interleaved(image, shape, c).pixels;
    let pixels = array.bytes.par_chunks_exact(c * h * w).flat_map_iter(planar).collect();
    Ok(Images::Bytes { pixels, shape })
}

/// Takes an array of shape `[n]` or `[n, 1]` as labels.
pub(crate) fn labels(array: &Array) -> Result<Vec<i64>> {
    match *array.shape {
        [_] | [_, 1] => array.integers(),
        _ => Err(Error::Format {
            file: array.name.clone(),
            why: format!(
                "labels have the shape [n] or [n, 1], not {:?} (class numbers, not one-hot)",
                array.shape
            ),
        }),
    }
}

/// The number of classes: that of the names if there are some, otherwise the largest label plus one.
pub(crate) fn class_count(labels: &[i64], options: &OpenOptions) -> usize {
    match &options.classes {
        Some(names) => names.len(),
        None => labels.iter().max().map_or(0, |&l| usize::try_from(l).map_or(0, |l| l.saturating_add(1))),
    }
}

/// A data set from images and labels below `classes`; `name` is what errors call it.
pub(crate) fn dataset(
    images: Images,
    labels: &[i64],
    classes: usize,
    options: &OpenOptions,
    name: &str,
) -> Result<Box<dyn Dataset>> {
    let bad = |why: String| Error::Format { file: name.to_string(), why };
    let (values, size) = match &images {
        Images::Bytes { pixels, shape } => (pixels.len(), shape.iter().product::<usize>()),
        Images::Values { values, shape } => (values.len(), shape.iter().product()),
    };
    if values != labels.len() * size {
        return Err(bad(format!("{} images but {} labels", values / size.max(1), labels.len())));
    }
    let label = |(index, &label): (usize, &i64)| match u16::try_from(label) {
        Ok(small) if usize::from(small) < classes => Ok(small),
        _ => Err(bad(format!(
            "label {label} of image {index} is not between 0 and {}",
            classes.clamp(1, usize::from(u16::MAX) + 1) - 1
        ))),
    };
    let labels = labels.iter().enumerate().map(label).collect::<Result<Vec<u16>>>()?;
    match images {
        Images::Bytes { pixels, shape } => {
            let (pixels, shape) = fitted(pixels, shape, options, name)?;
            let preprocess = options.preprocess(shape[0])?;
            Ok(Box::new(ByteDataset::new(pixels, labels, shape, classes, preprocess)?))
        }
        Images::Values { values, shape: [c, h, w] } => {
            if options.size.is_some_and(|size| size != [h, w]) || options.resize.is_some() {
                let why = format!("{name} has preprocessed values of {h} x {w}, which are not resized");
                return Err(Error::Option { option: "size", why });
            }
            let count = labels.len();
            let labels = labels.into_iter().map(usize::from).collect();
            let data = cnn_core::tensor::tensor(&[count, c, h, w], values)
                .and_then(|values| MemoryDataset::new(values, labels, classes));
            Ok(Box::new(data.map_err(|e| bad(e.to_string()))?))
        }
    }
}

/// Channels and geometry as the options say; one channel stays one.
fn fitted(
    pixels: Vec<u8>,
    shape: [usize; 3],
    options: &OpenOptions,
    name: &str,
) -> Result<(Vec<u8>, [usize; 3])> {
    let [c, h, w] = shape;
    let recolour = c == 3 && options.channels != Channels::Rgb;
    let resize = options.resize.is_some() || options.size.is_some_and(|size| size != [h, w]);
    let size = c * h * w;
    if !recolour && !resize || size == 0 {
        return Ok((pixels, shape));
    }
    let fit = |image: &[u8]| {
        let picture = Picture { shape, pixels: image.to_vec() };
        let picture = if c == 3 { picture.with_channels(options.channels) } else { picture };
        picture.fitted(options)
    };
    let fitted: Result<Vec<Picture>, String> = pixels.par_chunks_exact(size).map(fit).collect();
    let fitted = fitted.map_err(|why| Error::Format { file: name.to_string(), why })?;
    let shape = fitted.first().map_or(shape, |picture| picture.shape);
    Ok((fitted.into_iter().flat_map(|picture| picture.pixels).collect(), shape))
}
