//! How far long work has come.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// A line on stderr that is written over, where stderr is a terminal.
pub(super) struct Progress {
    shown: bool,
    last: Option<Instant>,
    wide: usize,
}

/// Often enough for eyes.
const BETWEEN: Duration = Duration::from_millis(100);

impl Progress {
    /// Shows nothing if `quiet`.
    pub fn new(quiet: bool) -> Progress {
        Progress { shown: !quiet && io::stderr().is_terminal(), last: None, wide: 0 }
    }

    /// Says how far it is.
    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if !self.shown || self.last.is_some_and(|last| last.elapsed() < BETWEEN) {
            return;
        }
        self.last = Some(Instant::now());
        let text = text();
        let wide = text.chars().count();
        // What cannot be shown is no reason to stop the work.
        let _ = write!(io::stderr(), "\r{text:0$}", self.wide.max(wide));
        self.wide = wide;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.last.is_some() {
            let _ = write!(io::stderr(), "\r{:1$}\r", "", self.wide);
        }
    }
}
