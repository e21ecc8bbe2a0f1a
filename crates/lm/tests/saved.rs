//! Conversations in files.

use kinglet_lm::{Cache, Generation, LanguageModel, LmError, Options, Session};
use kinglet_testing::{Counting, Rng, models};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

#[global_allocator]
static MEMORY: Counting = Counting::new();

/// Tests take turns: the counts are of the whole process.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn open(path: &Path, cache: Cache) -> LanguageModel {
    let options =
        Options { context: Some(96), sequences: 3, cache, threads: 1, ..Options::default() };
    LanguageModel::open(path, &options).unwrap()
}

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("kinglet-saved-{}-{name}", std::process::id()))
}

fn say(session: &mut Session, model: &mut LanguageModel, n: usize) -> Vec<u32> {
    let generation = Generation { max_tokens: n, ignore_end: true, ..Generation::default() };
    let answer = session.generate(model, &generation, |_| ControlFlow::Continue(())).unwrap();
    answer.tokens.iter().map(|c| c.token).collect()
}

fn session(model: &mut LanguageModel, n: usize) -> Session {
    let mut rng = Rng::new(5);
    let mut session = Session::new(model).unwrap();
    let tokens: Vec<u32> = (0..n).map(|_| rng.below(model.vocabulary()) as u32).collect();
    session.push(&tokens);
    session
}

#[test]
fn a_saved_conversation_goes_on_as_it_would_have() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(models) = models() else { return };
    for (name, cache) in [
        ("lm/tinystories-260k-f32.gguf", Cache::F32),
        ("lm/tinystories-260k-f32.gguf", Cache::F16),
        ("arch/phi2-dense.gguf", Cache::Q8_0),
        ("arch/mamba-dense.gguf", Cache::F16),
        ("arch/mamba2-dense.gguf", Cache::F16),
        ("arch/lfm2-dense.gguf", Cache::F16),
        ("arch/gemma2-dense.gguf", Cache::F16),
    ] {
        let path = models.join(name);
        let options =
            Options { context: Some(96), sequences: 3, cache, threads: 1, ..Options::default() };
        let mut model = match LanguageModel::open(&path, &options) {
            Ok(model) => model,
            Err(e) => panic!("{name}: {e}"),
        };
        // Another conversation comes first, so that places and pages differ.
        let mut first = session(&mut model, 10);
        say(&mut first, &mut model, 3);
        let mut talk = session(&mut model, 37);
        say(&mut talk, &mut model, 8);
        let saved = file("talk");
        talk.save(&model, &saved).unwrap();
        let said = say(&mut talk, &mut model, 20);

        let mut other = open(&path, cache);
        let mut loaded = Session::load(&mut other, &saved).unwrap();
        assert_eq!(loaded.tokens(), &talk.tokens()[..45]);
        let held = other.length(loaded.sequence());
        assert!((44..=45).contains(&held), "{name}: {held}");
        assert_eq!(say(&mut loaded, &mut other, 20), said, "{name}");
        // Into a model that is in use, beside what it holds.
        let mut again = Session::load(&mut model, &saved).unwrap();
        assert_eq!(say(&mut again, &mut model, 20), said, "{name}");
        std::fs::remove_file(saved).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(models) = models() else { return };
    let path = models.join("lm/tinystories-260k-f32.gguf");
    let mut model = open(&path, Cache::F16);
    let mut talk = session(&mut model, 60);
    talk.compute(&mut model).unwrap();
    let saved = file("fit");
    talk.save(&model, &saved).unwrap();
    let refused = |model: &mut LanguageModel, says: &str| {
        let e = Session::load(model, &saved).err().unwrap().to_string();
        assert!(e.contains(says), "{e}");
        // No sequence stays open.
        let open: Vec<_> = (0..model.sequences()).map(|_| model.open_sequence()).collect();
        assert!(open.iter().all(Result::is_ok));
    };
    refused(&mut open(&models.join("arch/llama-dense.gguf"), Cache::F16), "another model");
    refused(&mut open(&path, Cache::F32), "held as f16, the model's as f32");
    let short = Options { context: Some(32), ..Options::default() };
    refused(&mut LanguageModel::open(&path, &short).unwrap(), "60 tokens do not fit");
    let e = Session::load(&mut model, Path::new("/nowhere/talk")).err().unwrap();
    assert!(e.to_string().contains("/nowhere/talk"), "{e}");
    let e = talk.save(&model, Path::new("/nowhere/talk")).unwrap_err();
    assert!(e.to_string().contains("/nowhere/talk"), "{e}");
    // A conversation of which nothing is computed, and an empty one.
    for n in [0, 4] {
        let talk = session(&mut model, n);
        talk.save(&model, &saved).unwrap();
        talk.close(&mut model);
        let loaded = Session::load(&mut model, &saved).unwrap();
        assert_eq!(loaded.tokens().len(), n);
        loaded.close(&mut model);
    }
    std::fs::remove_file(saved).unwrap();
}

#[test]
fn damaged_files_are_errors() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(models) = models() else { return };
    let mut model = open(&models.join("arch/lfm2-dense.gguf"), Cache::F16);
    let mut talk = session(&mut model, 20);
    talk.compute(&mut model).unwrap();
    let saved = file("damaged");
    talk.save(&model, &saved).unwrap();
    let bytes = std::fs::read(&saved).unwrap();
    std::fs::remove_file(&saved).unwrap();
    Session::parse(&mut model, &bytes).unwrap().close(&mut model);
    let most = 4 * bytes.len() + (8 << 20);
    let mut refused = |bytes: &[u8], what: &str| {
        let (found, peak) = MEMORY.peak_of(|| Session::parse(&mut model, bytes));
        assert!(peak < most, "{what}: {peak} bytes");
        match found {
            Err(LmError::Saved(_) | LmError::Token { .. } | LmError::Context { .. }) => {}
            Err(e) => panic!("{what}: {e}"),
            Ok(_) => panic!("{what}: loads"),
        }
    };
    for i in 0..200 {
        let cut = if i < 100 { i } else { i * (bytes.len() - 1) / 200 };
        refused(&bytes[..cut], &format!("cut at {cut}"));
    }
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for seed in 0..4000 {
        let mut rng = Rng::new(seed);
        let mut damaged = bytes.clone();
        for _ in 0..1 + rng.below(3) {
            // Half of them in the header.
            let end = if rng.below(2) == 0 { header } else { damaged.len() };
            let at = rng.below(end);
            damaged[at] ^= 1 + rng.below(255) as u8;
        }
        if damaged != bytes {
            refused(&damaged, &format!("seed {seed}"));
        }
    }
    // Numbers in the header that are changed to others, and the checksum with them, are not told
    // by it.
    let text = String::from_utf8(bytes[8..header].to_vec()).unwrap();
    for (from, to) in [("\"length\":\"20\"", "\"length\":\"96\""), ("\"U32\"", "\"I32\"")] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        let mut damaged = (changed.len() as u64).to_le_bytes().to_vec();
        damaged.extend(changed.as_bytes());
        damaged.extend(&bytes[header..]);
        refused(&damaged, from);
    }
}
