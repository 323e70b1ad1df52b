//! `distill.teacher`: whatever trains afterwards, trains under a teacher.

use crate::DistillError;
use crate::soft_targets::{SoftTargets, Teaching};
use crate::teacher::outputs;
use cnn_core::compress::{read_config, write_config};
use cnn_core::train::CrossEntropy;
use cnn_core::{Compressor, Config, Graph, Result, Run};

/// Puts a teacher behind the run: every method that fine-tunes in it from now on does so with
/// [`SoftTargets`], and knows nothing of distillation. What the run minimised before becomes the term of the
/// labels.
///
/// ```
/// use cnn_core::testing::{lenet5, stripes};
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Registry, Run};
/// use cnn_distill::{Teaching, teach};
/// let (train, validation) = (stripes(20, [1, 28, 28], 10, 1)?, stripes(20, [1, 28, 28], 10, 2)?);
/// let registry = Registry::core();
/// let settings = TrainSettings { epochs: 1, ..TrainSettings::default() };
/// let mut run = Run::new(&train, &validation, settings.clone(), &registry);
/// let mut graph = lenet5(0)?;
/// teach(&mut run, &graph.clone(), &Teaching::default())?;
/// run.fine_tune(&mut graph, &settings)?;
/// # Ok::<(), cnn_core::Error>(())
/// ```
///
/// # Errors
/// If a setting is out of range, or the teacher does not suit the run's images and classes. The run is then
/// as before.
pub fn teach(run: &mut Run<'_>, teacher: &Graph, teaching: &Teaching) -> Result<()> {
    let probe = check(run, teacher, teaching)?;
    let hard = std::mem::replace(&mut run.objective, Box::new(CrossEntropy::default()));
    run.objective = Box::new(probe.with_hard(hard));
    Ok(())
}

/// The objective for a run, with cross-entropy for the labels.
pub(crate) fn check(run: &Run<'_>, teacher: &Graph, teaching: &Teaching) -> Result<SoftTargets> {
    suits("teacher", run, teacher)?;
    if let (Some(a), Some(b)) = (&teacher.preprocess, run.train.preprocess())
        && *a != b
    {
        return Err(DistillError::Preprocess.into());
    }
    let cache = teaching.cache && run.augment.is_none();
    SoftTargets::new(teacher.clone(), Teaching { cache, ..teaching.clone() })
}

/// Checks a network against the images and classes of a run.
pub(crate) fn suits(who: &'static str, run: &Run<'_>, graph: &Graph) -> Result<()> {
    let (found, wanted) = (graph.input_shape().to_vec(), run.train.shape().to_vec());
    if found != wanted {
        return Err(DistillError::Images { who, found, wanted }.into());
    }
    let (found, wanted) = (outputs(who, graph)?, run.train.classes());
    match found == wanted {
        true => Ok(()),
        false => Err(DistillError::Classes { who, found, wanted }.into()),
    }
}

/// As a step of a recipe: the network as it is becomes the teacher and stays what it is. What follows, such
/// as pruning, retrains under it.
impl Compressor for Teaching {
    fn name(&self) -> String {
        Teaching::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        teach(run, graph, self)
    }
}

impl Teaching {
    /// The registered name.
    pub const NAME: &'static str = "distill.teacher";
}

pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
    let method: Teaching = read_config(Teaching::NAME, config)?;
    method.check()?;
    Ok(Box::new(method))
}
