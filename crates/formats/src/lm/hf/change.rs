//! How Hugging Face's tensors lie, and rearranging them as GGUF has them.

use crate::lm::config::Config;
use kinglet_graph::{AlignedBytes, Bytes, DType, Encoding, GraphError, OpError, Tensor};
use std::sync::Arc;

/// How a tensor lies, against GGUF's way. Where it says another name, a part of it goes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The same way.
    Keep,
    /// A norm's weights, not above 1, in a class where the others are.
    Uncentred,
    /// Rows of queries, keys and values in turns: of each head of keys its queries, its key, its
    /// value.
    Grouped,
    /// Inputs × outputs.
    Transposed,
    /// The first half of each matrix's rows, and the second.
    Halves(&'static str),
    /// Even elements of the last dimension, and odd ones.
    Turns(&'static str),
    /// The same of matrices inputs × outputs.
    TurnsTransposed(&'static str),
    /// Blocks of MXFP4, with their scales beside them.
    Mx,
    /// The same; even rows, and odd ones.
    MxTurns(&'static str),
    /// A convolution's weights: [channels, 1, width].
    Channels,
    /// The logarithm of what a state fades by.
    Decay,
    /// What a latent's keys and values are made by: of each head its key's rows, its value's.
    LatentParts,
    /// A delta rule's queries, keys, values and gates, in turns by heads of keys.
    DeltaInputs,
    /// A delta rule's β and α, in turns by heads of keys.
    DeltaGates,
}

type Parts = Result<Vec<(String, Tensor)>, OpError>;

/// `tensor`, called `name` by GGUF, as GGUF has it, under its names there. `suffix`: the last part
/// of the name (`.weight`).
pub fn apply(change: Change, name: &str, suffix: &str, tensor: Tensor, config: &Config) -> Parts {
    let whole = |t: Tensor| Ok(vec![(name.to_string(), t)]);
    let layer = || name.split('.').nth(1).and_then(|i| i.parse::<usize>().ok()).unwrap_or(0);
    let renamed = |to: &str| {
        let whole = to.ends_with(".weight") || to.ends_with(".bias");
        let full = if whole { to.to_string() } else { format!("{to}{suffix}") };
        format!("blk.{}.{full}", layer())
    };
    match change {
        Change::Keep | Change::Uncentred | Change::Mx | Change::MxTurns(_) => whole(tensor),
        Change::Transposed if tensor.dims().len() < 2 => whole(tensor),
        Change::Transposed => whole(transposed(&tensor)?),
        Change::Grouped => {
            let at = |list: &[usize]| list.get(layer()).copied().unwrap_or(0);
            let (heads, kv) = (at(&config.heads), at(&config.kv_heads).max(1));
            let (each, size) = (heads / kv, config.key);
            let head = (each + 2) * size;
            let queries = (0..kv).flat_map(|g| g * head..g * head + each * size);
            let keys = (0..kv).flat_map(|g| g * head + each * size..(g + 1) * head - size);
            let values = (0..kv).flat_map(|g| (g + 1) * head - size..(g + 1) * head);
            let order = queries.chain(keys).chain(values).collect::<Vec<_>>();
            whole(picked(&tensor, 0, &order)?)
        }
        Change::Halves(second) => {
            let axis = tensor.dims().len().saturating_sub(2);
            let n = tensor.dims().get(axis).copied().unwrap_or(0);
            let part =
                |range: std::ops::Range<usize>| picked(&tensor, axis, &range.collect::<Vec<_>>());
            Ok(vec![(name.into(), part(0..n / 2)?), (renamed(second), part(n / 2..n)?)])
        }
        Change::Turns(second) => {
            let axis = tensor.dims().len().saturating_sub(1);
            turns(&tensor, axis, name.into(), renamed(second))
        }
        Change::TurnsTransposed(second) => {
            let tensor = transposed(&tensor)?;
            let axis = tensor.dims().len() - 2;
            turns(&tensor, axis, name.into(), renamed(second))
        }
        Change::Channels => match tensor.dims() {
            &[channels, 1, width] => whole(tensor.reshaped(&[channels, width])?),
            _ => whole(tensor),
        },
        Change::Decay => {
            let mut values = floats(&tensor)?;
            values.iter_mut().for_each(|v| *v = -v.exp());
            // Mamba 2 and the delta rule have one a head.
            let dims = match tensor.dims() {
                &[heads] => vec![heads, 1],
                dims => dims.to_vec(),
            };
            whole(Tensor::from_slice(&dims, &values)?)
        }
        Change::LatentParts => {
            let heads = config.heads.get(layer()).copied().unwrap_or(0).max(1);
            let [rows, rank] = *tensor.dims() else {
                return Err(OpError::new(format!("is {tensor:?}, must be a matrix")));
            };
            let (each, value) = (rows / heads, config.value);
            if rows % heads != 0 || value >= each {
                return Err(OpError::new(format!("is {tensor:?} for {heads} heads")));
            }
            let by_head = tensor.reshaped(&[heads, each, rank])?;
            let keys: Vec<usize> = (0..each - value).collect();
            let values: Vec<usize> = (each - value..each).collect();
            Ok(vec![
                (renamed("attn_k_b"), transposed(&picked(&by_head, 1, &keys)?)?),
                (renamed("attn_v_b"), picked(&by_head, 1, &values)?),
            ])
        }
        Change::DeltaInputs => {
            let s = &config.state_space;
            let (groups, key) = (s.groups.max(1), s.state);
            let values = s.inner / groups;
            let head = 2 * key + 2 * values;
            let part = |from: usize, n: usize| {
                (0..groups).flat_map(move |g| g * head + from..g * head + from + n)
            };
            let order: Vec<usize> =
                part(0, key).chain(part(key, key)).chain(part(2 * key, values)).collect();
            let gates: Vec<usize> = part(2 * key + values, values).collect();
            Ok(vec![
                (name.into(), picked(&tensor, 0, &order)?),
                (renamed("attn_gate"), picked(&tensor, 0, &gates)?),
            ])
        }
        Change::DeltaGates => {
            let s = &config.state_space;
            let groups = s.groups.max(1);
            let each = s.rank / groups;
            let part = |from: usize| -> Vec<usize> {
                let rows = |g: usize| g * 2 * each + from * each..g * 2 * each + (from + 1) * each;
                (0..groups).flat_map(rows).collect()
            };
            Ok(vec![
                (name.into(), picked(&tensor, 0, &part(0))?),
                (renamed("ssm_alpha"), picked(&tensor, 0, &part(1))?),
            ])
        }
    }
}

fn turns(tensor: &Tensor, axis: usize, first: String, second: String) -> Parts {
    let n = tensor.dims().get(axis).copied().unwrap_or(0);
    let part = |from: usize| picked(tensor, axis, &(from..n).step_by(2).collect::<Vec<_>>());
    Ok(vec![(first, part(0)?), (second, part(1)?)])
}

/// The places `order` of dimension `axis`.
fn picked(tensor: &Tensor, axis: usize, order: &[usize]) -> Result<Tensor, OpError> {
    let dims = tensor.dims();
    let Some(&all) = dims.get(axis) else {
        return Err(OpError::new(format!("is {tensor:?}: too few dimensions")));
    };
    if let Some(place) = order.iter().find(|i| **i >= all) {
        let m = format!("is {tensor:?}: has no place {place} of dimension {axis}");
        return Err(OpError::new(m));
    }
    let unit = tensor.dtype().bytes_of(&dims[axis + 1..])?;
    let raw = tensor.raw();
    let mut bytes = Vec::with_capacity(raw.len() / all.max(1) * order.len());
    for block in raw.chunks_exact((unit * all).max(1)) {
        order.iter().for_each(|i| bytes.extend_from_slice(&block[i * unit..][..unit]));
    }
    let mut dims = dims.to_vec();
    dims[axis] = order.len();
    of_bytes(tensor.dtype(), &dims, &bytes)
}

/// The last two dimensions exchanged.
pub fn transposed(tensor: &Tensor) -> Result<Tensor, OpError> {
    let [lead @ .., rows, columns] = tensor.dims() else {
        return Err(OpError::new(format!("is {tensor:?}: must be a matrix")));
    };
    let size = tensor.dtype().bytes_of(&[])?;
    let raw = tensor.raw();
    let mut bytes = Vec::with_capacity(raw.len());
    for matrix in raw.chunks_exact((rows * columns * size).max(1)) {
        for c in 0..*columns {
            for r in 0..*rows {
                bytes.extend_from_slice(&matrix[(r * columns + c) * size..][..size]);
            }
        }
    }
    let dims: Vec<usize> = lead.iter().copied().chain([*columns, *rows]).collect();
    of_bytes(tensor.dtype(), &dims, &bytes)
}

/// Tensors of one type and shape, one after the other.
pub fn stacked(parts: &[Tensor]) -> Result<Tensor, OpError> {
    let Some(first) = parts.first() else { return Err(OpError::new("nothing to stack")) };
    if let Some(other) =
        parts.iter().find(|p| p.dims() != first.dims() || p.dtype() != first.dtype())
    {
        return Err(OpError::new(format!("parts {first:?} and {other:?} can't be stacked")));
    }
    let dims: Vec<usize> = [parts.len()].iter().chain(first.dims()).copied().collect();
    let bytes: Vec<u8> = parts.iter().flat_map(|p| p.raw().iter().copied()).collect();
    of_bytes(first.dtype(), &dims, &bytes)
}

/// Every float of `tensor`.
pub fn floats(tensor: &Tensor) -> Result<Vec<f32>, OpError> {
    let mut out = vec![0.0; tensor.dims().iter().product()];
    tensor.view().decode(0, &mut out)?;
    Ok(out)
}

/// Blocks of MXFP4 as Hugging Face has them, [.., blocks, 16] with neighbours in a byte and scales
/// [.., blocks], as one tensor [.., blocks × 32].
pub fn microscaled(blocks: &Tensor, scales: &Tensor) -> Result<Tensor, OpError> {
    let [lead @ .., count, 16] = blocks.dims() else {
        return Err(OpError::new(format!("is {blocks:?}: must be u8 of [.., blocks, 16]")));
    };
    if scales.dims() != &blocks.dims()[..lead.len() + 1]
        || blocks.dtype() != DType::U8
        || scales.dtype() != DType::U8
    {
        return Err(OpError::new(format!("is {blocks:?} with scales {scales:?}")));
    }
    let (packed, _) = blocks.raw().as_chunks::<16>();
    let mut bytes = Vec::with_capacity(packed.len() * 17);
    for (block, scale) in packed.iter().zip(scales.raw()) {
        bytes.push(*scale);
        // Element e is a half of byte e / 2 here; there of byte e mod 16.
        let code = |e: usize| block[e / 2] >> (4 * (e % 2)) & 15;
        bytes.extend((0..16).map(|i| code(i) | code(i + 16) << 4));
    }
    let dims: Vec<usize> = lead.iter().copied().chain([count * 32]).collect();
    of_bytes(DType::Encoded(Encoding::MXFP4), &dims, &bytes)
}

fn of_bytes(dtype: DType, dims: &[usize], bytes: &[u8]) -> Result<Tensor, OpError> {
    let bytes = Bytes::new(Arc::new(AlignedBytes::copy_of(bytes)));
    Tensor::from_bytes(dtype, dims, bytes)
}

/// The even and the odd rows of matrices.
pub fn row_turns(tensor: &Tensor) -> Result<[Tensor; 2], OpError> {
    let axis = tensor.dims().len().saturating_sub(2);
    let n = tensor.dims().get(axis).copied().unwrap_or(0);
    let part = |from: usize| picked(tensor, axis, &(from..n).step_by(2).collect::<Vec<_>>());
    Ok([part(0)?, part(1)?])
}

/// What is wrong with tensor `name`.
pub fn wrong(name: &str, error: &OpError) -> GraphError {
    GraphError::new(format!("tensor '{name}'"), error.to_string())
}
