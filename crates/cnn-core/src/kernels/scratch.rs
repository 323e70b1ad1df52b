//! Scratch memory that each thread keeps, so that no call allocates.

use std::cell::RefCell;

/// A cache line: vector loads of aligned rows then never straddle two lines.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    // A stack rather than one buffer: a worker waiting for its tasks may
    // start another task, which must not see the buffer already in use.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

fn take(lines: usize) -> Vec<Line> {
    let mut buf = FREE.with_borrow_mut(|free| {
        let fits = |b: &Vec<Line>| b.len() >= lines;
        let best = (0..free.len())
            .filter(|&i| fits(&free[i]))
            .min_by_key(|&i| free[i].len())
            .or_else(|| (0..free.len()).max_by_key(|&i| free[i].len()));
        best.map(|i| free.swap_remove(i)).unwrap_or_default()
    });
    if buf.len() < lines {
        buf.clear();
        buf.resize(lines, Line([0.0; 16]));
    }
    buf
}

/// Lends `len` floats, aligned to 64 bytes, **with whatever the last user left in them**.
pub fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut lines = take(len.div_ceil(16));
    // SAFETY: `Line` is sixteen floats without padding, and the buffer holds
    // at least `len / 16` of them, rounded up.
    let floats = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<f32>(), len) };
    let r = f(floats);
    FREE.with_borrow_mut(|free| free.push(lines));
    r
}

/// Start of a slice that several tasks write, each in places of its own.
#[derive(Clone, Copy)]
pub struct Shared(*mut f32);

// SAFETY: only a pointer; whoever dereferences it vouches that no two tasks
// touch the same place.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The slice's start; the borrow must outlive all uses of the pointer.
    pub fn new(slice: &mut [f32]) -> Self {
        Shared(slice.as_mut_ptr())
    }
    /// The pointer.
    pub fn ptr(self) -> *mut f32 {
        self.0
    }
}
