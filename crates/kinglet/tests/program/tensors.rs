//! `kinglet run` on tensors, and `kinglet inspect`.

use crate::common::{folder, kinglet, model};
use kinglet_testing::{Array, golden, npz};

/// The model's outputs for its golden inputs, through files.
fn through_files(path: &str, inputs: &[(String, Array)], zipped: bool) -> Vec<Array> {
    let folder = folder();
    let mut words = vec!["run".to_string(), path.to_string(), "--json".into()];
    if zipped {
        let file = folder.path().join("inputs.npz");
        let members = inputs.iter().map(|(name, array)| (name.as_str(), array));
        kinglet_npy::write_npz(std::fs::File::create(&file).unwrap(), members).unwrap();
        words.extend(["--input".into(), file.to_str().unwrap().into()]);
    } else {
        for (index, (name, array)) in inputs.iter().enumerate() {
            let mut content = Vec::new();
            array.write(&mut content).unwrap();
            let file = crate::common::file(&folder, &format!("{index}.npy"), &content);
            words.extend(["--input".into(), format!("{name}={file}")]);
        }
    }
    let out = folder.path().join("out");
    words.extend(["--output-dir".into(), out.to_str().unwrap().into()]);
    let answer = kinglet(&words).json();
    assert_eq!(answer["task"], "tensors");
    let outputs = answer["outputs"].as_array().unwrap();
    let read = |output: &serde_json::Value| {
        let file = output["file"].as_str().unwrap();
        let array = Array::read(&mut std::fs::File::open(file).unwrap(), 1 << 24).unwrap();
        let shape: Vec<u64> = array.shape.iter().map(|&d| d as u64).collect();
        assert_eq!(output["shape"], serde_json::json!(shape));
        array
    };
    outputs.iter().map(read).collect()
}

#[test]
fn integer_models_give_the_golden_tensors() {
    for (name, input) in [
        ("kws_ref_model", "input_1"),
        ("ad01_int8", "input_1"),
        ("hello_world_int8", "dense_input"),
        ("keyword_scrambled", "0"),
    ] {
        let Some(path) = model(&format!("tiny/{name}.tflite")) else { return };
        let case = &golden(name).unwrap()[0];
        for zipped in [false, true] {
            let inputs = [(input.to_string(), case.inputs[0].clone())];
            let found = through_files(&path, &inputs, zipped);
            assert_eq!(found.len(), case.outputs.len());
            for (found, expected) in found.iter().zip(&case.outputs) {
                assert_eq!((found.dtype, &found.shape), (expected.dtype, &expected.shape));
                let steps = found.data.iter().zip(&expected.data);
                let most =
                    steps.map(|(a, b)| (*a as i8).wrapping_sub(*b as i8).unsigned_abs()).max();
                assert!(most <= Some(1), "{name}: {most:?} steps");
            }
        }
    }
}

/// The first `count` of a batch.
fn first(array: &Array, count: usize) -> Array {
    let bytes = array.data.len() / array.shape[0] * count;
    let mut shape = array.shape.clone();
    shape[0] = count;
    Array { shape, data: array.data[..bytes].to_vec(), ..array.clone() }
}

#[test]
fn an_open_batch_is_as_large_as_the_input() {
    let recorded = npz(&kinglet_testing::fixture("onnx/outputs.npz"));
    let recorded = |key: &str| &recorded.iter().find(|(name, _)| name == key).unwrap().1;
    let path = kinglet_testing::fixture("onnx/convnet.onnx");
    let path = path.to_str().unwrap();
    for batch in [1, 2, 5] {
        let inputs = [("x".to_string(), first(recorded("convnet.x"), batch))];
        let found = through_files(path, &inputs, batch == 2);
        let want = first(recorded("convnet"), batch);
        assert_eq!(found[0].shape, want.shape);
        let (found, want) = (found[0].to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
        assert!(found.iter().zip(&want).all(|(a, b)| (a - b).abs() < 2e-5), "{found:?} {want:?}");

        // The same through the library, in one plan of that size.
        let model = kinglet::Model::open(path).unwrap();
        let shapes = vec![(0, inputs[0].1.shape.clone())];
        let mut plan = model.plan(kinglet::PlanOptions { shapes, ..Default::default() }).unwrap();
        let x = inputs[0].1.to_vec::<f32>().unwrap();
        let x = kinglet::Tensor::from_slice(&inputs[0].1.shape, &x).unwrap();
        plan.set_input(0, &x).unwrap();
        plan.run().unwrap();
        assert_eq!(plan.output(0).slice::<f32>().unwrap(), found);
    }
}

#[test]
fn small_outputs_are_shown() {
    let Some(path) = model("tiny/hello_world_float.tflite") else { return };
    let case = &golden("hello_world_float").unwrap()[0];
    let folder = folder();
    let mut content = Vec::new();
    case.inputs[0].write(&mut content).unwrap();
    let file = crate::common::file(&folder, "x.npy", &content);
    let answer = kinglet(["run", &path, &file, "--json"]).json();
    let found = answer["outputs"][0]["values"][0].as_f64().unwrap();
    let expected = f64::from(case.outputs[0].to_vec::<f32>().unwrap()[0]);
    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    assert_eq!(answer["outputs"][0]["dtype"], "f32");
    let text = kinglet(["run", &path, &file]).stdout;
    assert!(text.contains("f32[1, 1]"), "{text}");
}

#[test]
fn every_model_can_be_inspected() {
    let Some(models) = kinglet_testing::models() else { return };
    let mut inspected = 0;
    for folder in ["vision", "tiny"] {
        for entry in std::fs::read_dir(models.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "tflite") {
                continue;
            }
            let report = kinglet(["inspect", path.to_str().unwrap(), "--json"]).json();
            assert_eq!(report["format"], "tflite");
            assert!(report["macs"].as_u64().unwrap() > 0, "{report}");
            assert!(!report["weights"].as_array().unwrap().is_empty());
            assert!(!report["ops"].as_array().unwrap().is_empty());
            let memory = &report["memory"];
            let planned = memory["planned_bytes"].as_f64().unwrap();
            let bound = memory["lower_bound_bytes"].as_f64().unwrap();
            assert!(planned >= bound && bound > 0.0, "{path:?}: {memory}");
            assert!(planned <= 1.2 * bound, "{path:?}: {memory}");
            inspected += 1;
        }
    }
    assert!(inspected > 20);
}

#[test]
fn people_read_what_a_model_is() {
    let Some(path) = model("vision/mobilenet_v2_1.0_224_quant.tflite") else { return };
    let done = kinglet(["inspect", &path]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    for expected in
        ["classify, 1001 labels", "u8[1, 224, 224, 3] q(0.0078125, 128)", "MB", "at the peak"]
    {
        assert!(done.stdout.contains(expected), "{expected}: {}", done.stdout);
    }
}

#[test]
fn stages_are_listed_and_printed() {
    let Some(path) = model("tiny/kws_ref_model.tflite") else { return };
    let list = kinglet(["inspect", &path, "--stage", "list", "--json"]).json();
    let names: Vec<&str> =
        list.as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[names.len() - 1]), ("load", "kernels"));
    let all = kinglet(["inspect", &path, "--stage", "all"]).stdout;
    for name in &names {
        assert!(all.contains(&format!("# {name}\n")), "{name}");
        let one = kinglet(["inspect", &path, "--stage", name]);
        assert!(one.status == 0 && all.contains(&one.stdout), "{name}");
    }
}

#[test]
fn a_graph_is_drawn() {
    let Some(path) = model("tiny/pretrainedResnet_quant.tflite") else { return };
    let folder = folder();
    let file = folder.path().join("graph.svg");
    let report = kinglet(["inspect", &path, "--json", "--svg", file.to_str().unwrap()]).json();
    let svg = std::fs::read_to_string(&file).unwrap();
    let ops: u64 =
        report["ops"].as_array().unwrap().iter().map(|op| op["count"].as_u64().unwrap()).sum();
    assert!(svg.matches("<rect class=").count() as u64 >= 2 + ops / 2);
    assert!(svg.contains("QAdd") && svg.contains("1×32×32×3"));
    assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    let nowhere = kinglet(["inspect", &path, "--svg", "no/such/folder/graph.svg"]);
    assert!(nowhere.refusal().contains("cannot write the drawing"));
}

#[test]
fn the_golden_files_themselves_are_read() {
    let Some(path) = kinglet_testing::model("golden/ad01_int8.npz") else { return };
    assert_eq!(npz(&path)[0].0, "0.in0");
}
