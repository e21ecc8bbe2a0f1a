//! `kinglet run` on a detector. No trained one is among the test models, so this makes an ONNX file
//! that takes a picture and answers with the four outputs of TFLite's detection post-processing, as
//! constants.

use crate::common::{file, folder, kinglet, model};
use kinglet::tasks::Picture;

/// Just enough protocol buffers to write an ONNX file.
mod proto {
    pub fn varint(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }

    pub fn int(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    pub fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
        [varint(field << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
    }
}
use proto::{bytes, int};

const FLOAT: u64 = 1;
const UINT8: u64 = 2;

fn value(name: &str, kind: u64, shape: &[u64]) -> Vec<u8> {
    let dims: Vec<u8> = shape.iter().flat_map(|&dim| bytes(1, &int(1, dim))).collect();
    let tensor = [int(1, kind), bytes(2, &dims)].concat();
    [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
}

fn detector() -> Vec<u8> {
    let outputs: [(&str, &[u64], &[f32]); 4] = [
        ("boxes", &[1, 3, 4], &[0.1, 0.2, 0.9, 0.8, 0.0, 0.5, 0.5, 1.5, 0.0, 0.0, 0.1, 0.1]),
        ("classes", &[1, 3], &[1.0, 0.0, 2.0]),
        ("scores", &[1, 3], &[0.75, 0.875, 0.25]),
        ("count", &[1], &[3.0]),
    ];
    let mut graph = bytes(2, b"detector");
    graph.extend(bytes(11, &value("image", UINT8, &[1, 64, 64, 3])));
    for (name, shape, numbers) in outputs {
        let constant = format!("{name}_constant");
        let dims: Vec<u8> = shape.iter().flat_map(|&dim| int(1, dim)).collect();
        let raw: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let tensor = [dims, int(2, FLOAT), bytes(8, constant.as_bytes()), bytes(9, &raw)].concat();
        let node =
            [bytes(1, constant.as_bytes()), bytes(2, name.as_bytes()), bytes(4, b"Identity")];
        graph.extend(bytes(1, &node.concat()));
        graph.extend(bytes(5, &tensor));
        graph.extend(bytes(12, &value(name, FLOAT, shape)));
    }
    let opset = bytes(8, &int(2, 17));
    [int(1, 8), bytes(7, &graph), opset].concat()
}

#[test]
fn things_are_found_named_and_framed() {
    let Some(hopper) = model("images/grace_hopper.bmp") else { return };
    let folder = folder();
    let path = file(&folder, "detector.onnx", &detector());
    let labels = file(&folder, "labels.txt", b"???\ncap\nperson\n");
    let out = folder.path().join("out");
    let words = ["run", &path, &hopper, "--labels", &labels, "--output-dir", out.to_str().unwrap()];
    let answer = kinglet(words.iter().chain(&["--json"])).json();
    assert_eq!(answer["task"], "detect");
    let boxes = answer["boxes"].as_array().unwrap();
    assert_eq!(boxes.len(), 2, "the third is below the threshold: {answer}");
    assert_eq!((&boxes[0]["label"], &boxes[0]["score"]), (&"cap".into(), &0.875.into()));
    assert_eq!(boxes[1]["label"], "person");
    // The picture is 512 by 600, and a box that leaves it is cut.
    let edges = |index: usize, edge: &str| boxes[index]["box"][edge].as_f64().unwrap().round();
    for (index, expected) in [(0, [256.0, 0.0, 512.0, 300.0]), (1, [102.0, 60.0, 410.0, 540.0])] {
        let found = ["left", "top", "right", "bottom"].map(|edge| edges(index, edge));
        assert_eq!(found, expected);
    }
    let overlay = Picture::open(answer["files"]["overlay"].as_str().unwrap().as_ref()).unwrap();
    let original = Picture::open(hopper.as_ref()).unwrap();
    let pixel = |picture: &Picture, x: usize, y: usize| {
        picture.rgb[(y * picture.width + x) * 3..][..3].to_vec()
    };
    assert_ne!(pixel(&overlay, 102, 400), pixel(&original, 102, 400), "on the person's frame");
    assert_eq!(pixel(&overlay, 200, 400), pixel(&original, 200, 400), "inside it");
    assert_eq!(answer["files"]["outputs"].as_array().unwrap().len(), 4);

    let text = kinglet(words.iter().chain(&["--quiet", "--threshold", "0.8"])).stdout;
    assert!(text.starts_with(" 87.5 %  cap  x 256 to 512, y 0 to 300\nwrote "), "{text}");
    let none = kinglet(["run", &path, &hopper, "--threshold", "0.9", "--quiet"]).stdout;
    assert_eq!(none, "nothing found\n");
}
