//! Memory that a model takes and gives back, as the system counts it. One test at a time: the
//! numbers are of the whole process.
#![cfg(target_os = "linux")]

use half::f16;
use kinglet_formats::gguf::{Metadata, Value, Writer};
use kinglet_graph::{DType, Encoding};
use kinglet_lm::{Cache, Generation, LanguageModel, Options, Session, Trim};
use kinglet_testing::Rng;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

const MB: usize = 1 << 20;

/// Tests take turns.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

const WIDTH: usize = 512;
const WIDE: usize = 2048;
const LAYERS: usize = 8;
const VOCABULARY: usize = 2048;

/// Writes a Llama of random weights in Q8_0 whose tensors take about 37 MB.
fn write(path: &Path) {
    let mut metadata = Metadata::default();
    for (key, value) in [
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(LAYERS as u32)),
        ("llama.embedding_length", Value::U32(WIDTH as u32)),
        ("llama.feed_forward_length", Value::U32(WIDE as u32)),
        ("llama.attention.head_count", Value::U32(8)),
        ("llama.attention.head_count_kv", Value::U32(8)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", Value::U32(64)),
        ("llama.context_length", Value::U32(4096)),
    ] {
        metadata.insert(key, value);
    }
    let mut writer = Writer::new(metadata);
    let mut matrix = |name: String, rows: usize, columns: usize, seed: u64| {
        let dtype = DType::Encoded(Encoding::Q8_0);
        writer
            .streamed(&name, dtype, &[rows, columns], move |out: &mut dyn Write| {
                let mut rng = Rng::new(seed);
                let scale = f16::from_f32(1.0 / 127.0 / (columns as f32).sqrt());
                for _ in 0..rows {
                    let mut row = Vec::with_capacity(columns / 32 * 34);
                    for _ in 0..columns / 32 {
                        row.extend(scale.to_le_bytes());
                        row.extend(rng.bytes(32));
                    }
                    out.write_all(&row)?;
                }
                Ok(())
            })
            .unwrap();
    };
    matrix("token_embd.weight".into(), VOCABULARY, WIDTH, 1);
    matrix("output.weight".into(), VOCABULARY, WIDTH, 2);
    for layer in 0..LAYERS {
        let seed = 10 * (layer as u64 + 1);
        for (i, part) in ["attn_q", "attn_k", "attn_v", "attn_output"].into_iter().enumerate() {
            matrix(format!("blk.{layer}.{part}.weight"), WIDTH, WIDTH, seed + i as u64);
        }
        matrix(format!("blk.{layer}.ffn_gate.weight"), WIDE, WIDTH, seed + 5);
        matrix(format!("blk.{layer}.ffn_up.weight"), WIDE, WIDTH, seed + 6);
        matrix(format!("blk.{layer}.ffn_down.weight"), WIDTH, WIDE, seed + 7);
    }
    let norms = (0..LAYERS).flat_map(|l| ["attn_norm", "ffn_norm"].map(|n| format!("blk.{l}.{n}")));
    for name in norms.chain(["output_norm".to_string()]) {
        let ones = vec![1f32; WIDTH];
        let tensor = kinglet_graph::Tensor::from_slice(&[WIDTH], &ones).unwrap();
        writer.tensor(&format!("{name}.weight"), &tensor).unwrap();
    }
    writer.write(path).unwrap();
}

/// The file, and its removal at the end.
struct File(PathBuf);

impl File {
    fn new() -> File {
        let path = std::env::temp_dir().join(format!("kinglet-memory-{}.gguf", std::process::id()));
        write(&path);
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn status(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().strip_suffix("kB").unwrap().trim().parse::<usize>().unwrap()
        * 1024
}

/// The most that the process had in memory during `work`.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let result = work();
    (result, status("VmHWM"))
}

fn options(memory: Option<usize>) -> Options {
    let (context, cache) = (Some(256), Cache::F16);
    Options { context, cache, threads: 1, memory, ..Options::default() }
}

fn say(model: &mut LanguageModel, session: &mut Session, n: usize) -> Vec<u32> {
    let generation = Generation { max_tokens: n, ..Generation::default() };
    let answer = session.generate(model, &generation, |_| ControlFlow::Continue(())).unwrap();
    answer.tokens.iter().map(|c| c.token).collect()
}

/// What a fresh conversation says.
fn talk(model: &mut LanguageModel) -> Vec<u32> {
    let mut session = Session::new(model).unwrap();
    session.push(&[1, 5, 9, 13]);
    let said = say(model, &mut session, 3);
    session.close(model);
    said
}

#[test]
fn a_budget_bounds_the_process_and_changes_no_word() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let file = File::new();
    let before = status("VmRSS");
    let (said, report, all) = {
        let (result, peak) = peak_of(|| {
            let mut model = LanguageModel::open(&file.0, &options(None)).unwrap();
            (talk(&mut model), model.memory())
        });
        (result.0, result.1, peak)
    };
    println!("{} MB before, {} MB without a budget, {report:?}", before / MB, all / MB);
    assert!(report.weights_mapped > 30 * MB, "{report:?}");
    assert!(all > before + 30 * MB);
    // The least is told by the error, and is enough.
    for more in [2 * MB, 8 * MB, 80 * MB] {
        let e = LanguageModel::open(&file.0, &options(Some(MB))).err().unwrap().to_string();
        let least: usize = e
            .split("at least ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("{e}"));
        let budget = least * MB + more;
        let (result, peak) = peak_of(|| {
            let mut model = LanguageModel::open(&file.0, &options(Some(budget))).unwrap();
            (talk(&mut model), model.memory())
        });
        println!("{} MB of {} MB, {:?}", peak / MB, budget / MB, result.1);
        assert!(peak <= budget, "{peak} bytes of {budget}");
        assert_eq!(result.0, said);
        if more < 10 * MB {
            assert!(result.1.weights_resident.unwrap() < report.weights_mapped * 9 / 10);
        }
    }
}

#[test]
fn a_long_context_costs_nothing_until_it_is_used() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let file = File::new();
    let peak_with = |context| {
        let options = Options { context: Some(context), ..options(None) };
        peak_of(|| talk(&mut LanguageModel::open(&file.0, &options).unwrap()))
    };
    let (short, long) = (peak_with(256), peak_with(64 << 10));
    assert_eq!(short.0, long.0);
    // Its cache would take a gigabyte.
    assert!(long.1 < short.1 + 16 * MB, "{} and {} bytes", short.1, long.1);
}

#[test]
fn what_is_trimmed_is_given_back_and_comes_back() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let file = File::new();
    let mut model = LanguageModel::open(&file.0, &options(None)).unwrap();
    let mut session = Session::new(&mut model).unwrap();
    session.push(&[1, 5, 9, 13]);
    let mut text = vec![1, 5, 9, 13];
    text.extend(say(&mut model, &mut session, 2));
    let logits = |model: &mut LanguageModel, session: &mut Session| {
        session.compute(model).unwrap();
        session.logits().to_vec()
    };
    for (level, computed) in [(Trim::Packed, 0), (Trim::Cache, 6), (Trim::Weights, 6)] {
        // From the start, so that everything is there to be given back.
        session.rewrite(&mut model, Vec::new());
        session.push(&text);
        let before = logits(&mut model, &mut session);
        let (resident, report) = (status("VmRSS"), model.memory());
        model.trim(level);
        let (left, now) = (status("VmRSS"), model.memory());
        println!("{level:?}: {} MB to {} MB, {now:?}", resident / MB, left / MB);
        assert_eq!((now.packed, now.plans), (0, 0));
        if level >= Trim::Cache {
            assert_eq!(model.length(session.sequence()), 0);
        }
        if level == Trim::Weights {
            assert_eq!(now.weights_resident, Some(0));
        }
        // Packed copies go at every level, weights that are read from their file at the last.
        let weights = if level == Trim::Weights { report.weights_resident.unwrap() } else { 0 };
        let freed = report.packed + weights;
        assert!(
            report.packed > 30 * MB && resident - left > freed * 9 / 10,
            "{resident} to {left}"
        );
        // The next call has what it needs.
        assert_eq!(session.compute(&mut model).unwrap(), computed);
        let after = logits(&mut model, &mut session);
        assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-4), "{level:?}");
    }
}

#[test]
fn endless_text_takes_no_more_memory() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(path) = kinglet_testing::model("lm/tinystories-260k-f32.gguf") else { return };
    let options = Options { context: Some(64), threads: 1, ..Options::default() };
    let mut model = LanguageModel::open(&path, &options).unwrap();
    let mut session = Session::new(&mut model).unwrap();
    session.push(&[1, 403, 407]);
    let generation =
        |n| Generation { max_tokens: n, sinks: Some(4), ignore_end: true, ..Generation::default() };
    session.generate(&mut model, &generation(192), |_| ControlFlow::Continue(())).unwrap();
    let before = status("VmRSS");
    let answer =
        session.generate(&mut model, &generation(400), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(answer.tokens.len(), 400);
    let after = status("VmRSS");
    assert!(after < before + MB, "{before} to {after}");
}
