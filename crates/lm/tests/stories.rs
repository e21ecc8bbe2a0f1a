//! A real trained model: tokens, logits and greedy text as llama.cpp had them.

use kinglet_lm::tokenizer::EncodeOptions;
use kinglet_lm::{Cache, Generation, LanguageModel, Options, Session, Wanted};
use kinglet_testing::model;
use std::ops::ControlFlow;

#[derive(serde::Deserialize)]
struct Story {
    prompt: String,
    tokens: Vec<u32>,
    top5_last: Vec<u32>,
    logits_last: Vec<f32>,
    greedy_text: String,
}

#[test]
fn stories_go_on_as_in_llama_cpp() {
    let (Some(path), Some(json)) =
        (model("lm/tinystories-260k-f32.gguf"), model("lm/tinystories-260k.json"))
    else {
        return;
    };
    let stories: Vec<Story> =
        serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert!(stories.len() >= 3);
    let options = Options { cache: Cache::F32, threads: 2, ..Options::default() };
    let mut model = LanguageModel::open(&path, &options).unwrap();
    for story in stories {
        let tokenizer = model.tokenizer().unwrap().clone();
        let all = EncodeOptions { add_special: true, parse_special: false };
        assert_eq!(tokenizer.encode(&story.prompt, all).unwrap(), story.tokens);
        let mut session = Session::new(&mut model).unwrap();
        session.push(&story.tokens);
        session.compute(&mut model).unwrap();
        let logits = session.logits();
        // llama.cpp held keys and values in 16 bits.
        for (found, want) in logits.iter().zip(&story.logits_last) {
            assert!((found - want).abs() < 1e-2, "{found} where llama.cpp has {want}");
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
        assert_eq!(order[..5], story.top5_last);
        let generation = Generation { max_tokens: 64, ..Generation::default() };
        let mut heard = String::new();
        let answer = session
            .generate(&mut model, &generation, |text| {
                heard.push_str(text);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(heard, answer.text);
        let same = answer.text.len().min(story.greedy_text.len());
        assert_eq!(answer.text[..same], story.greedy_text[..same], "after {:?}", story.prompt);
        assert!(same > 60, "only {same} bytes compared");
        session.close(&mut model);
    }
}

/// As llama.cpp counts: chunks of 256 tokens that each start with BOS, the later half of each
/// scored.
#[test]
fn perplexity_is_llama_cpps() {
    let (Some(path), Some(text)) = (model("lm/tinystories-260k-f32.gguf"), model("lm/stories.txt"))
    else {
        return;
    };
    let options =
        Options { context: Some(256), cache: Cache::F32, threads: 2, ..Options::default() };
    let mut model = LanguageModel::open(&path, &options).unwrap();
    let text = std::fs::read_to_string(text).unwrap();
    let all = EncodeOptions { add_special: true, parse_special: false };
    let tokenizer = model.tokenizer().unwrap().clone();
    let tokens = tokenizer.encode(&text, all).unwrap();
    let (mut sum, mut count) = (0.0f64, 0);
    for chunk in tokens.chunks_exact(256) {
        let mut chunk = chunk.to_vec();
        chunk[0] = tokenizer.special().bos.unwrap();
        let sequence = model.open_sequence().unwrap();
        model
            .extend(sequence, &chunk, Wanted::All, |i, logits| {
                if (128..255).contains(&i) {
                    let target = logits[chunk[i + 1] as usize];
                    sum += f64::from(kinglet_lm::sample::log_sum_exp(logits) - target);
                    count += 1;
                }
            })
            .unwrap();
        model.close_sequence(sequence);
    }
    let perplexity = (sum / f64::from(count)).exp();
    assert!((perplexity / 4.1174 - 1.0).abs() < 1e-3, "{perplexity}");
}
