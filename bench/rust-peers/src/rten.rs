//! rten, on ONNX files.

use std::sync::Arc;

use anyhow::{Context, Result};
use rten::{Dimension, Model, ModelOptions, RunOptions, ThreadPool};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;

use crate::net;

pub struct Engine {
    model: Model,
    input: NdTensor<f32, 4>,
    options: RunOptions,
}

impl Engine {
    pub fn new(path: &str, threads: usize, input: Vec<f32>) -> Result<Engine> {
        let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(path)?;
        let shape = model.input_shape(0).context("the model has no input")?;
        let sizes: Option<Vec<usize>> = shape
            .iter()
            .map(|size| match size {
                Dimension::Fixed(size) => Some(*size),
                Dimension::Symbolic(_) => None,
            })
            .collect();
        let sizes: [usize; 4] =
            sizes.and_then(|s| s.try_into().ok()).context("the input is no picture")?;
        let pool = Arc::new(ThreadPool::with_num_threads(threads));
        let options = RunOptions::default().with_thread_pool(Some(pool));
        Ok(Engine { model, input: NdTensor::from_data(sizes, input), options })
    }
}

impl net::Engine for Engine {
    fn run(&mut self) -> Result<Vec<f32>> {
        let output = self.model.run_one(self.input.view().into(), Some(self.options.clone()))?;
        let output: rten_tensor::Tensor<f32> = output.try_into()?;
        Ok(output.to_vec())
    }
}
