//! Nets that are no language models: samples of each kind, what is learned of them, and that the written
//! file computes what was trained.

use kinglet_graph::{DType, Tensor};
use kinglet_npy::{Array, write_npz};
use kinglet_runtime::Pool;
use kinglet_tasks::{Channels, Fit, Layout, Picture, Preprocess, Values};
use kinglet_testing::{Rng, fixture, model};
use kinglet_tune::data::{
    Arrays, Goal, Images, Sampled, Samples, Source, Target, Windows, WindowsOptions,
};
use kinglet_tune::net::{Input, Net};
use kinglet_tune::{Optimiser, Recipe, Trainer, differentiate};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn input(name: &str, dims: &[usize]) -> Input {
    Input { name: name.into(), dtype: DType::F32, dims: dims.into() }
}

/// Trains `net` on all of `samples`; the mean loss and the share that is right, before and after.
fn train(net: &Net, samples: &Arc<dyn Samples>, steps: usize, rate: f64) -> (Trained, [Seen; 2]) {
    const BATCH: usize = 8;
    let objective = net.objective(&samples.goal(), BATCH).unwrap();
    let recipe = Recipe { clip: Some(1.0), ..Recipe::new(Optimiser::adam_w()) };
    let training =
        differentiate(&objective.graph, objective.loss, &objective.weights, &recipe).unwrap();
    let pool = Arc::new(Pool::new(2));
    let mut trainer = Trainer::new(training, &objective.shapes, &pool, true).unwrap();
    let all: Vec<u32> = (0..samples.len() as u32).collect();
    let source = Sampled::new(samples.clone(), all, BATCH, 1, false);
    let before = seen(&mut trainer, &source);
    let (mut number, mut done) = (0, 0);
    while done < steps {
        let epoch = source.epoch(number);
        for i in 0..epoch.len().min(steps - done) {
            trainer.step(&source.batch(&epoch, i).unwrap(), rate).unwrap();
            done += 1;
        }
        number += 1;
    }
    let after = seen(&mut trainer, &source);
    let trained = trainer
        .with_trained(|all| all.iter().map(|(n, t)| (n.to_string(), (*t).clone())).collect());
    (trained, [before, after])
}

type Trained = Vec<(String, Tensor)>;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    loss: f64,
    right: Option<f64>,
}

fn seen(trainer: &mut Trainer, source: &Sampled) -> Seen {
    let epoch = source.epoch(0);
    let (mut loss, mut right, mut counted) = (0.0, None, 0);
    for i in 0..epoch.len() {
        let batch = source.batch(&epoch, i).unwrap().remove(0);
        let own = trainer.evaluate(&batch).unwrap();
        loss += own.loss;
        right = own.met.map(|met| right.unwrap_or(0.0) + met);
        counted += batch.counted;
    }
    let all = counted as f64;
    Seen { loss: loss / all, right: right.map(|right| right / all) }
}

/// An archive of samples of `classes`, each around a point of its own within ±`wide`.
fn archive(folder: &Path, dims: &[usize], wide: f32, classes: usize, count: usize) -> PathBuf {
    let mut rng = Rng::new(7);
    let each: usize = dims.iter().product();
    let points: Vec<Vec<f32>> = (0..classes).map(|_| rng.floats(each, -wide, wide)).collect();
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for i in 0..count {
        let noise = rng.floats(each, -0.3 * wide, 0.3 * wide);
        x.extend(points[i % classes].iter().zip(noise).map(|(point, noise)| point + noise));
        y.push((i % classes) as i64);
    }
    let shape: Vec<usize> = [count].iter().chain(dims).copied().collect();
    let path = folder.join("samples.npz");
    let (x, y) = (Array::new(&shape, &x), Array::new(&[count], &y));
    write_npz(File::create(&path).unwrap(), [("x", &x), ("y", &y)]).unwrap();
    path
}

#[test]
fn a_tflite_net_learns_and_is_written() {
    let Some(path) = model("tiny/pretrainedResnet.tflite") else { return };
    let folder = tempfile::tempdir().unwrap();
    let net = Net::open(&path).unwrap();
    let classes = net.classes().unwrap();
    let inputs = net.inputs().unwrap();
    let file = archive(folder.path(), &inputs[0].dims, 100.0, classes, 30);
    let samples: Arc<dyn Samples> = Arc::new(Arrays::open(&file, &inputs).unwrap());
    assert_eq!(samples.goal(), Goal::Classes(classes));
    let (trained, [before, after]) = train(&net, &samples, 40, 2e-3);
    assert!(after.loss < before.loss / 2.0, "{before:?} {after:?}");
    assert!(after.right > Some(0.8) && after.right > before.right, "{before:?} {after:?}");
    let out = folder.path().join("out.tflite");
    net.write(trained, &out).unwrap();
    // The file computes what was trained, and is of the same size.
    let (_, [again, _]) = train(&Net::open(&out).unwrap(), &samples, 0, 0.0);
    assert!((again.loss - after.loss).abs() < 1e-5, "{again:?} {after:?}");
    assert_eq!(std::fs::metadata(&out).unwrap().len(), std::fs::metadata(&path).unwrap().len());
    // What could not be written is refused before it is trained.
    let mut nameless = net.objective(&samples.goal(), 1).unwrap();
    net.check_output(&nameless).unwrap();
    let first = nameless.weights[0];
    nameless.graph.value_mut(first).name = "elsewhere".into();
    let error = net.check_output(&nameless).unwrap_err().to_string();
    assert!(error.contains("'elsewhere'"), "{error}");
    let error = net.with_classes(classes + 1).unwrap_err().to_string();
    assert!(error.contains("ONNX"), "{error}");
}

#[test]
fn an_onnx_net_gets_other_classes() {
    let path = fixture("../../tune/tests/pytorch/mobilenet.onnx");
    let folder = tempfile::tempdir().unwrap();
    let net = Net::open(&path).unwrap();
    let net = net.with_classes(3).unwrap();
    let inputs = net.inputs().unwrap();
    let file = archive(folder.path(), &inputs[0].dims, 1.0, 3, 24);
    let samples: Arc<dyn Samples> = Arc::new(Arrays::open(&file, &inputs).unwrap());
    let (trained, [before, after]) = train(&net, &samples, 24, 1e-2);
    // Scores of zero are surprised by ln 3.
    assert!((before.loss - 3f64.ln()).abs() < 1e-5, "{before:?}");
    assert!(after.loss < 0.5, "{after:?}");
    // Of normalisation the factors are learned, and not what it gathered.
    let names: Vec<&str> = trained.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"classes.bias") && names.contains(&"head_norm.weight"), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("running")), "{names:?}");
    let out = folder.path().join("out.onnx");
    net.write(trained, &out).unwrap();
    let again = Net::open(&out).unwrap();
    assert_eq!(again.classes().unwrap(), 3);
    let (_, [again, _]) = train(&again, &samples, 0, 0.0);
    assert!((again.loss - after.loss).abs() < 1e-5, "{again:?} {after:?}");
}

#[test]
fn values_are_learned_and_what_is_missing_in_a_batch_does_not_count() {
    let Some(path) = model("tiny/hello_world_float.tflite") else { return };
    let folder = tempfile::tempdir().unwrap();
    let x: Vec<f32> = (0..13).map(|i| i as f32 / 2.0).collect();
    let y: Vec<f32> = x.iter().map(|x| x.sin()).collect();
    let file = folder.path().join("sine.npz");
    let (x, y) = (Array::new(&[13, 1], &x), Array::new(&[13, 1], &y));
    write_npz(File::create(&file).unwrap(), [("x", &x), ("y", &y)]).unwrap();
    let net = Net::open(&path).unwrap();
    let samples: Arc<dyn Samples> = Arc::new(Arrays::open(&file, &net.inputs().unwrap()).unwrap());
    assert_eq!(samples.goal(), Goal::Values(1));
    let (_, [before, after]) = train(&net, &samples, 30, 1e-3);
    // It was trained on the sine: it knows it already, by less than a tenth of its mean square.
    assert!(before.loss < 0.05 && after.loss < before.loss, "{before:?} {after:?}");
    assert_eq!(before.right, None);
    let error = net.objective(&Goal::Classes(4), 1).unwrap_err().to_string();
    assert!(error.contains("1 numbers a sample") && error.contains("4 classes"), "{error}");
}

#[test]
fn folders_of_pictures_are_classes() {
    let folder = tempfile::tempdir().unwrap();
    let write = |class: &str, name: &str, picture: &[u8]| {
        let class = folder.path().join(class);
        std::fs::create_dir_all(&class).unwrap();
        std::fs::write(class.join(name), picture).unwrap();
    };
    // Dark on the left.
    let mut half = Picture::filled(4, 2, [255; 3]);
    half.rgb[..6].fill(0);
    half.rgb[12..18].fill(0);
    write("moon", "a.png", &half.png());
    write("sun", "b.png", &Picture::filled(4, 2, [255; 3]).png());
    write("sun", "c.png", b"no picture");
    write("sun", "about.txt", b"not looked at");
    let look = Preprocess {
        width: 4,
        height: 2,
        channels: Channels::Grey,
        layout: Layout::Nhwc,
        fit: Fit::Stretch,
        values: Values::UNIT,
    };
    let folders = [folder.path().to_path_buf()];
    let open = |most| {
        Images::open(&folders, look.clone(), [2, 4, 1].as_slice().into(), most, &mut |_, _| {})
    };
    let error = open(0).unwrap_err().to_string();
    assert!(error.contains("c.png") && error.contains("--bad-lines"), "{error}");
    let images = open(1).unwrap();
    assert_eq!((images.len(), images.goal()), (2, Goal::Classes(2)));
    assert_eq!(images.names(), ["moon", "sun"]);
    assert_eq!(images.bad().len(), 1);
    let of = |chance| {
        let sample = images.sample(0, chance).unwrap();
        assert_eq!(sample.target, Target::Class(0));
        sample.inputs[0].slice::<f32>().unwrap()[..4].to_vec()
    };
    assert_eq!(of(None), [0.0, 0.0, 1.0, 1.0]);
    assert_eq!((of(Some(0)), of(Some(1))), (of(None), vec![1.0, 1.0, 0.0, 0.0]));
}

#[test]
fn tables_are_cut_into_windows() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("walk.csv");
    let rows = "\
        x,label,y\n1,up,10\n2,up,20\n3,up,30\n4,up,40\n5,up,50\n6,down,60\n7,down,70\n\n8,down,?\n\
        9,down,90\n10,down,100\n";
    std::fs::write(&file, rows).unwrap();
    let files = [file];
    let open = |dims: &[usize], stride, most| {
        let options = WindowsOptions { label: None, stride };
        Windows::open(&files, &input("x", dims), &options, most)
    };
    let error = open(&[2, 2], None, 0).unwrap_err().to_string();
    assert!(error.contains("line 10") && error.contains("'?'"), "{error}");
    let all = |windows: &Windows| -> Vec<(u32, Vec<f32>)> {
        (0..windows.len())
            .map(|i| {
                let sample = windows.sample(i, None).unwrap();
                let Target::Class(class) = sample.target else { panic!("no class") };
                (class, sample.inputs[0].slice().unwrap().to_vec())
            })
            .collect()
    };
    // Rows on both sides of a bad one do not follow each other, and neither do those of two labels.
    let windows = open(&[2, 2], None, 1).unwrap();
    assert_eq!(windows.names(), ["down", "up"]);
    let wanted = [
        (1, vec![1.0, 10.0, 2.0, 20.0]),
        (1, vec![3.0, 30.0, 4.0, 40.0]),
        (0, vec![6.0, 60.0, 7.0, 70.0]),
        (0, vec![9.0, 90.0, 10.0, 100.0]),
    ];
    assert_eq!(all(&windows), wanted);
    assert_eq!(open(&[2, 2], Some(1), 1).unwrap().len(), 6);
    // A net that takes a sensor's moments together.
    let by_sensor = all(&open(&[2, 3], None, 1).unwrap());
    assert_eq!(by_sensor, [(1, vec![1.0, 2.0, 3.0, 10.0, 20.0, 30.0])]);
    let error = open(&[3], None, 1).unwrap_err().to_string();
    assert!(error.contains("no whole number of rows"), "{error}");
    let error = open(&[6, 2], None, 1).unwrap_err().to_string();
    assert!(error.contains("no 6 rows"), "{error}");
}

#[test]
fn damaged_archives_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    let x = Array::new(&[2, 3], &[0f32; 6]);
    let open = |arrays: &[(&str, &Array)], dims: &[usize]| {
        write_npz(File::create(&path).unwrap(), arrays.iter().copied()).unwrap();
        Arrays::open(&path, &[input("in", dims)]).map(drop).unwrap_err().to_string()
    };
    let y = Array::new(&[2], &[0i64, -1]);
    assert!(open(&[("x", &x)], &[3]).contains("no targets"));
    assert!(open(&[("y", &y)], &[3]).contains("nothing for input 'in'"));
    assert!(open(&[("x", &x), ("y", &y)], &[4]).contains("2 samples of [4] are wanted"));
    assert!(open(&[("x", &x), ("y", &y)], &[3]).contains("sample 1 is -1, which is no class"));
    let y = Array::new(&[2], &[0.5f32, f32::NAN]);
    assert!(open(&[("x", &x), ("y", &y)], &[3]).contains("sample 1 is not finite"));
    std::fs::write(&path, b"PK\x03\x04 and no more").unwrap();
    let error = Arrays::open(&path, &[input("in", &[3])]).unwrap_err().to_string();
    assert!(error.contains("a.npz"), "{error}");
}
