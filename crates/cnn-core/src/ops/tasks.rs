//! Tasks over the rayon pool.

use rayon::prelude::*;

/// Calls `f(0)` to `f(tasks - 1)`, in any order and on any thread.
pub fn for_each(tasks: usize, f: impl Fn(usize) + Sync + Send) {
    if tasks == 1 {
        f(0);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// Start and end of part `i` when `len` things are cut in `parts` nearly equal parts.
pub fn part(len: usize, parts: usize, i: usize) -> (usize, usize) {
    (i * len / parts, (i + 1) * len / parts)
}
