//! A model file's format, told from its content.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use kinglet_graph::{Bytes, Graph, GraphError, Tensor};

use crate::{LoadError, Named, onnx, tflite};

/// Loads a model file of any format that is read here.
///
/// # Errors
/// If there is no such file, its format is not one of them, or what its format's `load` says.
pub fn load(path: &Path) -> Result<Graph, LoadError> {
    let fail = |message: String| LoadError::new(path, GraphError::new("cannot open", message));
    let about = fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => fail("there is no such file".into()),
        _ => fail(e.to_string()),
    })?;
    if about.is_dir() {
        return Err(fail("this is a folder; give a model file".into()));
    }
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| fail(e.to_string()))?;
    file.take(8).read_to_end(&mut start).map_err(|e| fail(e.to_string()))?;
    if start.is_empty() {
        return Err(fail("the file is empty".into()));
    }
    if is_tflite(&start) {
        return tflite::load(path);
    }
    if let Some((_, what)) = FOREIGN.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(fail(format!("this is {what}, not a model; TFLite and ONNX files are read")));
    }
    // An ONNX file has no magic number. Its first field is its version or its producer.
    if !matches!(start[0], 0x08 | 0x12 | 0x1a | 0x22 | 0x2a | 0x32 | 0x3a | 0x42) {
        return Err(fail(
            "this is no model of a known format; TFLite and ONNX files are read".into(),
        ));
    }
    onnx::load(path)
}

/// The model file at `path` with other weights: see [`onnx::with_weights`] and
/// [`tflite::with_weights`], which keeps all sizes.
///
/// # Errors
/// If it can't be read, or what these say.
pub fn with_weights(
    path: &Path,
    weights: &Named<Tensor>,
    outputs: &[(&str, usize)],
) -> Result<Vec<u8>, LoadError> {
    let fail = |e: GraphError| LoadError::new(path, e);
    let bytes = fs::read(path).map_err(|e| fail(GraphError::new("cannot open", e.to_string())))?;
    match is_tflite(&bytes) {
        true => tflite::with_weights(&bytes, weights),
        false => onnx::with_weights(&Bytes::new(Arc::new(bytes)), path.parent(), weights, outputs),
    }
    .map_err(fail)
}

/// Whether [`with_weights`] can give weights of the file at `path` other sizes.
pub fn can_resize(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(8).read_to_end(&mut start));
    read.is_ok() && !is_tflite(&start)
}

fn is_tflite(start: &[u8]) -> bool {
    start.get(4..8) == Some(b"TFL3")
}

/// How files begin that people take for models.
const FOREIGN: [(&[u8], &str); 7] = [
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"BM", "a BMP picture"),
    (b"PK\x03\x04", "a ZIP archive (a PyTorch file, say: export it to ONNX first)"),
    (b"\x89HDF", "an HDF5 file (a Keras model, say: convert it to TFLite first)"),
    (b"GGUF", "a GGUF file (a language model)"),
    (b"\x93NUMPY", "a NumPy array"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str, content: &[u8]) -> String {
        let folder = std::env::temp_dir().join(format!("kinglet-detect-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        let message = load(&path).unwrap_err().to_string();
        fs::remove_file(&path).unwrap();
        message
    }

    #[test]
    fn what_is_no_model_is_said() {
        assert!(error("empty", b"").ends_with("the file is empty"));
        assert!(error("text", b"hello").contains("no model of a known format"));
        assert!(error("zip", b"PK\x03\x04rest").contains("ZIP archive"));
        assert!(error("tflite", b"\0\0\0\0TFL3").contains("TFLite file"));
        let folder = load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_err().to_string();
        assert!(folder.ends_with("this is a folder; give a model file"));
        let missing = load(Path::new("no/such.tflite")).unwrap_err().to_string();
        assert_eq!(missing, "no/such.tflite: cannot open: there is no such file");
    }
}
