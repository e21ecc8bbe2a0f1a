//! Which tokens end what a model says.

use std::collections::BTreeSet;

use super::texts::Texts;
use super::vocabulary::{Kind, SpecialTokens};

/// The names that families give to the tokens that end a turn or a text. Files seldom list more than
/// one of them, and models use several.
const NAMES: &[&str] = &[
    "</s>",
    "<eos>",
    "[EOS]",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[e~[",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<end_of_utterance>",
    "<|fim_pad|>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// Where all of the first are ends, the second is not: it only parts messages of one turn, or is text.
const UNLESS: &[(&[&str], &str)] = &[
    (&["<|return|>", "<|call|>"], "<|end|>"),
    (&["<|calls|>", "<|flush|>"], "<|end|>"),
    (&["<|tool_response>"], "</s>"),
];

/// The tokens that end a turn, for files that do not say, likeliest first.
const TURN_ENDS: &[&str] =
    &["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<turn|>", "[EOT]"];

/// The tokens that end what a model says: those that the file names, and those with a well-known name.
pub(super) fn find(texts: &Texts, kinds: &[Kind], special: &SpecialTokens) -> BTreeSet<u32> {
    let mut ends: BTreeSet<u32> =
        NAMES.iter().filter_map(|name| sign(texts, kinds, name)).collect();
    for (all, never) in UNLESS {
        let id = |name: &str| sign(texts, kinds, name);
        if all.iter().all(|name| id(name).is_some())
            && let Some(id) = id(never)
        {
            ends.remove(&id);
        }
    }
    ends.extend([special.eos, special.eot, special.eom].into_iter().flatten());
    ends
}

/// The token that ends a turn.
pub(super) fn turn(texts: &Texts, kinds: &[Kind]) -> Option<u32> {
    TURN_ENDS.iter().find_map(|name| sign(texts, kinds, name))
}

/// The token of a name, if it is not text.
fn sign(texts: &Texts, kinds: &[Kind], name: &str) -> Option<u32> {
    let id = texts.id(name.as_bytes())?;
    let kind = kinds.get(id as usize)?;
    // Some files call such tokens user-defined; `</s>` may be HTML there.
    match kind {
        Kind::Control => Some(id),
        Kind::UserDefined if name != "</s>" => Some(id),
        _ => None,
    }
}
