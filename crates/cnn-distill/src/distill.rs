//! `distill.soft_targets`: a small network learns from the large one and takes its place.

use crate::DistillError;
use crate::anneal::Anneal;
use crate::soft_targets::Teaching;
use crate::teach::{check, suits};
use cnn_core::compress::{read_config, write_config};
use cnn_core::train::Optimizer;
use cnn_core::{Compressor, Config, Graph, NetworkOptions, Result, Run};
use serde::{Deserialize, Serialize};

/// Trains a student with the incoming network as its teacher, and puts it in the teacher's place.
///
/// SPEC 2.4, after Hinton, Vinyals & Dean 2015: the teacher's soft targets at a high temperature, the student
/// trained at the same temperature to reproduce them ([`SoftTargets`](crate::SoftTargets)), the temperature
/// lowered step by step to 1. The student is built by name from the run's registry, for the teacher's input
/// and classes, and must be smaller.
///
/// ```
/// use cnn_core::layers::{Flatten, Linear};
/// use cnn_core::testing::{lenet5, stripes};
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Graph, NetworkOptions, Registry, Run, init::Init, Result};
/// use cnn_distill::Distill;
/// fn one_layer(options: &NetworkOptions) -> Result<Graph> {
///     let shape = options.input.unwrap_or([1, 28, 28]);
///     let classes = options.classes.unwrap_or(10);
///     let mut graph = Graph::new(&shape);
///     graph.push("flatten", Flatten)?;
///     let weight = Init::new(options.seed).glorot(&[classes, shape.iter().product()])?;
///     graph.push("fc", Linear::new(weight, None)?)?;
///     Ok(graph)
/// }
/// let mut registry = Registry::core();
/// registry.network("one_layer", one_layer);
///
/// let (train, validation) = (stripes(40, [1, 28, 28], 10, 1)?, stripes(40, [1, 28, 28], 10, 2)?);
/// let mut run = Run::new(&train, &validation, TrainSettings::default(), &registry);
/// let mut graph = lenet5(0)?;
/// let student = "one_layer".to_string();
/// let method = Distill { student, epochs: Some(2), rate: Some(0.01), ..Distill::default() };
/// method.apply(&mut graph, &mut run)?;
/// assert_eq!(graph.cost()?.params, 7840);
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Distill {
    /// Name of a registered network. There is no default.
    pub student: String,
    /// Width multiplier of the student's channels; 1 by default.
    pub width: f64,
    /// As [`Teaching::temperature`]; 4 by default.
    pub temperature: f64,
    /// As [`Teaching::alpha`]; 0.7 by default.
    pub alpha: f64,
    /// As [`Teaching::anneal`]; three steps by default.
    pub anneal: Anneal,
    /// As [`Teaching::cache`]; true by default.
    pub cache: bool,
    /// Passes over the training images; what the run says by default.
    pub epochs: Option<usize>,
    /// Update rule with its learning rate; what the run says by default.
    pub optimizer: Option<Optimizer>,
    /// Learning rate, in the place of the optimizer's.
    #[serde(alias = "learning_rate")]
    pub rate: Option<f32>,
    /// Seed of the student's first weights; the run's by default.
    pub seed: Option<u64>,
}

impl Default for Distill {
    fn default() -> Distill {
        let Teaching { temperature, alpha, anneal, cache } = Teaching::default();
        Distill {
            student: String::new(),
            width: 1.0,
            temperature,
            alpha,
            anneal,
            cache,
            epochs: None,
            optimizer: None,
            rate: None,
            seed: None,
        }
    }
}

impl Distill {
    /// The registered name.
    pub const NAME: &'static str = "distill.soft_targets";

    /// Checks the settings. That the student exists is known to the run's registry only.
    ///
    /// # Errors
    /// A [`DistillError`] that names the setting, or the optimizer's own.
    pub fn check(&self) -> Result<()> {
        self.teaching().check()?;
        if !(self.width.is_finite() && self.width > 0.0) {
            return Err(DistillError::Width(self.width).into());
        }
        if let Some(rate) = self.rate.filter(|r| !(r.is_finite() && *r > 0.0)) {
            return Err(DistillError::Rate(rate).into());
        }
        self.optimizer.map_or(Ok(()), |o| o.check())
    }

    /// Trains a given student with a teacher, in the run's data and settings; for students that no registry
    /// knows. The run's own objective is put aside and comes back afterwards.
    ///
    /// # Errors
    /// Bad settings, networks that do not suit the run's images and classes, or a failed training; the
    /// student is then as before.
    pub fn train(&self, student: &mut Graph, teacher: &Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        let objective = check(run, teacher, &self.teaching())?;
        suits("student", run, student)?;
        let mut settings = run.settings.clone();
        settings.epochs = self.epochs.unwrap_or(settings.epochs);
        settings.optimizer = self.optimizer.unwrap_or(settings.optimizer);
        if let Some(rate) = self.rate {
            settings.optimizer = settings.optimizer.with_rate(rate);
        }
        let before = std::mem::replace(&mut run.objective, Box::new(objective));
        let trained = run.fine_tune(student, &settings);
        run.objective = before;
        trained.map(|_| ())
    }

    fn teaching(&self) -> Teaching {
        let Distill { temperature, alpha, anneal, cache, .. } = *self;
        Teaching { temperature, alpha, anneal, cache }
    }

    /// The untrained student for a teacher.
    fn build_student(&self, teacher: &Graph, run: &Run<'_>) -> Result<Graph> {
        if self.student.is_empty() {
            let known = run.registry.network_names().collect::<Vec<_>>().join(", ");
            return Err(DistillError::NoStudent { known }.into());
        }
        // a run's images have three axes: a teacher for others is refused with both shapes
        suits("teacher", run, teacher)?;
        let student = run.registry.build_network(
            &self.student,
            &NetworkOptions {
                input: Some(run.train.shape()),
                classes: Some(run.train.classes()),
                width: self.width,
                seed: self.seed.unwrap_or(run.seed),
            },
        )?;
        let (student_params, teacher_params) = (student.cost()?.params, teacher.cost()?.params);
        match student_params < teacher_params {
            true => Ok(student),
            false => {
                let student = self.student.clone();
                Err(DistillError::NotSmaller { student, student_params, teacher_params }.into())
            }
        }
    }
}

impl Compressor for Distill {
    fn name(&self) -> String {
        Distill::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        let mut student = self.build_student(graph, run)?;
        student.preprocess = graph.preprocess.clone();
        self.train(&mut student, graph, run)?;
        *graph = student;
        Ok(())
    }
}

pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
    let method: Distill = read_config(Distill::NAME, config)?;
    method.check()?;
    Ok(Box::new(method))
}
