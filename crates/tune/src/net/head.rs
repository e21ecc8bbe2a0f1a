//! What a net's classes are made by: its scores, and weights for other classes.

use super::Net;
use crate::TuneError;
use crate::backward::place;
use kinglet_formats::LoadError;
use kinglet_graph::ops::softmax::Softmax;
use kinglet_graph::{Dim, Fold, Graph, GraphError, Shape, Tensor, ValueId, infer};

/// What the softmax is taken of, where `output` is one; else `output`.
pub(super) fn scores(graph: &Graph, output: ValueId) -> ValueId {
    let node = graph.nodes().iter().find(|node| node.outputs.contains(&output));
    let softmax = node.filter(|node| node.op.downcast::<Softmax>().is_some_and(|s| s.beta == 1.0));
    softmax.and_then(|node| *node.inputs.first()?).unwrap_or(output)
}

/// The constants of the last layer before `scores`: up to the first node, from there back, that reads a
/// matrix or a kernel.
pub(super) fn constants(graph: &Graph, scores: ValueId) -> Vec<ValueId> {
    let mut found = Vec::new();
    let mut at = Some(scores);
    while let Some(v) = at {
        let Some(node) = graph.nodes().iter().find(|node| node.outputs.contains(&v)) else { break };
        let inputs = || node.inputs.iter().flatten().copied();
        let data = |v: &ValueId| graph.value(*v).data.as_ref();
        let own = inputs()
            .filter(|v| data(v).is_some_and(|d| d.dtype().is_float() && d.view().len() > 1));
        found.extend(own);
        if found.iter().any(|v| data(v).is_some_and(|d| d.dims().len() > 1)) {
            break;
        }
        at = inputs().find(|v| data(v).is_none());
    }
    found
}

impl Net {
    /// How many classes its scores are of, or numbers its output holds, for one sample.
    ///
    /// # Errors
    /// If the net can't be inferred for one sample.
    pub fn classes(&self) -> Result<usize, TuneError> {
        let graph = self.sized(1)?;
        let dims = graph.value(self.scores).ty.shape.fixed();
        let dims = dims.ok_or_else(|| {
            let m = "its sizes can't be told for one sample";
            LoadError::new(&self.path, GraphError::new(place(&graph, self.scores), m))
        })?;
        Ok(dims.iter().product())
    }

    /// The net with scores for `classes`, of which the last layer's weights are zero: as many as the file's
    /// leave it as it is.
    ///
    /// # Errors
    /// If the file's format holds no other sizes, or the last layer is not of a kind that can be resized.
    pub fn with_classes(mut self, classes: usize) -> Result<Net, TuneError> {
        let had = self.classes()?;
        if had == classes {
            return Ok(self);
        }
        let fail = |m: String| TuneError::Input(format!("{}: {m}", self.path.display()));
        if !kinglet_formats::can_resize(&self.path) {
            return Err(fail(format!(
                "the net has {had} classes and the data {classes}: a TFLite file keeps its sizes; give \
                 data of {had} classes, or the net as ONNX"
            )));
        }
        let own = constants(&self.graph, self.scores);
        let fits = |graph: &Graph| {
            let dims = graph.value(self.scores).ty.shape.fixed();
            dims.is_some_and(|dims| dims.iter().product::<usize>() == classes)
        };
        // Which axis of the matrix is the classes', its inference tells.
        for axis in 0..4 {
            let mut net = self.clone();
            let mut changed = false;
            for v in &own {
                let data = self.graph.value(*v).data.as_ref();
                let Some(dims) = data.map(|data| data.dims().to_vec()) else { continue };
                let axis = if dims.len() > 1 { axis } else { 0 };
                if dims.get(axis) == Some(&had) {
                    let mut dims = dims;
                    dims[axis] = classes;
                    let dtype = net.graph.value(*v).ty.dtype;
                    net.graph.set_constant(*v, Tensor::zeros(dtype, &dims)?);
                    changed = true;
                }
            }
            let output = net.graph.outputs[0];
            for v in [net.scores, output] {
                net.graph.value_mut(v).ty.shape = Shape::unknown();
            }
            if changed && net.sized(1).is_ok_and(|graph| fits(&graph)) {
                net.new_head = true;
                return Ok(net);
            }
        }
        self.new_head = false;
        Err(fail(format!(
            "the net has {had} classes and the data {classes}, and its last layer can't be given so many"
        )))
    }

    /// Its graph for `batch` samples, inferred.
    pub(super) fn sized(&self, batch: usize) -> Result<Graph, TuneError> {
        let mut graph = self.graph.clone();
        for v in graph.inputs.clone() {
            let ty = &mut graph.value_mut(v).ty;
            if let Some([_, rest @ ..]) = ty.shape.dims() {
                let dims = std::iter::once(Dim::from(batch)).chain(rest.iter().cloned());
                ty.shape = Shape::new(dims.collect());
            }
        }
        // What the file says of other batches.
        for node in graph.nodes().to_vec() {
            for v in node.outputs {
                graph.value_mut(v).ty.shape = Shape::unknown();
            }
        }
        infer(&mut graph, Fold::Shapes).map_err(|e| LoadError::new(&self.path, e))?;
        Ok(graph)
    }
}
