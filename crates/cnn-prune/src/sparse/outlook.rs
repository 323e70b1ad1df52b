//! Whether the zeros of a network pay on this machine.

use super::choice::Cycles;
use super::kernels::is_sparse;
use super::{SparseConv2d, SparseLinear};
use cnn_core::init::Init;
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::session::{Choices, Session, SessionOptions};
use cnn_core::simd::Isa;
use cnn_core::{Graph, Layer, Result};
use std::fmt;

/// Rounds in which both sessions are timed, one after the other.
const ROUNDS: usize = 9;
/// Runs in a round.
const RUNS: usize = 2;

/// What one sparse layer gains in a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlook {
    /// Name of the node.
    pub name: String,
    /// The layer in short, as `3x3 64>64 at 56x56`.
    pub what: String,
    /// Share of weights that are zero, in `[0, 1]`.
    pub sparsity: f64,
    /// The algorithm that a session chooses by itself.
    pub chosen: String,
    /// The better sparse algorithm, and its median time in nanoseconds.
    pub sparse: (String, u64),
    /// The dense algorithm, and its median time in nanoseconds.
    pub dense: (String, u64),
    /// Share of zeros of this kind at which both would take the same time, from the measured times and a model of how they
    /// change; in `[0, 1]`.
    pub break_even: f64,
}

impl Outlook {
    /// How many times faster the sparse kernel is; below 1 if it is slower.
    pub fn ratio(&self) -> f64 {
        self.dense.1 as f64 / self.sparse.1.max(1) as f64
    }

    /// True if a session runs the zeros along with the other weights.
    pub fn runs_dense(&self) -> bool {
        !is_sparse(&self.chosen)
    }
}

/// Why the layer runs as it does, in a sentence.
impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outlook { name, what, sparsity, chosen, sparse, dense, break_even } = self;
        let zeros = 100.0 * sparsity;
        write!(f, "{name}: {zeros:.0} % zeros of {what}: runs `{chosen}`; ")?;
        let ratio = self.ratio();
        match ratio >= 1.0 {
            true => write!(f, "`{}` is {ratio:.2}x as fast as `{}`", sparse.0, dense.0)?,
            false => write!(f, "`{}` is {:.2}x as fast as `{}`", dense.0, 1.0 / ratio, sparse.0)?,
        }
        write!(f, "; break-even here is near {:.0} %", 100.0 * break_even)
    }
}

/// Times every sparse layer of a graph in a session with these options, in its sparse form and in its dense one, alternated, on the calling
/// thread: what pruning gains on this machine, layer by layer, and why a session runs some layers dense.
///
/// The images are those of the first shape in `options`, with random pixels.
///
/// # Errors
/// If a session cannot be made for the graph.
///
/// ```
/// use cnn_core::layers::{Conv2d, ConvOptions};
/// use cnn_core::session::SessionOptions;
/// use cnn_core::{Graph, tensor::zeros};
/// use cnn_prune::{SparseConv2d, outlook};
///
/// let mut weights = zeros(&[32, 16, 3, 3]);
/// weights.iter_mut().step_by(20).for_each(|w| *w = 0.5);
/// let dense = Conv2d::new(weights, None, ConvOptions::default().pad(1))?;
/// let mut graph = Graph::new(&[16, 14, 14]);
/// graph.push("conv", SparseConv2d::from_dense(&dense)?)?;
/// let outlook = outlook(&graph, &SessionOptions::default())?;
/// assert_eq!((outlook[0].name.as_str(), outlook[0].what.as_str()), ("conv", "3x3 16>32 at 14x14"));
/// assert!(outlook[0].to_string().starts_with("conv: 95 % zeros of 3x3 16>32 at 14x14: runs `"));
/// # Ok::<(), cnn_core::Error>(())
/// ```
pub fn outlook(graph: &Graph, options: &SessionOptions) -> Result<Vec<Outlook>> {
    let shape = options.shapes.first().cloned().unwrap_or_else(|| [&[1], graph.input_shape()].concat());
    let options = SessionOptions { shapes: vec![shape.clone()], ..options.clone() };
    let shapes = shapes(graph, &shape)?;
    let layers = layers(graph, &shapes)?;
    if layers.is_empty() {
        return Ok(Vec::new());
    }
    let own = Session::new(graph.clone(), &options)?;
    // the other choices of the options stay
    let mut choices = options.choices.clone().unwrap_or_else(|| Choices(Default::default()));
    for layer in &layers {
        choices.0.insert(layer.key.clone(), layer.cycles(None)?.better().to_string());
    }
    let mut sparse =
        Session::new(graph.clone(), &SessionOptions { choices: Some(choices), ..options.clone() })?;
    let kept = options.choices.clone().map(|mut choices| {
        choices.0.retain(|key, _| layers.iter().all(|layer| layer.key != *key));
        choices
    });
    let mut dense = Session::new(dense(graph)?, &SessionOptions { choices: kept, ..options })?;

    let images = Init::new(0).glorot(&shape)?;
    let mut times: Vec<[Vec<(u64, String)>; 2]> = vec![Default::default(); layers.len()];
    for _ in 0..ROUNDS {
        for (form, session) in [&mut sparse, &mut dense].into_iter().enumerate() {
            let rows = session.profile(&images, RUNS)?.rows;
            for (layer, times) in layers.iter().zip(&mut times) {
                let row = rows.iter().find(|r| r.node == layer.name && r.kind != "layout");
                times[form].extend(row.map(|r| (r.nanoseconds, r.algorithm.clone())));
            }
        }
    }
    let median = |mut times: Vec<(u64, String)>| {
        times.sort_unstable();
        times.get(times.len() / 2).map(|(time, name)| (name.clone(), *time)).unwrap_or_default()
    };
    layers
        .iter()
        .zip(times)
        .map(|(layer, [sparse, dense])| {
            let (sparse, dense) = (median(sparse), median(dense));
            let chosen = own.choices().0.get(&layer.key).cloned().unwrap_or_else(|| sparse.0.clone());
            let break_even = layer.break_even(sparse.1, dense.1)?;
            let (name, what, sparsity) = (layer.name.clone(), layer.what.clone(), layer.sparsity);
            Ok(Outlook { name, what, sparsity, chosen, sparse, dense, break_even })
        })
        .collect()
}

/// A sparse layer of a graph.
struct Sparse<'a> {
    name: String,
    key: String,
    what: String,
    sparsity: f64,
    input: Vec<usize>,
    form: Form<'a>,
}

enum Form<'a> {
    Conv(&'a SparseConv2d),
    Linear(&'a SparseLinear),
}

impl Sparse<'_> {
    fn cycles(&self, density: Option<f64>) -> Result<Cycles> {
        let lanes = Isa::active().lanes();
        match self.form {
            Form::Conv(layer) => layer.cycles(&self.input, lanes, density),
            Form::Linear(layer) => layer.cycles(&self.input, lanes, density),
        }
    }

    /// The model is scaled so that it is right for the layer as it is.
    fn break_even(&self, sparse: u64, dense: u64) -> Result<f64> {
        let at = self.cycles(None)?;
        let wanted = at.best() * dense as f64 / sparse.max(1) as f64;
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..12 {
            let density = (low + high) / 2.0;
            let cycles = self.cycles(Some(density))?;
            match cycles.of(at.better()) < wanted {
                true => low = density,
                false => high = density,
            }
        }
        Ok(1.0 - low)
    }
}

/// The output shape of every node, the first of which is the input.
fn shapes(graph: &Graph, images: &[usize]) -> Result<Vec<Vec<usize>>> {
    let mut shapes = vec![images.to_vec()];
    for node in graph.nodes().iter().skip(1) {
        let inputs: Vec<&[usize]> = node.inputs.iter().map(|&i| shapes[i].as_slice()).collect();
        shapes.push(node.layer().output_shape(&inputs).map_err(|e| e.at(&node.name))?);
    }
    Ok(shapes)
}

fn layers<'a>(graph: &'a Graph, shapes: &[Vec<usize>]) -> Result<Vec<Sparse<'a>>> {
    let mut layers = Vec::new();
    for node in graph.nodes() {
        let Some(input) = node.inputs.first().and_then(|&i| shapes.get(i)).cloned() else { continue };
        let (form, weight, what) = if let Some(conv) = node.layer().downcast_ref::<SparseConv2d>() {
            let ([kh, kw], [sh, sw], groups) = (conv.kernel(), conv.options().stride, conv.options().groups);
            let stride = if [sh, sw] == [1, 1] { String::new() } else { format!(" stride {sh}x{sw}") };
            let groups = if groups == 1 { String::new() } else { format!(" in {groups} groups") };
            let size: Vec<String> = input[2..].iter().map(ToString::to_string).collect();
            let (c, m) = (input[1], conv.weight().rows());
            let what = format!("{kh}x{kw} {c}>{m}{groups}{stride} at {}", size.join("x"));
            (Form::Conv(conv), conv.weight(), what)
        } else if let Some(linear) = node.layer().downcast_ref::<SparseLinear>() {
            let w = linear.weight();
            (Form::Linear(linear), w, format!("linear {}>{}", w.cols(), w.rows()))
        } else {
            continue;
        };
        let sparsity = 1.0 - weight.nonzeros() as f64 / (weight.rows() * weight.cols()) as f64;
        let (name, key) = (node.name.clone(), Choices::key(&node.name, &input));
        layers.push(Sparse { name, key, what, sparsity, input, form });
    }
    Ok(layers)
}

/// The graph with its sparse layers in their dense form.
fn dense(graph: &Graph) -> Result<Graph> {
    let mut forms: Vec<(String, Box<dyn Layer>)> = Vec::new();
    for node in graph.nodes() {
        let conv: Option<Conv2d> = node.layer().downcast_ref().map(SparseConv2d::to_dense).transpose()?;
        let linear: Option<Linear> = node.layer().downcast_ref().map(SparseLinear::to_dense).transpose()?;
        let dense: Option<Box<dyn Layer>> =
            conv.map(|l| Box::new(l) as _).or_else(|| linear.map(|l| Box::new(l) as _));
        forms.extend(dense.map(|layer| (node.name.clone(), layer)));
    }
    let mut graph = graph.clone();
    graph.edit(|graph| forms.into_iter().try_for_each(|(name, layer)| graph.replace(&name, layer)))?;
    Ok(graph)
}
