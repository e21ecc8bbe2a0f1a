//! Runs the program as a person would.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a run of the program did.
pub struct Done {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `kinglet` with these words.
pub fn kinglet<I: AsRef<OsStr>>(words: impl IntoIterator<Item = I>) -> Done {
    kinglet_with(words, [])
}

/// Runs `kinglet` with these words and variables of the environment.
pub fn kinglet_with<'v, I: AsRef<OsStr>>(
    words: impl IntoIterator<Item = I>,
    variables: impl IntoIterator<Item = (&'v str, &'v str)>,
) -> Done {
    run(words, variables, "")
}

/// Runs `kinglet` with these words and this text on standard input.
pub fn kinglet_hears<I: AsRef<OsStr>>(words: impl IntoIterator<Item = I>, input: &str) -> Done {
    run(words, [], input)
}

fn run<'v, I: AsRef<OsStr>>(
    words: impl IntoIterator<Item = I>,
    variables: impl IntoIterator<Item = (&'v str, &'v str)>,
    input: &str,
) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinglet"));
    command.args(words).envs(variables).env("RUST_BACKTRACE", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("its input is piped");
    // A program that ends without reading closes the pipe.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    let text = |bytes| String::from_utf8(bytes).expect("the program prints UTF-8");
    Done {
        status: output.status.code().expect("the program ends by itself"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl Done {
    /// The one JSON document on stdout of a run that did its work.
    pub fn json(self) -> Value {
        assert_eq!(self.status, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).expect("stdout is one JSON document")
    }

    /// The one message of a run that refused its input.
    pub fn refusal(self) -> String {
        assert_eq!(self.status, 2, "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "");
        let message = self.stderr.strip_prefix("error: ").expect("it says error");
        assert_eq!(message.trim_end().lines().count(), 1, "one line: {message}");
        assert!(!message.contains("panicked"), "{message}");
        message.trim_end().to_string()
    }
}

/// A test model's path, as a word of a command line.
pub fn model(path: &str) -> Option<String> {
    Some(kinglet_testing::model(path)?.to_str().expect("a path of UTF-8").to_string())
}

/// A folder of this test's own, empty.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A file in a folder, as a word of a command line.
pub fn file(folder: &tempfile::TempDir, name: &str, content: &[u8]) -> String {
    let path: PathBuf = folder.path().join(name);
    std::fs::write(&path, content).expect("the file is written");
    path.to_str().expect("a path of UTF-8").to_string()
}
