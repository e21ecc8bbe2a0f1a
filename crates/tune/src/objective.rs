//! What a training makes smaller.

use crate::selection::layer;
use crate::{Lora, Losses, Selection, TuneError};
use kinglet_graph::{Dims, Graph, ValueId};

/// A model with its loss.
#[derive(Clone, Debug)]
pub struct Objective {
    /// Inputs: those of a [`crate::data::Batch`]; and last `share`, one float that the sum of losses is
    /// multiplied by: 1 / targets that count, of all parts of a batch. Outputs: what an evaluation tells
    /// beside the loss, none or how many targets were met, one float.
    pub graph: Graph,
    /// What steps make smaller.
    pub loss: ValueId,
    /// What evaluations compute: the loss by targets, whatever else is learned.
    pub measure: ValueId,
    /// What the loss is of: a score for each class.
    pub scores: ValueId,
    /// What is learned: the model's weights, or what was put beside them.
    pub weights: Vec<ValueId>,
    /// The sizes of the inputs.
    pub shapes: Vec<Dims>,
    /// Of each of the weights, the number of its layer, where it is in one.
    layers: Vec<Option<usize>>,
}

impl Objective {
    /// Of `graph`, whose weights have their layers by GGUF's names (`blk.0.…`) or, where none is called so,
    /// in the order of the nodes that read them: each matrix or kernel begins one.
    pub fn new(
        graph: Graph,
        (loss, scores): (ValueId, ValueId),
        weights: Vec<ValueId>,
        shapes: Vec<Dims>,
    ) -> Objective {
        let mut layers: Vec<_> = weights.iter().map(|w| layer(&graph.value(*w).name)).collect();
        if layers.iter().all(Option::is_none) {
            layers = layers_by_order(&graph, &weights);
        }
        Objective { graph, loss, measure: loss, scores, weights, shapes, layers }
    }

    /// What its weights are called.
    pub fn names(&self) -> Vec<&str> {
        self.weights.iter().map(|w| self.graph.value(*w).name.as_str()).collect()
    }

    /// How many numbers are learned.
    pub fn parameters(&self) -> usize {
        let size = |w: &ValueId| self.graph.value(*w).data.as_ref().map_or(0, |t| t.view().len());
        self.weights.iter().map(size).sum()
    }

    /// How many layers its weights are of.
    pub fn layers(&self) -> usize {
        self.layers.iter().flatten().map(|n| n + 1).max().unwrap_or(0)
    }

    /// Lets only those of the weights be learned that `selection` chooses.
    ///
    /// # Errors
    /// If a choice is of none.
    pub fn select(&mut self, selection: &Selection) -> Result<(), TuneError> {
        let named: Vec<_> = self.names().into_iter().zip(self.layers.iter().copied()).collect();
        let chosen = selection.of(&named)?;
        let mut each = chosen.iter();
        self.weights.retain(|_| *each.next().unwrap_or(&false));
        let mut each = chosen.iter();
        self.layers.retain(|_| *each.next().unwrap_or(&false));
        Ok(())
    }

    /// What steps make smaller and evaluations compute.
    pub fn losses(&self) -> Losses {
        Losses { loss: self.loss, measure: self.measure }
    }

    /// Lets these be learned with the weights, in no layer.
    pub(crate) fn learn_too(&mut self, more: Vec<ValueId>) {
        self.layers.extend(more.iter().map(|_| None));
        self.weights.extend(more);
    }

    /// Lets `lora` be learned beside the weights, which stay as they are.
    ///
    /// # Errors
    /// If there is no weight that it can be learned beside.
    pub fn adapt(&mut self, lora: Lora, seed: u64) -> Result<(), TuneError> {
        self.weights = lora.adapt(&mut self.graph, &self.weights, seed)?;
        self.layers = vec![None; self.weights.len()];
        Ok(())
    }
}

fn layers_by_order(graph: &Graph, weights: &[ValueId]) -> Vec<Option<usize>> {
    let mut layers = vec![None; weights.len()];
    let mut begun = 0usize;
    for node in graph.nodes() {
        let read = |v: &ValueId| node.inputs.contains(&Some(*v));
        let own: Vec<usize> = (0..weights.len()).filter(|i| read(&weights[*i])).collect();
        let rank = |i: &usize| graph.value(weights[*i]).ty.shape.rank().unwrap_or(0);
        if own.iter().any(|i| layers[*i].is_none() && rank(i) > 1) {
            begun += 1;
        }
        for i in own {
            layers[i] = layers[i].or(Some(begun.saturating_sub(1)));
        }
    }
    layers
}
