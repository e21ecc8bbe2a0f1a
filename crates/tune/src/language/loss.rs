//! The loss of a language model over the rows of a batch.

use super::Model;
use crate::data::{Batches, IGNORED};
use crate::{Objective, TuneError, cross_entropy_sum};
use kinglet_formats::lm::{Build, build};
use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::{Builder, DType, Dim, Dims, Fold, Shape, ValueType, infer, set_input_shapes};

/// The loss of `model` over batches such as `batches` makes: the mean surprise, in nats, at the targets
/// that count. Inputs are those of [`kinglet_formats::lm::build`], and `targets`, i32 [rows], of which
/// −100 does not count.
///
/// # Errors
/// If the model can't be built, or has not learned as many positions.
pub fn objective(model: &Model, batches: &Batches) -> Result<Objective, TuneError> {
    let (lines, context) = (batches.lines(), batches.context());
    if let Some(positions) = model.weights().get("position_embd.weight").map(|t| t.dims()[0])
        && context > positions
    {
        return Err(TuneError::Input(format!(
            "a context of {context} is asked for, and the model has {positions} positions"
        )));
    }
    let pages = batches.pages();
    let sizes = Build { pages, sequences: lines, cache: DType::F32 };
    let mut graph = build(&model.config, &model.family, model.weights(), sizes)?;
    let logits = graph.outputs[0];
    let n = lines * context;
    let targets = ValueType::new(DType::I32, vec![Dim::symbol("wanted")]);
    let targets = graph.add_input("targets", targets);
    let share = graph.add_input("share", ValueType::new(DType::F32, Shape::new(Vec::new())));
    let sum = cross_entropy_sum(&mut graph, logits, targets, Some(IGNORED.into()))?;
    let loss = Builder::new(&mut graph, "loss").binary(BinaryFn::Mul, sum, share)?;
    graph.outputs.clear();
    let weights = graph
        .values_with_ids()
        .filter(|(_, value)| value.data.is_some() && model.has(&value.name))
        .map(|(id, _)| id)
        .collect();
    let rows: Dims = [n].as_slice().into();
    let mut shapes = vec![rows.clone(); 5];
    shapes.push([lines, pages].as_slice().into());
    shapes.extend([rows.clone(), rows, Dims::new()]);
    // Sizes are numbers from here on: expressions of symbols grow with what is put beside weights.
    set_input_shapes(&mut graph, &shapes)?;
    infer(&mut graph, Fold::Shapes)?;
    Ok(Objective::new(graph, loss, weights, shapes))
}
