//! A small Llama in each encoding of GGUF, next to the logits and greedy tokens that llama.cpp
//! computed.
//!
//! With 8 bits of activations two tokens that are nearly as likely change places for the least
//! reason. llama.cpp, asked for flash attention or for keys and values in 32 bits, itself chooses
//! other tokens in nine of these files. So two things are held: with llama.cpp's own rounding the
//! graph gives llama.cpp's tokens, all of them; and the kernels, which round less, are nearer than
//! llama.cpp to what activations of 32 bits give.

mod llama_cpp;

use kinglet_formats::gguf::Gguf;
use kinglet_formats::lm::{Build, build, from_gguf};
use kinglet_graph::{DType, Graph, Interpreter, Tensor};
use kinglet_lm::sample::best;
use kinglet_lm::{Cache, LanguageModel, Options, Session, Wanted};
use kinglet_testing::{models, npz};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file, with what llama.cpp made of it.
struct Case {
    name: String,
    path: PathBuf,
    tokens: Vec<u32>,
    /// Of each of `tokens`.
    logits: Vec<f32>,
    /// What it wrote after `tokens`.
    greedy: Vec<u32>,
    /// From the smallest to the largest logit.
    spread: f32,
}

impl Case {
    fn open(path: &Path) -> Case {
        let arrays: BTreeMap<_, _> = npz(&path.with_extension("npz")).into_iter().collect();
        let ids = |key: &str| -> Vec<u32> {
            arrays[key].to_vec::<i32>().unwrap().into_iter().map(|t| t as u32).collect()
        };
        let logits = arrays["logits"].to_vec::<f32>().unwrap();
        let high = logits.iter().copied().fold(f32::MIN, f32::max);
        let low = logits.iter().copied().fold(f32::MAX, f32::min);
        Case {
            name: path.file_stem().unwrap().to_string_lossy().to_string(),
            path: path.to_path_buf(),
            tokens: ids("tokens"),
            greedy: ids("greedy"),
            spread: high - low,
            logits,
        }
    }

    /// What is computed: the prompt and all greedy tokens but the last, which nothing follows.
    fn fed(&self) -> Vec<u32> {
        [&self.tokens, &self.greedy[..self.greedy.len() - 1]].concat()
    }

    /// The graph of its step.
    fn graph(&self) -> Graph {
        let file = Gguf::open(&self.path).unwrap();
        let (config, family) = from_gguf(&file).unwrap();
        let size = Build { pages: 2, sequences: 1, cache: DType::F32 };
        build(&config, family, &file, size).unwrap()
    }

    /// Logits that follow each of the tokens fed, as the reference implementations of `graph`
    /// compute them.
    fn interpret(&self, graph: &Graph) -> Vec<f32> {
        let fed = self.fed();
        let rows = || 0..fed.len() as i32;
        let numbers = [
            fed.iter().map(|t| *t as i32).collect(),
            rows().collect(),
            vec![0; fed.len()],
            rows().map(|i| i - 1).collect(),
            rows().collect(),
        ];
        let mut inputs: Vec<Tensor> =
            numbers.iter().map(|n: &Vec<i32>| Tensor::from_slice(&[n.len()], n).unwrap()).collect();
        inputs.push(Tensor::from_slice(&[1, 2], &[0, 1]).unwrap());
        inputs.push(Tensor::from_slice(&[fed.len()], &rows().collect::<Vec<_>>()).unwrap());
        let outputs = Interpreter::new(graph).unwrap().run(graph, &inputs).unwrap();
        outputs[0].view().slice::<f32>().unwrap().to_vec()
    }

    /// The same by the kernels: the prompt at once, then token by token.
    fn run(&self) -> Vec<f32> {
        let options =
            Options { context: Some(64), cache: Cache::F32, threads: 2, ..Options::default() };
        let mut model = LanguageModel::open(&self.path, &options).unwrap();
        let sequence = Session::new(&mut model).unwrap().sequence();
        let mut logits = Vec::new();
        let (prompt, rest) = (&self.tokens, &self.fed()[self.tokens.len()..]);
        for piece in std::iter::once(&prompt[..]).chain(rest.chunks(1)) {
            let take = |_: usize, l: &[f32]| logits.extend_from_slice(l);
            model.extend(sequence, piece, Wanted::All, take).unwrap();
        }
        logits
    }

    /// The logits that follow each token of the prompt.
    fn prompt<'a>(&self, logits: &'a [f32]) -> &'a [f32] {
        &logits[..self.logits.len()]
    }

    /// The logits that follow what came before greedy token `i`.
    fn before<'a>(&self, logits: &'a [f32], i: usize) -> &'a [f32] {
        let vocabulary = self.logits.len() / self.tokens.len();
        &logits[(self.tokens.len() - 1 + i) * vocabulary..][..vocabulary]
    }

    /// By how much logits differ: the largest difference and the root of the mean square, as parts
    /// of the spread.
    fn difference(&self, a: &[f32], b: &[f32]) -> (f32, f32) {
        let mut sum = 0.0;
        let mut most = 0.0f32;
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            let off = (a - b).abs();
            // NaN must not hide.
            most = if off <= most { most } else { off };
            sum += f64::from(off).powi(2);
        }
        let mean = (sum / a.len() as f64).sqrt();
        (most / self.spread, mean as f32 / self.spread)
    }
}

fn cases() -> Option<Vec<Case>> {
    let mut paths: Vec<_> = std::fs::read_dir(models()?.join("encodings"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "gguf"))
        .collect();
    paths.sort();
    assert_eq!(paths.len(), 18);
    Some(paths.iter().map(|p| Case::open(p)).collect())
}

/// With llama.cpp's rounding, the graph as Kinglet reads it from the file gives llama.cpp's tokens.
///
/// In the files where no activation lies on the edge of a step the logits agree to 1e-7 of the
/// spread; where one does, and the last bit of a sum takes it over, they are off by up to 0.009.
#[test]
fn rounded_alike_all_tokens_are_llama_cpps() {
    let Some(cases) = cases() else { return };
    let (mut wrong, mut exact) = (Vec::new(), 0);
    for case in cases {
        let mut graph = case.graph();
        llama_cpp::round_alike(&mut graph);
        let found = case.interpret(&graph);
        let (most, mean) = case.difference(case.prompt(&found), &case.logits);
        let name = &case.name;
        println!("{name}: logits of the prompt off by {most:.1e} at most, {mean:.1e} rms");
        exact += usize::from(most < 1e-6);
        if most.is_nan() || most > 0.012 {
            wrong.push(format!("{name}: logits are off by {most} of their spread"));
        }
        for (i, want) in case.greedy.iter().enumerate() {
            let next = best(case.before(&found, i)).unwrap();
            if next != *want {
                wrong.push(format!("{name}: greedy token {i} is {next}, not {want}"));
            }
        }
    }
    println!("{exact} of 18 agree to 1e-6");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The kernels are as near to what f32 activations give as llama.cpp is, nearer where blocks of 256
/// share its scales; and where they prefer another token, it is by less than llama.cpp's rounding
/// moves the logits of that step.
#[test]
fn kernels_round_no_more_than_llama_cpp() {
    let Some(cases) = cases() else { return };
    let mut wrong = Vec::new();
    for case in cases {
        let name = &case.name;
        let mut graph = case.graph();
        let encoding = graph.values().iter().find_map(|v| match v.ty.dtype {
            DType::Encoded(encoding) => Some(encoding),
            _ => None,
        });
        let exact = case.interpret(&graph);
        llama_cpp::round_alike(&mut graph);
        let rounded = case.interpret(&graph);
        let found = case.run();
        let (_, ours) = case.difference(case.prompt(&found), case.prompt(&exact));
        let (_, theirs) = case.difference(&case.logits, case.prompt(&exact));
        println!("{name}: {ours:.1e} rms from f32 activations, llama.cpp {theirs:.1e}");
        let most = match encoding.map(|e| e.block_len()) {
            // 16-bit weights are multiplied by activations as they are.
            None => 1e-6,
            // The same rounding, but for f16 scales, and other accidents of it.
            Some(32) => 1.15 * theirs,
            Some(_) => 0.8 * theirs,
        };
        if ours.is_nan() || ours > most {
            wrong.push(format!("{name}: {ours} from f32 activations, more than {most}"));
        }
        for (i, want) in case.greedy.iter().enumerate() {
            let logits = case.before(&found, i);
            let next = best(logits).unwrap();
            if next == *want {
                continue;
            }
            let behind = (logits[next as usize] - logits[*want as usize]) / case.spread;
            let (noise, _) = case.difference(case.before(&rounded, i), case.before(&exact, i));
            println!(
                "{name}: token {i} is {next}, ahead of {want} by {behind:.1e}; \
                 llama.cpp's rounding is worth {noise:.1e} there"
            );
            if behind.is_nan() || behind > noise {
                wrong.push(format!(
                    "{name}: token {i} is {next}, not {want}, ahead by {behind}, over {noise}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
