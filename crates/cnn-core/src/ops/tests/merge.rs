use proptest::prelude::*;

use super::{assert_close, assert_gradient, uniform, weighted};
use crate::ops::concat::*;
use crate::ops::merge::*;

/// A shape and two operands of which either may have size 1 along each axis.
fn shapes() -> impl Strategy<Value = ([usize; 4], [usize; 4])> {
    let axis = || {
        (1..5usize, 0..4usize).prop_map(|(size, kind)| match kind {
            0 => (1, size),
            1 => (size, 1),
            _ => (size, size),
        })
    };
    [axis(), axis(), axis(), axis()].prop_map(|axes| (axes.map(|a| a.0), axes.map(|a| a.1)))
}

fn size(shape: [usize; 4]) -> usize {
    shape.iter().product()
}

fn index(shape: [usize; 4], at: [usize; 4]) -> usize {
    (0..4).fold(0, |index, i| index * shape[i] + if shape[i] == 1 { 0 } else { at[i] })
}

fn forward(a: &[f32], sa: [usize; 4], b: &[f32], sb: [usize; 4]) -> Vec<f32> {
    let mut y = vec![0.0; size(broadcast_shape(sa, sb))];
    mul(a, sa, b, sb, &mut y);
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn mul_matches_naive((sa, sb) in shapes(), seed: u64) {
        let (a, b) = (uniform(seed, size(sa)), uniform(seed ^ 1, size(sb)));
        let shape = broadcast_shape(sa, sb);
        let mut expected = Vec::new();
        for i in 0..size(shape) {
            let [_, c, h, w] = shape;
            let at = [i / (c * h * w), i / (h * w) % c, i / w % h, i % w];
            expected.push(a[index(sa, at)] * b[index(sb, at)]);
        }
        prop_assert_eq!(forward(&a, sa, &b, sb), expected);
    }

    #[test]
    fn mul_gradients((sa, sb) in shapes(), seed: u64) {
        let (a, b) = (uniform(seed, size(sa)), uniform(seed ^ 1, size(sb)));
        let w = uniform(seed ^ 2, size(broadcast_shape(sa, sb)));
        let (mut da, mut db) = (vec![f32::NAN; a.len()], vec![f32::NAN; b.len()]);
        mul_grad_one(&w, (&b, sb), sa, &mut da);
        mul_grad_one(&w, (&a, sa), sb, &mut db);
        assert_gradient(&a, &da, 0.5, 1e-4, |a| weighted(&forward(a, sa, &b, sb), &w));
        assert_gradient(&b, &db, 0.5, 1e-4, |b| weighted(&forward(&a, sa, b, sb), &w));
    }

    #[test]
    fn concat_then_split(n in 1..4usize, hw in 1..5usize,
                         channels in proptest::collection::vec(0..4usize, 1..4)) {
        let total = channels.iter().sum::<usize>();
        prop_assume!(total > 0);
        let parts: Vec<Vec<f32>> =
            channels.iter().map(|&c| uniform(c as u64, n * c * hw)).collect();
        let inputs: Vec<(&[f32], usize)> =
            parts.iter().zip(&channels).map(|(p, &c)| (&p[..], c * hw)).collect();
        let mut y = vec![0.0; n * total * hw];
        concat_channels(&inputs, &mut y);
        let naive: Vec<f32> = (0..n)
            .flat_map(|i| inputs.iter().flat_map(move |(p, size)| &p[i * size..][..*size]).copied())
            .collect();
        prop_assert_eq!(&y, &naive);
        let mut back: Vec<Vec<f32>> = parts.iter().map(|p| vec![f32::NAN; p.len()]).collect();
        let mut outputs: Vec<(&mut [f32], usize)> =
            back.iter_mut().zip(&channels).map(|(p, &c)| (&mut p[..], c * hw)).collect();
        split_channels(&y, &mut outputs);
        prop_assert_eq!(back, parts);
    }
}

#[test]
fn adds() {
    let mut a = [1.0, 2.0];
    add_in_place(&mut a, &[0.5, -2.0]);
    assert_eq!(a, [1.5, 0.0]);
}

#[test]
fn long_sums_stay_accurate() {
    let (shape, scalar) = ([4, 8, 64, 64], [1, 1, 1, 1]);
    let x = vec![0.1f32; size(shape)];
    let mut grad = [0.0];
    mul_grad_one(&x, (&x, shape), scalar, &mut grad);
    let expected = x.len() as f32 * 0.1 * 0.1;
    assert_close(&grad, &[expected], 1e-5, "sum");
}
