//! `kinglet run MODEL PICTURE` on trained models.

use crate::common::{folder, kinglet, model};
use kinglet::tasks::{Picture, Placement, segment};

/// The path of each, or an end to the test where there are no models.
macro_rules! models {
    ($($name:ident = $path:expr),*) => {
        $(let Some($name) = model($path) else { return };)*
    };
}

fn top(model_path: &str, picture: &str) -> Vec<(String, f64)> {
    let answer = kinglet(["run", model_path, picture, "--json"]).json();
    assert_eq!(answer["task"], "classify");
    assert!(answer["timing"]["load_ms"].as_f64().unwrap() > 0.0);
    assert!(answer["timing"]["run_ms"].as_f64().unwrap() > 0.0);
    let top = answer["top"].as_array().unwrap();
    assert_eq!(top.len(), 5);
    assert!(top.is_sorted_by(|a, b| a["score"].as_f64() >= b["score"].as_f64()));
    let line = |line: &serde_json::Value| {
        assert!(line["index"].is_u64());
        (line["label"].as_str().unwrap().to_string(), line["score"].as_f64().unwrap())
    };
    top.iter().map(line).collect()
}

#[test]
fn mobilenets_know_a_macaw_by_the_labels_in_their_files() {
    models!(parrot = "images/parrot.jpg");
    for name in [
        "mobilenet_v1_0.25_128_quant",
        "mobilenet_v1_0.75_192_quant",
        "mobilenet_v2_1.0_224_quant",
        "tf2_mobilenet_v2_1.0_224_ptq",
    ] {
        models!(path = &format!("vision/{name}.tflite"));
        let top = top(&path, &parrot);
        assert_eq!(top[0].0, "macaw", "{name}: {top:?}");
        assert!(top[0].1 > 0.5, "{name}: {top:?}");
    }
}

#[test]
fn a_bird_classifier_names_the_species() {
    models!(path = "vision/mobilenet_v2_1.0_224_inat_bird_quant.tflite", bird = "images/bird.bmp");
    let top = top(&path, &bird);
    assert_eq!(top[0].0, "Poecile atricapillus (Black-capped Chickadee)");
}

#[test]
fn a_pictures_scores_are_the_golden_ones() {
    let name = "mobilenet_v1_0.25_128_quant";
    models!(path = &format!("vision/{name}.tflite"));
    let cases = kinglet_testing::golden(name).unwrap();
    for case in cases.iter().filter(|case| case.name.ends_with(".bmp")) {
        models!(picture = &format!("images/{}", case.name));
        let answer = kinglet(["run", &path, &picture, "--json", "--top", "1001"]).json();
        let top = answer["top"].as_array().unwrap();
        assert_eq!(top.len(), 1001);
        for line in top {
            let golden = case.outputs[0].data[line["index"].as_u64().unwrap() as usize];
            let found = (line["score"].as_f64().unwrap() * 256.0).round() as i16;
            // The reference softmax may be a step away, as everywhere.
            assert!((found - i16::from(golden)).abs() <= 1, "{}: {line}", case.name);
        }
    }
}

#[test]
fn a_person_is_told_from_a_cat_through_a_signed_input() {
    models!(
        path = "tiny/vww_96_int8.tflite",
        hopper = "images/grace_hopper.bmp",
        cat = "images/cat.bmp"
    );
    let folder = folder();
    let labels = crate::common::file(&folder, "labels.txt", b"no person\nperson\n");
    let best = |picture: &str| {
        let answer = kinglet(["run", &path, picture, "--labels", &labels, "--json"]).json();
        answer["top"][0]["label"].as_str().unwrap().to_string()
    };
    assert_eq!(best(&hopper), "person");
    assert_eq!(best(&cat), "no person");
}

#[test]
fn grey_inputs_and_grey_pictures_meet() {
    models!(path = "tiny/person_detect.tflite", person = "images/person.bmp");
    let answer = kinglet(["run", &path, &person, "--json"]).json();
    // LiteRT's reference kernels say 4 and -4, of 256 steps from -128.
    assert_eq!(answer["top"][0]["score"].as_f64().unwrap() * 256.0, 132.0);
}

#[test]
fn people_read_a_short_list() {
    models!(path = "vision/mobilenet_v2_1.0_224_quant.tflite", bird = "images/bird.bmp");
    let done = kinglet(["run", &path, &bird, "--top", "2"]);
    assert_eq!(done.status, 0);
    assert!(done.stdout.lines().next().unwrap().ends_with(" %  chickadee"), "{}", done.stdout);
    assert_eq!(done.stdout.lines().count(), 2);
    assert!(done.stderr.contains(" ms, after "), "{}", done.stderr);
    let quiet = kinglet(["run", &path, &bird, "--top", "2", "--quiet"]);
    assert_eq!((quiet.stdout, quiet.stderr.as_str()), (done.stdout, ""));
}

#[test]
fn several_pictures_are_a_list() {
    models!(
        path = "vision/mobilenet_v1_0.25_128_quant.tflite",
        bird = "images/bird.bmp",
        cat = "images/cat.bmp"
    );
    let answer = kinglet(["run", &path, &bird, &cat, "--json", "--top", "1"]).json();
    let list = answer.as_array().unwrap();
    assert_eq!(list[0]["input"], bird.as_str());
    assert_eq!(list[0]["top"][0]["label"], "chickadee");
    assert_eq!(list[1]["top"][0]["label"], "Egyptian cat");
}

#[test]
fn a_bird_is_cut_out() {
    let name = "deeplabv3_mnv2_pascal_quant";
    models!(
        path = &format!("vision/{name}.tflite"),
        labels = "vision/pascal_voc_segmentation_labels.txt",
        bird = "images/bird.bmp"
    );
    let out = folder();
    let out_path = out.path().join("made/by/run");
    let words = ["run", &path, &bird, "--labels", &labels, "--json", "--output-dir"];
    let answer = kinglet(words.iter().copied().chain([out_path.to_str().unwrap()])).json();
    assert_eq!(answer["task"], "segment");
    assert_eq!(answer["classes"][0]["label"], "background");
    assert_eq!(answer["classes"][1]["label"], "bird");
    assert_eq!(answer["classes"].as_array().unwrap().len(), 2);

    let picture = Picture::open(bird.as_ref()).unwrap();
    let golden = &kinglet_testing::golden(name).unwrap()[0].outputs[0].to_vec::<i64>().unwrap();
    let map = segment::Map::from_classes(513, 513, golden).unwrap();
    let expected = map.on(&picture, &Placement::whole(&picture));
    let read = |key: &str| std::fs::read(answer["files"][key].as_str().unwrap()).unwrap();
    assert_eq!(read("mask"), expected.png());
    assert_eq!(Picture::decode(&read("overlay")).unwrap(), expected.overlay(&picture));
    let share = answer["classes"][1]["share"].as_f64().unwrap();
    assert!((share - f64::from(expected.shares()[1].share)).abs() < 1e-6);
}

#[test]
fn a_squat_is_understood() {
    models!(path = "vision/movenet_single_pose_lightning_ptq.tflite", squat = "images/squat.bmp");
    let out = folder();
    let words = ["run", &path, &squat, "--json", "--output-dir", out.path().to_str().unwrap()];
    let answer = kinglet(words).json();
    assert_eq!(answer["task"], "pose");
    let points = answer["keypoints"].as_array().unwrap();
    assert_eq!(points.len(), 17);
    let at = |name: &str| {
        let point = points.iter().find(|point| point["name"] == name).unwrap();
        assert!(point["score"].as_f64().unwrap() > 0.3, "{point}");
        (point["x"].as_f64().unwrap(), point["y"].as_f64().unwrap())
    };
    // Measured on the picture, to within a hand's breadth.
    for (name, x, y) in [
        ("nose", 296.0, 200.0),
        ("right shoulder", 213.0, 250.0),
        ("right hip", 145.0, 365.0),
        ("right knee", 215.0, 415.0),
        ("right ankle", 163.0, 545.0),
        ("left ankle", 257.0, 512.0),
    ] {
        let found = at(name);
        assert!((found.0 - x).abs() < 30.0 && (found.1 - y).abs() < 30.0, "{name}: {found:?}");
    }
    let overlay = answer["files"]["overlay"].as_str().unwrap();
    let overlay = Picture::open(overlay.as_ref()).unwrap();
    assert_eq!((overlay.width, overlay.height), (500, 610));
}
