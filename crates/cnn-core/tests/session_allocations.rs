//! A session's run allocates nothing. The allocator of this process counts.
#![allow(clippy::unwrap_used)] // also in the helpers of tests

use cnn_core::Graph;
use cnn_core::layers::*;
use cnn_core::session::{Session, SessionOptions};
use cnn_core::tensor::{Tensor, elements, relative_error, tensor};
use cnn_core::testing::lenet5;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ALL: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    ALL.fetch_add(1, Ordering::SeqCst);
    MINE.set(MINE.get() + 1);
}

// SAFETY: everything is the system allocator's work; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations while `f` runs: of the calling thread, and of all.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Count {
    mine: usize,
    all: usize,
}

const NONE: Count = Count { mine: 0, all: 0 };

fn counted(f: impl FnOnce()) -> Count {
    let before = (MINE.get(), ALL.load(Ordering::SeqCst));
    f();
    Count { mine: MINE.get() - before.0, all: ALL.load(Ordering::SeqCst) - before.1 }
}

/// Different numbers around zero, the same each time.
fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let value = |i: usize| ((i * 2654435761 + seed * 97 + 13) % 2003) as f32 / 1001.0 - 1.0;
    tensor(shape, (0..elements(shape)).map(value).collect()).unwrap()
}

fn conv(c: usize, m: usize, kernel: usize, options: ConvOptions) -> Conv2d {
    let weight = numbers(&[m, c / options.groups, kernel, kernel], m) * 0.2;
    Conv2d::new(weight, Some(numbers(&[m], 1)), options.pad(kernel / 2)).unwrap()
}

/// First layer with a stride, Winograd, shortcut, depthwise, groups, shuffle, concatenation, gate, pooling, padding, two outputs of a
/// value, linear, softmax; large enough that most steps have several parts.
fn everything() -> Graph {
    let plain = ConvOptions::default();
    let function = |function| Activation { function };
    let mut g = Graph::new(&[3, 48, 48]);
    g.push("stem", conv(3, 32, 3, plain.stride(2))).unwrap();
    g.push("norm", BatchNorm::new(32)).unwrap();
    g.push("relu", Activation::relu()).unwrap();
    g.push("inner", conv(32, 32, 3, plain)).unwrap();
    g.add("residual", Add, &["inner", "relu"]).unwrap();
    g.push("depthwise", conv(32, 32, 5, plain.groups(32))).unwrap();
    g.push("hard_swish", function(ActivationFn::HardSwish)).unwrap();
    g.push("grouped", conv(32, 48, 1, plain.groups(2))).unwrap();
    g.push("shuffle", ChannelMap::shuffle(48, 3).unwrap()).unwrap();
    g.push("narrow", conv(48, 16, 1, plain)).unwrap();
    g.add("short", ChannelMap::pad(32, 8, 8).unwrap(), &["residual"]).unwrap();
    g.add("cat", Concat, &["narrow", "short"]).unwrap();
    g.push("squeeze", GlobalAvgPool).unwrap();
    g.push("excite", conv(64, 64, 1, plain)).unwrap();
    g.push("gate", function(ActivationFn::Sigmoid)).unwrap();
    g.add("scaled", Mul, &["cat", "gate"]).unwrap();
    g.push("pad", Pad { pad: [1, 0, 1, 0], value: 0.5 }).unwrap();
    g.push("max", MaxPool2d { window: Window::square(2) }).unwrap();
    g.push("average", AvgPool2d { window: Window::square(3).stride(2), count_include_pad: false }).unwrap();
    g.push("mean", AdaptiveAvgPool { size: [2, 2] }).unwrap();
    g.push("flatten", Flatten).unwrap();
    g.push("dropout", Dropout::new(0.1).unwrap()).unwrap();
    g.push("fc", Linear::new(numbers(&[10, 256], 2), None).unwrap()).unwrap();
    g.push("softmax", Softmax).unwrap();
    g
}

/// A session, with what it is to be run on and what it is to answer.
struct Case {
    session: Session,
    images: Tensor,
    expected: Tensor,
    output: Tensor,
}

impl Case {
    fn new(graph: Graph, batch: usize, options: &SessionOptions) -> Case {
        let images = numbers(&[&[batch], graph.input_shape()].concat(), 5);
        let expected = graph.infer(&images).unwrap();
        let session = Session::new(graph.clone(), &options.clone().batches(&graph, &[batch])).unwrap();
        let output = Tensor::zeros(expected.raw_dim());
        Case { session, images, expected, output }
    }

    fn run(&mut self) {
        let (images, output) = (self.images.as_slice().unwrap(), self.output.as_slice_mut().unwrap());
        self.session.run_into(images, output).unwrap();
    }

    /// Allocations of some runs after the first, whose answer is right before and after.
    fn count(&mut self, runs: usize) -> Count {
        self.run();
        self.check();
        let count = counted(|| (0..runs).for_each(|_| self.run()));
        self.check();
        count
    }

    fn check(&mut self) {
        let error = relative_error(&self.output, &self.expected);
        assert!(error < 1e-4, "relative error {error}");
        self.output.fill(f32::NAN);
    }
}

/// Every network, batches of one and of several.
fn cases(options: &SessionOptions) -> Vec<(&'static str, Case)> {
    let lenet = || lenet5(0).unwrap();
    vec![
        ("lenet5", Case::new(lenet(), 1, options)),
        ("lenet5, batch of 3", Case::new(lenet(), 3, options)),
        ("everything", Case::new(everything(), 1, options)),
        ("everything, batch of 3", Case::new(everything(), 3, options)),
    ]
}

/// The counters see what a thread of a pool allocates, otherwise the rest would prove nothing.
fn allocations_are_seen(pool: &ThreadPool) {
    assert_eq!(counted(|| drop(std::hint::black_box(Box::new(1)))), Count { mine: 1, all: 1 });
    let busy = || pool.install(|| drop(std::hint::black_box(vec![0u8; 100])));
    let count = counted(|| (0..10).for_each(|_| busy()));
    assert!(count.all - count.mine == 10, "{count:?}");
}

fn one_thread_allocates_nothing() {
    for (name, mut case) in cases(&SessionOptions::default()) {
        assert_eq!(case.count(50), NONE, "{name}");
    }
}

fn two_threads_allocate_nothing_when_called_from_their_pool(pool: &Arc<ThreadPool>) {
    let given = SessionOptions { pool: Some(pool.clone()), ..SessionOptions::default() };
    let current = SessionOptions { current_pool: true, ..SessionOptions::default() };
    for options in [given, current] {
        for (name, mut case) in pool.install(|| cases(&options)) {
            assert_eq!(pool.install(|| case.count(50)), NONE, "{name}");
        }
    }
}

/// Calls from outside go through the pool's queue, which is made of blocks of 63 calls: rayon's own, and the same for a call that does
/// nothing. The threads of the pool allocate nothing, and neither does the session.
fn calls_from_outside_cost_what_rayon_takes_for_them(pool: &Arc<ThreadPool>) {
    const BLOCK: usize = 63;
    let options = SessionOptions { pool: Some(pool.clone()), ..SessionOptions::default() };
    for (name, mut case) in cases(&options) {
        let runs = 3 * BLOCK;
        let count = case.count(runs);
        let empty = counted(|| (0..runs).for_each(|_| pool.install(|| ())));
        assert_eq!(count, empty, "{name}");
        assert!(count.all == count.mine && count.all <= runs / BLOCK, "{name}: {count:?}");
    }
}

/// Without the usual harness, whose threads allocate when they like.
fn main() {
    let pool = Arc::new(ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    // What a thread needs once.
    pool.broadcast(|_| ());
    allocations_are_seen(&pool);
    one_thread_allocates_nothing();
    two_threads_allocate_nothing_when_called_from_their_pool(&pool);
    calls_from_outside_cost_what_rayon_takes_for_them(&pool);
    println!("a session's runs allocate nothing");
}
