//! `lowrank.tucker2`: convolutions by Tucker-2 decomposition.

use crate::LowRankError;
use crate::plan::{ConvRule, FineTune, Rules};
use crate::rank::Rank;
use crate::report::Report;
use cnn_core::compress::{Selection, read_config, write_config};
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::{Compressor, Config, Graph, Result, Run};
use serde::{Deserialize, Serialize};

/// Sweeps of orthogonal iteration unless the configuration says otherwise.
pub(crate) const SWEEPS: usize = 3;

/// More sweeps than this gain nothing.
pub(crate) const MAX_SWEEPS: usize = 100;

/// Replaces convolutions by up to three of smaller rank, then fine-tunes.
///
/// The kernel `[m, c, kh, kw]` is decomposed in its two channel modes (Kim et al. 2016, "Compression of deep
/// convolutional neural networks for fast and low power mobile applications", section 3.1). `conv1` becomes
/// `conv1.in` (1 x 1, `c -> R3`), `conv1.core` (`kh x kw`, `R3 -> R4`, with stride, padding and dilation) and
/// `conv1.out` (1 x 1, `R4 -> m`, with the bias), at the cost of SPEC eq. 5 ([`tucker2_macs`]). A mode that
/// stays at its full rank needs no convolution of its own (Kim's Tucker-1 for the first layer). A layer is
/// replaced only where weights and multiply-adds both fall; grouped and 1 x 1 convolutions stay.
/// [`Tucker2::plan`] says what happens to each.
///
/// ```
/// use cnn_core::testing::lenet5;
/// use cnn_lowrank::Tucker2;
/// let mut graph = lenet5(0)?;
/// let tucker = Tucker2 { rank_ratios: Some([0.5, 0.4]), ..Tucker2::default() };
/// let report = tucker.factorize(&mut graph)?;
/// println!("{report}");
/// assert_eq!(report.layer("conv2").map(|l| l.ranks.clone()), Some(vec![10, 20]));
/// // conv1 reads one channel: there is no `conv1.in`
/// assert!(graph.find("conv1.in").is_err() && graph.find("conv1.core").is_ok());
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tucker2 {
    /// Which layers; all convolutions by default.
    pub layers: Selection,
    /// Share of the squared singular values to keep in each mode, in `(0, 1]`; 0.9 by default. Not used when
    /// ranks are given.
    pub energy: f64,
    /// The same ranks `[R3, R4]` (input, output) for all layers, at most the full ones.
    pub ranks: Option<[usize; 2]>,
    /// The ranks `[R3, R4]` as shares of each layer's input and output channels, in `(0, 1]`.
    pub rank_ratios: Option<[f64; 2]>,
    /// Sweeps of higher-order orthogonal iteration after the HOSVD; 3 by default, at most 100.
    pub sweeps: usize,
    /// Passes of fine-tuning, 0 for none; what the run says by default.
    pub epochs: Option<usize>,
    /// Learning rate of fine-tuning; what the run says by default.
    #[serde(alias = "learning_rate")]
    pub rate: Option<f32>,
}

impl Default for Tucker2 {
    fn default() -> Tucker2 {
        Tucker2 {
            layers: Selection::default(),
            energy: 0.9,
            ranks: None,
            rank_ratios: None,
            sweeps: SWEEPS,
            epochs: None,
            rate: None,
        }
    }
}

impl Tucker2 {
    /// The registered name.
    pub const NAME: &'static str = "lowrank.tucker2";

    /// Checks the settings.
    ///
    /// # Errors
    /// A [`LowRankError`] that names the key.
    pub fn check(&self) -> Result<(), LowRankError> {
        Rank::Energy(self.energy).check("energy")?;
        self.ranks.into_iter().flatten().try_for_each(|r| Rank::Fixed(r).check("ranks"))?;
        self.rank_ratios.into_iter().flatten().try_for_each(|r| Rank::Ratio(r).check("rank_ratios"))?;
        if self.ranks.is_some() && self.rank_ratios.is_some() {
            return Err(LowRankError::Both { one: "ranks", other: "rank_ratios" });
        }
        check_sweeps(self.sweeps)?;
        self.fine_tune().check()
    }

    /// What would be done to each convolution, without doing it.
    ///
    /// # Errors
    /// Bad settings, no convolution among the selected layers, a layer with constraints or with weights that
    /// are not finite.
    pub fn plan(&self, graph: &Graph) -> Result<Report> {
        self.check()?;
        self.rules().report(graph)
    }

    /// Replaces the layers without fine-tuning.
    ///
    /// # Errors
    /// As [`Tucker2::plan`]; the graph is then as before.
    pub fn factorize(&self, graph: &mut Graph) -> Result<Report> {
        self.check()?;
        self.rules().factorize(graph)
    }

    fn rules(&self) -> Rules<'_> {
        let fixed = self.ranks.map(|r| r.map(Rank::Fixed)).or(self.rank_ratios.map(|r| r.map(Rank::Ratio)));
        let rule = ConvRule { ranks: fixed.unwrap_or([Rank::Energy(self.energy); 2]), sweeps: self.sweeps };
        Rules { layers: &self.layers, linear: None, conv: Some(rule) }
    }

    fn fine_tune(&self) -> FineTune {
        FineTune { epochs: self.epochs, rate: self.rate }
    }
}

impl Compressor for Tucker2 {
    fn name(&self) -> String {
        Tucker2::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        self.rules().apply(graph, run, self.fine_tune())
    }
}

pub(crate) fn check_sweeps(sweeps: usize) -> Result<(), LowRankError> {
    if sweeps <= MAX_SWEEPS { Ok(()) } else { Err(LowRankError::Sweeps { sweeps, most: MAX_SWEEPS }) }
}

pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
    let method: Tucker2 = read_config(Tucker2::NAME, config)?;
    method.check()?;
    Ok(Box::new(method))
}

/// Multiply-adds of a convolution decomposed at the ranks `[R3, R4]` (input, output), for the batch of `g`.
/// SPEC eq. 5:
///
/// ```text
/// N_Tucker = H_in W_in C_in R3 + H_out W_out (R3 R4 K_H K_W + R4 C_out)
/// ```
///
/// The first term is missing when `R3 = C_in`, the last when `R4 = C_out`: a mode at full rank needs no
/// convolution.
///
/// ```
/// use cnn_core::layers::{Conv2d, ConvOptions};
/// use cnn_core::tensor::zeros;
/// use cnn_core::Graph;
/// use cnn_lowrank::{Tucker2, tucker2_macs};
/// let conv = Conv2d::new(zeros(&[64, 32, 3, 3]), None, ConvOptions::default().stride(2).pad(1))?;
/// let formula = tucker2_macs(&conv.geometry(&[1, 32, 28, 28])?, [12, 20]);
/// assert_eq!(formula, 28 * 28 * 32 * 12 + 14 * 14 * (12 * 20 * 3 * 3 + 20 * 64));
///
/// let mut graph = Graph::new(&[32, 28, 28]);
/// graph.push("conv", conv)?;
/// Tucker2 { ranks: Some([12, 20]), ..Tucker2::default() }.factorize(&mut graph)?;
/// assert_eq!(graph.cost()?.macs.total(), formula);
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn tucker2_macs(g: &ConvGeometry, [r3, r4]: [usize; 2]) -> u64 {
    let product = |factors: &[usize]| factors.iter().fold(1u64, |p, &f| p.saturating_mul(f as u64));
    let first = if r3 == g.c { 0 } else { product(&[g.n, g.h, g.w, g.c, r3]) };
    let positions = [g.n, g.out_h(), g.out_w()];
    let core = product(&positions).saturating_mul(product(&[r3, r4, g.kernel[0], g.kernel[1]]));
    let last = if r4 == g.m { 0 } else { product(&positions).saturating_mul(product(&[r4, g.m])) };
    first.saturating_add(core).saturating_add(last)
}
