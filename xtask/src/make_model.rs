//! Language models of real shapes with random weights, to measure with: as large and as fast as the
//! real ones, and as a file that other engines read too.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kinglet_formats::gguf::{Array, Gguf, Metadata, Value, Writer};
use kinglet_graph::{DType, Encoding, Tensor};

use crate::{cache, command};

#[derive(clap::Args)]
pub struct Arguments {
    /// The model whose shape to take: llama-1b, smollm-135m, qwen2.5-0.5b, or some layers of one:
    /// smollm-4l, olmoe-6l
    name: String,
    /// How matrices are stored: q4_0, q8_0, q4_k, tq2_0, f16, … (norms and biases are f32)
    #[arg(long)]
    encoding: String,
    /// Where to write it [default: target/models/NAME-ENCODING.gguf]
    #[arg(short)]
    output: Option<PathBuf>,
    /// Seed of the weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How these files are made, in each as `general.version`: one made otherwise is made anew.
const VERSION: &str = "2";

/// What differs between models of the Llama family.
struct Shape {
    name: &'static str,
    architecture: &'static str,
    layers: usize,
    width: usize,
    hidden: usize,
    /// How many experts there are and how many a token goes to, where the feed-forward is a mixture.
    experts: Option<(usize, usize)>,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
    context: u32,
    rope_base: f32,
    epsilon: f32,
    qkv_biases: bool,
    /// Norms of all queries and keys of a token.
    qk_norms: bool,
    /// A matrix of its own for the logits, not the embeddings.
    output: bool,
    /// Llama 3's factors on the rotary periods.
    rope_factors: bool,
    /// How the tokeniser splits text before merging.
    splitter: &'static str,
    /// The first special token, and their names; those without one are reserved.
    special: (usize, &'static [&'static str]),
    begin: u32,
    end: u32,
    begins: bool,
}

const SMOLLM: Shape = Shape {
    name: "smollm-135m",
    architecture: "llama",
    layers: 30,
    width: 576,
    hidden: 1536,
    experts: None,
    heads: 9,
    kv_heads: 3,
    vocabulary: 49_152,
    context: 2048,
    rope_base: 10_000.0,
    epsilon: 1e-5,
    qkv_biases: false,
    qk_norms: false,
    output: false,
    rope_factors: false,
    splitter: "smollm",
    special: (49_149, &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
    begin: 49_150,
    end: 49_151,
    begins: false,
};

const SHAPES: [Shape; 5] = [
    Shape {
        name: "llama-1b",
        architecture: "llama",
        layers: 16,
        width: 2048,
        hidden: 8192,
        experts: None,
        heads: 32,
        kv_heads: 8,
        vocabulary: 128_256,
        context: 131_072,
        rope_base: 500_000.0,
        epsilon: 1e-5,
        qkv_biases: false,
        qk_norms: false,
        output: false,
        rope_factors: true,
        splitter: "llama-bpe",
        special: (128_000, &["<|begin_of_text|>", "<|end_of_text|>"]),
        begin: 128_000,
        end: 128_001,
        begins: true,
    },
    SMOLLM,
    Shape { name: "smollm-4l", layers: 4, ..SMOLLM },
    Shape {
        name: "qwen2.5-0.5b",
        architecture: "qwen2",
        layers: 24,
        width: 896,
        hidden: 4864,
        experts: None,
        heads: 14,
        kv_heads: 2,
        vocabulary: 151_936,
        context: 32_768,
        rope_base: 1_000_000.0,
        epsilon: 1e-6,
        qkv_biases: true,
        qk_norms: false,
        output: false,
        rope_factors: false,
        splitter: "qwen2",
        special: (151_643, &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        begin: 151_643,
        end: 151_645,
        begins: false,
    },
    Shape {
        name: "olmoe-6l",
        architecture: "olmoe",
        layers: 6,
        width: 2048,
        hidden: 1024,
        experts: Some((64, 8)),
        heads: 16,
        kv_heads: 16,
        vocabulary: 50_304,
        context: 4096,
        rope_base: 10_000.0,
        epsilon: 1e-5,
        qkv_biases: false,
        qk_norms: true,
        output: true,
        rope_factors: false,
        splitter: "olmo",
        special: (50_277, &["<|endoftext|>", "<|padding|>"]),
        begin: 50_277,
        end: 50_277,
        begins: false,
    },
];

pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { name, encoding, output, seed } = arguments;
    let path = match output {
        Some(path) => path.clone(),
        None => usual_path(name, encoding)?,
    };
    make(name, encoding, *seed, &path)
}

/// The model at its usual place, made where it is not there or was made in an older way.
pub fn made(name: &str, encoding: &str) -> Result<PathBuf> {
    let path = usual_path(name, encoding)?;
    if !is_made(&path)? {
        make(name, encoding, 1, &path)?;
    }
    Ok(path)
}

fn is_made(path: &Path) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let file = Gguf::open(path)?;
    Ok(file.metadata.get("general.version").and_then(Value::as_str) == Some(VERSION))
}

fn usual_path(name: &str, encoding: &str) -> Result<PathBuf> {
    let dtype = dtype(encoding)?;
    Ok(folder().join(format!("{name}-{}.gguf", dtype.name())))
}

/// Where models usually are.
pub fn folder() -> PathBuf {
    command::root().join("target/models")
}

fn make(name: &str, encoding: &str, seed: u64, path: &Path) -> Result<()> {
    let shape = SHAPES.iter().find(|shape| shape.name == name).with_context(|| {
        let names: Vec<_> = SHAPES.iter().map(|shape| shape.name).collect();
        format!("no model {name:?}; there are {}", names.join(", "))
    })?;
    let dtype = dtype(encoding)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    write(shape, dtype, seed, path)?;
    let size = std::fs::metadata(path)?.len();
    println!("{}: {:.0} MB", path.display(), size as f64 / 1e6);
    Ok(())
}

fn dtype(name: &str) -> Result<DType> {
    let floats = [DType::F32, DType::F16, DType::BF16];
    let float = floats.into_iter().find(|float| float.name().eq_ignore_ascii_case(name));
    match float.or(Encoding::from_name(name).map(DType::Encoded)) {
        Some(dtype) => Ok(dtype),
        None => {
            let names: Vec<_> = Encoding::ALL.iter().map(|encoding| encoding.name()).collect();
            bail!("no encoding {name:?}; there are f32, f16, bf16, {}", names.join(", "))
        }
    }
}

fn write(shape: &Shape, dtype: DType, seed: u64, path: &Path) -> Result<()> {
    let (width, hidden) = (shape.width, shape.hidden);
    let (head, kv) = (width / shape.heads, width / shape.heads * shape.kv_heads);
    let tiles = [Tile::new(dtype, width, seed)?, Tile::new(dtype, hidden, seed)?];
    for tile in &tiles {
        if tile.dtype != dtype {
            println!("rows of {} are no whole blocks of {dtype}: {}", tile.columns, tile.dtype);
        }
    }
    let mut writer = Writer::new(metadata(shape));
    let mut count = 0;
    let mut matrices = |writer: &mut Writer<'_>, name: &str, shape: &[usize]| {
        let (columns, rows) = shape.split_last().expect("a matrix has columns");
        let tile = tiles.iter().find(|tile| tile.columns == *columns).expect("a tile").clone();
        let rows = rows.iter().product();
        count += 1;
        let start = count * 7919;
        writer.streamed(name, tile.dtype, shape, move |out| tile.write(rows, start, out))
    };
    let floats =
        |writer: &mut Writer<'_>, name: &str, shape: &[usize], spread: f32| -> Result<()> {
            let mut random = Random(cache::hash(name) ^ seed);
            let values: Vec<f32> =
                (0..shape.iter().product()).map(|_| spread * random.normal()).collect();
            Ok(writer.tensor(name, &Tensor::from_slice(shape, &values)?)?)
        };
    let ones = |writer: &mut Writer<'_>, name: &str, len: usize| -> Result<()> {
        Ok(writer.tensor(name, &Tensor::from_slice(&[len], &vec![1f32; len])?)?)
    };
    matrices(&mut writer, "token_embd.weight", &[shape.vocabulary, width])?;
    if shape.output {
        matrices(&mut writer, "output.weight", &[shape.vocabulary, width])?;
    }
    ones(&mut writer, "output_norm.weight", width)?;
    if shape.rope_factors {
        let factors = rope_factors(head, shape.rope_base);
        writer.tensor("rope_freqs.weight", &Tensor::from_slice(&[head / 2], &factors)?)?;
    }
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        ones(&mut writer, &name("attn_norm.weight"), width)?;
        for (part, rows) in [("attn_q", width), ("attn_k", kv), ("attn_v", kv)] {
            matrices(&mut writer, &name(&format!("{part}.weight")), &[rows, width])?;
            if shape.qkv_biases {
                floats(&mut writer, &name(&format!("{part}.bias")), &[rows], 0.1)?;
            }
        }
        if shape.qk_norms {
            ones(&mut writer, &name("attn_q_norm.weight"), width)?;
            ones(&mut writer, &name("attn_k_norm.weight"), kv)?;
        }
        matrices(&mut writer, &name("attn_output.weight"), &[width, width])?;
        ones(&mut writer, &name("ffn_norm.weight"), width)?;
        match shape.experts {
            None => {
                matrices(&mut writer, &name("ffn_gate.weight"), &[hidden, width])?;
                matrices(&mut writer, &name("ffn_up.weight"), &[hidden, width])?;
                matrices(&mut writer, &name("ffn_down.weight"), &[width, hidden])?;
            }
            Some((count, _)) => {
                let spread = 1.0 / (width as f32).sqrt();
                floats(&mut writer, &name("ffn_gate_inp.weight"), &[count, width], spread)?;
                matrices(&mut writer, &name("ffn_gate_exps.weight"), &[count, hidden, width])?;
                matrices(&mut writer, &name("ffn_up_exps.weight"), &[count, hidden, width])?;
                matrices(&mut writer, &name("ffn_down_exps.weight"), &[count, width, hidden])?;
            }
        }
    }
    writer.write(path)?;
    Ok(())
}

fn metadata(shape: &Shape) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.insert("general.architecture", shape.architecture.into());
    metadata.insert("general.name", format!("{}, random weights", shape.name).into());
    metadata.insert("general.version", VERSION.into());
    metadata.insert("general.quantization_version", 2u32.into());
    let mut model = |key: &str, value| {
        metadata.insert(format!("{}.{key}", shape.architecture), value);
    };
    model("block_count", (shape.layers as u32).into());
    model("context_length", shape.context.into());
    model("embedding_length", (shape.width as u32).into());
    model("feed_forward_length", (shape.hidden as u32).into());
    model("attention.head_count", (shape.heads as u32).into());
    model("attention.head_count_kv", (shape.kv_heads as u32).into());
    model("attention.layer_norm_rms_epsilon", shape.epsilon.into());
    model("rope.freq_base", shape.rope_base.into());
    model("rope.dimension_count", ((shape.width / shape.heads) as u32).into());
    model("vocab_size", (shape.vocabulary as u32).into());
    if let Some((count, used)) = shape.experts {
        model("expert_count", (count as u32).into());
        model("expert_used_count", (used as u32).into());
    }
    let (tokens, types, merges) = vocabulary(shape);
    let mut tokenizer = |key: &str, value| {
        metadata.insert(format!("tokenizer.ggml.{key}"), value);
    };
    tokenizer("model", "gpt2".into());
    tokenizer("pre", shape.splitter.into());
    tokenizer("tokens", Array::of_strings(tokens).into());
    tokenizer("token_type", types[..].into());
    tokenizer("merges", Array::of_strings(merges).into());
    tokenizer("bos_token_id", shape.begin.into());
    tokenizer("eos_token_id", shape.end.into());
    tokenizer("add_bos_token", shape.begins.into());
    metadata
}

/// Tokens of a byte-level BPE, their types, and merges: single bytes, two letters (or a space and a
/// letter), four of those; then the special ones.
fn vocabulary(shape: &Shape) -> (Vec<String>, Vec<i32>, Vec<String>) {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    const SPACE: char = 'Ġ';
    let (special, names) = shape.special;
    let mut tokens: Vec<String> = byte_letters().iter().map(char::to_string).collect();
    let mut merges = Vec::new();
    let merged = |a: &str, b: &str| (format!("{a}{b}"), format!("{a} {b}"));
    let letters = || 'a'..='z';
    let starts = letters().chain([SPACE]);
    let pairs: Vec<_> = starts
        .flat_map(|a| letters().map(move |b| merged(&a.to_string(), &b.to_string())))
        .collect();
    let inner = pairs.iter().filter(|(pair, _)| !pair.starts_with(SPACE));
    let fours = inner.flat_map(|(b, _)| pairs.iter().map(move |(a, _)| merged(a, b)));
    let wanted = special - tokens.len();
    for (token, merge) in pairs.iter().cloned().chain(fours).take(wanted) {
        tokens.push(token);
        merges.push(merge);
    }
    assert_eq!(tokens.len(), special, "letters suffice for the vocabulary");
    let mut types = vec![NORMAL; special];
    for i in 0..shape.vocabulary - special {
        let reserved = || format!("<|reserved_special_token_{}|>", i - names.len());
        tokens.push(names.get(i).map_or_else(reserved, |name| name.to_string()));
        types.push(CONTROL);
    }
    (tokens, types, merges)
}

/// The letters that stand for bytes in GPT-2's vocabulary: printable ones for themselves, the others
/// from U+0100 on.
fn byte_letters() -> [char; 256] {
    let mut other = 0x100..;
    std::array::from_fn(|byte| match byte as u32 {
        printable @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => printable,
        _ => other.next().expect("there are enough"),
    })
    .map(|code| char::from_u32(code).expect("a letter"))
}

/// Llama 3's factors: long periods are stretched 32 times, short ones not at all.
fn rope_factors(head: usize, base: f32) -> Vec<f32> {
    const FACTOR: f64 = 32.0;
    const CONTEXT: f64 = 8192.0;
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    let factor = |pair: usize| {
        let period = std::f64::consts::TAU * f64::from(base).powf(2.0 * pair as f64 / head as f64);
        let turns = ((CONTEXT / period - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - turns) / FACTOR + turns)) as f32
    };
    (0..head / 2).map(factor).collect()
}

/// Encoded weights that matrices of one width repeat, each from a place of its own: the same weights
/// in every encoding. Their number of blocks of 256 is prime, so that rows do not repeat before as many.
#[derive(Clone)]
struct Tile {
    dtype: DType,
    columns: usize,
    bytes: std::sync::Arc<Vec<u8>>,
}

impl Tile {
    /// Of the largest blocks that there are.
    const BLOCK: usize = 256;
    const BLOCKS: usize = 8191;

    /// Normally distributed, with the spread that keeps a unit input at unit size.
    fn new(wanted: DType, columns: usize, seed: u64) -> Result<Tile> {
        let dtype = fitting(wanted, columns);
        let mut random = Random(seed.wrapping_mul(columns as u64));
        let spread = 1.0 / (columns as f32).sqrt();
        let count = Self::BLOCKS * Self::BLOCK;
        let weights: Vec<f32> = (0..count).map(|_| spread * random.normal()).collect();
        let tensor = Tensor::encode(dtype, &[Self::BLOCKS, Self::BLOCK], &weights)?;
        Ok(Tile { dtype, columns, bytes: std::sync::Arc::new(tensor.raw().to_vec()) })
    }

    fn write(&self, rows: usize, start: usize, out: &mut dyn Write) -> io::Result<()> {
        let block = self.dtype.bytes(Self::BLOCK).expect("whole blocks");
        let mut left = self.dtype.bytes(rows * self.columns).expect("whole blocks");
        let mut at = start % Self::BLOCKS * block;
        while left > 0 {
            let part = left.min(self.bytes.len() - at);
            out.write_all(&self.bytes[at..at + part])?;
            left -= part;
            at = 0;
        }
        Ok(())
    }
}

/// `wanted`, or where rows are not whole blocks of it the encoding of about its size that llama.cpp
/// takes then.
fn fitting(wanted: DType, columns: usize) -> DType {
    if columns.is_multiple_of(wanted.block().0) {
        return wanted;
    }
    DType::Encoded(match wanted.encoding() {
        Some(Encoding::TQ1_0 | Encoding::TQ2_0) => Encoding::Q4_0,
        Some(Encoding::Q4_K) => Encoding::Q5_0,
        Some(Encoding::Q5_K) => Encoding::Q5_1,
        Some(Encoding::Q6_K) => Encoding::Q8_0,
        _ => Encoding::IQ4_NL,
    })
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Of about normal distribution: a sum of eight, with variance 1.
    fn normal(&mut self) -> f32 {
        let (a, b) = (self.bits(), self.bits());
        let parts = |v: u64| {
            [0, 16, 32, 48].map(|shift| f32::from((v >> shift) as u16)).iter().sum::<f32>()
        };
        let sum: f32 = parts(a) + parts(b);
        (sum / 65_535.0 - 4.0) * (12.0f32 / 8.0).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet_graph::Bytes;

    fn weights(encoding: &str, rows: usize, start: usize) -> Vec<f32> {
        let tile = Tile::new(dtype(encoding).unwrap(), 2048, 1).unwrap();
        let mut bytes = Vec::new();
        tile.write(rows, start, &mut bytes).unwrap();
        let bytes = Bytes::new(std::sync::Arc::new(bytes));
        let tensor = Tensor::from_bytes(tile.dtype, &[rows, 2048], bytes).unwrap();
        let mut out = vec![0.0; rows * 2048];
        tensor.view().decode(0, &mut out).unwrap();
        out
    }

    /// The last block of the tile and the first ones: what comes after the end is the start.
    #[test]
    fn encodings_hold_the_same_weights() {
        let start = Tile::BLOCKS - 1;
        let plain = weights("f32", 2, start);
        let spread = 1.0 / 2048f32.sqrt();
        for (encoding, apart) in [("f16", 2e-3), ("q8_0", 0.02), ("q4_0", 0.6), ("q4_k", 0.6)] {
            let encoded = weights(encoding, 2, start);
            let furthest =
                plain.iter().zip(&encoded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(furthest < apart * spread, "{encoding}: {} spreads apart", furthest / spread);
        }
        assert_ne!(plain, weights("f32", 2, start + 1));
    }
}
