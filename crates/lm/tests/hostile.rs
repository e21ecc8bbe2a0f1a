//! Models in damaged files: a clear error or a model that runs, without a panic and without more
//! memory than a small multiple of the file. `KINGLET_HOSTILE=FILE:SEED` repeats one case.

use kinglet_formats::gguf::{Gguf, Value, Writer};
use kinglet_graph::Bytes;
use kinglet_lm::{LanguageModel, Options, Wanted};
use kinglet_testing::{Counting, Layout, Specimen, models};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[global_allocator]
static MEMORY: Counting = Counting::new();

/// Tests take turns: the counts are of the whole process.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Damaged files, over all that are damaged.
const CORRUPTIONS: u64 = 20_000;

fn options() -> Options {
    Options { context: Some(32), threads: 1, ..Options::default() }
}

/// Loads and runs what `bytes` hold; whether it did.
fn exercise(bytes: Vec<u8>, run: bool) -> Result<bool, String> {
    let file = Gguf::parse(Bytes::new(Arc::new(bytes))).map_err(|e| e.to_string())?;
    let mut model = LanguageModel::from_gguf(&file, &options()).map_err(|e| e.to_string())?;
    if !run {
        return Ok(false);
    }
    let sequence = model.open_sequence().map_err(|e| e.to_string())?;
    let tokens: Vec<u32> = (0..3.min(model.vocabulary() as u32)).collect();
    let mut rows = 0;
    model.extend(sequence, &tokens, Wanted::All, |_, _| rows += 1).map_err(|e| e.to_string())?;
    assert_eq!(rows, tokens.len());
    Ok(true)
}

#[test]
fn damaged_models_are_errors_or_run() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(models) = models() else { return };
    let only = std::env::var("KINGLET_HOSTILE").ok();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf");
    let files = [
        models.join("arch/llama-moe.gguf"),
        models.join("arch/mamba2-dense.gguf"),
        models.join("lm/tinystories-260k-f32.gguf"),
        own.join("deepseek2.gguf"),
        own.join("qwen3next.gguf"),
        own.join("qwen35moe.gguf"),
    ];
    let (mut errors, mut loaded, mut ran) = (0, 0, 0);
    for path in &files {
        let name = path.file_stem().unwrap().to_string_lossy();
        let specimen = Specimen::new(std::fs::read(path).unwrap(), Layout::Numbers);
        let most = 4 * specimen.bytes().len() + (64 << 20);
        let mut check = |bytes: Vec<u8>, what: &str, run: bool| {
            let work = || catch_unwind(AssertUnwindSafe(|| exercise(bytes, run)));
            let (result, peak) = MEMORY.peak_of(work);
            let result = result.unwrap_or_else(|_| panic!("{what}: panicked"));
            assert!(peak < most, "{what}: {peak} bytes, {result:?}");
            match result {
                Err(_) => errors += 1,
                Ok(false) => loaded += 1,
                Ok(true) => ran += 1,
            }
        };
        for cut in specimen.cuts(100) {
            check(specimen.bytes()[..cut].to_vec(), &format!("{name} cut at {cut}"), true);
        }
        for seed in 0..CORRUPTIONS / files.len() as u64 {
            let case = format!("{name}:{seed}");
            if only.as_ref().is_some_and(|only| *only != case) {
                continue;
            }
            let (bytes, damage) = specimen.damaged(seed);
            check(bytes, &format!("{case}: {damage}"), seed % 8 == 0);
        }
    }
    println!("{errors} errors, {loaded} loaded, {ran} ran");
    assert!(only.is_some() || (errors > 1000 && ran > 100), "{errors} errors, {ran} ran");
}

/// The model at `path` with other metadata.
fn changed(path: &Path, changes: &[(&str, Value)]) -> Result<(), String> {
    let file = Gguf::open(path).unwrap();
    let mut metadata = file.metadata.clone();
    for (key, value) in changes {
        metadata.insert(*key, value.clone());
    }
    let mut writer = Writer::new(metadata);
    for (name, tensor) in file.tensors.iter() {
        writer.tensor(name, tensor).unwrap();
    }
    let out: PathBuf =
        std::env::temp_dir().join(format!("kinglet-hostile-{}.gguf", std::process::id()));
    writer.write(&out).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    std::fs::remove_file(&out).unwrap();
    let most = 6 * bytes.len() + (64 << 20);
    let (result, peak) = MEMORY.peak_of(|| exercise(bytes, true));
    assert!(peak < most, "{changes:?}: {peak} bytes");
    result.map(|_| ())
}

#[test]
fn absurd_numbers_are_named() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(models) = models() else { return };
    let llama = models.join("arch/llama-moe.gguf");
    let mamba = models.join("arch/mamba2-dense.gguf");
    assert_eq!(changed(&llama, &[]), Ok(()));
    let cases: Vec<(&Path, &str, Value)> = vec![
        (&llama, "llama.block_count", Value::U64(1 << 40)),
        (&llama, "llama.block_count", Value::I32(-1)),
        (&llama, "llama.embedding_length", Value::U32(1000)),
        (&llama, "llama.attention.head_count", Value::U64(1 << 50)),
        (&llama, "llama.attention.key_length", Value::U64(1 << 40)),
        (&llama, "llama.expert_used_count", Value::U32(1000)),
        (&llama, "llama.rope.dimension_count", Value::U64(1 << 40)),
        (&llama, "llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)),
        (&llama, "llama.attention.layer_norm_rms_epsilon", Value::F32(-1.0)),
        (&llama, "llama.rope.freq_base", Value::F32(f32::INFINITY)),
        (&mamba, "mamba2.ssm.inner_size", Value::U64(1 << 60)),
        (&mamba, "mamba2.ssm.group_count", Value::U32(7)),
    ];
    for (path, key, value) in cases {
        let e = changed(path, &[(key, value.clone())]).expect_err(&format!("{key} = {value}"));
        println!("{e}");
        let key = key.split_once('.').unwrap().1;
        assert!(e.contains(key), "{key} = {value}: {e}");
    }
    // These show where they are used: the error names the tensor or node.
    let cases: Vec<(&Path, &str, Value)> = vec![
        (&llama, "llama.attention.head_count", Value::U32(0)),
        (&llama, "llama.attention.head_count", Value::U32(3)),
        (&llama, "llama.attention.head_count_kv", Value::U32(5)),
        (&llama, "llama.attention.value_length", Value::U32(7)),
        (&mamba, "mamba2.ssm.state_size", Value::U32(3)),
        (&mamba, "mamba2.ssm.time_step_rank", Value::U32(0)),
        (&mamba, "mamba2.ssm.inner_size", Value::U32(0)),
        (&llama, "general.architecture", Value::String("elephant".into())),
    ];
    for (path, key, value) in cases {
        let e = changed(path, &[(key, value.clone())]).expect_err(&format!("{key} = {value}"));
        println!("{e}");
        assert!(e.contains('\''), "{key} = {value}: {e}");
    }
    // A router that chooses among groups of experts first would choose others.
    let groups = |used| {
        let keys = [("llama.expert_group_count", 2), ("llama.expert_group_used_count", used)];
        changed(&llama, &keys.map(|(key, n)| (key, Value::U32(n))))
    };
    assert!(groups(1).unwrap_err().contains("expert_group_count"));
    assert_eq!(groups(2), Ok(()));
    // A context of no positions is one of one position; others do not matter.
    let zero = Value::U32(0);
    assert_eq!(changed(&llama, &[("llama.context_length", zero)]), Ok(()));
}
