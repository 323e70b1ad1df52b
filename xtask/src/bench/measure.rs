//! One row: run a method on a copy of the baseline, write the file, read it back, and measure that.

use super::latency::{compare, profile};
use super::plan::Entry;
use super::report::{Measured, Outcome, Row};
use super::statistics::paired;
use anyhow::{Context, Result};
use cnn_cli::recipe::Recipe;
use cnn_core::train::{Progress, TrainSettings, evaluate};
use cnn_core::{Augment, Compressor, Dataset, Graph, Registry, Run, Tensor, model_file};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

/// What all rows of a seed are measured with.
#[derive(Debug)]
pub struct Bench<'a> {
    /// Everything by name.
    pub registry: &'a Registry,
    /// Images to learn from.
    pub train: &'a dyn Dataset,
    /// How they are changed at random.
    pub augment: &'a dyn Augment,
    /// Images for decisions.
    pub validation: &'a dyn Dataset,
    /// Images that figures are measured on.
    pub test: &'a dyn Dataset,
    /// The first test images, one at a time, for latency.
    pub images: Vec<Tensor>,
    /// Rounds of latency.
    pub rounds: usize,
    /// Profile each deployed network too.
    pub profile: bool,
    /// What methods fine-tune with.
    pub fine_tune: TrainSettings,
    /// Bytes that ratios are taken of.
    pub original_bytes: u64,
    /// Where files go.
    pub out: &'a Path,
    /// Appended to file names, so that seeds do not overwrite each other.
    pub suffix: String,
}

/// The network that everything is compared with, and which test images it gets right.
#[derive(Debug, Clone)]
pub struct Baseline {
    /// As trained.
    pub trained: Graph,
    /// As read back from its file.
    pub deployed: Graph,
    /// For each test image.
    pub correct: Vec<bool>,
}

impl Bench<'_> {
    /// Writes the trained network as the baseline and measures it, against itself.
    ///
    /// # Errors
    /// If the file cannot be written or read.
    pub fn baseline(&self, trained: Graph) -> Result<(Baseline, Measured)> {
        let (file, bytes, deployed) = self.deploy(super::plan::BASELINE, &trained)?;
        let correct = evaluate(&deployed, self.test)?.correct;
        let baseline = Baseline { trained, deployed: deployed.clone(), correct };
        let measured = self.figures(&baseline, &deployed, file, bytes)?;
        Ok((baseline, measured))
    }

    /// Runs a row of the plan. A method that fails or panics gives a row that says why.
    pub fn row(&self, entry: &Entry, baseline: &Baseline) -> Row {
        let config = entry.steps.iter().map(|s| s.1.clone()).collect();
        let row = Row {
            name: entry.name.to_string(),
            family: entry.family,
            method: entry.methods(),
            config,
            seed: self.fine_tune.seed,
            seconds: 0.0,
            outcome: Outcome::Failed(String::new()),
        };
        self.run(row, self.fine_tune.clone(), baseline, || Ok(entry.build(self.registry)?))
    }

    /// Runs a recipe as a row under a name. Its section `[data]` has no say here: the images are the benchmark's.
    pub fn recipe(&self, name: &str, recipe: &Recipe, baseline: &Baseline) -> Row {
        let methods: Vec<&str> = recipe.steps.iter().map(|s| s.method.as_str()).collect();
        let row = Row {
            name: name.to_string(),
            family: "recipe",
            method: methods.join(" -> "),
            config: recipe.steps.iter().map(|s| s.config.clone()).collect(),
            seed: self.fine_tune.seed,
            seconds: 0.0,
            outcome: Outcome::Failed(String::new()),
        };
        match recipe.train.over(&self.fine_tune) {
            Err(e) => Row { outcome: Outcome::Failed(e.to_string()), ..row },
            Ok(settings) => {
                self.run(row, settings, baseline, || Ok(Box::new(recipe.chain(name, self.registry)?)))
            }
        }
    }

    /// Applies a method to a copy of the baseline, and fills in the row.
    fn run(
        &self,
        mut row: Row,
        settings: TrainSettings,
        baseline: &Baseline,
        build: impl FnOnce() -> Result<Box<dyn Compressor>>,
    ) -> Row {
        let start = Instant::now();
        let mut seconds = None;
        row.outcome = guarded(|| {
            let method = build()?;
            row.config = method.config();
            let mut graph = baseline.trained.clone();
            let mut run = Run::new(self.train, self.validation, settings, self.registry);
            run.augment = Some(self.augment);
            run.progress = Progress::terminal();
            method.apply(&mut graph, &mut run).context("apply")?;
            method.pack(&mut graph).context("pack")?;
            seconds = Some(start.elapsed().as_secs_f64());
            let (file, bytes, deployed) = self.deploy(&row.name, &graph)?;
            self.figures(baseline, &deployed, file, bytes)
        });
        row.seconds = seconds.unwrap_or_else(|| start.elapsed().as_secs_f64());
        row
    }

    /// Writes the deployable file and reads it back: name, length, network.
    fn deploy(&self, name: &str, graph: &Graph) -> Result<(String, u64, Graph)> {
        let file = format!("{name}{}.cnn", self.suffix);
        let path = self.out.join(&file);
        let bytes = model_file::save(graph, &path).context("writing the deployable file")?;
        let back = model_file::load(&path, self.registry).context("reading the deployable file back")?;
        Ok((file, bytes, back))
    }

    fn figures(&self, baseline: &Baseline, deployed: &Graph, file: String, bytes: u64) -> Result<Measured> {
        let evaluation = evaluate(deployed, self.test).context("testing")?;
        let cost = deployed.cost()?;
        Ok(Measured {
            top1: 100.0 * evaluation.accuracy(),
            difference: paired(&baseline.correct, &evaluation.correct),
            file,
            bytes,
            ratio: self.original_bytes as f64 / bytes as f64,
            params: cost.params,
            nonzeros: cost.nonzeros,
            macs: cost.into(),
            latency: compare(&baseline.deployed, deployed, &self.images, self.rounds).context("latency")?,
            profile: self.profile.then(|| profile(deployed, &self.images)).transpose().context("profile")?,
        })
    }
}

/// Runs something that may fail or panic.
fn guarded(work: impl FnOnce() -> Result<Measured>) -> Outcome {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(measured)) => Outcome::Measured(Box::new(measured)),
        Ok(Err(error)) => Outcome::Failed(format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Outcome::Failed(format!("panicked: {}", text.unwrap_or_else(|| "without a message".into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::Config;
    use cnn_core::data::batch;
    use cnn_core::testing::{lenet5, stripes};
    use cnn_data::Shift;
    use serde_json::json;

    /// Does nothing, fails, or panics.
    #[derive(Debug)]
    struct Odd(Config);

    impl Compressor for Odd {
        fn name(&self) -> String {
            "odd".into()
        }
        fn config(&self) -> Config {
            self.0.clone()
        }
        fn apply(&self, _graph: &mut Graph, _run: &mut Run<'_>) -> cnn_core::Result<()> {
            match self.0.as_str() {
                Some("fail") => Err(cnn_core::Error::invalid("ratio", "below 1")),
                Some("panic") => panic!("an index out of range"),
                _ => Ok(()),
            }
        }
    }

    fn rows(configs: &[&str]) -> Vec<Row> {
        let mut registry = Registry::core();
        registry.method("odd", |config| Ok(Box::new(Odd(config))));
        let data = stripes(12, [1, 28, 28], 10, 0).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let bench = Bench {
            registry: &registry,
            train: &data,
            augment: &Shift::new(1),
            validation: &data,
            test: &data,
            images: vec![batch(&data, &[0]).unwrap().0],
            rounds: 1,
            profile: true,
            fine_tune: TrainSettings::default(),
            original_bytes: 1_724_320,
            out: directory.path(),
            suffix: String::new(),
        };
        let (baseline, measured) = bench.baseline(lenet5(0).unwrap()).unwrap();
        assert_eq!(measured.params, 431_080);
        assert_eq!(measured.bytes, std::fs::metadata(directory.path().join("baseline.cnn")).unwrap().len());
        let row = |config: &&str| {
            let entry = Entry { name: "odd", family: "test", steps: vec![("odd", json!(config))] };
            bench.row(&entry, &baseline)
        };
        configs.iter().map(row).collect()
    }

    #[test]
    fn failures_and_panics_become_rows_and_the_others_go_on() {
        let rows = rows(&["fail", "panic", "nothing"]);
        let why = |row: &Row| match &row.outcome {
            Outcome::Failed(why) => why.clone(),
            Outcome::Measured(_) => String::new(),
        };
        assert!(why(&rows[0]).contains("invalid ratio: below 1"), "{:?}", rows[0]);
        assert!(why(&rows[1]).contains("panicked: an index out of range"), "{:?}", rows[1]);
        let Outcome::Measured(m) = &rows[2].outcome else { panic!("{:?}", rows[2]) };
        assert!(!m.profile.as_ref().unwrap().rows.is_empty());
        assert_eq!((m.difference.only_baseline, m.difference.only_method), (0, 0));
        assert!((m.ratio - 1_724_320.0 / m.bytes as f64).abs() < 1e-9);
        assert_eq!(rows[2].config, json!("nothing"));
    }
}
