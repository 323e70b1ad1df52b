//! `lowrank.svd`: linear layers by truncated singular value decomposition.

use crate::LowRankError;
use crate::plan::{FineTune, Rules};
use crate::rank::Rank;
use crate::report::Report;
use cnn_core::compress::{Selection, read_config, write_config};
use cnn_core::{Compressor, Config, Graph, Result, Run};
use serde::{Deserialize, Serialize};

/// Replaces linear layers by two of a smaller rank, then fine-tunes.
///
/// SPEC eq. 3: with `W^T = U S V^T` of shape `[a, b]`, cut at the rank `r` that keeps a share of the energy
/// (the sum of the squared singular values), `y = x W^T + b ~ ((x U) S) V^T + b`, at `r (a + b)` instead of
/// `a b` weights and multiply-adds. That is the best approximation of this rank (Eckart & Young 1936). `fc1`
/// becomes `fc1.u` and `fc1.v`; a layer whose factors would not be smaller stays, and [`Svd::plan`] says so.
/// Denton et al. 2014 and Xue et al. 2013 compress networks this way.
///
/// The time grows with the cube of the smaller side: about 0.15 s for 500 x 800 and 15 s for
/// 2048 x 4096 on an x86-64 core.
///
/// ```
/// use cnn_core::testing::lenet5;
/// use cnn_lowrank::Svd;
/// let mut graph = lenet5(0)?;
/// let svd = Svd { rank: Some(50), ..Svd::default() };
/// let report = svd.factorize(&mut graph)?;
/// // 500 x 800 at rank 50; 10 x 500 has only rank 10, where two factors are larger than the layer
/// assert_eq!(report.layer("fc1").map(|l| l.weights), Some([400_000, 65_000]));
/// assert_eq!(report.replaced(), 1);
/// assert!(graph.find("fc1.u").is_ok() && graph.find("fc2").is_ok());
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Svd {
    /// Which layers; all linear ones by default.
    pub layers: Selection,
    /// Share of the squared singular values to keep, in `(0, 1]`; 0.9 by default. Not used when a rank is
    /// given.
    pub energy: f64,
    /// The same rank for all layers, at most the full one.
    pub rank: Option<usize>,
    /// The rank as a share of each layer's full rank, in `(0, 1]`.
    pub rank_ratio: Option<f64>,
    /// Passes of fine-tuning, 0 for none; what the run says by default.
    pub epochs: Option<usize>,
    /// Learning rate of fine-tuning; what the run says by default.
    #[serde(alias = "learning_rate")]
    pub rate: Option<f32>,
}

impl Default for Svd {
    fn default() -> Svd {
        Svd {
            layers: Selection::default(),
            energy: 0.9,
            rank: None,
            rank_ratio: None,
            epochs: None,
            rate: None,
        }
    }
}

impl Svd {
    /// The registered name.
    pub const NAME: &'static str = "lowrank.svd";

    /// Checks the settings.
    ///
    /// # Errors
    /// A [`LowRankError`] that names the key.
    pub fn check(&self) -> Result<(), LowRankError> {
        Rank::Energy(self.energy).check("energy")?;
        self.rank.map_or(Ok(()), |r| Rank::Fixed(r).check("rank"))?;
        self.rank_ratio.map_or(Ok(()), |r| Rank::Ratio(r).check("rank_ratio"))?;
        if self.rank.is_some() && self.rank_ratio.is_some() {
            return Err(LowRankError::Both { one: "rank", other: "rank_ratio" });
        }
        self.fine_tune().check()
    }

    /// What would be done to each linear layer, without doing it.
    ///
    /// # Errors
    /// Bad settings, no linear layer among the selected, a layer with constraints or with weights that are
    /// not finite.
    pub fn plan(&self, graph: &Graph) -> Result<Report> {
        self.check()?;
        self.rules().report(graph)
    }

    /// Replaces the layers without fine-tuning.
    ///
    /// # Errors
    /// As [`Svd::plan`]; the graph is then as before.
    pub fn factorize(&self, graph: &mut Graph) -> Result<Report> {
        self.check()?;
        self.rules().factorize(graph)
    }

    fn rules(&self) -> Rules<'_> {
        let rank = self.rank.map(Rank::Fixed).or(self.rank_ratio.map(Rank::Ratio));
        Rules { layers: &self.layers, linear: Some(rank.unwrap_or(Rank::Energy(self.energy))), conv: None }
    }

    fn fine_tune(&self) -> FineTune {
        FineTune { epochs: self.epochs, rate: self.rate }
    }
}

impl Compressor for Svd {
    fn name(&self) -> String {
        Svd::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        self.rules().apply(graph, run, self.fine_tune())
    }
}

pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
    let method: Svd = read_config(Svd::NAME, config)?;
    method.check()?;
    Ok(Box::new(method))
}
