use proptest::prelude::*;
use serde_json::Value;

use super::{assert_close, assert_gradient, distinct, floats, golden, size, sizes, uniform, weighted};
use crate::ops::adaptive_pool::*;
use crate::ops::avg_pool::*;
use crate::ops::max_pool::*;
use crate::ops::pool::PoolGeometry;

fn max_forward(g: PoolGeometry, x: &[f32]) -> (Vec<f32>, Vec<u8>) {
    let [oh, ow] = g.output_size();
    let mut y = vec![0.0; g.planes() * oh * ow];
    let mut argmax = vec![0; y.len()];
    max_pool_with_argmax(g, x, &mut y, &mut argmax);
    (y, argmax)
}

fn avg_forward(g: PoolGeometry, include_pad: bool, x: &[f32]) -> Vec<f32> {
    let [oh, ow] = g.output_size();
    let mut y = vec![0.0; g.planes() * oh * ow];
    avg_pool(g, include_pad, x, &mut y);
    y
}

/// The windows as lists of (input index, code), in output order.
fn windows(g: PoolGeometry) -> Vec<Vec<(usize, u8)>> {
    let [oh, ow] = g.output_size();
    let mut windows = Vec::new();
    for i in 0..g.planes() * oh * ow {
        let (plane, oy, ox) = (i / (oh * ow), i / ow % oh, i % ow);
        let mut window = Vec::new();
        for ky in 0..g.kernel[0] {
            for kx in 0..g.kernel[1] {
                let iy = (oy * g.stride[0] + ky) as isize - g.pad[0] as isize;
                let ix = (ox * g.stride[1] + kx) as isize - g.pad[1] as isize;
                if (0..g.h as isize).contains(&iy) && (0..g.w as isize).contains(&ix) {
                    let index = (plane * g.h + iy as usize) * g.w + ix as usize;
                    window.push((index, (ky * g.kernel[1] + kx) as u8));
                }
            }
        }
        windows.push(window);
    }
    windows
}

/// Any geometry, or one that has its own loops; wide enough for whole vectors.
fn geometry() -> impl Strategy<Value = PoolGeometry> {
    prop_oneof![any_geometry(), special_geometry()]
}

fn any_geometry() -> impl Strategy<Value = PoolGeometry> {
    let kernel = [1..5usize, 1..5usize];
    (1..3usize, 1..3usize, [1..9usize, 1..40usize], kernel).prop_flat_map(|(n, c, [h, w], kernel)| {
        let [kh, kw] = kernel;
        ([1..4usize, 1..4usize], [0..kh, 0..kw, 0..kh, 0..kw], any::<bool>())
            .prop_map(move |(stride, pad, ceil_mode)| PoolGeometry {
                n,
                c,
                h,
                w,
                kernel,
                stride,
                pad,
                ceil_mode,
            })
            .prop_filter("window larger than the padded input", |g| {
                g.h + g.pad[0] + g.pad[2] >= g.kernel[0] && g.w + g.pad[1] + g.pad[3] >= g.kernel[1]
            })
    })
}

/// 2x2 tiles and 3x3 at stride 2.
fn special_geometry() -> impl Strategy<Value = PoolGeometry> {
    (1..3usize, 1..3usize, [1..5usize, 1..25usize], 2..4usize, any::<bool>()).prop_map(
        |(n, c, [h, w], k, ceil_mode)| PoolGeometry {
            n,
            c,
            h: 2 * h,
            w: 2 * w,
            kernel: [k; 2],
            stride: [2; 2],
            pad: [k - 2; 4],
            ceil_mode,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn max_matches_naive(g in geometry(), seed: u64) {
        // Rounding makes ties, which the first position must win.
        let x: Vec<f32> = uniform(seed, g.planes() * g.h * g.w)
            .iter()
            .map(|v| if *v < -0.6 { f32::NEG_INFINITY } else { (v * 2.0).round() })
            .collect();
        let (y, argmax) = max_forward(g, &x);
        let mut plain = vec![0.0; y.len()];
        max_pool(g, &x, &mut plain);
        prop_assert_eq!(&plain, &y);
        for (i, window) in windows(g).iter().enumerate() {
            let mut best = window[0];
            for &(index, code) in window {
                if x[index] > x[best.0] {
                    best = (index, code);
                }
            }
            prop_assert_eq!(y[i], x[best.0]);
            prop_assert_eq!(argmax[i], best.1);
        }
    }

    #[test]
    fn max_gradient(g in geometry(), seed: u64) {
        let x = distinct(seed, g.planes() * g.h * g.w);
        let (y, argmax) = max_forward(g, &x);
        let w = uniform(seed, y.len());
        let mut dx = vec![f32::NAN; x.len()];
        max_pool_backward(g, &argmax, &w, &mut dx);
        assert_gradient(&x, &dx, 0.25, 1e-4, |x| weighted(&max_forward(g, x).0, &w));
        let mut again = vec![f32::NAN; x.len()];
        max_pool_backward_from_input(g, &x, &w, &mut again);
        prop_assert_eq!(again, dx);
    }

    #[test]
    fn max_propagates_nan(g in geometry(), seed: u64, nans in 1..4usize) {
        let mut x = uniform(seed, g.planes() * g.h * g.w);
        for k in 0..nans {
            let at = (seed as usize).wrapping_mul(k + 1) % x.len();
            x[at] = f32::NAN;
        }
        let (y, argmax) = max_forward(g, &x);
        let mut plain = vec![0.0; y.len()];
        max_pool(g, &x, &mut plain);
        for (i, window) in windows(g).iter().enumerate() {
            let expected = window.iter().any(|&(index, _)| x[index].is_nan());
            prop_assert_eq!(y[i].is_nan(), expected);
            prop_assert_eq!(plain[i].is_nan(), expected);
            let winner = window.iter().find(|&&(_, code)| code == argmax[i]).unwrap().0;
            prop_assert_eq!(x[winner].is_nan(), expected);
        }
    }

    #[test]
    fn avg_matches_naive(g in geometry(), seed: u64, include_pad: bool) {
        let x = uniform(seed, g.planes() * g.h * g.w);
        let y = avg_forward(g, include_pad, &x);
        let [oh, ow] = g.output_size();
        for (i, window) in windows(g).iter().enumerate() {
            let (oy, ox) = (i / ow % oh, i % ow);
            let count = if include_pad {
                let rows = g.kernel[0].min(g.pad[0] + g.h + g.pad[2] - oy * g.stride[0]);
                let columns = g.kernel[1].min(g.pad[1] + g.w + g.pad[3] - ox * g.stride[1]);
                rows * columns
            } else {
                window.len()
            };
            let sum: f32 = window.iter().map(|&(index, _)| x[index]).sum();
            prop_assert!((y[i] - sum / count as f32).abs() < 1e-5);
        }
    }

    #[test]
    fn avg_gradient(g in geometry(), seed: u64, include_pad: bool) {
        let x = uniform(seed, g.planes() * g.h * g.w);
        let w = uniform(seed ^ 1, avg_forward(g, include_pad, &x).len());
        let mut dx = vec![f32::NAN; x.len()];
        avg_pool_backward(g, include_pad, &w, &mut dx);
        assert_gradient(&x, &dx, 0.5, 1e-4, |x| weighted(&avg_forward(g, include_pad, x), &w));
    }

    #[test]
    fn adaptive_gradient(planes in 1..4usize, input in [1..8usize, 1..8usize],
                         output in [1..6usize, 1..6usize], seed: u64) {
        let x = uniform(seed, planes * input[0] * input[1]);
        let w = uniform(seed ^ 1, planes * output[0] * output[1]);
        let forward = |x: &[f32]| {
            let mut y = vec![0.0; w.len()];
            adaptive_avg_pool(x, input, output, &mut y);
            y
        };
        let mut dx = vec![f32::NAN; x.len()];
        adaptive_avg_pool_backward(&w, input, output, &mut dx);
        assert_gradient(&x, &dx, 0.5, 1e-4, |x| weighted(&forward(x), &w));
    }

    #[test]
    fn global_is_adaptive_to_one(planes in 1..6usize, h in 1..9usize, w in 1..9usize, seed: u64) {
        let x = uniform(seed, planes * h * w);
        let (mut y, mut adaptive) = (vec![0.0; planes], vec![0.0; planes]);
        global_avg_pool(&x, h * w, &mut y);
        adaptive_avg_pool(&x, [h, w], [1, 1], &mut adaptive);
        assert_close(&y, &adaptive, 1e-6, "forward");
        let (mut dx, mut adaptive) = (x.clone(), x.clone());
        global_avg_pool_backward(&y, h * w, &mut dx);
        adaptive_avg_pool_backward(&y, [h, w], [1, 1], &mut adaptive);
        prop_assert_eq!(dx, adaptive);
    }
}

#[test]
fn output_size_in_ceil_mode() {
    let g = |w, k, s, p| PoolGeometry {
        n: 1,
        c: 1,
        h: w,
        w,
        kernel: [k; 2],
        stride: [s; 2],
        pad: [p; 4],
        ceil_mode: true,
    };
    assert_eq!(g(5, 2, 2, 0).output_size(), [3, 3]);
    assert_eq!(g(6, 3, 2, 1).output_size(), [4, 4]);
    // The third window would start at 6 - 1, in the trailing padding.
    assert_eq!(g(5, 2, 3, 1).output_size(), [2, 2]);
}

#[test]
fn large_windows_recompute_the_maximum() {
    let g = PoolGeometry {
        n: 1,
        c: 2,
        h: 20,
        w: 20,
        kernel: [20, 20],
        stride: [1, 1],
        pad: [0; 4],
        ceil_mode: false,
    };
    assert!(!has_compact_argmax(g));
    let x = distinct(1, 800);
    let mut dx = vec![0.0; 800];
    max_pool_backward_from_input(g, &x, &[1.0, 2.0], &mut dx);
    for (plane, expected) in [1.0, 2.0].into_iter().enumerate() {
        let (x, dx) = (&x[plane * 400..][..400], &dx[plane * 400..][..400]);
        let best = (0..400).max_by(|&a, &b| x[a].total_cmp(&x[b])).unwrap();
        assert_eq!(dx[best], expected);
        assert_eq!(dx.iter().sum::<f32>(), expected);
    }
}

#[test]
fn agrees_with_pytorch() {
    let geometry = |case: &Value| PoolGeometry {
        n: size(case, "n"),
        c: size(case, "c"),
        h: size(case, "h"),
        w: size(case, "w"),
        kernel: sizes(case, "kernel"),
        stride: sizes(case, "stride"),
        pad: sizes(case, "pad"),
        ceil_mode: case["ceil_mode"].as_bool().unwrap(),
    };
    for case in golden("pool") {
        let name = format!("{} {}", case["op"], case["name"]);
        let (x, dy) = (floats(&case, "x"), floats(&case, "dy"));
        let out: [usize; 2] = sizes(&case, "out");
        let mut dx = vec![0.0; x.len()];
        let y = match case["op"].as_str().unwrap() {
            "max" => {
                let g = geometry(&case);
                assert_eq!(g.output_size(), out, "{name}");
                let (y, argmax) = max_forward(g, &x);
                max_pool_backward(g, &argmax, &dy, &mut dx);
                y
            }
            "avg" => {
                let g = geometry(&case);
                assert_eq!(g.output_size(), out, "{name}");
                let include_pad = case["count_include_pad"].as_bool().unwrap();
                avg_pool_backward(g, include_pad, &dy, &mut dx);
                avg_forward(g, include_pad, &x)
            }
            _ => {
                let input = [size(&case, "h"), size(&case, "w")];
                let mut y = vec![0.0; dy.len()];
                adaptive_avg_pool(&x, input, out, &mut y);
                adaptive_avg_pool_backward(&dy, input, out, &mut dx);
                y
            }
        };
        assert_close(&y, &floats(&case, "y"), 1e-6, &name);
        assert_close(&dx, &floats(&case, "dx"), 1e-6, &name);
    }
}
