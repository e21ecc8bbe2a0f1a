//! What can go wrong with training.

use kinglet_formats::LoadError;
use kinglet_graph::{GraphError, OpError};
use std::path::PathBuf;

/// Why a model could not be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuneError {
    /// What was given can't be used: a file, a line of data, a setting.
    #[error("{0}")]
    Input(String),
    /// The work itself failed.
    #[error("{0}")]
    Work(String),
    /// A file of a model can't be read or written.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The loss has become infinite or no number.
    #[error(
        "the loss of step {step} is not finite: the checkpoint of step {kept} is the last good one; \
         train anew with a lower learning rate, or with a clip"
    )]
    NotFinite {
        /// The step, counted from 1.
        step: u64,
        /// The step after which the last checkpoint was written.
        kept: u64,
    },
    /// Another process trains into the same place.
    #[error("{}: {owner} is training here now: wait for it, or give another place", folder.display())]
    Taken {
        /// The folder that the training is kept in.
        folder: PathBuf,
        /// Who, as far as it is known.
        owner: String,
    },
}

impl From<GraphError> for TuneError {
    fn from(error: GraphError) -> TuneError {
        TuneError::Work(error.to_string())
    }
}

impl From<OpError> for TuneError {
    fn from(error: OpError) -> TuneError {
        TuneError::Work(error.to_string())
    }
}
