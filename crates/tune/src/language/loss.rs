//! The loss of a language model over the rows of a batch.

use super::{Encoded, Model};
use crate::data::{Batches, IGNORED};
use crate::{Lora, Selection, TuneError, cross_entropy_sum, store_as};
use kinglet_formats::lm::adapter::rows_of;
use kinglet_formats::lm::{Build, build};
use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::{
    Builder, DType, Dim, Dims, Fold, Graph, Shape, ValueId, ValueType, infer, set_input_shapes,
};

/// A model with its loss: the mean surprise, in nats, at the targets that count.
#[derive(Clone, Debug)]
pub struct Objective {
    /// Inputs: those of [`kinglet_formats::lm::build`]; `targets`, i32 [rows], of which −100 does not
    /// count; and `share`, one float that the sum of losses is multiplied by: 1 / targets that count,
    /// of all parts of a batch.
    pub graph: Graph,
    /// What steps make smaller.
    pub loss: ValueId,
    /// What evaluations compute: the mean surprise, whatever else is learned.
    pub measure: ValueId,
    /// What is learned: the model's weights, or what was put beside them.
    pub weights: Vec<ValueId>,
    /// The sizes of the inputs.
    pub shapes: Vec<Dims>,
}

impl Objective {
    /// Lets only those of the weights be learned that `selection` chooses, by GGUF's names.
    ///
    /// # Errors
    /// If a choice is of none.
    pub fn select(&mut self, selection: &Selection) -> Result<(), TuneError> {
        let names: Vec<&str> =
            self.weights.iter().map(|w| self.graph.value(*w).name.as_str()).collect();
        let mut chosen = selection.of(&names)?.into_iter();
        self.weights.retain(|_| chosen.next().unwrap_or(false));
        Ok(())
    }

    /// Lets every product see the weights of `model`, whose objective this is, as a file of `encoded` will
    /// hold them, those that are not learned too.
    ///
    /// # Errors
    /// If a weight can't be held so.
    pub fn quantise(&mut self, encoded: Encoded, model: &Model) -> Result<(), TuneError> {
        let tied = model.is_tied();
        let constants: Vec<(ValueId, DType)> = self
            .graph
            .values_with_ids()
            .filter_map(|(id, value)| {
                let data = value.data.as_ref().filter(|_| model.has(&value.name))?;
                // What is not learned is written as it is, where it is no f32.
                let written = data.dtype() == DType::F32 || self.weights.contains(&id);
                let name = rows_of(&value.name).map_or(value.name.as_str(), |(whole, _)| whole);
                let dtype = encoded.of(name, data.dims(), tied);
                (written && dtype != DType::F32).then_some((id, dtype))
            })
            .collect();
        for (weight, dtype) in constants {
            store_as(&mut self.graph, weight, dtype)?;
        }
        Ok(())
    }

    /// Lets `lora` be learned beside the weights, which stay as they are.
    ///
    /// # Errors
    /// If there is no weight that it can be learned beside.
    pub fn adapt(&mut self, lora: Lora, seed: u64) -> Result<(), TuneError> {
        self.weights = lora.adapt(&mut self.graph, &self.weights, seed)?;
        Ok(())
    }
}

/// The loss of `model` over batches such as `batches` makes.
///
/// # Errors
/// If the model can't be built, or has not learned as many positions.
pub fn objective(model: &Model, batches: &Batches) -> Result<Objective, TuneError> {
    let mut graph = step(model, batches)?;
    let logits = graph.outputs[0];
    let targets = ValueType::new(DType::I32, vec![Dim::symbol("wanted")]);
    let targets = graph.add_input(TARGETS, targets);
    let share = graph.add_input(SHARE, ValueType::new(DType::F32, Shape::new(Vec::new())));
    let sum = cross_entropy_sum(&mut graph, logits, targets, Some(IGNORED.into()))?;
    let loss = Builder::new(&mut graph, "loss").binary(BinaryFn::Mul, sum, share)?;
    let weights = graph
        .values_with_ids()
        .filter(|(_, value)| value.data.is_some() && model.has(&value.name))
        .map(|(id, _)| id)
        .collect();
    let (lines, pages) = (batches.lines(), pages(batches));
    let rows: Dims = [lines * batches.context()].as_slice().into();
    let mut shapes = vec![rows.clone(); 5];
    shapes.push([lines, pages].as_slice().into());
    shapes.extend([rows.clone(), rows, Dims::new()]);
    // Sizes are numbers from here on: expressions of symbols grow with what is put beside weights.
    set_input_shapes(&mut graph, &shapes)?;
    infer(&mut graph, Fold::Shapes)?;
    Ok(Objective { graph, loss, measure: loss, weights, shapes })
}

/// The inputs beside those of the model.
pub(super) const TARGETS: &str = "targets";
pub(super) const SHARE: &str = "share";

fn pages(batches: &Batches) -> usize {
    batches.lines() * batches.pages_of_line()
}

/// `model` over the rows of batches such as `batches` makes.
pub(super) fn step(model: &Model, batches: &Batches) -> Result<Graph, TuneError> {
    let (lines, context) = (batches.lines(), batches.context());
    if let Some(positions) = model.weights().get("position_embd.weight").map(|t| t.dims()[0])
        && context > positions
    {
        return Err(TuneError::Input(format!(
            "a context of {context} is asked for, and the model has {positions} positions"
        )));
    }
    let sizes = Build { pages: pages(batches), sequences: lines, cache: DType::F32 };
    Ok(build(&model.config, &model.family, model.weights(), sizes)?)
}
