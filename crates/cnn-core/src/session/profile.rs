//! Where the time of a run goes, kernel by kernel.

use super::Session;
use super::plan::{Memory, Step};
use crate::simd::{Isa, Simd, SimdOp};
use crate::tensor::Tensor;
use crate::{Error, Result};
use serde::Serialize;
use std::fmt;
use std::sync::OnceLock;
use std::time::Instant;

/// One kernel of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProfileRow {
    /// The node whose layer it is.
    pub node: String,
    /// Kind of the layer, or what the kernel does.
    pub kind: String,
    /// Algorithm.
    pub algorithm: String,
    /// Median time in nanoseconds.
    pub nanoseconds: u64,
    /// Twice the multiply-adds of the layer by its plain definition, whatever the algorithm saves.
    pub flops: u64,
    /// Bytes read and written: inputs, output and weights.
    pub bytes: u64,
}

impl ProfileRow {
    /// Billions of operations in a second, by the layer's plain definition: Winograd may pass the machine's peak.
    pub fn gflops(&self) -> f64 {
        self.flops as f64 / self.nanoseconds.max(1) as f64
    }
}

/// The kernels of a session in the order in which they run, each timed alone and on one thread, so that the figures of two kernels
/// can be compared; what several threads make of them is in the time of a whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Profile {
    /// The kernels.
    pub rows: Vec<ProfileRow>,
    /// Operations in a nanosecond that one thread reached in a loop of multiply-adds in registers.
    pub peak_gflops: f64,
}

impl Profile {
    /// The sums over all kernels, as a row.
    pub fn total(&self) -> ProfileRow {
        let sum = |value: fn(&ProfileRow) -> u64| self.rows.iter().map(value).sum();
        ProfileRow {
            node: "all".into(),
            kind: String::new(),
            algorithm: String::new(),
            nanoseconds: sum(|r| r.nanoseconds),
            flops: sum(|r| r.flops),
            bytes: sum(|r| r.bytes),
        }
    }
}

impl Session {
    /// Times every kernel over some runs, on the calling thread alone, after one that does not count.
    ///
    /// # Errors
    /// If `runs` is 0, the batch has none of the session's shapes, or a layer fails.
    pub fn profile(&mut self, images: &Tensor, runs: usize) -> Result<Profile> {
        if runs == 0 {
            return Err(Error::Invalid { what: "number of runs".into(), why: "at least 1".into() });
        }
        let plan = &self.plans[self.plan_for(images.shape())?];
        let images = images.as_standard_layout();
        let images =
            images.as_slice().ok_or_else(|| Error::Shape("the images are not in standard layout".into()))?;
        let memory = Memory {
            images: images.as_ptr(),
            arena: self.arena.as_mut_ptr(),
            scratch: self.scratch.as_mut_ptr(),
            scratch_each: 0,
        };
        let mut times = vec![Vec::with_capacity(runs); plan.steps.len()];
        for run in 0..=runs {
            for (step, times) in plan.steps.iter().zip(&mut times) {
                let start = Instant::now();
                for part in &step.parts {
                    // SAFETY: the memory is as long as the plan needs, and borrowed by this call alone.
                    let done = unsafe {
                        Step::run_part(step.kernel.as_ref(), part, &step.inputs, &step.output, &memory, 0)
                    };
                    done.map_err(|e| e.at(&step.node))?;
                }
                // the first run warms the caches
                if run > 0 {
                    times.push(start.elapsed().as_nanos() as u64);
                }
            }
        }
        let rows = plan.steps.iter().zip(times).map(|(step, mut times)| {
            times.sort_unstable();
            let values: usize =
                step.inputs.iter().chain([&step.output]).map(|place| place.pixels * place.channels).sum();
            ProfileRow {
                node: step.node.clone(),
                kind: step.kind.clone(),
                algorithm: step.kernel.algorithm().to_string(),
                nanoseconds: times[times.len() / 2],
                flops: step.flops,
                bytes: (values * 4 + step.kernel.weight_bytes()) as u64,
            }
        });
        Ok(Profile { rows: rows.collect(), peak_gflops: peak_gflops() })
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.total();
        let width = self.rows.iter().map(|r| r.node.len()).max().unwrap_or(0).clamp(5, 40);
        let head = ["kind", "algorithm"];
        write!(
            f,
            "{:width$}  {:16} {:16} {:>9} {:>6} {:>8} {:>6} {:>9}",
            "node", head[0], head[1], "us", "%", "GFLOP/s", "% peak", "MB"
        )?;
        for row in self.rows.iter().chain([&whole]) {
            write!(
                f,
                "\n{:width$.width$}  {:16.16} {:16.16} {:9.1} {:6.1} {:8.1} {:6.0} {:9.3}",
                row.node,
                row.kind,
                row.algorithm,
                row.nanoseconds as f64 / 1e3,
                100.0 * row.nanoseconds as f64 / whole.nanoseconds.max(1) as f64,
                row.gflops(),
                100.0 * row.gflops() / self.peak_gflops,
                row.bytes as f64 / 1e6,
            )?;
        }
        Ok(())
    }
}

/// Operations in a nanosecond of multiply-adds in registers on one thread, measured once.
fn peak_gflops() -> f64 {
    static PEAK: OnceLock<f64> = OnceLock::new();
    *PEAK.get_or_init(|| {
        let isa = Isa::active();
        let best = (0..5).map(|_| {
            let start = Instant::now();
            std::hint::black_box(isa.run(MultiplyAdds));
            start.elapsed().as_nanos().max(1) as f64
        });
        (ROUNDS * SUMS * isa.lanes() * 2) as f64 / best.fold(f64::INFINITY, f64::min)
    })
}

const ROUNDS: usize = 100_000;
/// Independent sums: more than the latency of a multiply-add times how many start at once.
const SUMS: usize = 12;

struct MultiplyAdds;

impl SimdOp for MultiplyAdds {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let factor = s.splat(std::hint::black_box(0.999));
        let mut sums = [s.splat(1.0); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = s.fma(*sum, factor, factor);
            }
        }
        sums.iter().map(|&v| s.sum(v)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::SessionOptions;
    use super::*;
    use crate::tensor::{relative_error, zeros};
    use crate::testing::lenet5;

    fn profile(threads: usize, batch: usize) -> (Session, Profile) {
        let graph = lenet5(0).unwrap();
        let options = SessionOptions::with_threads(threads).unwrap().batches(&graph, &[1, batch]);
        let mut session = Session::new(graph, &options).unwrap();
        let profile = session.profile(&zeros(&[batch, 1, 28, 28]), 3).unwrap();
        (session, profile)
    }

    #[test]
    fn the_rows_are_the_kernels_and_add_up_to_the_network() {
        let macs = lenet5(0).unwrap().cost().unwrap().macs.total();
        for (threads, batch) in [(1, 1), (1, 3), (2, 3)] {
            let (_, profile) = profile(threads, batch);
            assert_eq!(profile.total().flops, 2 * macs * batch as u64);
            assert!(profile.rows.iter().all(|r| r.nanoseconds > 0 && !r.algorithm.is_empty()));
            let known = lenet5(0).unwrap();
            assert!(profile.rows.iter().all(|r| r.node == "output" || known.find(&r.node).is_ok()));
            let parameters = 4 * known.cost().unwrap().params;
            let total = profile.total();
            // weights are read once, images and outputs at least once
            assert!(total.bytes >= parameters / 2 + (batch * (784 + 10) * 4) as u64, "{total:?}");
            assert!(profile.peak_gflops.is_finite() && profile.peak_gflops > 0.0);
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_kernel_and_one_for_all() {
        let (_, profile) = profile(1, 1);
        let text = profile.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), profile.rows.len() + 2);
        assert!(lines.iter().all(|l| l.len() == lines[0].len()), "not aligned:\n{text}");
        assert!(lines[0].contains("GFLOP/s") && lines[lines.len() - 1].starts_with("all"));
        let value = serde_json::to_value(&profile).unwrap();
        assert_eq!(value["rows"][0]["flops"], profile.rows[0].flops);
    }

    #[test]
    fn a_profile_leaves_the_session_as_it_was() {
        let (mut session, _) = profile(2, 3);
        let images = crate::init::Init::new(1).normal(&[3, 1, 28, 28], 1.0).unwrap();
        let expected = lenet5(0).unwrap().infer(&images).unwrap();
        session.profile(&images, 1).unwrap();
        assert!(relative_error(&session.run(&images).unwrap(), &expected) < 1e-3);
    }

    #[test]
    fn no_runs_and_strange_images_are_errors() {
        let (mut session, _) = profile(1, 2);
        let why = session.profile(&zeros(&[1, 1, 28, 28]), 0).unwrap_err().to_string();
        assert!(why.contains("number of runs"), "{why}");
        assert!(session.profile(&zeros(&[5, 1, 28, 28]), 1).is_err());
    }
}
