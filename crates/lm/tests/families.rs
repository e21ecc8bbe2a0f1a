//! One small model of each family: logits of every position and greedy tokens as llama.cpp computed
//! them (GGUF files, see `gguf/make.py`) and as transformers did (Hugging Face folders, see
//! `hf/make.py`).

use kinglet_formats::gguf::{Gguf, Tensors, Value};
use kinglet_formats::lm::family::FAMILIES;
use kinglet_graph::Tensor;
use kinglet_lm::sample::best;
use kinglet_lm::{Cache, LanguageModel, Options, Session, Wanted};
use kinglet_testing::{models, npz};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn options() -> Options {
    Options { context: Some(64), sequences: 4, cache: Cache::F32, threads: 2, ..Options::default() }
}

/// The largest difference between `found` and `expected`, as a part of the spread of `expected`.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let low = expected.iter().copied().fold(f32::MAX, f32::min);
    let high = expected.iter().copied().fold(f32::MIN, f32::max);
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // NaN must not hide.
    worst.fold(0.0, |m, d| if d <= m { m } else { d }) / (high - low)
}

/// Checks the model at `path` against what lies at `expected`, within `bound` of the logits' spread;
/// says what is wrong with it.
fn check(path: &Path, expected: &Path, bound: f32) -> Result<f32, String> {
    let model = LanguageModel::open(path, &options()).map_err(|e| e.to_string())?;
    check_model(model, expected, bound)
}

fn check_model(mut model: LanguageModel, expected: &Path, bound: f32) -> Result<f32, String> {
    let expected: BTreeMap<_, _> = npz(expected).into_iter().collect();
    let ids = |name: &str| -> Vec<u32> {
        expected[name].to_vec::<i32>().unwrap().into_iter().map(|t| t as u32).collect()
    };
    let tokens = ids("tokens");
    let mut session = Session::new(&mut model).map_err(|e| e.to_string())?;
    let mut logits = Vec::new();
    model
        .extend(session.sequence(), &tokens, Wanted::All, |_, l| logits.extend_from_slice(l))
        .map_err(|e| e.to_string())?;
    let off = difference(&logits, &expected["logits"].to_vec::<f32>().unwrap());
    if off.is_nan() || off > bound {
        return Err(format!("logits are off by {off} of their spread"));
    }
    session.push(&tokens);
    for (i, want) in ids("greedy").into_iter().enumerate() {
        session.compute(&mut model).map_err(|e| e.to_string())?;
        let next = best(session.logits());
        if next != Some(want) {
            return Err(format!("greedy token {i} is {next:?}, not {want}"));
        }
        session.push(&[want]);
    }
    Ok(off)
}

/// The GGUF files in `folder`.
fn gguf_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut paths: Vec<_> =
        entries.filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
    paths.sort();
    paths
}

#[test]
fn every_family_computes_what_llama_cpp_does() {
    let Some(models) = models() else { return };
    let paths = gguf_files(&models.join("arch"));
    assert!(paths.len() >= 19, "only {} models", paths.len());
    all_right(paths.iter().map(|path| (path.clone(), path.with_extension("npz"), 0.01)));
}

#[test]
fn every_class_computes_what_transformers_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hf");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("expected.npz").exists())
        .collect();
    paths.sort();
    assert!(paths.len() >= 58, "only {} models", paths.len());
    all_right(paths.iter().map(|path| (path.clone(), path.join("expected.npz"), 1e-3)));
}

#[test]
fn every_converted_file_computes_what_its_judge_does() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let paths = gguf_files(&tests.join("gguf"));
    assert!(paths.len() >= 32, "only {} models", paths.len());
    all_right(paths.iter().map(|path| {
        let llama_cpp = path.with_extension("npz");
        let transformers = tests.join("hf").join(path.file_stem().unwrap()).join("expected.npz");
        let judge = if llama_cpp.exists() { llama_cpp } else { transformers };
        (path.clone(), judge, 1e-3)
    }));
}

/// The model `name` of `gguf/` with what `change` makes of its tensors.
fn changed(
    name: &str,
    change: impl Fn(&str, &Tensor) -> Vec<(String, Tensor)>,
) -> Result<LanguageModel, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf");
    let mut file = Gguf::open(&folder.join(format!("{name}.gguf"))).unwrap();
    let mut tensors = Tensors::default();
    for (name, tensor) in file.tensors.iter().flat_map(|(name, tensor)| change(name, tensor)) {
        tensors.insert(name, tensor);
    }
    file.tensors = tensors;
    LanguageModel::from_gguf(&file, &options()).map_err(|e| e.to_string())
}

#[test]
fn one_weight_may_have_three_biases() {
    let model = changed("qwen2moe", |name, tensor| {
        let Some(layer) = name.strip_suffix("attn_qkv.bias") else {
            return vec![(name.to_string(), tensor.clone())];
        };
        // As many queries as keys and values.
        let all = tensor.slice::<f32>().unwrap();
        let (q, others) = all.split_at(all.len() / 2);
        let (k, v) = others.split_at(others.len() / 2);
        let parts = [("attn_q", q), ("attn_k", k), ("attn_v", v)];
        let bias = |(part, values): (&str, &[f32])| {
            (format!("{layer}{part}.bias"), Tensor::from_slice(&[values.len()], values).unwrap())
        };
        parts.map(bias).into()
    });
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf/qwen2moe.npz");
    check_model(model.unwrap(), &expected, 1e-3).unwrap();
}

#[test]
fn a_layer_that_lacks_its_feed_forward_is_named() {
    let model = changed("llama3", |name, tensor| {
        let lacks = ["gate", "up", "down"].map(|p| format!("blk.2.ffn_{p}.weight"));
        if lacks.iter().any(|l| l == name) {
            return Vec::new();
        }
        vec![(name.to_string(), tensor.clone())]
    });
    let error = model.err().unwrap();
    assert!(error.contains("blk.2.ffn_up.weight"), "{error}");
}

#[test]
fn no_family_is_compared_with_nothing() {
    let Some(models) = models() else { return };
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let folders = [models.join("arch"), tests.join("gguf"), tests.join("encoders")];
    let mut compared = BTreeSet::new();
    for path in folders.iter().flat_map(|folder| gguf_files(folder)) {
        let file = Gguf::open(&path).unwrap();
        let name = file.metadata.get("general.architecture").and_then(Value::as_str);
        compared.insert(name.unwrap().to_string());
    }
    let missing: Vec<_> =
        FAMILIES.iter().map(|f| f.name).filter(|name| !compared.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn learned_positions_bound_the_context() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hf/gpt2");
    let open = |context| LanguageModel::open(&path, &Options { context, ..Options::default() });
    assert_eq!(open(None).unwrap().context(), 64);
    let error = open(Some(65)).err().unwrap().to_string();
    assert!(error.contains("65 is asked for, and the model learned 64 positions"), "{error}");
}

/// Checks models (path, what is expected, bound); names all that are wrong.
fn all_right(models: impl Iterator<Item = (PathBuf, PathBuf, f32)>) {
    let mut wrong = Vec::new();
    for (path, expected, bound) in models {
        let name = path.file_stem().unwrap().to_string_lossy().to_string();
        match check(&path, &expected, bound) {
            Ok(off) => println!("{name}: {off:.1e}"),
            Err(e) => wrong.push(format!("{name}: {e}")),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
