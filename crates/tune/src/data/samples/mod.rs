//! Samples: what nets other than language models are trained on.

mod arrays;
mod images;
mod labels;
mod windows;

use super::{Batch, Epoch, Source};
use crate::TuneError;
use crate::random::Random;
use kinglet_graph::{Bytes, DType, Tensor};
use std::fmt;
use std::sync::Arc;

pub use arrays::Arrays;
pub use images::Images;
pub use windows::{Windows, WindowsOptions};

/// What samples teach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// One of so many classes.
    Classes(usize),
    /// So many numbers.
    Values(usize),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::Classes(n) => write!(f, "{n} classes"),
            Goal::Values(1) => f.write_str("1 value a sample"),
            Goal::Values(n) => write!(f, "{n} values a sample"),
        }
    }
}

/// One sample.
#[derive(Clone, Debug)]
pub struct Sample {
    /// For each input of the net, a tensor without the axis of the batch.
    pub inputs: Vec<Tensor>,
    /// What is to be learned of it.
    pub target: Target,
}

/// What is to be learned of a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A class.
    Class(u32),
    /// Numbers.
    Values(Vec<f32>),
}

/// Samples that can be read in any order.
pub trait Samples {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What all of them teach.
    fn goal(&self) -> Goal;

    /// The names of the classes, where they have any.
    fn names(&self) -> &[String] {
        &[]
    }

    /// Sample `i`. Where it is varied from epoch to epoch, `chance` says how; `None`: not at all.
    ///
    /// # Errors
    /// If it can't be read again.
    fn sample(&self, i: usize, chance: Option<u64>) -> Result<Sample, TuneError>;

    /// Tells other samples from these.
    fn fingerprint(&self) -> String;
}

/// Samples in batches.
#[derive(Clone)]
pub struct Sampled {
    samples: Arc<dyn Samples>,
    chosen: Vec<u32>,
    batch: usize,
    /// Samples of a part.
    part: usize,
    seed: u64,
    varied: bool,
}

impl Sampled {
    /// Of the samples `chosen` of `samples`, `batch` at a time, in orders of `seed`; `varied`: each
    /// epoch anew, where they can be.
    pub fn new(
        samples: Arc<dyn Samples>,
        chosen: Vec<u32>,
        batch: usize,
        seed: u64,
        varied: bool,
    ) -> Sampled {
        let batch = batch.max(1);
        Sampled { samples, chosen, batch, part: batch, seed, varied }
    }

    /// The samples `of_chosen`, of epoch `number`.
    fn part(&self, of_chosen: &[u32], number: u64) -> Result<Batch, TuneError> {
        let mut stacks: Vec<Stack> = Vec::new();
        let (mut classes, mut values, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for of_chosen in of_chosen {
            let sample = self.chosen[*of_chosen as usize];
            let chance = self
                .varied
                .then(|| Random::new(self.seed ^ number.rotate_left(32), sample.into()).bits());
            let Sample { inputs, target } = self.samples.sample(sample as usize, chance)?;
            if stacks.is_empty() {
                stacks = inputs.iter().map(Stack::like).collect();
            }
            stacks.iter_mut().zip(&inputs).try_for_each(|(stack, input)| stack.push(input))?;
            match target {
                Target::Class(class) => classes.push(class as i32),
                Target::Values(own) => values.extend(own),
            }
            counts.push(1.0);
        }
        let rows = counts.len();
        // The last of an epoch may have fewer: what is missing is zero and does not count.
        let targets = match self.samples.goal() {
            Goal::Classes(_) => {
                classes.resize(self.part, super::IGNORED);
                vec![Tensor::from_slice(&[self.part], &classes)?]
            }
            Goal::Values(each) => {
                values.resize(self.part * each, 0.0f32);
                counts.resize(self.part, 0.0f32);
                vec![
                    Tensor::from_slice(&[self.part, each], &values)?,
                    Tensor::from_slice(&[self.part, 1], &counts)?,
                ]
            }
        };
        let inputs = stacks.into_iter().map(|stack| stack.tensor(self.part));
        let inputs = inputs.chain(targets.into_iter().map(Ok)).collect::<Result<_, TuneError>>()?;
        Ok(Batch { inputs, rows, counted: rows })
    }
}

impl Source for Sampled {
    fn epoch(&self, number: u64) -> Epoch {
        let most = self.batch;
        Epoch::new(self.chosen.len(), self.seed, number, |left| most.min(left.len()))
    }

    fn batch(&self, epoch: &Epoch, i: usize) -> Result<Vec<Batch>, TuneError> {
        epoch.batch(i).chunks(self.part).map(|part| self.part(part, epoch.number())).collect()
    }

    fn run_in_parts(&mut self, parts: usize) {
        self.part = self.batch.div_ceil(parts.max(1));
    }

    fn fingerprint(&self) -> String {
        self.samples.fingerprint()
    }
}

/// Tensors of one type and size, one after the other.
struct Stack {
    dtype: DType,
    dims: Vec<usize>,
    bytes: Vec<u8>,
    each: usize,
}

impl Stack {
    fn like(tensor: &Tensor) -> Stack {
        let (dtype, dims) = (tensor.dtype(), tensor.dims().to_vec());
        Stack { dtype, dims, bytes: Vec::new(), each: tensor.raw().len() }
    }

    fn push(&mut self, tensor: &Tensor) -> Result<(), TuneError> {
        if tensor.dims() != self.dims || tensor.dtype() != self.dtype {
            return Err(TuneError::Work("samples of one batch differ in size".into()));
        }
        self.bytes.extend_from_slice(tensor.raw());
        Ok(())
    }

    fn tensor(mut self, batch: usize) -> Result<Tensor, TuneError> {
        self.bytes.resize(batch * self.each, 0);
        let dims: Vec<usize> = [batch].into_iter().chain(self.dims).collect();
        Ok(Tensor::from_bytes(self.dtype, &dims, Bytes::new(Arc::new(self.bytes)))?)
    }
}
