//! Concatenation along channels and its gradient.

use super::parallel::for_each_task;

/// Concatenates `parts: [n, c_i, hw]` into `y: [n, Σ c_i, hw]`.
///
/// Each part comes with `c_i * hw`, its number of elements per image.
pub fn concat_channels(parts: &[(&[f32], usize)], y: &mut [f32]) {
    let total: usize = parts.iter().map(|part| part.1).sum();
    let n = y.len() / total.max(1);
    assert!(y.len() == n * total && parts.iter().all(|part| part.0.len() == n * part.1));
    for_each_task(y, total, total, |first, y| {
        for (image, y) in y.chunks_exact_mut(total).enumerate() {
            let mut rest = y;
            for &(part, size) in parts {
                let (head, tail) = rest.split_at_mut(size);
                head.copy_from_slice(&part[(first + image) * size..][..size]);
                rest = tail;
            }
        }
    });
}

/// The gradient of [`concat_channels`]: splits `dy: [n, Σ c_i, hw]` into `parts: [n, c_i, hw]`.
pub fn split_channels(dy: &[f32], parts: &mut [(&mut [f32], usize)]) {
    let total: usize = parts.iter().map(|part| part.1).sum();
    let n = dy.len() / total.max(1);
    assert!(dy.len() == n * total && parts.iter().all(|part| part.0.len() == n * part.1));
    let mut offset = 0;
    for (part, size) in parts {
        let size = *size;
        for_each_task(part, size, size, |first, part| {
            for (part, dy) in part.chunks_exact_mut(size).zip(dy[first * total..].chunks(total)) {
                part.copy_from_slice(&dy[offset..][..size]);
            }
        });
        offset += size;
    }
}
