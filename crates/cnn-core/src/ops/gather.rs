//! Channel gather: channel shuffle, slice and zero-padding of channels are all a map from output to
//! input channels.

use super::elementwise::add_run;
use super::parallel::for_each_task;

/// `y[n, o, hw] = x[n, map[o], hw]`, or zeros where `map[o]` is `None`; `x: [n, c, hw]`.
pub fn gather_channels(x: &[f32], c: usize, hw: usize, map: &[Option<usize>], y: &mut [f32]) {
    let image = check(x.len(), c, hw, map, y.len());
    for_each_task(y, image, image, |first, y| {
        for (i, y) in y.chunks_exact_mut(image).enumerate() {
            let x = &x[(first + i) * c * hw..][..c * hw];
            for (y, source) in y.chunks_exact_mut(hw).zip(map) {
                match *source {
                    Some(source) => y.copy_from_slice(&x[source * hw..][..hw]),
                    None => y.fill(0.0),
                }
            }
        }
    });
}

/// Writes `dx: [n, c, hw]` from `dy: [n, map.len(), hw]`: each input channel gets the sum of the
/// outputs that copied it.
pub fn gather_channels_backward(dy: &[f32], c: usize, hw: usize, map: &[Option<usize>], dx: &mut [f32]) {
    let image = check(dx.len(), c, hw, map, dy.len());
    for_each_task(dx, c * hw, c * hw + image, |first, dx| {
        for (i, dx) in dx.chunks_exact_mut(c * hw).enumerate() {
            let dy = &dy[(first + i) * image..][..image];
            dx.fill(0.0);
            for (dy, target) in dy.chunks_exact(hw).zip(map) {
                if let Some(target) = *target {
                    add_run(&mut dx[target * hw..][..hw], dy);
                }
            }
        }
    });
}

/// Checks the sizes and returns the elements per output image.
fn check(x_len: usize, c: usize, hw: usize, map: &[Option<usize>], y_len: usize) -> usize {
    assert!(c * hw > 0 && !map.is_empty() && x_len.is_multiple_of(c * hw));
    assert_eq!(y_len, x_len / (c * hw) * map.len() * hw);
    assert!(map.iter().flatten().all(|&source| source < c));
    map.len() * hw
}
