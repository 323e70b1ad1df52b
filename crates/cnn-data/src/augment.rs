//! Random changes of training images. All randomness comes from the generator that the trainer hands in, so
//! that an augmented training has the same bits whatever the number of threads.
//!
//! Images arrive preprocessed: what moves into an image is `fill`, a value for each channel. An empty `fill`
//! is zero, the mean of the data; [`black`] gives what a black pixel became, which is right for digits on a
//! black ground.

use cnn_core::{Augment, Preprocess};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What black pixels become, for each channel: `-mean / std`.
///
/// ```
/// let fill = cnn_data::augment::black(&cnn_data::mnist::preprocess());
/// assert!((fill[0] + 0.4242).abs() < 1e-4);
/// ```
pub fn black(preprocess: &Preprocess) -> Vec<f32> {
    preprocess.mean.iter().zip(&preprocess.std).map(|(mean, std)| (0.0 - mean) / std).collect()
}

/// Moves the image by up to `max` pixels in each direction, uniformly.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shift {
    /// The largest distance in pixels.
    pub max: usize,
    /// What moves in, for each channel; 0 where nothing is said.
    pub fill: Vec<f32>,
}

impl Shift {
    /// A shift that moves zeros in.
    pub fn new(max: usize) -> Shift {
        Shift { max, fill: Vec::new() }
    }
}

impl Augment for Shift {
    fn apply(&self, image: &mut [f32], shape: [usize; 3], rng: &mut ChaCha8Rng) {
        let mut distance = || {
            let most = i64::try_from(self.max).unwrap_or(i64::MAX / 2).min(i64::MAX / 2);
            rng.random_range(-most..=most)
        };
        let (down, right) = (distance(), distance());
        shift(image, shape, down, right, &self.fill);
    }
}

/// Pads the image by `pad` on all sides and cuts out a window of the old size at random: the augmentation of
/// the CIFAR ResNets with `pad` 4 (He et al. 2016, section 4.2). It moves the image just as a [`Shift`] does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RandomCrop {
    /// Pixels on each side.
    pub pad: usize,
    /// What they are, for each channel; 0 where nothing is said.
    pub fill: Vec<f32>,
}

impl RandomCrop {
    /// A crop from an image padded with zeros.
    pub fn new(pad: usize) -> RandomCrop {
        RandomCrop { pad, fill: Vec::new() }
    }
}

impl Augment for RandomCrop {
    fn apply(&self, image: &mut [f32], shape: [usize; 3], rng: &mut ChaCha8Rng) {
        Shift { max: self.pad, fill: self.fill.clone() }.apply(image, shape, rng);
    }
}

/// Mirrors every second image, left to right. Not for digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HorizontalFlip;

impl Augment for HorizontalFlip {
    fn apply(&self, image: &mut [f32], [_, _, w]: [usize; 3], rng: &mut ChaCha8Rng) {
        if rng.random::<bool>() {
            image.chunks_mut(w.max(1)).for_each(<[f32]>::reverse);
        }
    }
}

/// One change after the other.
///
/// ```
/// use cnn_core::Augment;
/// use cnn_data::{Compose, HorizontalFlip, RandomCrop};
/// use rand::SeedableRng;
/// let cifar = Compose(vec![Box::new(RandomCrop::new(4)), Box::new(HorizontalFlip)]);
/// let mut image = vec![1.0; 3 * 32 * 32];
/// cifar.apply(&mut image, [3, 32, 32], &mut rand_chacha::ChaCha8Rng::seed_from_u64(0));
/// ```
#[derive(Debug, Default)]
pub struct Compose(pub Vec<Box<dyn Augment>>);

impl Augment for Compose {
    fn apply(&self, image: &mut [f32], shape: [usize; 3], rng: &mut ChaCha8Rng) {
        self.0.iter().for_each(|step| step.apply(image, shape, rng));
    }
}

/// Moves an image down and to the right, or the other way when negative, in place.
fn shift(image: &mut [f32], [_, h, w]: [usize; 3], down: i64, right: i64, fill: &[f32]) {
    if h * w == 0 {
        return;
    }
    for (channel, plane) in image.chunks_mut(h * w).enumerate() {
        let fill = fill.get(channel).copied().unwrap_or(0.0);
        // each row is read before it is overwritten: from below when moving down, from above when moving up
        for step in 0..h {
            let row = if down > 0 { h - 1 - step } else { step };
            match (row as i64).checked_sub(down).and_then(|y| usize::try_from(y).ok()).filter(|&y| y < h) {
                Some(source) => plane.copy_within(source * w..(source + 1) * w, row * w),
                None => plane[row * w..(row + 1) * w].fill(fill),
            }
        }
        let by = usize::try_from(right.unsigned_abs()).unwrap_or(w).min(w);
        for row in plane.chunks_mut(w) {
            if right > 0 {
                row.copy_within(..w - by, by);
                row[..by].fill(fill);
            } else {
                row.copy_within(by.., 0);
                row[w - by..].fill(fill);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    /// Every image that a shift of at most `max` may give, by the definition with a padded image.
    fn all_crops(image: &[f32], [c, h, w]: [usize; 3], pad: usize, fill: &[f32]) -> Vec<Vec<f32>> {
        let at = |ch: usize, y: i64, x: i64| match (usize::try_from(y), usize::try_from(x)) {
            (Ok(y), Ok(x)) if y < h && x < w => image[(ch * h + y) * w + x],
            _ => fill[ch],
        };
        let mut crops = Vec::new();
        for top in 0..=2 * pad as i64 {
            for left in 0..=2 * pad as i64 {
                let mut crop = Vec::new();
                for ch in 0..c {
                    for y in 0..h as i64 {
                        crop.extend(
                            (0..w as i64).map(|x| at(ch, y + top - pad as i64, x + left - pad as i64)),
                        );
                    }
                }
                crops.push(crop);
            }
        }
        crops
    }

    proptest! {
        #[test]
        fn a_crop_is_one_of_all_crops(
            seed: u64, c in 1usize..3, h in 1usize..6, w in 1usize..6, pad in 0usize..8,
        ) {
            let image: Vec<f32> = (0..c * h * w).map(|i| i as f32 + 1.0).collect();
            let fill = vec![-1.0, -2.0];
            let mut changed = image.clone();
            RandomCrop { pad, fill: fill.clone() }.apply(&mut changed, [c, h, w], &mut rng(seed));
            prop_assert!(all_crops(&image, [c, h, w], pad, &fill).contains(&changed));
        }

        #[test]
        fn the_generator_decides(seed: u64) {
            let steps: Vec<Box<dyn Augment>> = vec![Box::new(Shift::new(2)), Box::new(HorizontalFlip)];
            let both = Compose(steps);
            let image: Vec<f32> = (0..75).map(|i| i as f32).collect();
            let (mut a, mut b) = (image.clone(), image);
            both.apply(&mut a, [3, 5, 5], &mut rng(seed));
            both.apply(&mut b, [3, 5, 5], &mut rng(seed));
            prop_assert_eq!(a, b);
        }
    }

    #[test]
    fn every_crop_occurs() {
        let image: Vec<f32> = (0..12).map(|i| i as f32 + 1.0).collect();
        let crops = all_crops(&image, [1, 3, 4], 1, &[0.0]);
        let mut seen = vec![false; crops.len()];
        for seed in 0..200 {
            let mut changed = image.clone();
            RandomCrop::new(1).apply(&mut changed, [1, 3, 4], &mut rng(seed));
            seen[crops.iter().position(|c| *c == changed).unwrap()] = true;
        }
        assert_eq!(seen, vec![true; 9]);
    }

    #[test]
    fn about_half_the_images_are_mirrored() {
        let flipped = (0..400).filter(|&seed| {
            let mut image = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
            HorizontalFlip.apply(&mut image, [1, 2, 3], &mut rng(seed));
            let mirrored = image == [3.0, 2.0, 1.0, 6.0, 5.0, 4.0];
            assert!(mirrored || image == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            mirrored
        });
        let count = flipped.count();
        assert!((150..250).contains(&count), "{count}");
    }

    #[test]
    fn absurd_distances_clear_the_image() {
        let mut image = vec![1.0; 4];
        Shift { max: usize::MAX, fill: vec![9.0] }.apply(&mut image, [1, 2, 2], &mut rng(1));
        assert_eq!(image, [9.0; 4]);
    }
}
