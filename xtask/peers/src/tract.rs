//! tract, with its matrix products on a pool of threads when there is more than one.

use crate::engine::{Engine, Output};
use anyhow::{Context, Result};
use std::path::Path;
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

struct Tract {
    state: TypedSimpleState,
    images: TValue,
}

/// See [`crate::engine::Load`].
pub fn load(model: &Path, shape: &[usize], images: Vec<f32>, threads: usize) -> Result<Box<dyn Engine>> {
    if threads > 1 {
        set_default_executor(Executor::multithread(threads));
    }
    let network = tract_onnx::onnx().model_for_path(model)?;
    let network = network.with_input_fact(0, f32::fact(shape).into())?.into_optimized()?;
    let images = Tensor::from_shape(shape, &images)?.into_tvalue();
    Ok(Box::new(Tract { state: network.into_runnable()?.spawn()?, images }))
}

impl Engine for Tract {
    fn run(&mut self) -> Result<Output> {
        let outputs = self.state.run(tvec!(self.images.clone()))?;
        Ok(Output::Tract(outputs.into_iter().next().context("the network has no output")?))
    }
}
