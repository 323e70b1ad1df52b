//! What [`Simd`] promises, of every instruction set of this machine.

use super::{Isa, Simd, SimdOp};

/// No two alike, exact in sums and products of a few.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7 + 3) % 61) as f32 / 4.0 - 7.0).collect()
}

fn vector<S: Simd>(s: S, from: &[f32]) -> S::V {
    let from = &from[..S::LANES];
    // SAFETY: LANES floats are there.
    unsafe { s.load(from.as_ptr()) }
}

fn lanes<S: Simd>(s: S, v: S::V) -> Vec<f32> {
    let mut out = vec![f32::NAN; S::LANES];
    // SAFETY: LANES floats are there.
    unsafe { s.store(out.as_mut_ptr(), v) };
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Runs a check, given as a function over [`Simd`], on all instruction sets.
macro_rules! on_all {
    ($name:ident, $s:ident: $S:ident, $body:block) => {
        #[test]
        fn $name() {
            struct Check;
            impl SimdOp for Check {
                type Output = ();
                fn run<$S: Simd>(self, $s: $S) $body
            }
            for isa in Isa::available() {
                isa.run(Check);
            }
        }
    };
}

on_all!(arithmetic_is_lane_by_lane, s: S, {
    let (x, y, z) = (numbers(S::LANES), numbers(2 * S::LANES)[S::LANES..].to_vec(), vec![0.25; S::LANES]);
    let (a, b, c) = (vector(s, &x), vector(s, &y), vector(s, &z));
    let expect = |f: &dyn Fn(usize) -> f32| (0..S::LANES).map(f).collect::<Vec<f32>>();
    assert_eq!(lanes(s, s.splat(1.5)), expect(&|_| 1.5));
    assert_eq!(lanes(s, s.add(a, b)), expect(&|i| x[i] + y[i]));
    assert_eq!(lanes(s, s.sub(a, b)), expect(&|i| x[i] - y[i]));
    assert_eq!(lanes(s, s.mul(a, b)), expect(&|i| x[i] * y[i]));
    assert_eq!(lanes(s, s.fma(a, b, c)), expect(&|i| x[i] * y[i] + z[i]));
    assert_eq!(s.sum(a), x.iter().sum::<f32>());
});

on_all!(max_and_min_take_the_second_of_a_nan_and_of_equals, s: S, {
    let cases = [
        (1.0, 2.0),
        (2.0, 1.0),
        (f32::NAN, 1.0),
        (1.0, f32::NAN),
        (0.0, -0.0),
        (-0.0, 0.0),
        (f32::NEG_INFINITY, f32::MAX),
        (f32::INFINITY, f32::MIN),
    ];
    for (x, y) in cases {
        let (a, b) = (s.splat(x), s.splat(y));
        let (max, min) = (if x > y { x } else { y }, if x < y { x } else { y });
        assert_eq!(bits(&lanes(s, s.max(a, b))), bits(&vec![max; S::LANES]), "max({x}, {y})");
        assert_eq!(bits(&lanes(s, s.min(a, b))), bits(&vec![min; S::LANES]), "min({x}, {y})");
    }
});

on_all!(maximum_is_nan_where_either_is, s: S, {
    let special = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1.0, 0.0, -0.0, -2.0];
    for x in special {
        for y in special {
            let found = lanes(s, s.maximum(s.splat(x), s.splat(y)));
            match x.is_nan() || y.is_nan() {
                true => assert!(found.iter().all(|v| v.is_nan()), "maximum({x}, {y}) is {found:?}"),
                false => assert_eq!(found, vec![x.max(y); S::LANES], "maximum({x}, {y})"),
            }
        }
    }
    // one NaN leaves the other lanes alone
    let (mut x, y) = (numbers(S::LANES), vec![1.0; S::LANES]);
    x[S::LANES - 1] = f32::NAN;
    let found = lanes(s, s.maximum(vector(s, &x), vector(s, &y)));
    assert!(found[S::LANES - 1].is_nan());
    let (head, expected) = (&found[..S::LANES - 1], x[..S::LANES - 1].iter().map(|v| v.max(1.0)));
    assert!(head.iter().copied().eq(expected), "{found:?}");
});

on_all!(bytes_are_read_as_floats, s: S, {
    let bytes: Vec<u8> = (0..S::LANES).map(|i| (255 - 13 * i) as u8).collect();
    // SAFETY: LANES bytes are there.
    let v = unsafe { s.load_bytes(bytes.as_ptr()) };
    assert_eq!(lanes(s, v), bytes.iter().map(|&b| f32::from(b)).collect::<Vec<f32>>());
});

on_all!(the_order_of_a_sum_is_fixed, s: S, {
    let x: Vec<f32> = (0..S::LANES).map(|i| 1.0 / (3 * i + 1) as f32).collect();
    let first = s.sum(vector(s, &x));
    let close = x.iter().map(|&v| f64::from(v)).sum::<f64>();
    assert!((f64::from(first) - close).abs() < 1e-6);
    assert_eq!(first.to_bits(), s.sum(vector(s, &x)).to_bits());
});

on_all!(partial_reads_and_writes_touch_the_first_lanes_only, s: S, {
    let x = numbers(S::LANES);
    for n in 0..=S::LANES {
        // Exactly `n` floats, so that a checker of memory sees a read too far.
        let short: Box<[f32]> = x[..n].into();
        // SAFETY: n floats are there.
        let v = unsafe { s.load_partial(short.as_ptr(), n) };
        let mut expected = short.to_vec();
        expected.resize(S::LANES, 0.0);
        assert_eq!(lanes(s, v), expected, "load_partial of {n}");

        let mut out = vec![9.5f32; S::LANES];
        // SAFETY: LANES floats are there, n are written.
        unsafe { s.store_partial(out.as_mut_ptr(), n, vector(s, &x)) };
        let mut expected = short.to_vec();
        expected.resize(S::LANES, 9.5);
        assert_eq!(out, expected, "store_partial of {n}");

        let mut out = vec![9.5f32; S::LANES];
        // SAFETY: LANES floats are there.
        unsafe { s.store_at_least(out.as_mut_ptr(), n, vector(s, &x)) };
        assert_eq!(out[..n], x[..n], "store_at_least of {n}");
    }
});

on_all!(short_copies_touch_nothing_else, s: S, {
    let x = numbers(S::LANES);
    for n in 0..S::LANES {
        let mut out = vec![9.5f32; S::LANES];
        // SAFETY: n floats are there on both sides.
        unsafe { s.copy_short(x.as_ptr(), out.as_mut_ptr(), n) };
        let mut expected = x[..n].to_vec();
        expected.resize(S::LANES, 9.5);
        assert_eq!(out, expected, "copy_short of {n}");
    }
});

on_all!(pairs_are_split_and_joined, s: S, {
    let x = numbers(2 * S::LANES);
    let (lo, hi) = x.split_at(S::LANES);
    let (even, odd) = s.split_pairs(vector(s, lo), vector(s, hi));
    assert_eq!(lanes(s, even), x.iter().step_by(2).copied().collect::<Vec<f32>>());
    assert_eq!(lanes(s, odd), x.iter().skip(1).step_by(2).copied().collect::<Vec<f32>>());
    let (first, second) = s.join_pairs(even, odd);
    assert_eq!([lanes(s, first), lanes(s, second)].concat(), x);
});

on_all!(blocks_are_transposed_and_nothing_else_is_written, s: S, {
    let l = S::LANES;
    let (src_ld, dst_ld) = (l + 3, l + 5);
    let src: Vec<f32> = (0..l * src_ld).map(|i| i as f32).collect();
    for rows in 0..=l {
        for cols in 0..=l {
            let mut expected = vec![-1.0; l * dst_ld];
            for i in 0..rows {
                for j in 0..cols {
                    expected[j * dst_ld + i] = src[i * src_ld + j];
                }
            }
            let mut dst = vec![-1.0; l * dst_ld];
            // SAFETY: `l` rows of both leading dimensions are there.
            unsafe { s.transpose_partial(src.as_ptr(), src_ld, rows, cols, dst.as_mut_ptr(), dst_ld) };
            assert_eq!(dst, expected, "{rows} x {cols}");
            if rows == l && cols == l {
                let mut dst = vec![-1.0; l * dst_ld];
                // SAFETY: as above.
                unsafe { s.transpose_block(src.as_ptr(), src_ld, dst.as_mut_ptr(), dst_ld) };
                assert_eq!(dst, expected, "whole");
            }
        }
    }
});

on_all!(a_prefetch_of_any_address_is_harmless, s: S, {
    s.prefetch(std::ptr::null());
    s.prefetch(std::ptr::dangling());
});
