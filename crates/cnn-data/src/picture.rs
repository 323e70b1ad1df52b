//! A picture in memory: channels, then geometry.

use crate::{Channels, OpenOptions, resize};

/// The most pixels that a picture may have, as stored and after resizing: 64 Mi.
pub(crate) const MAX_PIXELS: u64 = 1 << 26;

/// Bytes as `[channels, h, w]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) shape: [usize; 3],
    pub(crate) pixels: Vec<u8>,
}

impl Picture {
    /// From interleaved channels; those after the first `keep` are dropped.
    pub(crate) fn from_interleaved(bytes: &[u8], [c, h, w]: [usize; 3], keep: usize) -> Picture {
        let mut pixels = Vec::with_capacity(keep * h * w);
        for channel in 0..keep {
            pixels.extend(bytes.iter().skip(channel).step_by(c));
        }
        Picture { shape: [keep, h, w], pixels }
    }

    /// Brings 1 or 3 channels in the order red, green, blue to those that are wanted.
    pub(crate) fn with_channels(mut self, channels: Channels) -> Picture {
        let plane = self.shape[1] * self.shape[2];
        match (self.shape[0], channels) {
            (1, Channels::Rgb | Channels::Bgr) => self.pixels = self.pixels.repeat(3),
            (3, Channels::Bgr) => {
                let (red, rest) = self.pixels.split_at_mut(plane);
                red.swap_with_slice(&mut rest[plane..]);
            }
            (3, Channels::Gray) => {
                let (red, rest) = self.pixels.split_at(plane);
                let (green, blue) = rest.split_at(plane);
                let luma = |((&r, &g), &b): ((&u8, &u8), &u8)| {
                    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 32768) >> 16) as u8
                };
                self.pixels = red.iter().zip(green).zip(blue).map(luma).collect();
            }
            _ => {}
        }
        self.shape[0] = channels.count();
        self
    }

    /// Resizes and cuts out the centre as the options say. A picture may be too elongated for that.
    pub(crate) fn fitted(self, options: &OpenOptions) -> Result<Picture, String> {
        let [c, h, w] = self.shape;
        let Some(size) = options.size else { return Ok(self) };
        let to = resized(options.resize, size, [h, w]);
        if [h, w] == size && to == size {
            return Ok(self);
        }
        if to[0] as u128 * to[1] as u128 > u128::from(MAX_PIXELS) {
            return Err(format!("{h} x {w} pixels would become {} x {}", to[0], to[1]));
        }
        let [top, left] =
            [0, 1].map(|axis| ((to[axis] - size[axis]) as f64 / 2.0).round_ties_even() as usize);
        let mut pixels = Vec::with_capacity(c * size[0] * size[1]);
        for plane in self.pixels.chunks_exact((h * w).max(1)) {
            let plane = resize::plane(plane, [h, w], to);
            for row in plane.chunks_exact(to[1]).skip(top).take(size[0]) {
                pixels.extend_from_slice(&row[left..left + size[1]]);
            }
        }
        Ok(Picture { shape: [c, size[0], size[1]], pixels })
    }
}

/// Height and width after resizing: the shorter side becomes `resize`, the longer one keeps the ratio,
/// rounded down (torchvision); without `resize` the smallest such picture that covers `size`.
fn resized(resize: Option<usize>, size: [usize; 2], [h, w]: [usize; 2]) -> [usize; 2] {
    let scaled = |long: usize, to: usize, short: usize| (long as u128 * to as u128 / short as u128) as usize;
    match resize {
        Some(side) if h <= w => [side, scaled(w, side, h)],
        Some(side) => [scaled(h, side, w), side],
        // size[0] / h >= size[1] / w: the height decides
        None if size[0] as u128 * w as u128 >= size[1] as u128 * h as u128 => {
            [size[0], scaled(w, size[0], h)]
        }
        None => [scaled(h, size[1], w), size[1]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_pixels() -> Picture {
        Picture::from_interleaved(&[10, 20, 30, 200, 100, 50], [3, 1, 2], 3)
    }

    #[test]
    fn channels_are_ordered_and_mixed() {
        assert_eq!(two_pixels().pixels, [10, 200, 20, 100, 30, 50]);
        assert_eq!(two_pixels().with_channels(Channels::Bgr).pixels, [30, 50, 20, 100, 10, 200]);
        // Pillow: Image.new("RGB", (1, 1), (10, 20, 30)).convert("L") and (200, 100, 50)
        let grey = two_pixels().with_channels(Channels::Gray);
        assert_eq!((grey.shape, grey.pixels.as_slice()), ([1, 1, 2], &[18, 124][..]));
        assert_eq!(grey.with_channels(Channels::Bgr).pixels, [18, 124, 18, 124, 18, 124]);
    }

    #[test]
    fn the_shorter_side_is_resized_and_the_rest_follows() {
        assert_eq!(resized(Some(256), [224, 224], [375, 500]), [256, 341]);
        assert_eq!(resized(Some(256), [224, 224], [500, 375]), [341, 256]);
        assert_eq!(resized(None, [224, 224], [375, 500]), [224, 298]);
        assert_eq!(resized(None, [100, 300], [375, 500]), [225, 300]);
        assert_eq!(resized(None, [300, 100], [375, 500]), [300, 400]);
        assert_eq!(resized(None, [32, 32], [32, 32]), [32, 32]);
    }

    #[test]
    fn the_centre_is_cut_out() {
        let options = OpenOptions { size: Some([2, 2]), resize: Some(4), ..OpenOptions::default() };
        let picture = Picture { shape: [1, 4, 7], pixels: (0..28).collect() };
        // 4 x 7 stays; one row and, by the even one of 2.5, two columns are cut off before
        assert_eq!(picture.fitted(&options).unwrap().pixels, [9, 10, 16, 17]);
    }

    #[test]
    fn a_thread_of_pixels_is_not_blown_up() {
        let options = OpenOptions { size: Some([224, 224]), ..OpenOptions::default() };
        let thread = Picture { shape: [1, 1, 100_000], pixels: vec![0; 100_000] };
        assert!(thread.fitted(&options).unwrap_err().contains("22400000"));
    }
}
