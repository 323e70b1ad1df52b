//! Several threads that walk through the steps of a plan together.
//!
//! A run is one job of the pool, not one for each step: waking threads takes longer than a small layer. The leader, who called,
//! opens a step; everybody takes parts of it from a counter; the leader waits until all parts are done. It waits only for parts
//! that somebody has taken, so a helper that comes late or never costs speed and nothing else.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Two atomics on cache lines of their own.
#[derive(Debug, Default)]
pub struct Team {
    /// The open step in the upper half, the next part of it in the lower.
    ticket: Line<AtomicU64>,
    /// Parts that are done, of all steps.
    done: Line<AtomicUsize>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

const CLOSED: u64 = u64::MAX;
/// The lower half of a ticket when all parts are taken.
const NO_PARTS: u64 = 0xffff_ffff;

impl Team {
    /// Runs all parts of all steps, `parts(step)` of each, the steps in order. `work(step, part, worker)` does one part; workers are
    /// numbered from 0 and are at most `workers`, and no two threads have the same number at a time. Without a pool they come from the
    /// one that the caller is in.
    pub fn run(
        &self,
        pool: Option<&rayon::ThreadPool>,
        workers: usize,
        steps: usize,
        parts: impl Fn(usize) -> usize + Sync,
        work: impl Fn(usize, usize, usize) + Sync,
    ) {
        if workers <= 1 {
            for step in 0..steps {
                (0..parts(step)).for_each(|part| work(step, part, 0));
            }
            return;
        }
        self.begin();
        let all = || {
            crew(
                &|worker| match worker {
                    0 => self.lead(steps, &parts, &work),
                    _ => self.help(&parts, &|step, part| work(step, part, worker)),
                },
                0..workers,
            );
        };
        match pool {
            Some(pool) => pool.install(all),
            None => all(),
        }
    }

    /// Before the leader opens the first step there is no part to take: what a helper took would be given out again then, and counted twice.
    fn begin(&self) {
        self.ticket.0.store(step_ticket(0) | NO_PARTS, Ordering::Relaxed);
        self.done.0.store(0, Ordering::Relaxed);
    }

    fn lead(&self, steps: usize, parts: &impl Fn(usize) -> usize, work: &impl Fn(usize, usize, usize)) {
        // Closes the run also when a part panics, since the helpers would wait for ever.
        let _close = Close(self);
        let _busy = Busy::new();
        let mut all = 0;
        for step in 0..steps {
            self.ticket.0.store(step_ticket(step), Ordering::Release);
            all += parts(step);
            while let Some(part) = self.take(step, parts(step)) {
                work(step, part, 0);
                self.done.0.fetch_add(1, Ordering::Release);
            }
            let mut waited = 0u32;
            while self.done.0.load(Ordering::Acquire) < all {
                pause(&mut waited);
            }
        }
    }

    fn help(&self, parts: &impl Fn(usize) -> usize, work: &impl Fn(usize, usize)) {
        // A thread that waits inside a part, as rayon's joins do, may be given this job: the part would then wait for itself.
        let Some(_busy) = Busy::new() else { return };
        let mut waited = 0u32;
        loop {
            let ticket = self.ticket.0.load(Ordering::Acquire);
            if ticket == CLOSED {
                return;
            }
            let step = (ticket >> 32) as usize;
            match self.take(step, parts(step)) {
                Some(part) => {
                    // Counted also when the part panics, since the leader would wait for ever.
                    let _count = Count(&self.done.0);
                    work(step, part);
                    waited = 0;
                }
                None => pause(&mut waited),
            }
        }
    }

    /// The next part of a step, if the step is still open and has one.
    fn take(&self, step: usize, parts: usize) -> Option<usize> {
        let mut seen = self.ticket.0.load(Ordering::Acquire);
        loop {
            let part = (seen & NO_PARTS) as usize;
            if seen == CLOSED || (seen >> 32) as usize != step || part >= parts {
                return None;
            }
            match self.ticket.0.compare_exchange_weak(seen, seen + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(part),
                Err(now) => seen = now,
            }
        }
    }
}

fn step_ticket(step: usize) -> u64 {
    (step as u64) << 32
}

thread_local! {
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Marks a thread that is a member of a team; `None` if it is one already.
struct Busy;

impl Busy {
    fn new() -> Option<Busy> {
        (!BUSY.replace(true)).then_some(Busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(false);
    }
}

struct Close<'a>(&'a Team);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.ticket.0.store(CLOSED, Ordering::Release);
    }
}

struct Count<'a>(&'a AtomicUsize);

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Spins at first: a step takes microseconds. Gives the core away when it takes longer, as others may need it to finish.
fn pause(waited: &mut u32) {
    *waited = waited.saturating_add(1);
    match *waited {
        0..4096 => std::hint::spin_loop(),
        _ => std::thread::yield_now(),
    }
}

/// `f` for every worker, the first on this thread, the others where the pool has threads to spare.
fn crew(f: &(impl Fn(usize) + Sync), workers: std::ops::Range<usize>) {
    if workers.len() <= 1 {
        return workers.for_each(f);
    }
    let (first, rest) = (workers.start, workers.start + 1..workers.end);
    rayon::join(|| f(first), || crew(f, rest));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn there_is_nothing_to_take_before_the_leader_opens_a_step() {
        let team = Team::default();
        team.begin();
        assert_eq!(team.take(0, 3), None);
        let led = Mutex::new(Vec::new());
        team.lead(2, &|_| 3, &|step, part, _| led.lock().unwrap().push((step, part)));
        assert_eq!(*led.lock().unwrap(), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
        assert_eq!(team.take(1, 3), None);
    }

    #[test]
    fn every_part_runs_once_and_steps_follow_each_other() {
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let team = Team::default();
            let seen = Mutex::new(Vec::new());
            for _ in 0..20 {
                team.run(Some(&pool), threads, 5, |s| s + 1, |s, p, _| seen.lock().unwrap().push((s, p)));
                let mut all = std::mem::take(&mut *seen.lock().unwrap());
                assert!(all.windows(2).all(|w| w[0].0 <= w[1].0), "a step began before the last was done");
                all.sort_unstable();
                let expected: Vec<_> = (0..5).flat_map(|s| (0..=s).map(move |p| (s, p))).collect();
                assert_eq!(all, expected);
            }
        }
    }

    #[test]
    fn the_pool_that_the_caller_is_in_will_do() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let (team, of_the_pool) = (Team::default(), Mutex::new(0));
        pool.install(|| {
            team.run(
                None,
                3,
                4,
                |_| 5,
                |_, _, _| *of_the_pool.lock().unwrap() += usize::from(rayon::current_num_threads() == 3),
            );
        });
        assert_eq!(*of_the_pool.lock().unwrap(), 20);
    }

    #[test]
    fn parts_may_use_the_pool_themselves() {
        use rayon::prelude::*;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let team = Team::default();
        for _ in 0..200 {
            team.run(
                Some(&pool),
                3,
                4,
                |_| 3,
                |_, _, _| {
                    let sum: usize = (0..100usize).into_par_iter().with_max_len(1).sum();
                    assert_eq!(sum, 4950);
                },
            );
        }
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let team = Team::default();
        let run = || team.run(Some(&pool), 2, 3, |_| 4, |s, p, _| assert!((s, p) != (1, 2)));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
        team.run(Some(&pool), 2, 3, |_| 4, |_, _, _| {});
    }
}
