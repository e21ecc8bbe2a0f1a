//! `kinglet tune`: what it makes of a model and of data, and what no interruption takes from it.

use crate::common::{Done, file, folder, kinglet, kinglet_with, model};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const STORIES: &str = "lm/tinystories-260k-f32.gguf";

/// A small Llama, to be made anew.
const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": true,
    "hidden_act": "silu", "rms_norm_eps": 1e-5}"#;

/// Requests with the calls that answer them.
fn calls(count: usize) -> String {
    let lines = (0..count).map(|i| {
        let (say, name) = [("lamp on", "lamp"), ("play a song", "music")][i % 2];
        format!(
            "{{\"say\": \"{say}\", \"call\": {{\"name\": \"{name}\", \"arguments\": {{\"on\": true}}}}}}\n"
        )
    });
    lines.collect()
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_string()
}

/// Words of a training of the story model on its stories.
fn stories(folder: &TempDir, out: &str, more: &[&str]) -> Option<Vec<String>> {
    let (model, data) = (model(STORIES)?, model("lm/stories.txt")?);
    let out = path(folder, out);
    let words = ["tune", &model, "--data", &data, "-o", &out, "--batch", "2", "--context", "64"];
    Some(words.iter().chain(more).map(|word| word.to_string()).collect())
}

/// Words of a training from nothing.
fn fresh(folder: &TempDir, out: &str, more: &[&str]) -> Vec<String> {
    let config = file(folder, "config.json", CONFIG.as_bytes());
    let data = file(folder, "calls.jsonl", calls(60).as_bytes());
    let out = path(folder, out);
    let words = ["tune", "--config", &config, "--vocab", "300", "--data", &data, "-o", &out];
    words.iter().chain(more).map(|word| word.to_string()).collect()
}

fn start(words: &[String]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinglet"));
    command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the program starts")
}

fn kept(folder: &TempDir, out: &str) -> PathBuf {
    folder.path().join(format!("{out}.tune"))
}

/// Waits until a checkpoint is there, of another content than `before`.
fn wait_for_checkpoint(kept: &Path, before: &[u8]) -> Vec<u8> {
    let since = Instant::now();
    loop {
        assert!(since.elapsed() < Duration::from_secs(60), "no checkpoint comes");
        match fs::read(kept.join("checkpoint.safetensors")) {
            Ok(found) if found != before => return found,
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The step of a checkpoint.
fn step_of(checkpoint: &[u8]) -> u64 {
    let len = u64::from_le_bytes(checkpoint[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&checkpoint[8..8 + len]).unwrap();
    header["__metadata__"]["step"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_model_learns_a_text_and_is_read_again() {
    let folder = folder();
    let text = "A red kite flew over the quiet harbour and nobody saw it land.\n".repeat(100);
    let data = file(&folder, "kite.txt", text.as_bytes());
    let Some(model) = model(STORIES) else { return };
    for (out, encoding) in [("out.gguf", "f32"), ("half.gguf", "f16"), ("small.gguf", "q8_0")] {
        let out = path(&folder, out);
        let words = ["tune", &model, "--data", &data, "-o", &out, "--steps", "12", "--batch", "2"];
        let more = ["--context", "64", "--rate", "3e-3", "--encoding", encoding, "--json"];
        let told = kinglet(words.iter().chain(&more)).json();
        let loss = |key: &str| told[key]["evaluation"].as_f64().unwrap();
        assert!(loss("evaluation") < loss("evaluation_before") / 2.0, "{told}");
        assert_eq!((told["ending"].as_str(), told["steps"].as_u64()), (Some("done"), Some(12)));
        let perplexity = |model: &str| {
            let words = ["eval", "perplexity", model, &data, "--context", "64", "--json"];
            kinglet(words).json()["perplexity"].as_f64().unwrap()
        };
        assert!(perplexity(&out) < perplexity(&model) / 3.0, "{}", perplexity(&out));
        let report = fs::read_to_string(told["report"].as_str().unwrap()).unwrap();
        assert!(report.contains("<polyline") && report.contains("held out"), "{report}");
    }
    let size = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
    assert!(size("half.gguf") < size("out.gguf") && size("small.gguf") < size("half.gguf"));
}

#[test]
fn a_new_model_learns_calls() {
    let folder = folder();
    for (out, more) in [("out", &[][..]), ("out.gguf", &["--encoding", "q8_0"])] {
        let learn =
            ["--steps", "60", "--batch", "2", "--context", "64", "--rate", "1e-2", "--json"];
        let told = kinglet(fresh(&folder, out, &[&learn[..], more].concat())).json();
        assert!(told["loss"].as_f64().unwrap() < 0.2, "{told}");
        let out = path(&folder, out);
        for (say, name) in [("lamp on", "lamp"), ("play a song", "music")] {
            let done = kinglet(["run", &out, say]);
            let want = format!("{{\"name\":\"{name}\",\"arguments\":{{\"on\":true}}}}\n");
            assert_eq!((done.status, done.stdout), (0, want), "{}", done.stderr);
        }
    }
    let names = fs::read_dir(folder.path().join("out")).unwrap();
    let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let want = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!(names[..4], want);
    // A folder is trained further, and stays a folder.
    let (from, data) = (path(&folder, "out"), path(&folder, "calls.jsonl"));
    let more = path(&folder, "more");
    let words = ["tune", &from, "--data", &data, "-o", &more, "--steps", "2", "--context", "64"];
    let told = kinglet(words.iter().chain(&["--batch", "2", "--json"])).json();
    assert!(told["loss"].as_f64().unwrap() < 0.3, "{told}");
    assert_eq!(kinglet(["run", &more, "lamp on"]).status, 0);
}

/// What is learned beside weights in any encoding is in the model that is written: it loses as little
/// on what was held out as the training said.
#[test]
fn low_rank_products_are_learned_beside_weights() {
    let folder = folder();
    let Some(model) = model(STORIES) else { return };
    let text = "A red kite flew over the quiet harbour and nobody saw it land.\n".repeat(100);
    let data = file(&folder, "kite.txt", text.as_bytes());
    let tune = |model: &str, out: &str, more: &[&str]| {
        let words = ["tune", model, "--data", &data, "-o", out, "--batch", "2", "--context", "64"];
        kinglet(words.iter().chain(&["--held-out", "0.2", "--json"]).chain(more)).json()
    };
    let loss = |told: &Value, key: &str| told[key]["evaluation"].as_f64().unwrap();
    let small = path(&folder, "small.gguf");
    tune(&model, &small, &["--steps", "1", "--rate", "0", "--encoding", "q8_0"]);
    for (base, name) in [(&model, "a.gguf"), (&small, "b.gguf")] {
        let out = path(&folder, name);
        let told = tune(base, &out, &["--steps", "12", "--rate", "1e-2", "--lora", "4"]);
        assert!(loss(&told, "evaluation") < loss(&told, "evaluation_before") / 2.0, "{told}");
        assert!(told["memory"]["optimiser"].as_u64() < told["memory"]["frozen"].as_u64(), "{told}");
        // Not trained on: what the evaluation before the first step finds is the model as written.
        let again = path(&folder, &format!("again-{name}"));
        let read = tune(&out, &again, &["--steps", "1", "--rate", "0"]);
        let off = loss(&read, "evaluation_before") - loss(&told, "evaluation");
        assert!(off.abs() < 1e-3, "{off}");
        // The same as an adapter beside the weights, as much as it counts.
        let adapter = path(&folder, &format!("adapter-{name}"));
        let more = ["--steps", "12", "--rate", "1e-2", "--lora", "4", "--adapter"];
        tune(base, &adapter, &more);
        let perplexity = |words: &[&str]| {
            let words = ["eval", "perplexity"].iter().chain(words).chain(&["--json"]);
            kinglet(words.copied()).json()["perplexity"].as_f64().unwrap()
        };
        let merged = perplexity(&[&out, &data]);
        let applied = perplexity(&[base, &data, "--adapter", &adapter]);
        assert!((merged / applied - 1.0).abs() < 2e-3, "{merged} {applied}");
        let plain = perplexity(&[base, &data]);
        let off = perplexity(&[base, &data, "--adapter", &format!("{adapter}=0")]);
        assert!(off == plain && plain > 1.5 * applied, "{off} {plain} {applied}");
        let wrong = format!("{adapter}=x");
        assert_eq!(kinglet(["eval", "perplexity", base, &data, "--adapter", &wrong]).status, 2);
    }
}

/// What is left out stays as it was, and has no state.
#[test]
fn some_weights_are_trained_alone() {
    let folder = folder();
    let more = ["--steps", "3", "--json"];
    let Some(words) = stories(&folder, "all.gguf", &more) else { return };
    let all = kinglet(&words).json();
    let some = |choices: &str| {
        let words = stories(&folder, "some.gguf", &more).unwrap();
        kinglet(words.iter().map(String::as_str).chain(["--train", choices]))
    };
    let told = some("last=1,*norm.weight").json();
    let optimiser = |told: &Value| told["memory"]["optimiser"].as_u64().unwrap();
    assert!(optimiser(&told) * 3 < optimiser(&all), "{told}");
    let read = |path: &str| kinglet_formats::gguf::Gguf::open(Path::new(path)).unwrap().tensors;
    let (before, after) = (read(&model(STORIES).unwrap()), read(&path(&folder, "some.gguf")));
    for (name, tensor) in before.iter() {
        let chosen = name.starts_with("blk.4.") || name.ends_with("norm.weight");
        let changed = tensor.raw() != after[name].raw();
        assert_eq!(changed, chosen, "{name}");
    }
    let refused = some("last=1,nothing*");
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("nothing*: no weight of the model"), "{}", refused.stderr);
}

/// Without gradients: in the memory of inference, with adapters beside an encoded model too.
#[test]
fn mezo_takes_no_gradients() {
    let folder = folder();
    let more = ["--steps", "3", "--json"];
    let Some(words) = stories(&folder, "adam.gguf", &more) else { return };
    let adam = kinglet(&words).json();
    let words = stories(&folder, "mezo.gguf", &["--steps", "40", "--json"]).unwrap();
    let mezo = ["--optimiser", "mezo", "--rate", "1e-5"];
    let told = kinglet(words.iter().map(String::as_str).chain(mezo)).json();
    let memory = |told: &Value, key: &str| told["memory"][key].as_u64().unwrap();
    assert_eq!(memory(&told, "optimiser"), 8);
    assert!(memory(&told, "activations") * 3 < memory(&adam, "activations"), "{told} {adam}");
    let loss = |key: &str| told[key]["evaluation"].as_f64().unwrap();
    assert!(loss("evaluation") < loss("evaluation_before"), "{told}");
}

/// In bf16 as much is learned, in less memory; the next step of a checkpoint is made the same way.
#[test]
fn products_of_bf16_learn_as_much() {
    let folder = folder();
    let more = ["--steps", "20", "--json"];
    let Some(words) = stories(&folder, "single.gguf", &more) else { return };
    let single = kinglet(&words).json();
    let words = stories(&folder, "mixed.gguf", &more).unwrap();
    let mixed = [&words[..], &["--precision".to_string(), "bf16".to_string()]].concat();
    // Said of every CPU that lacks the instructions.
    let done = kinglet_with(&mixed, [("KINGLET_ISA", "portable")]);
    assert!(done.stderr.contains("no AVX512-BF16"), "{}", done.stderr);
    let told = done.json();
    let memory = |told: &Value| told["memory"]["activations"].as_u64().unwrap();
    assert!(memory(&told) < memory(&single), "{told} {single}");
    let loss = |told: &Value, key: &str| told[key]["evaluation"].as_f64().unwrap();
    let (before, after) = (loss(&single, "evaluation_before"), loss(&single, "evaluation"));
    // Evaluations are of f32, but for what instruction sets differ in.
    assert!((loss(&told, "evaluation_before") - before).abs() < 1e-6 * before, "{told}");
    let off = (loss(&told, "evaluation") - after).abs();
    assert!(after < before && off < 0.05 * (before - after), "{off} of {before} to {after}");
    let refused = kinglet([&words[..], &["--quiet".to_string()]].concat()).refusal();
    assert!(refused.contains("--precision"), "{refused}");
    let words = stories(&folder, "mezo.gguf", &["--precision", "bf16", "--optimiser", "mezo"]);
    assert!(kinglet(words.unwrap()).refusal().contains("--optimiser mezo"));
}

/// Killed again and again, a training comes to the weights of one that was not.
#[test]
fn a_killed_training_goes_on_to_the_same_weights() {
    let folder = folder();
    let more = ["--steps", "12", "--threads", "1", "--save-every", "0", "--accumulate", "2"];
    let Some(undisturbed) = stories(&folder, "undisturbed.gguf", &more) else { return };
    let done = kinglet(&undisturbed);
    assert_eq!(done.status, 0, "{}", done.stderr);
    let words = stories(&folder, "killed.gguf", &more).unwrap();
    let kept = kept(&folder, "killed.gguf");
    let (mut last, mut killed) = (Vec::new(), 0);
    for pause in [0, 20, 70, 130] {
        let mut child = start(&words);
        let found = wait_for_checkpoint(&kept, &last);
        std::thread::sleep(Duration::from_millis(pause));
        if child.try_wait().unwrap().is_none() {
            killed += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        last = found;
    }
    assert!(killed >= 2, "killed {killed} times while it worked");
    assert!(!folder.path().join("killed.gguf").exists(), "it was done before it was killed");
    let done = kinglet(&words);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(done.stderr.contains("going on after step"), "{}", done.stderr);
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(read("killed.gguf") == read("undisturbed.gguf"), "other weights");
    let steps = |name: &str| {
        let log = fs::read_to_string(folder.path().join(name).join("log.jsonl")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| (line["step"].clone(), line["loss"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(steps("killed.gguf.tune"), steps("undisturbed.gguf.tune"));
    // Once it is done, it is done.
    let again = kinglet(words.iter().map(String::as_str).chain(["--json"])).json();
    assert_eq!(again["steps"], 12);
}

#[test]
fn two_trainings_of_one_output_are_refused() {
    let folder = folder();
    let words = fresh(&folder, "out", &["--steps", "1000000", "--context", "64"]);
    let mut child = start(&words);
    wait_for_checkpoint(&kept(&folder, "out"), &[]);
    let message = kinglet(&words).refusal();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(message.contains(&format!("process {} is training here", child.id())), "{message}");
}

#[test]
fn settings_cannot_change_on_the_way() {
    let folder = folder();
    let words = |rate| {
        let more = ["--steps", "3", "--context", "64", "--quiet", "--rate", rate];
        fresh(&folder, "out", &more)
    };
    assert_eq!(kinglet(words("1e-3")).status, 0);
    let message = kinglet(words("2e-3")).refusal();
    assert!(message.contains("other settings") && message.contains("learning rate"), "{message}");
    let data = file(&folder, "other.jsonl", calls(30).as_bytes());
    let mut other = words("1e-3");
    let at = other.iter().position(|word| word == "--data").unwrap();
    other[at + 1] = data;
    let message = kinglet(&other).refusal();
    assert!(message.contains("(data was"), "{message}");
}

#[test]
fn a_loss_that_is_not_finite_stops_it() {
    let folder = folder();
    for accumulate in ["1", "2"] {
        let out = format!("out{accumulate}");
        let more = ["--steps", "50", "--context", "64", "--optimiser", "sgd", "--rate", "1e30"];
        let last = ["--clip", "0", "--save-every", "0", "--accumulate", accumulate];
        let done = kinglet(fresh(&folder, &out, &[&more[..], &last].concat()));
        assert_eq!(done.status, 1, "{}", done.stderr);
        assert!(done.stderr.contains("is not finite: the checkpoint of step"), "{}", done.stderr);
        assert!(!folder.path().join(&out).exists());
        let checkpoint = wait_for_checkpoint(&kept(&folder, &out), &[]);
        let last = format!("of step {} is the last good one", step_of(&checkpoint));
        assert!(done.stderr.contains(&last), "{}", done.stderr);
    }
}

#[test]
fn a_net_learns_from_pictures_and_runs() {
    let Some(net) = model("tiny/pretrainedResnet.tflite") else { return };
    let folder = folder();
    let pictures = folder.path().join("pictures");
    for (i, class) in ["blue", "green", "red"].into_iter().enumerate() {
        fs::create_dir_all(pictures.join(class)).unwrap();
        for shade in 0..8u8 {
            let mut colour = [20 + shade; 3];
            colour[2 - i] = 255 - 9 * shade;
            let picture = kinglet::tasks::Picture::filled(9, 7, colour);
            fs::write(pictures.join(class).join(format!("{shade}.png")), picture.png()).unwrap();
        }
    }
    let (data, out) = (pictures.display().to_string(), path(&folder, "out.tflite"));
    // A TFLite file keeps its classes, so there must be ten.
    let words = ["tune", &net, "--data", &data, "-o", &out, "--pixels", "0..255"];
    let message = kinglet(words).refusal();
    assert!(message.contains("10 classes and the data 3") && message.contains("ONNX"), "{message}");
    for class in ["3", "4", "5", "6", "7", "8", "9"] {
        fs::create_dir_all(pictures.join(class)).unwrap();
        fs::copy(pictures.join("red/0.png"), pictures.join(class).join("0.png")).unwrap();
    }
    let more = ["--steps", "30", "--batch", "8", "--rate", "2e-3", "--held-out", "0.2", "--json"];
    let told = kinglet(words.iter().chain(&more)).json();
    let right = |when: &str| told[when]["accuracy"].as_f64().unwrap();
    assert!(right("evaluation") > right("evaluation_before"), "{told}");
    assert!(told["samples_s"].as_f64() > Some(0.0) && told["perplexity"].is_null(), "{told}");
    let labels = path(&folder, "out.labels.txt");
    assert!(fs::read_to_string(&labels).unwrap().starts_with("3\n4\n"), "numbers before names");
    let picture = pictures.join("blue/3.png").display().to_string();
    let told =
        kinglet(["run", &out, &picture, "--labels", &labels, "--pixels", "0..255", "--json"]);
    assert_eq!(told.json()["top"][0]["label"], "blue");
    // The file of names is no more written over than OUT itself.
    let other = path(&folder, "other.tflite");
    file(&folder, "other.labels.txt", b"mine\n");
    let message = kinglet(["tune", &net, "--data", &data, "-o", &other, "--quiet"]).refusal();
    assert!(message.contains("other.labels.txt: it is there already"), "{message}");
    // What belongs to language models is refused.
    for option in [["--context", "64"], ["--lora", "4"], ["--encoding", "f16"]] {
        let message = kinglet(words.iter().chain(&option)).refusal();
        assert!(message.contains(&format!("{} means nothing", option[0])), "{message}");
    }
}

/// A file that can grow no further stands for a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_no_checkpoint() {
    let folder = folder();
    let words = fresh(&folder, "out", &["--steps", "400", "--context", "64", "--save-every", "0"]);
    let mut child = start(&words);
    let kept = kept(&folder, "out");
    let first = wait_for_checkpoint(&kept, &[]);
    wait_for_checkpoint(&kept, &first);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = wait_for_checkpoint(&kept, &[]);
    let limited = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_kinglet")]).args(&words);
    let output = command.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot write the checkpoint"), "{message}");
    let after = fs::read(kept.join("checkpoint.safetensors")).unwrap();
    assert!(after == before, "step {} became {}", step_of(&before), step_of(&after));
}

#[test]
fn bad_lines_are_named_and_left_out_up_to_a_limit() {
    let folder = folder();
    let text = format!("{}{{\"say\": 1}}\n{}\noh no\n", calls(20), calls(20));
    let data = file(&folder, "data.jsonl", text.as_bytes());
    let with = |out: &str, most: &str| -> Done {
        let mut words = fresh(&folder, out, &["--steps", "2", "--context", "64", "--json"]);
        let at = words.iter().position(|word| word == "--data").unwrap();
        words[at + 1].clone_from(&data);
        words.extend(["--bad-lines".to_string(), most.to_string()]);
        kinglet(words)
    };
    let message = with("a", "1").refusal();
    for part in ["data.jsonl, line 21: ", "line 43: ", "--bad-lines N"] {
        assert!(message.contains(part), "{message}");
    }
    let done = with("b", "2");
    assert!(done.stderr.contains("left out: "), "{}", done.stderr);
    let bad = done.json()["bad_lines"].clone();
    assert_eq!((bad[0]["line"].as_u64(), bad[1]["line"].as_u64()), (Some(21), Some(43)), "{bad}");
}

#[test]
fn it_ends_early_and_writes_the_best() {
    let folder = folder();
    let text: String =
        (0..30).map(|i| format!("{{\"text\": \"{i} and {}\"}}\n", i * 7919)).collect();
    let data = file(&folder, "data.jsonl", text.as_bytes());
    let mut words = fresh(&folder, "out", &["--steps", "400", "--evaluate-every", "5"]);
    let at = words.iter().position(|word| word == "--data").unwrap();
    words[at + 1] = data;
    let more = ["--early-stop", "2", "--rate", "3e-2", "--context", "32", "--held-out", "0.3"];
    words.extend(more.map(str::to_string));
    words.push("--json".into());
    let told = kinglet(words).json();
    assert_eq!(told["ending"], "early", "{told}");
    let (best, last) = (told["evaluation"]["step"].as_u64(), told["steps"].as_u64());
    assert_eq!(best.map(|best| best + 10), last, "{told}");
}

/// Words of a training from nothing of a model that is wide enough for its memory to be much beside the
/// pages of the program itself, which are read as they are needed.
fn wide(folder: &TempDir, out: &str, more: &[&str]) -> Vec<String> {
    let wide = CONFIG
        .replace("\"hidden_size\": 32", "\"hidden_size\": 256")
        .replace("\"intermediate_size\": 64", "\"intermediate_size\": 2048")
        .replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4");
    // What kernels need depends on threads.
    let own = ["--steps", "1", "--batch", "8", "--context", "128", "--threads", "2", "--json"];
    let mut words = fresh(folder, out, &[&own[..], more].concat());
    let config = words.iter().position(|word| word == "--config").unwrap();
    words[config + 1] = file(folder, "wide.json", wide.as_bytes());
    words
}

/// What is printed before the first step is what is used.
#[cfg(target_os = "linux")]
#[test]
fn memory_is_known_before_the_first_step() {
    let folder = folder();
    let check = |words: Vec<String>| {
        let told = kinglet(words).json();
        let number = |key: &str| told[key].as_f64().unwrap();
        let ratio = number("memory_measured") / number("memory_total");
        assert!((0.9..1.1).contains(&ratio), "{ratio}: {told}");
    };
    for (out, more) in [
        ("whole.gguf", &["--encoding", "q8_0"][..]),
        ("summed", &["--accumulate", "2"]),
        ("again", &["--recompute"]),
        ("fits", &["--memory", "150M"]),
        ("some", &["--memory", "120M"]),
    ] {
        check(wide(&folder, out, more));
    }
    let (base, data) = (path(&folder, "whole.gguf"), path(&folder, "calls.jsonl"));
    let lora = path(&folder, "lora.gguf");
    let words = ["tune", &base, "--data", &data, "-o", &lora, "--lora", "8", "--steps", "1"];
    let sizes = ["--batch", "8", "--context", "128", "--json"];
    check(words.iter().chain(&sizes).map(|word| word.to_string()).collect());
}

/// What is chosen fits, is told with the reason, and learns the same where that is said.
#[test]
fn a_training_fits_into_a_budget() {
    let folder = folder();
    let whole = kinglet(wide(&folder, "whole", &[])).json();
    let loss = |told: &Value| told["loss"].as_f64().unwrap();
    let total = |told: &Value| told["memory_total"].as_u64().unwrap();
    let fit = |out: &str, more: &[&str]| {
        let done = kinglet(wide(&folder, out, more));
        let note = done.stderr.clone();
        let told = done.json();
        assert_eq!(told["fit"]["chosen"]["bytes"].as_u64(), Some(total(&told)), "{told}");
        assert!(total(&told) <= told["fit"]["limit"].as_u64().unwrap(), "{told}");
        let way = told["fit"]["chosen"]["way"].as_str().unwrap().to_string();
        assert!(note.contains(&format!(": {way} (")), "{note}");
        let report = fs::read_to_string(told["report"].as_str().unwrap()).unwrap();
        assert!(report.contains(&way), "{way} is not in the report");
        (told, way)
    };
    let (told, way) = fit("all", &["--memory", "1G"]);
    assert_eq!((way.as_str(), total(&told)), ("all that was asked for", total(&whole)));
    let (told, way) = fit("same", &["--memory", "150M"]);
    assert_eq!(way, "all that was asked for, activations computed again, batches in 2 parts");
    assert!((loss(&told) - loss(&whole)).abs() < 1e-5 * loss(&whole), "{told} {whole}");
    let largest = &told["fit"]["too_large"][0];
    assert_eq!(largest["way"], "all that was asked for");
    assert_eq!(largest["bytes"].as_u64(), Some(total(&whole)));
    let (_, way) = fit("less", &["--memory", "120M"]);
    assert!(way.starts_with("last=3 alone"), "{way}");
    // The same again is done already; what would choose otherwise is another training.
    assert_eq!(fit("less", &["--memory", "120M"]).0["steps"], 1);
    let refused = |out: &str, more: &[&str]| {
        kinglet(wide(&folder, out, &[&["--quiet"], more].concat())).refusal()
    };
    let message = refused("less", &["--memory", "150M"]);
    assert!(message.contains("(--memory was \"last=3 alone"), "{message}");
    // What is said to be trained stays so, and then there is less to be saved.
    let message = refused("kept", &["--train", "blk.*", "--memory", "120M"]);
    assert!(message.contains("the least is") && message.contains("by blk.* alone"), "{message}");
    let message = refused("none", &["--memory", "1M"]);
    assert!(message.contains("fits into 1.0 MiB: the least is"), "{message}");
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let folder = folder();
    let data = file(&folder, "calls.jsonl", calls(20).as_bytes());
    let out = path(&folder, "out");
    let experts = concat!(env!("CARGO_MANIFEST_DIR"), "/../lm/tests/hf/mixtral");
    let cases = [
        (vec!["tune", experts, "--data", &data, "-o", &out], "tokenizer.json"),
        (vec!["tune", "no/such.gguf", "--data", &data, "-o", &out], "there is no such file"),
    ];
    for (words, want) in cases {
        let message = kinglet(words).refusal();
        assert!(message.contains(want), "{message}");
    }
    let refused = |config: &str, want: &str| {
        let config = file(&folder, "other.json", config.as_bytes());
        let words = ["tune", "--config", &config, "--data", &data, "-o", &out, "--vocab", "300"];
        let message = kinglet(words).refusal();
        assert!(message.contains(want), "{message}");
    };
    refused("{", "other.json: json");
    refused("{\"architectures\": [\"NobodysLM\"]}", "NobodysLM is not among those known");
    refused("{\"architectures\": [\"MambaForCausalLM\"]}", "a new MambaForCausalLM can't be made");
    refused(&CONFIG.replace("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"), "3 heads");
    let taken = file(&folder, "taken.gguf", b"mine");
    if let Some(model) = model(STORIES) {
        let message = kinglet(["tune", &model, "--data", &data, "-o", &taken]).refusal();
        assert!(message.contains("it is there already"), "{message}");
        let message = kinglet(["tune", &model, "--data", &data, "-o", &out]).refusal();
        assert!(message.contains("ends in .gguf"), "{message}");
        assert_eq!(fs::read(&taken).unwrap(), b"mine");
    }
}
