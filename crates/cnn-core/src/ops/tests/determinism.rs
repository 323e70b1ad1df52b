use super::uniform;
use crate::ops::activation::{ActivationFn, activation, activation_backward};
use crate::ops::adaptive_pool::{adaptive_avg_pool, global_avg_pool};
use crate::ops::avg_pool::{avg_pool, avg_pool_backward};
use crate::ops::dropout::dropout_in_place;
use crate::ops::gather::{gather_channels, gather_channels_backward};
use crate::ops::max_pool::{max_pool_backward, max_pool_with_argmax};
use crate::ops::merge::{add_in_place, mul, mul_grad_one};
use crate::ops::norm::{bn_apply, bn_backward, bn_inv_std, bn_stats};
use crate::ops::pool::PoolGeometry;
use crate::ops::softmax::{softmax, softmax_backward};

/// The bits of every operation's results, on tensors large enough for several tasks.
fn everything() -> Vec<u32> {
    let (n, c, h, w) = (9, 12, 33, 35);
    let (hw, shape, gate_shape) = (h * w, [n, c, h, w], [n, c, 1, 1]);
    let x = uniform(1, n * c * hw);
    let mut results: Vec<Vec<f32>> = Vec::new();
    let mut y = x.clone();

    let (mean, var) = bn_stats(&x, n, c, hw);
    let inv_std = bn_inv_std(&var, 1e-5);
    bn_apply(&x, &mut y, hw, &inv_std, &mean);
    let mut dx = y.clone();
    let (dgamma, dbeta) = bn_backward(&x, &mut dx, hw, &mean, &inv_std, &inv_std);
    results.extend([mean, var, y.clone(), dx, dgamma, dbeta]);

    activation(ActivationFn::Silu, &x, &mut y);
    let mut dx = y.clone();
    activation_backward(ActivationFn::Silu, &x, &mut dx);
    add_in_place(&mut dx, &y);
    dropout_in_place(&mut dx, 0.3, 5);
    results.extend([y.clone(), dx]);

    let gate = uniform(2, n * c);
    mul(&x, shape, &gate, gate_shape, &mut y);
    let (mut da, mut db) = (vec![0.0; x.len()], vec![0.0; gate.len()]);
    mul_grad_one(&y, (&gate, gate_shape), shape, &mut da);
    mul_grad_one(&y, (&x, shape), gate_shape, &mut db);
    results.extend([y.clone(), da, db]);
    let (channel_shape, scale) = ([1, c, 1, 1], uniform(3, c));
    let (mut da, mut db) = (vec![0.0; x.len()], vec![0.0; c]);
    mul_grad_one(&y, (&scale, channel_shape), shape, &mut da);
    mul_grad_one(&y, (&x, shape), channel_shape, &mut db);
    results.extend([da, db]);

    let g = PoolGeometry { n, c, h, w, kernel: [3, 3], stride: [2, 2], pad: [1; 4], ceil_mode: false };
    let [oh, ow] = g.output_size();
    let (mut pooled, mut argmax) = (vec![0.0; n * c * oh * ow], vec![0; n * c * oh * ow]);
    let mut dx = vec![0.0; x.len()];
    max_pool_with_argmax(g, &x, &mut pooled, &mut argmax);
    max_pool_backward(g, &argmax, &pooled, &mut dx);
    results.extend([pooled.clone(), dx.clone(), argmax.iter().map(|&a| f32::from(a)).collect()]);
    avg_pool(g, true, &x, &mut pooled);
    avg_pool_backward(g, true, &pooled, &mut dx);
    results.extend([pooled, dx.clone()]);
    let (mut means, mut bins) = (vec![0.0; n * c], vec![0.0; n * c * 35]);
    global_avg_pool(&x, hw, &mut means);
    adaptive_avg_pool(&x, [h, w], [7, 5], &mut bins);
    results.extend([means, bins]);

    let map: Vec<Option<usize>> = (0..c).map(|i| (i != 3).then_some(i / 2)).collect();
    gather_channels(&x, c, hw, &map, &mut y);
    gather_channels_backward(&y, c, hw, &map, &mut dx);
    results.extend([y.clone(), dx.clone()]);

    softmax(&x, c, hw, &mut y);
    softmax_backward(&y, c, hw, &mut dx);
    results.extend([y, dx]);
    results.concat().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn same_bits_with_1_2_and_3_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(everything)
    };
    let one = run(1);
    assert!(one == run(2));
    assert!(one == run(3));
}
