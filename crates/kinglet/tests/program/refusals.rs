//! Wrong input: one clear message and exit status 2.

use crate::common::{file, folder, kinglet, model};
use kinglet_testing::Array;

fn npy(array: &Array) -> Vec<u8> {
    let mut out = Vec::new();
    array.write(&mut out).unwrap();
    out
}

#[test]
fn wrong_models_are_refused() {
    let folder = folder();
    let cases = [
        ("no/such/model.tflite".to_string(), "there is no such file"),
        (folder.path().to_str().unwrap().to_string(), "folder"),
        (file(&folder, "empty.tflite", b""), "the file is empty"),
        (file(&folder, "text.tflite", b"hello"), "no model of a known format"),
        (file(&folder, "cut.tflite", b"\x1c\0\0\0TFL3\x14\0\0\0"), "cut.tflite"),
        (file(&folder, "cut.onnx", b"\x08\x07\x3a\xff\xff\xff\x0f"), "cut.onnx"),
    ];
    for (path, expected) in cases {
        for command in ["run", "inspect"] {
            let message = kinglet([command, &path]).refusal();
            assert!(message.contains(expected) && message.contains(&path), "{message}");
        }
    }
}

#[test]
fn wrong_pictures_are_refused() {
    let Some(path) = model("vision/mobilenet_v1_0.25_128_quant.tflite") else { return };
    let folder = folder();
    let cases = [
        ("no/such/picture.jpg".to_string(), "cannot read it"),
        (folder.path().to_str().unwrap().to_string(), "folder"),
        (file(&folder, "empty.jpg", b""), "the file is empty"),
        (file(&folder, "text.jpg", b"hello, I am no picture"), "not a picture"),
        (file(&folder, "cut.png", b"\x89PNG\r\n\x1a\n\0\0\0"), "damaged PNG picture"),
    ];
    for (picture, expected) in cases {
        let message = kinglet(["run", &path, &picture]).refusal();
        assert!(message.contains(expected) && message.contains(&picture), "{message}");
    }
}

#[test]
fn wrong_tensors_are_refused() {
    let Some(path) = model("tiny/kws_ref_model.tflite") else { return };
    let folder = folder();
    let right = Array::new(&[1, 49, 10, 1], &[0i8; 490]);
    let tensor = |name: &str, array: &Array| file(&folder, name, &npy(array));
    let mut cut = npy(&right);
    cut.pop();
    let sized = tensor("size.npy", &Array::new(&[1, 10, 49, 1], &[0i8; 490]));
    let floats = tensor("float.npy", &Array::new(&[1, 49, 10, 1], &[0f32; 490]));
    let good = tensor("good.npy", &right);
    let cases = [
        (format!("input_1={sized}"), "takes i8[n, 49, 10, 1]", "holds i8[1, 10, 49, 1]"),
        (format!("input_1={floats}"), "takes i8[n, 49, 10, 1]", "holds f32[1, 49, 10, 1]"),
        (format!("input_2={good}"), "no input has that name", "'input_1' i8[n, 49, 10, 1]"),
        (format!("input_1={}", file(&folder, "cut.npy", &cut)), "cut off", "cut.npy"),
        (format!("input_1={}", file(&folder, "x.npy", b"hello")), "not a .npy file", "x.npy"),
        (format!("input_1={}", file(&folder, "x.npz", b"hello")), "bad .npz archive", "x.npz"),
        ("input_1=no/such.npy".to_string(), "cannot read it", "no/such.npy"),
        (format!("input_1={}", folder.path().display()), "this is a folder", ".npy"),
    ];
    for (argument, first, second) in cases {
        let message = kinglet(["run", &path, "--input", &argument]).refusal();
        assert!(message.contains(first) && message.contains(second), "{argument}: {message}");
    }
    let message = kinglet(["run", &path]).refusal();
    assert!(message.contains("no data for input 'input_1' i8[n, 49, 10, 1]"), "{message}");
    let twice = ["run", &path, "--input", &good, "--input", &good];
    assert!(kinglet(twice).refusal().contains("given twice"));
}

#[test]
fn wrong_labels_outputs_and_tasks_are_refused() {
    let Some(path) = model("vision/mobilenet_v1_0.25_128_quant.tflite") else { return };
    let Some(bird) = model("images/bird.bmp") else { return };
    let Some(words) = model("tiny/kws_ref_model.tflite") else { return };
    let folder = folder();
    let few = file(&folder, "few.txt", b"cat\ndog\n");
    let taken = file(&folder, "taken", b"a file, not a folder");
    let under = format!("{taken}/out");
    let cases: [(&[&str], &str); 10] = [
        (
            &["run", &path, &bird, "--labels", "no/labels.txt"],
            "no/labels.txt: cannot read the labels",
        ),
        (
            &["run", &path, &bird, "--labels", &few],
            "few.txt: it holds 2 labels, and the model has 1001",
        ),
        (&["run", &path, &bird, "--labels", &bird], "bird.bmp: this is not text"),
        (&["run", &path, &bird, "--output-dir", &taken], "taken: cannot write to this folder"),
        (&["run", &path, &bird, "--output-dir", &under], "out: cannot write to this folder"),
        (&["run", &path, &bird, "--task", "pose"], "cannot pose: the model's outputs are"),
        (&["run", &path, &bird, "--task", "detect"], "choose another --task"),
        (&["run", &words, &bird], "this model takes no picture: its inputs are 'input_1' i8"),
        (&["run", &words, &bird, "--task", "classify"], "which is not a picture"),
        (
            &["inspect", &path, "--stage", "nonsense"],
            "no stage is called 'nonsense'; there are load, ",
        ),
    ];
    for (words, expected) in cases {
        let message = kinglet(words).refusal();
        assert!(message.contains(expected), "{words:?}: {message}");
    }
}

#[test]
fn wrong_usage_is_refused() {
    let cases: [&[&str]; 10] = [
        &[],
        &["fly"],
        &["run", "m", "--task", "sing"],
        &["run", "m", "--threads", "0"],
        &["run", "m", "--top", "many"],
        &["run", "m", "--fit", "round"],
        &["run", "m", "--logit-bias", "5"],
        &["run", "m", "--cache", "f64"],
        &["run", "m", "--context", "0"],
        &["chat", "m", "--temperature", "hot"],
    ];
    for words in cases {
        let done = kinglet(words);
        assert_eq!((done.status, done.stdout.as_str()), (2, ""), "{words:?}");
        assert!(
            done.stderr.contains("Usage: kinglet")
                || done.stderr.contains("possible values")
                || done.stderr.contains("invalid value"),
            "{}",
            done.stderr
        );
    }
}
