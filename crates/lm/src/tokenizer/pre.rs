//! Pre-tokenisers: how each family cuts text into pieces that no token crosses.

use super::TokenizerError;

/// A family's pre-tokeniser.
#[derive(Debug, Clone, Copy)]
pub struct Pre {
    /// The names it has in files.
    pub names: &'static [&'static str],
    /// What is done to each piece, one step after the other.
    pub steps: &'static [Step],
    /// Which pieces become a token at once where there is one, before any merge.
    pub whole: Whole,
    /// Tokens are spelled in UTF-8 with `▁` for a space, rather than in GPT-2's byte alphabet.
    pub utf8: bool,
    /// Whether a text starts with the bos token where the file does not say.
    pub add_bos: bool,
}

/// One step of cutting. What a rule does not match is a piece, too.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Each match of a regular expression is a piece.
    Match(&'static str),
    /// Each match is cut into threes of characters, from its end.
    Threes(&'static str),
}

/// Which pieces become a token at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// None.
    Never,
    /// Newlines only.
    Newlines,
    /// All.
    Always,
}

use Step::{Match, Threes};

const GPT2: Step =
    Match(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+");
const LLAMA3: Step = Match(concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
));
const QWEN2: Step = Match(concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
));
const GPT4O: Step = Match(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
));
const DEEPSEEK3: [Step; 3] = [
    Match(r"\p{N}{1,3}"),
    Match("[一-龥぀-ゟ゠-ヿ]+"),
    Match(concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )),
];
const BLOOM: Step = Match(r" ?[^(\s|.,!?…。，、।۔،)]+");
const LINES: Step = Match(r"[^\n]+|\n+");

/// A byte-level pre-tokeniser with nothing unusual.
const PLAIN: Pre =
    Pre { names: &[], steps: &[GPT2], whole: Whole::Never, utf8: false, add_bos: false };

/// Every pre-tokeniser that is known. The expressions are those of the models' own `tokenizer.json`.
static TABLE: &[Pre] = &[
    Pre {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "exaone4",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
        ],
        ..PLAIN
    },
    Pre {
        names: &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        steps: &[Match(r"\p{N}"), GPT2],
        ..PLAIN
    },
    Pre {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        steps: &[LLAMA3],
        whole: Whole::Always,
        add_bos: true,
        ..PLAIN
    },
    Pre { names: &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], steps: &[LLAMA3], ..PLAIN },
    Pre {
        names: &[
            "qwen2",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "megrez",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "grok-2",
        ],
        steps: &[QWEN2],
        ..PLAIN
    },
    Pre {
        names: &["qwen35"],
        steps: &[Match(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
            r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ))],
        ..PLAIN
    },
    Pre {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        steps: &[GPT4O],
        ..PLAIN
    },
    Pre { names: &["granite-embed-multi-97m"], steps: &[GPT4O], whole: Whole::Always, ..PLAIN },
    Pre {
        names: &["tekken"],
        steps: &[Match(concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ))],
        whole: Whole::Always,
        add_bos: true,
        ..PLAIN
    },
    Pre {
        names: &["deepseek-llm"],
        steps: &[
            Match(r"[\r\n]"),
            // Escaped, as editors like to normalise some of these characters.
            Match(concat!(
                r"\s?[\u{41}-\u{5A}\u{61}-\u{7A}\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}",
                r"\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}\u{370}-\u{373}\u{376}\u{377}",
                r"\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}",
                r"\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}",
                r"\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}",
                r"\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}",
                r"\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}",
                r"\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}",
                r"\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}",
                r"\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}",
                r"\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}",
                r"\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}",
                r"\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}",
                r"\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}",
                r"\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}",
                r"\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}",
                r"\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}",
                r"\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+"
            )),
            Match(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Match(r"\s+$"),
            Match("[一-龥ࠀ-一가-퟿]+"),
            Match(r"\p{N}+"),
        ],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-coder"],
        steps: &[
            Match(r"[\r\n]"),
            Match(r"\s?\p{L}+"),
            Match(r"\s?\p{P}+"),
            Match("[一-龥ࠀ-一가-퟿]+"),
            Match(r"\p{N}"),
        ],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        steps: &DEEPSEEK3,
        ..PLAIN
    },
    Pre {
        names: &["spark2_5"],
        steps: &[
            DEEPSEEK3[0],
            DEEPSEEK3[1],
            Match(concat!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
                r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
            )),
            Match(r"\p{N}"),
        ],
        ..PLAIN
    },
    Pre {
        names: &["youtu"],
        steps: &[
            Match("[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"),
            Match(concat!(
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )),
        ],
        whole: Whole::Always,
        ..PLAIN
    },
    Pre {
        names: &["falcon"],
        steps: &[Match(r"[\p{P}\$\+<=>\^~\|`]+"), GPT2, Match("[0-9][0-9][0-9]")],
        ..PLAIN
    },
    Pre {
        names: &["default"],
        steps: &[Match(r"[\p{P}\$\+<=>\^~\|]+"), GPT2, Match(r"\p{N}+"), Match("[0-9][0-9][0-9]")],
        ..PLAIN
    },
    Pre { names: &["poro-chat", "bloom", "gpt3-finnish"], steps: &[BLOOM], ..PLAIN },
    Pre { names: &["viking"], steps: &[BLOOM, Match(r"\p{N}")], ..PLAIN },
    Pre {
        names: &["chameleon"],
        steps: &[
            Match("<sentinel:[0-9]+>"),
            Match("IMGIMG[A-I]{1,4}Z"),
            Match(r"[\t\n]|    |  "),
            Match(r"\p{N}"),
            Match(r"[\p{P}!-/:-@\[-`{-~]"),
            GPT2,
        ],
        add_bos: true,
        ..PLAIN
    },
    Pre { names: &["tiny_aya", "cohere2moe"], steps: &[Threes(r"\d+\b"), GPT4O], ..PLAIN },
    Pre {
        names: &["kimi-k2"],
        steps: &[Match(concat!(
            r"\p{Han}+",
            r"|[^\r\n\p{L}\p{N}]?[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]*",
            r"[[\p{Ll}\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|[^\r\n\p{L}\p{N}]?[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]+",
            r"[[\p{Ll}\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ))],
        ..PLAIN
    },
    Pre { names: &["superbpe"], steps: &[Match(r"\p{N}+"), Threes(r"\d+")], ..PLAIN },
    Pre {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        steps: &[Match(concat!(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"|\s*[\r\n]|\s+(?!\S)|\s+"
        ))],
        ..PLAIN
    },
    Pre {
        names: &["seed-coder"],
        steps: &[Match(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+",
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        ))],
        ..PLAIN
    },
    Pre {
        names: &["ufakzeka"],
        steps: &[Match(concat!(
            r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        ))],
        ..PLAIN
    },
    Pre {
        names: &["afmoe"],
        steps: &[
            Threes(r"\p{Nd}+"),
            Match(concat!(
                "[一-鿿㐀-䶿\u{f900}-\u{faff}぀-ゟ゠-ヿ･-ﾟ⼀-\u{2fdf}\u{e00}-\u{e7f}\u{e80}-\u{eff}",
                "\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}가-\u{d7af}",
                "\u{1100}-\u{11ff}]+"
            )),
            DEEPSEEK3[2],
        ],
        ..PLAIN
    },
    Pre { names: &["laguna"], steps: &[LINES, QWEN2], ..PLAIN },
    Pre {
        names: &["exaone-moe"],
        steps: &[Match(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
        ))],
        ..PLAIN
    },
    Pre {
        names: &["minicpm5"],
        steps: &[
            Match(r"\p{N}{1,3}"),
            Match(concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+",
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )),
        ],
        whole: Whole::Always,
        ..PLAIN
    },
    Pre {
        names: &["jais-2"],
        steps: &[Match(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)",
            r"|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
        ))],
        ..PLAIN
    },
    Pre {
        names: &["gemma4", "granite-embed-multi-311m"],
        steps: &[LINES],
        whole: Whole::Newlines,
        utf8: true,
        add_bos: true,
    },
    Pre { names: &["sarvam-moe"], steps: &[LINES], utf8: true, ..PLAIN },
];

/// The names of all pre-tokenisers that are known.
pub fn known() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|pre| pre.names).copied()
}

/// The pre-tokeniser of a name, as `tokenizer.ggml.pre` gives it.
///
/// # Errors
/// If the name is not known: without its rules text would be cut wrongly.
pub fn find(name: &str) -> Result<&'static Pre, TokenizerError> {
    TABLE
        .iter()
        .find(|pre| pre.names.contains(&name))
        .ok_or_else(|| TokenizerError::UnknownPre(name.to_owned()))
}

/// The first name of the first pre-tokeniser that `is` says.
pub(super) fn named(is: impl Fn(&Pre) -> bool) -> Option<&'static str> {
    TABLE.iter().find(|pre| is(pre)).and_then(|pre| pre.names.first().copied())
}

#[cfg(test)]
pub(super) fn table() -> &'static [Pre] {
    TABLE
}

#[cfg(test)]
mod tests {
    use super::super::split::Splitter;
    use super::*;

    #[test]
    fn every_rule_is_a_regular_expression() {
        for pre in TABLE {
            Splitter::new(pre.steps);
        }
        let mut names: Vec<&str> = known().collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "a name is there twice");
        assert!(matches!(find("nonsense"), Err(TokenizerError::UnknownPre(_))));
    }
}
