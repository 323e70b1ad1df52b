//! Data sets in files: CIFAR's binary version, IDX, `.npz` and `.npy`.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use cnn_core::Dataset;
use cnn_data::{Channels, OpenOptions, Opened, open};
use proptest::prelude::*;
use std::io::Write;
use std::path::Path;

fn why(path: &Path, options: &OpenOptions) -> String {
    open(path, options).unwrap_err().to_string()
}

fn image(data: &dyn Dataset, index: usize) -> Vec<u8> {
    let mut image = vec![0.0; data.shape().iter().product()];
    data.image(index, &mut image).unwrap();
    image.iter().map(|v| (v * 255.0).round() as u8).collect()
}

fn labels(data: &dyn Dataset) -> Vec<usize> {
    (0..data.len()).map(|i| data.label(i)).collect()
}

/// CIFAR records; each pixel is its channel plus ten times the image.
fn records(heads: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (i, head) in heads.iter().enumerate() {
        bytes.extend_from_slice(head);
        (0..3).for_each(|channel| bytes.extend([channel + 10 * i as u8; 1024]));
    }
    bytes
}

#[test]
fn cifar_10_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("cifar-10-batches-bin");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("test_batch.bin"), records(&[&[3], &[9]])).unwrap();
    let test_only = open(&inner, &OpenOptions::default()).unwrap();
    assert!(test_only.train.is_none());
    for batch in 1..=5u8 {
        std::fs::write(inner.join(format!("data_batch_{batch}.bin")), records(&[&[batch]])).unwrap();
    }
    let opened = open(folder.path(), &OpenOptions::default()).unwrap();
    assert_eq!((opened.kind, opened.classes[3].as_str()), ("cifar-10", "cat"));
    let (train, test) = (opened.train.unwrap(), opened.test.unwrap());
    assert_eq!(
        (labels(train.as_ref()), train.shape(), train.classes()),
        (vec![1, 2, 3, 4, 5], [3, 32, 32], 10)
    );
    assert_eq!(labels(test.as_ref()), [3, 9]);
    assert_eq!(image(test.as_ref(), 1)[1023..1025], [10, 11]);
    let options = OpenOptions { size: Some([8, 8]), channels: Channels::Bgr, ..OpenOptions::default() };
    let test = open(&inner, &options).unwrap().test.unwrap();
    assert_eq!((test.shape(), image(test.as_ref(), 0)[63..65].to_vec()), ([3, 8, 8], vec![2, 1]));

    std::fs::write(inner.join("data_batch_4.bin"), records(&[&[10]])).unwrap();
    assert!(
        why(&inner, &OpenOptions::default())
            .contains("data_batch_4.bin: label 10 of record 0 is not below 10")
    );
    std::fs::write(inner.join("data_batch_4.bin"), &records(&[&[1]])[1..]).unwrap();
    assert!(why(&inner, &OpenOptions::default()).contains("data_batch_4.bin: 3072 bytes"));
    std::fs::write(inner.join("data_batch_4.bin"), "").unwrap();
    assert!(why(&inner, &OpenOptions::default()).contains("data_batch_4.bin: 0 bytes"));
    std::fs::remove_file(inner.join("data_batch_4.bin")).unwrap();
    assert!(why(&inner, &OpenOptions::default()).contains("data_batch_4.bin"));
    let two = OpenOptions { classes: Some(vec!["a".into(), "b".into()]), ..OpenOptions::default() };
    assert!(why(&inner, &two).contains("cifar-10 has 10 classes"));
}

#[test]
fn cifar_100_has_fine_and_coarse_labels() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("train.bin"), records(&[&[4, 99], &[19, 0]])).unwrap();
    let names: String = (0..20).map(|i| format!("group {i}\n")).collect();
    std::fs::write(folder.path().join("coarse_label_names.txt"), names + "\n").unwrap();
    let fine = open(folder.path(), &OpenOptions::default()).unwrap();
    assert_eq!((labels(fine.train.unwrap().as_ref()), fine.classes.len()), (vec![99, 0], 0));
    let coarse = open(folder.path(), &OpenOptions { coarse: true, ..OpenOptions::default() }).unwrap();
    assert_eq!(
        (labels(coarse.train.unwrap().as_ref()), coarse.classes[19].as_str()),
        (vec![4, 19], "group 19")
    );
    std::fs::write(folder.path().join("train.bin"), records(&[&[1, 100]])).unwrap();
    assert!(why(folder.path(), &OpenOptions::default()).contains("label 100"));
}

#[test]
fn mnist_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let idx = |magic: u32, axes: &[u32]| {
        let count: u32 = axes.iter().product();
        let head = [magic].into_iter().chain(axes.iter().copied()).flat_map(u32::to_be_bytes);
        head.chain((0..count).map(|_| 7)).collect::<Vec<u8>>()
    };
    for (part, count) in [("train", 5_002), ("t10k", 3)] {
        std::fs::write(folder.path().join(format!("{part}-images-idx3-ubyte")), idx(2051, &[count, 28, 28]))
            .unwrap();
        std::fs::write(folder.path().join(format!("{part}-labels-idx1-ubyte")), idx(2049, &[count])).unwrap();
    }
    let options = OpenOptions { size: Some([32, 32]), std: Some(vec![0.5]), ..OpenOptions::default() };
    let opened = open(folder.path(), &options).unwrap();
    let count = |part: &Option<Box<dyn Dataset>>| part.as_ref().map(|p| p.len());
    assert_eq!([&opened.train, &opened.validation, &opened.test].map(count), [Some(2), Some(5_000), Some(3)]);
    let test = opened.test.unwrap();
    assert_eq!((opened.kind, test.shape(), image(test.as_ref(), 0)[5]), ("idx", [1, 32, 32], 14));
    std::fs::remove_file(folder.path().join("t10k-images-idx3-ubyte")).unwrap();
    assert!(why(folder.path(), &options).contains("t10k-images-idx3-ubyte"));
}

/// An array as NumPy writes it.
fn npy(descr: &str, shape: &[usize], values: &[u8]) -> Vec<u8> {
    let axes: String = shape.iter().map(|axis| format!("{axis}, ")).collect();
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({axes}), }}\n");
    [b"\x93NUMPY\x01\0".as_slice(), &(text.len() as u16).to_le_bytes(), text.as_bytes(), values].concat()
}

fn npz(arrays: &[(&str, Vec<u8>)], method: zip::CompressionMethod) -> Vec<u8> {
    let mut out = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        out.start_file(format!("{name}.npy"), options).unwrap();
        out.write_all(bytes).unwrap();
    }
    out.finish().unwrap().into_inner()
}

const STORED: zip::CompressionMethod = zip::CompressionMethod::Stored;
const DEFLATED: zip::CompressionMethod = zip::CompressionMethod::Deflated;

fn open_bytes(bytes: &[u8], options: &OpenOptions) -> cnn_data::Result<Opened> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    open(file.path(), options)
}

#[test]
fn archives_are_read_by_the_names_of_their_arrays() {
    let pixels: Vec<u8> = (0..48).collect();
    for method in [STORED, DEFLATED] {
        let bytes = npz(
            &[
                ("x_train", npy("|u1", &[2, 4, 2, 3], &pixels)),
                (
                    "y_train",
                    npy("<i8", &[2, 1], &[[1u8, 0, 0, 0, 0, 0, 0, 0], [6, 0, 0, 0, 0, 0, 0, 0]].concat()),
                ),
                ("test_images", npy("|u1", &[1, 3, 4, 2], &pixels[..24])),
                ("test_labels", npy("|u1", &[1], &[3])),
                ("unrelated", npy("|u1", &[1], &[3])),
            ],
            method,
        );
        let opened = open_bytes(&bytes, &OpenOptions::default()).unwrap();
        assert_eq!((opened.kind, opened.classes.len(), opened.validation.is_none()), ("npz", 0, true));
        let (train, test) = (opened.train.unwrap(), opened.test.unwrap());
        assert_eq!((train.shape(), train.classes(), labels(train.as_ref())), ([3, 4, 2], 7, vec![1, 6]));
        // from [h, w, c] to [c, h, w]
        assert_eq!(image(train.as_ref(), 1)[..9], [24, 27, 30, 33, 36, 39, 42, 45, 25]);
        assert_eq!((image(test.as_ref(), 0), test.classes()), (pixels[..24].to_vec(), 7));
    }
    let bare =
        [("images", npy("|u1", &[2, 2, 2], &pixels[..8])), ("labels", npy(">u2", &[2], &[0, 1, 0, 0]))];
    let test = open_bytes(&npz(&bare, STORED), &OpenOptions::default()).unwrap().test.unwrap();
    assert_eq!(
        (test.shape(), labels(test.as_ref()), image(test.as_ref(), 1)),
        ([1, 2, 2], vec![1, 0], vec![4, 5, 6, 7])
    );
}

#[test]
fn what_an_archive_lacks_is_said() {
    let images = || npy("|u1", &[1, 2, 2], &[0; 4]);
    let why = |arrays: &[(&str, Vec<u8>)]| {
        open_bytes(&npz(arrays, STORED), &OpenOptions::default()).unwrap_err().to_string()
    };
    assert!(why(&[("foo", images())]).contains("it has foo.npy, but `x_train`"));
    assert!(why(&[("x_test", images())]).contains("`x_test.npy` but no labels"));
    assert!(why(&[("x", images()), ("images", images())]).contains("has both"));
    let counts = [("x", images()), ("y", npy("|u1", &[2], &[0, 0]))];
    assert!(why(&counts).contains("1 images but 2 labels"));
    let negative = [("x", images()), ("y", npy("|i1", &[1], &[255]))];
    assert!(why(&negative).contains("label -1 of image 0"));
    let hot = [("x", images()), ("y", npy("|u1", &[1, 3], &[0, 1, 0]))];
    assert!(why(&hot).contains("one-hot"));
    let ambiguous = [("x", npy("|u1", &[1, 3, 2, 3], &[0; 18])), ("y", npy("|u1", &[1], &[0]))];
    assert!(why(&ambiguous).contains("may be [n, h, w, c] or [n, c, h, w]"));
    let odd = [("x", npy("|u1", &[1, 2, 2, 2], &[0; 8])), ("y", npy("|u1", &[1], &[0]))];
    assert!(why(&odd).contains("1 or 3 channels"));
    let huge = [("x", npy("|u1", &[1 << 40, 28, 28], &[])), ("y", npy("|u1", &[1], &[0]))];
    assert!(why(&huge).contains("not between 1 and"));
}

#[test]
fn floats_are_taken_as_they_are() {
    let values: Vec<u8> = [-1.5f32, 0.0, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let arrays =
        |values| npz(&[("x", npy("<f4", &[2, 1, 1, 2], values)), ("y", npy("|u1", &[2], &[0, 1]))], DEFLATED);
    let options = OpenOptions { mean: Some(vec![0.5]), ..OpenOptions::default() };
    let test = open_bytes(&arrays(&values), &options).unwrap().test.unwrap();
    let mut image = [0.0; 2];
    test.image(0, &mut image).unwrap();
    assert_eq!((image, test.preprocess()), ([-1.5, 0.0], None));
    let larger = OpenOptions { size: Some([4, 4]), ..OpenOptions::default() };
    assert!(open_bytes(&arrays(&values), &larger).unwrap_err().to_string().contains("not resized"));
    let nan: Vec<u8> = [0.0, 0.0, f32::NAN, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let error = open_bytes(&arrays(&nan), &options).unwrap_err();
    assert!(error.to_string().contains("image 1 has a value that is not finite"), "{error}");
}

#[test]
fn an_array_of_images_needs_a_file_of_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    std::fs::write(&path, npy("|u1", &[3, 2, 2, 1], &(0..12).collect::<Vec<u8>>())).unwrap();
    assert!(why(&path, &OpenOptions::default()).contains("option `labels`"));
    let file = folder.path().join("labels");
    let options = OpenOptions { labels: Some(file.clone()), ..OpenOptions::default() };
    for bytes in [npy("<i4", &[3], &[2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]), b"2\n0\n1\n".to_vec()] {
        std::fs::write(&file, bytes).unwrap();
        let opened = open(&path, &options).unwrap();
        let test = opened.test.unwrap();
        assert_eq!((opened.kind, labels(test.as_ref()), test.shape()), ("npy", vec![2, 0, 1], [1, 2, 2]));
        assert_eq!(image(test.as_ref(), 1), [4, 5, 6, 7]);
    }
    std::fs::write(&file, "dog\ncat\ndog\n").unwrap();
    assert_eq!(open(&path, &options).unwrap().classes, ["cat", "dog"]);
    std::fs::write(&file, "a.png 1\n").unwrap();
    assert!(why(&path, &options).contains("line 1"));
    std::fs::write(&file, "1\n").unwrap();
    assert!(why(&path, &options).contains("3 images but 1 labels"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_archives_never_panic(at in 0usize..10_000, value: u8, cut: bool, deflate: bool) {
        let arrays = [("x", npy("|u1", &[2, 3, 3], &[9; 18])), ("y", npy("|u1", &[2], &[0, 1]))];
        let mut bytes = npz(&arrays, if deflate { DEFLATED } else { STORED });
        let at = at % bytes.len();
        if cut {
            bytes.truncate(at);
            prop_assert!(open_bytes(&bytes, &OpenOptions::default()).is_err());
        } else {
            bytes[at] = value;
            if let Ok(opened) = open_bytes(&bytes, &OpenOptions::default()) {
                // what the archive's own checksums do not cover does not change the pixels
                prop_assert_eq!(image(opened.test.unwrap().as_ref(), 1), [9; 9]);
            }
        }
    }

    #[test]
    fn damaged_cifar_files_never_panic(at in 0usize..10_000, value: u8, cut: bool) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = records(&[&[4], &[1]]);
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = value }
        std::fs::write(folder.path().join("test_batch.bin"), &bytes).unwrap();
        match open(folder.path(), &OpenOptions::default()) {
            Ok(opened) => prop_assert_eq!(opened.test.unwrap().len() * 3_073, bytes.len()),
            Err(error) => prop_assert!(error.to_string().contains("test_batch.bin")),
        }
    }
}
