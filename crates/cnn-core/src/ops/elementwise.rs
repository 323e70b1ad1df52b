//! Parallel, vectorized loops over all elements of a tensor.

use super::multiversion::{multiversion, unmasked};
use super::parallel::for_each_task;

/// `y[i] = f(x[i])`.
pub(crate) fn map(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    assert_eq!(x.len(), y.len());
    for_each_task(y, 1, 1, |first, y| map_run(&x[first..][..y.len()], y, &f));
}

/// `x[i] = f(x[i])`.
pub(crate) fn map_in_place(x: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    for_each_task(x, 1, 1, |_, x| map_run_in_place(x, &f));
}

/// `x[i] = f(x[i], other[i])`.
pub(crate) fn zip_in_place(x: &mut [f32], other: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    assert_eq!(x.len(), other.len());
    for_each_task(x, 1, 1, |first, x| {
        zip_run_in_place(x, &other[first..][..x.len()], &f);
    });
}

multiversion! {
    fn map_run<F: Fn(f32) -> f32>(x: &[f32], y: &mut [f32], f: &F) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = unmasked(f(x));
        }
    }
}

multiversion! {
    fn map_run_in_place<F: Fn(f32) -> f32>(x: &mut [f32], f: &F) {
        for x in x {
            *x = unmasked(f(*x));
        }
    }
}

multiversion! {
    fn zip_run_in_place<F: Fn(f32, f32) -> f32>(x: &mut [f32], other: &[f32], f: &F) {
        for (x, &o) in x.iter_mut().zip(other) {
            *x = unmasked(f(*x, o));
        }
    }
}

/// `x += other` on the calling thread.
pub(crate) fn add_run(x: &mut [f32], other: &[f32]) {
    zip_run_in_place(x, other, &|x, other| x + other);
}
