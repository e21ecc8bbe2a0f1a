//! A small Llama in each encoding of GGUF: logits of every position as llama.cpp computed them, and
//! its greedy tokens, or ones as likely within what the logits may be off.

use kinglet_lm::sample::best;
use kinglet_lm::{Cache, LanguageModel, Options, Session, Wanted};
use kinglet_testing::{models, npz};
use std::collections::BTreeMap;

/// What a logit may be off, as a part of the spread of all.
///
/// llama.cpp rounds activations to 8 bits before it multiplies them by what is encoded, and to 16
/// bits for BF16. Measured without rounding them: 0.013 to 0.023 for blocks, 0.0044 for BF16, 0.0006
/// for F16.
fn allowed(encoding: &str) -> f32 {
    match encoding {
        "F16" => 0.002,
        "BF16" => 0.01,
        _ => 0.035,
    }
}

#[test]
fn every_encoding_says_what_llama_cpp_does() {
    let Some(models) = models() else { return };
    let mut paths: Vec<_> = std::fs::read_dir(models.join("encodings"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "gguf"))
        .collect();
    paths.sort();
    assert_eq!(paths.len(), 18);
    let mut wrong = Vec::new();
    for path in paths {
        let name = path.file_stem().unwrap().to_string_lossy().to_string();
        let expected: BTreeMap<_, _> = npz(&path.with_extension("npz")).into_iter().collect();
        let ids = |key: &str| -> Vec<u32> {
            expected[key].to_vec::<i32>().unwrap().into_iter().map(|t| t as u32).collect()
        };
        let options =
            Options { context: Some(64), cache: Cache::F32, threads: 2, ..Options::default() };
        let mut model = LanguageModel::open(&path, &options).unwrap();
        let mut session = Session::new(&mut model).unwrap();
        let (tokens, greedy) = (ids("tokens"), ids("greedy"));
        let mut found = Vec::new();
        let take = |_: usize, l: &[f32]| found.extend_from_slice(l);
        model.extend(session.sequence(), &tokens, Wanted::All, take).unwrap();
        let logits = expected["logits"].to_vec::<f32>().unwrap();
        assert_eq!(found.len(), logits.len());
        let spread = logits.iter().copied().fold(f32::MIN, f32::max)
            - logits.iter().copied().fold(f32::MAX, f32::min);
        let off = found.iter().zip(&logits).map(|(a, b)| (a - b).abs());
        // NaN must not hide.
        let off = off.fold(0.0, |m, d| if d <= m { m } else { d }) / spread;
        println!("{name}: {off:.1e}");
        if off.is_nan() || off > allowed(&name) {
            wrong.push(format!("{name}: logits are off by {off} of their spread"));
        }
        session.push(&tokens);
        for (i, want) in greedy.iter().enumerate() {
            session.compute(&mut model).unwrap();
            let logits = session.logits();
            let next = best(logits).unwrap();
            // Two tokens may be so near that the rounding decides.
            let behind = (logits[next as usize] - logits[*want as usize]) / spread;
            if behind > allowed(&name) {
                wrong.push(format!("{name}: token {i} is {next}, not {want}, behind by {behind}"));
            } else if behind > 0.0 {
                println!("{name}: token {i} is {next}, not {want}, behind by {behind:.1e}");
            }
            session.push(&[*want]);
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
