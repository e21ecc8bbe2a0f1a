//! Embeddings of all-MiniLM-L6-v2 against sentence-transformers', see `hf/minilm.py`.

use kinglet_lm::{Encoder, LanguageModel, LmError, Options};
use kinglet_testing::npz;
use std::collections::BTreeMap;
use std::path::Path;

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn minilm_embeds_as_sentence_transformers_does() {
    let Some(folder) = kinglet_testing::minilm() else { return };
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hf/minilm.npz");
    let expected: BTreeMap<_, _> = npz(&expected).into_iter().collect();
    let texts = String::from_utf8(expected["texts"].to_vec::<u8>().unwrap()).unwrap();
    let wanted = expected["embeddings"].to_vec::<f32>().unwrap();
    let mut encoder = Encoder::open(&folder, 2).unwrap();
    assert_eq!((encoder.width(), texts.lines().count()), (384, 20));
    for (text, wanted) in texts.lines().zip(wanted.chunks_exact(384)) {
        let found = encoder.embed(text).unwrap();
        let off = 1.0 - cosine(&found, wanted);
        assert!(off.abs() < 1e-4, "{text}: {off}");
    }
    let long = encoder.embed(&"word ".repeat(600)).unwrap_err();
    assert!(matches!(long, LmError::Context { needed: 602, context: 512 }), "{long}");
}

#[test]
fn an_encoder_writes_no_text() {
    let Some(folder) = kinglet_testing::minilm() else { return };
    let error = LanguageModel::open(&folder, &Options::default()).err().unwrap();
    assert!(error.to_string().contains("encoder"), "{error}");
}
