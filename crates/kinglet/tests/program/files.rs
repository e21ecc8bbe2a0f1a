//! Files that the program writes are whole, or not there.

use std::fs;

use crate::common::{folder, kinglet};
use kinglet_testing::fixture;

fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_drawing_replaces_the_one_before() {
    let folder = folder();
    let model = fixture("onnx/dynamic_u8.onnx");
    let svg = folder.path().join("graph.svg");
    fs::write(&svg, "before").unwrap();
    let words = ["inspect", model.to_str().unwrap(), "--svg", svg.to_str().unwrap()];
    assert_eq!(kinglet(words).status, 0);
    assert!(fs::read_to_string(&svg).unwrap().ends_with("</svg>\n"));
    assert_eq!(names(folder.path()), ["graph.svg"]);
}

#[test]
fn a_place_that_cannot_be_taken_leaves_nothing_behind() {
    let folder = folder();
    let model = fixture("onnx/dynamic_u8.onnx");
    let x = kinglet_testing::Array::new(&[1, 40], &[0.5f32; 40]);
    let mut content = Vec::new();
    x.write(&mut content).unwrap();
    let x = crate::common::file(&folder, "x.npy", &content);
    let out = folder.path().join("out");
    let words = ["run", model.to_str().unwrap(), &x, "--output-dir", out.to_str().unwrap()];
    assert_eq!(kinglet(words).status, 0);
    let [output] = &names(&out)[..] else { panic!("one output") };
    // A folder stands where the output goes.
    fs::remove_file(out.join(output)).unwrap();
    fs::create_dir(out.join(output)).unwrap();
    let done = kinglet(words);
    assert_eq!(done.status, 1, "{}", done.stderr);
    assert!(done.stderr.contains("cannot write it"), "{}", done.stderr);
    assert_eq!(&names(&out)[..], std::slice::from_ref(output));
}

/// Where a file cannot grow, as on a full disk, the program ends and the file before stays.
#[cfg(unix)]
#[test]
fn a_write_that_is_cut_off_leaves_the_file_before() {
    let folder = folder();
    let model = fixture("onnx/convnet.onnx");
    let svg = folder.path().join("graph.svg");
    fs::write(&svg, "before").unwrap();
    let done = std::process::Command::new("sh")
        .args(["-c", "ulimit -f 4; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_kinglet"), "inspect"])
        .args([model.as_os_str(), "--svg".as_ref(), svg.as_os_str()])
        .output()
        .unwrap();
    assert!(!done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(fs::read_to_string(&svg).unwrap(), "before");
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_is_written_to_as_it_is() {
    let model = fixture("onnx/dynamic_u8.onnx");
    let words = |to| ["inspect", model.to_str().unwrap(), "--quiet", "--svg", to];
    let full = kinglet(words("/dev/full"));
    assert_eq!(full.status, 1, "{}", full.stderr);
    assert!(full.stderr.contains("/dev/full: cannot write the drawing"), "{}", full.stderr);
    let message = kinglet(words("/no/such/folder/graph.svg")).refusal();
    assert!(message.contains("cannot write the drawing"), "{message}");
    assert_eq!(kinglet(words("/dev/null")).status, 0);
    use std::os::unix::fs::FileTypeExt;
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}
