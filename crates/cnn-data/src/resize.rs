//! Resizing as Pillow's `BILINEAR` and torchvision's `Resize` do it: a triangle filter that is widened when
//! the picture shrinks (antialias), first along rows, then along columns, each pass rounded to bytes; weights
//! in fixed point with 22 fractional bits. The same arithmetic gives the same bytes.

/// Fractional bits of the weights.
const BITS: u32 = 22;

/// Weights of one output pixel on consecutive input pixels.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of each of `to` pixels made from `from` pixels.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    // the triangle reaches 1 to each side, in units of the coarser of the two grids
    let support = scale.max(1.0);
    let taps = |out: usize| {
        let centre = (out as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let triangle = |x: usize| (1.0 - ((x as f64 - centre + 0.5) / support).abs()).max(0.0);
        let weights: Vec<f64> = (first..end).map(triangle).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |w: f64| (0.5 + w / sum * f64::from(1 << BITS)) as i32;
        Taps { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..to).map(taps).collect()
}

fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Resizes one channel of height and width `from` to `to`; neither has a zero.
pub(crate) fn plane(pixels: &[u8], from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    let half = 1i32 << (BITS - 1);
    let rows = if from[1] == to[1] {
        pixels.to_vec()
    } else {
        let taps = taps(from[1], to[1]);
        let mut rows = Vec::with_capacity(from[0] * to[1]);
        for row in pixels.chunks_exact(from[1]) {
            rows.extend(taps.iter().map(|tap| {
                let near = &row[tap.first..][..tap.weights.len()];
                byte(near.iter().zip(&tap.weights).fold(half, |sum, (&p, &w)| sum + i32::from(p) * w))
            }));
        }
        rows
    };
    if from[0] == to[0] {
        return rows;
    }
    let mut out = Vec::with_capacity(to[0] * to[1]);
    let mut sums = vec![0i32; to[1]];
    for tap in taps(from[0], to[0]) {
        sums.fill(half);
        for (row, &weight) in rows[tap.first * to[1]..].chunks_exact(to[1]).zip(&tap.weights) {
            sums.iter_mut().zip(row).for_each(|(sum, &p)| *sum += i32::from(p) * weight);
        }
        out.extend(sums.iter().map(|&sum| byte(sum)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `Image.resize(..., Image.BILINEAR)` of Pillow 12 makes of one picture of 5 rows and 7 columns.
    #[test]
    fn bytes_are_those_of_pillow() {
        let pixels: Vec<u8> =
            (0..35).map(|i| (i / 7, i % 7)).map(|(y, x)| (y * 37 + x * 59 + x * y * 13) as u8).collect();
        let expected: [([usize; 2], &[u8]); 6] = [
            ([3, 4], &[50, 150, 161, 120, 116, 165, 156, 155, 112, 117, 162, 126]),
            (
                [8, 9],
                &[
                    0, 39, 85, 131, 177, 223, 127, 59, 98, 16, 59, 110, 160, 210, 174, 119, 105, 148, 39, 88,
                    145, 198, 242, 112, 115, 166, 204, 62, 117, 180, 203, 129, 130, 175, 179, 116, 86, 145,
                    179, 164, 97, 166, 191, 166, 108, 109, 173, 143, 81, 144, 220, 162, 126, 180, 132, 106,
                    90, 110, 192, 161, 149, 134, 108, 148, 51, 52, 139, 225, 112, 142, 143, 46,
                ],
            ),
            ([5, 3], &[51, 162, 102, 99, 178, 151, 147, 148, 164, 140, 149, 158, 79, 150, 115]),
            ([2, 7], &[37, 109, 169, 183, 150, 129, 143, 111, 128, 121, 161, 166, 159, 117]),
            ([1, 1], &[139]),
            (
                [11, 2],
                &[
                    93, 130, 100, 135, 118, 148, 134, 159, 142, 158, 149, 158, 145, 158, 142, 157, 127, 148,
                    110, 137, 103, 132,
                ],
            ),
        ];
        for (to, expected) in expected {
            assert_eq!(plane(&pixels, [5, 7], to), expected, "{to:?}");
        }
    }

    proptest! {
        #[test]
        fn a_plain_picture_stays_plain(
            value: u8, h in 1usize..40, w in 1usize..40, to in [1usize..60, 1usize..60],
        ) {
            let out = plane(&vec![value; h * w], [h, w], to);
            prop_assert_eq!(out, vec![value; to[0] * to[1]]);
        }
    }
}
