//! All steps of a recipe on a few images of noise: finds what is wrong with it before hours of work.

use crate::recipe::{Recipe, RecipeError};
use crate::session::Session;
use anyhow::Result;
use cnn_core::data::MemoryDataset;
use cnn_core::init::Init;
use cnn_core::{Graph, Run};

/// Images of noise.
const IMAGES: usize = 4;

/// Checks the patterns of all steps against the network as it is. True if a later step names a layer that is
/// not there: an earlier step may make it, which only trying shows.
///
/// # Errors
/// If a pattern of the first step matches no layer.
pub fn needed(recipe: &Recipe, graph: &Graph) -> Result<bool, RecipeError> {
    recipe.check_step(0, graph)?;
    Ok((1..recipe.steps.len()).any(|step| recipe.check_step(step, graph).is_err()))
}

/// Applies and packs all steps on a copy, with noise for images, and returns the packed network. Its weights
/// mean nothing; its structure is what the real run makes, as far as that does not depend on the data.
///
/// # Errors
/// The first step that fails, by its place in the recipe; or the user's wish to stop.
pub fn run(recipe: &Recipe, graph: &Graph, session: &Session) -> Result<Graph> {
    let mut graph = graph.clone();
    let shape: Vec<usize> = [IMAGES].into_iter().chain(graph.input_shape().iter().copied()).collect();
    let classes = crate::images::outputs(&graph)?.max(1);
    let images = Init::new(0).normal(&shape, 1.0)?;
    let noise = MemoryDataset::new(images, (0..IMAGES).map(|i| i % classes).collect(), classes)?;
    let settings = recipe.settings()?;
    let mut run = Run::new(&noise, &noise, settings, &session.registry);
    run.hooks = vec![Box::new(crate::stop::StopHook(session.stop.clone()))];
    for (at, method) in recipe.methods(&session.registry)?.iter().enumerate() {
        recipe.check_step(at, &graph)?;
        let mut tried = method.apply(&mut graph, &mut run);
        if let (Ok(()), Some(finetune)) = (&tried, &recipe.steps[at].finetune) {
            let settings = finetune.over(&run.settings)?;
            tried = run.fine_tune(&mut graph, &settings).map(|_| ());
        }
        match tried {
            Err(_) if session.stop.requested() => return Err(cnn_core::Error::Interrupted.into()),
            Err(e) => return Err(recipe.step_error(at, format!("step {}: {e}", at + 1)).into()),
            Ok(()) => {}
        }
    }
    super::pack(recipe, &graph, session)
}
