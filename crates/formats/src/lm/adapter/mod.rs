//! Low-rank adapters (LoRA; Hu et al., arXiv 2106.09685): beside a weight W [m, k] stands s·B A of
//! B [m, r] and A [r, k]. As files, in PEFT's layout or as GGUF; and in a graph, where several can stand
//! beside a weight, each to be counted as much as an input says.

mod apply;
mod beside;
mod gguf;
mod peft;

pub use apply::{adapt, rows_of};
pub use beside::{Low, beside};

use super::config::Config;
use super::family::{self, Family};
use super::hf::HfConfig;
use super::to_gguf::turn;
use crate::{LoadError, Named};
use kinglet_graph::{GraphError, OpError, Tensor};
use std::path::Path;

/// What stands beside the weights of a model.
#[derive(Clone, Debug, Default)]
pub struct Adapter {
    /// What it is called: the name of its file or folder.
    pub name: String,
    /// By GGUF's names of the weights (`blk.0.attn_q.weight`).
    pub parts: Named<Part>,
}

/// What stands beside one weight of m rows and k columns.
#[derive(Clone, Debug)]
pub struct Part {
    /// A: f32 [r, k].
    pub a: Tensor,
    /// B: f32 [m, r], its rows in the order of the weight's.
    pub b: Tensor,
    /// s.
    pub scale: f32,
}

/// The model that an adapter is for.
#[derive(Clone, Copy, Debug)]
pub struct Base<'a> {
    /// Its numbers.
    pub config: &'a Config,
    /// Its family, with rotation as its weights want it.
    pub family: &'a Family,
}

impl Part {
    /// r.
    pub fn rank(&self) -> usize {
        self.a.dims().first().copied().unwrap_or(0)
    }

    /// What `parts` do together to a weight of `m` rows, each to the rows that stand beside it: all A below
    /// each other, and each s B at its rows, in columns of its own.
    ///
    /// # Errors
    /// If there is none, or their sizes don't fit.
    pub fn stacked(m: usize, parts: &[(&Part, Vec<usize>)]) -> Result<Part, OpError> {
        let rank: usize = parts.iter().map(|(part, _)| part.rank()).sum();
        let (mut a, mut b, mut at) = (Vec::new(), vec![0f32; m * rank], 0);
        for (part, rows) in parts {
            let (r, own) = (part.rank(), part.b.dims().first().copied().unwrap_or(0));
            if rows.len() != own || rows.iter().any(|row| *row >= m) {
                return Err(OpError::new(format!("B has {own} rows for {} of {m}", rows.len())));
            }
            a.extend_from_slice(part.a.slice::<f32>()?);
            for (row, line) in rows.iter().zip(part.b.slice::<f32>()?.chunks_exact(r.max(1))) {
                let to = &mut b[row * rank + at..][..r];
                to.iter_mut().zip(line).for_each(|(to, v)| *to = v * part.scale);
            }
            at += r;
        }
        let k = a.len().checked_div(rank).unwrap_or(0);
        let (a, b) = (Tensor::from_slice(&[rank, k], &a)?, Tensor::from_slice(&[m, rank], &b)?);
        Part::new(a, b, 1.0).map_err(OpError::new)
    }

    /// Of sizes that fit together.
    fn new(a: Tensor, b: Tensor, scale: f32) -> Result<Part, String> {
        match (a.dims(), b.dims()) {
            (&[rank, _], &[_, columns]) if rank == columns && rank > 0 && scale.is_finite() => {
                Ok(Part { a, b, scale })
            }
            _ => {
                Err(format!("A is {a:?} and B is {b:?}, times {scale}: B A can't be made of them"))
            }
        }
    }
}

impl Adapter {
    /// The adapter at `path` for the model `base`: a GGUF file, or a folder that PEFT wrote.
    ///
    /// # Errors
    /// If it can't be read, is of another kind or for another model, or has what can't be applied.
    pub fn open(path: &Path, base: Base<'_>) -> Result<Adapter, LoadError> {
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        let name = name.map(|name| name.to_string_lossy().into_owned());
        let parts = if path.is_dir() { peft::read(path, base)? } else { gguf::read(path, base)? };
        if parts.is_empty() {
            let m = "has no tensors of an adapter";
            return Err(LoadError::new(path, GraphError::new("adapter", m)));
        }
        Ok(Adapter { name: name.unwrap_or_default(), parts })
    }

    /// Writes a GGUF file, as llama.cpp reads it.
    ///
    /// # Errors
    /// If the base's rows can't be put in the order of such files, or the file can't be written.
    pub fn write_gguf(&self, path: &Path, base: Base<'_>) -> Result<(), LoadError> {
        gguf::write(self, path, base)
    }

    /// Writes a folder in PEFT's layout, for the base `hf`, whose tensors are called `names` and have
    /// these sizes.
    ///
    /// # Errors
    /// If what it adapts is no tensor of that class, or a file can't be written.
    pub fn write_peft(
        &self,
        folder: &Path,
        hf: &HfConfig,
        names: &[(String, Vec<usize>)],
        base: &str,
    ) -> Result<(), LoadError> {
        peft::write(self, folder, hf, names, base)
    }
}

/// Weights whose rows, or columns, lie by heads of values where [`Family::strided_keys`] says how.
const BY_VALUE_HEADS: [&str; 5] = ["attn_qkv", "attn_gate", "ssm_beta", "ssm_alpha", "ssm_out"];

/// `parts` of weights that lie as `from` has them, for weights that lie as `to` does.
fn turned(
    mut parts: Named<Part>,
    config: &Config,
    from: &Family,
    to: &Family,
) -> Result<Named<Part>, GraphError> {
    let by_heads = |name: &str| BY_VALUE_HEADS.iter().any(|part| name.contains(part));
    if from.strided_keys != to.strided_keys
        && let Some((name, _)) = parts.iter().find(|(name, _)| by_heads(name))
    {
        let m = "its heads lie in another order than the model's: give both as GGUF files, or both as \
                 Hugging Face's";
        return Err(GraphError::new(format!("'{name}'"), m));
    }
    let mut rows = Named::default();
    for (name, part) in parts.iter() {
        rows.insert(name, part.b.clone());
    }
    turn(config, &mut rows, from.rope, to.rope)?;
    for (name, b) in rows.iter() {
        if let Some(part) = parts.get(name) {
            let part = Part { b: b.clone(), ..part.clone() };
            parts.insert(name, part);
        }
    }
    Ok(parts)
}

/// How weights of the base's family lie in GGUF files.
fn in_gguf<'a>(base: Base<'a>) -> &'a Family {
    family::named(base.family.name).unwrap_or(base.family)
}

/// The numbers of a tensor of floats, as f32.
fn f32s(tensor: &Tensor) -> Result<Tensor, String> {
    let mut values = vec![0.0; tensor.dims().iter().product()];
    tensor.view().decode(0, &mut values).map_err(|e| e.to_string())?;
    if values.iter().any(|v| !v.is_finite()) {
        return Err("has a number that is not finite".into());
    }
    Tensor::from_slice(tensor.dims(), &values).map_err(|e| e.to_string())
}
