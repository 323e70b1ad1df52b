//! The deployment engine: a graph compiled once for its input shapes, then run.
//!
//! [`Session::new`] takes a graph by value. Batch normalization is folded into the layer before it; bias, addition of a shortcut and
//! activation are done while a result is still in registers; concatenations, slices and reshapes cost nothing where the values can
//! be written where they are wanted; each layer chooses its algorithm and packs its weights once; one arena holds all
//! values, planned by their lifetimes. A run allocates nothing (see [`Session::run_into`]). A layer of any crate brings its own [`Kernel`] by
//! [`crate::Layer::lower`]; one that brings none runs by [`crate::Layer::infer`], slowly but never wrongly.
//!
//! ```
//! use cnn_core::session::{Session, SessionOptions};
//! use cnn_core::{tensor, testing::lenet5};
//! let graph = lenet5(0)?;
//! let images = tensor::tensor(&[1, 1, 28, 28], (0..784).map(|i| (i % 7) as f32).collect())?;
//! let expected = graph.infer(&images)?;
//! let mut session = Session::new(graph, &SessionOptions::default())?;
//! assert!(tensor::relative_error(&session.run(&images)?, &expected) < 1e-5);
//! # Ok::<(), cnn_core::Error>(())
//! ```

mod arena;
mod choices;
pub(crate) mod codes;
mod compile;
mod demand;
pub(crate) mod elementwise;
mod floats;
mod gather;
mod groups;
mod infer;
mod kernel;
pub(crate) mod kernels;
mod latency;
mod layout;
mod lowering;
mod plan;
mod profile;
mod team;
mod tune;

pub use choices::Choices;
pub use floats::Floats;
pub use kernel::{Inputs, Kernel, Part, Target, View, parts_by_pixels};
pub use latency::{latencies, latency};
pub use lowering::{Edge, Epilogue, Layout, Levels, Lowered, Lowering, Shared};
pub use profile::{Profile, ProfileRow};

use crate::graph::Graph;
use crate::simd::Isa;
use crate::tensor::{Tensor, elements, slice_mut, zeros};
use crate::{Error, Result};
use plan::Plan;
use std::collections::BTreeMap;
use std::sync::Arc;
use tune::Decisions;

/// How algorithms are chosen where several would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tuning {
    /// By a model of their cost, which does not know the number of threads: the same choice everywhere.
    #[default]
    CostModel,
    /// By timing each once. Store [`Session::choices`] to choose alike again.
    Measure,
}

/// Settings of a session.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Full input shapes, `[n, c, h, w]`; each has a plan of its own. Empty: one image of the graph's input shape.
    pub shapes: Vec<Vec<usize>>,
    /// The threads; `None`: the calling one alone.
    pub pool: Option<Arc<rayon::ThreadPool>>,
    /// Without a pool: the threads of the one that the caller of a run is in, or of the process's own.
    pub current_pool: bool,
    /// How algorithms are chosen.
    pub tuning: Tuning,
    /// No Winograd: rounding stays within 1e-5 of the reference executor.
    pub exact: bool,
    /// Decisions of an earlier session, made alike.
    pub choices: Option<Choices>,
}

impl SessionOptions {
    /// Default settings on a pool of that many threads; 1 makes none.
    ///
    /// # Errors
    /// If `threads` is 0 or the system gives no threads.
    pub fn with_threads(threads: usize) -> Result<SessionOptions> {
        let invalid = |why: String| Error::Invalid { what: "number of threads".into(), why };
        let pool = match threads {
            0 => return Err(invalid("at least 1".into())),
            1 => None,
            n => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
                Some(Arc::new(pool.map_err(|e| invalid(e.to_string()))?))
            }
        };
        Ok(SessionOptions { pool, ..SessionOptions::default() })
    }

    /// The same for batches of other sizes.
    pub fn batches(mut self, graph: &Graph, batches: &[usize]) -> SessionOptions {
        let shape = |&n: &usize| [&[n], graph.input_shape()].concat();
        self.shapes = batches.iter().map(shape).collect();
        self
    }
}

/// Bytes that a session holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Weights, as one plan reads them.
    pub weights: usize,
    /// Values between the layers.
    pub arena: usize,
    /// Scratch memory of all threads.
    pub scratch: usize,
}

/// A compiled network.
#[derive(Debug)]
pub struct Session {
    plans: Vec<Plan>,
    arena: Floats,
    scratch: Floats,
    pool: Option<Arc<rayon::ThreadPool>>,
    current_pool: bool,
    /// Most threads that a run may use: there is scratch memory for so many.
    workers: usize,
    team: team::Team,
    decisions: Decisions,
}

impl Session {
    /// Compiles a graph. The layers' weights are dropped as they are packed; large linear layers are kept and read as they are.
    ///
    /// # Errors
    /// If the graph does not fit a shape, or a recorded choice does not fit the graph.
    pub fn new(graph: Graph, options: &SessionOptions) -> Result<Session> {
        Session::with_isa(graph, options, Isa::active())
    }

    /// The same for an instruction set that need not be the best.
    pub(crate) fn with_isa(graph: Graph, options: &SessionOptions, isa: Isa) -> Result<Session> {
        floats::together(|| Session::compile(graph, options, isa))
    }

    fn compile(mut graph: Graph, options: &SessionOptions, isa: Isa) -> Result<Session> {
        let default = [vec![[&[1], graph.input_shape()].concat()]].concat();
        let shapes = if options.shapes.is_empty() { &default } else { &options.shapes };
        let packs: Vec<Shared> = graph.nodes().iter().map(|_| Shared::default()).collect();
        let mut decisions = Decisions::new(&graph, options)?;
        let mut plans = Vec::with_capacity(shapes.len());
        for (i, shape) in shapes.iter().enumerate() {
            if shape.len() != graph.input_shape().len() + 1 || shape.contains(&0) {
                return Err(Error::Shape(format!(
                    "a session for {shape:?}: the network takes [n, {}]",
                    graph.input_shape().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                )));
            }
            let last = i + 1 == shapes.len();
            plans.push(compile::compile(&mut graph, shape, options, isa, &packs, &mut decisions, last)?);
        }
        let workers = threads(options.pool.as_ref(), options.current_pool);
        let arena = plans.iter().map(|p| p.arena).max().unwrap_or(0);
        let scratch = plans.iter().map(Plan::scratch).max().unwrap_or(0) * workers;
        decisions.settle();
        Ok(Session {
            plans,
            arena: Floats::zeros(arena),
            scratch: Floats::zeros(scratch),
            pool: options.pool.clone(),
            current_pool: options.current_pool,
            workers,
            team: team::Team::default(),
            decisions,
        })
    }

    /// The output for a batch of one of the session's shapes.
    ///
    /// # Errors
    /// If the batch has none of the shapes, or a layer fails.
    pub fn run(&mut self, images: &Tensor) -> Result<Tensor> {
        let at = self.plan_for(images.shape())?;
        let mut output = zeros(&self.plans[at].output_shape);
        let images = images.as_standard_layout();
        let images =
            images.as_slice().ok_or_else(|| Error::Shape("the images are not in standard layout".into()))?;
        self.run_plan(at, images, slice_mut(&mut output)?)?;
        Ok(output)
    }

    /// As [`Session::run`] for the first shape, into memory of the caller: nothing is allocated. (With a pool, called from outside of it, rayon's
    /// queue takes a block of memory for 63 calls; within [`rayon::ThreadPool::install`] nothing.)
    ///
    /// # Errors
    /// If the lengths are not those of the input and the output, or a layer fails.
    pub fn run_into(&mut self, images: &[f32], output: &mut [f32]) -> Result<()> {
        self.run_plan(0, images, output)
    }

    fn run_plan(&mut self, at: usize, images: &[f32], output: &mut [f32]) -> Result<()> {
        let plan = &self.plans[at];
        let lengths = [elements(&plan.input_shape), elements(&plan.output_shape)];
        if [images.len(), output.len()] != lengths {
            return Err(Error::Shape(format!(
                "the network takes {} and gives {} values, got room for {} and {}",
                lengths[0],
                lengths[1],
                images.len(),
                output.len()
            )));
        }
        let workers = self.workers.min(threads(self.pool.as_ref(), self.current_pool));
        let memory = plan::Memory {
            images: images.as_ptr(),
            arena: self.arena.as_mut_ptr(),
            scratch: self.scratch.as_mut_ptr(),
            scratch_each: self.scratch.len() / self.workers,
        };
        // SAFETY: arena and scratch are as long as the longest plan needs for all workers, and borrowed by this call alone.
        unsafe { plan.run(&memory, &self.team, self.pool.as_deref(), workers)? };
        let place = plan.output;
        let from = if place.external { images } else { &self.arena[..] };
        for (p, row) in output.chunks_mut(place.channels.max(1)).enumerate() {
            row.copy_from_slice(&from[place.offset + p * place.pitch..][..place.channels]);
        }
        Ok(())
    }

    fn plan_for(&self, shape: &[usize]) -> Result<usize> {
        self.plans.iter().position(|p| p.input_shape == shape).ok_or_else(|| {
            let known: Vec<String> = self.plans.iter().map(|p| format!("{:?}", p.input_shape)).collect();
            Error::Shape(format!(
                "the session was compiled for {}, got {shape:?}; name the shape in its options",
                known.join(" and ")
            ))
        })
    }

    /// The output's shape for the first input shape.
    pub fn output_shape(&self) -> &[usize] {
        &self.plans[0].output_shape
    }

    /// The algorithms in use, where there was a choice.
    pub fn choices(&self) -> &Choices {
        &self.decisions.choices
    }

    /// The algorithms that a layer names beside the one in use, for each entry of [`Session::choices`].
    pub fn alternatives(&self) -> &BTreeMap<String, Vec<&'static str>> {
        &self.decisions.alternatives
    }

    /// Bytes held.
    pub fn memory(&self) -> Memory {
        let float = std::mem::size_of::<f32>();
        let weights = self.plans[0].steps.iter().map(|s| s.kernel.weight_bytes()).sum();
        Memory { weights, arena: self.arena.len() * float, scratch: self.scratch.len() * float }
    }
}

/// Threads that a run may use.
fn threads(pool: Option<&Arc<rayon::ThreadPool>>, current: bool) -> usize {
    match pool {
        Some(pool) => pool.current_num_threads(),
        None if current => rayon::current_num_threads(),
        None => 1,
    }
}
