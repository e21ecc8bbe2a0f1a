//! safetensors files: one that the reference implementation wrote, models in several files, and
//! hostile ones.

use std::path::Path;
use std::sync::Arc;

use kinglet_formats::safetensors::SafeTensors;
use kinglet_graph::{Bytes, DType};
use kinglet_testing::{Layout, Specimen};

/// What `safetensors.numpy.save` of safetensors 0.6 made of an f32 `b`, an i64 `a` and an f16 `h`.
const WRITTEN: &[u8] = b"\xc8\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"np\"},\
    \"a\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]},\
    \"b\":{\"dtype\":\"F32\",\"shape\":[1,3],\"data_offsets\":[16,28]},\
    \"h\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[28,30]}}  \
    \x07\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\0\0\x80?\0\0\0\xc0\0\0@@\0>";

fn parse(bytes: &[u8]) -> Result<SafeTensors, String> {
    SafeTensors::parse(Bytes::new(Arc::new(bytes.to_vec()))).map_err(|e| e.to_string())
}

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

#[test]
fn what_the_reference_implementation_wrote_is_read() {
    let read = parse(WRITTEN).unwrap();
    assert_eq!(read.metadata["format"], "np");
    let names: Vec<_> = read.tensors.iter().map(|(name, t)| (name, t.dtype())).collect();
    assert_eq!(names, [("a", DType::I64), ("b", DType::F32), ("h", DType::F16)]);
    assert_eq!(read.tensors["a"].slice::<i64>().unwrap(), [7, 8]);
    assert_eq!(read.tensors["b"].dims(), [1, 3]);
    assert_eq!(read.tensors["b"].slice::<f32>().unwrap(), [1.0, -2.0, 3.0]);
    let mut h = [0.0];
    read.tensors["h"].view().decode(0, &mut h).unwrap();
    assert_eq!(h, [1.5]);
}

#[test]
fn hostile_headers_are_refused() {
    let entry = |dtype: &str, shape: &str, from: &str, to: &str| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    let cases = [
        (vec![], "too short"),
        (u64::MAX.to_le_bytes().to_vec(), "no safetensors file"),
        (99u64.to_le_bytes().to_vec(), "takes 99 bytes, and the file ends at 8"),
        (file("[]", 0), "is damaged"),
        (file(&"[".repeat(100_000), 0), "is damaged"),
        (file(r#"{"t":1}"#, 0), "'t'"),
        (file(&entry("F32", "[2]", "0", "8"), 4), "ends at 8, after the file's 4"),
        (file(&entry("F32", "[2]", "8", "0"), 8), "starts at 8, ends at 0"),
        (file(&entry("F32", "[3]", "0", "8"), 8), "takes 12 bytes, found 8"),
        (file(&entry("F32", "[-1]", "0", "8"), 8), "is damaged"),
        (file(&entry("F32", "[4294967296,4294967296,4]", "0", "8"), 8), "too large"),
        (file(&entry("F32", "[1]", "0", "18446744073709551616"), 8), "is damaged"),
        (file(&entry("F32", "[1]", "4", "8"), 8), "hole"),
        (file(&entry("F32", "[1]", "0", "4"), 8), "tells of 4 bytes of data, there are 8"),
        (file(&entry("Q4", "[1]", "0", "4"), 4), "\"Q4\", which is unknown"),
        (file(&entry("F4", "[2]", "0", "1").replace("\"t\"", "\"__metadata__\""), 1), "no tensor"),
    ];
    for (bytes, what) in cases {
        let error = parse(&bytes).unwrap_err();
        assert!(error.contains(what), "{error}\nwithout {what}");
    }
    let one =
        |from, to| format!(r#""t":{{"dtype":"U8","shape":[2],"data_offsets":[{from},{to}]}}"#);
    let twice = file(&format!("{{{},{}}}", one(0, 2), one(2, 4)), 4);
    assert!(parse(&twice).unwrap_err().contains("twice"));
}

#[test]
fn damaged_files_are_refused_or_read() {
    let specimen = Specimen::new(WRITTEN.to_vec(), Layout::Numbers);
    for cut in specimen.cuts(200) {
        assert!(parse(&WRITTEN[..cut]).is_err(), "cut to {cut}");
    }
    let mut read = 0;
    for seed in 0..20_000 {
        let (bytes, what) = specimen.damaged(seed);
        match parse(&bytes) {
            Ok(file) => {
                read += 1;
                for (_, tensor) in file.tensors.iter() {
                    assert_eq!(Ok(tensor.raw().len()), tensor.dtype().bytes_of(tensor.dims()));
                }
            }
            Err(message) => assert!(!message.trim().is_empty(), "seed {seed}: {what}"),
        }
    }
    assert!(read > 100 && read < 19_900, "{read}");
}

#[test]
fn models_in_several_files_are_found_by_their_index() {
    let folder = std::env::temp_dir().join(format!("kinglet-safetensors-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let one = |name: &str, len: usize| {
        let header =
            format!(r#"{{"{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[0,{len}]}}}}"#);
        file(&header, len)
    };
    let open = |path: &Path| SafeTensors::open(path).map_err(|e| e.to_string());
    let index = |map: &str| {
        let text = format!(r#"{{"metadata":{{"total_size":5}},"weight_map":{map}}}"#);
        std::fs::write(folder.join("model.safetensors.index.json"), text).unwrap();
    };
    std::fs::write(folder.join("model.safetensors"), one("whole", 1)).unwrap();
    assert_eq!(open(&folder).unwrap().tensors["whole"].dims(), [1]);
    std::fs::write(folder.join("a.safetensors"), one("x", 2)).unwrap();
    std::fs::write(folder.join("b.safetensors"), one("y", 3)).unwrap();
    index(r#"{"y":"b.safetensors","x":"a.safetensors"}"#);
    let model = open(&folder).unwrap();
    let sizes: Vec<_> = model.tensors.iter().map(|(n, t)| (n, t.dims()[0])).collect();
    assert_eq!(sizes, [("y", 3), ("x", 2)]);
    for (map, what) in [
        (r#"{"z":"a.safetensors"}"#, "'z' is, and it is not there"),
        (r#"{"x":"c.safetensors"}"#, "c.safetensors: cannot open: there is no such file"),
        (r#"{"x":"../a.safetensors"}"#, "outside of the model's folder"),
        (r#"{"x":"a.safetensors","x":"a.safetensors"}"#, "twice"),
        ("3", "is damaged"),
    ] {
        index(map);
        let error = open(&folder).unwrap_err();
        assert!(error.contains(what), "{error}\nwithout {what}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
