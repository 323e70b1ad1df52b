use proptest::prelude::*;

use super::{assert_gradient, uniform, weighted};
use crate::ops::gather::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn matches_naive_and_gradient(
        n in 1..4usize, hw in 1..5usize, seed: u64,
        (c, map) in (1..5usize).prop_flat_map(|c| {
            (Just(c), proptest::collection::vec(proptest::option::of(0..c), 1..6))
        }),
    ) {
        let x = uniform(seed, n * c * hw);
        let forward = |x: &[f32]| {
            let mut y = vec![f32::NAN; n * map.len() * hw];
            gather_channels(x, c, hw, &map, &mut y);
            y
        };
        let y = forward(&x);
        for (i, &y) in y.iter().enumerate() {
            let (image, o, p) = (i / (map.len() * hw), i / hw % map.len(), i % hw);
            prop_assert_eq!(y, map[o].map_or(0.0, |s| x[(image * c + s) * hw + p]));
        }
        let w = uniform(seed ^ 1, y.len());
        let mut dx = vec![f32::NAN; x.len()];
        gather_channels_backward(&w, c, hw, &map, &mut dx);
        assert_gradient(&x, &dx, 0.5, 1e-4, |x| weighted(&forward(x), &w));
    }
}
