//! `lowrank`: a whole network, linear layers by SVD and convolutions by Tucker-2, with one fine-tuning.

use crate::LowRankError;
use crate::plan::{ConvRule, FineTune, Rules};
use crate::rank::Rank;
use crate::report::Report;
use crate::tucker2::{SWEEPS, check_sweeps};
use cnn_core::compress::{Selection, read_config, write_config};
use cnn_core::{Compressor, Config, Graph, Result, Run};
use serde::{Deserialize, Serialize};

/// [`Svd`](crate::Svd) for linear layers and [`Tucker2`](crate::Tucker2) for convolutions, then one
/// fine-tuning.
///
/// ```
/// use cnn_core::testing::lenet5;
/// use cnn_lowrank::LowRank;
/// let mut graph = lenet5(0)?;
/// let method = LowRank { linear_energy: 0.4, conv_energy: 0.7, ..LowRank::default() };
/// let report = method.factorize(&mut graph)?;
/// assert_eq!(report.layers.len(), 4);
/// assert!(graph.cost()?.params < 431_080);
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LowRank {
    /// Which layers; all linear layers and convolutions by default.
    pub layers: Selection,
    /// Share of the squared singular values of a linear layer to keep, in `(0, 1]`; 0.9 by default.
    pub linear_energy: f64,
    /// Share of the squared singular values of each channel mode of a convolution to keep, in `(0, 1]`; 0.9
    /// by default.
    pub conv_energy: f64,
    /// Sweeps of higher-order orthogonal iteration; 3 by default, at most 100.
    pub sweeps: usize,
    /// Passes of fine-tuning, 0 for none; what the run says by default.
    pub epochs: Option<usize>,
    /// Learning rate of fine-tuning; what the run says by default.
    #[serde(alias = "learning_rate")]
    pub rate: Option<f32>,
}

impl Default for LowRank {
    fn default() -> LowRank {
        let layers = Selection::default();
        LowRank { layers, linear_energy: 0.9, conv_energy: 0.9, sweeps: SWEEPS, epochs: None, rate: None }
    }
}

impl LowRank {
    /// The registered name.
    pub const NAME: &'static str = "lowrank";

    /// Checks the settings.
    ///
    /// # Errors
    /// A [`LowRankError`] that names the key.
    pub fn check(&self) -> Result<(), LowRankError> {
        Rank::Energy(self.linear_energy).check("linear_energy")?;
        Rank::Energy(self.conv_energy).check("conv_energy")?;
        check_sweeps(self.sweeps)?;
        self.fine_tune().check()
    }

    /// What would be done to each layer, without doing it.
    ///
    /// # Errors
    /// Bad settings, no suitable layer among the selected, a layer with constraints or with weights that are
    /// not finite.
    pub fn plan(&self, graph: &Graph) -> Result<Report> {
        self.check()?;
        self.rules().report(graph)
    }

    /// Replaces the layers without fine-tuning.
    ///
    /// # Errors
    /// As [`LowRank::plan`]; the graph is then as before.
    pub fn factorize(&self, graph: &mut Graph) -> Result<Report> {
        self.check()?;
        self.rules().factorize(graph)
    }

    fn rules(&self) -> Rules<'_> {
        let conv = ConvRule { ranks: [Rank::Energy(self.conv_energy); 2], sweeps: self.sweeps };
        Rules { layers: &self.layers, linear: Some(Rank::Energy(self.linear_energy)), conv: Some(conv) }
    }

    fn fine_tune(&self) -> FineTune {
        FineTune { epochs: self.epochs, rate: self.rate }
    }
}

impl Compressor for LowRank {
    fn name(&self) -> String {
        LowRank::NAME.to_string()
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
    let method: LowRank = read_config(LowRank::NAME, config)?;
    method.check()?;
    Ok(Box::new(method))
}
