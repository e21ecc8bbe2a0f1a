//! Writing safetensors files.

use super::{DTYPES, METADATA};
use kinglet_graph::{DType, Tensor};
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// Writes a file of these tensors, in this order, whose metadata say `about`.
///
/// # Errors
/// If it can't be written, a tensor is of a type that such files don't have, or two have one name.
pub fn write(
    out: &mut dyn Write,
    about: &[(&str, &str)],
    tensors: &[(&str, &Tensor)],
) -> io::Result<()> {
    let refused = |name: &str, m: String| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("tensor '{name}' {m}"))
    };
    let mut header = Map::new();
    if !about.is_empty() {
        let about: Map<String, Value> =
            about.iter().map(|(key, value)| (key.to_string(), json!(value))).collect();
        header.insert(METADATA.into(), about.into());
    }
    let mut end = 0;
    for (name, tensor) in tensors {
        let dtype = dtype_name(tensor.dtype())
            .ok_or_else(|| refused(name, format!("is {tensor:?}: no safetensors file holds it")))?;
        let start = end;
        end += tensor.raw().len();
        let entry = json!({
            "dtype": dtype, "shape": tensor.dims(), "data_offsets": [start, end],
        });
        if header.insert(name.to_string(), entry).is_some() {
            return Err(refused(name, "is there twice".into()));
        }
    }
    let mut header = serde_json::to_vec(&header)?;
    // The data start at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = io::BufWriter::with_capacity(1 << 20, out);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    tensors.iter().try_for_each(|(_, tensor)| out.write_all(tensor.raw()))?;
    out.flush()
}

fn dtype_name(dtype: DType) -> Option<&'static str> {
    DTYPES.iter().find(|(_, known)| *known == dtype).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::super::SafeTensors;
    use super::*;
    use kinglet_graph::{AlignedBytes, Bytes, Encoding};
    use std::sync::Arc;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(&[values.len()], values).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let (a, b) = (tensor(&[1.0, -2.5]), Tensor::from_slice(&[2, 1], &[7i32, -7]).unwrap());
        let none = Tensor::zeros(DType::F16, &[0, 3]).unwrap();
        let mut bytes = Vec::new();
        let all = [("z", &a), ("a", &b), ("none", &none)];
        write(&mut bytes, &[("step", "3")], &all).unwrap();
        let file = SafeTensors::parse(Bytes::new(Arc::new(AlignedBytes::copy_of(&bytes)))).unwrap();
        assert_eq!(file.metadata["step"], "3");
        for (name, tensor) in all {
            let found = &file.tensors[name];
            assert_eq!((found.dims(), found.raw()), (tensor.dims(), tensor.raw()), "{name}");
        }
    }

    #[test]
    fn what_such_files_cannot_hold_is_refused() {
        let a = tensor(&[1.0]);
        let twice = write(&mut Vec::new(), &[], &[("a", &a), ("a", &a)]).unwrap_err();
        assert_eq!(twice.to_string(), "tensor 'a' is there twice");
        let blocks = Tensor::zeros(DType::Encoded(Encoding::Q8_0), &[1, 32]).unwrap();
        let error = write(&mut Vec::new(), &[], &[("b", &blocks)]).unwrap_err().to_string();
        assert!(error.contains("tensor 'b' is"), "{error}");
    }
}
