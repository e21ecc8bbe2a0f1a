//! The arithmetic that the expected logits were computed with: llama.cpp's on a CPU, without flash
//! attention and with keys and values in 16 bits, as ops that take the place of the graph's own.
//!
//! What rows are multiplied by weights is rounded first: to bytes in blocks of 32 whose scales are
//! halves (encodings with blocks of 32), in blocks of 256 whose scales are singles (the others), to
//! f16 or bf16 (weights of these types). Attention rounds queries, keys, values and probabilities to
//! f16. Sums are of f64 here.

use half::{bf16, f16};
use kinglet_graph::ops::rows::{Linear, RowAttention};
use kinglet_graph::{
    DType, Encoding, Graph, InferCx, Inputs, Op, OpResult, Outputs, TensorView, ValueType,
};
use std::sync::Arc;

/// Makes the products and the attention of `graph` llama.cpp's. It then holds nothing between runs.
pub fn round_alike(graph: &mut Graph) {
    let (mut linear, mut attention) = (0, 0);
    for node in graph.nodes_mut() {
        if let Some(op) = node.op.downcast::<Linear>() {
            node.op = Arc::new(RoundedLinear(*op));
            linear += 1;
        } else if let Some(op) = node.op.downcast::<RowAttention>() {
            node.op = Arc::new(HalfAttention(*op));
            attention += 1;
        }
    }
    assert_eq!((linear, attention), (15, 2), "a graph of two layers");
}

fn half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// A row as it is multiplied, and, for encodings with a minimum a block, the sum of each block.
fn round(dtype: DType, row: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let DType::Encoded(encoding) = dtype else {
        let to = |x: &f32| match dtype {
            DType::F16 => half(*x),
            DType::BF16 => bf16::from_f32(*x).to_f32(),
            other => panic!("weights of {other}"),
        };
        return (row.iter().map(to).collect(), Vec::new());
    };
    let (mut out, mut sums) = (Vec::new(), Vec::new());
    for block in row.chunks_exact(encoding.block_len()) {
        let top = block.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let factor = if top > 0.0 { 127.0 / top } else { 0.0 };
        let codes = block.iter().map(|x| (x * factor).round_ties_even());
        let scale = top / 127.0;
        sums.push(half(scale * codes.clone().sum::<f32>()));
        let scale = if encoding.block_len() == 32 { half(scale) } else { scale };
        out.extend(codes.map(|c| c * scale));
    }
    (out, sums)
}

/// What is added to all elements of each block of row `j`.
fn minima(weights: &TensorView<'_>, j: usize, k: usize) -> Option<Vec<f32>> {
    let DType::Encoded(encoding @ (Encoding::Q4_1 | Encoding::Q5_1)) = weights.dtype else {
        return None;
    };
    let row = encoding.bytes(k)?;
    let blocks = weights.bytes[j * row..][..row].chunks_exact(encoding.block_bytes());
    Some(blocks.map(|b| f16::from_le_bytes([b[2], b[3]]).to_f32()).collect())
}

#[derive(Debug)]
struct RoundedLinear(Linear);

impl Op for RoundedLinear {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        self.0.infer(cx)
    }

    fn reads_encoded(&self, input: usize) -> bool {
        input == 1
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        assert!(inputs.opt(2).is_none(), "a bias");
        let (x, weights) = (inputs.get(0)?, inputs.get(1)?);
        let (n, k, m) = (x.dims[0], x.dims[1], weights.dims[0]);
        let rounded: Vec<_> =
            x.slice::<f32>()?.chunks_exact(k).map(|row| round(weights.dtype, row)).collect();
        let out = outputs.slice::<f32>(0, &[n, m])?;
        let mut row = vec![0.0; k];
        for j in 0..m {
            weights.decode(j * k, &mut row)?;
            let minima = minima(&weights, j, k);
            if let Some(minima) = &minima {
                for (block, min) in row.chunks_exact_mut(32).zip(minima) {
                    block.iter_mut().for_each(|w| *w -= min);
                }
            }
            for ((x, sums), out) in rounded.iter().zip(out.chunks_exact_mut(m)) {
                let rest = minima.as_ref().map_or(0.0, |minima| dot(minima, sums));
                out[j] = (dot(x, &row) + rest) as f32;
            }
        }
        Ok(())
    }
}

/// Of rows that are one sequence from its start.
#[derive(Debug)]
struct HalfAttention(RowAttention);

impl Op for HalfAttention {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        self.0.infer(cx)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let RowAttention { heads, kv_heads, key: d, scale, .. } = self.0;
        let halves = |i| -> OpResult<Vec<f32>> {
            Ok(inputs.slice::<f32>(i)?.iter().map(|x| half(*x)).collect())
        };
        let (q, k, v) = (halves(0)?, halves(1)?, halves(2)?);
        let n = q.len() / (heads * d);
        let out = outputs.slice::<f32>(0, &[n, heads * d])?;
        for (i, head) in (0..n).flat_map(|i| (0..heads).map(move |h| (i, h))) {
            let at = |row: usize| (row * kv_heads + head * kv_heads / heads) * d;
            let here = (i * heads + head) * d;
            let query = &q[here..][..d];
            let scores: Vec<f64> =
                (0..=i).map(|j| dot(query, &k[at(j)..][..d]) * f64::from(scale)).collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            let shares: Vec<f32> =
                scores.iter().map(|s| half(((s - largest).exp() / total) as f32)).collect();
            for (e, out) in out[here..][..d].iter_mut().enumerate() {
                let values: Vec<f32> = (0..=i).map(|j| v[at(j) + e]).collect();
                *out = dot(&shares, &values) as f32;
            }
        }
        Ok(())
    }
}
