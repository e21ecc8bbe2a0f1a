//! Real vocabularies against llama.cpp's tokens.

use kinglet_formats::gguf::Gguf;
use kinglet_lm::tokenizer::{EncodeOptions, Tokenizer};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

fn agrees(name: &str) {
    let Some(file) = kinglet_testing::model(&format!("tokenizers/ggml-vocab-{name}.gguf")) else {
        return;
    };
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(&file).unwrap().metadata).unwrap();
    let beside = |extension: &str| {
        let path = file.with_extension(format!("gguf.{extension}"));
        std::fs::read_to_string(path).unwrap()
    };
    let (inputs, outputs) = (beside("inp"), beside("out"));
    let inputs: Vec<&str> = inputs.split_terminator("\n__ggml_vocab_test__\n").collect();
    let outputs: Vec<&str> = outputs.lines().collect();
    assert_eq!(inputs.len(), outputs.len());
    let mut wrong = Vec::new();
    for (input, output) in inputs.iter().zip(outputs) {
        let expected: Vec<u32> = output.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let tokens = tokenizer.encode(input, PLAIN).unwrap();
        if tokens != expected {
            wrong.push(format!("{input:?}\n  is        {tokens:?}\n  should be {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{name}: {} of {}\n{}", wrong.len(), inputs.len(), wrong.join("\n"));
}

macro_rules! vocabularies {
    ($($test:ident: $name:literal)*) => {$(
        #[test]
        fn $test() {
            agrees($name);
        }
    )*};
}

vocabularies! {
    bert_bge: "bert-bge"
    deepseek_llm: "deepseek-llm"
    gpt_2: "gpt-2"
    llama_bpe: "llama-bpe"
    llama_spm: "llama-spm"
    phi_3: "phi-3"
    qwen2: "qwen2"
    starcoder: "starcoder"
}
