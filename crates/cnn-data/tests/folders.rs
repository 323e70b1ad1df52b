//! Folders of pictures: what is found, what is refused, and the cache.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use cnn_core::Dataset;
use cnn_data::{Channels, Error, OpenOptions, Opened, Part, open};
use image::{Rgb, RgbImage};
use std::path::Path;

/// A plain picture, told from others by its red.
fn picture(path: &Path, red: u8, size: [u32; 2]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(size[1], size[0], Rgb([red, 20, 30])).save(path).unwrap();
}

/// Red of each image and its label.
fn reds(data: &dyn Dataset) -> Vec<(u8, usize)> {
    let mut image = vec![0.0; data.shape().iter().product()];
    let red = |index| {
        data.image(index, &mut image).unwrap();
        ((image[0] * 255.0).round() as u8, data.label(index))
    };
    (0..data.len()).map(red).collect()
}

fn all(opened: &Opened) -> Vec<Vec<(u8, usize)>> {
    [&opened.train, &opened.validation, &opened.test]
        .iter()
        .map(|part| part.as_deref().map_or(vec![], reds))
        .collect()
}

/// Three parts with the classes a and b.
fn parts(root: &Path) {
    for (file, red) in [
        ("train/b/1.png", 1),
        ("train/a/10.png", 2),
        ("train/a/9.PNG", 3),
        ("train/a/deep/er/0.png", 4),
        ("train/a/.hidden.png", 5),
        ("train/.c/1.png", 6),
        ("train/loose.png", 7),
        ("val/b/1.png", 8),
        ("test/a/1.png", 9),
        ("elsewhere/d/1.png", 10),
    ] {
        picture(&root.join(file), red, [4, 4]);
    }
    std::fs::write(root.join("train/a/readme.txt"), "no picture").unwrap();
    std::fs::create_dir_all(root.join("train/empty")).unwrap();
}

#[test]
fn pictures_are_found_in_order() {
    let folder = tempfile::tempdir().unwrap();
    parts(folder.path());
    let opened = open(folder.path(), &OpenOptions::default()).unwrap();
    assert_eq!((opened.kind, opened.broken.len()), ("image folder", 0));
    assert_eq!(opened.classes, ["a", "b", "empty"]);
    assert_eq!(all(&opened), [vec![(2, 0), (3, 0), (4, 0), (1, 1)], vec![(8, 1)], vec![(9, 0)]]);
    let train = opened.train.unwrap();
    assert_eq!((train.shape(), train.classes()), ([3, 4, 4], 3));
    assert_eq!(train.preprocess().unwrap().mean, [0.0; 3]);
}

#[test]
fn names_of_classes_may_be_given() {
    let folder = tempfile::tempdir().unwrap();
    parts(folder.path());
    let given = |names: &[&str]| OpenOptions {
        classes: Some(names.iter().map(|n| n.to_string()).collect()),
        ..OpenOptions::default()
    };
    let opened = open(folder.path(), &given(&["b", "x", "empty", "a"])).unwrap();
    assert_eq!(all(&opened), [vec![(2, 3), (3, 3), (4, 3), (1, 0)], vec![(8, 0)], vec![(9, 3)]]);
    let error = open(folder.path(), &given(&["b", "empty"])).unwrap_err();
    assert!(matches!(&error, Error::UnknownClass { name, .. } if name == "a"), "{error}");
    // a part must not have classes that the training part does not have
    picture(&folder.path().join("test/new/1.png"), 1, [4, 4]);
    let error = open(folder.path(), &OpenOptions::default()).unwrap_err();
    assert!(error.to_string().contains("`new` is not one of the 3 classes (a, b, empty)"), "{error}");
}

#[test]
fn class_folders_alone_are_the_test_part() {
    let folder = tempfile::tempdir().unwrap();
    picture(&folder.path().join("x/1.png"), 1, [2, 3]);
    picture(&folder.path().join("y/1.png"), 2, [2, 3]);
    let opened = open(folder.path(), &OpenOptions::default()).unwrap();
    assert_eq!((opened.kind, all(&opened)), ("class folders", vec![vec![], vec![], vec![(1, 0), (2, 1)]]));
}

#[test]
fn broken_pictures_are_reported_or_stop() {
    let folder = tempfile::tempdir().unwrap();
    parts(folder.path());
    let root = folder.path();
    std::fs::write(root.join("train/a/00.jpg"), "no picture").unwrap();
    std::fs::write(root.join("train/b/2.jpeg"), "").unwrap();
    let whole = std::fs::read(root.join("train/b/1.png")).unwrap();
    std::fs::write(root.join("train/b/0.png"), &whole[..50]).unwrap();
    for cache in [None, Some(root.join("pixels")), Some(root.join("pixels"))] {
        let mut options = OpenOptions { cache, ..OpenOptions::default() };
        let opened = open(root, &options).unwrap();
        assert_eq!(all(&opened)[0], [(2, 0), (3, 0), (4, 0), (1, 1)]);
        let names: Vec<&Path> = opened.broken.iter().map(|b| b.path.strip_prefix(root).unwrap()).collect();
        assert_eq!(names, ["train/a/00.jpg", "train/b/0.png", "train/b/2.jpeg"].map(Path::new));
        assert!(opened.broken.iter().all(|b| !b.why.is_empty()));
        options.strict = true;
        let error = open(root, &options).unwrap_err();
        assert!(matches!(&error, Error::Broken { path, .. } if path.ends_with("train/a/00.jpg")), "{error}");
    }
    std::fs::remove_file(root.join("train/a/00.jpg")).unwrap();
    let error = open(root, &OpenOptions { strict: true, ..OpenOptions::default() }).unwrap_err();
    assert!(matches!(&error, Error::Broken { path, .. } if path.ends_with("train/b/0.png")), "{error}");
}

#[test]
fn what_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let why = |path: &Path| open(path, &OpenOptions::default()).unwrap_err().to_string();
    assert!(why(&folder.path().join("none")).contains("none"));
    assert!(why(folder.path()).contains("no data set is recognised"));
    std::fs::write(folder.path().join("file"), "text").unwrap();
    assert!(why(&folder.path().join("file")).contains("no data set is recognised"));
    std::fs::create_dir_all(folder.path().join("train/a")).unwrap();
    assert!(why(folder.path()).contains("train: no .jpg, .jpeg or .png file"));
    std::fs::write(folder.path().join("train/a/1.png"), "").unwrap();
    assert!(why(folder.path()).contains("all are broken"));
    std::fs::create_dir_all(folder.path().join("val")).unwrap();
    std::fs::create_dir_all(folder.path().join("validation")).unwrap();
    assert!(why(folder.path()).contains("validation is there too"));
    let flat = tempfile::tempdir().unwrap();
    picture(&flat.path().join("1.png"), 1, [2, 2]);
    assert!(why(flat.path()).contains("option `labels`"));
}

#[test]
fn sizes_have_to_agree_or_are_made_to() {
    let folder = tempfile::tempdir().unwrap();
    picture(&folder.path().join("train/a/1.png"), 1, [4, 6]);
    picture(&folder.path().join("train/a/2.png"), 2, [9, 5]);
    picture(&folder.path().join("train/a/3.png"), 3, [7, 7]);
    let error = open(folder.path(), &OpenOptions::default()).unwrap_err();
    assert!(error.to_string().contains("2.png is [9, 5]") && error.to_string().contains("`size`"), "{error}");
    let options = OpenOptions {
        size: Some([4, 3]),
        resize: Some(5),
        mean: Some(vec![0.5]),
        std: Some(vec![0.25]),
        channels: Channels::Gray,
        ..OpenOptions::default()
    };
    let train = open(folder.path(), &options).unwrap().train.unwrap();
    assert_eq!((train.len(), train.shape()), (3, [1, 4, 3]));
    let mut image = [0.0; 12];
    train.image(2, &mut image).unwrap();
    // luma of (3, 20, 30) is 16
    assert_eq!(image, [(16.0f32 / 255.0 - 0.5) / 0.25; 12]);
    let three = OpenOptions { mean: Some(vec![0.5; 3]), ..options.clone() };
    let error = open(folder.path(), &three).unwrap_err();
    assert!(error.to_string().contains("`mean`: has 3 values, but the images have 1 channels"), "{error}");
    let bgr = OpenOptions { size: Some([2, 2]), channels: Channels::Bgr, ..OpenOptions::default() };
    let train = open(folder.path(), &bgr).unwrap().train.unwrap();
    assert_eq!(reds(train.as_ref())[0].0, 30);
}

#[test]
fn absurd_options_are_errors() {
    let base = OpenOptions::default;
    let names = |n: &[&str]| Some(n.iter().map(|n| n.to_string()).collect());
    for (option, options) in [
        ("size", OpenOptions { size: Some([0, 1]), ..base() }),
        ("size", OpenOptions { size: Some([1, 1 << 40]), ..base() }),
        ("resize", OpenOptions { resize: Some(9), ..base() }),
        ("resize", OpenOptions { size: Some([8, 10]), resize: Some(9), ..base() }),
        ("mean", OpenOptions { mean: Some(vec![f32::NAN]), ..base() }),
        ("std", OpenOptions { std: Some(vec![0.0]), ..base() }),
        ("classes", OpenOptions { classes: names(&[]), ..base() }),
        ("classes", OpenOptions { classes: names(&["a", "b", "a"]), ..base() }),
    ] {
        let error = options.check().unwrap_err();
        assert!(matches!(&error, Error::Option { option: named, .. } if *named == option), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    parts(folder.path());
    let labels = OpenOptions { labels: Some("labels.txt".into()), ..base() };
    assert!(open(folder.path(), &labels).unwrap_err().to_string().contains("has its own labels"));
}

#[test]
fn a_flat_folder_is_labelled_by_a_file() {
    let folder = tempfile::tempdir().unwrap();
    for (name, red) in [("c.png", 3), ("a.png", 1), ("b.png", 2), ("in/d.png", 4)] {
        picture(&folder.path().join(name), red, [2, 2]);
    }
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("labels.txt");
    let options = OpenOptions { labels: Some(file.clone()), ..OpenOptions::default() };
    let with = |text: &str| {
        std::fs::write(&file, text).unwrap();
        open(folder.path(), &options)
    };
    let opened = with("1\n0\n4\n").unwrap();
    assert_eq!((opened.kind, opened.classes.len()), ("labelled folder", 0));
    assert_eq!(all(&opened)[2], [(1, 1), (2, 0), (3, 4)]);
    assert_eq!(opened.test.unwrap().classes(), 5);
    let opened = with("b dog\nin/d.png cat\na.png dog\n").unwrap();
    assert_eq!(all(&opened)[2], [(2, 1), (4, 0), (1, 1)]);
    assert_eq!(opened.classes, ["cat", "dog"]);
    let why = |text: &str| with(text).unwrap_err().to_string();
    assert!(why("1\n0\n").contains("has 3 images but 2 labels"));
    let headings = why("name label\na.png 1\n");
    assert!(headings.contains("line 1: ") && headings.contains("`name`"), "{headings}");
    let missing = why("a.png 1\nz.png 1\n");
    assert!(missing.contains("line 2: ") && missing.contains("no picture `z.png`"), "{missing}");
    assert!(why("a.png 1\nb.png 2\na 1\n").contains("line 3: `a` was already in line 1"));
}

#[test]
fn the_cache_is_used_and_never_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data");
    parts(&root);
    let cache = folder.path().join("pixels");
    let options = OpenOptions { cache: Some(cache.clone()), ..OpenOptions::default() };
    let expected = all(&open(&root, &options).unwrap());
    let bytes = std::fs::read(&cache).unwrap();

    // it is used: a change that keeps size and time goes unnoticed
    let changed = root.join("train/b/1.png");
    let time = std::fs::metadata(&changed).unwrap().modified().unwrap();
    let before = std::fs::read(&changed).unwrap();
    std::fs::write(&changed, vec![0; before.len()]).unwrap();
    std::fs::File::options().write(true).open(&changed).unwrap().set_modified(time).unwrap();
    assert_eq!(all(&open(&root, &options).unwrap()), expected);
    // another normalisation uses it too, other geometry does not
    let scaled = OpenOptions { std: Some(vec![0.5; 3]), ..options.clone() };
    assert_eq!(all(&open(&root, &scaled).unwrap())[1], [(16, 1)]);
    assert_eq!(std::fs::read(&cache).unwrap(), bytes);
    std::fs::write(&changed, &before).unwrap();
    std::fs::File::options().write(true).open(&changed).unwrap().set_modified(time).unwrap();
    let small = OpenOptions { size: Some([2, 2]), ..options.clone() };
    assert_eq!(open(&root, &small).unwrap().train.unwrap().shape(), [3, 2, 2]);
    assert_eq!(all(&open(&root, &options).unwrap()), expected);
    assert_eq!(std::fs::read(&cache).unwrap(), bytes);

    // each damage is noticed, and the cache made anew
    for at in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&cache, &damaged).unwrap();
        assert_eq!(all(&open(&root, &options).unwrap()), expected, "byte {at}");
        assert_eq!(std::fs::read(&cache).unwrap(), bytes, "byte {at}");
    }
    for length in (0..bytes.len()).step_by(41) {
        std::fs::write(&cache, &bytes[..length]).unwrap();
        assert_eq!(all(&open(&root, &options).unwrap()), expected, "{length} bytes");
    }
    std::fs::write(&cache, [bytes.as_slice(), &[0]].concat()).unwrap();
    open(&root, &options).unwrap();
    assert_eq!(std::fs::read(&cache).unwrap(), bytes);

    // new, changed and lost pictures are noticed
    picture(&changed, 77, [4, 4]);
    picture(&root.join("val/a/new.png"), 78, [4, 4]);
    std::fs::remove_file(root.join("train/a/10.png")).unwrap();
    let now = all(&open(&root, &options).unwrap());
    assert_eq!(now, [vec![(3, 0), (4, 0), (77, 1)], vec![(78, 0), (8, 1)], vec![(9, 0)]]);

    // a cache that cannot be written is an error that names it
    let nowhere = OpenOptions { cache: Some(folder.path().join("no/where")), ..OpenOptions::default() };
    assert!(open(&root, &nowhere).unwrap_err().to_string().contains("no"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..40u8 {
        let path = folder.path().join(format!("train/c{}/{i}.png", i % 3));
        if i % 7 == 3 {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "broken").unwrap();
        } else {
            picture(&path, i, [5, 5]);
        }
    }
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let opened = pool.install(|| open(folder.path(), &OpenOptions::default())).unwrap();
        (all(&opened), opened.broken)
    };
    assert_eq!(run(1), run(4));
}

#[test]
fn only_the_part_that_is_wanted_is_decoded() {
    let folder = tempfile::tempdir().unwrap();
    parts(folder.path());
    std::fs::write(folder.path().join("train/a/bad.png"), "no picture").unwrap();
    let options = OpenOptions { only: Some(Part::Test), strict: true, ..OpenOptions::default() };
    let opened = open(folder.path(), &options).unwrap();
    assert_eq!(opened.classes, ["a", "b", "empty"], "classes are those of the training part all the same");
    assert_eq!(all(&opened), [vec![], vec![], vec![(9, 0)]]);
    let alone =
        open(&folder.path().join("test"), &OpenOptions { only: Some(Part::Train), ..options }).unwrap();
    assert_eq!(all(&alone)[2], [(9, 0)], "a folder without parts is what it is asked for");
}
