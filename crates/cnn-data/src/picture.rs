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

/// Height and width after resizing: the shorter side becomes `resize`, the longer one keeps the ratio, rounded down
/// (torchvision); without `resize` the smallest such picture that covers `size`.
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
