//! Where a conversation's lines come from: a terminal, with editing and history, or any other input.

use std::io::{self, IsTerminal};

use kinglet::Error;
use rustyline::completion::Completer;
use rustyline::config::{Builder, Configurer};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, Context, Editor, ExternalPrinter, Helper, KeyCode, KeyEvent, Modifiers};

/// What came in.
pub(super) enum Line {
    /// A line, or several where one ends in `\` or was broken with Alt-Enter or pasted.
    Said(String),
    /// Ctrl-C.
    Interrupted,
    /// There is no more.
    End,
}

/// The source of a conversation's lines.
pub(super) enum Lines {
    Terminal(Box<Typed>),
    Plain(io::Lines<io::StdinLock<'static>>),
}

/// What a person types.
pub(super) struct Typed {
    editor: Editor<Words, MemHistory>,
    /// Prints nothing. While there is one, rustyline waits for keys and signals at once (`select`);
    /// without, for keys only, and a new size of the window goes unseen where its signal comes just
    /// before the wait.
    _printer: Option<Box<dyn ExternalPrinter>>,
}

impl Lines {
    /// Standard input. On a terminal `/` and Tab complete `commands`; the history is forgotten at the
    /// end.
    pub fn new(commands: Vec<&'static str>) -> Result<Lines, Error> {
        if !io::stdin().is_terminal() {
            return Ok(Lines::Plain(io::stdin().lines()));
        }
        let config = Builder::new().auto_add_history(true).build();
        let failed =
            |error: ReadlineError| Error::work(format!("cannot use the terminal: {error}"));
        let mut editor = Editor::with_history(config, MemHistory::new()).map_err(failed)?;
        editor.enable_bracketed_paste(true);
        editor.set_helper(Some(Words(commands)));
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
        let printer = editor.create_external_printer();
        let printer = printer.ok().map(|printer| Box::new(printer) as Box<dyn ExternalPrinter>);
        Ok(Lines::Terminal(Box::new(Typed { editor, _printer: printer })))
    }

    /// Whether a person types them.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Lines::Terminal(_))
    }

    /// The next line.
    pub fn next(&mut self) -> Result<Line, Error> {
        let failed = |what: String| Error::work(format!("cannot read what you say: {what}"));
        match self {
            Lines::Terminal(typed) => match typed.editor.readline("› ") {
                Ok(text) => Ok(Line::Said(joined(&text))),
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(failed(error.to_string())),
            },
            Lines::Plain(lines) => {
                let mut text = String::new();
                loop {
                    match lines.next() {
                        None if text.is_empty() => return Ok(Line::End),
                        None => return Ok(Line::Said(joined(&text))),
                        Some(line) => text += &line.map_err(|e| failed(e.to_string()))?,
                    }
                    if !text.ends_with('\\') {
                        return Ok(Line::Said(joined(&text)));
                    }
                    text.push('\n');
                }
            }
        }
    }
}

/// A text without the signs that said that its lines go on.
fn joined(text: &str) -> String {
    text.replace("\\\n", "\n")
}

/// The commands that Tab completes.
pub(super) struct Words(Vec<&'static str>);

impl Validator for Words {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(match context.input().ends_with('\\') {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let begun = &line[..position];
        let fits = |word: &&&str| begun.starts_with('/') && word.starts_with(begun);
        Ok((0, self.0.iter().filter(fits).map(|word| format!("{word} ")).collect()))
    }
}

impl Hinter for Words {
    type Hint = String;
}
impl Highlighter for Words {}
impl Helper for Words {}
