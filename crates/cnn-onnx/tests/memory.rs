//! How much memory reading a file takes. The only test of its process, since the allocator counts for all.

mod common;

use cnn_onnx::proto::{TensorProto, data_type};
use cnn_onnx::{ImportOptions, from_bytes, load};
use common::{A, File, image};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// The system's allocator, with the bytes in use, and the most there were.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(NOW.fetch_add(layout.size(), SeqCst) + layout.size(), SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a call gives, and the most bytes that it had at once.
fn most<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(SeqCst);
    MOST.store(before, SeqCst);
    let given = call();
    (given, MOST.load(SeqCst) - before)
}

/// Features of the layers.
const SIZE: usize = 1024;
/// Bytes of the weights of one.
const WEIGHTS: usize = SIZE * SIZE * 4;
/// What everything but weights may take.
const REST: usize = 512 * 1024;

fn weights(name: &str, seed: usize) -> Vec<f32> {
    (0..SIZE * SIZE).map(|i| ((i * 7 + seed + name.len()) % 101) as f32 / 5000.0 - 0.01).collect()
}

fn raw(name: &str, seed: usize) -> TensorProto {
    let bytes: Vec<u8> = weights(name, seed).iter().flat_map(|v| v.to_le_bytes()).collect();
    TensorProto {
        name: name.into(),
        dims: vec![SIZE as i64; 2],
        data_type: data_type::FLOAT,
        raw_data: Some(bytes.into()),
        ..Default::default()
    }
}

#[test]
fn memory_holds_each_weight_once() {
    let turned: &[(&str, A<'_>)] = &[("transB", A::I(1))];
    let bytes = File::new(17, &[SIZE as i64])
        .constant(raw("a", 1))
        .constant(common::floats("b", &[SIZE as i64; 2], &weights("b", 2)))
        .with("Constant", &[], &["c"], &[("value", A::T(Box::new(raw("", 3))))])
        .with("Gemm", &["x", "a"], &["u"], turned)
        .with("Gemm", &["u", "b"], &["v"], turned)
        .with("Gemm", &["v", "c"], &["y"], turned)
        .bytes();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.onnx");
    std::fs::write(&path, &bytes).unwrap();

    let (from_file, taken) = most(|| load(&path, &ImportOptions::default()).unwrap().graph);
    assert!((3 * WEIGHTS..3 * WEIGHTS + REST).contains(&taken), "{taken} bytes");
    let (from_memory, taken) = most(|| from_bytes(&bytes, None, &ImportOptions::default()).unwrap().graph);
    assert!((3 * WEIGHTS..3 * WEIGHTS + REST).contains(&taken), "{taken} bytes");

    let x = image(&[2, SIZE]);
    let y = from_file.infer(&x).unwrap();
    assert_eq!(y, from_memory.infer(&x).unwrap());
    let mut expected: Vec<f32> = x.iter().copied().collect();
    for (name, seed) in [("a", 1), ("b", 2), ("", 3)] {
        let w = weights(name, seed);
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
        let images = expected.chunks(SIZE);
        expected = images.flat_map(|x| w.chunks(SIZE).map(move |w| dot(x, w))).collect();
    }
    for (y, e) in y.iter().zip(&expected) {
        assert!((y - e).abs() < 1e-4 * (1.0 + e.abs()), "{y} and not {e}");
    }
}
