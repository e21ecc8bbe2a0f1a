//! Normalisations, dropout and losses.

use kinglet_graph::ops::batch_norm::BatchNormTraining;
use kinglet_graph::ops::fill::Fill;
use kinglet_graph::ops::loss::{ClassLoss, LossReduction};
use kinglet_graph::ops::norm::{
    BatchNorm, GroupNorm, LayerNorm, LocalResponseNorm, LpNorm, RmsNorm,
};
use kinglet_graph::ops::random::Dropout;
use kinglet_graph::ops::reduce::MeanVarianceNorm;
use kinglet_graph::ops::window::Layout;
use kinglet_graph::{Bool, OpError, OpResult, Tensor};

use super::elementwise::scalar_like;
use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    op("BatchNormalization", 6, batch_norm),
    op("Dropout", 6, dropout),
    op("GroupNormalization", 18, |cx| {
        cx.ignore(&["stash_type"]);
        let groups = cx.need("num_groups", cx.opt_int("num_groups")?)?;
        let groups =
            usize::try_from(groups).map_err(|_| OpError::new(format!("num_groups is {groups}")))?;
        group_norm(cx, Some(groups))
    }),
    op("InstanceNormalization", 6, |cx| group_norm(cx, None)),
    op("LRN", 1, local_response_norm),
    op("LayerNormalization", 17, layer_norm),
    op("LpNormalization", 1, |cx| {
        let (axis, p) = (cx.int("axis", -1)?, cx.int("p", 2)?);
        let epsilon = cx.float("epsilon", 0.0)?;
        cx.emit(LpNorm { axis, p: p as f32, epsilon })
    }),
    op("MeanVarianceNormalization", 9, |cx| {
        let axes = cx.opt_ints("axes")?.unwrap_or(&[0, 2, 3]).to_vec();
        cx.emit(MeanVarianceNorm { axes })
    }),
    op("NegativeLogLikelihoodLoss", 12, |cx| class_loss(cx, false)),
    op("RMSNormalization", 23, |cx| {
        cx.ignore(&["stash_type"]);
        let (axis, epsilon) = (cx.int("axis", -1)?, cx.float("epsilon", 1e-5)?);
        cx.emit(RmsNorm { axis, epsilon })
    }),
    op("SoftmaxCrossEntropyLoss", 12, |cx| class_loss(cx, true)),
];

const LAYOUT: Layout = Layout::ChannelsFirst;

fn batch_norm(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(5)?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    let momentum = cx.float("momentum", 0.9)?;
    if cx.version() < 9 && !cx.flag("spatial", true)? {
        return Err(OpError::new("statistics of single activations (spatial 0) are not supported"));
    }
    let training = match cx.version() {
        6 => !cx.flag("is_test", false)?,
        _ => cx.flag("training_mode", false)?,
    };
    if training {
        if cx.version() < 14 {
            return Err(OpError::new("training is not supported: export the model for inference"));
        }
        return cx.emit(BatchNormTraining { epsilon, momentum, layout: LAYOUT });
    }
    cx.at_most_outputs(1)?;
    cx.emit(BatchNorm { epsilon, layout: LAYOUT })
}

/// At inference, its input; and a mask that drops nothing. From version 12 on an input asks for
/// training.
fn dropout(cx: &mut Cx<'_, '_>) -> OpResult {
    let x = cx.input(0)?;
    let training = match cx.version() {
        6 => !cx.flag("is_test", false)?,
        7..=11 => false,
        _ => match cx.opt(2).map(|mode| cx.data(mode)) {
            Some(Some(mode)) => mode.view().scalar::<Bool>()?.get(),
            Some(None) => true,
            None => false,
        },
    };
    if training && cx.version() >= 12 {
        let seed = cx.opt_int("seed")?.map(i64::cast_unsigned);
        return cx.emit(Dropout { seed });
    }
    if training {
        return Err(OpError::new("training is not supported: export the model for inference"));
    }
    cx.ignore(&["ratio", "seed"]);
    let y = cx.call("Identity", &[x], &[])?;
    let mut results = vec![y];
    if cx.wants(1) {
        let shape = cx.call("Shape", &[x], &[])?;
        let kept = match cx.version() {
            ..10 => scalar_like(cx, x, 1.0)?,
            _ => cx.constant(Tensor::scalar(Bool::from(true))),
        };
        results.push(cx.apply(Fill, &[shape, kept])?);
    }
    cx.finish_all(results);
    Ok(())
}

fn group_norm(cx: &mut Cx<'_, '_>, groups: Option<usize>) -> OpResult {
    let epsilon = cx.float("epsilon", 1e-5)?;
    cx.emit(GroupNorm { groups, epsilon, layout: LAYOUT })
}

fn layer_norm(cx: &mut Cx<'_, '_>) -> OpResult {
    // The type of the statistics; they are computed in doubles and given as floats.
    if cx.int("stash_type", 1)? != 1 && cx.output_count() > 1 {
        return Err(OpError::new("statistics of another type than float are not supported"));
    }
    let (axis, epsilon) = (cx.int("axis", -1)?, cx.float("epsilon", 1e-5)?);
    cx.emit(LayerNorm { axis, epsilon })
}

fn local_response_norm(cx: &mut Cx<'_, '_>) -> OpResult {
    let size = cx.need("size", cx.opt_int("size")?)?;
    let op = LocalResponseNorm {
        size: usize::try_from(size).map_err(|_| OpError::new(format!("size is {size}")))?,
        alpha: cx.float("alpha", 1e-4)?,
        beta: cx.float("beta", 0.75)?,
        bias: cx.float("bias", 1.0)?,
        layout: LAYOUT,
    };
    cx.emit(op)
}

fn class_loss(cx: &mut Cx<'_, '_>, softmax: bool) -> OpResult {
    let reduction = match cx.str("reduction", "mean")? {
        "none" => LossReduction::None,
        "sum" => LossReduction::Sum,
        "mean" => LossReduction::Mean,
        other => return Err(OpError::new(format!("reduction '{other}' is not known"))),
    };
    let ignore = cx.opt_int("ignore_index")?;
    cx.emit(ClassLoss { softmax, reduction, ignore })
}
