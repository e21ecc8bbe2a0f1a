//! How inputs and sizes are named on the command line.

use kinglet::{Error, Model};

/// A model's inputs for a message: `'x' f32[1, 3], 'y' i64[1]`.
pub(super) fn inputs(model: &Model) -> String {
    let list: Vec<String> = model.inputs().map(|(name, ty)| format!("'{name}' {ty}")).collect();
    if list.is_empty() { "none".into() } else { list.join(", ") }
}

/// The input called `name`, or the one whose number it is, counted from 0.
pub(super) fn input(model: &Model, name: &str) -> Option<usize> {
    let named = model.inputs().position(|(own, _)| own == name);
    named.or_else(|| name.parse().ok().filter(|index| *index < model.inputs().len()))
}

/// Splits `NAME=REST` at the first `=` before which stands an input's name.
pub(super) fn split<'a>(model: &Model, text: &'a str) -> Option<(usize, &'a str)> {
    text.match_indices('=').find_map(|(at, _)| Some((input(model, &text[..at])?, &text[at + 1..])))
}

/// The sizes of `--shape NAME=1,3,224,224`.
pub(super) fn shapes(model: &Model, given: &[String]) -> Result<Vec<(usize, Vec<usize>)>, Error> {
    let shape = |text: &String| {
        let (index, sizes) = split(model, text).ok_or_else(|| {
            Error::input(format!(
                "--shape {text}: give NAME=SIZE,SIZE,… for one of the model's inputs: {}",
                inputs(model)
            ))
        })?;
        let sizes: Result<Vec<usize>, _> = sizes.split([',', 'x']).map(str::parse).collect();
        let bad = |_| {
            Error::input(format!("--shape {text}: sizes are whole numbers, such as 1,3,224,224"))
        };
        Ok((index, sizes.map_err(bad)?))
    };
    given.iter().map(shape).collect()
}
