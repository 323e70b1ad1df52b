//! What the benchmark runs: rows made of registered methods and their configurations.

use anyhow::{Result, bail};
use cnn_core::train::{EpochRule, Optimizer, Schedule, TrainSettings};
use cnn_core::{Chain, Compressor, Config, Registry};
use serde_json::json;

/// The network that is compressed.
pub const NETWORK: &str = "lenet5";

/// The name of the row that all others are compared with.
pub const BASELINE: &str = "baseline";

/// How much work a run may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Every family, in under a minute: fewer epochs and fewer images.
    pub smoke: bool,
    /// Seed of weights, shuffling and the methods' own choices.
    pub seed: u64,
}

impl Budget {
    /// The given number of epochs, or what a smoke run can afford.
    fn epochs(&self, full: usize) -> usize {
        if self.smoke { full.div_ceil(5) } else { full }
    }

    /// How the baseline is trained: SGD with momentum 0.9, cosine schedule, the network of the last epoch.
    pub fn baseline(&self) -> TrainSettings {
        TrainSettings {
            epochs: if self.smoke { 3 } else { 20 },
            batch: 64,
            optimizer: Optimizer::sgd(0.01, 5e-4),
            schedule: Schedule::Cosine,
            clip: None,
            seed: self.seed,
            epoch_rule: EpochRule::LastEpoch,
        }
    }

    /// What methods are lent to fine-tune with, unless their own configuration says otherwise.
    pub fn fine_tune(&self) -> TrainSettings {
        TrainSettings { epochs: self.epochs(5), optimizer: Optimizer::sgd(0.01, 5e-4), ..self.baseline() }
    }
}

/// One row: a method, or several in a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name of the row, for `--only`.
    pub name: &'static str,
    /// Family of methods it belongs to.
    pub family: &'static str,
    /// Names of registered methods with their configurations, in the order in which they are applied.
    pub steps: Vec<(&'static str, Config)>,
}

impl Entry {
    /// The method that this row runs.
    ///
    /// # Errors
    /// If a method is not registered or refuses its configuration.
    pub fn build(&self, registry: &Registry) -> cnn_core::Result<Box<dyn Compressor>> {
        let build = |(name, config): &(&str, Config)| registry.build_method(name, config.clone());
        let mut steps = self.steps.iter().map(build).collect::<cnn_core::Result<Vec<_>>>()?;
        match steps.len() {
            1 => Ok(steps.remove(0)),
            _ => Ok(Box::new(Chain::new(self.name, steps))),
        }
    }

    /// The methods in order, as `prune.weights -> quant.kmeans`.
    pub fn methods(&self) -> String {
        self.steps.iter().map(|s| s.0).collect::<Vec<_>>().join(" -> ")
    }
}

/// All rows but the baseline.
pub fn entries(budget: Budget) -> Vec<Entry> {
    let e = |full| budget.epochs(full);
    // the first layer has few weights, and accuracy hangs on them
    let prune = || {
        let ratios = json!({ "conv1": 0.35, "conv2": 0.88, "fc1": 0.94, "fc2": 0.8 });
        ("prune.weights", json!({ "ratios": ratios, "rounds": 5, "epochs": e(2), "final_epochs": e(8) }))
    };
    let channels = || {
        (
            "prune.channels",
            json!({ "budget": { "macs": 0.4 }, "rounds": 2, "epochs": e(2), "final_epochs": e(8) }),
        )
    };
    let kmeans = || ("quant.kmeans", json!({ "bits": 4, "epochs": e(3) }));
    // few weights are left, so that a bit more for each costs little
    let share = || ("quant.kmeans", json!({ "bits": 5, "per_layer": { "conv*": 6 }, "epochs": e(3) }));
    let int8 = || ("quant.int8", json!({ "calibration": 256 }));
    let low_rank = || ("lowrank", json!({ "linear_energy": 0.7, "conv_energy": 0.8, "epochs": e(8) }));
    let separable = || ("light.separable", json!({ "epochs": e(8) }));
    let student = |alpha: f64| {
        let config = json!({ "student": NETWORK, "width": 0.4, "epochs": e(20), "alpha": alpha });
        ("distill.soft_targets", config)
    };
    let teacher = || ("distill.teacher", json!({}));
    let entry = |name, family, steps| Entry { name, family, steps };
    vec![
        entry("prune", "prune", vec![prune()]),
        entry("channels", "prune", vec![channels()]),
        entry("kmeans", "quant", vec![kmeans()]),
        entry("int8", "quant", vec![int8()]),
        entry("low-rank", "lowrank", vec![low_rank()]),
        entry("student", "distill", vec![student(0.7)]),
        // the same student without a teacher: what distillation is worth
        entry("student-labels", "distill", vec![student(0.0)]),
        entry("separable", "light", vec![separable()]),
        // Han, Mao & Dally 2016: the Huffman code is in the file
        entry("deep-compression", "hybrid", vec![prune(), share()]),
        // the same, retrained with the baseline as teacher
        entry("taught-deep-compression", "hybrid", vec![teacher(), prune(), share()]),
        entry("student-deep-compression", "hybrid", vec![student(0.7), prune(), share()]),
        entry("low-rank-int8", "hybrid", vec![low_rank(), int8()]),
    ]
}

/// The rows that `--only` names, in the plan's order; all without it. The baseline is always run, and may be named.
///
/// # Errors
/// If a name is not that of a row; the message lists the names.
pub fn select(entries: Vec<Entry>, only: &[String]) -> Result<Vec<Entry>> {
    let known = |name: &str| name == BASELINE || entries.iter().any(|e| e.name == name);
    let unknown: Vec<&str> = only.iter().map(String::as_str).filter(|n| !known(n)).collect();
    if !unknown.is_empty() {
        let names: Vec<&str> = entries.iter().map(|e| e.name).collect();
        bail!("no row is named {}; the rows are: {BASELINE}, {}", unknown.join(", "), names.join(", "));
    }
    Ok(entries.into_iter().filter(|e| only.is_empty() || only.iter().any(|o| o == e.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Vec<Entry> {
        entries(Budget { smoke: false, seed: 0 })
    }

    #[test]
    fn every_row_can_be_built_in_both_budgets() {
        for smoke in [false, true] {
            for entry in entries(Budget { smoke, seed: 0 }) {
                entry.build(&cnn_cli::registry()).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
            }
        }
    }

    #[test]
    fn names_are_unique_and_both_budgets_have_the_same_rows() {
        let mut names: Vec<&str> = plan().iter().map(|e| e.name).collect();
        let smoke: Vec<&str> = entries(Budget { smoke: true, seed: 0 }).iter().map(|e| e.name).collect();
        assert_eq!(names, smoke);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), plan().len());
        assert!(!names.contains(&BASELINE));
    }

    #[test]
    fn all_families_are_there() {
        for family in ["prune", "quant", "lowrank", "distill", "light", "hybrid"] {
            assert!(plan().iter().any(|e| e.family == family), "{family}");
        }
    }

    #[test]
    fn unknown_names_are_errors_that_list_the_names() {
        let message = select(plan(), &["magnitud".into()]).unwrap_err().to_string();
        assert!(message.contains("magnitud") && message.contains(plan()[0].name), "{message}");
    }

    #[test]
    fn only_keeps_the_named_rows() {
        let (first, last) = (plan()[0].name, plan()[plan().len() - 1].name);
        let names: Vec<&str> =
            select(plan(), &[last.into(), first.into()]).unwrap().iter().map(|e| e.name).collect();
        assert_eq!(names, [first, last]);
        assert!(select(plan(), &[BASELINE.into()]).unwrap().is_empty());
        assert_eq!(select(plan(), &[]).unwrap(), plan());
    }
}
