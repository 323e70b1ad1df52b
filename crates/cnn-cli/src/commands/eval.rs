//! `cnn eval`: how many images a network gets right.

use crate::images::{self, ImageArgs, Split};
use crate::measure::{Scores, evaluate};
use crate::network::{self, LoadOptions};
use crate::recipe::Recipe;
use crate::session::Session;
use anyhow::Result;
use cnn_core::Preprocess;
use serde::Serialize;
use std::fmt::{Display, Formatter};
use std::path::PathBuf;

/// Options of the command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// A network, .onnx or .cnn
    pub file: PathBuf,
    /// Images: a folder with train/, val/ and test/ folders of classes, CIFAR or IDX files, .npz, .npy, ...
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Which images; the test images by default
    #[arg(long)]
    pub split: Option<Split>,
    /// A recipe whose section `[data]` says what images are to become
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<PathBuf>,
    /// What the images are to become
    #[command(flatten)]
    pub images: ImageArgs,
    /// How to read ONNX
    #[command(flatten)]
    pub load: LoadOptions,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The network.
    pub file: PathBuf,
    /// What the images are.
    pub data: &'static str,
    /// Which part of them.
    pub split: Split,
    /// Normalisation in force; `None` for data that are not pixels.
    pub preprocess: Option<Preprocess>,
    /// Pictures that could not be read.
    pub broken: usize,
    /// The result.
    #[serde(flatten)]
    pub scores: Scores,
}

/// Measures accuracy.
///
/// # Errors
/// If the network or the images cannot be read, or do not suit each other.
pub fn run(options: &Options, session: &Session) -> Result<Report> {
    let recipe = options.recipe.as_ref().map(|path| Recipe::load(path, &session.registry)).transpose()?;
    let section = options.images.over(recipe.as_ref())?;
    let loaded = network::load_finite(&options.file, &options.load, &session.registry)?;
    let only = images::measured_part(&options.data, options.split);
    let args = ImageArgs { only, ..options.images.clone() };
    let images = images::open(&options.data, &args, &section, &loaded.graph, session)?;
    let (part, split) = images.measured(options.split, session)?;
    let scores = evaluate(&loaded.graph, part, "evaluating", session)?;
    if scores.not_finite > 0 {
        session.warn(format!(
            "the network gives outputs that are not finite (NaN or infinity) for {} of {} images",
            scores.not_finite, scores.images
        ));
    }
    Ok(Report {
        file: options.file.clone(),
        data: images.kind,
        split,
        preprocess: images.preprocess.clone(),
        broken: images.broken,
        scores,
    })
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "top-1: {}, {} images", self.scores.text(), self.split.name())?;
        if let Some(top5) = self.scores.top5 {
            writeln!(f, "top-5: {:.2} %", 100.0 * top5)?;
        }
        write!(f, "cross-entropy: {:.4}", self.scores.loss)
    }
}
