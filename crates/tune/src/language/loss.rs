//! The loss of a language model over the rows of a batch.

use super::{Encoded, Model};
use crate::data::{Batches, IGNORED};
use crate::{Objective, TuneError, cross_entropy_sum, store_as};
use kinglet_formats::lm::adapter::rows_of;
use kinglet_formats::lm::{Build, build};
use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::{
    Builder, DType, Dim, Dims, Fold, Graph, Shape, ValueId, ValueType, infer, set_input_shapes,
};

/// The loss of `model` over batches such as `batches` makes: the mean surprise, in nats, at the targets
/// that count. Inputs are those of [`kinglet_formats::lm::build`], and `targets`, i32 [rows], of which
/// −100 does not count.
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
    graph.outputs.clear();
    let weights = graph
        .values_with_ids()
        .filter(|(_, value)| value.data.is_some() && model.has(&value.name))
        .map(|(id, _)| id)
        .collect();
    let lines = batches.lines();
    let rows: Dims = [lines * batches.context()].as_slice().into();
    let mut shapes = vec![rows.clone(); 5];
    shapes.push([lines, batches.pages()].as_slice().into());
    shapes.extend([rows.clone(), rows, Dims::new()]);
    // Sizes are numbers from here on: expressions of symbols grow with what is put beside weights.
    set_input_shapes(&mut graph, &shapes)?;
    infer(&mut graph, Fold::Shapes)?;
    Ok(Objective::new(graph, (loss, logits), weights, shapes))
}

/// The inputs beside those of the model.
pub(super) const TARGETS: &str = "targets";
pub(super) const SHARE: &str = "share";

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
    let sizes = Build { pages: batches.pages(), sequences: lines, cache: DType::F32 };
    Ok(build(&model.config, &model.family, model.weights(), sizes)?)
}

impl Objective {
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
}
