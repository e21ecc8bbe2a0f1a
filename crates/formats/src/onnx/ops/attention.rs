//! Attention and position embeddings.

use kinglet_graph::ops::attention::{Attention, RotaryEmbedding, Scores};
use kinglet_graph::ops::linear_attention::LinearAttention;
use kinglet_graph::{OpError, OpResult, ValueId};

use super::{Entry, op, op_in};
use crate::onnx::context::Cx;
use crate::onnx::proto::AttributeValue;

pub const TABLE: &[Entry] = &[
    op("Attention", 23, attention),
    op("CausalConvWithState", 27, causal_conv_with_state),
    op("LinearAttention", 27, linear_attention),
    op("RotaryEmbedding", 23, rotary_embedding),
    op_in("ai.onnx.preview", "FlexAttention", 1, flex_attention),
];

fn heads(cx: &Cx<'_, '_>, name: &str) -> OpResult<Option<usize>> {
    match cx.opt_int(name)? {
        None | Some(0) => Ok(None),
        Some(n) => usize::try_from(n)
            .map(Some)
            .map_err(|_| OpError::new(format!("attribute '{name}' is {n}"))),
    }
}

fn attention(cx: &mut Cx<'_, '_>) -> OpResult {
    let window = |name: &str| -> OpResult<Option<usize>> {
        match cx.int(name, -1)? {
            -1 => Ok(None),
            n => usize::try_from(n)
                .map(Some)
                .map_err(|_| OpError::new(format!("attribute '{name}' is {n}"))),
        }
    };
    let op = Attention {
        causal: cx.flag("is_causal", false)?,
        query_heads: heads(cx, "q_num_heads")?,
        key_heads: heads(cx, "kv_num_heads")?,
        scale: cx.opt_float("scale")?,
        softcap: cx.float("softcap", 0.0)?,
        window: [window("left_window_size")?, window("right_window_size")?],
        softmax_precision: cx.opt_dtype("softmax_precision")?,
        scores: match cx.int("qk_matmul_output_mode", 0)? {
            0 => Scores::Raw,
            // Versions 23 and later number the two stages in between alike.
            1 => Scores::Capped,
            2 => Scores::Biased,
            3 => Scores::Probabilities,
            mode => return Err(OpError::new(format!("qk_matmul_output_mode {mode}"))),
        },
    };
    cx.emit(op)
}

fn rotary_embedding(cx: &mut Cx<'_, '_>) -> OpResult {
    let rotated = cx.int("rotary_embedding_dim", 0)?;
    let rotated =
        usize::try_from(rotated).map_err(|_| OpError::new("rotary_embedding_dim is negative"))?;
    let interleaved = cx.flag("interleaved", false)?;
    let heads = heads(cx, "num_heads")?;
    cx.emit(RotaryEmbedding { interleaved, rotated, heads })
}

fn linear_attention(cx: &mut Cx<'_, '_>) -> OpResult {
    // A hint about speed.
    cx.ignore(&["chunk_size"]);
    let rule = cx.str("update_rule", "gated_delta")?;
    let (gated, delta) = match rule {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(OpError::new(format!("update_rule '{other}' is not known"))),
    };
    if cx.opt(4).is_some() != gated || cx.opt(5).is_some() != delta {
        return Err(OpError::new(format!("its inputs do not go with update_rule '{rule}'")));
    }
    let op = LinearAttention {
        gated,
        delta,
        query_heads: cx.need("q_num_heads", heads(cx, "q_num_heads")?)?,
        heads: cx.need("kv_num_heads", heads(cx, "kv_num_heads")?)?,
        scale: cx.opt_float("scale")?.filter(|s| *s != 0.0),
    };
    cx.emit(op)
}

/// A convolution over time that remembers what came before: `Concat`, `Conv`, `Slice`.
fn causal_conv_with_state(cx: &mut Cx<'_, '_>) -> OpResult {
    let activation = cx.str("activation", "none")?;
    let (x, weight) = (cx.input(0)?, cx.input(1)?);
    let sizes = |cx: &mut Cx<'_, '_>, id: ValueId| cx.ty(id).shape.fixed();
    let Some((channels, taps)) = sizes(cx, weight).and_then(|d| match d[..] {
        [c, 1, k] if k > 0 => Some((c, k)),
        _ => None,
    }) else {
        return Err(OpError::new("its weight must have the fixed sizes [channels, 1, k]"));
    };
    let padded = match cx.opt(3) {
        Some(past) => cx.call("Concat", &[past, x], &[("axis", AttributeValue::Int(2))])?,
        None => {
            let pads = cx.ints(&[0, 0, taps as i64 - 1, 0, 0, 0])?;
            cx.call("Pad", &[x, pads], &[])?
        }
    };
    let group = [("group", AttributeValue::Int(channels as i64))];
    let inputs = vec![Some(padded), Some(weight), cx.opt(2)];
    let mut y = cx.call_many("Conv", inputs, &group, 1)?[0];
    match activation {
        "none" => {}
        "silu" | "swish" => y = cx.call("Swish", &[y], &[])?,
        other => return Err(OpError::new(format!("activation '{other}' is not known"))),
    }
    let mut results = vec![y];
    if cx.wants(1) {
        // The last taps − 1 positions.
        let from = if taps == 1 { i64::MAX } else { 1 - taps as i64 };
        let (start, end, axis) = (cx.ints(&[from])?, cx.ints(&[i64::MAX])?, cx.ints(&[2])?);
        results.push(cx.call("Slice", &[padded, start, end, axis], &[])?);
    }
    cx.finish_all(results);
    Ok(())
}

/// Attention with graphs of its own between the stages, which are expanded in place.
fn flex_attention(cx: &mut Cx<'_, '_>) -> OpResult {
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let dtype = cx.dtype(q);
    let fixed = |cx: &mut Cx<'_, '_>, id: ValueId, i: usize| {
        cx.ty(id).shape.dims().and_then(|d| d.get(i)).and_then(|d| d.fixed())
    };
    let size = fixed(cx, q, 3);
    let scale = match (cx.opt_float("scale")?, size) {
        (Some(scale), _) => f64::from(scale),
        (None, Some(size)) => 1.0 / (size as f64).sqrt(),
        (None, None) => return Err(OpError::new("needs a scale, or a fixed head size")),
    };
    let precision = match cx.opt_dtype("softmax_precision")? {
        Some(precision) => precision,
        None if dtype == kinglet_graph::DType::F64 => dtype,
        None => kinglet_graph::DType::F32,
    };
    let cast = |cx: &mut Cx<'_, '_>, id: ValueId, to| match cx.dtype(id) == to {
        true => Ok(id),
        false => cx.apply(kinglet_graph::ops::cast::Cast::new(to), &[id]),
    };
    let (q_heads, kv_heads) = (fixed(cx, q, 1), fixed(cx, k, 1));
    let (k, v) = match (q_heads, kv_heads) {
        (Some(a), Some(b)) if a == b => (k, v),
        (Some(a), Some(b)) if b > 0 && a % b == 0 => {
            let index: Vec<i64> = (0..a).map(|h| (h / (a / b)) as i64).collect();
            let index = cx.ints(&index)?;
            let axis = [("axis", AttributeValue::Int(1))];
            (cx.call("Gather", &[k, index], &axis)?, cx.call("Gather", &[v, index], &axis)?)
        }
        _ => return Err(OpError::new(format!("{q_heads:?} heads over {kv_heads:?}"))),
    };
    let (q, k) = (cast(cx, q, precision)?, cast(cx, k, precision)?);
    let order = AttributeValue::Ints(vec![0, 1, 3, 2]);
    let k = cx.call("Transpose", &[k], &[("perm", order)])?;
    let scores = cx.call("MatMul", &[q, k], &[])?;
    let scale = super::elementwise::scalar_like(cx, scores, scale)?;
    let mut scores = cx.call("Mul", &[scores, scale], &[])?;
    if cx.attribute("score_mod").is_some() {
        let graph = cx.graph("score_mod")?;
        scores = cx.inline(graph, &[scores])?;
    }
    let axis = [("axis", AttributeValue::Int(-1))];
    let mut probabilities = cx.call("Softmax", &[scores], &axis)?;
    if cx.attribute("prob_mod").is_some() {
        let graph = cx.graph("prob_mod")?;
        probabilities = cx.inline(graph, &[probabilities])?;
    }
    let v = cast(cx, v, precision)?;
    let y = cx.call("MatMul", &[probabilities, v], &[])?;
    let y = cast(cx, y, dtype)?;
    cx.finish(y);
    Ok(())
}
