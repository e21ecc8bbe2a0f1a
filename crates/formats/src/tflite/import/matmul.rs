//! Matrix products.

use kinglet_graph::ops::gather::Gather;
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::quantized::{HybridMatMul, QMatMul, Rescale};
use kinglet_graph::{DType, OpError, OpResult, ValueType};

use super::node::Node;

pub(super) const HANDLERS: &[(&str, super::Handler)] = &[
    ("FULLY_CONNECTED", fully_connected),
    ("BATCH_MATMUL", batch_matmul),
    ("EMBEDDING_LOOKUP", embedding_lookup),
];

/// `x [.., k] × weights [n, k]ᵀ + bias`; all dimensions of x are one row where they are not kept.
fn fully_connected(node: &mut Node<'_, '_>) -> OpResult {
    let fused = node.fused(0)?;
    if node.option(1, 0i8)? != 0 {
        return Err(OpError::new(
            "shuffled weights are not supported; convert the model without them",
        ));
    }
    let keep_dims = node.option(2, false)?;
    let asymmetric = node.option(3, false)?;
    let columns = match node.info(1)?.shape.as_slice() {
        [_, k] => *k,
        other => {
            return Err(OpError::new(format!(
                "its weights have sizes {other:?}, not two dimensions"
            )));
        }
    };
    let mut x = node.input(0)?;
    let rank = node.info(0)?.shape.len();
    let last = node.info(0)?.shape.last().copied();
    if rank != 2 && !(keep_dims && rank > 2) || last != Some(columns) {
        let k = i64::try_from(columns).unwrap_or(i64::MAX);
        x = node.reshaped(x, node.ty(0)?, &[-1, k])?;
    }
    let inputs = vec![Some(x), node.opt(1)?, node.opt(2)?];
    if node.output_count() != 1 {
        return Err(OpError::new("a second output (shuffled input) is not supported"));
    }
    let out = node.out_ty(0)?;
    if node.is_quantized(0)? {
        let op = QMatMul {
            transpose_a: false,
            transpose_b: true,
            to: out.dtype,
            clamp: fused.clamp(&out)?,
            rescale: Rescale::FixedPointOnce,
        };
        return node.emit(op, inputs);
    }
    if node.ty(1)?.quant.is_some() {
        let op = HybridMatMul { asymmetric, activation: fused.float() };
        return node.emit(op, inputs);
    }
    node.emit(MatMul { transpose_b: true, activation: fused.float(), ..MatMul::new() }, inputs)
}

fn batch_matmul(node: &mut Node<'_, '_>) -> OpResult {
    let (transpose_a, transpose_b) = (node.option(0, false)?, node.option(1, false)?);
    let inputs = node.inputs()?;
    if node.is_quantized(0)? {
        let out = node.out_ty(0)?;
        let clamp = super::node::Fused::None.clamp(&out)?;
        let rescale = Rescale::FixedPoint;
        let op = QMatMul { transpose_a, transpose_b, to: out.dtype, clamp, rescale };
        return node.emit(op, inputs);
    }
    if node.ty(1)?.quant.is_some() {
        return Err(OpError::new("a float operand with a quantised one is not supported"));
    }
    node.emit(MatMul { transpose_a, transpose_b, ..MatMul::new() }, inputs)
}

/// Rows of a table; rows of a quantised table become floats.
fn embedding_lookup(node: &mut Node<'_, '_>) -> OpResult {
    use kinglet_graph::ops::quantized::Dequantize;
    let (indices, table) = (node.opt(0)?, node.opt(1)?);
    let gather = Gather { axis: 0, batch_dims: 0 };
    let ty = node.ty(1)?;
    if node.out_ty(0)?.dtype == DType::F32 && ty.quant.is_some() {
        let quant = ty.quant.clone().filter(|q| q.single().is_some());
        if quant.is_none() {
            return Err(OpError::new("a table with a scale for each row is not supported"));
        }
        let rows: ValueType = ValueType { quant, ..ty };
        let rows = node.apply(gather, vec![table, indices], rows.dtype, rows.quant)?;
        return node.emit(Dequantize, vec![Some(rows)]);
    }
    node.emit(gather, vec![table, indices])
}
