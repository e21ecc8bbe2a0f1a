//! GGUF files: real ones against what other readers make of them, and hostile ones.

use std::path::Path;

use kinglet_formats::gguf::{Gguf, Value};
use kinglet_graph::DType;

fn open(path: &Path) -> Gguf {
    Gguf::open(path).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_encoding_decodes_as_the_gguf_package_does() {
    let Some(models) = kinglet_testing::models() else { return };
    let folder = models.join("encodings");
    let mut seen = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "npz") {
            continue;
        }
        let file = open(&path.with_extension("gguf"));
        let arrays = kinglet_testing::npz(&path);
        for (key, want) in &arrays {
            let Some(name) = key.strip_prefix("deq.") else { continue };
            let tensor = &file.tensors[name];
            let (_, ty) = arrays.iter().find(|(k, _)| *k == format!("type.{name}")).unwrap();
            let ty = ty.text().unwrap();
            assert!(tensor.dtype().name().eq_ignore_ascii_case(&ty), "{path:?} {name}: {ty}");
            seen.insert(tensor.dtype());
            let want: Vec<f32> = want.to_vec().unwrap();
            assert_eq!(want.len() % tensor.dims()[1], 0);
            let mut got = vec![0.0; want.len()];
            tensor.view().decode(0, &mut got).unwrap();
            let differs = got.iter().zip(&want).position(|(g, w)| g.to_bits() != w.to_bits());
            if let Some(at) = differs {
                panic!("{path:?} {name} {ty}, element {at}: {} not {}", got[at], want[at]);
            }
        }
    }
    assert!(seen.len() >= 16, "{seen:?}");
    assert!(seen.contains(&DType::BF16));
}

#[test]
fn metadata_and_vocabularies_are_read() {
    let Some(path) = kinglet_testing::model("tokenizers/ggml-vocab-llama-bpe.gguf") else {
        return;
    };
    let file = open(&path);
    let md = &file.metadata;
    assert_eq!(md.need("general.architecture", Value::as_str).unwrap(), "llama");
    assert_eq!(md.need("llama.block_count", Value::as_usize).unwrap(), 32);
    let tokens = md.need("tokenizer.ggml.tokens", Value::array_of_strings).unwrap();
    let types = md.need("tokenizer.ggml.token_type", Value::array_of_i32).unwrap();
    assert_eq!((tokens.len(), types.len()), (128_256, 128_256));
    assert_eq!((tokens[0], tokens[128_000]), ("!", "<|begin_of_text|>"));
    assert_eq!(file.tensors.len(), 0);
    let error = md.need("llama.block_count", Value::as_str).unwrap_err().to_string();
    assert!(error.contains("'llama.block_count'") && error.contains("32 (u32)"), "{error}");
}

#[test]
fn sizes_are_rows_then_columns() {
    let Some(path) = kinglet_testing::model("arch/qwen2-dense.gguf") else { return };
    let file = open(&path);
    let width = file.metadata.need("qwen2.embedding_length", Value::as_usize).unwrap();
    let hidden = file.metadata.need("qwen2.feed_forward_length", Value::as_usize).unwrap();
    assert_eq!(file.tensors["blk.0.ffn_down.weight"].dims(), [width, hidden]);
    assert_eq!(file.tensors["blk.0.ffn_up.weight"].dims(), [hidden, width]);
}
