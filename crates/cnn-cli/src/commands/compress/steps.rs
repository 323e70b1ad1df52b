//! The steps of a recipe one after the other, each kept as soon as it is done.

use super::state::{Done, Stage, State};
use crate::part::Part;
use crate::recipe::Recipe;
use crate::session::Session;
use anyhow::{Context, Result};
use cnn_core::train::{TrainData, TrainSettings, train};
use cnn_core::{Augment, Error, Graph, Run};

/// What the steps work with.
#[derive(Debug)]
pub struct Work<'a> {
    /// The steps.
    pub recipe: &'a Recipe,
    /// Images to learn from.
    pub learn: &'a Part,
    /// Images for decisions.
    pub decide: &'a Part,
    /// Random changes of images to learn from.
    pub augment: Option<&'a dyn Augment>,
}

impl Work<'_> {
    /// Applies and fine-tunes all steps that are not done, packs in reverse, and returns the packed network.
    ///
    /// # Errors
    /// The step that fails, or the user's wish to stop; what was done is kept.
    pub fn run(&self, start: Graph, mut state: State, session: &Session) -> Result<(Graph, State)> {
        let mut run = Run::new(self.learn, self.decide, self.recipe.settings()?, &session.registry);
        run.augment = self.augment;
        run.hooks = session.hooks();
        run.progress = session.progress();
        run.memory = Some(state.memory());
        let done = state.done().to_vec();
        let mut graph = start;
        for (at, method) in self.recipe.methods(&session.registry)?.iter().enumerate() {
            let finetune = self.recipe.steps[at].finetune.as_ref();
            let find = |stage| done.iter().find(|d| d.step == at && d.stage == stage);
            match find(Stage::Applied) {
                Some(applied) => {
                    if applied.changed_run {
                        // what it did to the network is in the file; what it did to the run is not
                        method
                            .apply(&mut graph.clone(), &mut run)
                            .map_err(|e| self.explain(at, e, session))?;
                    }
                    // with the tuned network there, this one is not needed
                    if find(Stage::Tuned).is_none() {
                        graph = state.network(applied, session)?;
                    }
                }
                None => {
                    self.recipe.check_step(at, &graph)?;
                    session.note(format!(
                        "step {} of {}: {}",
                        at + 1,
                        self.recipe.steps.len(),
                        method.name()
                    ));
                    let before = Lent::of(&run);
                    method.apply(&mut graph, &mut run).map_err(|e| self.explain(at, e, session))?;
                    let changed_run = before != Lent::of(&run);
                    state.add(Done { step: at, stage: Stage::Applied, changed_run }, &graph)?;
                    self.say_accuracy("applied", &graph, finetune.is_none(), session)?;
                }
            }
            let Some(finetune) = finetune else { continue };
            if let Some(tuned) = find(Stage::Tuned) {
                graph = state.network(tuned, session)?;
                continue;
            }
            let settings = finetune.over(&run.settings)?;
            session.note(format!("step {}: fine-tuning for {} epochs", at + 1, settings.epochs));
            let file = state.training(at);
            let data = TrainData {
                train: self.learn,
                validation: Some(self.decide),
                augment: self.augment,
                checkpoint: Some((&file, &session.registry)),
            };
            train(&mut graph, data, &settings, run.objective.as_mut(), &mut run.hooks, &run.progress)
                .map_err(|e| self.explain(at, e, session))?;
            state.add(Done { step: at, stage: Stage::Tuned, changed_run: false }, &graph)?;
            if file.exists() {
                std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
            }
        }
        let packed = super::pack(self.recipe, &graph, session)?;
        Ok((packed, state))
    }

    /// The accuracy on validation images between steps; not when a training has just said it or will.
    fn say_accuracy(&self, what: &str, graph: &Graph, wanted: bool, session: &Session) -> Result<()> {
        if wanted {
            let scores = crate::measure::evaluate(graph, self.decide, "validation", session)?;
            session.note(format!("  {what}: {:.2} % of the validation images", 100.0 * scores.top1));
        }
        Ok(())
    }

    /// Names the step, and tells the user's wish to stop from a failure.
    fn explain(&self, at: usize, error: Error, session: &Session) -> anyhow::Error {
        if session.stop.requested() {
            return Error::Interrupted.into();
        }
        self.recipe.step_error(at, format!("step {}: {error}", at + 1)).into()
    }
}

/// What a run lends, as far as a step may change it for those after it.
#[derive(Debug, PartialEq)]
struct Lent {
    objective: usize,
    hooks: usize,
    settings: TrainSettings,
}

impl Lent {
    fn of(run: &Run<'_>) -> Lent {
        let objective = std::ptr::from_ref(run.objective.as_ref()).cast::<()>() as usize;
        Lent { objective, hooks: run.hooks.len(), settings: run.settings.clone() }
    }
}
