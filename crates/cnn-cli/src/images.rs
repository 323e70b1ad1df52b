//! The user's images, made to suit a network: size, channels and normalisation from the command line, the
//! recipe, or the network's file, in this order; and the parts they are in.

use crate::part::Part;
use crate::recipe::{Augmentation, Classes, Colours, DataSection, PerChannel, Recipe, Size};
use crate::session::Session;
use anyhow::{Context, Result, anyhow, bail};
use cnn_core::{Augment, Dataset, Graph, Preprocess};
use cnn_data::{Channels, Compose, HorizontalFlip, OpenOptions, RandomCrop, Shift};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Share of the training images that is held out for decisions, when nothing is said.
const HELD_OUT: f64 = 0.1;
/// Images that mean and deviation are taken from, when a network is trained from nothing.
const MOMENTS: usize = 4096;

/// What the command line says of images; the long form of the flags is the recipe's section `[data]`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Images")]
pub struct ImageArgs {
    /// The only part that the command reads; the pictures of the others are then not decoded.
    #[arg(skip)]
    pub only: Option<Split>,
    /// Size that images are scaled to, N or HxW; the network's input by default
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub size: Option<Size>,
    /// Cut this out of the middle after scaling the shorter side to --size
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub crop: Option<Size>,
    /// Mean of each channel, in units of pixel / 255 (0 for none)
    #[arg(long, value_name = "M,M,M", value_delimiter = ',', allow_hyphen_values = true)]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation of each channel, in units of pixel / 255 (1 for none)
    #[arg(long, value_name = "S,S,S", value_delimiter = ',')]
    pub std: Option<Vec<f32>>,
    /// Colour channels; by default those that the network takes, red first
    #[arg(long)]
    pub channels: Option<Colours>,
    /// File with the names of the classes in the order of the network's outputs, one a line
    #[arg(long, value_name = "FILE")]
    pub class_names: Option<PathBuf>,
    /// File with the label of each image, for images that are not in folders of classes
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Share of the training images that is held out for decisions when there are no validation images
    #[arg(long, value_name = "SHARE")]
    pub validation: Option<f64>,
    /// Stop at the first image that cannot be read, instead of leaving it out
    #[arg(long)]
    pub strict: bool,
    /// File that keeps decoded pixels for the next time
    #[arg(long, value_name = "FILE")]
    pub cache: Option<PathBuf>,
    /// Use at most so many training images, evenly spread
    #[arg(long, value_name = "N")]
    pub train_images: Option<usize>,
    /// Use at most so many test images, evenly spread
    #[arg(long, value_name = "N")]
    pub test_images: Option<usize>,
}

fn size(text: &str) -> Result<Size, String> {
    let side = |t: &str| t.trim().parse::<usize>().map_err(|_| format!("`{text}` is not N or HxW"));
    match text.split_once('x') {
        Some((h, w)) => Ok(Size::Sides([side(h)?, side(w)?])),
        None => Ok(Size::Square(side(text)?)),
    }
}

/// One value stands for all channels.
fn per_channel(values: &Option<Vec<f32>>) -> Option<PerChannel> {
    values.as_ref().map(|v| if v.len() == 1 { PerChannel::All(v[0]) } else { PerChannel::Each(v.clone()) })
}

impl ImageArgs {
    /// What is said here, over what a recipe says.
    ///
    /// # Errors
    /// If the two together cannot be meant.
    pub fn over(&self, recipe: Option<&Recipe>) -> Result<DataSection> {
        let said = DataSection {
            size: self.size,
            crop: self.crop,
            mean: per_channel(&self.mean),
            std: per_channel(&self.std),
            channels: self.channels,
            classes: self.class_names.clone().map(Classes::File),
            labels: self.labels.clone(),
            augment: None,
            validation: self.validation,
            strict: self.strict.then_some(true),
            cache: self.cache.clone(),
        };
        let section = said.or(recipe.map_or(&DataSection::default(), |r| &r.data));
        section.check().map_err(|(key, why)| anyhow!("--{key}: {why}"))?;
        Ok(section)
    }
}

/// A part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// To learn from.
    Train,
    /// For decisions.
    Validation,
    /// For the final number.
    Test,
}

impl Split {
    /// As text.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "training",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }
}

/// The part that a command measures on, where a folder of that name says so before any picture is decoded.
pub fn measured_part(path: &Path, asked: Option<Split>) -> Option<Split> {
    let split = asked.unwrap_or(Split::Test);
    let names: &[&str] = match split {
        Split::Train => &["train"],
        Split::Validation => &["val", "validation"],
        Split::Test => &["test"],
    };
    names.iter().any(|name| path.join(name).is_dir()).then_some(split)
}

/// Images that suit a network.
#[derive(Debug)]
pub struct Images {
    /// What was found.
    pub kind: &'static str,
    /// To learn from.
    pub train: Option<Part>,
    /// For decisions.
    pub validation: Option<Part>,
    /// For the final number.
    pub test: Option<Part>,
    /// Names of the classes; empty if they are not known.
    pub classes: Vec<String>,
    /// Normalisation in force; `None` for data that are not pixels.
    pub preprocess: Option<Preprocess>,
    /// Pictures that were left out.
    pub broken: usize,
}

/// Opens images for a network.
///
/// # Errors
/// If there are none, or they do not suit the network: size, channels, classes, normalisation.
pub fn open(
    path: &Path,
    args: &ImageArgs,
    section: &DataSection,
    network: &Graph,
    session: &Session,
) -> Result<Images> {
    let &[c, h, w] = network.input_shape() else {
        bail!("the network's input has shape {:?}, but images have three axes", network.input_shape());
    };
    let colours = section.channels.unwrap_or(if c == 1 { Colours::Gray } else { Colours::Rgb });
    let wanted = section.crop.or(section.size).map_or([h, w], Size::sides);
    if wanted != [h, w] {
        bail!(
            "the network takes images of {h} x {w}, but the size asked for is {} x {}",
            wanted[0],
            wanted[1]
        );
    }
    let known = section.mean.is_some() || network.preprocess.is_some();
    let normalisation = match (&section.mean, &section.std, &network.preprocess) {
        (Some(mean), Some(std), _) => Some(Preprocess { mean: mean.of(c), std: std.of(c) }),
        (_, _, Some(p)) => Some(p.clone()),
        _ => None,
    };
    let images = parts(path, args, section, colours, Some(wanted), normalisation.as_ref(), session)?;
    if !known && images.preprocess.is_some() {
        bail!(
            "how pixels were normalised for this network is not known: its file does not say. Name it, as \
             `--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225`, or as mean and std in the section `[data]` \
             of a recipe; \
             `--mean 0 --std 1` is plain pixel / 255"
        );
    }
    let outputs = outputs(network)?;
    images.suit([c, h, w], outputs, session)
}

/// Opens images to train a network from nothing. Without a stated normalisation, mean and deviation of the
/// training images are taken.
///
/// # Errors
/// If there are no training images.
pub fn open_for_training(
    path: &Path,
    args: &ImageArgs,
    section: &DataSection,
    input: Option<[usize; 3]>,
    session: &Session,
) -> Result<Images> {
    let gray = input.is_some_and(|[c, ..]| c == 1);
    let colours = section.channels.unwrap_or(if gray { Colours::Gray } else { Colours::Rgb });
    let channels = if colours == Colours::Gray { 1 } else { 3 };
    let size = section.crop.or(section.size).map(Size::sides).or(input.map(|[_, h, w]| [h, w]));
    let normalisation = match (&section.mean, &section.std) {
        (Some(mean), Some(std)) => Some(Preprocess { mean: mean.of(channels), std: std.of(channels) }),
        _ => None,
    };
    let mut images = parts(path, args, section, colours, size, normalisation.as_ref(), session)?;
    let Some(train) = &images.train else { bail!("{}", images.no_training(path)) };
    if normalisation.is_none() && images.preprocess.is_some() {
        let moments = train.moments(MOMENTS)?;
        session.note(format!("normalisation: that of the training images, {}", describe(&moments)));
        for part in [&mut images.train, &mut images.validation, &mut images.test].into_iter().flatten() {
            *part = part.clone().normalised(&moments);
        }
        images.preprocess = Some(moments);
    }
    Ok(images)
}

/// Opens the parts as the options say, and reports what is there.
fn parts(
    path: &Path,
    args: &ImageArgs,
    section: &DataSection,
    colours: Colours,
    size: Option<[usize; 2]>,
    normalisation: Option<&Preprocess>,
    session: &Session,
) -> Result<Images> {
    let options = OpenOptions {
        size,
        resize: section.crop.and(section.size).and_then(|s| s.sides().into_iter().min()),
        mean: normalisation.map(|p| p.mean.clone()),
        std: normalisation.map(|p| p.std.clone()),
        channels: match colours {
            Colours::Rgb => Channels::Rgb,
            Colours::Bgr => Channels::Bgr,
            Colours::Gray => Channels::Gray,
        },
        classes: match &section.classes {
            None => None,
            Some(Classes::Names(names)) => Some(names.clone()),
            Some(Classes::File(path)) => Some(names_in(path)?),
        },
        labels: section.labels.clone(),
        strict: section.strict.unwrap_or(false),
        cache: section.cache.clone(),
        only: args.only.map(|split| match split {
            Split::Train => cnn_data::Part::Train,
            Split::Validation => cnn_data::Part::Validation,
            Split::Test => cnn_data::Part::Test,
        }),
        ..OpenOptions::default()
    };
    let opened = cnn_data::open(path, &options)?;
    if !opened.broken.is_empty() {
        let shown: Vec<String> =
            opened.broken.iter().take(3).map(|b| format!("{}: {}", b.path.display(), b.why)).collect();
        session.warn(format!("{} image(s) left out: {}", opened.broken.len(), shown.join("; ")));
    }
    let part = |data: Option<Box<dyn Dataset>>, most| {
        data.filter(|d| !d.is_empty()).map(|d| Part::whole(d).limited(most))
    };
    let train = part(opened.train, args.train_images);
    let (validation, test) = (part(opened.validation, args.test_images), part(opened.test, args.test_images));
    let Some(any) = test.as_ref().or(validation.as_ref()).or(train.as_ref()) else {
        bail!("{}: there are no images", path.display());
    };
    let (preprocess, [c, h, w]) = (any.preprocess(), any.shape());
    let counts = [(&train, Split::Train), (&validation, Split::Validation), (&test, Split::Test)];
    let counts = counts.into_iter().filter_map(|(p, s)| Some(format!("{} {}", p.as_ref()?.len(), s.name())));
    session.note(format!(
        "{} ({}): {} images of {c} x {h} x {w}, {} classes{}",
        path.display(),
        opened.kind,
        counts.collect::<Vec<_>>().join(", "),
        any.classes(),
        normalisation.map_or_else(String::new, |p| format!("; {}", describe(p))),
    ));
    Ok(Images {
        kind: opened.kind,
        train,
        validation,
        test,
        classes: opened.classes,
        preprocess,
        broken: opened.broken.len(),
    })
}

/// Names in a file, one a line.
fn names_in(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let names: Vec<String> = text.lines().map(|l| l.trim().to_string()).filter(|l| !l.is_empty()).collect();
    if names.is_empty() {
        bail!("{}: no names of classes", path.display());
    }
    Ok(names)
}

/// A normalisation as text.
pub fn describe(p: &Preprocess) -> String {
    let list = |values: &[f32]| values.iter().map(|v| format!("{v:.4}")).collect::<Vec<_>>().join(", ");
    format!("(pixel / 255 - mean) / std with mean {}; std {}", list(&p.mean), list(&p.std))
}

/// Number of a network's outputs for an image.
///
/// # Errors
/// If shapes do not fit.
pub fn outputs(network: &Graph) -> Result<usize> {
    let shapes = network.shapes(1)?;
    let shape = shapes.get(network.output()).map_or(&[][..], |s| s.get(1..).unwrap_or(&[]));
    Ok(shape.iter().product())
}

impl Images {
    /// Checks shape and classes against a network, before any work.
    fn suit(mut self, input: [usize; 3], outputs: usize, session: &Session) -> Result<Images> {
        let Some(any) = self.test.as_ref().or(self.validation.as_ref()).or(self.train.as_ref()) else {
            bail!("there are no images");
        };
        let (shape, classes) = (any.shape(), any.classes());
        if shape != input {
            bail!("the network takes images of {input:?} (channels, height, width), but these are {shape:?}");
        }
        if classes == outputs {
            return Ok(self);
        }
        if classes > outputs || !self.classes.is_empty() {
            bail!(
                "the network has {outputs} outputs, but the images are of {classes} classes; if the folders \
                    are some of the \
                 network's classes, name all {outputs} in its order with --class-names FILE, or as \
                 `classes` in [data]"
            );
        }
        session.note(format!("the labels go up to {}; taken as {outputs} classes", classes - 1));
        for part in [&mut self.train, &mut self.validation, &mut self.test].into_iter().flatten() {
            *part = part.clone().of_classes(outputs);
        }
        Ok(self)
    }

    /// The images to measure on: those asked for; without a wish the test images, or else the validation
    /// images.
    ///
    /// # Errors
    /// If there are none.
    pub fn measured(&self, wish: Option<Split>, session: &Session) -> Result<(&Part, Split)> {
        let part = |split| match split {
            Split::Train => self.train.as_ref(),
            Split::Validation => self.validation.as_ref(),
            Split::Test => self.test.as_ref(),
        };
        let there: Vec<&str> = [Split::Train, Split::Validation, Split::Test]
            .into_iter()
            .filter(|s| part(*s).is_some())
            .map(Split::name)
            .collect();
        match wish {
            Some(split) => match part(split) {
                Some(images) => Ok((images, split)),
                None => bail!("there are no {} images; there are {} images", split.name(), there.join(", ")),
            },
            None => match (&self.test, &self.validation) {
                (Some(test), _) => Ok((test, Split::Test)),
                (None, Some(validation)) => {
                    session.note("there are no test images; measured on the validation images");
                    Ok((validation, Split::Validation))
                }
                (None, None) => bail!("there are only training images; name them with --split train"),
            },
        }
    }

    /// Images to learn from and images for decisions. Test images are never among them: without validation
    /// images, some of the training images are held out.
    ///
    /// # Errors
    /// If there are no training images.
    pub fn learning(&self, path: &Path, share: Option<f64>, session: &Session) -> Result<(Part, Part)> {
        let Some(train) = &self.train else { bail!("{}", self.no_training(path)) };
        if let Some(validation) = &self.validation {
            return Ok((train.clone(), validation.clone()));
        }
        let share = share.unwrap_or(HELD_OUT);
        let labels: Vec<usize> = (0..train.len()).map(|i| train.label(i)).collect();
        let count = ((train.len() as f64 * share).round() as usize).max(1);
        // the same images, whatever the seed of the training
        let (kept, held) = cnn_data::split(&labels, count, 0)?;
        session.note(format!(
            "there are no validation images: {} of the {} training images are held out for decisions and \
                not trained on",
            held.len(),
            train.len()
        ));
        Ok((train.at(&kept), train.at(&held)))
    }

    fn no_training(&self, path: &Path) -> String {
        format!(
            "{} ({}) has no training images; put images to learn from into a folder train/ beside test/, or \
                name another data \
             set",
            path.display(),
            self.kind
        )
    }
}

/// The random changes of training images; `None` for none.
pub fn augment(wish: Option<&Augmentation>, preprocess: Option<&Preprocess>) -> Option<Box<dyn Augment>> {
    let wish = wish?;
    let mut steps: Vec<Box<dyn Augment>> = Vec::new();
    if let Some(max) = wish.shift.filter(|&m| m > 0) {
        let fill = preprocess.map(cnn_data::augment::black).unwrap_or_default();
        steps.push(Box::new(Shift { max, fill }));
    }
    if let Some(pad) = wish.crop.filter(|&p| p > 0) {
        steps.push(Box::new(RandomCrop::new(pad)));
    }
    if wish.flip {
        steps.push(Box::new(HorizontalFlip));
    }
    (!steps.is_empty()).then(|| Box::new(Compose(steps)) as Box<dyn Augment>)
}
