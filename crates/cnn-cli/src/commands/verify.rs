//! `cnn verify`: whether two networks give the same answers.

use crate::blame::{Blame, blame};
use crate::images::{self, ImageArgs, Split};
use crate::measure::{Difference, difference};
use crate::network::{self, LoadOptions};
use crate::recipe::Recipe;
use crate::session::Session;
use crate::table::{grouped, table};
use anyhow::{Result, bail};
use serde::Serialize;
use std::fmt::{Display, Formatter};
use std::path::PathBuf;

/// Exit code when the networks differ by more than the tolerance.
pub const DIFFERS: u8 = 3;

/// Options of the command.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The network that counts as right
    pub first: PathBuf,
    /// The network to compare with it
    pub second: PathBuf,
    /// Images: a folder with train/, val/ and test/ folders of classes, CIFAR or IDX files, .npz, .npy, ...
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Largest max|a - b| / max|a| over all outputs that is still the same
    #[arg(long, default_value_t = 1e-4)]
    pub tolerance: f64,
    /// Show also what each layer that differs costs when it alone takes the place of the first network's
    #[arg(long)]
    pub layers: bool,
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

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The networks.
    pub files: [PathBuf; 2],
    /// Which images.
    pub split: Split,
    /// How far they are apart.
    #[serde(flatten)]
    pub difference: Difference,
    /// What was allowed.
    pub tolerance: f64,
    /// True if they are the same within it.
    pub same: bool,
    /// What each layer that differs costs alone, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<Blame>>,
}

/// Runs the same images through both.
///
/// # Errors
/// If a network or the images cannot be read, or they do not suit each other.
pub fn run(options: &Options, session: &Session) -> Result<Report> {
    if !(options.tolerance >= 0.0 && options.tolerance.is_finite()) {
        bail!("--tolerance: a finite number that is not negative");
    }
    let recipe = options.recipe.as_ref().map(|path| Recipe::load(path, &session.registry)).transpose()?;
    let section = options.images.over(recipe.as_ref())?;
    // without the check for finite weights: this command is to say that a network is broken
    let mut first = network::load(&options.first, &options.load, &session.registry)?;
    let second = network::load(&options.second, &options.load, &session.registry)?;
    if first.graph.input_shape() != second.graph.input_shape() {
        bail!(
            "{} takes images of {:?}, {} of {:?}",
            options.first.display(),
            first.graph.input_shape(),
            options.second.display(),
            second.graph.input_shape()
        );
    }
    match (&first.graph.preprocess, &second.graph.preprocess) {
        (Some(a), Some(b)) if a != b && section.mean.is_none() => bail!(
            "the files record different normalisations: {}, and {}; name the one to use with --mean and \
                --std",
            images::describe(a),
            images::describe(b)
        ),
        (None, Some(b)) => first.graph.preprocess = Some(b.clone()),
        _ => {}
    }
    let only = images::measured_part(&options.data, options.split);
    let args = ImageArgs { only, ..options.images.clone() };
    let images = images::open(&options.data, &args, &section, &first.graph, session)?;
    let (part, split) = images.measured(options.split, session)?;
    let difference = difference(&first.graph, &second.graph, part, session)?;
    let layers = match options.layers {
        true => Some(blame(&first.graph, &second.graph, part, session)?),
        false => None,
    };
    // a NaN is never within a tolerance
    let same = difference.not_finite == 0 && difference.relative <= options.tolerance;
    Ok(Report {
        files: [options.first.clone(), options.second.clone()],
        split,
        difference,
        tolerance: options.tolerance,
        same,
        layers,
    })
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let d = &self.difference;
        let share = |count: usize| {
            let percent = 100.0 * count as f64 / d.images as f64;
            format!("{} of {} ({percent:.2} %)", grouped(count as u64), grouped(d.images as u64))
        };
        writeln!(f, "on {} {} images", grouped(d.images as u64), self.split.name())?;
        writeln!(
            f,
            "outputs:   max |a - b| {:.3e}, mean {:.3e}, relative {:.3e}",
            d.max, d.mean, d.relative
        )?;
        writeln!(f, "agreement: {} have the same first choice", share(d.same_choice))?;
        for (file, correct) in self.files.iter().zip([d.correct_first, d.correct_second]) {
            writeln!(f, "correct:   {}  {}", share(correct), file.display())?;
        }
        if d.not_finite > 0 {
            writeln!(
                f,
                "outputs that are not finite (NaN or infinity): {} images",
                grouped(d.not_finite as u64)
            )?;
        }
        if let Some(layers) = &self.layers {
            let head = ["layer alone", "from", "to", ">SQNR dB", ">correct", ">points"];
            let row = |b: &Blame| {
                let sqnr = b.sqnr.map_or("exact".into(), |db| format!("{db:.1}"));
                let [from, to] = b.kinds.clone();
                vec![b.layer.clone(), from, to, sqnr, grouped(b.correct as u64), format!("{:+.2}", b.points)]
            };
            writeln!(f, "{}", table(&head, &layers.iter().map(row).collect::<Vec<_>>()))?;
        }
        let verdict = if self.same { "the same" } else { "different" };
        write!(f, "{verdict}, within a tolerance of {:e}", self.tolerance)
    }
}
