//! Tensors from `.npy` and `.npz` files and back.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use kinglet::parts::graph::ValueType;
use kinglet::{DType, Error, Model, Tensor, TensorView};
use kinglet_npy::{Array, Type, read_npz};

use super::{files, names};

/// Element types that `.npy` files have too.
const TYPES: [(DType, Type); 14] = [
    (DType::Bool, Type::Bool),
    (DType::I8, Type::I8),
    (DType::I16, Type::I16),
    (DType::I32, Type::I32),
    (DType::I64, Type::I64),
    (DType::U8, Type::U8),
    (DType::U16, Type::U16),
    (DType::U32, Type::U32),
    (DType::U64, Type::U64),
    (DType::F16, Type::F16),
    (DType::F32, Type::F32),
    (DType::F64, Type::F64),
    (DType::C64, Type::C64),
    (DType::C128, Type::C128),
];

/// The type of `.npy` file that holds `dtype`: its own, or a wider one that holds each of its values.
fn carrier(dtype: DType) -> Option<Type> {
    if let Some(row) = TYPES.iter().find(|row| row.0 == dtype) {
        return Some(row.1);
    }
    match dtype {
        DType::I4 | DType::I2 => Some(Type::I8),
        DType::U4 | DType::U2 => Some(Type::U8),
        DType::BF16 => Some(Type::F32),
        _ => None,
    }
}

/// The model's inputs, in its order, from the arguments `NAME=FILE.npy`, `NAME=FILE.npz`, `FILE.npz`
/// and, where there is one input, `FILE.npy`.
pub(super) fn read_inputs(model: &Model, arguments: &[String]) -> Result<Vec<Tensor>, Error> {
    let mut inputs: Vec<Option<Tensor>> = vec![None; model.inputs().len()];
    for argument in arguments {
        for (index, array) in read_argument(model, argument)? {
            let (name, ty) = model.inputs().nth(index).expect("the index of an input");
            let slot = &mut inputs[index];
            if slot.is_some() {
                return Err(Error::input(format!("input '{name}' is given twice")));
            }
            let tensor = to_tensor(&array, ty)
                .map_err(|e| e.about(format!("--input {argument}: input '{name}'")))?;
            *slot = Some(tensor);
        }
    }
    let missing: Vec<String> = model
        .inputs()
        .zip(&inputs)
        .filter(|(_, tensor)| tensor.is_none())
        .map(|((name, ty), _)| format!("'{name}' {ty}"))
        .collect();
    if missing.is_empty() {
        return Ok(inputs.into_iter().flatten().collect());
    }
    Err(Error::input(format!(
        "{}: no data for input {}; give --input NAME=FILE.npy",
        model.path().display(),
        missing.join(", ")
    )))
}

fn read_argument(model: &Model, argument: &str) -> Result<Vec<(usize, Array)>, Error> {
    let (named, path) = match names::split(model, argument) {
        Some((index, path)) => (Some(index), Path::new(path)),
        None => (None, Path::new(argument)),
    };
    let unnamed = |what: &str| {
        Error::input(format!(
            "--input {argument}: {what}; the model's inputs are {}",
            names::inputs(model)
        ))
    };
    if named.is_none() && argument.contains('=') && !path.exists() {
        return Err(unnamed("no input has that name"));
    }
    let about = |error: String| Error::input(error).about(path.display());
    if path.is_dir() {
        return Err(about("this is a folder; give a .npy or .npz file".into()));
    }
    let file = File::open(path).map_err(|e| about(format!("cannot read it: {e}")))?;
    let limit = limit(model);
    if path.extension().is_none_or(|extension| extension != "npz") {
        let array =
            Array::read(&mut BufReader::new(file), limit).map_err(|e| about(e.to_string()))?;
        let only = (model.inputs().len() == 1).then_some(0);
        let index = named.or(only).ok_or_else(|| unnamed("give it as NAME=FILE.npy"))?;
        return Ok(vec![(index, array)]);
    }
    let mut members = read_npz(BufReader::new(file), limit).map_err(|e| about(e.to_string()))?;
    if let Some(index) = named {
        let at = members.iter().position(|(name, _)| names::input(model, name) == Some(index));
        return match (at, members.len()) {
            (Some(at), _) => Ok(vec![(index, members.swap_remove(at).1)]),
            (None, 1) => Ok(vec![(index, members.remove(0).1)]),
            _ => Err(unnamed("it has no member of that name")),
        };
    }
    let index = |(name, array): (String, Array)| match names::input(model, &name) {
        Some(index) => Ok((index, array)),
        None => Err(unnamed(&format!("its member '{name}' is none of them"))),
    };
    members.into_iter().map(index).collect()
}

/// Bytes that a file's arrays may take together: with room to say of a wrong one how it is wrong.
fn limit(model: &Model) -> usize {
    let bytes: Option<usize> = model.inputs().map(|(_, ty)| ty.bytes()).sum();
    bytes.map_or(usize::MAX / 2, |bytes| bytes.saturating_mul(16).max(64 << 20))
}

fn to_tensor(array: &Array, ty: &ValueType) -> Result<Tensor, Error> {
    let carrier = carrier(ty.dtype)
        .ok_or_else(|| Error::input(format!("it is {}, which .npy files cannot hold", ty.dtype)))?;
    if array.dtype != carrier || !ty.shape.admits(&array.shape) {
        let found = match TYPES.iter().find(|row| row.1 == array.dtype) {
            Some((dtype, _)) => dtype.name(),
            None => "text",
        };
        let shape = kinglet::parts::graph::Shape::from(array.shape.as_slice());
        return Err(Error::input(format!("it takes {ty}, and the file holds {found}{shape}")));
    }
    let mut tensor = Tensor::zeros(ty.dtype, &array.shape)?;
    match ty.dtype {
        DType::I4 | DType::I2 | DType::U4 | DType::U2 => pack(array, ty.dtype, tensor.bytes_mut())?,
        DType::BF16 => {
            let rounded = array.to_vec::<f32>().unwrap_or_default();
            let rounded = rounded.into_iter().map(half::bf16::from_f32);
            tensor.slice_mut::<half::bf16>()?.iter_mut().zip(rounded).for_each(|(to, v)| *to = v);
        }
        _ => tensor.bytes_mut().copy_from_slice(&array.data),
    }
    Ok(tensor)
}

fn pack(array: &Array, dtype: DType, bytes: &mut [u8]) -> Result<(), Error> {
    let bits = dtype.bits();
    let signed = matches!(dtype, DType::I4 | DType::I2);
    for (index, &byte) in array.data.iter().enumerate() {
        let unused = 8 - bits as u32;
        let back = if signed {
            ((byte << unused) as i8 >> unused) as u8
        } else {
            byte << unused >> unused
        };
        if back != byte {
            return Err(Error::input(format!("element {index} does not fit {dtype}")));
        }
        let at = index * bits;
        bytes[at / 8] |= (byte << unused >> unused) << (at % 8);
    }
    Ok(())
}

/// A tensor as a file holds it: in its own element type, or in a wider one where files lack it.
pub(super) fn to_array(view: &TensorView<'_>) -> Result<Array, Error> {
    let dtype = carrier(view.dtype).ok_or_else(|| {
        Error::work(format!("{} is a type that .npy files cannot hold", view.dtype))
    })?;
    let data = match view.dtype {
        DType::I4 | DType::I2 | DType::U4 | DType::U2 => unpack(view),
        DType::BF16 => {
            let wide = view.slice::<half::bf16>()?.iter().flat_map(|v| v.to_f32().to_le_bytes());
            wide.collect()
        }
        _ => view.bytes.to_vec(),
    };
    Ok(Array { dtype, shape: view.dims.to_vec(), data })
}

fn unpack(view: &TensorView<'_>) -> Vec<u8> {
    let bits = view.dtype.bits();
    let unused = 8 - bits as u32;
    let signed = matches!(view.dtype, DType::I4 | DType::I2);
    let element = |index: usize| {
        let at = index * bits;
        let high = view.bytes[at / 8] >> (at % 8) << unused;
        if signed { (high as i8 >> unused) as u8 } else { high >> unused }
    };
    (0..view.len()).map(element).collect()
}

/// A folder that files are written to.
pub(super) struct Folder {
    path: PathBuf,
    written: Vec<PathBuf>,
}

impl Folder {
    /// Makes the folder, and makes sure that files can be written to it before any work is done.
    pub fn create(path: &Path) -> Result<Folder, Error> {
        let fail = |e: std::io::Error| {
            Error::input(format!("{}: cannot write to this folder: {e}", path.display()))
        };
        std::fs::create_dir_all(path).map_err(fail)?;
        let probe = path.join(format!(".kinglet-{}", std::process::id()));
        File::create(&probe).and_then(|_| std::fs::remove_file(&probe)).map_err(fail)?;
        Ok(Folder { path: path.into(), written: Vec::new() })
    }

    /// Writes a file, and returns its path. The name is made one that any system takes, and one that
    /// was not written before.
    pub fn write(&mut self, stem: &str, extension: &str, content: &[u8]) -> Result<PathBuf, Error> {
        let path = self.free(stem, extension);
        let fail =
            |e: std::io::Error| Error::work(format!("{}: cannot write it: {e}", path.display()));
        files::write(&path, content).map_err(fail)?;
        self.written.push(path.clone());
        Ok(path)
    }

    fn free(&self, stem: &str, extension: &str) -> PathBuf {
        let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let stem: String = stem.chars().map(plain).take(120).collect();
        let stem = if stem.trim_matches('.').is_empty() { "output" } else { stem.as_str() };
        let mut path = self.path.join(format!("{stem}.{extension}"));
        let mut number = 1;
        while self.written.contains(&path) {
            path = self.path.join(format!("{stem}_{number}.{extension}"));
            number += 1;
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_types_survive_a_round_trip() {
        let cases = [
            (DType::I4, Array::new(&[3], &[-8i8, 7, -1])),
            (DType::U4, Array::new(&[3], &[0u8, 15, 9])),
            (DType::I2, Array::new(&[5], &[-2i8, 1, 0, -1, 1])),
            (DType::U2, Array::new(&[5], &[0u8, 3, 1, 2, 3])),
            (DType::BF16, Array::new(&[2], &[1.5f32, -0.0078125])),
        ];
        for (dtype, array) in cases {
            let ty = ValueType::new(dtype, array.shape.as_slice());
            let tensor = to_tensor(&array, &ty).unwrap();
            assert_eq!(to_array(&tensor.view()).unwrap(), array, "{dtype}");
        }
        let ty = ValueType::new(DType::I4, &[1usize][..]);
        assert!(to_tensor(&Array::new(&[1], &[8i8]), &ty).is_err());
    }

    #[test]
    fn wrong_types_and_sizes_are_said() {
        let ty = ValueType::new(DType::F32, &[1usize, 2][..]);
        let message = |array: Array| to_tensor(&array, &ty).unwrap_err().to_string();
        assert_eq!(
            message(Array::new(&[1, 2], &[1.0f64, 2.0])),
            "it takes f32[1, 2], and the file holds f64[1, 2]"
        );
        assert_eq!(
            message(Array::new(&[2], &[1.0f32, 2.0])),
            "it takes f32[1, 2], and the file holds f32[2]"
        );
    }
}
