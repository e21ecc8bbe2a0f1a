//! Language models as Hugging Face keeps them: a folder with `config.json`, `*.safetensors`, and
//! what else belongs to a model.

mod change;
mod classes;
mod config;
mod fresh;
mod generation;
mod write;

use super::builder::Weights;
use super::config::Config;
use super::encoder::Pooling;
use super::family::Family;
use crate::safetensors::SafeTensors;
use crate::{LoadError, Named};
use change::{Change, apply, floats, microscaled, row_turns, stacked, wrong};
pub(super) use classes::Class;
use classes::{IGNORED, IGNORED_PARTS, LAYERS, PREFIXES};
use kinglet_graph::{GraphError, OpError, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

pub use fresh::{Fresh, Start};
pub use generation::Generation;

/// What a `config.json` says of a model, whose class is known.
#[derive(Clone, Debug)]
pub struct HfConfig {
    told: Value,
    class: &'static Class,
}

impl HfConfig {
    /// What the file at `path` says.
    ///
    /// # Errors
    /// If it can't be read, is no JSON, or its class is unknown.
    pub fn open(path: &Path) -> Result<HfConfig, LoadError> {
        let told = json(path)?.ok_or_else(|| {
            LoadError::new(path, GraphError::new("cannot open", "there is no such file"))
        })?;
        let class = class(&told).map_err(|e| LoadError::new(path, e))?;
        Ok(HfConfig { told, class })
    }

    /// Its text.
    pub fn json(&self) -> String {
        format!("{:#}\n", self.told)
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.told.get(key)
    }

    /// Lets it say `value` under `key`.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        if let Some(told) = self.told.as_object_mut() {
            told.insert(key.into(), value.into());
        }
    }

    /// The tensors that a new model of this class and these numbers has.
    ///
    /// # Errors
    /// If no new model of the class can be made, or a number is missing.
    pub fn fresh(&self) -> Result<Vec<Fresh>, GraphError> {
        fresh::fresh(&self.told, self.class)
    }

    /// The model of these numbers whose tensors, under the class's own names, are `tensors`: its
    /// numbers, its family, and its weights under GGUF's names.
    ///
    /// # Errors
    /// If a number makes no sense, or a tensor is not one of the class.
    pub fn model(
        &self,
        tensors: &Named<Tensor>,
    ) -> Result<(Config, Family, Named<Tensor>), GraphError> {
        let (config, family, mut weights) = config::read(&self.told, self.class)?;
        gather(self.class, &config, tensors, &mut weights, &plain)?;
        Ok((config, family, weights))
    }

    /// Whether the model's weights come from the tensor `name` of its files.
    pub fn counts(&self, name: &str) -> bool {
        !ignored(name)
    }

    /// Where the rows of the weight of a module are, held in these sizes.
    pub(super) fn module_places(&self, module: &str, dims: &[usize]) -> Result<Places, GraphError> {
        let fail = |m: String| GraphError::new(format!("module '{module}'"), m);
        let &[first, second] = dims else { return Err(fail(format!("{dims:?} is no matrix"))) };
        let m = if turns_outputs(self.class, module) { second } else { first };
        let (config, ..) = config::read(&self.told, self.class)?;
        let op = |e: OpError| wrong(module, &e);
        let numbers: Vec<i32> = (0..i32::try_from(m).unwrap_or(0)).collect();
        let numbers = Tensor::from_slice(&[m, 1], &numbers).map_err(op)?;
        let places = module_rows(self.class, &config, module, numbers)?.into_iter();
        let rows =
            |t: &Tensor| t.slice::<i32>().map(|rows| rows.iter().map(|r| *r as usize).collect());
        let places = places.map(|(name, t)| Ok((name, rows(&t)?)));
        Ok(Places { rows: m, of: places.collect::<Result<_, OpError>>().map_err(op)? })
    }

    /// The tensor that the class calls `name`, of these sizes, from weights under GGUF's names: what
    /// [`HfConfig::model`] makes weights of, in f32.
    ///
    /// # Errors
    /// If the class has no such tensor, it is of a kind that is only read (experts, states that
    /// fade), or its weights are missing or of other sizes.
    pub fn tensor(
        &self,
        name: &str,
        dims: &[usize],
        weights: &dyn Weights,
    ) -> Result<Tensor, GraphError> {
        let (config, ..) = config::read(&self.told, self.class)?;
        write::own(self.class, &config, name, dims, weights)
    }
}

/// Where the rows of a module's weight are, of one output each.
pub(super) struct Places {
    /// How many it has.
    pub rows: usize,
    /// Under each of GGUF's names the rows that are there, in its order.
    pub of: Vec<(String, Vec<usize>)>,
}

/// Whether `class` has the module `name`, and rows of its weight can be told apart.
pub(super) fn has_module(class: &Class, name: &str) -> bool {
    placed(class, &format!("{name}.weight")).is_some_and(|(_, change, place)| {
        use Change::{Grouped, Halves, Keep, Transposed};
        matches!(change, Keep | Transposed | Grouped | Halves(_)) && place.number.is_none()
    })
}

/// Whether the name of a module is its whole path in the model: files of old leave out how it begins.
pub(super) fn is_module_path(name: &str) -> bool {
    !LAYERS.iter().any(|layers| name.starts_with(layers))
}

/// `rows`, [m, n], of the m rows of the weight of module `name`, in GGUF's order and under GGUF's names.
///
/// # Errors
/// If the class has no such module, the weight does not consist of rows, or has others.
pub(super) fn module_rows(
    class: &Class,
    config: &Config,
    name: &str,
    rows: Tensor,
) -> Result<Vec<(String, Tensor)>, GraphError> {
    let weight = format!("{name}.weight");
    let fail = |m: String| GraphError::new(format!("module '{name}'"), m);
    if !has_module(class, name) {
        return Err(fail(format!("is no matrix of a {}, or not one of rows", class.name)));
    }
    let m = rows.dims()[0];
    let mut one = Named::default();
    let rows = match turns_outputs(class, name) {
        true => change::transposed(&rows).map_err(|e| wrong(name, &e))?,
        false => rows,
    };
    one.insert(weight, rows);
    let mut arrived = Named::default();
    gather(class, config, &one, &mut arrived, &plain)?;
    let count: usize = arrived.iter().map(|(_, t): (_, &Tensor)| t.dims()[0]).sum();
    match count == m {
        true => Ok(arrived.into_iter().collect()),
        false => Err(fail(format!("{m} rows are given, and it has {count}"))),
    }
}

/// Whether a class holds the weight of a module inputs × outputs.
fn turns_outputs(class: &Class, name: &str) -> bool {
    placed(class, &format!("{name}.weight"))
        .is_some_and(|(_, change, _)| change == Change::Transposed)
}

/// A folder's model.
#[derive(Debug)]
pub struct HfModel {
    /// Its numbers.
    pub config: Config,
    /// Its family, with rotation as these weights want it.
    pub family: Family,
    /// Its weights, under GGUF's names. They stay in their files, but where they had to be
    /// rearranged.
    pub weights: Named<Tensor>,
    /// The source of its chat template.
    pub template: Option<String>,
    /// How it is meant to be sampled, and what ends its answers.
    pub generation: Generation,
}

impl Weights for Named<Tensor> {
    fn tensor(&self, name: &str) -> Option<Tensor> {
        self.get(name).cloned()
    }
}

impl HfModel {
    /// The model in `folder`.
    ///
    /// # Errors
    /// If a file is missing or damaged, the class is unknown, or a tensor is not one of its class.
    pub fn open(folder: &Path) -> Result<HfModel, LoadError> {
        let file = folder.join("config.json");
        let told = json(&file)?.ok_or_else(|| {
            let m = "there is no such file: is the folder a Hugging Face model?";
            LoadError::new(&file, GraphError::new("cannot open", m))
        })?;
        let class = class(&told).map_err(|e| LoadError::new(&file, e))?;
        let files = SafeTensors::open(folder)?;
        let fail = |e| LoadError::new(&file, e);
        let (mut config, family, mut weights) = config::read(&told, class).map_err(fail)?;
        let fail = |e| LoadError::new(folder, e);
        gather(class, &config, &files.tensors, &mut weights, &plain).map_err(fail)?;
        config.pooling = pooling(folder)?;
        let generation =
            Generation::read(json(&folder.join("generation_config.json"))?.as_ref(), &told);
        let template = template(folder)?;
        Ok(HfModel { config, family, weights, template, generation })
    }
}

/// The class that `config.json` names.
fn class(told: &Value) -> Result<&'static Class, GraphError> {
    let names: Vec<&str> = told
        .get("architectures")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    names.iter().find_map(|name| Class::named(name)).ok_or_else(|| {
        let known: Vec<_> = classes::CLASSES.iter().map(|c| c.name).collect();
        let m = match names.as_slice() {
            [] => "is missing: is it a language model?".to_string(),
            names => {
                format!("{} is not among those known: {}", names.join(", "), known.join(", "))
            }
        };
        GraphError::new("architectures", m)
    })
}

/// The JSON file at `path`; `None` where there is none.
fn json(path: &Path) -> Result<Option<Value>, LoadError> {
    let Some(text) = text(path)? else { return Ok(None) };
    let fail = |e: serde_json::Error| LoadError::new(path, GraphError::new("json", e.to_string()));
    serde_json::from_str(&text).map(Some).map_err(fail)
}

fn text(path: &Path) -> Result<Option<String>, LoadError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(LoadError::new(path, GraphError::new("cannot open", e.to_string()))),
    }
}

/// The chat template: a file of its own, or in `tokenizer_config.json`, where several may have
/// names.
fn template(folder: &Path) -> Result<Option<String>, LoadError> {
    if let Some(source) = text(&folder.join("chat_template.jinja"))? {
        return Ok(Some(source));
    }
    let told = json(&folder.join("tokenizer_config.json"))?;
    let Some(template) = told.as_ref().and_then(|t| t.get("chat_template")) else {
        return Ok(None);
    };
    let named = |t: &&Value| t.get("name").and_then(Value::as_str) == Some("default");
    let several = template.as_array().and_then(|all| all.iter().find(named));
    let source = template.as_str().or_else(|| several?.get("template")?.as_str());
    Ok(source.map(str::to_string))
}

/// How a sentence encoder's rows become one embedding.
fn pooling(folder: &Path) -> Result<Pooling, LoadError> {
    let told = json(&folder.join("1_Pooling/config.json"))?;
    let is = |key: &str| {
        told.as_ref().and_then(|t| t.get(key)).and_then(Value::as_bool).unwrap_or(false)
    };
    Ok(match () {
        () if is("pooling_mode_cls_token") => Pooling::First,
        () if is("pooling_mode_lasttoken") => Pooling::Last,
        () => Pooling::Mean,
    })
}

/// A tensor's place: GGUF's prefix (`blk.3.`), the part's name with `*` for a number in it, that
/// number, and what the name ends with.
struct Place {
    prefix: String,
    part: String,
    number: Option<usize>,
    suffix: &'static str,
}

impl Place {
    fn of(name: &str) -> Option<Place> {
        let (mut rest, suffix) = match name.strip_suffix(".weight") {
            Some(stem) => (stem, ".weight"),
            None => name.strip_suffix(".bias").map_or((name, ""), |stem| (stem, ".bias")),
        };
        if let Some(stem) = PREFIXES.iter().find_map(|p| rest.strip_prefix(p)) {
            rest = stem;
        }
        let mut prefix = String::new();
        if let Some(inner) = LAYERS.iter().find_map(|l| rest.strip_prefix(l)) {
            let (layer, part) = inner.split_once('.')?;
            prefix = format!("blk.{}.", layer.parse::<usize>().ok()?);
            rest = part;
        }
        let mut number = None;
        let pieces = rest.split('.').map(|piece| match piece.parse::<usize>() {
            Ok(n) => {
                number = Some(n);
                "*"
            }
            Err(_) => piece,
        });
        let part = pieces.collect::<Vec<_>>().join(".");
        Some(Place { prefix, part, number, suffix })
    }
}

/// Whether a tensor says nothing of a language model.
fn ignored(name: &str) -> bool {
    let ends_with = |end: &&str| {
        name.strip_suffix(end).is_some_and(|start| start.is_empty() || start.ends_with('.'))
    };
    IGNORED.iter().any(ends_with) || IGNORED_PARTS.iter().any(|start| name.starts_with(start))
}

/// GGUF's name of the part that `class` calls `name`, how it lies there, and where.
fn placed(class: &Class, name: &str) -> Option<(&'static str, Change, Place)> {
    let place = Place::of(name)?;
    let (part, change) = class.part(&place.part)?;
    Some((part, change, place))
}

/// Puts `tensors` under GGUF's names, rearranged where they must be, each as `hold` makes it of its
/// name, itself, and whether one is to be added to it.
fn gather(
    class: &Class,
    config: &Config,
    tensors: &Named<Tensor>,
    weights: &mut Named<Tensor>,
    hold: &dyn Fn(&str, Tensor, bool) -> Result<Tensor, OpError>,
) -> Result<(), GraphError> {
    let mut stacks: BTreeMap<String, BTreeMap<usize, Tensor>> = BTreeMap::new();
    for (name, tensor) in tensors.iter() {
        if ignored(name) || name.ends_with("_scales") {
            continue;
        }
        let Some((part, change, place)) = placed(class, name) else {
            let m = format!("is not one that a {} has", class.name);
            return Err(GraphError::new(format!("tensor '{name}'"), m));
        };
        let whole = part.ends_with(".weight") || part.ends_with(".bias");
        let suffix = if whole { "" } else { place.suffix };
        let gguf = format!("{}{part}{suffix}", place.prefix);
        if let Some(number) = place.number {
            let tensor = hold(&gguf, tensor.clone(), false).map_err(|e| wrong(name, &e))?;
            stacks.entry(gguf).or_default().insert(number, tensor);
            continue;
        }
        let found = match change {
            Change::Mx | Change::MxTurns(_) => blocks(name, change, &gguf, tensor, tensors),
            _ => apply(change, &gguf, place.suffix, tensor.clone(), config),
        };
        for (gguf, tensor) in found.map_err(|e| wrong(name, &e))? {
            let one_more =
                class.zero_centred && change != Change::Uncentred && gguf.ends_with("norm.weight");
            let tensor = hold(&gguf, tensor, one_more).map_err(|e| wrong(name, &e))?;
            weights.insert(gguf, tensor);
        }
    }
    for (gguf, parts) in stacks {
        if parts.keys().enumerate().any(|(i, number)| i != *number) {
            let m = format!("has {} parts, and not one of each number", parts.len());
            return Err(GraphError::new(format!("tensor '{gguf}'"), m));
        }
        let parts: Vec<Tensor> = parts.into_values().collect();
        let whole = stacked(&parts).map_err(|e| wrong(&gguf, &e))?;
        weights.insert(gguf, whole);
    }
    Ok(())
}

/// Blocks of MXFP4 with the scales that lie beside them.
fn blocks(
    name: &str,
    change: Change,
    gguf: &str,
    tensor: &Tensor,
    tensors: &Named<Tensor>,
) -> Result<Vec<(String, Tensor)>, OpError> {
    let scales = name.strip_suffix("_blocks").map(|stem| format!("{stem}_scales"));
    let scales = scales.and_then(|name| tensors.get(&name));
    let scales = scales.ok_or_else(|| OpError::new("has no scales beside it"))?;
    let whole = microscaled(tensor, scales)?;
    let Change::MxTurns(second) = change else { return Ok(vec![(gguf.into(), whole)]) };
    let [even, odd] = row_turns(&whole)?;
    let layer = gguf.split('.').nth(1).unwrap_or("0");
    Ok(vec![(gguf.into(), even), (format!("blk.{layer}.{second}"), odd)])
}

/// What is no matrix of weights is held in f32, as in GGUF files.
fn plain(name: &str, tensor: Tensor, one_more: bool) -> Result<Tensor, OpError> {
    let small = ["conv1d.weight", "conv.weight", ".bias", "ssm_a"];
    let small = tensor.dims().len() < 2 || small.iter().any(|end| name.ends_with(end));
    if !one_more && (!small || tensor.dtype() == kinglet_graph::DType::F32) {
        return Ok(tensor);
    }
    let mut values = floats(&tensor)?;
    if one_more {
        values.iter_mut().for_each(|v| *v += 1.0);
    }
    Tensor::from_slice(tensor.dims(), &values)
}
