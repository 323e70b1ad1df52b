//! Sums in a fixed order, with several accumulators so that they vectorize and stay accurate.

const LANES: usize = 32;

/// Elements summed in f32 before going to f64: 128 additions per lane.
const BLOCK: usize = 4096;

/// `Σ f(a_i, b_i)`.
#[inline(always)]
pub(crate) fn sum_zip(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    let mut total = 0.0;
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let mut lanes = [0.0f32; LANES];
        let (a_full, a_rest) = a.as_chunks::<LANES>();
        let (b_full, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a_full.iter().zip(b_full) {
            for i in 0..LANES {
                lanes[i] += f(a[i], b[i]);
            }
        }
        for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
            *lane += f(a, b);
        }
        total += sum_lanes(lanes);
    }
    total
}

/// `(Σ p_i, Σ q_i)` with `(p_i, q_i) = f(a_i, b_i)`, reading the inputs once.
#[inline(always)]
pub(crate) fn sum_zip2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> (f32, f32)) -> (f64, f64) {
    let (mut p_total, mut q_total) = (0.0, 0.0);
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let mut p_lanes = [0.0f32; LANES];
        let mut q_lanes = [0.0f32; LANES];
        let (a_full, a_rest) = a.as_chunks::<LANES>();
        let (b_full, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a_full.iter().zip(b_full) {
            for i in 0..LANES {
                let (p, q) = f(a[i], b[i]);
                p_lanes[i] += p;
                q_lanes[i] += q;
            }
        }
        for (i, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
            let (p, q) = f(a, b);
            p_lanes[i] += p;
            q_lanes[i] += q;
        }
        p_total += sum_lanes(p_lanes);
        q_total += sum_lanes(q_lanes);
    }
    (p_total, q_total)
}

#[inline(always)]
fn sum_lanes(mut lanes: [f32; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    f64::from(lanes[0])
}
