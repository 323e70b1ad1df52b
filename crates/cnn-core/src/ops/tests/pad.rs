use proptest::prelude::*;

use super::uniform;
use crate::ops::pad::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pads_and_crops(planes in 1..4usize, h in 1..5usize, w in 1..5usize,
                      pad in [0..3usize, 0..3usize, 0..3usize, 0..3usize], seed: u64) {
        let x = uniform(seed, planes * h * w);
        let [top, left, bottom, right] = pad;
        let (ph, pw) = (h + top + bottom, w + left + right);
        let mut y = vec![f32::NAN; planes * ph * pw];
        pad_spatial(&x, [h, w], pad, 7.0, &mut y);
        for (i, &y) in y.iter().enumerate() {
            let (plane, r, c) = (i / (ph * pw), i / pw % ph, i % pw);
            let inside = (top..top + h).contains(&r) && (left..left + w).contains(&c);
            let expected = if inside { x[(plane * h + r - top) * w + c - left] } else { 7.0 };
            prop_assert_eq!(y, expected);
        }
        // Crop is the transpose of zero padding, and here also its inverse.
        let mut back = vec![f32::NAN; x.len()];
        crop_spatial(&y, [h, w], pad, &mut back);
        prop_assert_eq!(back, x);
    }
}
