//! Vocabularies that are wrong: an error that says so, and never a panic.

use kinglet_formats::gguf::{Array, Gguf, Metadata, Value};
use kinglet_lm::tokenizer::{
    EncodeOptions, Kind, Model, SpecialTokens, StreamDecoder, Tokenizer, Vocabulary,
};
use kinglet_testing::Rng;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const ALL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn bpe<'a>(tokens: &[&'a str], merges: &[&'a str]) -> Vocabulary<'a> {
    Vocabulary {
        pre: "gpt-2",
        tokens: tokens.to_vec(),
        merges: merges.to_vec(),
        ..Vocabulary::default()
    }
}

#[test]
fn wrong_vocabularies_are_named_errors() {
    let good = bpe(&["a", "b", "ab"], &["a b"]);
    assert_eq!(Tokenizer::new(&good).unwrap().encode("abab!", PLAIN).unwrap(), [2, 2]);
    let special = |special| Vocabulary { special, ..good.clone() };
    let of = |model| Vocabulary { model, ..good.clone() };
    let scored =
        |scores: &[f32]| Vocabulary { scores: scores.to_vec(), ..of(Model::SentencePiece) };
    for (vocabulary, part) in [
        (bpe(&[], &["a b"]), "no tokens"),
        (bpe(&["a"], &[]), "no merges"),
        (bpe(&["a", "b", "a"], &["a b"]), "tokens 0 and 2 have the same text \"a\""),
        (bpe(&["a", "b"], &["a b"]), "merge 0, \"a b\", names \"ab\", which is no token"),
        (bpe(&["a", "b", "ab"], &["a b", "a c"]), "merge 1, \"a c\", names \"c\""),
        (bpe(&["a", "b", "ab"], &["ab"]), "has no space"),
        (Vocabulary { pre: "none such", ..good.clone() }, "\"none such\" is not known"),
        (Vocabulary { scores: vec![0.0], ..good.clone() }, "1 scores for 3 tokens"),
        (Vocabulary { kinds: vec![Kind::Normal; 4], ..good.clone() }, "4 token types for 3 tokens"),
        (special(SpecialTokens { eos: Some(3), ..Default::default() }), "the eos token is 3"),
        (Vocabulary { right_strip: vec![9], ..good.clone() }, "token is 9"),
        (Vocabulary { add_bos: true, ..good.clone() }, "no bos token"),
        (of(Model::SentencePiece), "no scores"),
        (scored(&[0.0, f32::NAN, 0.0]), "token 1, \"b\", has a score that is not a number"),
        (of(Model::Unigram), "no scores"),
        (of(Model::WordPiece), "no unknown token"),
        (
            Vocabulary {
                precompiled_charsmap: &[255, 255, 255, 255, 0],
                scores: vec![0.0; 3],
                special: SpecialTokens { unk: Some(0), ..Default::default() },
                ..of(Model::Unigram)
            },
            "precompiled character map has a trie longer",
        ),
    ] {
        let error = Tokenizer::new(&vocabulary).unwrap_err().to_string();
        assert!(error.contains(part), "{error:?} should say {part:?}");
    }
}

#[test]
fn wrong_metadata_is_a_named_error() {
    let mut metadata = Metadata::default();
    let refuses = |metadata: &Metadata, part: &str| {
        let error = Tokenizer::from_gguf(metadata).unwrap_err().to_string();
        assert!(error.contains(part), "{error:?} should say {part:?}");
    };
    refuses(&metadata, "tokenizer.ggml.model");
    metadata.insert("tokenizer.ggml.model", "rwkv".into());
    refuses(&metadata, "\"rwkv\" is not supported");
    metadata.insert("tokenizer.ggml.model", 3u32.into());
    refuses(&metadata, "tokenizer.ggml.model");
    metadata.insert("tokenizer.ggml.model", "gpt2".into());
    refuses(&metadata, "tokenizer.ggml.tokens");
    metadata.insert("tokenizer.ggml.tokens", (&[1.0f32][..]).into());
    refuses(&metadata, "tokenizer.ggml.tokens");
    metadata.insert("tokenizer.ggml.tokens", Array::of_strings([b"\xff"]).into());
    refuses(&metadata, "tokenizer.ggml.tokens");
    metadata.insert("tokenizer.ggml.tokens", Array::of_strings(["a", "b", "ab"]).into());
    metadata.insert("tokenizer.ggml.merges", Array::of_strings(["a b"]).into());
    metadata.insert("tokenizer.ggml.pre", "strange".into());
    refuses(&metadata, "\"strange\" is not known");
    metadata.insert("tokenizer.ggml.pre", "gpt-2".into());
    metadata.insert("tokenizer.ggml.bos_token_id", 3u32.into());
    refuses(&metadata, "the bos token is 3, but there are only 3 tokens");
    metadata.insert("tokenizer.ggml.bos_token_id", (-1i32).into());
    Tokenizer::from_gguf(&metadata).unwrap();
}

/// Changes to a good vocabulary at random: it is refused, or works without a panic.
#[test]
fn corrupted_metadata_never_panics() {
    let Some(folder) = kinglet_testing::models() else { return };
    for (name, rounds) in [("bert-bge", 30), ("llama-spm", 30), ("starcoder", 20)] {
        let file = folder.join(format!("tokenizers/ggml-vocab-{name}.gguf"));
        let metadata = Gguf::open(&file).unwrap().metadata;
        let keys: Vec<String> = metadata.iter().map(|(key, _)| key.to_owned()).collect();
        let keys: Vec<&String> = keys.iter().filter(|key| key.starts_with("tokenizer.")).collect();
        let mut accepted = 0;
        for seed in 0..rounds {
            let mut rng = Rng::new(seed);
            let mut metadata = metadata.clone();
            for _ in 0..=rng.below(2) {
                let key = keys[rng.below(keys.len())];
                let value = damaged(metadata.get(key).unwrap(), &mut rng);
                metadata.insert(key.as_str(), value);
            }
            let Ok(tokenizer) = Tokenizer::from_gguf(&metadata) else { continue };
            accepted += 1;
            let text = "Hello <s> wörld \u{1f680}\n  1234 <0x0A></s>[CLS]";
            let ids = tokenizer.encode(text, ALL).unwrap();
            tokenizer.decode(&ids);
            tokenizer.decode(&(0..200).map(|_| rng.bits() as u32).collect::<Vec<u32>>());
        }
        assert!(accepted > 0, "{name}: nothing was accepted");
    }
}

fn damaged(value: &Value, rng: &mut Rng) -> Value {
    if let Some(mut list) = value.array_of_strings() {
        match rng.below(4) {
            0 => list.truncate(rng.below(list.len() + 1)),
            1 => {
                let (a, b) = (rng.below(list.len()), rng.below(list.len()));
                list.swap(a, b);
            }
            2 => {
                let at = rng.below(list.len());
                list[at] = ["", " ", "  ", "a", "\u{1f680}", "<0xZZ>"][rng.below(6)];
            }
            _ => return 7u32.into(),
        }
        return Array::of_strings(list).into();
    }
    if let Some(mut list) = value.array_of_i32() {
        let at = rng.below(list.len());
        list[at] = rng.bits() as i32;
        list.truncate(list.len() - rng.below(2) * rng.below(list.len()));
        return (&list[..]).into();
    }
    if let Some(mut list) = value.array_of_f32() {
        let at = rng.below(list.len());
        list[at] = [f32::NAN, f32::INFINITY, -1e30, 0.0][rng.below(4)];
        return (&list[..]).into();
    }
    match rng.below(4) {
        0 => "gpt2".into(),
        1 => (rng.bits() as u32).into(),
        2 => (rng.below(40_000) as u32).into(),
        _ => true.into(),
    }
}

/// A damaged table of normalisations is no reason to panic.
#[test]
fn damaged_character_maps_never_panic() {
    let mut rng = Rng::new(3);
    for _ in 0..2000 {
        let units = rng.below(300);
        let mut charsmap = ((units * 4) as u32).to_le_bytes().to_vec();
        for _ in 0..units {
            let unit = (rng.bits() as u32) & [u32::MAX, 0x3ff, 0x1ffff][rng.below(3)];
            charsmap.extend(unit.to_le_bytes());
        }
        let texts = rng.below(50);
        charsmap.extend(rng.bytes(texts));
        let vocabulary = Vocabulary {
            model: Model::Unigram,
            tokens: vec!["<unk>", "a", "▁", "▁a", "é"],
            scores: vec![0.0, -1.0, -2.0, -1.5, -3.0],
            special: SpecialTokens { unk: Some(0), ..Default::default() },
            add_space_prefix: true,
            precompiled_charsmap: &charsmap,
            ..Vocabulary::default()
        };
        let tokenizer = Tokenizer::new(&vocabulary).unwrap();
        tokenizer.encode("a é ab\u{0}c \u{1f680}", PLAIN).unwrap();
    }
}

#[test]
fn damaged_tokenizer_json_never_panics() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vocabularies/huggingface.json.gz");
    let bytes = std::fs::read(path).unwrap();
    let all: serde_json::Value =
        serde_json::from_reader(flate2::read::GzDecoder::new(&bytes[..])).unwrap();
    for (name, entry) in all.as_object().unwrap() {
        let json = serde_json::to_vec(&entry["file"]).unwrap();
        for seed in 0..150 {
            let mut rng = Rng::new(seed);
            let mut json = json.clone();
            // Most of the file is the vocabulary; what is before it is more fun.
            for _ in 0..=rng.below(3) {
                let within = if rng.below(2) == 0 { 1500 } else { json.len() };
                let at = rng.below(within.min(json.len()));
                match rng.below(4) {
                    0 => json.truncate(at + 1),
                    1 => json[at] = b"0123456789\"{}[],-"[rng.below(17)],
                    2 => drop(json.drain(at..(at + rng.below(20)).min(json.len()))),
                    _ => json[at] ^= 1 << rng.below(7),
                }
            }
            let Ok(tokenizer) = Tokenizer::from_huggingface_json(&json) else { continue };
            if let Ok(ids) = tokenizer.encode("Once upon a time, ü \u{1f680} <s>", ALL) {
                tokenizer.decode(&ids);
            }
            assert!(tokenizer.vocab_size() < 100_000, "{name}");
        }
    }
}

/// Vocabularies with a token for every byte lose nothing: any text comes back, token by token, too.
#[test]
fn byte_level_vocabularies_lose_nothing() {
    let Some(folder) = kinglet_testing::models() else { return };
    for name in ["gpt-2", "llama-bpe", "qwen2"] {
        let file = folder.join(format!("tokenizers/ggml-vocab-{name}.gguf"));
        let tokenizer = Tokenizer::from_gguf(&Gguf::open(&file).unwrap().metadata).unwrap();
        let mut rng = Rng::new(11);
        for _ in 0..300 {
            let text = random_text(&mut rng);
            let ids = tokenizer.encode(&text, PLAIN).unwrap();
            assert_eq!(tokenizer.decode(&ids), text, "{name}");
            let bytes: Vec<u8> =
                ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
            assert_eq!(bytes, text.as_bytes(), "{name}");
            let mut stream = StreamDecoder::new(&tokenizer);
            let mut said = String::new();
            for id in ids {
                said.push_str(&stream.push(id));
                assert!(text.starts_with(&said), "{name}: {said:?} of {text:?}");
            }
            assert_eq!(said + &stream.finish(), text, "{name}");
        }
    }
}

fn random_text(rng: &mut Rng) -> String {
    let char = |rng: &mut Rng| {
        let limit = [0x80, 0x250, 0x3000, 0x20000, 0x11_0000][rng.below(5)];
        char::from_u32(rng.below(limit) as u32).unwrap_or(' ')
    };
    (0..rng.below(60)).map(|_| char(rng)).collect()
}

#[test]
fn streams_hold_back_parts_of_characters() {
    let texts: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut tokens: Vec<&str> = texts.iter().map(String::as_str).collect();
    tokens.extend(["▁Hi", "<end>", "▁"]);
    let mut kinds = vec![Kind::Byte; 256];
    kinds.extend([Kind::Normal, Kind::Control, Kind::Normal]);
    let vocabulary = Vocabulary {
        model: Model::SentencePiece,
        scores: vec![0.0; tokens.len()],
        tokens,
        kinds,
        add_space_prefix: true,
        ..Vocabulary::default()
    };
    let tokenizer = Tokenizer::new(&vocabulary).unwrap();
    let mut stream = StreamDecoder::new(&tokenizer);
    let pushed: Vec<String> = [257, 256, 258, 0xf0, 0x9f, 0x9a, 0x80, 0xc3, 0x41, 0xe2, 0x82]
        .map(|id| stream.push(id))
        .into();
    assert_eq!(pushed, ["", "Hi", " ", "", "", "", "\u{1f680}", "", "\u{fffd}A", "", ""]);
    assert_eq!(stream.finish(), "\u{fffd}");
    assert_eq!(tokenizer.decode(&[256, 9999]), "Hi\u{fffd}");
    let continued = tokenizer.decode_with(&[256, 257], StreamDecoder::continuing(&tokenizer));
    assert_eq!(continued, " Hi");
    let shown = StreamDecoder::new(&tokenizer).with_control();
    assert_eq!(tokenizer.decode_with(&[257, 256], shown), "<end>Hi");
}

/// Long runs take no more than their share of time: with quadratic work this would take hours.
#[test]
fn long_runs_are_no_trouble() {
    let Some(folder) = kinglet_testing::models() else { return };
    for name in ["llama-bpe", "llama-spm", "bert-bge", "gpt-2"] {
        let file = folder.join(format!("tokenizers/ggml-vocab-{name}.gguf"));
        let tokenizer = Tokenizer::from_gguf(&Gguf::open(&file).unwrap().metadata).unwrap();
        for unit in ["a", " ", "1", "\n", "é", "ab ", "<"] {
            let text = unit.repeat(300_000 / unit.len());
            let ids = tokenizer.encode(&text, PLAIN).unwrap();
            if name != "bert-bge" {
                assert_eq!(tokenizer.decode(&ids), text, "{name}: {unit:?}");
            }
        }
    }
}
