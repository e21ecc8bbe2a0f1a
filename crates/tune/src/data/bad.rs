//! Examples that are none.

use crate::TuneError;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// A line, or a file, that is no example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1; 0: the whole file.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.file.display();
        match self.line {
            0 => write!(f, "{place}: {}", self.reason),
            line => write!(f, "{place}, line {line}: {}", self.reason),
        }
    }
}

/// What was left out, of which there may be so many.
#[derive(Debug)]
pub(super) struct LeftOut {
    pub bad: Vec<Bad>,
    most: usize,
}

impl LeftOut {
    pub fn at_most(most: usize) -> LeftOut {
        LeftOut { bad: Vec::new(), most }
    }

    /// Leaves one more out.
    ///
    /// # Errors
    /// If it is one too many; the first are named.
    pub fn add(&mut self, bad: Bad) -> Result<(), TuneError> {
        const SHOWN: usize = 3;
        self.bad.push(bad);
        if self.bad.len() <= self.most {
            return Ok(());
        }
        let shown: Vec<String> = self.bad.iter().take(SHOWN).map(Bad::to_string).collect();
        let more = match self.bad.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Err(TuneError::Input(format!(
            "{}{more}: mend them, or leave out more with --bad-lines N",
            shown.join("; ")
        )))
    }
}
