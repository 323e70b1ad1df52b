//! Many picture files to one block of bytes, in parallel.

use crate::picture::Picture;
use crate::{Error, OpenOptions, Result, decode};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Decoded pictures of one shape, one after the other, and which files could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) shape: [usize; 3],
    /// The pixels of those that could be decoded.
    pub(crate) pixels: Vec<u8>,
    /// Position in the list and reason of the others, in order.
    pub(crate) broken: Vec<(usize, String)>,
}

/// What became of a file.
enum Outcome {
    Good,
    Broken(String),
    /// Decoded, but of another height and width.
    Size([usize; 2]),
    /// Not looked at, because an earlier one stops everything.
    Skipped,
}

/// Decodes all files. Neither the result nor the error depends on the number of threads.
///
/// # Errors
/// [`Error::Sizes`], [`Error::Memory`], [`Error::NoImages`] if all are broken; [`Error::Broken`] names the
/// first broken one in strict mode.
pub(crate) fn decode_all(paths: &[PathBuf], options: &OpenOptions) -> Result<Decoded> {
    let mut broken = Vec::new();
    let Some((start, first)) = first_good(paths, options, &mut broken)? else {
        let path = paths.first().and_then(|p| p.parent()).unwrap_or_else(|| ".".as_ref()).to_path_buf();
        let why = broken.first().map_or("no pictures".into(), |(_, why)| format!("all are broken: {why}"));
        return Err(Error::NoImages { path, why });
    };
    let rest = &paths[start + 1..];
    let mut pixels = zeros(rest.len() + 1, first.pixels.len())?;
    let (head, tail) = pixels.split_at_mut(first.pixels.len());
    head.copy_from_slice(&first.pixels);

    // position of the earliest file that stops everything: what lies before it is still looked at
    let stop = AtomicUsize::new(usize::MAX);
    let read = |(position, (path, out)): (usize, (&PathBuf, &mut [u8]))| {
        if position > stop.load(Ordering::Relaxed) {
            return Outcome::Skipped;
        }
        let (outcome, stops) = match picture(path, options) {
            Ok(picture) if picture.shape == first.shape => {
                out.copy_from_slice(&picture.pixels);
                (Outcome::Good, false)
            }
            Ok(Picture { shape: [_, h, w], .. }) => (Outcome::Size([h, w]), true),
            Err(why) => (Outcome::Broken(why), options.strict),
        };
        if stops {
            stop.fetch_min(position, Ordering::Relaxed);
        }
        outcome
    };
    let slots = rest.par_iter().zip(tail.par_chunks_exact_mut(first.pixels.len()));
    let outcomes: Vec<Outcome> = slots.enumerate().map(read).collect();

    let mut good = vec![true];
    for (outcome, path) in outcomes.into_iter().zip(rest) {
        let position = start + good.len();
        good.push(matches!(outcome, Outcome::Good));
        match outcome {
            Outcome::Good | Outcome::Skipped => {}
            Outcome::Broken(why) if options.strict => return Err(Error::Broken { path: path.clone(), why }),
            Outcome::Broken(why) => broken.push((position, why)),
            Outcome::Size(found) => {
                let [_, h, w] = first.shape;
                let (path, first) = (path.clone(), paths[start].clone());
                return Err(Error::Sizes { path, found, first, wanted: [h, w] });
            }
        }
    }
    close_up(&mut pixels, first.pixels.len(), &good);
    Ok(Decoded { shape: first.shape, pixels, broken })
}

fn picture(path: &Path, options: &OpenOptions) -> Result<Picture, String> {
    decode::file(path, options.channels)?.fitted(options)
}

/// The first file that can be decoded: it says what shape all must have.
fn first_good(
    paths: &[PathBuf],
    options: &OpenOptions,
    broken: &mut Vec<(usize, String)>,
) -> Result<Option<(usize, Picture)>> {
    for (position, path) in paths.iter().enumerate() {
        match picture(path, options) {
            Ok(picture) => return Ok(Some((position, picture))),
            Err(why) if options.strict => return Err(Error::Broken { path: path.clone(), why }),
            Err(why) => broken.push((position, why)),
        }
    }
    Ok(None)
}

/// So many pictures of that many bytes, or an error instead of an abort.
fn zeros(count: usize, size: usize) -> Result<Vec<u8>> {
    let memory = || Error::Memory { what: format!("{count} pictures"), bytes: count as u128 * size as u128 };
    let total = count.checked_mul(size).ok_or_else(memory)?;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(total).map_err(|_| memory())?;
    pixels.resize(total, 0);
    Ok(pixels)
}

/// Takes out the slots that are not good.
fn close_up(pixels: &mut Vec<u8>, size: usize, good: &[bool]) {
    let mut end = 0;
    for (slot, _) in good.iter().enumerate().filter(|(_, good)| **good) {
        pixels.copy_within(slot * size..(slot + 1) * size, end);
        end += size;
    }
    pixels.truncate(end);
}
