//! A validation part cut off a training part.

use crate::{Error, Result};
use cnn_core::{Dataset, Preprocess};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Divides the positions of `labels` into two sorted lists: the second has `count` of them, as evenly over
/// the classes as whole numbers allow (`count n_c / n` of a class with `n_c` images, the largest remainders
/// rounded up), and no class loses its last image to it. Which images of a class are chosen depends on `seed`
/// and the class only.
///
/// # Errors
/// [`Error::HoldOut`] if `count` is 0 or too many.
///
/// ```
/// let (train, validation) = cnn_data::split(&[0, 0, 0, 0, 1, 1, 1, 1], 2, 7)?;
/// assert_eq!([train.len(), validation.len()], [6, 2]);
/// assert!(validation[0] < 4 && validation[1] >= 4);
/// # Ok::<(), cnn_data::Error>(())
/// ```
pub fn split(labels: &[usize], count: usize, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    let mut classes: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
    for (position, &label) in labels.iter().enumerate() {
        classes.entry(label).or_default().push(position);
    }
    let most = labels.len() - classes.len();
    if !(1..=most).contains(&count) {
        let why = format!(
            "{count} of {} images; between 1 and {most} are possible, so that each of {} classes keeps one",
            labels.len(),
            classes.len()
        );
        return Err(Error::HoldOut(why));
    }
    // whole parts first, then one more by the size of the remainder, until the count is reached
    let share = |images: &Vec<usize>| count as u128 * images.len() as u128;
    let total = labels.len() as u128;
    let mut quotas: Vec<usize> =
        classes.values().map(|images| ((share(images) / total) as usize).min(images.len() - 1)).collect();
    let mut order: Vec<(usize, &Vec<usize>)> = classes.values().enumerate().collect();
    order.sort_by_key(|(_, images)| std::cmp::Reverse(share(images) % total));
    let mut missing = count - quotas.iter().sum::<usize>();
    while missing > 0 {
        for &(class, images) in &order {
            if missing > 0 && quotas[class] + 1 < images.len() {
                quotas[class] += 1;
                missing -= 1;
            }
        }
    }
    let (mut train, mut held) = (Vec::new(), Vec::new());
    for ((&label, images), quota) in classes.iter().zip(quotas) {
        let mut images = images.clone();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(label as u64);
        images.shuffle(&mut rng);
        held.extend_from_slice(&images[..quota]);
        train.extend_from_slice(&images[quota..]);
    }
    train.sort_unstable();
    held.sort_unstable();
    Ok((train, held))
}

/// Holds out a `fraction` of the training images for validation, rounded to whole images, each class in
/// proportion (see [`split`]). Returns what is left for training and what is held out; both share the images
/// in memory.
///
/// # Errors
/// [`Error::HoldOut`] if the fraction is not between 0 and 1, or leaves nothing on one side or a class
/// without an image.
///
/// ```
/// use cnn_core::Dataset;
/// let digits = cnn_data::mnist::embedded()?;
/// let (train, validation) = cnn_data::hold_out(Box::new(digits.train), 0.1, 1)?;
/// assert_eq!([train.len(), validation.len()], [6_300, 700]);
/// # Ok::<(), cnn_data::Error>(())
/// ```
pub fn hold_out(
    train: Box<dyn Dataset>,
    fraction: f64,
    seed: u64,
) -> Result<(Box<dyn Dataset>, Box<dyn Dataset>)> {
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error::HoldOut(format!("a fraction of {fraction} is not between 0 and 1")));
    }
    let labels: Vec<usize> = (0..train.len()).map(|index| train.label(index)).collect();
    let (kept, held) = split(&labels, (labels.len() as f64 * fraction).round() as usize, seed)?;
    let data: Arc<dyn Dataset> = train.into();
    let part = |indices| -> Box<dyn Dataset> { Box::new(Part { data: Arc::clone(&data), indices }) };
    Ok((part(kept), part(held)))
}

/// Some images of a data set that is shared.
#[derive(Debug)]
struct Part {
    data: Arc<dyn Dataset>,
    indices: Vec<usize>,
}

impl Dataset for Part {
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

    fn image(&self, index: usize, out: &mut [f32]) -> cnn_core::Result<()> {
        let at = self.indices.get(index);
        let at =
            at.ok_or_else(|| cnn_core::Error::Data(format!("image {index} of {}", self.indices.len())))?;
        self.data.image(*at, out)
    }

    fn preprocess(&self) -> Option<Preprocess> {
        self.data.preprocess()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_split_is_one_and_proportional(
            labels in proptest::collection::vec(0usize..5, 2..200), share in 0.0f64..1.0, seed: u64,
        ) {
            let count = (labels.len() as f64 * share) as usize;
            let of = |part: &[usize], class| part.iter().filter(|&&i| labels[i] == class).count();
            match split(&labels, count, seed) {
                Ok((train, held)) => {
                    prop_assert_eq!(held.len(), count);
                    let mut all = [train.clone(), held.clone()].concat();
                    all.sort_unstable();
                    prop_assert_eq!(all, (0..labels.len()).collect::<Vec<_>>());
                    let small = (0..5).any(|c| of(&train, c) == 1);
                    for class in 0..5 {
                        let images = of(&train, class) + of(&held, class);
                        let fair = count as f64 * images as f64 / labels.len() as f64;
                        prop_assert!(images == 0 || of(&train, class) > 0);
                        prop_assert!(small || (of(&held, class) as f64 - fair).abs() <= 1.0);
                    }
                    prop_assert_eq!(split(&labels, count, seed).unwrap(), (train, held));
                }
                Err(Error::HoldOut(_)) => {
                    let classes = (0..5).filter(|c| labels.contains(c)).count();
                    prop_assert!(count == 0 || count > labels.len() - classes);
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }

    #[test]
    fn another_seed_holds_out_others() {
        let labels: Vec<usize> = (0..100).map(|i| i % 4).collect();
        assert_ne!(split(&labels, 20, 1).unwrap(), split(&labels, 20, 2).unwrap());
    }

    #[test]
    fn parts_give_the_images_of_the_whole() {
        let digits = crate::mnist::embedded().unwrap();
        let whole = digits.test.clone();
        let (train, held) = hold_out(Box::new(digits.test), 0.2, 3).unwrap();
        let labels: Vec<usize> = (0..whole.len()).map(|i| whole.label(i)).collect();
        let (kept, out) = split(&labels, 300, 3).unwrap();
        let (mut a, mut b) = ([0f32; 784], [0f32; 784]);
        for (part, indices) in [(&train, kept), (&held, out)] {
            assert_eq!((part.len(), part.preprocess()), (indices.len(), whole.preprocess()));
            for (i, &index) in indices.iter().enumerate() {
                part.image(i, &mut a).unwrap();
                whole.image(index, &mut b).unwrap();
                assert_eq!((a, part.label(i)), (b, whole.label(index)));
            }
            assert!(part.image(part.len(), &mut a).is_err());
        }
    }

    #[test]
    fn absurd_fractions_are_errors() {
        for fraction in [0.0, 1.0, -0.1, f64::NAN, f64::INFINITY, 1e-9, 0.9999] {
            let digits = crate::mnist::embedded().unwrap();
            let error = hold_out(Box::new(digits.validation), fraction, 1).unwrap_err();
            assert!(matches!(error, Error::HoldOut(_)), "{error}");
        }
    }
}
