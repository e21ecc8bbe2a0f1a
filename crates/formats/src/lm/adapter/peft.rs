//! Adapters as folders in [PEFT](https://huggingface.co/docs/peft/developer_guides/checkpoint)'s layout:
//! `adapter_config.json`, and `adapter_model.safetensors` with `lora_A` and `lora_B` of each module.

use super::{Adapter, Base, Part, f32s, turned};
use crate::files::Aside;
use crate::lm::hf::{self, Class, HfConfig};
use crate::safetensors::{self, SafeTensors};
use crate::{LoadError, Named};
use kinglet_graph::{GraphError, Tensor};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// What stands before the names of the base's modules.
const PREFIX: &str = "base_model.model.";

/// Keys of `adapter_config.json` that, where they say anything, ask for more than B A.
const MORE: [&str; 11] = [
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
];

pub(super) fn read(folder: &Path, base: Base<'_>) -> Result<Named<Part>, LoadError> {
    let file = folder.join(CONFIG);
    let told = std::fs::read_to_string(&file).map_err(|e| {
        let m = match e.kind() {
            std::io::ErrorKind::NotFound => "there is no such file: is it PEFT's folder?".into(),
            _ => e.to_string(),
        };
        LoadError::new(&file, GraphError::new("cannot open", m))
    })?;
    let fail = |e| LoadError::new(&file, e);
    let told: Value =
        serde_json::from_str(&told).map_err(|e| fail(GraphError::new("json", e.to_string())))?;
    let scales = Scales::read(&told).map_err(fail)?;
    let path = folder.join(TENSORS);
    let tensors = SafeTensors::open(&path)?.tensors;
    parts(&tensors, &scales, base).map_err(|e| LoadError::new(&path, e))
}

/// Ways to begin that change the base's weights too, and not only A and B, are all others.
const BEGINNINGS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// What `adapter_config.json` says of how much each module's B A counts.
struct Scales {
    alpha: f64,
    /// α of modules whose names end with these.
    own: Vec<(String, f64)>,
    by_root: bool,
}

impl Scales {
    fn read(told: &Value) -> Result<Scales, GraphError> {
        let fail = |key: &str, m: String| Err(GraphError::new(key, m));
        if told["peft_type"] != "LORA" {
            return fail(
                "peft_type",
                format!("is {}, and only \"LORA\" is known", told["peft_type"]),
            );
        }
        for key in MORE {
            let value = &told[key];
            let empty = value.as_array().is_some_and(Vec::is_empty);
            if !(value.is_null() || *value == false || empty) {
                return fail(key, format!("is {value}: only B A beside weights can be applied"));
            }
        }
        if !told["bias"].is_null() && told["bias"] != "none" {
            return fail("bias", format!("is {}: changed biases can't be applied", told["bias"]));
        }
        let began = told["init_lora_weights"].as_str();
        if let Some(began) = began.filter(|began| !BEGINNINGS.contains(began)) {
            let m = format!(
                "is \"{began}\": PEFT then changes the model too; save the adapter \
                             converted to a plain one"
            );
            return fail("init_lora_weights", m);
        }
        let Some(alpha) = told["lora_alpha"].as_f64() else {
            return fail("lora_alpha", format!("is {}, must be a number", told["lora_alpha"]));
        };
        let mut own = Vec::new();
        for (key, value) in told["alpha_pattern"].as_object().into_iter().flatten() {
            let plain = key.chars().all(|c| c.is_alphanumeric() || "._".contains(c));
            match value.as_f64().filter(|_| plain) {
                Some(alpha) => own.push((key.clone(), alpha)),
                None => {
                    return fail("alpha_pattern", format!("{key:?}: {value} is not understood"));
                }
            }
        }
        Ok(Scales { alpha, own, by_root: told["use_rslora"] == true })
    }

    fn of(&self, module: &str, rank: usize) -> Result<f32, String> {
        let is_own = |(end, _): &&(String, f64)| {
            let start = module.strip_suffix(end.as_str());
            start.is_some_and(|start| start.is_empty() || start.ends_with('.'))
        };
        let mut own = self.own.iter().filter(is_own).map(|(_, alpha)| *alpha);
        let alpha = own.next().unwrap_or(self.alpha);
        if own.any(|other| other != alpha) {
            return Err("two of alpha_pattern are for it, and say different".into());
        }
        let rank = rank.max(1) as f64;
        Ok((alpha / if self.by_root { rank.sqrt() } else { rank }) as f32)
    }
}

fn parts(
    tensors: &Named<Tensor>,
    scales: &Scales,
    base: Base<'_>,
) -> Result<Named<Part>, GraphError> {
    let mut modules: Vec<(&str, &Tensor, &Tensor)> = Vec::new();
    for (name, a) in tensors.iter() {
        let wrong = |m: &str| Err(GraphError::new(format!("tensor '{name}'"), m));
        if name.ends_with(".base_layer.weight") {
            return wrong("is the base's own: save the adapter with save_embedding_layers=False");
        }
        let stem = name.strip_prefix(PREFIX);
        let Some((module, end)) = stem.and_then(|stem| stem.split_once(".lora_")) else {
            return wrong("is no lora_A or lora_B of a module of the base");
        };
        let Some(end) = end.strip_prefix("A.") else {
            match end.strip_prefix("B.") {
                Some(end) if tensors.contains(&format!("{PREFIX}{module}.lora_A.{end}")) => {
                    continue;
                }
                _ => return wrong("is no lora_B beside a lora_A: embeddings can't be adapted"),
            }
        };
        match tensors.get(&format!("{PREFIX}{module}.lora_B.{end}")) {
            Some(b) => modules.push((module, a, b)),
            None => return wrong("has no lora_B beside it"),
        }
    }
    let class = Class::all_of(base.family.name)
        .find(|class| modules.iter().all(|(module, ..)| hf::has_module(class, module)));
    let Some(class) = class else {
        let family = base.family.name;
        let known = |module: &str| Class::all_of(family).any(|c| hf::has_module(c, module));
        let odd = modules.iter().find(|(module, ..)| !known(module)).or(modules.first());
        let odd = odd.map_or("", |(module, ..)| module);
        let m = format!("is no module of a {family}: is the adapter for this model?");
        return Err(GraphError::new(format!("'{odd}'"), m));
    };
    let mut parts = Named::default();
    for (module, a, b) in modules {
        let wrong = |m: String| GraphError::new(format!("module '{module}'"), m);
        let (a, b) = f32s(a).and_then(|a| Ok((a, f32s(b)?))).map_err(wrong)?;
        let rank = a.dims().first().copied().unwrap_or(0);
        let scale = scales.of(module, rank).map_err(wrong)?;
        Part::new(a.clone(), b.clone(), scale).map_err(wrong)?;
        for (name, b) in hf::module_rows(class, base.config, module, b)? {
            let part = Part { a: a.clone(), b, scale };
            if parts.insert(name.as_str(), part).is_some() {
                return Err(wrong(format!("another module is '{name}' too")));
            }
        }
    }
    let of_class = class.family();
    turned(parts, base.config, of_class.as_ref().unwrap_or(base.family), base.family)
}

pub(super) fn write(
    adapter: &Adapter,
    folder: &Path,
    hf: &HfConfig,
    names: &[(String, Vec<usize>)],
    base: &str,
) -> Result<(), LoadError> {
    let modules = modules(adapter, hf, names).map_err(|e| LoadError::new(folder, e))?;
    let (config, tensors) = (config(&modules, names, base), tensors(&modules));
    let fail = |path: &Path, e: std::io::Error| {
        LoadError::new(path, GraphError::new("cannot write it", e.to_string()))
    };
    std::fs::create_dir_all(folder).map_err(|e| fail(folder, e))?;
    let mut files = Aside::default();
    let text = format!("{config:#}\n");
    let path = folder.join(CONFIG);
    files
        .create(&path)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(|e| fail(&path, e))?;
    let path = folder.join(TENSORS);
    let borrowed: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    files
        .create(&path)
        .and_then(|mut file| safetensors::write(&mut file, &[("format", "pt")], &borrowed))
        .map_err(|e| fail(&path, e))?;
    files.finish_synced().map_err(|(path, e)| fail(&path, e))
}

/// A module of the base, and what stands beside it.
struct Module<'a> {
    name: &'a str,
    part: Part,
}

/// What the adapter is beside the tensors `names` of a class's own.
fn modules<'a>(
    adapter: &Adapter,
    hf: &HfConfig,
    names: &'a [(String, Vec<usize>)],
) -> Result<Vec<Module<'a>>, GraphError> {
    let mut found = Vec::new();
    let mut used = BTreeSet::new();
    for (name, dims) in names {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        let Ok(places) = hf.module_places(module, dims) else { continue };
        let own: Vec<_> = places
            .of
            .into_iter()
            .filter_map(|(gguf, rows)| {
                let part = adapter.parts.get(&gguf)?;
                used.insert(gguf);
                Some((part, rows))
            })
            .collect();
        if own.is_empty() {
            continue;
        }
        let wrong = |m: String| GraphError::new(format!("module '{module}'"), m);
        if !hf::is_module_path(module) {
            let m = "its file does not say what stands before it in the model: write a .gguf file instead";
            return Err(wrong(m.into()));
        }
        let part = Part::stacked(places.rows, &own).map_err(|e| wrong(e.to_string()))?;
        found.push(Module { name: module, part });
    }
    match adapter.parts.iter().find(|(name, _)| !used.contains(*name)) {
        None => Ok(found),
        Some((name, _)) => {
            let m = format!("no module of the base is '{name}' alone: write a .gguf file instead");
            Err(GraphError::new("PEFT's layout", m))
        }
    }
}

fn config(modules: &[Module<'_>], names: &[(String, Vec<usize>)], base: &str) -> Value {
    let rank = modules.first().map_or(1, |m| m.part.rank());
    // Each B has in it how much it counts, so that α is the rank.
    let others = modules.iter().filter(|m| m.part.rank() != rank);
    let others: Map<String, Value> =
        others.map(|m| (m.name.to_string(), json!(m.part.rank()))).collect();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "target_modules": targets(modules, names),
        "rank_pattern": others,
        "alpha_pattern": others,
    })
}

/// The last names of the modules; their whole names where another module has that name too and is not
/// adapted.
fn targets<'a>(modules: &[Module<'a>], names: &[(String, Vec<usize>)]) -> BTreeSet<&'a str> {
    let last = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
    let adapted: BTreeSet<&str> = modules.iter().map(|m| m.name).collect();
    let ends = |name: &str, end: &str| name.strip_suffix(end).is_some_and(|s| s.ends_with('.'));
    let others = |end: &str| {
        let all = names.iter().filter_map(|(name, _)| name.strip_suffix(".weight"));
        all.into_iter().any(|name| ends(name, end) && !adapted.contains(name))
    };
    modules.iter().map(|m| if others(last(m.name)) { m.name } else { last(m.name) }).collect()
}

fn tensors(modules: &[Module<'_>]) -> Vec<(String, Tensor)> {
    let mut tensors = Vec::with_capacity(2 * modules.len());
    for Module { name, part } in modules {
        tensors.push((format!("{PREFIX}{name}.lora_A.weight"), part.a.clone()));
        tensors.push((format!("{PREFIX}{name}.lora_B.weight"), part.b.clone()));
    }
    tensors
}
