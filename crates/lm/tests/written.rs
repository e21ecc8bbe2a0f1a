//! Models written back: what a new model of a class has is what its files have, and a folder's tensors
//! come back from the weights that they were read as.

use kinglet_formats::lm::{HfConfig, HfModel, from_gguf, to_gguf};
use kinglet_formats::safetensors::SafeTensors;
use kinglet_lm::{Cache, LanguageModel, Options, Wanted};
use std::path::{Path, PathBuf};

fn folders() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hf");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(all)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists())
        .collect();
    folders.sort();
    folders
}

/// Kinds of one class that a new model can't be made as.
const OTHERWISE: &[&str] = &["mobillama", "stablelm-heads"];

#[test]
fn new_models_have_the_tensors_of_their_class() {
    let mut made = 0;
    for folder in folders() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let config = HfConfig::open(&folder.join("config.json")).unwrap();
        let Ok(fresh) = config.fresh() else { continue };
        if OTHERWISE.contains(&name) {
            continue;
        }
        made += 1;
        let mut found: Vec<_> = fresh.into_iter().map(|f| (f.name, f.dims)).collect();
        let files = SafeTensors::open(&folder).unwrap();
        let mut want: Vec<_> =
            files.tensors.iter().map(|(n, t)| (n.to_string(), t.dims().to_vec())).collect();
        found.sort();
        want.sort();
        assert_eq!(found, want, "{name}");
    }
    assert!(made > 25, "{made}");
}

#[test]
fn weights_go_back_to_where_they_came_from() {
    let (mut same, mut refused) = (0, 0);
    for folder in folders() {
        let place = folder.display();
        let config = HfConfig::open(&folder.join("config.json")).unwrap();
        let model = HfModel::open(&folder).unwrap();
        let files = SafeTensors::open(&folder).unwrap();
        for (name, tensor) in files.tensors.iter() {
            let found = match config.tensor(name, tensor.dims(), &model.weights) {
                Ok(found) => found,
                Err(e) if e.to_string().contains("can be read, but not written") => {
                    refused += 1;
                    continue;
                }
                Err(e) => panic!("{place}: {e}"),
            };
            let mut want = vec![0.0; tensor.dims().iter().product()];
            tensor.view().decode(0, &mut want).unwrap();
            let zero_centred = name.contains("norm");
            for (found, want) in found.slice::<f32>().unwrap().iter().zip(want) {
                let off = (found - want).abs();
                assert!(off == 0.0 || zero_centred && off < 1e-6, "{place}: {name}: {off}");
            }
            same += 1;
        }
    }
    assert!(same > 1000 && refused > 0, "{same} {refused}");
}

/// A folder's model as GGUF says the same, to the last bits: its rows may lie in another order.
#[test]
fn folders_become_gguf_files() {
    let (mut same, mut refused) = (0, Vec::new());
    for folder in folders() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_string();
        let model = HfModel::open(&folder).unwrap();
        if model.family.encoder {
            continue;
        }
        let file = match to_gguf(&model.config, &model.family, model.weights.clone()) {
            Ok(file) => file,
            Err(e) => {
                refused.push(format!("{name}: {e}"));
                continue;
            }
        };
        let (config, family) = from_gguf(&file).unwrap();
        let options = Options { context: Some(32), cache: Cache::F32, ..Options::default() };
        let logits = |mut model: LanguageModel| {
            let sequence = model.open_sequence().unwrap();
            let mut all = Vec::new();
            let tokens: Vec<u32> = (0..20).map(|i| i * 7 % 90).collect();
            let each = |_: usize, l: &[f32]| all.extend_from_slice(l);
            model.extend(sequence, &tokens, Wanted::All, each).unwrap();
            all
        };
        let own = LanguageModel::new(model.config, model.family, &model.weights, &options);
        let made = LanguageModel::new(config, *family, &file, &options);
        let (want, found) = (logits(own.unwrap()), logits(made.unwrap()));
        let spread = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (a, b) in found.iter().zip(&want) {
            assert!((a - b).abs() < 1e-4 * spread, "{name}: {a}, not {b}");
        }
        same += 1;
    }
    assert!(same > 25, "{same}; refused: {refused:#?}");
}
