//! Our side: a session, in this process.

use anyhow::{Context, Result};
use cnn_core::session::{Session, SessionOptions};
use cnn_core::{Graph, Tensor, tensor};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After a turn our threads go to sleep within microseconds; this is plenty.
const REST: Duration = Duration::from_millis(2);

/// A compiled network with its images.
pub struct Ours {
    session: Session,
    pool: Option<Arc<rayon::ThreadPool>>,
    images: Vec<f32>,
    output: Vec<f32>,
    /// Nanoseconds of compiling it.
    pub create_ns: u64,
}

impl Ours {
    /// Compiles a network for these images.
    ///
    /// # Errors
    /// If it cannot be compiled, or the system gives no threads.
    pub fn new(graph: Graph, images: &Tensor, threads: usize) -> Result<Ours> {
        let options = SessionOptions {
            shapes: vec![images.shape().to_vec()],
            ..SessionOptions::with_threads(threads)?
        };
        let start = Instant::now();
        let session = Session::new(graph, &options)?;
        let create_ns = start.elapsed().as_nanos() as u64;
        let output = vec![0.0; tensor::elements(session.output_shape())];
        Ok(Ours { session, pool: options.pool, images: tensor::slice(images)?.to_vec(), output, create_ns })
    }

    /// The output for the images.
    ///
    /// # Errors
    /// If the session fails.
    pub fn output(&mut self) -> Result<Tensor> {
        self.session.run_into(&self.images, &mut self.output)?;
        Ok(tensor::tensor(self.session.output_shape(), self.output.clone())?)
    }

    /// Nanoseconds of so many runs, after one that does not count.
    ///
    /// # Errors
    /// If the session fails.
    pub fn turn(&mut self, runs: usize) -> Result<Vec<u64>> {
        let taken = match self.pool.clone() {
            // as an application does that lives in its pool
            Some(pool) => pool.install(|| self.runs(runs)),
            None => self.runs(runs),
        };
        std::thread::sleep(REST);
        taken.context("our session")
    }

    fn runs(&mut self, runs: usize) -> Result<Vec<u64>> {
        self.session.run_into(&self.images, &mut self.output)?;
        let mut taken = Vec::with_capacity(runs);
        for _ in 0..runs {
            let start = Instant::now();
            self.session.run_into(&self.images, &mut self.output)?;
            taken.push(start.elapsed().as_nanos() as u64);
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::testing::lenet5;

    #[test]
    fn turns_are_as_long_as_asked_and_leave_the_output_alone() {
        let images = cnn_core::init::Init::new(1).normal(&[2, 1, 28, 28], 1.0).unwrap();
        let expected = lenet5(0).unwrap().infer(&images).unwrap();
        for threads in [1, 2] {
            let mut ours = Ours::new(lenet5(0).unwrap(), &images, threads).unwrap();
            assert!(tensor::relative_error(&ours.output().unwrap(), &expected) < 1e-3);
            let taken = ours.turn(5).unwrap();
            assert!(taken.len() == 5 && taken.iter().all(|&ns| ns > 0));
            assert!(tensor::relative_error(&ours.output().unwrap(), &expected) < 1e-3);
        }
        assert!(Ours::new(lenet5(0).unwrap(), &images, 0).is_err());
    }
}
