use crate::ops::dropout::dropout_in_place;

#[test]
fn keeps_the_mean_and_repeats_the_mask() {
    for (p, len) in [(0.2f32, 100_000), (0.5, 100_000), (0.9, 100_000)] {
        let mut x = vec![1.0f32; len];
        dropout_in_place(&mut x, p, 42);
        let kept = x.iter().filter(|&&v| v != 0.0).count() as f32;
        assert!((kept / len as f32 - (1.0 - p)).abs() < 0.01);
        // The probability is rounded to a multiple of 2^-16.
        assert!(x.iter().all(|&v| v == 0.0 || (v * (1.0 - p) - 1.0).abs() < 1e-3));

        let mut grad = vec![2.0f32; len];
        dropout_in_place(&mut grad, p, 42);
        assert!(x.iter().zip(&grad).all(|(x, g)| *g == 2.0 * x));

        let mut other = vec![1.0f32; len];
        dropout_in_place(&mut other, p, 43);
        assert_ne!(x, other);
    }
}

#[test]
fn extreme_probabilities() {
    let mut x = vec![1.5f32; 50];
    dropout_in_place(&mut x, 0.0, 1);
    assert!(x.iter().all(|&v| v == 1.5));
    dropout_in_place(&mut x, 1.0, 1);
    assert!(x.iter().all(|&v| v == 0.0));
}
