//! Spatial padding with a constant. `pad` is top, left, bottom, right.

use super::parallel::for_each_task;

/// Writes `y: [planes, top + h + bottom, left + w + right]`: `x: [planes, h, w]` framed by `value`.
pub fn pad_spatial(x: &[f32], [h, w]: [usize; 2], pad: [usize; 4], value: f32, y: &mut [f32]) {
    let [top, left, ..] = pad;
    let [ph, pw] = check(x.len(), [h, w], pad, y.len());
    for_each_task(y, ph * pw, ph * pw, |first, y| {
        for (y, x) in y.chunks_exact_mut(ph * pw).zip(x[first * h * w..].chunks_exact(h * w)) {
            y[..top * pw].fill(value);
            y[(top + h) * pw..].fill(value);
            for (y, x) in y[top * pw..].chunks_exact_mut(pw).zip(x.chunks_exact(w)) {
                y[..left].fill(value);
                y[left..left + w].copy_from_slice(x);
                y[left + w..].fill(value);
            }
        }
    });
}

/// The gradient of [`pad_spatial`]: crops `dy: [planes, top + h + bottom, left + w + right]` to
/// `dx: [planes, h, w]`.
pub fn crop_spatial(dy: &[f32], [h, w]: [usize; 2], pad: [usize; 4], dx: &mut [f32]) {
    let [top, left, ..] = pad;
    let [ph, pw] = check(dx.len(), [h, w], pad, dy.len());
    for_each_task(dx, h * w, h * w, |first, dx| {
        let planes = dy[first * ph * pw..].chunks_exact(ph * pw);
        for (dx, dy) in dx.chunks_exact_mut(h * w).zip(planes) {
            for (dx, dy) in dx.chunks_exact_mut(w).zip(dy[top * pw..].chunks_exact(pw)) {
                dx.copy_from_slice(&dy[left..left + w]);
            }
        }
    });
}

/// Checks the sizes and returns the padded height and width.
fn check(len: usize, [h, w]: [usize; 2], pad: [usize; 4], padded_len: usize) -> [usize; 2] {
    let [top, left, bottom, right] = pad;
    let [ph, pw] = [top + h + bottom, left + w + right];
    assert!(h * w > 0 && len.is_multiple_of(h * w));
    assert_eq!(padded_len, len / (h * w) * ph * pw);
    [ph, pw]
}
