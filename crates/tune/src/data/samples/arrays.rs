//! NumPy archives: an array for each input, and one of targets.

use super::{Goal, Sample, Samples, Target};
use crate::TuneError;
use crate::net::Input;
use kinglet_graph::{DType, Tensor};
use kinglet_lm::Fnv;
use kinglet_npy::{Array, Type, read_npz};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// What the array of targets may be called.
const TARGETS: [&str; 6] = ["y", "target", "targets", "label", "labels", "classes"];

/// What the array of a lone input may be called beside the input's name.
const LONE: [&str; 3] = ["x", "data", "inputs"];

/// Samples in `.npz` files: arrays called as the net's inputs (or `x`, where it has one), and `y`: integers
/// are classes, floats are values. The first axis counts samples.
#[derive(Debug)]
pub struct Arrays {
    /// Of each input, all samples one after the other.
    inputs: Vec<Tensor>,
    targets: Targets,
    len: usize,
    fingerprint: String,
}

#[derive(Debug)]
enum Targets {
    Classes(Vec<u32>, usize),
    Values(Vec<f32>, usize),
}

impl Arrays {
    /// The samples in `file`, for a net with `inputs`. They are held in memory.
    ///
    /// # Errors
    /// If it can't be read, or lacks an array or samples of the right sizes.
    pub fn open(file: &Path, inputs: &[Input]) -> Result<Arrays, TuneError> {
        let fail = |m: String| TuneError::Input(format!("{}: {m}", file.display()));
        let opened = File::open(file).map_err(|e| fail(format!("cannot read it: {e}")))?;
        // What is unpacked is held to what memory may hold, whatever the archive says.
        let packed = opened.metadata().map_or(0, |about| about.len() as usize);
        let limit = packed.saturating_mul(MOST_UNPACKED).max(1 << 30);
        let arrays = read_npz(BufReader::new(opened), limit).map_err(|e| fail(e.to_string()))?;
        let all: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).collect();
        let all = all.join(", ");
        let find = |names: &[&str]| {
            arrays.iter().find(|(name, _)| names.contains(&name.as_str())).map(|(_, array)| array)
        };
        let targets = find(&TARGETS)
            .ok_or_else(|| fail(format!("it has {all}, and no targets: call them y")))?;
        let (mut tensors, mut hash) = (Vec::new(), Fnv::new());
        let len = targets.shape.first().copied().unwrap_or(0);
        for input in inputs {
            let mut names = vec![input.name.as_str()];
            if inputs.len() == 1 {
                names.extend(LONE);
            }
            let array = find(&names).ok_or_else(|| {
                fail(format!("it has {all}, and nothing for input '{}'", input.name))
            })?;
            let about = |m: String| fail(format!("array for input '{}': {m}", input.name));
            let each: usize = input.dims.iter().product();
            let (count, rest) = array.shape.split_first().unwrap_or((&0, &[]));
            if rest.iter().product::<usize>() != each || *count != len {
                return Err(about(format!(
                    "it is {:?}: {len} samples of {:?} are wanted",
                    array.shape, input.dims
                )));
            }
            let values =
                floats(array).ok_or_else(|| about("its elements are no numbers".into()))?;
            let dims: Vec<usize> = [len].into_iter().chain(input.dims.iter().copied()).collect();
            let tensor = match input.dtype {
                DType::F32 => Tensor::from_slice(&dims, &values),
                other => {
                    Err(kinglet_graph::OpError::new(format!("the net takes {other}, not f32")))
                }
            };
            tensors.push(tensor.map_err(|e| about(e.to_string()))?);
            hash.take(&array.data);
        }
        if len == 0 {
            return Err(fail("it has no samples".into()));
        }
        hash.take(&targets.data);
        let targets = targets_of(targets).map_err(fail)?;
        Ok(Arrays { inputs: tensors, targets, len, fingerprint: hash.text() })
    }
}

/// How many times larger than its file an archive may be.
const MOST_UNPACKED: usize = 200;

fn targets_of(array: &Array) -> Result<Targets, String> {
    let values = floats(array).ok_or("the targets are no numbers")?;
    let each: usize = array.shape.iter().skip(1).product();
    let float = matches!(array.dtype, Type::F16 | Type::F32 | Type::F64);
    if float || each != 1 {
        let each = each.max(1);
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(format!("the target of sample {} is not finite", i / each));
        }
        return Ok(Targets::Values(values, each));
    }
    let class = |(i, v): (usize, &f32)| match *v >= 0.0 && *v < (1 << 20) as f32 {
        true => Ok(*v as u32),
        false => Err(format!("the target of sample {i} is {v}, which is no class")),
    };
    let classes: Vec<u32> = values.iter().enumerate().map(class).collect::<Result<_, _>>()?;
    let count = classes.iter().max().map_or(0, |most| *most as usize + 1);
    Ok(Targets::Classes(classes, count))
}

/// The elements as f32.
fn floats(array: &Array) -> Option<Vec<f32>> {
    macro_rules! wide {
        ($($name:ident: $rust:ty),*) => {
            match array.dtype {
                Type::F32 => array.to_vec::<f32>(),
                Type::F16 => Some(array.to_vec::<half::f16>()?.into_iter().map(f32::from).collect()),
                Type::Bool => Some(array.data.iter().map(|b| f32::from(*b)).collect()),
                $(Type::$name => Some(array.to_vec::<$rust>()?.into_iter().map(|v| v as f32).collect()),)*
                Type::C64 | Type::C128 | Type::Text(_) => None,
            }
        };
    }
    wide!(F64: f64, I8: i8, I16: i16, I32: i32, I64: i64, U8: u8, U16: u16, U32: u32, U64: u64)
}

impl Samples for Arrays {
    fn len(&self) -> usize {
        self.len
    }

    fn goal(&self) -> Goal {
        match &self.targets {
            Targets::Classes(_, count) => Goal::Classes(*count),
            Targets::Values(_, each) => Goal::Values(*each),
        }
    }

    fn sample(&self, i: usize, _chance: Option<u64>) -> Result<Sample, TuneError> {
        let one = |tensor: &Tensor| {
            let row = tensor.rows(i, 1)?;
            row.reshaped(&tensor.dims()[1..])
        };
        let inputs = self.inputs.iter().map(one).collect::<Result<_, _>>()?;
        let target = match &self.targets {
            Targets::Classes(classes, _) => Target::Class(classes[i]),
            Targets::Values(values, each) => {
                Target::Values(values[i * each..(i + 1) * each].to_vec())
            }
        };
        Ok(Sample { inputs, target })
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}
