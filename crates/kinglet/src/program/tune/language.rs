//! Language models: their examples and how they are written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinglet::Error;
use kinglet_graph::{OpError, Tensor};
use kinglet_measure::text::size;
use kinglet_tune::data::{Batches, Data, Dropout, Encoder, Source, Texts, split};
use kinglet_tune::language::{Model, objective};
use kinglet_tune::{Material, Objective, PROJECTION, Trained, TuneError};
use serde_json::{Value, json};

use super::super::progress::Progress;
use super::{MOST_HELD_OUT, Opened, Subject, TOKENS, Tune};

/// Bytes of text for each token of the context: pieces of plain text have about as many tokens.
const BYTES_A_TOKEN: usize = 4;

/// A language model, and how its rows come.
struct Language {
    model: Model,
    teacher: Option<Model>,
    parameters: usize,
    batches: Batches,
}

/// The model, and the texts that it is trained on. A tokeniser that is made for them is kept in `folder`.
pub(super) fn open(tune: &Tune, folder: &Path) -> Result<Opened, Error> {
    let (examples, seed) = (&tune.examples, tune.length.seed);
    let (context, lines) = (examples.context(), examples.batch as usize);
    let model = tune.start.model(folder, &examples.data, seed, &tune.common)?;
    match tune.learning.adapter() {
        true => model.check_adapter_output(&tune.output)?,
        false => model.check_output(&tune.output, tune.encoded()?)?,
    }
    let encoder = || Encoder::new(model.tokenizer.clone(), model.chat_template()?, context);
    let chance = examples.bpe_dropout;
    let broken = encoder()?.with_dropout(Dropout { chance, seed });
    let data = texts(tune, &examples.data, if chance > 0.0 { broken } else { encoder()? })?;
    let all = |data: &Data| (0..data.len() as u32).collect::<Vec<u32>>();
    let of = |data: &Arc<Data>, chosen: &[u32]| Texts {
        batches: Batches::new(data, chosen, context, lines, seed),
        data: data.clone(),
    };
    let (own, held_out) = match examples.evaluation_data.as_slice() {
        [] => {
            let (own, kept) = split(data.len(), examples.held_out, MOST_HELD_OUT, seed);
            (own, (!kept.is_empty()).then(|| of(&data, &kept)))
        }
        files => {
            let other = texts(tune, files, encoder()?)?;
            (all(&data), Some(of(&other, &all(&other))))
        }
    };
    tune.check_held_out(held_out.is_some())?;
    let texts = of(&data, &own);
    let batches = texts.batches.clone();
    let held_out = held_out.map(|texts| Box::new(texts) as Box<dyn Source>);
    let parameters = model.parameters();
    Ok(Opened {
        subject: Box::new(Language { model, teacher: tune.teacher.open()?, parameters, batches }),
        material: Material { examples: Box::new(texts), held_out },
        examples: own.len(),
        bad: data.bad().to_vec(),
    })
}

/// The examples in `files`.
fn texts(tune: &Tune, files: &[PathBuf], encoder: Encoder) -> Result<Arc<Data>, Error> {
    let mut progress = Progress::new(tune.common.quiet);
    let piece = BYTES_A_TOKEN * tune.examples.context();
    let bad_lines = tune.examples.bad_lines;
    let mut hear = |at: u64, all: u64| {
        progress.say(|| format!("reading data: {} of {}", size(at as usize), size(all as usize)));
    };
    Ok(Arc::new(Data::open(files, encoder, piece, bad_lines, &mut hear)?))
}

impl Subject for Language {
    fn parameters(&self) -> usize {
        self.parameters
    }

    fn fingerprint(&self) -> String {
        self.model.fingerprint()
    }

    fn identity(&self, tune: &Tune) -> Vec<(&'static str, Value)> {
        let own = [
            ("--bpe-dropout", json!(tune.examples.bpe_dropout)),
            ("--context", json!(tune.examples.context())),
        ];
        let quantise = tune.quantise.map(|encoded| encoded.to_string());
        let teacher = tune.teacher.identity(self.teacher.as_ref());
        let own = own.into_iter().chain([("--quantise", json!(quantise))]).chain(teacher);
        tune.start.identity().into_iter().chain(own).collect()
    }

    fn unit(&self) -> &'static str {
        TOKENS
    }

    fn batch(&self) -> usize {
        self.batches.lines() * self.batches.context()
    }

    fn owned_bytes(&self) -> usize {
        self.model.owned_bytes()
    }

    fn lines(&self) -> usize {
        self.batches.lines()
    }

    fn objective(&self, parts: usize) -> Result<Objective, TuneError> {
        objective(&self.model, &self.batches.clone().in_parts(parts))
    }

    fn complete(
        &self,
        tune: &Tune,
        objective: &mut Objective,
        parts: usize,
    ) -> Result<(), TuneError> {
        if let Some(quantise) = tune.quantise {
            objective.quantise(quantise, &self.model)?;
        }
        if let Some(teacher) = &self.teacher {
            let batches = self.batches.clone().in_parts(parts);
            tune.teacher.teach(teacher, objective, &self.model, &batches, tune.length.seed)?;
        }
        Ok(())
    }

    fn release(&mut self, trained: &[Trained]) {
        self.model.release(trained);
    }

    fn write(&self, tune: &Tune, mut trained: Vec<(String, Tensor)>) -> Result<(), Error> {
        // Projections onto the teacher's widths are no part of the model.
        trained.retain(|(name, _)| !name.starts_with(PROJECTION));
        let model = &self.model;
        let work = |e: OpError| Error::work(e.to_string());
        let encoded = tune.encoded()?;
        match tune.learning.lora() {
            None => model.write(trained, &tune.output, encoded)?,
            Some(lora) if tune.learning.adapter() => {
                let name = tune.output.file_stem().unwrap_or_default().to_string_lossy();
                let rows = |weight: &str| model.weights().get(weight)?.dims().first().copied();
                let adapter = lora.adapter(&name, &trained, rows).map_err(work)?;
                model.write_adapter(&adapter, &tune.output, &tune.start.base())?;
            }
            Some(lora) => {
                let merged = lora.merged(&trained, |name, rows| model.constant(name, rows));
                model.write(merged.map_err(work)?, &tune.output, encoded)?;
            }
        }
        Ok(())
    }
}
