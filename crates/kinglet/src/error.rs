//! Why something could not be done.

use std::fmt;

use kinglet_formats::LoadError;
use kinglet_graph::{GraphError, OpError};
use kinglet_lm::LmError;
use kinglet_tune::TuneError;

/// Whose fault an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What was given is wrong: a file, an option, a tensor.
    Input,
    /// The work itself failed.
    Work,
}

/// Why something could not be done: one sentence that says what, where, and what to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    fault: Fault,
    message: String,
}

impl Error {
    /// What was given is wrong.
    pub fn input(message: impl Into<String>) -> Error {
        Error { fault: Fault::Input, message: message.into() }
    }

    /// The work failed.
    pub fn work(message: impl Into<String>) -> Error {
        Error { fault: Fault::Work, message: message.into() }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// The same error, said to be about `subject`.
    #[must_use]
    pub fn about(self, subject: impl fmt::Display) -> Error {
        Error { message: format!("{subject}: {}", self.message), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Error {
        Error::input(error.to_string())
    }
}

impl From<GraphError> for Error {
    fn from(error: GraphError) -> Error {
        Error::work(error.to_string())
    }
}

impl From<OpError> for Error {
    fn from(error: OpError) -> Error {
        Error::input(error.to_string())
    }
}

impl From<LmError> for Error {
    fn from(error: LmError) -> Error {
        match error {
            LmError::Step(_) | LmError::Sequences(_) => Error::work(error.to_string()),
            _ => Error::input(error.to_string()),
        }
    }
}

impl From<TuneError> for Error {
    fn from(error: TuneError) -> Error {
        match error {
            TuneError::Input(_) | TuneError::Load(_) | TuneError::Taken { .. } => {
                Error::input(error.to_string())
            }
            _ => Error::work(error.to_string()),
        }
    }
}
