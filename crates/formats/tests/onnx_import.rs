//! Small ONNX models, written here field by field: what loads, and what is refused with which words.

use std::sync::Arc;

use kinglet_formats::onnx;
use kinglet_graph::{Bytes, Graph, GraphError, Tensor, interpret};

/// A protobuf message being written.
#[derive(Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut v: u64) {
        while v > 127 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }

    fn int(mut self, field: u64, v: i64) -> Self {
        self.varint(field << 3);
        self.varint(v as u64);
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u64, message: Message) -> Self {
        self.bytes(field, &message.0)
    }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let with = |m: Message, field, names: &[&str]| names.iter().fold(m, |m, n| m.text(field, n));
    with(with(Message::default(), 1, inputs), 2, outputs).text(3, "here").text(4, op)
}

fn int_attribute(name: &str, value: i64) -> Message {
    Message::default().text(1, name).int(3, value).int(20, 2)
}

fn graph_attribute(name: &str, graph: Message) -> Message {
    Message::default().text(1, name).message(6, graph).int(20, 5)
}

/// A value of `elem` type and no dimensions.
fn scalar(name: &str, elem: i64) -> Message {
    let tensor = Message::default().int(1, elem).message(2, Message::default());
    Message::default().text(1, name).message(2, Message::default().message(1, tensor))
}

/// A graph of floats x (and a truth value c) to y.
fn graph(nodes: &[Message]) -> Message {
    let graph = nodes.iter().fold(Message::default(), |g, n| g.message(1, n.clone()));
    graph.message(11, scalar("x", 1)).message(12, scalar("y", 1))
}

fn model(graph: Message, opset: i64) -> Message {
    Message::default().int(1, 8).message(8, Message::default().int(2, opset)).message(7, graph)
}

fn load(model: Message) -> Result<Graph, GraphError> {
    onnx::parse(Bytes::new(Arc::new(model.0)), None)
}

fn run(model: Message, inputs: &[Tensor]) -> f32 {
    let graph = load(model).unwrap();
    interpret(&graph, inputs).unwrap()[0].view().scalar().unwrap()
}

fn refused(model: Message) -> String {
    load(model).expect_err("it is refused").to_string()
}

#[test]
fn what_is_not_supported_names_the_node_and_the_op() {
    let message = refused(model(graph(&[node("Frobnicate", &["x"], &["y"])]), 18));
    assert_eq!(message, "node 'here' (Frobnicate): this op is not supported");

    let attribute = int_attribute("gamma", 1);
    let message = refused(model(graph(&[node("Abs", &["x"], &["y"]).message(5, attribute)]), 18));
    assert!(message.contains("'here' (Abs)") && message.contains("'gamma'"), "{message}");

    let message = refused(model(graph(&[node("Mish", &["x"], &["y"])]), 17));
    assert!(message.contains("supported from 18"), "{message}");

    let message = refused(model(graph(&[node("Abs", &["x"], &["y"])]), 1000));
    assert!(message.contains("operator set 1000"), "{message}");

    let message = refused(model(graph(&[node("Abs", &["z"], &["y"])]), 18));
    assert!(message.contains("uses 'z'"), "{message}");

    let circle = [node("Add", &["x", "b"], &["a"]), node("Abs", &["a"], &["b"])];
    let message = refused(model(graph(&circle), 18));
    assert!(message.contains("circle"), "{message}");
}

#[test]
fn nodes_may_stand_in_any_order() {
    let nodes = [node("Neg", &["a"], &["y"]), node("Abs", &["x"], &["a"])];
    assert_eq!(run(model(graph(&nodes), 18), &[Tensor::scalar(-2f32)]), -2.0);
}

#[test]
fn bodies_capture_what_stands_around_them() {
    let branch = |op: &str| {
        let node = node(op, &["a"], &["r"]);
        Message::default().message(1, node).message(12, scalar("r", 1))
    };
    let choice = node("If", &["c"], &["y"])
        .message(5, graph_attribute("then_branch", branch("Neg")))
        .message(5, graph_attribute("else_branch", branch("Abs")));
    let graph = graph(&[node("Sqrt", &["x"], &["a"]), choice]).message(11, scalar("c", 9));
    let truth = |c| Tensor::scalar(kinglet_graph::Bool::from(c));
    let at = |c| run(model(graph.clone(), 18), &[Tensor::scalar(4f32), truth(c)]);
    assert_eq!((at(true), at(false)), (-2.0, 2.0));
}

fn function(name: &str, nodes: &[Message]) -> Message {
    let head = Message::default().text(1, name).text(10, "own").text(4, "p").text(5, "q");
    let imports = head.message(9, Message::default().int(2, 18));
    let imports = imports.message(9, Message::default().text(1, "own").int(2, 1));
    nodes.iter().fold(imports, |f, n| f.message(7, n.clone()))
}

#[test]
fn functions_are_expanded_and_see_only_their_own_names() {
    let call = |name: &str| node(name, &["x"], &["y"]).text(7, "own");
    let twice = |f: Message| {
        let own = Message::default().text(1, "own").int(2, 1);
        model(graph(&[call("f")]), 18).message(8, own).message(25, f)
    };
    let square = function("f", &[node("Mul", &["p", "p"], &["q"])]);
    assert_eq!(run(twice(square), &[Tensor::scalar(3f32)]), 9.0);

    let message = refused(twice(function("f", &[node("Mul", &["p", "x"], &["q"])])));
    assert!(message.contains("uses 'x'"), "{message}");
}

#[test]
fn functions_that_multiply_are_refused_in_time() {
    let own = Message::default().text(1, "own").int(2, 1);
    let mut bomb = model(graph(&[node("f0", &["x"], &["y"]).text(7, "own")]), 18).message(8, own);
    for level in 0..20 {
        let calls: Vec<Message> = (0..30)
            .map(|i| {
                let output = if i == 0 { "q".to_string() } else { format!("q{i}") };
                node(&format!("f{}", level + 1), &["p"], &[&output]).text(7, "own")
            })
            .collect();
        bomb = bomb.message(25, function(&format!("f{level}"), &calls));
    }
    let last = function("f20", &[node("Identity", &["p"], &["q"])]);
    let message = refused(bomb.message(25, last));
    assert!(message.contains("memory"), "{message}");

    let circle = function("f", &[node("f", &["p"], &["q"]).text(7, "own")]);
    let own = Message::default().text(1, "own").int(2, 1);
    let call = node("f", &["x"], &["y"]).text(7, "own");
    let message = refused(model(graph(&[call]), 18).message(8, own).message(25, circle));
    assert!(message.contains("nest more than"), "{message}");
}

fn float_attribute(name: &str, value: f32) -> Message {
    let mut attribute = Message::default().text(1, name);
    attribute.varint(2 << 3 | 5);
    attribute.0.extend(value.to_le_bytes());
    attribute.int(20, 1)
}

fn ints_attribute(name: &str, values: &[i64]) -> Message {
    let attribute = values.iter().fold(Message::default().text(1, name), |a, v| a.int(8, *v));
    attribute.int(20, 7)
}

#[test]
fn random_numbers_follow_the_attributes_and_the_seed() {
    let drawn = |op: &str, attributes: &[Message]| -> Vec<f32> {
        let inputs: &[&str] = if op.ends_with("Like") { &["x"] } else { &[] };
        let node = node(op, inputs, &["y"]);
        let node = attributes.iter().fold(node, |n, a| n.message(5, a.clone()));
        let graph = load(model(graph(&[node]), 22)).unwrap();
        let x = Tensor::scalar(0f32);
        interpret(&graph, &[x]).unwrap()[0].view().slice().unwrap().to_vec()
    };
    let (shape, seed) = (ints_attribute("shape", &[20, 30]), float_attribute("seed", 7.5));
    let normal = [shape.clone(), float_attribute("mean", 3.0), float_attribute("scale", 0.5)];
    let (first, second) = (drawn("RandomNormal", &normal), drawn("RandomNormal", &normal));
    assert_eq!(first.len(), 600);
    assert_ne!(first, second);
    let mean = first.iter().sum::<f32>() / 600.0;
    let spread = (first.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 600.0).sqrt();
    assert!((mean - 3.0).abs() < 0.15 && (spread - 0.5).abs() < 0.1, "{mean} {spread}");

    let bounds = [float_attribute("low", -2.0), float_attribute("high", -1.0)];
    let uniform: Vec<Message> = bounds.iter().cloned().chain([shape, seed.clone()]).collect();
    let first = drawn("RandomUniform", &uniform);
    assert_eq!(first, drawn("RandomUniform", &uniform));
    assert!(first.iter().all(|v| (-2.0..-1.0).contains(v)));

    let like: Vec<Message> = bounds.into_iter().chain([seed]).collect();
    assert_eq!(drawn("RandomUniformLike", &like).len(), 1);
    assert_eq!(drawn("RandomNormalLike", &[]).len(), 1);

    let message = refused(model(graph(&[node("RandomNormal", &[], &["y"])]), 22));
    assert!(message.contains("'shape' is missing"), "{message}");
}

#[test]
fn classes_are_drawn_by_their_weights() {
    // Of one class, which is drawn whatever the seed.
    let axes = ints_attribute("shape", &[2, 1]);
    let weights = node("RandomNormal", &[], &["w"]).message(5, axes);
    let draw = node("Multinomial", &["w"], &["z"]).message(5, int_attribute("sample_size", 3));
    let real = node("Cast", &["z"], &["y"]).message(5, int_attribute("to", 1));
    let graph = load(model(graph(&[weights, draw, real]), 22)).unwrap();
    let out = interpret(&graph, &[Tensor::scalar(0f32)]).unwrap();
    assert_eq!(out[0].dims(), [2, 3]);
    assert_eq!(out[0].slice::<f32>().unwrap(), [0.0; 6]);
}
