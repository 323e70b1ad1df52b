//! Tucker-2 decomposition of the kernel of a convolution.
//!
//! `K[m, c, i, j] ~ sum_{r4, r3} U4[m, r4] G[r4, r3, i, j] U3[c, r3]` (Kim et al. 2016, section 3.1, where
//! the input is mode 3 and the output mode 4). It starts from the truncated HOSVD (De Lathauwer, De Moor &
//! Vandewalle 2000a) and is improved by sweeps of higher-order orthogonal iteration (2000b), each of which
//! cannot raise the error.

use crate::rank::Rank;
use crate::spectrum::Spectrum;
use nalgebra::DMatrix;

/// A kernel `[m, c, kh, kw]` as its output unfolding: `m` rows, and columns `(c, kh, kw)` in this order.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub unfolded: DMatrix<f64>,
    /// `kh kw`.
    pub taps: usize,
}

/// The factors. A mode at full rank has none: its channels go through the core as they are.
#[derive(Debug)]
pub(crate) struct Tucker2 {
    /// `U3`, `[c, R3]`, with orthonormal columns.
    pub input: Option<DMatrix<f64>>,
    /// `G`, a kernel `[R4, R3, kh, kw]`.
    pub core: Kernel,
    /// `U4`, `[m, R4]`, with orthonormal columns.
    pub output: Option<DMatrix<f64>>,
    /// Share of the squared weights that is kept: the columns are orthonormal, so it is `|G|^2 / |K|^2`.
    pub energy: f64,
}

impl Kernel {
    /// Number of input channels.
    pub fn channels(&self) -> usize {
        self.unfolded.ncols() / self.taps
    }

    /// The same numbers with input and output exchanged: the input unfolding.
    fn exchanged(&self) -> Kernel {
        let (m, c, taps) = (self.unfolded.nrows(), self.channels(), self.taps);
        let at = |row: usize, column: usize| self.unfolded[(column / taps, row * taps + column % taps)];
        Kernel { unfolded: DMatrix::from_fn(c, m * taps, at), taps }
    }

    /// `K x_m U^T`: the outputs seen through the columns of `u`, `[m, r]`.
    fn project(&self, u: &DMatrix<f64>) -> Kernel {
        Kernel { unfolded: u.transpose() * &self.unfolded, taps: self.taps }
    }
}

/// Decomposes a kernel at ranks chosen by mode; `None` if a value is not finite.
pub(crate) fn decompose(kernel: &Kernel, [input, output]: [Rank; 2], sweeps: usize) -> Option<Tucker2> {
    let exchanged = kernel.exchanged();
    let (m, c, taps) = (kernel.unfolded.nrows(), kernel.channels(), kernel.taps);
    let by_input = Spectrum::of(&exchanged.unfolded)?;
    let by_output = Spectrum::of(&kernel.unfolded)?;
    // a mode cannot carry more than the other one and the window together
    let r3 = input.choose(&by_input.energies);
    let r4 = output.choose(&by_output.energies).min(r3.saturating_mul(taps));
    let r3 = r3.min(r4.saturating_mul(taps));

    let mut u3 = (r3 < c).then(|| by_input.leading(r3));
    let mut u4 = (r4 < m).then(|| by_output.leading(r4));
    if let (Some(u3), Some(u4)) = (&mut u3, &mut u4) {
        for _ in 0..sweeps {
            *u3 = Spectrum::of(&kernel.project(u4).exchanged().unfolded)?.leading(r3);
            *u4 = Spectrum::of(&exchanged.project(u3).exchanged().unfolded)?.leading(r4);
        }
    }

    let mut core = kernel.clone();
    if let Some(u4) = &u4 {
        core = core.project(u4);
    }
    if let Some(u3) = &u3 {
        core = core.exchanged().project(u3).exchanged();
    }
    let total = kernel.unfolded.norm_squared();
    let energy = if total > 0.0 { (core.unfolded.norm_squared() / total).min(1.0) } else { 1.0 };
    Some(Tucker2 { input: u3, core, output: u4, energy })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Tucker2 {
        fn rebuilt(&self) -> DMatrix<f64> {
            let mut kernel = self.core.clone();
            if let Some(u3) = &self.input {
                kernel = kernel.exchanged().project(&u3.transpose()).exchanged();
            }
            if let Some(u4) = &self.output {
                kernel = kernel.project(&u4.transpose());
            }
            kernel.unfolded
        }
    }

    fn kernel() -> impl Strategy<Value = Kernel> {
        (1usize..6, 1usize..6, 1usize..5).prop_flat_map(|(m, c, taps)| {
            proptest::collection::vec(-1.0f64..1.0, m * c * taps)
                .prop_map(move |v| Kernel { unfolded: DMatrix::from_row_slice(m, c * taps, &v), taps })
        })
    }

    fn fixed(r3: usize, r4: usize) -> [Rank; 2] {
        [Rank::Fixed(r3), Rank::Fixed(r4)]
    }

    proptest! {
        #[test]
        fn the_error_is_what_is_not_kept(
            kernel in kernel(), r3 in 1usize..6, r4 in 1usize..6, sweeps in 0usize..3,
        ) {
            let tucker = decompose(&kernel, fixed(r3, r4), sweeps).unwrap();
            let error = (tucker.rebuilt() - &kernel.unfolded).norm_squared();
            let total = kernel.unfolded.norm_squared();
            prop_assert!((error - (1.0 - tucker.energy) * total).abs() < 1e-9, "{} {}", error, tucker.energy);
        }

        /// The error of the truncated HOSVD is at most the sum of the tails of both modes (De Lathauwer et
        /// al. 2000a, property 10).
        #[test]
        fn the_error_is_bounded_by_the_tails(kernel in kernel(), r3 in 1usize..6, r4 in 1usize..6) {
            let energies = |k: &Kernel| Spectrum::of(&k.unfolded).unwrap().energies;
            let tail = |k: &Kernel, r: usize| energies(k).iter().skip(r).sum::<f64>();
            let tucker = decompose(&kernel, fixed(r3, r4), 0).unwrap();
            let [k4, k3] = [tucker.core.unfolded.nrows(), tucker.core.channels()];
            let bound = tail(&kernel, k4) + tail(&kernel.exchanged(), k3);
            prop_assert!((1.0 - tucker.energy) * kernel.unfolded.norm_squared() <= bound + 1e-9);
        }

        #[test]
        fn sweeps_never_lose(kernel in kernel(), r3 in 1usize..6, r4 in 1usize..6) {
            let energies: Vec<f64> =
                (0..4).map(|sweeps| decompose(&kernel, fixed(r3, r4), sweeps).unwrap().energy).collect();
            prop_assert!(energies.windows(2).all(|pair| pair[1] >= pair[0] - 1e-12), "{:?}", energies);
        }

        #[test]
        fn full_rank_is_the_kernel(kernel in kernel()) {
            let tucker = decompose(&kernel, fixed(99, 99), 1).unwrap();
            // a mode of more channels than the rest can carry is cut without loss
            prop_assert!((tucker.rebuilt() - &kernel.unfolded).norm() < 1e-10);
        }
    }

    #[test]
    fn a_kernel_of_low_rank_is_found_out() {
        // m 6, c 5, taps 4, ranks 2 (input) and 3 (output)
        let noise = |i: usize| ((i * 7919 + 13) % 97) as f64 / 97.0 - 0.5;
        let (u3, u4) = (
            DMatrix::from_fn(5, 2, |i, j| noise(3 * i + j)),
            DMatrix::from_fn(6, 3, |i, j| noise(5 * i + 7 * j + 1)),
        );
        let core = Kernel { unfolded: DMatrix::from_fn(3, 8, |i, j| noise(11 * i + 2 * j)), taps: 4 };
        let tucker = Tucker2 { input: Some(u3), core, output: Some(u4), energy: 1.0 };
        let kernel = Kernel { unfolded: tucker.rebuilt(), taps: 4 };
        let found = decompose(&kernel, [Rank::Energy(1.0); 2], 3).unwrap();
        assert_eq!((found.core.channels(), found.core.unfolded.nrows()), (2, 3));
        assert!((found.rebuilt() - kernel.unfolded).norm() < 1e-10);
    }
}
