//! How to train, as it is written in `[train]` and in a step's `finetune`.

use cnn_core::train::{EpochRule, Optimizer, Schedule, TrainSettings};
use cnn_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// An update rule by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam, with the decay in the gradient.
    Adam,
    /// Adam, with the decay on the weights.
    Adamw,
}

/// Settings of a training; what is not said comes from elsewhere: a step's from `[train]`, those of `[train]`
/// from [`TrainSettings::default`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// Passes over the training images.
    pub epochs: Option<usize>,
    /// Images in a step.
    pub batch: Option<usize>,
    /// Base learning rate. Where the rule changes and no rate is said: 0.01 for `sgd`, 0.001 for the others.
    pub learning_rate: Option<f32>,
    /// Update rule.
    pub optimizer: Option<Rule>,
    /// Momentum of `sgd`.
    pub momentum: Option<f32>,
    /// Nesterov's form of it.
    pub nesterov: Option<bool>,
    /// Weight decay.
    pub weight_decay: Option<f32>,
    /// `"constant"`, `"cosine"`, `{ step = { at = [..], factor = .. } }` or `{ warm_up = { epochs = .., then
    /// = .. } }`.
    pub schedule: Option<Schedule>,
    /// Largest joint L2 norm of the gradients.
    pub clip: Option<f32>,
    /// Seed of shuffling, augmentation and dropout.
    pub seed: Option<u64>,
    /// `"last_epoch"` or `"best_on_validation"`.
    pub epoch_rule: Option<EpochRule>,
}

impl TrainSection {
    /// These settings, and those of `other` where these say nothing.
    pub fn or(self, other: &TrainSection) -> TrainSection {
        TrainSection {
            epochs: self.epochs.or(other.epochs),
            batch: self.batch.or(other.batch),
            learning_rate: self.learning_rate.or(other.learning_rate),
            optimizer: self.optimizer.or(other.optimizer),
            momentum: self.momentum.or(other.momentum),
            nesterov: self.nesterov.or(other.nesterov),
            weight_decay: self.weight_decay.or(other.weight_decay),
            schedule: self.schedule.or_else(|| other.schedule.clone()),
            clip: self.clip.or(other.clip),
            seed: self.seed.or(other.seed),
            epoch_rule: self.epoch_rule.or(other.epoch_rule),
        }
    }

    /// The settings in force over a base, checked.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the setting.
    pub fn over(&self, base: &TrainSettings) -> Result<TrainSettings> {
        let settings = TrainSettings {
            epochs: self.epochs.unwrap_or(base.epochs),
            batch: self.batch.unwrap_or(base.batch),
            optimizer: self.rule(base.optimizer)?,
            schedule: self.schedule.clone().unwrap_or_else(|| base.schedule.clone()),
            clip: self.clip.or(base.clip),
            seed: self.seed.unwrap_or(base.seed),
            epoch_rule: self.epoch_rule.unwrap_or(base.epoch_rule),
        };
        settings.check()?;
        Ok(settings)
    }

    fn rule(&self, base: Optimizer) -> Result<Optimizer> {
        let base_rule = match base {
            Optimizer::Sgd { .. } => Rule::Sgd,
            Optimizer::Adam { decoupled: false, .. } => Rule::Adam,
            Optimizer::Adam { decoupled: true, .. } => Rule::Adamw,
        };
        let (Optimizer::Sgd { weight_decay: decay, .. } | Optimizer::Adam { weight_decay: decay, .. }) = base;
        let rule = self.optimizer.unwrap_or(base_rule);
        let mut optimizer = match (rule, rule == base_rule) {
            (_, true) => base,
            (Rule::Sgd, _) => Optimizer::sgd(0.01, decay),
            (Rule::Adamw, _) => Optimizer::adamw(0.001, decay),
            (Rule::Adam, _) => match Optimizer::adamw(0.001, decay) {
                Optimizer::Adam { rate, beta1, beta2, epsilon, weight_decay, .. } => {
                    Optimizer::Adam { rate, beta1, beta2, epsilon, weight_decay, decoupled: false }
                }
                sgd => sgd,
            },
        };
        match &mut optimizer {
            Optimizer::Sgd { rate, momentum, nesterov, weight_decay } => {
                *rate = self.learning_rate.unwrap_or(*rate);
                *momentum = self.momentum.unwrap_or(*momentum);
                *nesterov = self.nesterov.unwrap_or(*nesterov);
                *weight_decay = self.weight_decay.unwrap_or(*weight_decay);
            }
            Optimizer::Adam { rate, weight_decay, .. } => {
                if self.momentum.is_some() || self.nesterov.is_some() {
                    let which = if self.momentum.is_some() { "momentum" } else { "nesterov" };
                    return Err(Error::invalid(which, "it belongs to the optimizer sgd"));
                }
                *rate = self.learning_rate.unwrap_or(*rate);
                *weight_decay = self.weight_decay.unwrap_or(*weight_decay);
            }
        }
        Ok(optimizer)
    }

    /// The settings with one key alone, to find out which one is wrong.
    pub(super) fn only(&self, key: &str) -> TrainSection {
        let whole = serde_json::to_value(self).unwrap_or_default();
        let mut alone = serde_json::Map::new();
        alone.insert(key.to_string(), whole[key].clone());
        // momentum is wrong only together with its optimizer
        if matches!(key, "momentum" | "nesterov") {
            alone.insert("optimizer".to_string(), whole["optimizer"].clone());
        }
        serde_json::from_value(alone.into()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_wins_and_the_rest_is_the_base() {
        let base = TrainSettings::default();
        assert_eq!(TrainSection::default().over(&base).unwrap(), base);
        let section =
            TrainSection { epochs: Some(3), learning_rate: Some(0.5), clip: Some(1.0), ..Default::default() };
        let settings = section.over(&base).unwrap();
        assert_eq!((settings.epochs, settings.batch, settings.clip), (3, base.batch, Some(1.0)));
        assert_eq!(settings.optimizer, Optimizer::sgd(0.5, 5e-4));
        let both = TrainSection { epochs: Some(9), ..Default::default() }.or(&section);
        assert_eq!((both.epochs, both.learning_rate), (Some(9), Some(0.5)));
    }

    #[test]
    fn another_rule_brings_its_own_rate() {
        let section = TrainSection { optimizer: Some(Rule::Adam), ..Default::default() };
        let settings = section.over(&TrainSettings::default()).unwrap();
        assert!(matches!(settings.optimizer, Optimizer::Adam { rate: 0.001, decoupled: false, .. }));
        // and the other way round, over what was set
        let back = TrainSection { optimizer: Some(Rule::Sgd), ..Default::default() }.over(&settings).unwrap();
        assert_eq!(back.optimizer, Optimizer::sgd(0.01, 5e-4));
    }

    #[test]
    fn momentum_belongs_to_sgd() {
        let section =
            TrainSection { optimizer: Some(Rule::Adamw), momentum: Some(0.9), ..Default::default() };
        let error = section.over(&TrainSettings::default()).unwrap_err().to_string();
        assert_eq!(error, "invalid momentum: it belongs to the optimizer sgd");
    }
}
