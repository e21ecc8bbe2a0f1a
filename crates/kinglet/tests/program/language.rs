//! Language models: `run`, `chat`, `eval` and `inspect`.

use crate::common::{Done, file, folder, kinglet, kinglet_hears, model};
use kinglet_testing::{Array, npz};
use serde_json::Value;

const STORIES: &str = "lm/tinystories-260k-f32.gguf";

/// What llama.cpp made of each prompt.
fn recorded() -> Option<Vec<Value>> {
    let path = model("lm/tinystories-260k.json")?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

fn npy(array: &Array) -> Vec<u8> {
    let mut out = Vec::new();
    array.write(&mut out).unwrap();
    out
}

#[test]
fn greedy_text_is_as_recorded() {
    let (Some(path), Some(recorded)) = (model(STORIES), recorded()) else { return };
    assert!(recorded.len() > 2);
    for case in recorded {
        let prompt = case["prompt"].as_str().unwrap();
        let expected = case["greedy_text"].as_str().unwrap();
        let words = ["run", &path, prompt, "--max-tokens", "80", "--cache", "f32"];
        let answer = kinglet(words.iter().chain(&["--json"])).json();
        let text = answer["text"].as_str().unwrap();
        assert!(text.starts_with(expected), "{text}\n{expected}");
        assert!(["stop", "length"].contains(&answer["finish_reason"].as_str().unwrap()));
        let tokens = answer["tokens"].as_array().unwrap();
        assert!(tokens.len() <= 80 && !tokens.is_empty());
        let timing = &answer["timing"];
        for number in ["load_ms", "first_token_ms", "prompt_tok_s", "decode_tok_s"] {
            assert!(timing[number].as_f64().unwrap() > 0.0, "{number}: {timing}");
        }
        if cfg!(target_os = "linux") {
            assert!(answer["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
        }
        let streamed = kinglet(words);
        assert_eq!((streamed.status, streamed.stdout), (0, format!("{text}\n")));
        let heard = kinglet_hears(
            ["run", &path, "-", "--max-tokens", "80", "--cache", "f32"],
            &format!("{prompt}\n"),
        );
        assert!(heard.stdout.starts_with(expected), "{}", heard.stdout);
    }
}

#[test]
fn texts_are_embedded() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../lm/tests/encoders/mean.gguf");
    let vectors = |words: &[&str]| -> Vec<Vec<f64>> {
        let done = kinglet([&["embed", model], words].concat());
        serde_json::from_value(done.json()["embeddings"].clone()).unwrap()
    };
    // Options are options wherever they stand.
    let (both, first) = (vectors(&["a bird", "-1", "--json"]), vectors(&["--json", "a bird"]));
    assert_eq!((both.len(), first.len()), (2, 1));
    assert_eq!(both[0], first[0]);
    assert_ne!(both[0], both[1]);
}

#[test]
fn an_answer_ends_where_it_should() {
    let Some(path) = model(STORIES) else { return };
    let run = |more: &[&str]| {
        let words = ["run", &path, "Once upon a time", "--json"];
        kinglet(words.iter().chain(more)).json()
    };
    let stopped = run(&["--stop", "nowhere", "--stop", " Lily"]);
    assert_eq!(stopped["text"], ", there was a little girl named");
    assert_eq!(stopped["finish_reason"], "stop");
    let short = run(&["--max-tokens", "3"]);
    assert_eq!(short["finish_reason"], "length");
    assert_eq!(short["tokens"].as_array().unwrap().len(), 3);
    // The context is full: the answer ends, or goes on without its beginning.
    let full = run(&["--context", "32", "--ignore-end"]);
    assert_eq!(full["finish_reason"], "length");
    assert_eq!(full["tokens"].as_array().unwrap().len(), 32 - 5 + 1);
    let endless = run(&["--context", "32", "--ignore-end", "--endless", "--max-tokens", "150"]);
    assert_eq!(endless["tokens"].as_array().unwrap().len(), 150);
}

#[test]
fn choices_are_free_but_for_the_seed() {
    let Some(path) = model(STORIES) else { return };
    let run = |more: &[&str]| {
        let words = ["run", &path, "Once upon a time", "--json", "--max-tokens", "40"];
        kinglet(words.iter().chain(more)).json()["text"].as_str().unwrap().to_string()
    };
    let warm = ["--temperature", "1.2", "--seed"];
    let drawn = |seed: &'static str, more: &[&str]| run(&[&warm[..], &[seed], more].concat());
    assert_eq!(drawn("1", &[]), drawn("1", &[]));
    assert_ne!(drawn("1", &[]), drawn("2", &[]));
    // Cut down to one choice, it is the greedy one.
    let greedy = run(&[]);
    for cut in [["--top-k", "1"], ["--top-p", "0"], ["--min-p", "1"]] {
        assert_eq!(drawn("3", &cut), greedy, "{cut:?}");
    }
    assert_ne!(drawn("3", &["--typical", "0.3"]), greedy);
    let penalties =
        [["--repetition-penalty", "2"], ["--frequency-penalty", "2"], ["--presence-penalty", "4"]];
    for penalty in penalties {
        assert_ne!(run(&penalty), greedy, "{penalty:?}");
    }
    // 432 is the first greedy token.
    assert_eq!(run(&["--logit-bias", "432=0"]), greedy);
    assert_ne!(run(&["--logit-bias", "432=-inf"]), greedy);
    let always = run(&["--logit-bias", "432=100", "--cache", "f32"]);
    assert!(always.chars().all(|c| c == ','), "{always}");
}

#[test]
fn probabilities_are_said() {
    let Some(path) = model(STORIES) else { return };
    let words = ["run", &path, "Once upon a time", "--log-probabilities", "--max-tokens", "6"];
    let answer = kinglet(words.iter().chain(&["--json"])).json();
    let likely: Vec<f64> = answer["log_probabilities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect();
    assert_eq!(likely.len(), 6);
    assert!(likely.iter().all(|l| (-3.0..=0.0).contains(l)), "{likely:?}");
    let table = kinglet(words).stdout;
    assert_eq!(table.lines().count(), 6);
    assert!(table.lines().next().unwrap().ends_with("%  \",\""), "{table}");
}

/// The logits that the program writes for `tokens`.
fn logits(path: &str, tokens: &Array) -> Array {
    let folder = folder();
    let input = format!("tokens={}", file(&folder, "tokens.npy", &npy(tokens)));
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let words = ["run", path, "--input", &input, "--output-dir", out, "--context", "64", "--json"];
    let answer = kinglet(words).json();
    let written = answer["outputs"][0]["file"].as_str().unwrap();
    assert!(written.ends_with("logits.npy"));
    Array::read(&mut std::fs::File::open(written).unwrap(), 1 << 24).unwrap()
}

#[test]
fn logits_of_all_positions_are_written_without_a_tokeniser() {
    for name in ["llama-dense", "mamba-dense", "phi2-dense"] {
        let Some(path) = model(&format!("arch/{name}.gguf")) else { return };
        let expected = npz(model(&format!("arch/{name}.npz")).unwrap().as_ref());
        let expected = |key: &str| &expected.iter().find(|(name, _)| name == key).unwrap().1;
        let (tokens, want) = (expected("tokens"), expected("logits"));
        let found = logits(&path, tokens);
        assert_eq!(found.shape, want.shape);
        let (found, want) = (found.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
        let spread = want.iter().fold(f32::MIN, |m, v| m.max(*v))
            - want.iter().fold(f32::MAX, |m, v| m.min(*v));
        let most = found.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most / spread < 0.01, "{name}: {most} of {spread}");
        // Other integers are tokens too.
        let wide: Vec<i64> = tokens.to_vec::<i32>().unwrap().into_iter().map(i64::from).collect();
        let wide = Array::new(&[1, wide.len()], &wide);
        assert_eq!(logits(&path, &wide).to_vec::<f32>().unwrap(), found);
    }
}

#[test]
fn a_model_without_a_tokeniser_goes_on_from_tokens() {
    let Some(path) = model("arch/llama-dense.gguf") else { return };
    let expected = npz(model("arch/llama-dense.npz").unwrap().as_ref());
    let expected = |key: &str| &expected.iter().find(|(name, _)| name == key).unwrap().1;
    let folder = folder();
    let input = format!("tokens={}", file(&folder, "tokens.npy", &npy(expected("tokens"))));
    let words = ["run", &path, "--input", &input, "--max-tokens", "12", "--cache", "f32"];
    let answer = kinglet(words.iter().chain(&["--json"])).json();
    let found: Vec<i32> =
        answer["tokens"].as_array().unwrap().iter().map(|t| t.as_i64().unwrap() as i32).collect();
    assert_eq!(found, expected("greedy").to_vec::<i32>().unwrap());
    let numbers: Vec<String> = found.iter().map(i32::to_string).collect();
    assert_eq!(kinglet(words).stdout, numbers.join(" ") + "\n");
}

#[test]
fn perplexity_is_what_llama_cpp_counts() {
    let (Some(path), Some(text)) = (model(STORIES), model("lm/stories.txt")) else { return };
    let words = ["eval", "perplexity", &path, &text, "--context", "256"];
    let found = kinglet(words.iter().chain(&["--json"])).json();
    let perplexity = found["perplexity"].as_f64().unwrap();
    assert!((perplexity / 4.1174 - 1.0).abs() < 1e-3, "{perplexity}");
    assert_eq!(found["context"], 256);
    let chunks = found["chunks"].as_u64().unwrap();
    assert_eq!(found["tokens"].as_u64().unwrap(), chunks * 127);
    let said = kinglet(words).stdout;
    assert!(said.starts_with(&format!("perplexity {perplexity:.4} ± 0.")), "{said}");
}

#[test]
fn models_are_compared() {
    let (Some(path), Some(text)) = (model(STORIES), model("lm/stories.txt")) else { return };
    let words = ["eval", "divergence", &path, &path, &text, "--context", "128"];
    let same = kinglet(words.iter().chain(&["--json"])).json();
    assert!(same["largest"].as_f64().unwrap() < 1e-9, "{same}");
    assert_eq!(same["same_top"], 1.0);
    // A model whose last norm is louder says the same things, but surer of them.
    let folder = folder();
    let louder = file(&folder, "louder.gguf", &louder(&std::fs::read(&path).unwrap()));
    let words = ["eval", "divergence", &path, &louder, &text, "--context", "128", "--json"];
    let other = kinglet(words).json();
    assert!(other["mean"].as_f64().unwrap() > 0.01, "{other}");
    assert!(other["median"].as_f64() <= other["percentile_99"].as_f64());
    assert!(other["percentile_99"].as_f64() <= other["largest"].as_f64());
    assert!(other["same_top"].as_f64().unwrap() > 0.99, "{other}");
}

/// The model's file with `output_norm.weight` doubled, and so all logits.
fn louder(model: &[u8]) -> Vec<u8> {
    let gguf = kinglet::parts::formats::gguf::Gguf::parse(kinglet::parts::graph::Bytes::new(
        std::sync::Arc::new(model.to_vec()),
    ));
    let gguf = gguf.unwrap();
    let weight = gguf.tensors.get("output_norm.weight").unwrap();
    let bytes = weight.raw();
    let at = model.windows(bytes.len()).position(|window| window == bytes).unwrap();
    let mut model = model.to_vec();
    for value in model[at..at + bytes.len()].chunks_exact_mut(4) {
        let doubled = 2.0 * f32::from_le_bytes(value.try_into().unwrap());
        value.copy_from_slice(&doubled.to_le_bytes());
    }
    model
}

#[test]
fn a_conversation_is_held_saved_and_gone_on_with() {
    let Some(path) = model(STORIES) else { return };
    let folder = folder();
    let saved = folder.path().join("talk.json");
    let saved = saved.to_str().unwrap();
    let chat = |more: &[&str], input: &str| -> Done {
        let words = ["chat", &path, "--temperature", "0", "--max-tokens", "20"];
        kinglet_hears(words.iter().chain(more), input)
    };
    let input = format!(
        "/system Be kind.\nOnce upon\\\na time\n\nThe dog was\n/stats\n/save {saved}\n/help\n"
    );
    let done = chat(&[], &input);
    assert_eq!(done.status, 0, "{}", done.stderr);
    for expected in ["context ", "were new", "answer    ", "/load FILE", "wrote "] {
        assert!(done.stderr.contains(expected), "{expected}: {}", done.stderr);
    }
    let read =
        |path: &str| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let talk = read(saved);
    let said = |index: usize| talk["messages"][index]["content"].as_str().unwrap();
    let roles: Vec<&str> = talk["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!((said(0), said(1), said(3)), ("Be kind.", "Once upon\na time", "The dog was"));
    assert_eq!(done.stdout, format!("{}\n{}\n", said(2), said(4)));

    // What was held already is not read again.
    let new = |text: &str| -> Vec<usize> {
        let line = text.lines().find(|line| line.starts_with("prompt")).unwrap().to_string();
        line.split(' ').filter_map(|word| word.parse().ok()).collect()
    };
    let counts = new(&done.stderr);
    assert!(counts[1] < counts[0] / 2, "{counts:?}");

    // Gone on with in one run, or in two.
    let all = chat(&["--json"], &input.replace(saved, "/dev/null").replace("/help", "Lily"));
    let two = chat(&["--json", "--load", saved], "Lily\n");
    assert_eq!(all.json()["messages"], two.json()["messages"]);
    let cleared = chat(&["--json", "--load", saved], "/clear\n/system\n/quit\nnever\n").json();
    assert_eq!(cleared["messages"], serde_json::json!([]));
}

#[test]
fn a_long_conversation_forgets_its_beginning() {
    let Some(path) = model(STORIES) else { return };
    let words = ["chat", &path, "--context", "128", "--max-tokens", "24", "--json"];
    let done = kinglet_hears(words, &"Tell me of the dog.\n".repeat(6));
    assert!(done.stderr.contains("no longer sees the first 2 messages"), "{}", done.stderr);
    assert_eq!(done.json()["messages"].as_array().unwrap().len(), 12);
    let long = kinglet_hears(["chat", &path, "--context", "64"], &"word ".repeat(100));
    assert_eq!(long.status, 2);
    assert!(long.stderr.contains("do not fit in a context of 64"), "{}", long.stderr);
    assert_eq!(kinglet_hears(["chat", &path], "/fly\n").status, 2);
}

#[test]
fn people_read_what_a_language_model_is() {
    let Some(path) = model(STORIES) else { return };
    let done = kinglet(["inspect", &path, "--threads", "1"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    for expected in [
        "family    llama, ",
        "5 layers of width 64, 512 tokens",
        "8 heads of 8, 4 of keys and values",
        "text      tokeniser, no chat template",
        " for 1000 tokens",
        "multiply-accumulates a token",
    ] {
        assert!(done.stdout.contains(expected), "{expected}: {}", done.stdout);
    }
    let report = kinglet(["inspect", &path, "--json"]).json();
    assert_eq!(report["task"], "text");
    assert_eq!(report["language"]["layers"], 5);
    let cache = report["language"]["cache_bytes_per_1000_tokens"].as_u64().unwrap();
    // Layers × heads of keys and values × (key + value) × 16 bits.
    let language = |key: &str| report["language"][key].as_u64().unwrap();
    assert_eq!(cache, language("layers") * language("kv_heads") * 2 * language("head") * 2 * 1000);
}

#[test]
fn every_family_can_be_inspected() {
    let Some(models) = kinglet_testing::models() else { return };
    let mut inspected = 0;
    for folder in ["arch", "encodings"] {
        for entry in std::fs::read_dir(models.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "gguf") {
                continue;
            }
            let report = kinglet(["inspect", path.to_str().unwrap(), "--json"]).json();
            assert_eq!((&report["format"], &report["task"]), (&"gguf".into(), &"text".into()));
            assert!(report["macs"].as_u64().unwrap() > 0, "{path:?}");
            assert_eq!(report["language"]["tokenizer"], false);
            inspected += 1;
        }
    }
    assert!(inspected > 30);
}

/// The same file with a name in it misspelt.
fn misspelt(path: &str, name: &str, other: &str) -> Vec<u8> {
    assert_eq!(name.len(), other.len());
    let mut bytes = std::fs::read(path).unwrap();
    let mut found = 0;
    for at in 0..bytes.len() - name.len() {
        if bytes[at..].starts_with(name.as_bytes()) {
            bytes[at..at + name.len()].copy_from_slice(other.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "no {name} in {path}");
    bytes
}

#[test]
fn wrong_language_models_are_refused() {
    let Some(path) = model(STORIES) else { return };
    let folder = folder();
    let whole = std::fs::read(&path).unwrap();
    let unknown = misspelt(&path, "llama", "lhama");
    let missing = misspelt(&path, "blk.3.ffn_up.weight", "blk.3.ffn_ap.weight");
    let cases = [
        ("unknown.gguf", unknown, "'lhama' is not among the families known: "),
        ("missing.gguf", missing, "blk.3.ffn_up.weight"),
        ("cut.gguf", whole[..whole.len() / 2].to_vec(), "cut.gguf: "),
        ("head.gguf", whole[..20].to_vec(), "head.gguf: "),
    ];
    for (name, content, expected) in cases {
        let path = file(&folder, name, &content);
        for words in [
            &["run", &path, "Once"][..],
            &["inspect", &path],
            &["chat", &path],
            &["eval", "perplexity", &path, &path.replace(name, "text")],
        ] {
            file(&folder, "text", b"Once upon a time");
            let message = kinglet(words).refusal();
            assert!(message.contains(expected) && message.contains(name), "{words:?}: {message}");
        }
    }
}

#[test]
fn wrong_requests_of_language_models_are_refused() {
    let Some(path) = model(STORIES) else { return };
    let Some(bare) = model("arch/llama-dense.gguf") else { return };
    let Some(words_model) = model("tiny/kws_ref_model.tflite") else { return };
    let folder = folder();
    let tokens = |name: &str, array: &Array| format!("tokens={}", file(&folder, name, &npy(array)));
    let floats = tokens("floats.npy", &Array::new(&[2], &[1f32, 2.0]));
    let square = tokens("square.npy", &Array::new(&[2, 2], &[1i32, 2, 3, 4]));
    let outside = tokens("outside.npy", &Array::new(&[2], &[1i32, 1 << 20]));
    let negative = tokens("negative.npy", &Array::new(&[2], &[1i32, -1]));
    let none = tokens("none.npy", &Array::new(&[0], &[0i32; 0]));
    let few = file(&folder, "few.txt", b"Once upon a time");
    let binary = file(&folder, "binary.txt", b"abc\xff");
    let long = "word ".repeat(3000);
    let cases: [(&[&str], &str); 23] = [
        (&["run", &path], "give a prompt, or - to read it from standard input"),
        (
            &["run", &path, "Once upon a time", "--context", "4"],
            "5 tokens do not fit in a context of 4",
        ),
        (&["run", &path, &long], "do not fit in a context of"),
        (&["run", &path, "Once", "--temperature=-1"], "temperature is -1: must be 0 or more"),
        (&["run", &path, "Once", "--top-p", "1.5"], "top-p is 1.5: must lie from 0 to 1"),
        (&["run", &path, "Once", "--logit-bias", "512=1"], "the model's tokens are 0 to 511"),
        (&["run", &path, "Once", "--stop", ""], "--stop: the text that ends an answer is empty"),
        (
            &["run", &path, "Once", "--task", "pose"],
            "this is a language model, and --task means nothing",
        ),
        (
            &["run", &words_model, "--top-k", "4"],
            "this is no language model, and --top-k means nothing",
        ),
        (&["run", &bare, "Once"], "tokeniser"),
        (&["run", &path, "Once", "--input", &square], "not both"),
        (&["run", &bare, "--input", &floats], "tokens are i32, u32 or i64 of one dimension"),
        (&["run", &bare, "--input", &square], "tokens are i32, u32 or i64 of one dimension"),
        (&["run", &bare, "--input", &outside], "token 1048576 of a vocabulary of"),
        (&["run", &bare, "--input", &negative], "-1 is no token's number"),
        (&["run", &bare, "--input", &none], "there is no token in it"),
        (&["run", &bare, "--input", "x=y.npy"], "a language model has one input"),
        (&["chat", &bare], "tokeniser"),
        (&["chat", &words_model], "this is no language model; give a GGUF file"),
        (&["chat", &path, "--load", &few], "this is no saved conversation"),
        (&["eval", "perplexity", &path, &few], "fewer than the context of 512"),
        (&["eval", "perplexity", &path, &binary], "this is not text: byte 3 is no UTF-8"),
        (&["eval", "divergence", &path, &bare, &few], "only models of one vocabulary"),
    ];
    for (words, expected) in cases {
        let message = kinglet(words).refusal();
        assert!(message.contains(expected), "{words:?}: {message}");
    }
}
