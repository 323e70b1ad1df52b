//! Splits work over rayon threads. The split depends on sizes only, never on the number of
//! threads, so results are the same bits whatever the pool.

use rayon::prelude::*;

/// Elements of work per task: large enough to hide the cost of scheduling (microseconds), small
/// enough that a task's data stays in the L2 cache.
///
/// Tests split their small tensors too.
const TASK: usize = if cfg!(test) { 1 << 6 } else { 1 << 15 };

/// Calls `body(first_unit, units)` on consecutive runs of whole units of `y`.
///
/// A unit is `unit` elements of `y` and costs about `cost` elements of memory traffic. Inputs are
/// indexed by the caller from `first_unit`. Small work runs on the calling thread.
pub(crate) fn for_each_task<T: Send>(
    y: &mut [T],
    unit: usize,
    cost: usize,
    body: impl Fn(usize, &mut [T]) + Sync,
) {
    if y.is_empty() {
        return;
    }
    let units = (TASK / cost.max(1)).max(1);
    if y.len() <= units * unit {
        return body(0, y);
    }
    y.par_chunks_mut(units * unit).enumerate().for_each(|(task, run)| body(task * units, run));
}

/// [`for_each_task`] with two outputs that have the same number of units.
pub(crate) fn for_each_task2<T: Send, U: Send>(
    (y, y_unit): (&mut [T], usize),
    (z, z_unit): (&mut [U], usize),
    cost: usize,
    body: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    if y.is_empty() || z.is_empty() {
        return;
    }
    let units = (TASK / cost.max(1)).max(1);
    if y.len() <= units * y_unit {
        return body(0, y, z);
    }
    y.par_chunks_mut(units * y_unit)
        .zip(z.par_chunks_mut(units * z_unit))
        .enumerate()
        .for_each(|(task, (y, z))| body(task * units, y, z));
}
