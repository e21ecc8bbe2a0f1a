//! What the program says of itself.

use crate::common::kinglet;

#[test]
fn help_is_as_it_was() {
    for (name, words) in [
        ("kinglet", &["--help"][..]),
        ("run", &["run", "--help"]),
        ("inspect", &["inspect", "--help"]),
        ("chat", &["chat", "--help"]),
        ("eval", &["eval", "--help"]),
        ("perplexity", &["eval", "perplexity", "--help"]),
        ("divergence", &["eval", "divergence", "--help"]),
        ("bench", &["bench", "--help"]),
        ("probe", &["probe", "--help"]),
        ("embed", &["embed", "--help"]),
        ("tokenize", &["tokenize", "--help"]),
        ("tune", &["tune", "--help"]),
    ] {
        let done = kinglet(words);
        assert_eq!((done.status, done.stderr.as_str()), (0, ""));
        insta::assert_snapshot!(name, done.stdout);
    }
}

#[test]
fn the_version_is_said() {
    assert_eq!(kinglet(["--version"]).stdout, concat!("kinglet ", env!("CARGO_PKG_VERSION"), "\n"));
}
