//! `cnn compress`: a recipe's methods on a network, and what came of it.

mod rehearsal;
mod report;
mod state;
mod steps;

pub use report::{Measured, Report};

use crate::images::{self, ImageArgs};
use crate::latency::compare;
use crate::measure::{Scores, difference, evaluate};
use crate::network::{self, Form, LoadOptions, Loaded, SaveOptions};
use crate::recipe::Recipe;
use crate::session::Session;
use crate::statistics::paired;
use anyhow::{Context, Result, bail};
use cnn_core::data::batch;
use cnn_core::{Dataset, Graph, Tensor};
use state::State;
use std::path::PathBuf;

/// Test images that latency is measured on, one at a time.
const TIMED: usize = 8;
/// Test images on which the file is compared with the network that was written.
const COMPARED: usize = 256;

/// Options of the command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// The network to compress, .onnx or .cnn
    pub file: PathBuf,
    /// The recipe
    #[arg(long, value_name = "RECIPE")]
    pub recipe: PathBuf,
    /// Images: a folder with train/, val/ and test/ folders of classes, CIFAR or IDX files, .npz, .npy, ...
    #[arg(long, value_name = "PATH", required_unless_present = "dry_run")]
    pub data: Option<PathBuf>,
    /// The file to write; its name's end, .onnx or .cnn, says how
    #[arg(short, long, value_name = "FILE", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// Check the recipe against the network and go through all steps on a few images of noise; no data are
    /// read and nothing is written
    #[arg(long)]
    pub dry_run: bool,
    /// Start anew, even if there is unfinished work to go on from
    #[arg(long)]
    pub restart: bool,
    /// Keep the names of layers in a .cnn file, at a few bytes each
    #[arg(long)]
    pub keep_names: bool,
    /// ONNX with 4-bit constants where they suffice; needs opset 21 from whoever reads it
    #[arg(long)]
    pub four_bit: bool,
    /// What the images are to become
    #[command(flatten)]
    pub images: ImageArgs,
    /// How to read ONNX
    #[command(flatten)]
    pub load: LoadOptions,
}

impl Options {
    fn save(&self) -> SaveOptions {
        SaveOptions { names: self.keep_names, four_bit: self.four_bit }
    }
}

/// Compresses, writes, reads back, and measures.
///
/// # Errors
/// A wrong recipe, images that do not suit, a method that fails, an output that cannot be written; or the
/// user's wish to stop. What was done until then is kept beside the output, and the same command goes on from
/// there.
pub fn run(options: &Options, session: &Session) -> Result<Report> {
    let recipe = Recipe::load(&options.recipe, &session.registry)?;
    if recipe.steps.is_empty() {
        return Err(recipe.error("there is no [[step]]: nothing to do").into());
    }
    let loaded = network::load_finite(&options.file, &options.load, &session.registry)?;
    trainable(&loaded)?;
    let form = match &options.output {
        Some(output) if options.dry_run => Form::of_name(output)?,
        Some(output) => network::check_writable(output)?,
        None => loaded.form,
    };
    if rehearsal::needed(&recipe, &loaded.graph)? || options.dry_run {
        session.note("trying all steps on noise");
        let tried = rehearsal::run(&recipe, &loaded.graph, session)?;
        if options.dry_run {
            return Report::dry(options, form, &loaded, &tried);
        }
    }

    let (Some(data), Some(output)) = (&options.data, &options.output) else {
        bail!("--data and --output are needed");
    };
    let section = options.images.over(Some(&recipe))?;
    let images = images::open(data, &options.images, &section, &loaded.graph, session)?;
    let (learn, decide) = images.learning(data, section.validation, session)?;
    let (test, split) = images.measured(None, session)?;
    let mut graph = loaded.graph.clone();
    graph.preprocess = images.preprocess.clone();
    let before = evaluate(&graph, test, "before", session)?;
    session.note(format!("before: {}, {} images", before.text(), split.name()));
    warn_of_chance(&before, test.classes(), session);

    let state = State::open(output, options.restart, &recipe, &loaded, &section, &learn, session)?;
    let augment = images::augment(section.augment.as_ref(), images.preprocess.as_ref());
    let work = steps::Work { recipe: &recipe, learn: &learn, decide: &decide, augment: augment.as_deref() };
    let (mut packed, done) = work.run(graph, state, session).inspect_err(|_| State::remove_empty(output))?;
    packed.preprocess = images.preprocess.clone();

    let bytes = network::save(&packed, output, options.save())?;
    let back = network::load(output, &LoadOptions::default(), &session.registry)?;
    let after = evaluate(&back.graph, test, "after", session)?;
    let apart = difference(&packed, &back.graph, &test.limited(Some(COMPARED)), session)?;
    if apart.relative > 1e-4 || apart.not_finite > 0 {
        session.warn(format!(
            "what is read back from {} differs from what was written: relative {:.1e} on {} images",
            output.display(),
            apart.relative,
            apart.images
        ));
    }
    let singles = (0..test.len().min(TIMED)).map(|i| Ok(batch(test, &[i])?.0));
    let singles = singles.collect::<cnn_core::Result<Vec<Tensor>>>()?;
    let times = compare(&loaded.graph, &back.graph, &singles, &session.stop)?;
    done.remove()?;

    let first = Measured::of(&loaded.path, loaded.form, loaded.bytes, &loaded.graph)?;
    let second = Measured::of(output, form, bytes, &packed)?;
    let accuracy = paired(&before.right, &after.right);
    let report = Report {
        split: Some(split),
        before: first.with(before, times.first),
        after: second.with(after, times.second),
        accuracy: Some(accuracy),
        speedup: Some(times.speedup),
        read_back: Some(apart.relative),
        steps: recipe.steps.iter().map(|s| s.method.clone()).collect(),
        dry_run: false,
    };
    report.warn_of_lost_saving(&packed, session);
    Ok(report)
}

/// Refuses a network that is packed already.
fn trainable(loaded: &Loaded) -> Result<()> {
    let mut graph = loaded.graph.clone();
    for at in 1..graph.nodes().len() {
        if graph.layer_at_mut(at).trainable().is_none() {
            let node = &graph.nodes()[at];
            bail!(
                "{}: layer `{}` ({}) is packed already and cannot be trained; compress the network that it \
                    was made from, with \
                 all steps in one recipe",
                loaded.path.display(),
                node.name,
                node.layer().kind()
            );
        }
    }
    Ok(())
}

/// A network that guesses was most likely given other pixels than it was trained on.
fn warn_of_chance(scores: &Scores, classes: usize, session: &Session) {
    if scores.images >= 50 && scores.interval[0] <= 1.0 / classes as f64 {
        session.warn(
            "the network is no better than guessing on these images: is the normalisation, the order of \
                channels or that of the \
             classes another one?",
        );
    }
}

/// All packs in reverse, on a copy.
fn pack(recipe: &Recipe, graph: &Graph, session: &Session) -> Result<Graph> {
    let mut packed = graph.clone();
    let methods = recipe.methods(&session.registry)?;
    for (at, method) in methods.iter().enumerate().rev() {
        method.pack(&mut packed).with_context(|| format!("step {} ({}): packing", at + 1, method.name()))?;
    }
    Ok(packed)
}
