//! Adapters that PEFT wrote (`adapters/make.py`), against what PEFT computes with them: beside folders,
//! beside the same models as GGUF files, one and several, and written anew.

use kinglet_formats::gguf::Writer;
use kinglet_formats::lm::adapter::{Adapter, Base, Part};
use kinglet_formats::lm::{HfConfig, HfModel, family, to_gguf};
use kinglet_formats::safetensors::SafeTensors;
use kinglet_graph::{DType, Tensor};
use kinglet_lm::{Cache, LanguageModel, Options, Session, Wanted};
use kinglet_testing::npz;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn adapter(name: &str) -> PathBuf {
    here().join("adapters").join(name)
}

fn base(adapter: &str) -> PathBuf {
    here().join("hf").join(adapter.split('-').next().unwrap())
}

const ALL: [&str; 7] = [
    "llama-all",
    "llama-style",
    "llama-head",
    "qwen2-queries",
    "phi3-fused",
    "gpt2-turned",
    "gptneox-turns",
];

fn open(model: &Path, adapters: &[(&Path, f32)]) -> Result<LanguageModel, String> {
    let adapters = adapters.iter().map(|(path, count)| (path.to_path_buf(), *count)).collect();
    let options = Options {
        context: Some(32),
        cache: Cache::F32,
        threads: 1,
        adapters,
        ..Options::default()
    };
    LanguageModel::open(model, &options).map_err(|e| e.to_string())
}

/// The largest difference from the logits in `expected`, and the largest of these.
fn off(model: &mut LanguageModel, expected: &Path) -> (f32, f32) {
    let arrays: BTreeMap<_, _> = npz(expected).into_iter().collect();
    let tokens = arrays["tokens"].to_vec::<i32>().unwrap();
    let tokens: Vec<u32> = tokens.iter().map(|t| *t as u32).collect();
    let want = arrays["logits"].to_vec::<f32>().unwrap();
    let sequence = model.open_sequence().unwrap();
    let mut found = Vec::new();
    model.extend(sequence, &tokens, Wanted::All, |_, l| found.extend_from_slice(l)).unwrap();
    model.close_sequence(sequence);
    assert_eq!(found.len(), want.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |a, b| a.max(b.abs()));
    let off = largest(&mut found.iter().zip(&want).map(|(a, b)| a - b));
    (off, largest(&mut want.iter().copied()))
}

fn agrees(model: &mut LanguageModel, expected: &Path, what: &str) {
    let (off, largest) = off(model, expected);
    assert!(off < 2e-4 * largest, "{what}: off by {off} of {largest}");
}

/// The folder at `base` as a GGUF file, if there is such a file of it.
fn as_gguf(base: &Path, to: &Path) -> bool {
    let model = HfModel::open(base).unwrap();
    let Ok(file) = to_gguf(&model.config, &model.family, model.weights) else { return false };
    let mut writer = Writer::new(file.metadata);
    for (name, tensor) in file.tensors.iter() {
        writer.tensor(name, tensor).unwrap();
    }
    writer.write(to).unwrap();
    true
}

#[test]
fn what_peft_computes_is_computed() {
    for name in ALL {
        let (base, own) = (base(name), adapter(name));
        let expected = own.join("expected.npz");
        let (far, largest) = off(&mut open(&base, &[]).unwrap(), &expected);
        assert!(far > 0.1 * largest, "{name} changes nothing: {far} of {largest}");
        agrees(&mut open(&base, &[(&own, 1.0)]).unwrap(), &expected, name);
    }
}

#[test]
fn bases_and_adapters_may_be_gguf_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = 0;
    for name in ALL {
        let (base, own) = (base(name), adapter(name));
        let expected = own.join("expected.npz");
        let (model, file) = (
            folder.path().join(format!("{name}.gguf")),
            folder.path().join(format!("{name}-a.gguf")),
        );
        let hf = HfModel::open(&base).unwrap();
        let of = Base { config: &hf.config, family: &hf.family };
        let read = Adapter::open(&own, of).unwrap();
        if let Err(e) = read.write_gguf(&file, of) {
            panic!("{name}: {e}");
        }
        agrees(&mut open(&base, &[(&file, 1.0)]).unwrap(), &expected, name);
        if as_gguf(&base, &model) {
            files += 1;
            agrees(&mut open(&model, &[(&own, 1.0)]).unwrap(), &expected, name);
            agrees(&mut open(&model, &[(&file, 1.0)]).unwrap(), &expected, name);
        }
    }
    assert!(files >= 6, "{files}");
}

#[test]
fn a_folder_is_written_as_peft_has_it() {
    let folder = tempfile::tempdir().unwrap();
    for name in ALL {
        let (base, own) = (base(name), adapter(name));
        let hf = HfModel::open(&base).unwrap();
        let of = Base { config: &hf.config, family: &hf.family };
        let read = Adapter::open(&own, of).unwrap();
        let tensors = SafeTensors::open(&base).unwrap().tensors;
        let names: Vec<_> =
            tensors.iter().map(|(n, t)| (n.to_string(), t.dims().to_vec())).collect();
        let config = HfConfig::open(&base.join("config.json")).unwrap();
        let to = folder.path().join(name);
        read.write_peft(&to, &config, &names, "base").unwrap();
        agrees(&mut open(&base, &[(&to, 1.0)]).unwrap(), &own.join("expected.npz"), name);
        let names = |folder: &Path| {
            let file = SafeTensors::open(&folder.join("adapter_model.safetensors")).unwrap();
            let mut names: Vec<_> = file.tensors.iter().map(|(n, _)| n.to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&to), names(&own), "{name}");
    }
}

/// What counts nothing is written as that, and not as what no number is.
#[test]
fn an_adapter_that_counts_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let hf = HfModel::open(&base("llama")).unwrap();
    let of = Base { config: &hf.config, family: &hf.family };
    let mut nothing = Adapter::open(&adapter("llama-all"), of).unwrap();
    let parts: Vec<_> = nothing.parts.iter().map(|(n, p)| (n.to_string(), p.clone())).collect();
    for (name, part) in parts {
        nothing.parts.insert(name, Part { scale: 0.0, ..part });
    }
    let file = folder.path().join("nothing.gguf");
    nothing.write_gguf(&file, of).unwrap();
    let expected = base("llama").join("expected.npz");
    agrees(&mut open(&base("llama"), &[(&file, 1.0)]).unwrap(), &expected, "nothing");
}

/// What one blend computed is not gone on from by another.
#[test]
fn sessions_are_computed_anew() {
    let (base, style) = (base("llama"), adapter("llama-style"));
    let tokens: Vec<u32> = (1..12).collect();
    let logits = |model: &mut LanguageModel, session: &mut Session| {
        session.compute(model).unwrap();
        session.logits().to_vec()
    };
    let mut model = open(&base, &[(&style, 1.0)]).unwrap();
    let mut session = Session::new(&mut model).unwrap();
    session.push(&tokens);
    let with = logits(&mut model, &mut session);
    model.count_adapters(&[0.0]).unwrap();
    let without = logits(&mut model, &mut session);
    let mut plain = open(&base, &[]).unwrap();
    let mut other = Session::new(&mut plain).unwrap();
    other.push(&tokens);
    let want = logits(&mut plain, &mut other);
    let off = |a: &[f32]| a.iter().zip(&want).fold(0f32, |off, (a, b)| off.max((a - b).abs()));
    assert!(off(&without) < 1e-4 && off(&with) > 0.1, "{} {}", off(&without), off(&with));
}

#[test]
fn adapters_are_switched_and_blended() {
    let (base, all, style) = (base("llama"), adapter("llama-all"), adapter("llama-style"));
    let mut model = open(&base, &[(&all, 0.5), (&style, 1.0)]).unwrap();
    let names: Vec<_> = model.adapters().map(|(name, count)| (name.to_string(), count)).collect();
    assert_eq!(names, [("llama-all".to_string(), 0.5), ("llama-style".to_string(), 1.0)]);
    let both = model.fingerprint();
    agrees(&mut model, &here().join("adapters/both.npz"), "both");
    for (counts, expected) in [
        ([1.0, 0.0], all.join("expected.npz")),
        ([0.0, 1.0], style.join("expected.npz")),
        ([0.0, 0.0], base.join("expected.npz")),
        ([0.5, 1.0], here().join("adapters/both.npz")),
    ] {
        model.count_adapters(&counts).unwrap();
        agrees(&mut model, &expected, &format!("{counts:?}"));
    }
    assert_eq!(model.fingerprint(), both);
    model.count_adapters(&[0.4, 1.0]).unwrap();
    assert_ne!(model.fingerprint(), both, "what one blend computed is of no use to another");
    for wrong in [&[1.0][..], &[f32::NAN, 1.0]] {
        let error = model.count_adapters(wrong).unwrap_err().to_string();
        assert!(error.contains("for 2 adapters"), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let refused = |model: &Path, adapter: &Path, want: &[&str]| {
        let error = open(model, &[(adapter, 1.0)]).err().expect("an error");
        for want in want {
            assert!(error.contains(want), "{want}: {error}");
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    // Of another family, and of another size.
    refused(&base("llama"), &adapter("phi3-fused"), &["adapter 'phi3-fused'", "rows"]);
    refused(&base("llama"), &adapter("gpt2-turned"), &["is no module of a llama"]);
    refused(&base("llama3"), &adapter("llama-all"), &["adapter 'llama-all'", "for a weight of"]);
    refused(&base("llama"), &here("none"), &["none"]);
    // GGUF files that are something else.
    let model = here("model.gguf");
    assert!(as_gguf(&base("llama"), &model));
    refused(&base("llama"), &model, &["general.type", "must be \"adapter\""]);
    let hf = HfModel::open(&base("llama")).unwrap();
    let of = Base { config: &hf.config, family: &hf.family };
    let read = Adapter::open(&adapter("llama-all"), of).unwrap();
    let file = here("a.gguf");
    read.write_gguf(&file, of).unwrap();
    refused(&base("qwen2"), &file, &["the adapter is for llama, the model is qwen2"]);
    // Two that could not be told apart.
    let error = open(&base("llama"), &[(&file, 1.0), (&file, 1.0)]).err().expect("an error");
    assert!(error.contains("two are called so"), "{error}");
    // B of more rows than the weight has.
    let mut tall = read.clone();
    let (name, part) = tall.parts.iter().next().map(|(n, p)| (n.to_string(), p.clone())).unwrap();
    let [m, r] = *part.b.dims() else { panic!("a matrix") };
    let b = Tensor::zeros(DType::F32, &[m + 1, r]).unwrap();
    tall.parts.insert(name.as_str(), Part { b, ..part });
    tall.write_gguf(&file, Base { family: family::named("llama").unwrap(), ..of }).unwrap();
    refused(&model, &file, &["adapter 'a'", &name]);
    // Cut anywhere.
    read.write_gguf(&file, of).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    for length in (0..bytes.len()).step_by(997) {
        std::fs::write(&file, &bytes[..length]).unwrap();
        refused(&base("llama"), &file, &["a.gguf"]);
    }
    // Damaged, or of a kind that can't be applied.
    let copy = |change: &dyn Fn(&mut serde_json::Value)| -> PathBuf {
        let to = tempfile::tempdir_in(folder.path()).unwrap().keep();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(adapter("llama-all").join(name), to.join(name)).unwrap();
        }
        let config = to.join("adapter_config.json");
        let mut told = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        change(&mut told);
        std::fs::write(&config, told.to_string()).unwrap();
        to
    };
    let llama = base("llama");
    for (key, value, want) in [
        ("peft_type", serde_json::json!("IA3"), "only \"LORA\" is known"),
        ("use_dora", serde_json::json!(true), "only B A beside weights"),
        ("modules_to_save", serde_json::json!(["lm_head"]), "only B A beside weights"),
        ("bias", serde_json::json!("all"), "changed biases"),
        ("lora_alpha", serde_json::json!("much"), "must be a number"),
        ("alpha_pattern", serde_json::json!({"^a.*": 2}), "is not understood"),
        ("init_lora_weights", serde_json::json!("pissa"), "changes the model too"),
    ] {
        refused(&llama, &copy(&|told| told[key] = value.clone()), &[key, want]);
    }
    let cut = copy(&|_| ());
    let tensors = cut.join("adapter_model.safetensors");
    let bytes = std::fs::read(&tensors).unwrap();
    for length in (0..bytes.len()).step_by(997) {
        std::fs::write(&tensors, &bytes[..length]).unwrap();
        refused(&llama, &cut, &["adapter_model.safetensors"]);
    }
    std::fs::remove_file(&tensors).unwrap();
    refused(&llama, &cut, &["adapter_model.safetensors"]);
}
