//! Training examples without end, and the fixed sets that are held out.

use crate::contract::{Contract, Kind};
use crate::data::{self, Files};
use crate::example::{Example, Maker};
use crate::grammar::{Form, Grammar, GrammarError, Pattern, Piece, Sentence};
use crate::rng::Rng;

/// What is wrong with a grammar that examples are made from.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The notation, or what it fills.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// A derived call that breaks the contract.
    #[error("{place}: {source}")]
    Call {
        /// The sentence's file and line.
        place: String,
        /// What is wrong.
        source: crate::contract::CallError,
    },
}

/// How often a function is called, where not [`USUAL`]: functions whose arguments are the harder
/// ones come more often, those of few sentences less.
const SHARES: &[(&str, u32)] = &[
    ("set_alarm", 50),
    ("create_reminder", 70),
    ("create_event", 65),
    ("send_message", 80),
    ("send_email", 50),
    ("play_media", 50),
    ("calculate", 50),
    ("home_device", 55),
    ("no_call", 130),
    ("cancel_alarm", 25),
    ("media_control", 25),
    ("set_brightness", 25),
    ("take_photo", 25),
    ("record_video", 18),
];
const USUAL: u32 = 40;

/// Training examples, endlessly: the same seed gives the same ones on every platform.
#[derive(Debug)]
pub struct Generator {
    maker: Maker,
    functions: Vec<(u32, Vec<usize>)>,
    rng: Rng,
}

impl Generator {
    /// Examples of the shipped grammar.
    pub fn new(seed: u64) -> Result<Self, DataError> {
        let maker = maker(data::TRAIN)?;
        let share = |name: &str| {
            SHARES.iter().find(|(known, _)| *known == name).map_or(USUAL, |(_, share)| *share)
        };
        let of = |name: &str| -> Vec<usize> {
            let sentences = maker.grammar.sentences().iter().enumerate();
            sentences.filter(|(_, s)| s.function == name).map(|(index, _)| index).collect()
        };
        let functions = maker.contract.functions.iter();
        let functions = functions.map(|f| (share(&f.name), of(&f.name))).collect();
        Ok(Generator { maker, functions, rng: Rng::new(seed) })
    }

    /// The next example.
    pub fn example(&mut self) -> Result<Example, DataError> {
        let rng = &mut self.rng;
        let function = rng.weighted(self.functions.iter().map(|(share, _)| *share));
        let sentence = self.maker.grammar.pick(&self.functions[function].1, rng);
        let around = frame(sentence.form);
        self.maker
            .noisy(sentence, around, rng)
            .map_err(|source| DataError::Call { place: sentence.place.clone(), source })
    }
}

/// The rules of what may be said before and after a sentence.
fn frame(form: Form) -> (&'static str, &'static str) {
    match form {
        Form::Command => ("before_command", "after_command"),
        Form::Question => ("before_question", "after_question"),
        Form::Statement => ("before_statement", "after_statement"),
    }
}

fn maker(files: Files) -> Result<Maker, DataError> {
    let (grammar, contract) = (Grammar::parse(files)?, Contract::shipped());
    grammar.check(&contract)?;
    Ok(Maker { grammar, contract })
}

/// The grammar of the training data.
pub fn training_grammar() -> Result<Grammar, DataError> {
    Ok(maker(data::TRAIN)?.grammar)
}

/// A set of examples that training never sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldOut {
    /// To choose among models by.
    Dev,
    /// To judge the chosen model by.
    Test,
}

impl HeldOut {
    /// The files that it is written in.
    pub fn files(self) -> Files {
        match self {
            HeldOut::Dev => data::DEV,
            HeldOut::Test => data::TEST,
        }
    }

    /// Its examples, each sentence as it is written.
    pub fn examples(self) -> Result<Vec<Example>, DataError> {
        Ok(self.annotated()?.into_iter().map(|annotated| annotated.example).collect())
    }

    /// Its examples, and what of each sentence fills arguments.
    pub fn annotated(self) -> Result<Vec<Annotated>, DataError> {
        let maker = maker(self.files())?;
        let annotate = |sentence: &Sentence| {
            let place = sentence.place.clone();
            let pieces = maker.grammar.say(sentence, &mut Rng::new(0));
            let is_open = |piece: &Piece| {
                piece.slot.is_some_and(|slot| {
                    let kind = maker.kind(&sentence.function, slot);
                    kind.is_some_and(Kind::is_open)
                })
            };
            let pattern = Pattern::new(pieces.iter().map(|piece| (&*piece.said, is_open(piece))));
            match maker.plain(sentence, &mut Rng::new(0)) {
                Ok(example) => Ok(Annotated { example, pattern, place }),
                Err(source) => Err(DataError::Call { place, source }),
            }
        };
        maker.grammar.sentences().iter().map(annotate).collect()
    }
}

/// An example written by hand.
#[derive(Clone, Debug)]
pub struct Annotated {
    /// What is said and what it asks for.
    pub example: Example,
    /// The sentence without the values of arguments, but for those that are one of a few words.
    pub pattern: Pattern,
    /// File and line.
    pub place: String,
}
