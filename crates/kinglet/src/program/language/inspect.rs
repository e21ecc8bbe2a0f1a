//! What `kinglet inspect` says of a language model beside what it says of every model.

use kinglet::lm::LanguageModel;
use kinglet::parts::graph::State;
use serde::Serialize;

use super::super::inspect::{bytes, number};

/// A language model's own numbers.
#[derive(Serialize)]
pub(in crate::program) struct LanguageLine {
    family: String,
    parameters: u64,
    layers: usize,
    width: usize,
    heads: usize,
    kv_heads: usize,
    head: usize,
    vocabulary: usize,
    /// What the model was made for.
    context: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    experts: Option<ExpertsLine>,
    tokenizer: bool,
    chat_template: bool,
    /// Of keys and values.
    cache_bytes_per_1000_tokens: u64,
    /// Of what does not grow with the text.
    fixed_state_bytes: u64,
}

#[derive(Serialize)]
struct ExpertsLine {
    count: usize,
    used: usize,
    shared: usize,
}

impl LanguageLine {
    pub fn new(model: &LanguageModel) -> LanguageLine {
        let config = model.config();
        let most = |list: &[usize]| list.iter().copied().max().unwrap_or(0);
        let graph = model.stepper().graph();
        let parameters = graph.values().iter().filter_map(|value| value.data.as_ref());
        let parameters = parameters.map(|data| data.dims().iter().product::<usize>() as u64).sum();
        let (mut cache, mut fixed) = (0, 0);
        for state in graph.states() {
            match cells(state) {
                Some(cells) => cache += size(state) * 1000 / cells as u64,
                None => fixed += size(state),
            }
        }
        let experts = &config.experts;
        LanguageLine {
            family: model.family().name.to_string(),
            parameters,
            layers: config.layers,
            width: config.width,
            heads: most(&config.heads),
            kv_heads: most(&config.kv_heads),
            head: config.key,
            vocabulary: model.vocabulary(),
            context: config.context,
            window: config.window,
            experts: (experts.count > 0).then_some(ExpertsLine {
                count: experts.count,
                used: experts.used,
                shared: experts.shared,
            }),
            tokenizer: model.tokenizer().is_ok(),
            chat_template: model.template().is_some(),
            cache_bytes_per_1000_tokens: cache,
            fixed_state_bytes: fixed,
        }
    }

    /// For people: `what` and its lines.
    pub fn rows(&self) -> Vec<(&'static str, Vec<String>)> {
        let has = |has: bool, what: &str| if has { what.to_string() } else { format!("no {what}") };
        let mut sizes = vec![format!(
            "{} layers of width {}, {} tokens",
            self.layers, self.width, self.vocabulary
        )];
        if self.heads > 0 {
            sizes.push(format!(
                "{} heads of {}, {} of keys and values",
                self.heads, self.head, self.kv_heads
            ));
        }
        if let Some(ExpertsLine { count, used, shared }) = &self.experts {
            sizes.push(format!("{count} experts, {used} used for each token, {shared} for all"));
        }
        let window = self.window.map_or(String::new(), |w| format!(", with windows of {w}"));
        sizes.push(format!("made for {} tokens{window}", self.context));
        let mut cache =
            vec![format!("{} for 1000 tokens", bytes(self.cache_bytes_per_1000_tokens as usize))];
        if self.fixed_state_bytes > 0 {
            let fixed = bytes(self.fixed_state_bytes as usize);
            cache.push(format!("{fixed} that do not grow with the text"));
        }
        vec![
            ("family", vec![format!("{}, {} parameters", self.family, number(self.parameters))]),
            ("sizes", sizes),
            (
                "text",
                vec![format!(
                    "{}, {}",
                    has(self.tokenizer, "tokeniser"),
                    has(self.chat_template, "chat template")
                )],
            ),
            ("cache", cache),
        ]
    }
}

/// How many positions a piece of state holds, where it holds positions: [pages, heads, page, cell].
fn cells(state: &State) -> Option<usize> {
    let page = kinglet::parts::graph::ops::rows::PAGE;
    match *state.ty.shape.fixed()? {
        [pages, _, size, _] if size == page => Some(pages * size),
        _ => None,
    }
}

fn size(state: &State) -> u64 {
    state.ty.bytes().unwrap_or(0) as u64
}
