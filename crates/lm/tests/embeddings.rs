//! Embeddings of all-MiniLM-L6-v2 against sentence-transformers', see `hf/minilm.py`, and of tiny
//! encoders against transformers' and llama.cpp's, see `encoders/make.py`.

use kinglet_lm::tokenizer::EncodeOptions;
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
fn every_encoder_embeds_as_its_judge_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/encoders");
    for name in ["mean", "first"] {
        let expected: BTreeMap<_, _> =
            npz(&folder.join(format!("{name}.npz"))).into_iter().collect();
        let texts = String::from_utf8(expected["texts"].to_vec::<u8>().unwrap()).unwrap();
        let tokens = expected["tokens"].to_vec::<i32>().unwrap();
        let rows = tokens.chunks_exact(tokens.len() / 5);
        let file = format!("{name}.gguf");
        for (path, judge) in [(name, "transformers"), (&file, "transformers"), (&file, "llama_cpp")]
        {
            let mut encoder = Encoder::open(&folder.join(path), 1).unwrap();
            let wanted = expected[judge].to_vec::<f32>().unwrap();
            assert_eq!((texts.lines().count(), wanted.len()), (5, 5 * encoder.width()));
            let all = texts.lines().zip(rows.clone()).zip(wanted.chunks_exact(encoder.width()));
            for ((text, row), wanted) in all {
                let ids: Vec<u32> = row.iter().map_while(|t| u32::try_from(*t).ok()).collect();
                let options = EncodeOptions { add_special: true, parse_special: false };
                assert_eq!(
                    encoder.tokenizer().encode(text, options).unwrap(),
                    ids,
                    "{path}: {text}"
                );
                let found = encoder.embed(text).unwrap();
                let off = found.iter().zip(wanted).map(|(a, b)| (a - b).abs());
                let off = off.fold(0.0, |m, d| if d <= m { m } else { d });
                assert!(off < 1e-3, "{path}, {judge}: '{text}' is off by {off}");
            }
        }
    }
}

#[test]
fn an_encoder_writes_no_text() {
    let Some(folder) = kinglet_testing::minilm() else { return };
    let error = LanguageModel::open(&folder, &Options::default()).err().unwrap();
    assert!(error.to_string().contains("encoder"), "{error}");
}
