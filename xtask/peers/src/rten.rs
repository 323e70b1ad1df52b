//! rten, with its weights packed when they are loaded.

use crate::engine::{Engine, Output};
use anyhow::Result;
use rten::{Model, ModelOptions, RunOptions, ThreadPool};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use std::path::Path;
use std::sync::Arc;

struct Rten {
    model: Model,
    images: Tensor<f32>,
    options: RunOptions,
}

/// See [`crate::engine::Load`].
pub fn load(model: &Path, shape: &[usize], images: Vec<f32>, threads: usize) -> Result<Box<dyn Engine>> {
    let mut options = ModelOptions::with_all_ops();
    let model = options.prepack_weights(true).load_file(model)?;
    let images = Tensor::from_data(shape, images);
    let pool = Arc::new(ThreadPool::with_num_threads(threads));
    Ok(Box::new(Rten { model, images, options: RunOptions::default().with_thread_pool(Some(pool)) }))
}

impl Engine for Rten {
    fn run(&mut self) -> Result<Output> {
        let output = self.model.run_one(self.images.view().into(), Some(self.options.clone()))?;
        Ok(Output::Rten(output))
    }
}
