//! A vocabulary from a GGUF file, until the formats crate reads it.
use kinglet_lm::tokenizer::*;
use std::collections::HashMap;

#[derive(Debug, Clone)]
pub enum V {
    N(f64),
    S(String),
    A(Vec<V>),
}
struct R<'a>(&'a [u8]);
impl R<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (a, b) = self.0.split_first_chunk::<N>().unwrap();
        self.0 = b;
        *a
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
    fn s(&mut self) -> String {
        let n = self.u64() as usize;
        let (a, b) = self.0.split_at(n);
        self.0 = b;
        String::from_utf8_lossy(a).into_owned()
    }
    fn v(&mut self, t: u32) -> V {
        match t {
            0 | 7 => V::N(self.take::<1>()[0] as f64),
            4 => V::N(self.u32() as f64),
            5 => V::N(i32::from_le_bytes(self.take()) as f64),
            6 => V::N(f32::from_le_bytes(self.take()) as f64),
            10 => V::N(self.u64() as f64),
            8 => V::S(self.s()),
            9 => {
                let t = self.u32();
                let n = self.u64();
                V::A((0..n).map(|_| self.v(t)).collect())
            }
            _ => panic!("type {t}"),
        }
    }
}
pub fn read(path: &std::path::Path) -> HashMap<String, V> {
    let b = std::fs::read(path).unwrap();
    let mut r = R(&b[16..]);
    let n = r.u64();
    (0..n)
        .map(|_| {
            let k = r.s();
            let t = r.u32();
            let v = r.v(t);
            (k, v)
        })
        .collect()
}
fn strs<'a>(m: &'a HashMap<String, V>, k: &str) -> Vec<&'a str> {
    match m.get(k) {
        Some(V::A(a)) => a
            .iter()
            .map(|v| match v {
                V::S(s) => s.as_str(),
                _ => panic!(),
            })
            .collect(),
        _ => vec![],
    }
}
fn nums(m: &HashMap<String, V>, k: &str) -> Vec<f64> {
    match m.get(k) {
        Some(V::A(a)) => a
            .iter()
            .map(|v| match v {
                V::N(s) => *s,
                _ => panic!(),
            })
            .collect(),
        _ => vec![],
    }
}
fn s<'a>(m: &'a HashMap<String, V>, k: &str) -> &'a str {
    match m.get(k) {
        Some(V::S(s)) => s,
        _ => "",
    }
}
fn n(m: &HashMap<String, V>, k: &str) -> Option<u32> {
    match m.get(k) {
        Some(V::N(s)) => Some(*s as u32),
        _ => None,
    }
}
pub fn vocabulary(m: &HashMap<String, V>) -> Vocabulary<'_> {
    let model = match s(m, "tokenizer.ggml.model") {
        "gpt2" => Model::Bpe,
        "llama" => Model::SentencePiece,
        "bert" => Model::WordPiece,
        "t5" => Model::Unigram,
        _ => panic!(),
    };
    let tokens = strs(m, "tokenizer.ggml.tokens");
    let kinds: Vec<Kind> = nums(m, "tokenizer.ggml.token_type")
        .iter()
        .map(|&n| match n as i32 {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        })
        .collect();
    let phi = s(m, "general.name") == "Phi3";
    let right_strip = if phi {
        (0..tokens.len() as u32)
            .filter(|&i| {
                (matches!(kinds[i as usize], Kind::Control | Kind::UserDefined)
                    || tokens[i as usize] == "</s>")
                    && !["<unk>", "<s>", "<|endoftext|>"].contains(&tokens[i as usize])
            })
            .collect()
    } else {
        vec![]
    };
    Vocabulary {
        model,
        pre: s(m, "tokenizer.ggml.pre"),
        tokens,
        kinds,
        right_strip,
        scores: nums(m, "tokenizer.ggml.scores").iter().map(|&v| v as f32).collect(),
        merges: strs(m, "tokenizer.ggml.merges"),
        special: SpecialTokens {
            bos: n(m, "tokenizer.ggml.bos_token_id").or(n(m, "tokenizer.ggml.cls_token_id")),
            eos: n(m, "tokenizer.ggml.eos_token_id"),
            unk: n(m, "tokenizer.ggml.unknown_token_id"),
            ..Default::default()
        },
        add_space_prefix: model == Model::SentencePiece,
        lowercase: true,
        ..Default::default()
    }
}
