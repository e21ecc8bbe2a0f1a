//! `kinglet tokenize`.

use serde_json::json;

use crate::common::{file, folder, kinglet, model};

const SMALL: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [
    {"id": 3, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
    "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}"#;

#[test]
fn text_becomes_tokens() {
    let Some(path) = model("tokenizers/ggml-vocab-llama-spm.gguf") else { return };
    let document = kinglet(["tokenize", &path, "Hello world</s>", "--json"]).json();
    assert_eq!(document, json!({ "tokens": [1, 15043, 3186, 2] }));
    let plain = kinglet(["tokenize", &path, "Hello world", "--json", "--no-special"]).json();
    assert_eq!(plain, json!({ "tokens": [15043, 3186] }));
    let done = kinglet(["tokenize", &path, "--quiet", "Hello é"]);
    assert_eq!(done.stdout, "      1 \"<s>\"\n  15043 \" Hello\"\n    904 \" é\"\n");
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    let folder = folder();
    let text = file(&folder, "text.txt", "Hello world\n".as_bytes());
    let from_file = kinglet(["tokenize", &path, "--file", &text, "--json"]).json();
    assert_eq!(from_file, json!({ "tokens": [1, 15043, 3186, 13] }));
}

#[test]
fn hugging_face_folders_are_read() {
    let folder = folder();
    let json = file(&folder, "tokenizer.json", SMALL.as_bytes());
    for path in [&json[..], folder.path().to_str().unwrap()] {
        let document = kinglet(["tokenize", path, "<s>aab", "--json"]).json();
        assert_eq!(document, json!({ "tokens": [3, 0, 2] }));
        let plain = kinglet(["tokenize", path, "<s>aab", "--json", "--no-special"]).json();
        assert_eq!(plain, json!({ "tokens": [0, 2] }));
    }
}

#[test]
fn wrong_tokenisers_and_texts_are_refused() {
    let folder = folder();
    let json = file(&folder, "tokenizer.json", SMALL.as_bytes());
    let cases = [
        (vec!["no/such/file".to_string(), "a".into()], "no/such/file"),
        (vec![file(&folder, "cut.json", b"{\"version\":"), "a".into()], "cut.json"),
        (vec![file(&folder, "cut.gguf", b"GGUF\x03\0\0\0"), "a".into()], "cut.gguf"),
        (vec![json.clone(), "--file".into(), "no/such.txt".into()], "no/such.txt"),
        (vec![json.clone(), "--file".into(), file(&folder, "x.txt", b"a\xff")], "byte 1"),
    ];
    for (words, expected) in cases {
        let message = kinglet(["tokenize".to_string()].into_iter().chain(words)).refusal();
        assert!(message.contains(expected), "{message}");
    }
    if let Some(path) = model("arch/llama-dense.gguf") {
        let message = kinglet(["tokenize", &path, "a"]).refusal();
        assert!(message.contains(&path) && message.contains("tokeniser"), "{message}");
    }
}
