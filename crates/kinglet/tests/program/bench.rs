//! `kinglet probe` and `kinglet bench`.

use std::fs;
use std::path::PathBuf;

use crate::common::{Done, file, folder, kinglet_with, model};
use kinglet_measure::profile;
use kinglet_measure::system::Identity;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a profile of this device that was never measured: every core but the first is slow.
fn made_up() -> TempDir {
    let folder = folder();
    let device = Identity::here();
    let rate = |best: f64| json!({ "best": best, "median": best });
    let peak = |arithmetic: &str, threads: usize, best: f64| json!({ "isa": "portable", "arithmetic": arithmetic, "threads": threads, "gmac_s": rate(best) });
    let read = |threads: usize, bytes: usize, best: f64| json!({ "threads": threads, "bytes": bytes, "gb_s": rate(best) });
    let core = |cpu: usize| {
        let speed = if cpu == 0 { 1.0 } else { 0.001 };
        json!({
            "cpu": cpu,
            "int8_gmac_s": rate(10.0 * speed),
            "f32_gmac_s": rate(5.0 * speed),
            "read_gb_s": rate(20.0 * speed),
        })
    };
    let kind =
        |cpus: Vec<usize>| json!({ "cpus": cpus, "part": null, "max_mhz": null, "capacity": null });
    let profile = json!({
        "version": 2,
        "program": env!("CARGO_PKG_VERSION"),
        "model": device.model,
        "arch": std::env::consts::ARCH,
        "usable": device.usable,
        "kinds": [kind(vec![0]), kind((1..device.usable).collect())],
        "cores": (0..device.usable).map(core).collect::<Vec<_>>(),
        "caches": [],
        "caches_measured": true,
        "peaks": [peak("int8", 1, 10.0), peak("f32", 1, 5.0)],
        "memory": [read(1, 256 << 20, 20.0)],
        "reads": [read(1, 1 << 14, 200.0), read(1, 1 << 20, 50.0)],
        "convolutions": [],
        "seconds": 1.0,
    });
    fs::write(profile::place(folder.path(), &device), profile.to_string()).unwrap();
    folder
}

/// Runs `kinglet bench` by the portable kernels on the device that `profiles` has the profile of.
fn bench(profiles: &TempDir, words: &[&str]) -> Done {
    let variables =
        [("KINGLET_ISA", "portable"), ("KINGLET_CACHE", profiles.path().to_str().unwrap())];
    kinglet_with(["bench"].iter().chain(words), variables)
}

/// The text with each figure as `#`, and one space where there are several.
fn masked(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let last = out.chars().next_back();
        match c {
            '0'..='9' if last == Some('#') => {}
            '.' if last == Some('#') => {}
            '0'..='9' => out.push('#'),
            ' ' if last == Some(' ') => {}
            c => out.push(c),
        }
    }
    out
}

/// Whether a phase's shares are a hundred per cent, and its figures what they are computed from.
fn check_phase(phase: &Value) {
    let layers = phase["layers"].as_array().unwrap();
    let sum =
        |key: &str| layers.iter().map(|layer| layer[key].as_f64().unwrap_or(0.0)).sum::<f64>();
    assert!((sum("share") - 100.0).abs() < 1e-6, "{phase}");
    assert!((sum("ms") - phase["ms"].as_f64().unwrap()).abs() < 1e-6);
    assert_eq!(sum("macs") as u64, phase["macs"].as_u64().unwrap());
    for layer in layers {
        assert_eq!(layer["macs"] == 0, layer["gmac_s"].is_null(), "{layer}");
        let limit = layer["limit_ms"].as_f64().unwrap_or(0.0);
        let of_limit = layer["of_limit"].as_f64().unwrap_or(0.0);
        assert!((of_limit - 100.0 * limit / layer["ms"].as_f64().unwrap()).abs() < 1e-6, "{layer}");
    }
}

#[test]
fn a_net_is_measured_layer_by_layer() {
    let Some(words) = model("tiny/kws_ref_model.tflite") else { return };
    let profiles = made_up();
    let text = bench(&profiles, &[&words, "--repeats", "3"]);
    assert_eq!(text.status, 0, "{}", text.stderr);
    assert!(text.stderr.is_empty(), "{}", text.stderr);
    insta::assert_snapshot!("net", masked(&text.stdout.replace(&words, "MODEL")));

    let report = bench(&profiles, &[&words, "--repeats", "3", "--json"]).json();
    let latency = &report["latency_ms"];
    assert_eq!(latency["runs"], 3);
    let of = |key: &str| latency[key].as_f64().unwrap();
    assert!(of("min") > 0.0 && of("min") <= of("median") && of("p10") <= of("p90"));
    assert_eq!(report["limits"]["isa"], "portable");
    assert_eq!(report["limits"]["int8_gmac_s"], 10.0);
    check_phase(&report["phases"][0]);
    // As the profile says: no core but the first is worth its wait.
    assert_eq!(report["threads"], 1);
    let two = bench(&profiles, &[&words, "--repeats", "1", "--threads", "2", "--json"]).json();
    assert_eq!(two["threads"], 2);
}

#[test]
fn a_language_model_is_measured_at_prompt_and_decoding() {
    let Some(stories) = model("lm/tinystories-260k-f32.gguf") else { return };
    let profiles = made_up();
    let length = ["--prompt", "40", "--decode", "5", "--repeats", "2"];
    let words: Vec<&str> = [stories.as_str()].into_iter().chain(length).collect();
    let text = bench(&profiles, &words);
    assert_eq!(text.status, 0, "{}", text.stderr);
    // Tables are sorted by time, so their lines are.
    let mut lines: Vec<_> =
        masked(&text.stdout.replace(&stories, "MODEL")).lines().map(str::to_string).collect();
    lines.sort();
    insta::assert_snapshot!("language", lines.join("\n"));

    let report = bench(&profiles, &[&words[..], &["--json"]].concat()).json();
    for key in ["prompt_tok_s", "decode_tok_s"] {
        let spread = &report[key];
        assert_eq!(spread["runs"], 2);
        let of = |key: &str| spread[key].as_f64().unwrap();
        assert!(of("min") > 0.0 && of("min") <= of("median") && of("median") <= of("max"));
    }
    assert_eq!((&report["prompt_tokens"], &report["decode_tokens"]), (&json!(40), &json!(5)));
    let phases = report["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 2);
    phases.iter().for_each(check_phase);
    // Five tokens after forty see 43 cells on average: 8 heads, keys and values of 8.
    let attention = |phase: &Value| {
        let layers = phase["layers"].as_array().unwrap();
        let layer = layers.iter().find(|layer| layer["op"] == "RowAttention").unwrap();
        layer["macs"].as_u64().unwrap()
    };
    assert_eq!(attention(&phases[1]), 43 * 8 * 16);
}

#[test]
fn several_models_come_side_by_side() {
    let Some(words) = model("tiny/kws_ref_model.tflite") else { return };
    let Some(sound) = model("tiny/ad01_int8.tflite") else { return };
    let profiles = made_up();
    let text = bench(&profiles, &[&words, &sound, "--repeats", "2"]).stdout;
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    assert!(last[2].starts_with("model ") && last[1].starts_with(&words), "{text}");
    assert!(last[0].starts_with(&sound), "{text}");
    let reports = bench(&profiles, &[&words, &sound, "--repeats", "2", "--json"]).json();
    assert_eq!(reports.as_array().unwrap().len(), 2);
}

#[test]
fn a_page_needs_nothing_else() {
    let Some(words) = model("tiny/kws_ref_model.tflite") else { return };
    let Some(stories) = model("lm/tinystories-260k-f32.gguf") else { return };
    let (profiles, place) = (made_up(), folder());
    let page = place.path().join("page.html");
    let length = ["--prompt", "20", "--decode", "3", "--repeats", "1"];
    let words = [&[&words, &stories, "--html", page.to_str().unwrap()], &length[..]].concat();
    let done = bench(&profiles, &words);
    assert_eq!(done.status, 0, "{}", done.stderr);
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.starts_with("<!doctype html>") && text.contains("prefers-color-scheme:dark"));
    for outside in ["http", "src=", "href=", "<script", "NaN", "inf"] {
        assert!(!text.contains(outside), "{outside}");
    }
    // Three plots of the net, and of both phases of the language model.
    assert_eq!((text.matches("<svg").count(), text.matches("</svg>").count()), (9, 9));
    assert!(text.contains("int8 10.0 GMAC/s") && text.contains("tok/s"));
    assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let Some(words) = model("tiny/kws_ref_model.tflite") else { return };
    let Some(stories) = model("lm/tinystories-260k-f32.gguf") else { return };
    let (profiles, place) = (made_up(), folder());
    let no_model = file(&place, "text.tflite", b"hello");
    let cut = file(&place, "cut.gguf", b"GGUF\x03\0\0\0");
    let nowhere = format!("{}/no/page.html", place.path().display());
    let here = place.path().to_str().unwrap();
    let cases: [(&[&str], &str); 11] = [
        (&["no/such.gguf"], "no/such.gguf: "),
        (&[&no_model], "text.tflite"),
        (&[&cut], "cut.gguf"),
        (&[here], here),
        (&[&stories, "--prompt", "500"], "are more than the context of 128: give a smaller"),
        (&[&stories, "--prompt", "60", "--context", "100"], "more than the context of 100"),
        (&[&words, "--html", &nowhere], "page.html: cannot write the page"),
        (&[&words, "--html", here], "cannot write the page"),
        (&[&words, "--decode", "3"], "--decode means nothing here: no model is a language model"),
        (&[&stories, "--shape", "x=1"], "--shape means nothing here: all models are"),
        (&[&words, "--shape", "nonsense=1"], "--shape nonsense=1: give NAME=SIZE"),
    ];
    for (words, expected) in cases {
        let message = bench(&profiles, words).refusal();
        assert!(message.contains(expected), "{words:?}: {message}");
    }
    for usage in
        [&["--prompt", "0"][..], &["--decode", "0"], &["--repeats", "0"], &["--prompt", "x"]]
    {
        let done = bench(&profiles, &[&[stories.as_str()], usage].concat());
        assert_eq!((done.status, done.stdout.as_str()), (2, ""), "{usage:?}");
        assert!(done.stderr.contains("invalid value"), "{}", done.stderr);
    }
    assert_eq!(bench(&profiles, &[]).status, 2);
    // What was there before a page that failed is still there.
    let page = file(&place, "page.html", b"before");
    bench(&profiles, &[&no_model, "--html", &page]).refusal();
    assert_eq!(fs::read(page).unwrap(), b"before");
}

/// The one file in a folder.
fn only_file(folder: &TempDir) -> PathBuf {
    let mut files = fs::read_dir(folder).unwrap();
    let path = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    path
}

#[test]
fn a_device_is_measured_and_remembered() {
    let profiles = folder();
    let variables = [("KINGLET_CACHE", profiles.path().to_str().unwrap())];
    let found = kinglet_with(["probe", "--json"], variables).json();
    assert_eq!(found["usable"], Identity::here().usable);
    let best: Vec<f64> = found["peaks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|peak| {
            assert!(peak["gmac_s"]["median"].as_f64() <= peak["gmac_s"]["best"].as_f64());
            peak["gmac_s"]["best"].as_f64().unwrap()
        })
        .collect();
    assert!(best.len() >= 2 && best.iter().all(|rate| *rate > 0.0));
    assert_eq!(found["peaks"][0]["isa"], "portable");
    assert!(!found["memory"].as_array().unwrap().is_empty());
    assert!(found["threads"].as_u64().unwrap() >= 1);
    let kept = only_file(&profiles);
    assert_eq!(found["file"], kept.to_str().unwrap());

    // What is damaged is measured again, and said.
    let Some(words) = model("tiny/kws_ref_model.tflite") else { return };
    fs::write(&kept, "{\"version\":").unwrap();
    let done = kinglet_with(["bench", &words, "--repeats", "1"], variables);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(done.stderr.contains("measuring anew, as it is of no use"), "{}", done.stderr);
    assert!(serde_json::from_slice::<Value>(&fs::read(only_file(&profiles)).unwrap()).is_ok());
}

#[test]
fn a_profile_that_cannot_be_kept_is_said_to_be_lost() {
    let place = folder();
    let taken = file(&place, "taken", b"a file, not a folder");
    let done = kinglet_with(["probe"], [("KINGLET_CACHE", taken.as_str())]);
    assert_eq!(done.status, 1, "{}", done.stderr);
    assert!(done.stdout.contains("Arithmetic at most") && done.stdout.contains("Cores"));
    let message = done.stderr.strip_prefix("error: ").unwrap();
    assert!(
        message.contains("the profile is not kept") && message.lines().count() == 1,
        "{message}"
    );
}
