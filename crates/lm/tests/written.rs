//! Models written back: what a new model of a class has is what its files have, and a folder's tensors
//! come back from the weights that they were read as.

use kinglet_formats::lm::{HfConfig, HfModel};
use kinglet_formats::safetensors::SafeTensors;
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
