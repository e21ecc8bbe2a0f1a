//! Memory that a model takes and gives back, as the system counts it. One test at a time: the
//! numbers are of the whole process.
#![cfg(target_os = "linux")]

use kinglet_formats::gguf::{Metadata, Value, Writer};
use kinglet_formats::map::{process_peak, process_resident};
use kinglet_graph::{DType, Encoding, Tensor};
use kinglet_lm::{Cache, Generation, LanguageModel, Options, Session, Trim};
use kinglet_testing::Rng;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MB: usize = 1 << 20;

/// Tests take turns.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

const VOCABULARY: usize = 2048;
const Q8_0: DType = DType::Encoded(Encoding::Q8_0);

/// A Llama's.
struct Shape {
    layers: usize,
    width: usize,
    wide: usize,
}

/// About 36 million weights.
const DEEP: Shape = Shape { layers: 8, width: 512, wide: 2048 };
/// About 105 million weights, in fewer matrices.
const WIDE: Shape = Shape { layers: 6, width: 1024, wide: 4096 };

/// Writes a model of random weights.
fn write(shape: &Shape, dtype: DType, path: &Path) {
    let Shape { layers, width, wide } = *shape;
    let mut metadata = Metadata::default();
    for (key, value) in [
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(layers as u32)),
        ("llama.embedding_length", Value::U32(width as u32)),
        ("llama.feed_forward_length", Value::U32(wide as u32)),
        ("llama.attention.head_count", Value::U32(width as u32 / 64)),
        ("llama.attention.head_count_kv", Value::U32(width as u32 / 64)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", Value::U32(64)),
        ("llama.context_length", Value::U32(4096)),
    ] {
        metadata.insert(key, value);
    }
    let mut writer = Writer::new(metadata);
    // Rows from which matrices are made; their number is prime, so that rows repeat far apart.
    const ROWS: usize = 61;
    let rows = [width, wide].map(|columns| {
        let spread = (3.0 / columns as f32).sqrt();
        let weights = Rng::new(columns as u64).floats(ROWS * columns, -spread, spread);
        let rows = Tensor::encode(dtype, &[ROWS, columns], &weights).unwrap();
        (columns, Arc::new(rows.raw().to_vec()))
    });
    let mut random = Rng::new(1);
    let mut matrix = |name: String, count: usize, columns: usize| {
        let rows = rows.iter().find(|(len, _)| *len == columns).unwrap().1.clone();
        let mut random = Rng::new(random.bits());
        let write = move |out: &mut dyn Write| {
            let row = rows.len() / ROWS;
            (0..count).try_for_each(|_| out.write_all(&rows[random.below(ROWS) * row..][..row]))
        };
        writer.streamed(&name, dtype, &[count, columns], write).unwrap();
    };
    matrix("token_embd.weight".into(), VOCABULARY, width);
    matrix("output.weight".into(), VOCABULARY, width);
    for layer in 0..layers {
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            matrix(format!("blk.{layer}.{part}.weight"), width, width);
        }
        matrix(format!("blk.{layer}.ffn_gate.weight"), wide, width);
        matrix(format!("blk.{layer}.ffn_up.weight"), wide, width);
        matrix(format!("blk.{layer}.ffn_down.weight"), width, wide);
    }
    let norms = (0..layers).flat_map(|l| ["attn_norm", "ffn_norm"].map(|n| format!("blk.{l}.{n}")));
    let ones = Tensor::from_slice(&[width], &vec![1f32; width]).unwrap();
    for name in norms.chain(["output_norm".to_string()]) {
        writer.tensor(&format!("{name}.weight"), &ones).unwrap();
    }
    writer.write(path).unwrap();
}

/// The file, and its removal at the end.
struct File(PathBuf);

impl File {
    fn new(shape: &Shape, dtype: DType) -> File {
        let path = std::env::temp_dir().join(format!("kinglet-memory-{}.gguf", std::process::id()));
        write(shape, dtype, &path);
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn in_memory() -> usize {
    process_resident().unwrap()
}

/// The most that the process had in memory during `work`.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let result = work();
    (result, process_peak().unwrap())
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

/// What a fresh conversation says, and the logits after it.
fn talk(model: &mut LanguageModel) -> (Vec<u32>, Vec<f32>) {
    let mut session = Session::new(model).unwrap();
    let prompt: Vec<u32> = (0..40).map(|i| i * 47 % VOCABULARY as u32).collect();
    session.push(&prompt);
    let said = say(model, &mut session, 3);
    let logits = session.logits().to_vec();
    session.close(model);
    (said, logits)
}

/// The least budget that the model takes, as the error says.
fn least(path: &Path) -> usize {
    let e = LanguageModel::open(path, &options(Some(MB))).err().unwrap().to_string();
    let number = e.split("at least ").nth(1).and_then(|rest| rest.split(' ').next());
    MB * number.and_then(|n| n.parse::<usize>().ok()).unwrap_or_else(|| panic!("{e}"))
}

/// Budgets from the least on bound the process, which computes the same as without.
fn stays_within(dtype: DType) {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let file = File::new(&WIDE, dtype);
    let run = |memory| {
        peak_of(|| {
            let mut model = LanguageModel::open(&file.0, &options(memory)).unwrap();
            (talk(&mut model), model.memory())
        })
    };
    let before = in_memory();
    let ((said, report), all) = run(None);
    println!("{dtype}: {} MB before, {} MB without a budget, {report:?}", before / MB, all / MB);
    assert_eq!(said.1.len(), VOCABULARY);
    assert!(all > before + report.weights_mapped * 9 / 10);
    // What the process has in memory before it opens the model counts, and differs by some pages.
    let least = least(&file.0) + MB;
    // The whole process takes less than the weights alone.
    assert!(least + 4 * MB < report.weights_mapped, "{least} of {}", report.weights_mapped);
    let middle = least + report.weights_mapped / 3;
    for budget in [least, least + 4 * MB, middle, least + 2 * report.weights_mapped] {
        let ((again, report), peak) = run(Some(budget));
        println!("{} MB of {} MB, {report:?}", peak / MB, budget / MB);
        assert!(peak <= budget, "{peak} bytes of {budget}");
        assert_eq!(again, said);
        let held = report.packed + report.weights_resident.unwrap();
        assert!(held > report.weights_mapped / 2 || budget <= middle, "{held} held of {report:?}");
    }
}

#[test]
fn a_budget_bounds_the_process_with_q4_0() {
    stays_within(DType::Encoded(Encoding::Q4_0));
}

#[test]
fn a_budget_bounds_the_process_with_q8_0() {
    stays_within(Q8_0);
}

#[test]
fn a_budget_bounds_the_process_with_q4_k() {
    stays_within(DType::Encoded(Encoding::Q4_K));
}

#[test]
fn a_budget_bounds_the_process_with_f16() {
    stays_within(DType::F16);
}

#[test]
fn a_long_context_costs_nothing_until_it_is_used() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let file = File::new(&DEEP, Q8_0);
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
    // One has packed copies, the other is used as it is stored.
    gives_back(&WIDE, DType::Encoded(Encoding::Q4_0), 50 * MB);
    gives_back(&DEEP, Q8_0, 0);
}

fn gives_back(shape: &Shape, dtype: DType, packed: usize) {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let file = File::new(shape, dtype);
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
        let (resident, report) = (in_memory(), model.memory());
        model.trim(level);
        let (left, now) = (in_memory(), model.memory());
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
        assert!(level < Trim::Weights || packed > 0 || weights > 30 * MB, "{report:?}");
        let freed = report.packed + weights;
        assert!(report.packed >= packed && freed >= packed);
        assert!(resident.saturating_sub(left) >= freed * 9 / 10, "{resident} to {left} of {freed}");
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
    let before = in_memory();
    let answer =
        session.generate(&mut model, &generation(400), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(answer.tokens.len(), 400);
    let after = in_memory();
    assert!(after < before + MB, "{before} to {after}");
}
