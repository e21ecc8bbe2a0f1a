//! A teacher beside a student: what it costs, what is learned of it, and what is refused.

use kinglet_graph::ops::rows::Linear;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{DType, Encoding, Graph, Interpreter, Tensor, ValueId, ValueType, interpret};
use kinglet_runtime::{Plan, PlanOptions};
use kinglet_testing::Rng;
use kinglet_tune::{
    Distillation, Losses, Optimiser, PROJECTION, Recipe, Student, TEACHER, cross_entropy,
    differentiate, distil, gradients,
};

const HOW: Distillation = Distillation { weight: 0.7, temperature: 2.0, features: 0.5, seed: 1 };

/// Layers of `widths` after an input of the first of them; its hidden values, and the weights.
struct Net {
    graph: Graph,
    hidden: Vec<ValueId>,
    weights: Vec<ValueId>,
}

fn net(rows: usize, widths: &[usize], seed: u64, encoding: Option<Encoding>) -> Net {
    let mut random = Rng::new(seed);
    let mut graph = Graph::new("net");
    let x = graph.add_input("x", ValueType::new(DType::F32, &[rows, widths[0]][..]));
    let (mut y, mut hidden, mut weights) = (x, Vec::new(), Vec::new());
    for (i, pair) in widths.windows(2).enumerate() {
        let spread = 1.5 / (pair[0] as f32).sqrt();
        let data = random.floats(pair[0] * pair[1], -spread, spread);
        let dims = [pair[1], pair[0]];
        let data = match encoding {
            Some(encoding) => Tensor::encode(encoding.into(), &dims, &data),
            None => Tensor::from_slice(&dims, &data),
        };
        let w = graph.add_constant(format!("w{i}"), data.unwrap());
        y = graph.apply(format!("y{i}"), Linear::default(), &[y, w], DType::F32);
        weights.push(w);
        if i + 2 < widths.len() {
            y = graph.apply(format!("h{i}"), Unary::Silu, &[y], DType::F32);
            hidden.push(y);
        }
    }
    graph.outputs = vec![y];
    Net { graph, hidden, weights }
}

/// The student with its own loss, of which the last row does not count.
fn student(net: &mut Net, rows: usize) -> (Student, Tensor) {
    let scores = net.graph.outputs[0];
    let input = net.graph.add_input("targets", ValueType::new(DType::I32, &[rows][..]));
    let loss = cross_entropy(&mut net.graph, scores, input, Some(-1)).unwrap();
    let mut targets: Vec<i32> = (0..rows as i32).map(|i| i % 3).collect();
    targets[rows - 1] = -1;
    let targets = Tensor::from_slice(&[rows], &targets).unwrap();
    (
        Student { loss, scores, targets: Some((input, -1)), share: None, features: Vec::new() },
        targets,
    )
}

fn planned(graph: &Graph) -> usize {
    Plan::new(graph, &PlanOptions { threads: 1, ..PlanOptions::default() })
        .unwrap()
        .memory()
        .planned
}

#[test]
fn a_teacher_takes_the_memory_of_inference() {
    const ROWS: usize = 64;
    const CLASSES: usize = 32;
    let wide = [32, 512, 512, 512, 512, 512, CLASSES];
    let teacher = net(ROWS, &wide, 2, Some(Encoding::Q8_0)).graph;
    let mut own = net(ROWS, &[32, 64, CLASSES], 1, None);
    let (student, _) = student(&mut own, ROWS);
    let recipe = Recipe::new(Optimiser::sgd());
    let alone = differentiate(&own.graph, student.loss, &own.weights, &recipe).unwrap();
    let x = own.graph.inputs[0];
    let made = distil(&mut own.graph, &student, &teacher, &[x], &HOW).unwrap();
    let goal = Losses { loss: made.loss, measure: student.loss };
    let training = differentiate(&own.graph, goal, &own.weights, &recipe).unwrap();

    let (step, inference) = (planned(&alone.graph), planned(&teacher));
    let (scores, hidden) = (4 * ROWS * CLASSES, 4 * ROWS * 512);
    let both = planned(&training.graph);
    // Its scores, and the gradient by them.
    let most = step.max(inference) + 3 * scores;
    assert!(both <= most, "{both} of {most}: a step {step}, inference {inference}");
    assert!(most < step + 4 * hidden, "the bound would hold if five hidden values were kept");

    let of_teacher: Vec<&str> = training
        .graph
        .nodes()
        .iter()
        .map(|n| n.name.as_str())
        .filter(|n| n.starts_with(TEACHER))
        .collect();
    assert_eq!(of_teacher.len(), teacher.nodes().len(), "{of_teacher:?}");
    assert_eq!(training.trained.len(), own.weights.len());
    // An evaluation asks nothing of it.
    assert_eq!(planned(&training.evaluation), planned(&alone.evaluation));
    let encoded =
        |graph: &Graph| graph.values().iter().filter(|v| v.ty.dtype.encoding().is_some()).count();
    assert_eq!((encoded(&training.graph), encoded(&training.evaluation)), (wide.len() - 1, 0));
}

/// A student and a teacher of other widths, with all that is learned of it.
fn both(how: &Distillation) -> (Graph, ValueId, Vec<ValueId>, Vec<Tensor>) {
    const ROWS: usize = 5;
    let mut teacher = net(ROWS, &[6, 7, 8, 3], 2, None);
    teacher.graph.outputs.extend(&teacher.hidden);
    let mut own = net(ROWS, &[6, 4, 8, 3], 1, None);
    let (mut student, targets) = student(&mut own, ROWS);
    student.features = own.hidden.clone();
    let x = own.graph.inputs[0];
    let made = distil(&mut own.graph, &student, &teacher.graph, &[x], how).unwrap();
    // The second hidden values are as wide as the teacher's.
    assert_eq!(made.projections.len(), 1);
    let projection = own.graph.value(made.projections[0]);
    assert!(projection.name.starts_with(PROJECTION));
    assert_eq!(projection.data.as_ref().unwrap().dims(), [7, 4]);
    let x = Tensor::from_slice(&[ROWS, 6], &Rng::new(9).floats(ROWS * 6, -1.0, 1.0)).unwrap();
    let trained = own.weights.iter().copied().chain(made.projections).collect();
    (own.graph, made.loss, trained, vec![x, targets])
}

#[test]
fn gradients_beside_a_teacher_agree_with_differences() {
    let (mut graph, loss, trained, batch) = both(&HOW);
    let found = gradients(&graph, loss, &trained).unwrap();
    let found = interpret(&found, &batch).unwrap();
    graph.outputs = vec![loss];
    for (v, gradient) in trained.iter().zip(&found[1..]) {
        let data = graph.value(*v).data.clone().unwrap();
        for (at, found) in gradient.slice::<f32>().unwrap().iter().enumerate() {
            let mut moved = |step: f32| {
                let mut data = data.clone();
                data.slice_mut::<f32>().unwrap()[at] += step;
                graph.set_constant(*v, data);
                f64::from(interpret(&graph, &batch).unwrap()[0].slice::<f32>().unwrap()[0])
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let off = (f64::from(*found) - difference).abs();
            assert!(
                off < 1e-3,
                "{}[{at}]: {found}, differences {difference}",
                graph.value(*v).name
            );
        }
        graph.set_constant(*v, data);
    }
}

#[test]
fn a_student_comes_near_its_teacher() {
    let (graph, loss, trained, batch) = both(&Distillation { weight: 1.0, ..HOW });
    let training =
        differentiate(&graph, loss, &trained, &Recipe::new(Optimiser::adam_w())).unwrap();
    let mut run = Interpreter::new(&training.graph).unwrap();
    let mut inputs = batch;
    inputs.push(Tensor::scalar(0.02f32));
    let losses: Vec<f32> = (0..150)
        .map(|_| run.run(&training.graph, &inputs).unwrap()[0].slice::<f32>().unwrap()[0])
        .collect();
    assert!(losses[149] < losses[0] / 3.0, "{} and then {}", losses[0], losses[149]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let teacher = net(5, &[6, 7, 3], 2, None).graph;
    let refused = |how: Distillation, teacher: &Graph| {
        let mut own = net(5, &[6, 4, 3], 1, None);
        let (student, _) = student(&mut own, 5);
        let x = own.graph.inputs[0];
        distil(&mut own.graph, &student, teacher, &[x], &how).unwrap_err().to_string()
    };
    assert!(refused(Distillation { weight: 1.5, ..HOW }, &teacher).contains("0 to 1"));
    assert!(refused(Distillation { temperature: 0.0, ..HOW }, &teacher).contains("above 0"));
    assert!(refused(HOW, &net(5, &[6, 7, 4], 2, None).graph).contains("alike"));
    let mut two = teacher.clone();
    two.outputs.push(two.outputs[0]);
    assert!(refused(HOW, &two).contains("2 values"));
    two.outputs = teacher.outputs.clone();
    two.inputs.push(two.inputs[0]);
    assert!(refused(HOW, &two).contains("has 2 inputs"));
}
