//! Nets that are no language models: what of them is learned, what their loss is, and how they are
//! written.

mod head;
mod objective;
mod weights;

use crate::backward::widened;
use crate::{Objective, TuneError};
use kinglet_formats::{LoadError, Named, files, with_weights};
use kinglet_graph::{Dim, Dims, Graph, GraphError, Tensor, ValueId};
use kinglet_lm::Fnv;
use std::path::{Path, PathBuf};

/// A net in a TFLite or ONNX file, to be trained.
#[derive(Clone, Debug)]
pub struct Net {
    path: PathBuf,
    graph: Graph,
    /// What the loss is of: the output, or what its softmax is taken of.
    scores: ValueId,
    /// Whether the scores are of other classes than the file's.
    new_head: bool,
}

impl Net {
    /// The net in the file at `path`.
    ///
    /// # Errors
    /// If it can't be read, or has several outputs or none of floats.
    pub fn open(path: &Path) -> Result<Net, TuneError> {
        let graph = kinglet_formats::load(path)?;
        let fail = |m: String| LoadError::new(path, GraphError::new("outputs", m));
        let [output] = graph.outputs[..] else {
            let m = format!("it has {}: nets of one output are trained", graph.outputs.len());
            return Err(fail(m).into());
        };
        let ty = &graph.value(output).ty;
        if !ty.dtype.is_float() {
            let m = format!("it is {ty}: nets of floats are trained, and this one is quantised");
            return Err(fail(m).into());
        }
        let scores = head::scores(&graph, output);
        Ok(Net { path: path.into(), graph, scores, new_head: false })
    }

    /// Its graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The name, element type and sizes of each input for one sample: without its first axis, the batch.
    ///
    /// # Errors
    /// If another size is open.
    pub fn inputs(&self) -> Result<Vec<Input>, TuneError> {
        let input = |v: &ValueId| {
            let value = self.graph.value(*v);
            let fail = |m: &str| {
                let place = format!("input '{}', {}", value.name, value.ty);
                LoadError::new(&self.path, GraphError::new(place, m))
            };
            let dims = value.ty.shape.dims().ok_or_else(|| fail("its sizes are open"))?;
            let Some((_, rest)) = dims.split_first() else {
                return Err(fail("it has no axis for the samples of a batch").into());
            };
            let sizes: Option<Dims> = rest.iter().map(Dim::fixed).collect();
            let dims = sizes.ok_or_else(|| fail("sizes besides the first are open: fix them"))?;
            Ok(Input { name: value.name.clone(), dtype: value.ty.dtype, dims })
        };
        self.graph.inputs.iter().map(input).collect()
    }

    /// Tells other nets from this one.
    pub fn fingerprint(&self) -> String {
        let mut hash = Fnv::new();
        hash.take(&[u8::from(self.new_head)]);
        for value in self.graph.values() {
            hash.take(value.name.as_bytes());
            hash.take(value.data.as_ref().map_or(&[][..], Tensor::raw));
        }
        hash.text()
    }

    /// Writes the net with the weights `trained` as a file of the kind that it was read from; one that
    /// is at `out` stays until the new one is whole.
    ///
    /// # Errors
    /// If the file can't hold them, or not be written.
    pub fn write(&self, trained: Vec<(String, Tensor)>, out: &Path) -> Result<(), TuneError> {
        let mut weights = Named::default();
        for (name, tensor) in trained {
            weights.insert(name, tensor);
        }
        let bytes = self.bytes(weights)?;
        files::write(out, &bytes)
            .map_err(|e| TuneError::Work(format!("{}: cannot write it: {e}", out.display())))
    }

    /// Whether what is learned of `objective`, which is this net's, can be written, which is better known
    /// before.
    ///
    /// # Errors
    /// Why not.
    pub fn check_output(&self, objective: &Objective) -> Result<(), TuneError> {
        let mut weights = Named::default();
        for v in &objective.weights {
            let value = objective.graph.value(*v);
            let wide = widened(&objective.graph, *v).map_err(|e| LoadError::new(&self.path, e))?;
            let Some(wide) = wide else { continue };
            if value.name.is_empty() || weights.insert(value.name.clone(), wide).is_some() {
                let m = "is the name of several weights, or of none: give each its own";
                let place = format!("name '{}'", value.name);
                return Err(LoadError::new(&self.path, GraphError::new(place, m)).into());
            }
        }
        self.bytes(weights).map(drop)
    }

    /// The net's file with these weights.
    fn bytes(&self, mut weights: Named<Tensor>) -> Result<Vec<u8>, TuneError> {
        // A new head that was not trained is written too.
        for v in head::constants(&self.graph, self.scores).iter().filter(|_| self.new_head) {
            let name = &self.graph.value(*v).name;
            let wide = widened(&self.graph, *v).map_err(|e| LoadError::new(&self.path, e))?;
            if let Some(wide) = wide.filter(|_| !weights.contains(name)) {
                weights.insert(name.clone(), wide);
            }
        }
        let output = self.graph.value(self.graph.outputs[0]).name.as_str();
        let classes = self.new_head.then(|| self.classes()).transpose()?;
        let outputs: Vec<(&str, usize)> = classes.into_iter().map(|n| (output, n)).collect();
        Ok(with_weights(&self.path, &weights, &outputs)?)
    }
}

/// What a net takes of one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// The input's name.
    pub name: String,
    /// Its element type.
    pub dtype: kinglet_graph::DType,
    /// Its sizes.
    pub dims: Dims,
}
