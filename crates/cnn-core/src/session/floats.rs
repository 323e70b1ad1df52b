//! Aligned memory, on large pages where the system has them.
//!
//! A run reads all weights of a network once. On pages of 4 KiB it waits for the translation of their addresses, and the
//! processor's own prefetch stops at each page's end; so what a session keeps lies close together in regions of which the
//! system may make large pages.

use memmap2::{MmapMut, MmapRaw};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Floats of a cache line.
const LINE: usize = 16;
/// Floats from which on memory comes from a region.
const LARGE: usize = 4096;
/// Floats of a region. On Linux what is not touched costs nothing, up to a large page.
const REGION: usize = 16 << 20;

/// Floats that start on a cache line.
#[derive(Debug)]
pub struct Floats {
    memory: Memory,
    start: usize,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    // Zeros of this type come untouched from the system, those of an aligned one would be written once more.
    Own(Vec<f32>),
    Shared(Arc<Region>),
}

impl Floats {
    /// That many zeros.
    pub fn zeros(len: usize) -> Floats {
        let shared = CURRENT.with_borrow(|c| c.as_ref().filter(|_| len >= LARGE).and_then(|c| c.take(len)));
        shared.unwrap_or_else(|| {
            let all = vec![0.0f32; len + LINE - 1];
            // a vector of floats starts at a multiple of four bytes
            let start = (LINE - all.as_ptr() as usize / 4 % LINE) % LINE;
            Floats { memory: Memory::Own(all), start, len }
        })
    }
}

impl Default for Floats {
    fn default() -> Floats {
        Floats::zeros(0)
    }
}

impl Deref for Floats {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &self.memory {
            Memory::Own(all) => &all[self.start..][..self.len],
            // SAFETY: `Region::piece` gives each piece to one value, and zeroed memory is floats.
            Memory::Shared(region) => unsafe {
                std::slice::from_raw_parts(region.floats().add(self.start), self.len)
            },
        }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.memory {
            Memory::Own(all) => &mut all[self.start..][..self.len],
            // SAFETY: as above, and `self` is borrowed alone.
            Memory::Shared(region) => unsafe {
                std::slice::from_raw_parts_mut(region.floats().add(self.start), self.len)
            },
        }
    }
}

impl Drop for Floats {
    fn drop(&mut self) {
        if let Memory::Shared(region) = &self.memory {
            region.give_back(self.start, self.len);
        }
    }
}

/// Memory from which pieces are taken one after the other.
#[derive(Debug)]
struct Region {
    map: MmapRaw,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Floats taken.
    now: usize,
    /// The most there were: what lies before is not zero any more.
    most: usize,
}

impl Region {
    fn new(len: usize) -> Option<Region> {
        // elsewhere memory may be charged before it is touched
        let map = MmapMut::map_anon(len * 4).ok().filter(|_| cfg!(target_os = "linux"))?;
        // a wish, which the system may not know
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Region { map: map.into(), taken: Mutex::default() })
    }

    fn floats(&self) -> *mut f32 {
        self.map.as_mut_ptr().cast()
    }

    /// Zeros that are not taken yet.
    fn piece(self: &Arc<Region>, len: usize) -> Option<Floats> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let start = taken.now;
        let end = start.checked_add(len)?.next_multiple_of(LINE);
        if end > self.map.len() / 4 {
            return None;
        }
        let used = taken.most.clamp(start, end) - start;
        (taken.now, taken.most) = (end, taken.most.max(end));
        let mut floats = Floats { memory: Memory::Shared(self.clone()), start, len };
        floats[..used.min(len)].fill(0.0);
        Some(floats)
    }

    /// The last piece can be taken again: packing makes and drops some; all others stay until the region goes.
    fn give_back(&self, start: usize, len: usize) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if (start + len).next_multiple_of(LINE) == taken.now {
            taken.now = start;
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Regions>> = const { RefCell::new(None) };
}

/// The regions of a session that this thread compiles.
#[derive(Debug)]
struct Regions(RefCell<Option<Arc<Region>>>);

impl Regions {
    fn take(&self, len: usize) -> Option<Floats> {
        let mut last = self.0.borrow_mut();
        if let Some(piece) = last.as_ref().and_then(|region| region.piece(len)) {
            return Some(piece);
        }
        let region = Arc::new(Region::new(len.next_multiple_of(LINE).max(REGION))?);
        let piece = region.piece(len);
        *last = Some(region);
        piece
    }
}

/// Calls `work`; what it keeps lies together.
pub(super) fn together<T>(work: impl FnOnce() -> T) -> T {
    with(Some(Regions(RefCell::new(None))), work)
}

/// Calls `work`; all it makes has memory of its own, which goes when it is dropped.
pub(super) fn apart<T>(work: impl FnOnce() -> T) -> T {
    with(None, work)
}

fn with<T>(regions: Option<Regions>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Regions>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.replace(regions));
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 8] = [0, 1, 15, 16, 17, LARGE, LARGE + 1, 100_000];

    fn check(mut floats: Floats, len: usize) -> Floats {
        assert_eq!(floats.len(), len);
        assert_eq!(floats.as_ptr() as usize % 64, 0);
        assert!(floats.iter().all(|&v| v == 0.0));
        floats.fill(1.0);
        floats
    }

    #[test]
    fn the_first_float_is_on_a_cache_line() {
        let all = || drop(LENGTHS.map(|len| check(Floats::zeros(len), len)));
        all();
        together(all);
    }

    #[test]
    fn pieces_are_apart_and_outlive_the_work() {
        let mut all = together(|| [0.0, 1.0, 2.0].map(|_| Floats::zeros(LARGE)));
        for (i, floats) in all.iter_mut().enumerate() {
            floats.fill(i as f32);
        }
        for (i, floats) in all.iter().enumerate() {
            assert!(floats.iter().all(|&v| v == i as f32));
        }
    }

    #[test]
    fn the_last_piece_is_taken_again_and_zero() {
        together(|| {
            let kept = check(Floats::zeros(LARGE), LARGE);
            let place = check(Floats::zeros(LARGE), LARGE).as_ptr();
            let again = Floats::zeros(LARGE + 5);
            assert_eq!(again.as_ptr(), place);
            drop(check(again, LARGE + 5));
            assert!(kept.iter().all(|&v| v == 1.0));
        });
    }

    #[test]
    fn work_apart_takes_nothing_from_a_region() {
        together(|| {
            let first = Floats::zeros(LARGE);
            apart(|| check(Floats::zeros(LARGE), LARGE));
            let second = Floats::zeros(LARGE);
            assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, LARGE * 4);
        });
    }

    #[test]
    fn larger_pieces_have_a_region_of_their_own() {
        together(|| drop([check(Floats::zeros(REGION + 1), REGION + 1), check(Floats::zeros(LARGE), LARGE)]));
    }
}
