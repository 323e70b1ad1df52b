//! The steps for one input shape, and how they run.

use super::kernel::{Inputs, Kernel, Part, Place, Target};
use super::team::Team;
use crate::{Error, Result};
use std::marker::PhantomData;
use std::sync::Mutex;

/// One kernel with the places of its inputs and its output.
#[derive(Debug)]
pub(super) struct Step {
    pub node: String,
    pub kind: String,
    pub kernel: Box<dyn Kernel>,
    pub parts: Vec<Part>,
    pub inputs: Vec<Place>,
    pub output: Place,
    pub flops: u64,
}

/// What a graph became for one input shape.
#[derive(Debug)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub input_shape: Vec<usize>,
    pub output_shape: Vec<usize>,
    pub output: Place,
    /// Floats of the arena.
    pub arena: usize,
}

/// The memory that a run works on.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    pub images: *const f32,
    pub arena: *mut f32,
    pub scratch: *mut f32,
    /// Floats of scratch memory for each worker.
    pub scratch_each: usize,
}

// SAFETY: the pointers are to memory that the session lends for the time of a run; workers write disjoint parts of it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Step {
    /// Runs one part of a kernel.
    ///
    /// # Safety
    /// The memory must hold the places and `scratch_each` floats for every worker, and nobody else may at the same time run an
    /// overlapping part, write the inputs, or be the same worker.
    pub unsafe fn run_part(
        kernel: &dyn Kernel,
        part: &Part,
        inputs: &[Place],
        output: &Place,
        memory: &Memory,
        worker: usize,
    ) -> Result<()> {
        let inputs =
            Inputs { places: inputs, arena: memory.arena, external: memory.images, lent: PhantomData };
        let start = memory.arena.wrapping_add(output.offset);
        let out = Target { start, pitch: output.pitch, codes: output.codes > 0, part };
        // SAFETY: each worker has `scratch_each` floats of its own.
        let scratch = unsafe {
            let start = memory.scratch.add(worker * memory.scratch_each);
            std::slice::from_raw_parts_mut(start, kernel.scratch())
        };
        kernel.run(inputs, out, scratch)
    }
}

impl Plan {
    /// Floats of scratch memory that a worker needs, a multiple of a cache line.
    pub fn scratch(&self) -> usize {
        self.steps.iter().map(|s| s.kernel.scratch()).max().unwrap_or(0).next_multiple_of(32)
    }

    /// Runs all steps. The output is then at its place in the arena.
    ///
    /// # Safety
    /// The memory must be as long as the plan says, for `workers` workers, and lent to this call alone.
    pub unsafe fn run(
        &self,
        memory: &Memory,
        team: &Team,
        pool: Option<&rayon::ThreadPool>,
        workers: usize,
    ) -> Result<()> {
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let memory = *memory;
        team.run(
            pool,
            workers,
            self.steps.len(),
            |step| self.steps[step].parts.len(),
            |step, part, worker| {
                let step = &self.steps[step];
                // SAFETY: the team hands out each part once, and worker numbers are unique.
                let done = unsafe {
                    let (kernel, part) = (step.kernel.as_ref(), &step.parts[part]);
                    Step::run_part(kernel, part, &step.inputs, &step.output, &memory, worker)
                };
                if let (Err(error), Ok(mut failed)) = (done, failed.lock()) {
                    failed.get_or_insert(error.at(&step.node));
                }
            },
        );
        failed.into_inner().ok().flatten().map_or(Ok(()), Err)
    }
}
