//! Adapters as GGUF files, as llama.cpp has them: `general.type` is `adapter`, and beside a weight's name
//! stand `.lora_a` and `.lora_b`.

use super::{Adapter, Base, Part, f32s, in_gguf, turned};
use crate::gguf::{Gguf, Metadata, Value, Writer};
use crate::{LoadError, Named};
use kinglet_graph::{GraphError, OpError, Tensor};
use std::path::Path;

const ENDS: [&str; 2] = [".lora_a", ".lora_b"];

pub(super) fn read(path: &Path, base: Base<'_>) -> Result<Named<Part>, LoadError> {
    let file = Gguf::open(path)?;
    parts(&file, base).map_err(|e| LoadError::new(path, e))
}

fn parts(file: &Gguf, base: Base<'_>) -> Result<Named<Part>, GraphError> {
    let text = |key: &str| file.metadata.get(key).and_then(Value::as_str).unwrap_or("");
    let fail = |key: &str, m: String| Err(GraphError::new(key, m));
    for (key, want) in [("general.type", "adapter"), ("adapter.type", "lora")] {
        if text(key) != want {
            return fail(
                key,
                format!("is \"{}\", must be \"{want}\": it is no adapter", text(key)),
            );
        }
    }
    let (own, of) = (text("general.architecture"), &base.config.architecture);
    if own != of {
        return fail(
            "general.architecture",
            format!("the adapter is for {own}, the model is {of}"),
        );
    }
    if file.metadata.get("adapter.alora.invocation_tokens").is_some() {
        let m = "it counts from certain tokens on, and adapters count everywhere here".into();
        return fail("adapter.alora.invocation_tokens", m);
    }
    let alpha = match file.metadata.get("adapter.lora.alpha") {
        None => 0.0,
        Some(told) => match told.as_f32().filter(|alpha| alpha.is_finite()) {
            Some(alpha) => alpha,
            None => return fail("adapter.lora.alpha", "must be a number in 32 bits".into()),
        },
    };
    let mut parts = Named::default();
    for (name, a) in file.tensors.iter() {
        let wrong = |m: String| GraphError::new(format!("tensor '{name}'"), m);
        let Some(weight) = name.strip_suffix(ENDS[0]) else {
            let known = name
                .strip_suffix(ENDS[1])
                .is_some_and(|weight| file.tensors.contains(&format!("{weight}{}", ENDS[0])));
            match known {
                true => continue,
                false => return Err(wrong("is no part of a pair .lora_a and .lora_b".into())),
            }
        };
        let b = file.tensors.get(&format!("{weight}{}", ENDS[1]));
        let b = b.ok_or_else(|| wrong(format!("has no {} beside it", ENDS[1])))?;
        let rank = a.dims().first().copied().unwrap_or(0).max(1);
        // As in llama.cpp: without α, B A counts as it is.
        let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f32 };
        let part = f32s(a).and_then(|a| Part::new(a, f32s(b)?, scale)).map_err(wrong)?;
        parts.insert(weight, part);
    }
    turned(parts, base.config, in_gguf(base), base.family)
}

pub(super) fn write(adapter: &Adapter, path: &Path, base: Base<'_>) -> Result<(), LoadError> {
    let fail = |e: GraphError| LoadError::new(path, e);
    let parts = turned(adapter.parts.clone(), base.config, base.family, in_gguf(base));
    let parts = parts.map_err(fail)?;
    // One α is said for all, the first's rank: B has in it what its own part counts more or less.
    let alpha = parts.iter().next().map_or(1, |(_, part)| part.rank()) as f32;
    let mut metadata = Metadata::default();
    metadata.insert("general.architecture", base.config.architecture.as_str().into());
    metadata.insert("general.type", "adapter".into());
    metadata.insert("general.name", adapter.name.as_str().into());
    metadata.insert("adapter.type", "lora".into());
    metadata.insert("adapter.lora.alpha", Value::F32(alpha));
    let mut writer = Writer::new(metadata);
    for (name, part) in parts.iter() {
        let scale = part.scale * part.rank() as f32 / alpha;
        let wrong = |e: OpError| fail(GraphError::new(name, e.to_string()));
        let b = part.b.slice::<f32>().map_err(wrong)?;
        let b: Vec<f32> = b.iter().map(|v| v * scale).collect();
        let b = Tensor::from_slice(part.b.dims(), &b).map_err(wrong)?;
        writer.tensor(&format!("{name}{}", ENDS[0]), &part.a).map_err(fail)?;
        writer.tensor(&format!("{name}{}", ENDS[1]), &b).map_err(fail)?;
    }
    writer.write(path).map(drop)
}
