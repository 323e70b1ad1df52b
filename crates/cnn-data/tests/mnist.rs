//! The facts of the embedded digits, and reading a directory.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use cnn_core::Dataset;
use cnn_data::{ByteDataset, Error, mnist};
use std::collections::HashMap;
use std::path::Path;

fn parts() -> [(ByteDataset, usize); 3] {
    let all = mnist::embedded().unwrap();
    [(all.train, 7_000), (all.validation, 1_500), (all.test, 1_500)]
}

fn class_counts(data: &ByteDataset) -> [usize; 10] {
    let mut counts = [0; 10];
    data.labels().iter().for_each(|&l| counts[usize::from(l)] += 1);
    counts
}

#[test]
fn no_image_is_in_two_parts_or_twice_in_one() {
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    for (part, (data, size)) in parts().iter().enumerate() {
        assert_eq!(data.len(), *size);
        for index in 0..data.len() {
            let before = seen.insert(data.pixels(index).unwrap().to_vec(), part);
            assert_eq!(before, None, "image {index} of part {part}");
        }
    }
    assert_eq!(seen.len(), 10_000);
}

#[test]
fn each_part_has_its_share_of_each_class() {
    let parts = parts();
    let counts: Vec<[usize; 10]> = parts.iter().map(|(data, _)| class_counts(data)).collect();
    // the class sizes of the first 10,000 training images of MNIST
    let all: Vec<usize> = (0..10).map(|digit| counts.iter().map(|c| c[digit]).sum()).collect();
    assert_eq!(all, [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]);
    for ((_, size), counts) in parts.iter().zip(&counts) {
        for digit in 0..10 {
            let share = all[digit] as f64 * *size as f64 / 10_000.0;
            assert!(
                (counts[digit] as f64 - share).abs() <= 1.0,
                "{} of {share} images of {digit}",
                counts[digit]
            );
        }
    }
}

#[test]
fn some_bytes_are_known() {
    let [(train, _), (validation, _), (test, _)] = parts();
    let sum = |pixels: &[u8]| pixels.iter().map(|&p| u32::from(p)).sum::<u32>();
    assert_eq!((train.label(0), sum(train.pixels(0).unwrap())), (4, 28_242));
    assert_eq!((validation.label(0), sum(validation.pixels(0).unwrap())), (8, 28_639));
    assert_eq!(validation.pixels(0).unwrap()[14 * 28 + 13..][..2], [253, 226]);
    assert_eq!((test.label(0), sum(test.pixels(0).unwrap())), (4, 33_732));
    assert_eq!((test.label(1_499), sum(test.pixels(1_499).unwrap())), (0, 36_220));
    assert_eq!(test.pixels(1_499).unwrap()[10 * 28 + 14], 157);
}

#[test]
fn the_normalisation_is_right_for_the_data() {
    let [(train, _), ..] = parts();
    let mut image = [0f32; 784];
    let (mut sum, mut squares) = (0f64, 0f64);
    for index in 0..train.len() {
        train.image(index, &mut image).unwrap();
        sum += image.iter().map(|&v| f64::from(v)).sum::<f64>();
        squares += image.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
    }
    let count = (train.len() * 784) as f64;
    assert!((sum / count).abs() < 0.002, "{}", sum / count);
    assert!((squares / count - 1.0).abs() < 0.002, "{}", squares / count);
    assert_eq!(train.preprocess(), Some(mnist::preprocess()));
}

/// IDX bytes of `count` images or labels; each image's first pixel and each label tell its position.
fn idx(magic: u32, axes: &[u32]) -> Vec<u8> {
    let size: u32 = axes[1..].iter().product();
    let mut bytes: Vec<u8> = [magic].iter().chain(axes).flat_map(|n| n.to_be_bytes()).collect();
    for i in 0..axes[0] {
        bytes.push(if magic == 2049 { (i % 10) as u8 } else { (i % 251) as u8 });
        bytes.extend(std::iter::repeat_n(0, size as usize - 1));
    }
    bytes
}

fn write_dir(directory: &Path, train: u32, test: u32, dotted: bool) {
    for (part, count) in [("train", train), ("t10k", test)] {
        let separator = if dotted { "." } else { "-" };
        let images = directory.join(format!("{part}-images{separator}idx3-ubyte"));
        std::fs::write(images, idx(2051, &[count, 28, 28])).unwrap();
        std::fs::write(directory.join(format!("{part}-labels{separator}idx1-ubyte")), idx(2049, &[count]))
            .unwrap();
    }
}

#[test]
fn a_directory_is_split_as_documented() {
    for dotted in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        write_dir(directory.path(), 5_003, 7, dotted);
        let splits = mnist::load_dir(directory.path()).unwrap();
        assert_eq!([splits.train.len(), splits.validation.len(), splits.test.len()], [3, 5_000, 7]);
        assert_eq!(splits.validation.pixels(0).unwrap()[0], 3);
        assert_eq!(splits.validation.label(0), 3);
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let missing = mnist::load_dir(Path::new("no/such/directory")).unwrap_err();
    assert!(matches!(&missing, Error::NoDirectory(_)) && missing.to_string().contains("no/such/directory"));

    let directory = tempfile::tempdir().unwrap();
    write_dir(directory.path(), 5_001, 2, false);
    let labels = directory.path().join("t10k-labels-idx1-ubyte");
    std::fs::remove_file(&labels).unwrap();
    let error = mnist::load_dir(directory.path()).unwrap_err();
    assert!(matches!(&error, Error::NoFile { file, .. } if file == "t10k-labels-idx1-ubyte"), "{error}");

    std::fs::write(&labels, idx(2049, &[3])).unwrap();
    let error = mnist::load_dir(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Counts { images: 2, labels: 3 }), "{error}");

    std::fs::write(&labels, [0, 0, 8, 1, 0, 0, 0, 2, 9, 10]).unwrap();
    let error = mnist::load_dir(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Label { index: 1, label: 10, classes: 10 }), "{error}");

    std::fs::write(&labels, idx(2051, &[2, 28, 28])).unwrap();
    let error = mnist::load_dir(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Magic { found: 2051, wanted: 2049, .. }), "{error}");

    std::fs::write(&labels, idx(2049, &[2])).unwrap();
    std::fs::write(directory.path().join("t10k-images-idx3-ubyte"), idx(2051, &[2, 27, 28])).unwrap();
    let error = mnist::load_dir(directory.path()).unwrap_err();
    assert!(matches!(error, Error::ImageShape { found: [27, 28], .. }), "{error}");

    write_dir(directory.path(), 5_000, 2, false);
    let error = mnist::load_dir(directory.path()).unwrap_err();
    assert!(matches!(error, Error::TooFew { found: 5_000, needed: 5_000, .. }), "{error}");
}
