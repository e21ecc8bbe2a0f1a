//! A language model to be trained: read, made anew, written.

use super::{Encoded, fresh, gguf};
use crate::{Trained, TuneError};
use kinglet_formats::files::Aside;
use kinglet_formats::gguf::{Gguf, Metadata, Value};
use kinglet_formats::lm::adapter::{Adapter, Base, rows_of};
use kinglet_formats::lm::{Config, Family, HfConfig, HfModel, Weights, from_gguf};
use kinglet_formats::safetensors::{self, SafeTensors};
use kinglet_formats::{LoadError, Named, map};
use kinglet_graph::{DType, GraphError, Tensor};
use kinglet_lm::Fnv;
use kinglet_lm::template::ChatTemplate;
use kinglet_lm::tokenizer::Tokenizer;
use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// A language model with its tokeniser, and the files around it.
pub struct Model {
    /// Its numbers.
    pub config: Config,
    /// Its family, with rotation as its weights want it.
    pub family: Family,
    /// Its tokeniser.
    pub tokenizer: Arc<Tokenizer>,
    /// The source of its chat template, if it has one.
    pub template: Option<String>,
    weights: Named<Tensor>,
    source: Source,
}

/// Where a model came from: what it is written as.
enum Source {
    Gguf(Metadata),
    Folder(Folder),
}

/// What a folder holds beside weights.
pub(super) struct Folder {
    pub config: HfConfig,
    /// The tensors' names and sizes.
    pub tensors: Vec<(String, Vec<usize>)>,
    /// Other files, by name.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Folder {
    /// The text of its tokeniser.
    pub fn tokenizer(&self) -> Option<&[u8]> {
        self.files.iter().find(|(name, _)| name == TOKENIZER).map(|(_, bytes)| bytes.as_slice())
    }
}

/// The files of a folder that are kept as they are.
const KEPT: &[&str] = &[
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];
const TOKENIZER: &str = "tokenizer.json";

/// The weights of the output, where the embeddings are not these too.
pub(super) const OUTPUT: &str = "output.weight";

impl Model {
    /// The model at `path`: a GGUF file, or a Hugging Face folder.
    ///
    /// # Errors
    /// If it can't be read, or has no tokeniser.
    pub fn open(path: &Path) -> Result<Model, TuneError> {
        let tokenizer = || {
            Tokenizer::open(path)
                .map(Arc::new)
                .map_err(|e| TuneError::Input(format!("{}: tokeniser: {e}", path.display())))
        };
        if !path.is_dir() {
            let file = Gguf::open(path)?;
            let (config, family) = from_gguf(&file).map_err(|e| LoadError::new(path, e))?;
            let template = file.metadata.get("tokenizer.chat_template").and_then(Value::as_str);
            return Ok(Model {
                config,
                family: *family,
                template: template.map(str::to_string),
                tokenizer: tokenizer()?,
                weights: file.tensors,
                source: Source::Gguf(file.metadata),
            });
        }
        let model = HfModel::open(path)?;
        let config = HfConfig::open(&path.join("config.json"))?;
        let tensors = SafeTensors::open(path)?.tensors;
        let counted = tensors.iter().filter(|(name, _)| config.counts(name));
        let tensors = counted.map(|(name, t)| (name.to_string(), t.dims().to_vec())).collect();
        let files = KEPT
            .iter()
            .filter_map(|name| Some((name.to_string(), std::fs::read(path.join(name)).ok()?)));
        Ok(Model {
            config: model.config,
            family: model.family,
            template: model.template,
            tokenizer: tokenizer()?,
            weights: model.weights,
            source: Source::Folder(Folder { config, tensors, files: files.collect() }),
        })
    }

    /// A new model: of the class and the numbers that `config` says, for a tokeniser of a
    /// `tokenizer.json` and a `tokenizer_config.json`, with `template` and weights of `seed`'s chance.
    ///
    /// # Errors
    /// If no such model can be made.
    pub fn fresh(
        mut config: HfConfig,
        (tokenizer, about): (&str, &str),
        template: &str,
        seed: u64,
    ) -> Result<Model, TuneError> {
        let own = Tokenizer::from_huggingface_texts(tokenizer.as_bytes(), about.as_bytes())
            .map_err(|e| TuneError::Input(format!("tokeniser: {e}")))?;
        let special = own.special();
        config.set("vocab_size", own.vocab_size());
        config.set("bos_token_id", special.bos);
        config.set("eos_token_id", special.eos);
        config.set("torch_dtype", "float32");
        let tensors = fresh::tensors(&config, seed)?;
        let input = |e: GraphError| TuneError::Input(format!("the model's configuration: {e}"));
        let (numbers, family, weights) = config.model(&tensors).map_err(input)?;
        let files = vec![
            (TOKENIZER.to_string(), tokenizer.as_bytes().to_vec()),
            ("tokenizer_config.json".to_string(), about.as_bytes().to_vec()),
            ("chat_template.jinja".to_string(), template.as_bytes().to_vec()),
        ];
        let tensors = tensors.iter().map(|(name, t)| (name.to_string(), t.dims().to_vec()));
        let tensors = tensors.collect();
        Ok(Model {
            config: numbers,
            family,
            tokenizer: Arc::new(own),
            template: Some(template.to_string()),
            weights,
            source: Source::Folder(Folder { config, tensors, files }),
        })
    }

    /// Its chat template.
    ///
    /// # Errors
    /// If it is no Jinja.
    pub fn chat_template(&self) -> Result<ChatTemplate, TuneError> {
        ChatTemplate::of(&self.tokenizer, self.template.as_deref())
            .map_err(|e| TuneError::Input(e.to_string()))
    }

    /// Its weights, under GGUF's names.
    pub fn weights(&self) -> &Named<Tensor> {
        &self.weights
    }

    /// The constant `name` of its graph, of `rows` rows: a weight, or rows of one.
    pub fn constant(&self, name: &str, rows: usize) -> Option<Tensor> {
        match rows_of(name) {
            Some((whole, first)) => self.weights.get(whole)?.rows(first, rows).ok(),
            None => self.weights.get(name).cloned(),
        }
    }

    /// How many numbers its weights are.
    pub fn parameters(&self) -> usize {
        self.weights.iter().map(|(_, t)| t.dims().iter().product::<usize>()).sum()
    }

    /// Whether the constant `name` of its graph is one of its weights, or rows of one.
    pub(super) fn has(&self, name: &str) -> bool {
        self.weights.contains(rows_of(name).map_or(name, |(whole, _)| whole))
    }

    /// Tells other models from this one.
    pub fn fingerprint(&self) -> String {
        let mut hash = Fnv::new();
        for (name, tensor) in self.weights.iter() {
            hash.take(name.as_bytes());
            hash.take(tensor.raw());
            // What was only looked at need not stay in memory.
            map::release(tensor.raw());
        }
        hash.take(self.template.as_deref().unwrap_or_default().as_bytes());
        if let Source::Folder(folder) = &self.source {
            hash.take(folder.config.json().as_bytes());
            hash.take(folder.tokenizer().unwrap_or_default());
        }
        hash.text()
    }

    /// Bytes of weights that are in memory, and not in a mapped file.
    pub fn owned_bytes(&self) -> usize {
        let owned = self.weights.iter().filter(|(_, t)| !map::is_mapped(t.raw()));
        owned.map(|(_, t)| t.raw().len()).sum()
    }

    /// Lets go of the weights that are `trained`, or of which rows are: they are not needed once a
    /// training holds them.
    pub fn release(&mut self, trained: &[Trained]) {
        let trained =
            trained.iter().map(|t| rows_of(&t.name).map_or(t.name.as_str(), |(of, _)| of));
        let trained: HashSet<&str> = trained.collect();
        for (name, tensor) in std::mem::take(&mut self.weights) {
            if !trained.contains(name.as_str()) {
                self.weights.insert(name, tensor);
            }
        }
    }

    /// Whether its embeddings are the output's weights too.
    pub(super) fn is_tied(&self) -> bool {
        !self.weights.contains(OUTPUT)
    }

    /// Writes the model with other weights, as what it was read as: a folder, or a GGUF file where the
    /// name of `out` ends in `.gguf`. `trained` are constants of its graph. What is there already stays
    /// until all is written.
    ///
    /// # Errors
    /// If it can't be held in such files, or they can't be written.
    pub fn write(
        &self,
        trained: Vec<(String, Tensor)>,
        out: &Path,
        encoded: Encoded,
    ) -> Result<(), TuneError> {
        let mut weights = whole(trained)?;
        for (name, tensor) in self.weights.iter() {
            if !weights.contains(name) {
                weights.insert(name, tensor.clone());
            }
        }
        let as_gguf = is_gguf(out);
        match &self.source {
            Source::Gguf(metadata) if as_gguf => gguf::write(metadata, &weights, out, encoded),
            Source::Gguf(_) => Err(TuneError::Input(format!(
                "{}: a GGUF file is written as one: give it a name that ends in .gguf",
                out.display()
            ))),
            Source::Folder(folder) if as_gguf => {
                let (metadata, weights) = self.as_gguf(folder, weights)?;
                gguf::write(&metadata, &weights, out, encoded)
            }
            Source::Folder(folder) => write_folder(folder, &weights, out, encoded.dtype()),
        }
    }

    /// Writes what stands beside its weights: a GGUF file where the name of `out` ends in `.gguf`, else a
    /// folder in PEFT's layout, whose base is called `base`.
    ///
    /// # Errors
    /// If the adapter can't be held so, or not be written.
    pub fn write_adapter(
        &self,
        adapter: &Adapter,
        out: &Path,
        base: &str,
    ) -> Result<(), TuneError> {
        match &self.source {
            _ if is_gguf(out) => {
                adapter.write_gguf(out, Base { config: &self.config, family: &self.family })?;
            }
            Source::Folder(folder) => {
                adapter.write_peft(out, &folder.config, &folder.tensors, base)?;
            }
            Source::Gguf(_) => return Err(adapter_of_gguf(out)),
        }
        Ok(())
    }

    /// Whether an adapter could be written to `out`, as far as that is known before.
    ///
    /// # Errors
    /// Why not.
    pub fn check_adapter_output(&self, out: &Path) -> Result<(), TuneError> {
        match &self.source {
            Source::Gguf(_) if !is_gguf(out) => Err(adapter_of_gguf(out)),
            _ => Ok(()),
        }
    }

    fn as_gguf(
        &self,
        folder: &Folder,
        weights: Named<Tensor>,
    ) -> Result<(Metadata, Named<Tensor>), TuneError> {
        let numbers = (&self.config, &self.family);
        let template = self.template.as_deref();
        gguf::of_folder(folder, numbers, weights, template, &self.tokenizer)
    }

    /// Whether it could be written to `out` as `encoded`, as far as that is known before.
    ///
    /// # Errors
    /// Why not.
    pub fn check_output(&self, out: &Path, encoded: Encoded) -> Result<(), TuneError> {
        let place = out.display();
        match (&self.source, is_gguf(out)) {
            (Source::Gguf(_), false) => Err(TuneError::Input(format!(
                "{place}: a GGUF file is written as one: give it a name that ends in .gguf"
            ))),
            (Source::Folder(_), false) if encoded.is_blocks() => Err(TuneError::Input(format!(
                "{place}: {encoded} is for GGUF files: give it a name that ends in .gguf"
            ))),
            (Source::Folder(folder), true) => self.as_gguf(folder, self.weights.clone()).map(drop),
            _ => Ok(()),
        }
    }
}

fn adapter_of_gguf(out: &Path) -> TuneError {
    TuneError::Input(format!(
        "{}: PEFT's layout is for models in Hugging Face folders: give it a name that ends in .gguf",
        out.display()
    ))
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// Trained constants as the tensors that they are, or that they are rows of.
fn whole(trained: Vec<(String, Tensor)>) -> Result<Named<Tensor>, TuneError> {
    let mut weights = Named::default();
    let mut parts: Named<Vec<(usize, Tensor)>> = Named::default();
    for (name, tensor) in trained {
        let Some((of, first)) = rows_of(&name) else {
            weights.insert(name, tensor);
            continue;
        };
        let mut own = parts.get(of).cloned().unwrap_or_default();
        own.push((first, tensor));
        parts.insert(of, own);
    }
    for (name, mut parts) in parts {
        parts.sort_by_key(|(first, _)| *first);
        let mut values: Vec<f32> = Vec::new();
        let mut rows = 0;
        let mut dims = Vec::new();
        for (first, part) in &parts {
            if *first != rows {
                return Err(TuneError::Work(format!("tensor '{name}': rows {rows} are missing")));
            }
            rows += part.dims().first().copied().unwrap_or(0);
            dims = part.dims().to_vec();
            values.extend_from_slice(part.slice()?);
        }
        if let Some(first) = dims.first_mut() {
            *first = rows;
        }
        weights.insert(name, Tensor::from_slice(&dims, &values)?);
    }
    Ok(weights)
}

fn write_folder(
    folder: &Folder,
    weights: &dyn Weights,
    out: &Path,
    dtype: DType,
) -> Result<(), TuneError> {
    let fail = |path: &Path, e: io::Error| {
        TuneError::Work(format!("{}: cannot write it: {e}", path.display()))
    };
    let mut tensors = Vec::with_capacity(folder.tensors.len());
    for (name, dims) in &folder.tensors {
        let tensor = folder.config.tensor(name, dims, weights)?;
        tensors.push((name.as_str(), encoded(&tensor, dtype)?));
    }
    let mut config = folder.config.clone();
    let told = match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    };
    for key in ["torch_dtype", "dtype"] {
        if config.get(key).is_some() {
            config.set(key, told);
        }
    }
    std::fs::create_dir_all(out).map_err(|e| fail(out, e))?;
    let mut files = Aside::default();
    let mut create = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        files.create(&path).and_then(|mut f| f.write_all(bytes)).map_err(|e| fail(&path, e))
    };
    for (name, bytes) in &folder.files {
        create(name, bytes)?;
    }
    create("config.json", config.json().as_bytes())?;
    let path = out.join("model.safetensors");
    let borrowed: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (*n, t)).collect();
    files
        .create(&path)
        .and_then(|mut file| safetensors::write(&mut file, &[("format", "pt")], &borrowed))
        .map_err(|e| fail(&path, e))?;
    files.finish_synced().map_err(|(path, e)| fail(&path, e))
}

/// An f32 tensor as `dtype`.
pub(super) fn encoded(tensor: &Tensor, dtype: DType) -> Result<Tensor, TuneError> {
    match dtype {
        DType::F32 => Ok(tensor.clone()),
        _ => Ok(Tensor::encode(dtype, tensor.dims(), tensor.slice()?)?),
    }
}
