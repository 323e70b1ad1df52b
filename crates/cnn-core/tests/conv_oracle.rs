//! Every entry point against the naive loops, on every instruction set.

#![allow(clippy::unwrap_used)] // also in the helpers of tests

use cnn_core::ops::conv::*;
use cnn_core::ops::gemm::{Transpose, gemm_on};
use cnn_core::ops::{linear::*, reference};
use cnn_core::simd::Isa;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Sums, and the sums of their terms' absolute values, against which rounding errors are measured (Higham, Accuracy and Stability of
/// Numerical Algorithms, section 3.1): of a sum itself nothing may be left.
struct Sums {
    values: Vec<f32>,
    largest: f32,
}

/// The sums that `add` writes, from two factors.
fn sums(len: usize, a: &[f32], b: &[f32], add: impl Fn(&[f32], &[f32], &mut [f32])) -> Sums {
    let sizes = |v: &[f32]| v.iter().map(|v| v.abs()).collect::<Vec<f32>>();
    let (mut values, mut terms) = (vec![0.0; len], vec![0.0; len]);
    add(a, b, &mut values);
    add(&sizes(a), &sizes(b), &mut terms);
    Sums { values, largest: terms.into_iter().fold(0.0, f32::max) }
}

/// What all passes of a convolution are to make.
struct Wanted {
    y: Sums,
    y_bias: Sums,
    dx: Sums,
    dw: Sums,
    db: Sums,
}

impl Wanted {
    fn of(g: &ConvGeometry, x: &[f32], w: &[f32], bias: &[f32], dy: &[f32]) -> Self {
        let mut y_bias = sums(dy.len(), x, w, |x, w, y| reference::conv_forward(g, x, w, Some(bias), y));
        y_bias.largest += 1.0; // a bias is below 1
        Self {
            y: sums(dy.len(), x, w, |x, w, y| reference::conv_forward(g, x, w, None, y)),
            y_bias,
            dx: sums(x.len(), w, dy, |w, dy, dx| reference::conv_backward_input(g, w, dy, dx)),
            dw: sums(w.len(), x, dy, |x, dy, dw| reference::conv_backward_weights(g, x, dy, dw)),
            db: sums(g.m, dy, &[], |dy, _, db| reference::conv_backward_bias(g, dy, db)),
        }
    }
}

fn close(got: &[f32], want: &Sums, what: &str) {
    for (i, (a, b)) in got.iter().zip(&want.values).enumerate() {
        assert!((a - b).abs() <= 3e-6 * want.largest, "{what}[{i}]: {a} and not {b} (of {})", want.largest);
    }
}

fn all_passes(g: &ConvGeometry, seed: u64) {
    let (oh, ow) = (g.out_h(), g.out_w());
    let x = random(g.n * g.c * g.h * g.w, seed);
    let w = random(g.m * g.c / g.groups * g.kernel[0] * g.kernel[1], seed + 1);
    let dy = random(g.n * g.m * oh * ow, seed + 2);
    let bias = random(g.m, seed + 3);
    let want = Wanted::of(g, &x, &w, &bias, &dy);
    for isa in Isa::available() {
        let name = isa.name();
        let mut got = vec![f32::NAN; dy.len()];
        conv_forward_on(isa, g, &x, &w, None, &mut got);
        close(&got, &want.y, &format!("{name} {g:?} y"));
        got.fill(f32::NAN);
        conv_forward_on(isa, g, &x, &w, Some(&bias), &mut got);
        close(&got, &want.y_bias, &format!("{name} {g:?} y with bias"));
        let mut got = vec![f32::NAN; x.len()];
        conv_backward_input_on(isa, g, &w, &dy, &mut got);
        close(&got, &want.dx, &format!("{name} {g:?} dx"));
        let mut got = vec![f32::NAN; w.len()];
        conv_backward_weights_on(isa, g, &x, &dy, &mut got);
        close(&got, &want.dw, &format!("{name} {g:?} dw"));
    }
    let mut got = vec![f32::NAN; g.m];
    conv_backward_bias(g, &dy, &mut got);
    close(&got, &want.db, "db");
}

fn geometry(
    (n, groups, cg, mg): (usize, usize, usize, usize),
    (h, w): (usize, usize),
    kernel: [usize; 2],
    stride: [usize; 2],
    pad: [usize; 4],
    dilation: [usize; 2],
) -> ConvGeometry {
    ConvGeometry { n, c: groups * cg, h, w, m: groups * mg, kernel, stride, pad, dilation, groups }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_convolution(
        chan in (1usize..4, 1usize..4, 1usize..24, 1usize..40),
        size in (1usize..14, 1usize..20),
        kernel in prop::array::uniform2(1usize..6),
        stride in prop::array::uniform2(1usize..4),
        pad in prop::array::uniform4(0usize..4),
        dilation in prop::array::uniform2(1usize..3),
        seed in any::<u32>(),
    ) {
        all_passes(&geometry(chan, size, kernel, stride, pad, dilation), u64::from(seed));
    }

    #[test]
    fn any_depthwise(
        n in 1usize..4,
        groups in 2usize..40,
        mult in 1usize..4,
        size in (1usize..20, 1usize..40),
        kernel in prop::array::uniform2(1usize..6),
        stride in prop::array::uniform2(1usize..4),
        pad in prop::array::uniform4(0usize..4),
        dilation in prop::array::uniform2(1usize..3),
        seed in any::<u32>(),
    ) {
        all_passes(&geometry((n, groups, 1, mult), size, kernel, stride, pad, dilation), u64::from(seed));
    }

    #[test]
    fn dense_three_by_three(
        chan in (1usize..6, Just(1usize), 1usize..70, 1usize..70),
        size in (1usize..20, 1usize..36),
        pad in prop::array::uniform4(0usize..3),
        seed in any::<u32>(),
    ) {
        all_passes(&geometry(chan, size, [3, 3], [1, 1], pad, [1, 1]), u64::from(seed));
    }

    #[test]
    fn pointwise(
        chan in (1usize..5, 1usize..3, 1usize..70, 1usize..70),
        size in (1usize..12, 1usize..20),
        seed in any::<u32>(),
    ) {
        all_passes(&geometry(chan, size, [1, 1], [1, 1], [0; 4], [1, 1]), u64::from(seed));
    }

    #[test]
    fn any_product(m in 0usize..80, n in 0usize..80, k in 0usize..600, ta: bool, tb: bool, accumulate: bool, seed in any::<u32>()) {
        let seed = u64::from(seed);
        let (a, b, c) = (random(m * k, seed), random(k * n, seed + 1), random(m * n, seed + 2));
        let mut want = sums(m * n, &a, &b, |a, b, want| {
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let mut s = if accumulate { f64::from(c[i * n + j]) } else { 0.0 };
                for l in 0..k {
                    let av = if ta { a[l * m + i] } else { a[i * k + l] };
                    let bv = if tb { b[j * k + l] } else { b[l * n + j] };
                    s += f64::from(av) * f64::from(bv);
                }
                want[i * n + j] = s as f32;
            }
        });
        want.largest += 1.0;
        let t = |yes| if yes { Transpose::Yes } else { Transpose::No };
        for isa in Isa::available() {
            let mut got = c.clone();
            gemm_on(isa, t(ta), t(tb), [m, n, k], &a, &b, &mut got, accumulate);
            close(&got, &want, isa.name());
        }
    }

    #[test]
    fn any_linear(n in 1usize..40, inputs in 1usize..90, outputs in 1usize..90, seed in any::<u32>()) {
        let g = LinearGeometry { n, inputs, outputs };
        let conv = geometry((n, 1, inputs, outputs), (1, 1), [1, 1], [1, 1], [0; 4], [1, 1]);
        let seed = u64::from(seed);
        let (x, w, dy) = (random(n * inputs, seed), random(inputs * outputs, seed + 1), random(n * outputs, seed + 2));
        let b = random(outputs, seed + 3);
        let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
        let (mut dw, mut db) = (vec![f32::NAN; w.len()], vec![f32::NAN; outputs]);
        linear_forward(&g, &x, &w, Some(&b), &mut y);
        linear_backward_input(&g, &w, &dy, &mut dx);
        linear_backward_weights(&g, &x, &dy, &mut dw);
        linear_backward_bias(&g, &dy, &mut db);
        let want = Wanted::of(&conv, &x, &w, &b, &dy);
        close(&y, &want.y_bias, "y");
        close(&dx, &want.dx, "dx");
        close(&dw, &want.dw, "dw");
        close(&db, &want.db, "db");
    }
}

/// Winograd's errors at the sizes of ResNet-20, relative to the largest value.
#[test]
fn winograd_errors_are_small() {
    for (c, s) in [(16, 32), (32, 16), (64, 8), (256, 8)] {
        let g = geometry((8, 1, c, c), (s, s), [3, 3], [1, 1], [1; 4], [1, 1]);
        let x = random(g.n * c * s * s, 1);
        let w = random(c * c * 9, 2);
        let dy = random(g.n * c * s * s, 3);
        let worst = |got: &[f32], want: &[f32]| {
            let top = want.iter().fold(0.0f32, |t, v| t.max(v.abs()));
            let far = got.iter().zip(want).map(|(a, b)| (a - b).abs());
            far.fold(0.0f32, f32::max) / top
        };
        let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
        let (mut y0, mut dx0, mut dw0) = (dy.clone(), x.clone(), w.clone());
        conv_forward(&g, &x, &w, None, &mut y);
        conv_backward_input(&g, &w, &dy, &mut dx);
        conv_backward_weights(&g, &x, &dy, &mut dw);
        reference::conv_forward(&g, &x, &w, None, &mut y0);
        reference::conv_backward_input(&g, &w, &dy, &mut dx0);
        reference::conv_backward_weights(&g, &x, &dy, &mut dw0);
        let errors = [worst(&y, &y0), worst(&dx, &dx0), worst(&dw, &dw0)];
        println!("{c} channels @{s}: {errors:?}");
        assert!(errors.iter().all(|&e| e < 5e-6), "{c} channels @{s}: {errors:?}");
    }
}

/// The same bits with 1, 2 and 3 threads.
#[test]
fn threads_do_not_change_bits() {
    let shapes = [
        geometry((9, 1, 16, 16), (32, 32), [3, 3], [1, 1], [1; 4], [1, 1]),
        geometry((10, 1, 64, 64), (8, 8), [3, 3], [1, 1], [1; 4], [1, 1]),
        geometry((9, 1, 16, 32), (17, 15), [3, 3], [2, 2], [1; 4], [1, 1]),
        geometry((1, 1, 3, 20), (64, 64), [5, 5], [1, 1], [0; 4], [1, 1]),
        geometry((9, 2, 24, 33), (7, 7), [1, 1], [1, 1], [0; 4], [1, 1]),
        geometry((5, 1, 48, 40), (14, 14), [1, 1], [1, 1], [0; 4], [1, 1]),
        geometry((9, 3, 1, 2), (14, 14), [3, 3], [2, 2], [1; 4], [1, 1]),
        geometry((9, 40, 1, 1), (14, 14), [3, 3], [1, 1], [1; 4], [1, 1]),
    ];
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a pool").install(|| {
            let mut all = Vec::new();
            for g in &shapes {
                let x = random(g.n * g.c * g.h * g.w, 1);
                let w = random(g.m * g.c / g.groups * g.kernel[0] * g.kernel[1], 2);
                let dy = random(g.n * g.m * g.out_h() * g.out_w(), 3);
                let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
                let mut db = vec![0.0; g.m];
                conv_forward(g, &x, &w, None, &mut y);
                conv_backward_input(g, &w, &dy, &mut dx);
                conv_backward_weights(g, &x, &dy, &mut dw);
                conv_backward_bias(g, &dy, &mut db);
                all.extend([y, dx, dw, db].concat().iter().map(|v| v.to_bits()));
            }
            let l = LinearGeometry { n: 64, inputs: 800, outputs: 500 };
            let (x, w, dy) = (random(64 * 800, 1), random(800 * 500, 2), random(64 * 500, 3));
            let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
            linear_forward(&l, &x, &w, None, &mut y);
            linear_backward_input(&l, &w, &dy, &mut dx);
            linear_backward_weights(&l, &x, &dy, &mut dw);
            all.extend([y, dx, dw].concat().iter().map(|v| v.to_bits()));
            all
        })
    };
    let one = run(1);
    assert!(one == run(2), "2 threads differ");
    assert!(one == run(3), "3 threads differ");
}
