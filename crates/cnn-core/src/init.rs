//! Random initial weights.

use crate::Result;
use crate::tensor::{Tensor, elements, tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws the weights of one layer after the other from one seed.
#[derive(Debug)]
pub struct Init {
    rng: ChaCha8Rng,
}

impl Init {
    /// A source for a whole network.
    pub fn new(seed: u64) -> Init {
        Init { rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Normal with standard deviation `sqrt(2 / fan_in)` (He et al. 2015, eq. 10), for layers before a ReLU. `shape` is
    /// `[out, in, ...]`; `fan_in` the product of all but the first.
    ///
    /// # Errors
    /// If the shape is empty.
    pub fn he(&mut self, shape: &[usize]) -> Result<Tensor> {
        let fan_in = elements(shape.get(1..).unwrap_or(&[])).max(1);
        self.normal(shape, (2.0 / fan_in as f32).sqrt())
    }

    /// Uniform in `+- sqrt(6 / (fan_in + fan_out))` (Glorot & Bengio 2010, eq. 16). `shape` is `[out, in, ...]`.
    ///
    /// # Errors
    /// If the shape is empty.
    pub fn glorot(&mut self, shape: &[usize]) -> Result<Tensor> {
        let window = elements(shape.get(2..).unwrap_or(&[]));
        let fans = (shape.first().unwrap_or(&1) + shape.get(1).unwrap_or(&1)) * window;
        let bound = (6.0 / fans.max(1) as f32).sqrt();
        let values = (0..elements(shape)).map(|_| self.rng.random_range(-bound..=bound)).collect();
        tensor(shape, values)
    }

    /// Normal with the given standard deviation (Box-Muller).
    ///
    /// # Errors
    /// If the shape is empty.
    pub fn normal(&mut self, shape: &[usize], std: f32) -> Result<Tensor> {
        let mut draw = || {
            let u: f32 = self.rng.random_range(f32::MIN_POSITIVE..1.0);
            let angle = 2.0 * std::f32::consts::PI * self.rng.random::<f32>();
            std * (-2.0 * u.ln()).sqrt() * angle.cos()
        };
        tensor(shape, (0..elements(shape)).map(|_| draw()).collect())
    }
}
