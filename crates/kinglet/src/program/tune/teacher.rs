//! A teacher that is learned from.

use std::path::PathBuf;

use clap::Args;
use kinglet::Error;
use kinglet_tune::data::Batches;
use kinglet_tune::language::{Layers, Model};
use kinglet_tune::{Distillation, Objective, TuneError};
use serde_json::{Value, json};

use super::super::language::expect_language_model;
use super::recipe::number;
use super::{positive, share};

#[derive(Args)]
pub(super) struct Teacher {
    /// Learn from this model too, of the same vocabulary, in any encoding: it stays as it is, and says of
    /// each token how likely it finds all others
    #[arg(long, value_name = "MODEL")]
    teacher: Option<PathBuf>,
    /// The share of the loss that is the teacher's; the rest is that of the data
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = part, requires = "teacher")]
    teacher_weight: f64,
    /// Scores are divided by this before they are compared: above 1, unlikely tokens count more
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = positive, requires = "teacher")]
    temperature: f64,
    /// Make hidden values those of the teacher: after the last layer, after all, or after the student's
    /// layer N those after the teacher's M, from 0, with commas between
    #[arg(long, value_name = "last|all|N=M", value_parser = Layers::parse, requires = "teacher")]
    teacher_features: Option<Layers>,
    /// What the mean squared error of these is multiplied by
    #[arg(long, value_name = "WEIGHT", default_value_t = 1.0, value_parser = number, requires = "teacher_features")]
    feature_weight: f64,
}

/// From 0 to 1.
fn part(text: &str) -> Result<f64, String> {
    if text.parse() == Ok(1.0) {
        Ok(1.0)
    } else {
        share(text).map_err(|_| "give a number from 0 to 1".into())
    }
}

impl Teacher {
    /// Whether there is one.
    pub fn given(&self) -> bool {
        self.teacher.is_some()
    }

    /// Refuses what is no language model, and learning without gradients.
    pub fn check(&self, gradients: bool) -> Result<(), Error> {
        let Some(model) = &self.teacher else { return Ok(()) };
        if !gradients {
            return Err(Error::input(
                "--teacher: mezo does not learn from one: take another optimiser",
            ));
        }
        expect_language_model(model)
    }

    /// The teacher.
    pub fn open(&self) -> Result<Option<Model>, Error> {
        Ok(self.teacher.as_deref().map(Model::open).transpose()?)
    }

    /// Lets the student `model` of `objective` learn from `teacher`.
    pub fn teach(
        &self,
        teacher: &Model,
        objective: &mut Objective,
        model: &Model,
        batches: &Batches,
        seed: u64,
    ) -> Result<(), TuneError> {
        let how = Distillation {
            weight: self.teacher_weight,
            temperature: self.temperature,
            features: self.feature_weight,
            seed,
        };
        objective.distil(model, teacher, batches, self.teacher_features.as_ref(), &how)
    }

    /// What a checkpoint must agree with.
    pub fn identity(&self, teacher: Option<&Model>) -> [(&'static str, Value); 2] {
        let how = self.teacher.as_ref().map(|_| {
            let layers = self.teacher_features.as_ref();
            (
                self.teacher_weight,
                self.temperature,
                layers.map(|l| (l.to_string(), self.feature_weight)),
            )
        });
        [
            ("--teacher", json!(teacher.map(Model::fingerprint))),
            ("what is learned of it", json!(how)),
        ]
    }
}
