//! GGUF files: real ones against what other readers make of them, and hostile ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinglet_formats::gguf::{Gguf, Metadata, Value, Writer};
use kinglet_graph::{Bytes, DType, Encoding, Tensor};

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

/// A folder of its own for a test's files, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("kinglet-gguf-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn writer(file: &Gguf) -> Writer<'static> {
    let mut writer = Writer::new(file.metadata.clone());
    for (name, tensor) in file.tensors.iter() {
        writer.tensor(name, tensor).unwrap();
    }
    writer
}

fn assert_same(a: &Gguf, b: &Gguf) {
    assert_eq!(a.metadata, b.metadata);
    let parts = |file: &Gguf| -> Vec<(String, DType, Vec<usize>, Vec<u8>)> {
        let tensors = file.tensors.iter();
        tensors.map(|(n, t)| (n.into(), t.dtype(), t.dims().into(), t.raw().into())).collect()
    };
    assert!(parts(a) == parts(b), "tensors differ");
}

#[test]
fn what_is_written_reads_as_it_was() {
    let Some(models) = kinglet_testing::models() else { return };
    let folder = Folder::new("same");
    for name in ["encodings/Q4_K_S.gguf", "encodings/MXFP4_MOE.gguf", "arch/phi2-dense.gguf"] {
        let file = open(&models.join(name));
        let path = folder.0.join("out.gguf");
        assert_eq!(writer(&file).write(&path).unwrap(), std::slice::from_ref(&path));
        assert_same(&file, &open(&path));
        // Over itself, while it is mapped.
        writer(&open(&path)).write(&path).unwrap();
        assert_same(&file, &open(&path));
    }
    assert_eq!(folder.names(), ["out.gguf"]);
}

#[test]
fn split_models_are_found_from_any_part() {
    let Some(path) = kinglet_testing::model("encodings/Q8_0.gguf") else { return };
    let (folder, file) = (Folder::new("split"), open(&path));
    let parts = writer(&file).split_at(500_000).write(&folder.0.join("m.gguf")).unwrap();
    assert_eq!(parts.len(), 3, "{parts:?}");
    let names: Vec<String> = (1..=3).map(|i| format!("m-0000{i}-of-00003.gguf")).collect();
    assert_eq!(folder.names(), names);
    for part in &parts {
        let size = part.metadata().unwrap().len();
        assert!(size < 560_000, "{size}");
        assert_same(&file, &open(part));
    }
    let bytes = std::fs::read(&parts[0]).unwrap();
    let error = Gguf::parse(Bytes::new(Arc::new(bytes))).unwrap_err().to_string();
    assert!(error.contains("part 1 of 3"), "{error}");

    // A part under another's name, of another model, under no part's name, and not there at all.
    let error = |from: &Path| Gguf::open(from).unwrap_err().to_string();
    let kept = std::fs::read(&parts[1]).unwrap();
    std::fs::copy(&parts[2], &parts[1]).unwrap();
    assert!(error(&parts[0]).contains("does not say that it is part 2"), "{}", error(&parts[0]));
    let mut other = Writer::new(file.metadata.clone());
    for (name, tensor) in file.tensors.iter().filter(|(name, _)| !name.starts_with("blk.1.ffn")) {
        other.tensor(name, tensor).unwrap();
    }
    let elsewhere = folder.0.join("other.gguf");
    let others = other.split_at(400_000).write(&elsewhere).unwrap();
    assert_eq!(others.len(), 3, "{others:?}");
    std::fs::copy(&others[1], &parts[1]).unwrap();
    let message = error(&parts[0]);
    assert!(message.contains("announced") || message.contains("another part"), "{message}");
    std::fs::write(&parts[1], &kept).unwrap();
    let renamed = folder.0.join("b.gguf");
    std::fs::copy(&parts[1], &renamed).unwrap();
    assert!(error(&renamed).contains("NAME-00002-of-00003.gguf"), "{}", error(&renamed));
    std::fs::remove_file(&parts[1]).unwrap();
    let message = error(&parts[2]);
    assert!(message.contains("m-00002-of-00003.gguf: cannot open: there is no"), "{message}");
}

#[test]
fn alignment_is_kept_to() {
    let folder = Folder::new("align");
    let mut metadata = Metadata::default();
    metadata.insert("general.alignment", 256u32.into());
    let mut writer = Writer::new(metadata);
    for name in ["a", "b", "c"] {
        writer.tensor(name, &Tensor::from_slice(&[3], &[1f32, 2.0, 3.0]).unwrap()).unwrap();
    }
    let parts = writer.split_at(512).write(&folder.0.join("m.gguf")).unwrap();
    assert_eq!(parts.len(), 2);
    let file = open(&parts[1]);
    let place = |name: &str| file.tensors[name].raw().as_ptr() as usize % 256;
    assert_eq!(["a", "b", "c"].map(place), [0; 3]);
    assert_eq!(file.tensors["c"].slice::<f32>().unwrap(), [1.0, 2.0, 3.0]);
}

#[test]
fn what_cannot_be_written_is_said() {
    let folder = Folder::new("refused");
    let path = folder.0.join("m.gguf");
    let mut writer = Writer::new(Metadata::default());
    let mut refused = |name: &str, dtype: DType, dims: &[usize]| {
        writer.streamed(name, dtype, dims, |_| Ok(())).unwrap_err().to_string()
    };
    assert!(refused("x", DType::U4, &[2]).contains("u4, which GGUF files can't hold"));
    assert!(refused("x", DType::F32, &[1, 1, 1, 1, 1]).contains("sizes"));
    assert!(refused("x", DType::F32, &[2, 0]).contains("sizes"));
    assert!(refused("x", Encoding::Q4_K.into(), &[2, 32]).contains("multiple of 256"));
    assert!(refused(&"x".repeat(64), DType::F32, &[1]).contains("64 bytes"));
    for (bytes, what) in [(7, "1 bytes early"), (9, "longer")] {
        let mut writer = Writer::new(Metadata::default());
        let data = move |out: &mut dyn std::io::Write| out.write_all(&[0; 9][..bytes]);
        writer.streamed("x", DType::F32, &[2], data).unwrap();
        let error = writer.write(&path).unwrap_err().to_string();
        assert!(error.contains("tensor 'x'") && error.contains(what), "{error}");
    }
    let error = Writer::new(Metadata::default()).write(&path.join("no/folder")).unwrap_err();
    assert!(error.to_string().contains("cannot write"), "{error}");
    // Neither the file nor what was written of it is left.
    assert!(folder.names().is_empty());
    let mut twice = Writer::new(Metadata::default());
    twice.tensor("x", &Tensor::scalar(1f32)).unwrap();
    assert!(twice.tensor("x", &Tensor::scalar(1f32)).unwrap_err().to_string().contains("twice"));
}

/// A file of these parts: pairs of metadata, then descriptions of tensors, then data.
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, pairs: u64) -> Raw {
        Raw(b"GGUF\x03\0\0\0".to_vec()).u64(tensors).u64(pairs)
    }

    fn u32(mut self, v: u32) -> Raw {
        self.0.extend(v.to_le_bytes());
        self
    }

    fn u64(mut self, v: u64) -> Raw {
        self.0.extend(v.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Raw {
        let mut raw = self.u64(text.len() as u64);
        raw.0.extend(text.as_bytes());
        raw
    }

    fn tensor(self, name: &str, dims: &[u64], id: u32, offset: u64) -> Raw {
        let raw = self.text(name).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, n| raw.u64(*n)).u32(id).u64(offset)
    }

    fn zeros(mut self, len: usize) -> Raw {
        self.0.resize(self.0.len() + len, 0);
        self
    }

    fn error(self) -> String {
        Gguf::parse(Bytes::new(Arc::new(self.0))).expect_err("a hostile file").to_string()
    }
}

#[test]
fn hostile_headers_are_refused() {
    let says = |bytes: &[u8], what: &str| {
        let error = Raw(bytes.to_vec()).error();
        assert!(error.contains(what), "{error}");
    };
    says(b"", "does not start with GGUF");
    says(b"GGUF", "ends at 4");
    says(b"GGUF\x01\0\0\0", "version 1");
    says(b"GGUF\0\0\0\x03", "big-endian");
    says(b"GGUF\x07\0\0\0", "version 7");
    let counts = |tensors, pairs| Raw::new(tensors, pairs).zeros(64).error();
    assert!(counts(1 << 63, 0).contains("9223372036854775808 tensors"));
    assert!(counts(u64::MAX, 0).contains("tensors"));
    assert!(counts(0, u64::MAX / 13).contains("metadata pairs"));
    assert!(counts(0, 100).contains("100 metadata pairs"));
}

#[test]
fn hostile_metadata_is_refused() {
    const ARRAY: u32 = 9;
    let pair = |ty: u32| Raw::new(0, 1).text("k").u32(ty);
    let cases = [
        (Raw::new(0, 1).u64(u64::MAX).zeros(9), "metadata pair 0 at byte 24"),
        (pair(8).u64(1 << 40), "needs 1099511627776 bytes"),
        (pair(13).zeros(8), "unknown type 13"),
        (pair(7).u32(2), "is no bool: [2]"),
        (pair(ARRAY).u32(4).u64(1_000_000_000).zeros(64), "1000000000 u32s"),
        (pair(ARRAY).u32(4).u64(u64::MAX).zeros(64), "u32s"),
        (pair(ARRAY).u32(8).u64(2).u64(0).u64(99).zeros(8), "string 1 needs 99 bytes"),
        (pair(ARRAY).u32(ARRAY).u64(1).u32(4).u64(0), "array of arrays"),
        (pair(ARRAY).u32(77).u64(1).zeros(8), "unknown type 77"),
        (pair(ARRAY).u32(7).u64(4).u32(0x0100_0200), "neither 0 nor 1"),
        (
            Raw::new(0, 2).text("k").u32(4).u32(1).text("k").u32(4).u32(1),
            "'k' at byte 50: is there twice",
        ),
        (Raw::new(0, 1).text("general.alignment").u32(4).u32(0), "is 0, which is not a power"),
        (Raw::new(0, 1).text("general.alignment").u32(4).u32(48), "is 48, which is not"),
        (Raw::new(0, 1).text("general.alignment").u32(5).u32(u32::MAX), "can't be used here"),
        (Raw::new(0, 1).text("split.count").u32(4).u32(u32::MAX), "'split.no': is missing"),
    ];
    for (raw, what) in cases {
        let error = raw.error();
        assert!(error.contains(what), "{error}\nwithout {what}");
    }
}

#[test]
fn hostile_tensors_are_refused() {
    let one = |dims: &[u64], id, offset| Raw::new(1, 0).tensor("t", dims, id, offset).zeros(256);
    let cases = [
        (one(&[0, 4], 0, 0), "('t') has a dimension of size 0"),
        (one(&[u64::MAX], 0, 0), "dimension of size -1"),
        (one(&[1 << 40, 1 << 40], 0, 0), "too large"),
        (one(&[1 << 62, 8], 12, 0), "too large"),
        (one(&[48], 12, 0), "multiple of 256"),
        (one(&[], 2, 0), "multiple of 32"),
        (one(&[1; 5], 0, 0), "5 dimensions"),
        (one(&[4], 16, 0), "IQ2_XXS, which is not supported"),
        (one(&[4], 1000, 0), "unknown type 1000"),
        (one(&[4], 0, 4), "not a multiple of 32"),
        (one(&[4], 0, 1 << 20), "the file ends at"),
        (one(&[4], 0, u64::MAX - 31), "the file ends at"),
        (one(&[1000], 0, 0), "takes 4000 bytes"),
        (Raw::new(2, 0).tensor("t", &[4], 0, 0).tensor("t", &[4], 0, 32).zeros(256), "twice"),
        (Raw::new(1, 0).u64(1 << 50).zeros(64), "description of tensor 0 at byte 24"),
    ];
    for (raw, what) in cases {
        let error = raw.error();
        assert!(error.contains(what), "{error}\nwithout {what}");
    }
}
