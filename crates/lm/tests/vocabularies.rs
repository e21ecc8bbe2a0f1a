//! Small vocabularies of every kind against SentencePiece and Hugging Face's tokenisers:
//! `vocabularies/make.py` trains them and writes what is expected.

use std::collections::BTreeMap;
use std::path::Path;

use kinglet_lm::tokenizer::{EncodeOptions, Kind, Model, SpecialTokens, Tokenizer, Vocabulary};
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vocabularies").join(name);
    let bytes = std::fs::read(path).unwrap();
    serde_json::from_reader(flate2::read::GzDecoder::new(&bytes[..])).unwrap()
}

#[derive(Deserialize)]
struct SentencePiece {
    tokens: Vec<String>,
    scores: Vec<f32>,
    kinds: Vec<u8>,
    charsmap: String,
    add_space_prefix: bool,
    remove_extra_whitespaces: bool,
    unk: u32,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    #[serde(default)]
    plain: Vec<u32>,
    #[serde(default)]
    decoded: String,
}

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

#[test]
fn sentencepiece_agrees() {
    let all: BTreeMap<String, SentencePiece> = read("sentencepiece.json.gz");
    assert_eq!(all.len(), 3);
    for (name, given) in &all {
        let hex = |at: usize| u8::from_str_radix(&given.charsmap[at..at + 2], 16).unwrap();
        let charsmap: Vec<u8> = (0..given.charsmap.len()).step_by(2).map(hex).collect();
        let kind = |kind: &u8| match kind {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            6 => Kind::Byte,
            _ => Kind::Normal,
        };
        let vocabulary = Vocabulary {
            model: if name == "bpe" { Model::SentencePiece } else { Model::Unigram },
            tokens: given.tokens.iter().map(String::as_str).collect(),
            scores: given.scores.clone(),
            kinds: given.kinds.iter().map(kind).collect(),
            special: SpecialTokens { unk: Some(given.unk), ..SpecialTokens::default() },
            add_space_prefix: given.add_space_prefix,
            remove_extra_whitespaces: given.remove_extra_whitespaces,
            precompiled_charsmap: &charsmap,
            ..Vocabulary::default()
        };
        let tokenizer = Tokenizer::new(&vocabulary).unwrap();
        let spell = |ids: &[u32]| {
            ids.iter().map(|&id| tokenizer.token_text(id).unwrap()).collect::<Vec<_>>().join("|")
        };
        let mut wrong = Vec::new();
        for case in &given.cases {
            let ids = tokenizer.encode(&case.text, PLAIN).unwrap();
            if ids != case.ids {
                let (is, should) = (spell(&ids), spell(&case.ids));
                wrong.push(format!("{:?}\n  is     {is}\n  should {should}", case.text));
            }
        }
        let of = given.cases.len();
        assert!(wrong.is_empty(), "{name}: {} of {of}\n{}", wrong.len(), wrong.join("\n"));
    }
}

#[derive(Deserialize)]
struct HuggingFace {
    file: serde_json::Value,
    cases: Vec<Case>,
}

#[test]
fn hugging_face_agrees() {
    let all: BTreeMap<String, HuggingFace> = read("huggingface.json.gz");
    assert_eq!(all.len(), 4);
    for (name, given) in &all {
        let json = serde_json::to_vec(&given.file).unwrap();
        let tokenizer = Tokenizer::from_huggingface_json(&json).unwrap();
        for case in &given.cases {
            let encode = |add_special| {
                let options = EncodeOptions { add_special, parse_special: true };
                tokenizer.encode(&case.text, options).unwrap()
            };
            assert_eq!(encode(true), case.ids, "{name}: {:?}", case.text);
            assert_eq!(encode(false), case.plain, "{name}: {:?}", case.text);
            // WordPiece's decoder moves spaces around punctuation, too.
            if name != "word piece" {
                assert_eq!(tokenizer.decode(&case.plain), case.decoded, "{name}: {:?}", case.text);
            }
        }
    }
}
