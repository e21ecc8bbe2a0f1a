//! What a TFLite file says about itself: the metadata that the model maker's tools write
//! ([its schema](https://github.com/google-ai-edge/mediapipe/blob/master/mediapipe/tasks/metadata/metadata_schema.fbs),
//! identifier `M001`), and the label files in a ZIP archive appended to the model.
//!
//! All of it helps people and none of it is needed to run, so what is damaged is left out.

use std::io::{Cursor, Read};

use kinglet_graph::Metadata;

use super::flatbuffer::{FlatError, Table};
use super::schema::Model;

/// The property whose text is the mean that a float input is normalised with, one number or one a
/// channel, in the units of a picture's bytes.
pub const MEAN: &str = "normalization.mean";
/// The property whose text is the deviation that a float input is normalised with.
pub const STD: &str = "normalization.std";

/// No list of labels in the field is larger, and the archive may be a bomb.
const LARGEST_FILE: u64 = 4 << 20;
const LABELS_OF_AXIS: u8 = 2;
const LABELS_OF_VALUES: u8 = 3;
const NORMALIZATION: u8 = 1;

/// What `file`, of which `model` was read, says about itself.
pub fn metadata(file: &[u8], model: &Model<'_>) -> Metadata {
    let mut out = Metadata {
        format: "tflite".into(),
        description: model.description.clone(),
        ..Metadata::default()
    };
    let described = model.metadata.iter().find(|(name, _)| name == "TFLITE_METADATA");
    let described = described
        .and_then(|(_, range)| file.get(range.clone()))
        .and_then(|bytes| describe(bytes, &mut out).ok());
    let names = described.unwrap_or_default();
    out.labels = labels(file, &names).unwrap_or_default();
    out
}

/// Reads the metadata table into `out`, and returns the names of the outputs' label files.
fn describe(bytes: &[u8], out: &mut Metadata) -> Result<Vec<String>, FlatError> {
    let root = Table::root(bytes, b"M001")?;
    let mut property = |name: &str, text: String| {
        if !text.is_empty() {
            out.properties.push((name.into(), text));
        }
    };
    property("name", root.string(0)?);
    property("description", root.string(1)?);
    property("author", root.string(4)?);
    property("license", root.string(5)?);
    let mut names = Vec::new();
    let Some(subgraph) = root.tables(3)?.iter().next().transpose()? else {
        return Ok(names);
    };
    if let Some(input) = subgraph.tables(2)?.iter().next().transpose()? {
        for unit in input.tables(4)?.iter() {
            let unit = unit?;
            if let (NORMALIZATION, Some(options)) = (unit.scalar(0, 0u8)?, unit.table(1)?) {
                for (index, name) in [(0, MEAN), (1, STD)] {
                    let numbers = options.vector::<f32>(index)?;
                    let text: Vec<String> =
                        numbers.iter().take(4).map(|number| number.to_string()).collect();
                    property(name, text.join(" "));
                }
            }
        }
    }
    for output in subgraph.tables(3)?.iter() {
        for file in output?.tables(6)?.iter() {
            let file = file?;
            if matches!(file.scalar(2, 0u8)?, LABELS_OF_AXIS | LABELS_OF_VALUES) {
                names.push(file.string(0)?);
            }
        }
    }
    Ok(names)
}

/// The lines of the first of `names` in the archive at the end of `file`; without names, of the
/// only text file there.
fn labels(file: &[u8], names: &[String]) -> Option<Vec<String>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(file)).ok()?;
    let texts: Vec<&str> = archive.file_names().filter(|name| name.ends_with(".txt")).collect();
    let name = match (names, texts.as_slice()) {
        ([name, ..], _) => name.clone(),
        ([], [name]) => name.to_string(),
        _ => return None,
    };
    let mut text = String::new();
    let member = archive.by_name(&name).ok()?;
    member.take(LARGEST_FILE).read_to_string(&mut text).ok()?;
    Some(text.lines().map(|line| line.trim().to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_normalisation_of_real_files() {
        let Some(path) = kinglet_testing::model("vision/tf2_mobilenet_v2_1.0_224_ptq.tflite")
        else {
            return;
        };
        let file = std::fs::read(path).unwrap();
        let found = metadata(&file, &super::super::read::read(&file).unwrap());
        eprintln!("{:?}", found.properties);
        assert_eq!(found.labels.len(), 1001);
        assert_eq!(found.labels[1], "tench, Tinca tinca");
        assert!(found.properties.contains(&(MEAN.into(), "127.5".into())));
        assert!(found.properties.contains(&(STD.into(), "127.5".into())));
    }

    #[test]
    fn a_file_without_metadata_has_none() {
        let Some(path) = kinglet_testing::model("tiny/hello_world_int8.tflite") else { return };
        let file = std::fs::read(path).unwrap();
        let found = metadata(&file, &super::super::read::read(&file).unwrap());
        assert_eq!(found.labels.len(), 0);
        assert_eq!(found.format, "tflite");
    }
}
