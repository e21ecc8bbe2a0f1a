//! Language models: a prompt at once, then tokens one by one.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use kinglet::Error;
use kinglet::lm::{LanguageModel, LmError, Options, Piece, Wanted};
use kinglet_formats::map;
use kinglet_measure::{Figures, Limits, Phase, Recorder, Report, Spread, inputs};

use super::super::output::milliseconds;
use super::{Given, Length};

const REPEATS: u32 = 5;
/// Of the repeats, how many are run again with each step timed.
const TIMED: usize = 3;

/// Measures the model at `path`.
pub(super) fn measure(path: &Path, given: &Given<'_>) -> Result<Report, Error> {
    let Length { prompt, decode } = given.bench.length;
    let (prompt, decode) = (prompt.unwrap_or(512) as usize, decode.unwrap_or(64) as usize);
    let chosen = given.bench.loading.context();
    let options = given.bench.loading.options(given.threads);
    let options = Options { context: chosen.or(Some(prompt + decode)), ..options };
    let began = Instant::now();
    let mut model = LanguageModel::open(path, &options)?;
    let load_ms = milliseconds(began);
    let room = chosen.unwrap_or(model.config().context);
    if prompt + decode > room {
        return Err(Error::input(format!(
            "a prompt of {prompt} tokens and {decode} after it are more than the context of {room}: \
             give a smaller --prompt, or a larger --context"
        ))
        .about(path.display()));
    }
    let tokens = inputs::tokens(prompt + decode, model.vocabulary());
    let mut text = Text { sequence: model.open_sequence()?, model, tokens, prompt };
    let first_run_ms = text.read(None)? * 1e3;
    let (mut prompts, mut decodes) = (Vec::new(), Vec::new());
    for _ in 0..given.bench.repeats.unwrap_or(REPEATS) {
        prompts.push(prompt as f64 / text.read(None)?);
        decodes.push(decode as f64 / text.go_on(None)?);
    }
    let (mut reading, mut going_on) = (Recorder::default(), Recorder::default());
    for _ in 0..prompts.len().min(TIMED) {
        text.read(Some(&mut reading))?;
        text.go_on(Some(&mut going_on))?;
    }
    let phase = |name, what: String, recorder: &Recorder| {
        Phase::new(name, what, recorder, &given.roof(recorder)?).map_err(Error::work)
    };
    let phases = vec![
        phase("prompt", format!("a prompt of {prompt} tokens"), &reading)?,
        phase("decode", format!("a token after {prompt}"), &going_on)?,
    ];
    let nothing = || Error::work("nothing was run");
    Ok(Report {
        model: path.display().to_string(),
        kind: text.model.family().name.to_string(),
        threads: given.threads,
        load_ms,
        first_run_ms,
        peak_bytes: map::process_peak(),
        figures: Figures::Language {
            prompt_tokens: prompt,
            prompt_tok_s: Spread::of(&prompts).ok_or_else(nothing)?,
            decode_tokens: decode,
            decode_tok_s: Spread::of(&decodes).ok_or_else(nothing)?,
        },
        limits: Limits::new(&given.roof(&going_on)?),
        phases,
    })
}

/// A text of random tokens that a model reads.
struct Text {
    model: LanguageModel,
    sequence: usize,
    tokens: Vec<u32>,
    /// How many are the prompt.
    prompt: usize,
}

impl Text {
    /// Reads the prompt anew; the answer is the seconds that it took.
    fn read(&mut self, recorder: Option<&mut Recorder>) -> Result<f64, LmError> {
        self.model.truncate(self.sequence, 0);
        let began = Instant::now();
        self.extend(0..self.prompt, recorder)?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// Goes on after the prompt, token by token.
    fn go_on(&mut self, mut recorder: Option<&mut Recorder>) -> Result<f64, LmError> {
        let began = Instant::now();
        for at in self.prompt..self.tokens.len() {
            self.extend(at..at + 1, recorder.as_deref_mut())?;
        }
        Ok(began.elapsed().as_secs_f64())
    }

    fn extend(
        &mut self,
        tokens: std::ops::Range<usize>,
        recorder: Option<&mut Recorder>,
    ) -> Result<(), LmError> {
        let (sequence, held) = (self.sequence, tokens.start);
        let piece = Piece { sequence, tokens: &self.tokens[tokens], wanted: Wanted::Last };
        let logits = |_, _, logits: &[f32]| {
            black_box(logits);
        };
        match recorder {
            None => self.model.extend_batch(&[piece], logits),
            Some(recorder) => {
                recorder.begin(held);
                self.model.extend_observed(&[piece], logits, |plan, step| {
                    recorder.observe(plan, step);
                })?;
                recorder.end();
                Ok(())
            }
        }
    }
}
