//! What an engine has to do.

use anyhow::Result;
use rten_tensor::prelude::*;
use std::path::Path;

/// A network, loaded.
pub trait Engine {
    /// Runs it once on the images that it was loaded with, and returns its first output.
    fn run(&mut self) -> Result<Output>;
}

/// An output as the engine hands it over; [`Output::values`] copies it.
pub enum Output {
    /// Of tract.
    Tract(tract_onnx::prelude::TValue),
    /// Of rten.
    Rten(rten::Value),
}

/// Loads an ONNX file for images of one shape, for a number of threads.
pub type Load = fn(&Path, &[usize], Vec<f32>, usize) -> Result<Box<dyn Engine>>;

/// The engines: name, version (as in Cargo.lock) and how to load.
pub const ENGINES: [(&str, &str, Load); 2] = [
    ("tract", env!("TRACT_VERSION"), crate::tract::load),
    ("rten", env!("RTEN_VERSION"), crate::rten::load),
];

impl Output {
    /// Its elements.
    pub fn values(self) -> Result<Vec<f32>> {
        Ok(match self {
            Output::Tract(tensor) => tensor.try_as_plain_ram()?.as_slice::<f32>()?.to_vec(),
            Output::Rten(value) => {
                let tensor: rten_tensor::Tensor<f32> = value.try_into()?;
                tensor.to_vec()
            }
        })
    }
}
