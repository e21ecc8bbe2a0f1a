//! TFLite files with other weights.

use super::read;
use super::schema::TensorType;
use crate::Named;
use kinglet_graph::{DType, GraphError, Tensor};

/// The model in `bytes` with `weights`, tensors of f32, in the places of its first subgraph's constants of
/// these names. They have the sizes that they have there: all else in the file stays at its place.
///
/// # Errors
/// Where the bytes are damaged, there is no such constant of floats, or its bytes are another's too.
pub fn with_weights(bytes: &[u8], weights: &Named<Tensor>) -> Result<Vec<u8>, GraphError> {
    let model = read::read(bytes).map_err(|e| GraphError::new("TFLite file", e.to_string()))?;
    let tensors = model.subgraphs.first().map_or(&[][..], |main| &main.tensors);
    let mut out = bytes.to_vec();
    for (name, new) in weights.iter() {
        let fail = |what: &str| GraphError::new(format!("weight '{name}'"), what);
        let own = tensors.iter().filter(|t| t.name == name);
        let mut own = own.filter_map(|t| Some((t.data.clone()?, float(t.dtype)?)));
        let (place, dtype) = own.next().ok_or_else(|| fail("the file has no such floats"))?;
        let all = model.subgraphs.iter().flat_map(|graph| &graph.tensors);
        let users = all.filter(|t| t.data.as_ref().is_some_and(|data| data.start == place.start));
        if users.count() > 1 {
            return Err(fail("the file holds another tensor in the same bytes"));
        }
        let text = |e: kinglet_graph::OpError| fail(&e.to_string());
        let values = new.slice::<f32>().map_err(text)?;
        let raw = Tensor::encode(dtype, new.dims(), values).map_err(text)?;
        let to = out.get_mut(place).filter(|to| to.len() == raw.raw().len());
        to.ok_or_else(|| fail("it has other sizes in the file"))?.copy_from_slice(raw.raw());
    }
    Ok(out)
}

fn float(ty: TensorType) -> Option<DType> {
    match ty {
        TensorType::Float32 => Some(DType::F32),
        TensorType::Float16 => Some(DType::F16),
        _ => None,
    }
}
