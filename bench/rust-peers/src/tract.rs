//! tract, on ONNX files.

use anyhow::Result;
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

use crate::net;

pub struct Engine {
    model: Arc<TypedRunnableModel>,
    input: TValue,
}

impl Engine {
    pub fn new(path: &str, threads: usize, input: Vec<f32>) -> Result<Engine> {
        set_default_executor(Executor::multithread(threads));
        let model = tract_onnx::onnx().model_for_path(path)?;
        let fact = model.input_fact(0)?.clone();
        let shape = fact.shape.as_concrete_finite()?;
        let shape = shape.ok_or_else(|| anyhow::anyhow!("the input has no fixed size"))?;
        let input = Tensor::from_shape(&shape, &input)?.into();
        Ok(Engine { model: model.into_optimized()?.into_runnable()?, input })
    }
}

impl net::Engine for Engine {
    fn run(&mut self) -> Result<Vec<f32>> {
        let output = self.model.run(tvec!(self.input.clone()))?;
        Ok(output[0].to_plain_array_view::<f32>()?.iter().copied().collect())
    }
}
