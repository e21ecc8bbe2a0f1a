//! What a training graph costs, and that a plan runs it as the interpreter does.

use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::ops::conv::{Conv, ConvWeightGradient};
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::norm::RmsNorm;
use kinglet_graph::ops::pool::{GlobalPool, PoolKind};
use kinglet_graph::ops::reshape::Flatten;
use kinglet_graph::ops::softmax::Softmax;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::ops::window::{Layout, Padding, WeightLayout, Window};
use kinglet_graph::{
    DType, Dim, Dims, Encoding, Graph, Interpreter, Op, Tensor, ValueId, ValueType, interpret,
};
use kinglet_runtime::{Plan, PlanOptions};
use kinglet_tune::{
    Optimiser, Recipe, Training, cross_entropy, cross_entropy_sum, differentiate, gradients,
    mean_squared_error,
};

fn numbers(dims: &[usize], seed: &mut u64) -> Tensor {
    let all: Vec<f32> = (0..dims.iter().product())
        .map(|_| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (*seed >> 40) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect();
    Tensor::from_slice(dims, &all).unwrap()
}

/// Four convolutions of which every second is by channels, a head, and a loss.
struct Net {
    graph: Graph,
    loss: ValueId,
    weights: Vec<ValueId>,
    biases: Vec<ValueId>,
    batch: Vec<Tensor>,
}

fn net() -> Net {
    const C: usize = 8;
    let (mut graph, mut seed) = (Graph::new("net"), 1);
    let mut x = graph.add_input("x", ValueType::new(DType::F32, &[3, 12, 10, C][..]));
    let targets = graph.add_input("targets", ValueType::new(DType::I32, &[3][..]));
    let (mut weights, mut biases) = (Vec::new(), Vec::new());
    for layer in 0..4 {
        let depthwise = layer % 2 == 1;
        let dims = if depthwise { [1, 3, 3, C] } else { [C, 3, 3, C] };
        weights.push(graph.add_constant(format!("w{layer}"), numbers(&dims, &mut seed)));
        biases.push(graph.add_constant(format!("b{layer}"), numbers(&[C], &mut seed)));
        let (groups, weight_layout) = match depthwise {
            true => (C, WeightLayout::InSpatialOut),
            false => (1, WeightLayout::OutSpatialIn),
        };
        let conv = Conv {
            window: Window {
                stride: vec![1 + layer % 2; 2],
                dilation: vec![1; 2],
                padding: Padding::SameUpper,
            },
            groups,
            layout: Layout::ChannelsLast,
            weight_layout,
            activation: Activation::Relu6,
        };
        x = graph.apply(
            format!("conv{layer}"),
            conv,
            &[x, weights[layer], biases[layer]],
            DType::F32,
        );
    }
    let kind = PoolKind::Average { include_padding: false };
    let pool = GlobalPool { kind, layout: Layout::ChannelsLast };
    x = graph.apply("pool", pool, &[x], DType::F32);
    x = graph.apply("flat", Flatten { axis: 1 }, &[x], DType::F32);
    weights.push(graph.add_constant("head", numbers(&[C, 5], &mut seed)));
    x = graph.apply("logits", MatMul::new(), &[x, weights[4]], DType::F32);
    let loss = cross_entropy(&mut graph, x, targets, None).unwrap();
    let batch =
        vec![numbers(&[3, 12, 10, C], &mut seed), Tensor::from_slice(&[3], &[0i32, 4, 2]).unwrap()];
    Net { graph, loss, weights, biases, batch }
}

fn count<T: Op>(graph: &Graph) -> usize {
    graph.nodes().iter().filter(|n| n.op.is::<T>()).count()
}

fn plan(training: &Training) -> Plan {
    Plan::new(&training.graph, &PlanOptions { threads: 2, ..PlanOptions::default() }).unwrap()
}

fn set(plan: &mut Plan, batch: &[Tensor], rate: f32) {
    let rate = Tensor::scalar(rate);
    for (i, tensor) in batch.iter().chain([&rate]).enumerate() {
        plan.set_input(i, &tensor.view()).unwrap();
    }
}

/// Convolutions of single pixels by trained weights in every layout, channels first and last.
#[test]
fn convolutions_of_single_pixels_are_products() {
    use WeightLayout::*;
    for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
        for weight_layout in [OutInSpatial, InOutSpatial, OutSpatialIn, InSpatialOut, SpatialInOut]
        {
            let (mut graph, mut seed) = (Graph::new("pixels"), 5);
            let image = |c| layout.join(2, c, &[4, 3]);
            let dims = image(6);
            let x = graph.add_input("x", ValueType::new(DType::F32, &dims[..]));
            let mut trained = Vec::new();
            let mut y = x;
            for (i, (from, to)) in [(6, 5), (5, 7)].into_iter().enumerate() {
                let dims = weight_layout.join(to, from, &[1, 1]);
                let w = graph.add_constant(format!("w{i}"), numbers(&dims, &mut seed));
                let bias = graph.add_constant(format!("b{i}"), numbers(&[to], &mut seed));
                let conv = Conv {
                    window: Window::unit(2),
                    groups: 1,
                    layout,
                    weight_layout,
                    activation: Activation::Relu,
                };
                y = graph.apply(format!("conv{i}"), conv, &[y, w, bias], DType::F32);
                trained.extend([w, bias]);
            }
            let want = graph.add_constant("", numbers(&image(7), &mut seed));
            let loss = mean_squared_error(&mut graph, y, want).unwrap();
            let recipe = Recipe::new(Optimiser::sgd());
            let training = differentiate(&graph, loss, &trained, &recipe).unwrap();
            let mut plan = plan(&training);
            let slow: Vec<_> = plan
                .steps()
                .filter(|s| s.kernel == "reference")
                .map(|s| plan.graph().node(s.node).place())
                .filter(|place| place.contains("Conv"))
                .collect();
            assert!(slow.is_empty(), "{layout:?}, {weight_layout:?}: {slow:?}");
            let batch = [numbers(&dims, &mut seed)];
            set(&mut plan, &batch, 0.1);
            plan.run().unwrap();
            let mut interpreter = Interpreter::new(&training.graph).unwrap();
            let inputs = [batch[0].clone(), Tensor::scalar(0.1f32)];
            interpreter.run(&training.graph, &inputs).unwrap();
            let states = interpreter.into_states();
            let found = plan.shared().with_states(|states| states.to_vec());
            for (found, want) in found.iter().zip(&states) {
                let pairs = found.slice::<f32>().unwrap().iter().zip(want.slice::<f32>().unwrap());
                assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-6), "{layout:?}");
            }
        }
    }
}

#[test]
fn a_plan_trains_as_the_interpreter_does() {
    let net = net();
    let trained: Vec<ValueId> = [&net.weights[..], &net.biases].concat();
    let optimiser = Optimiser::Sgd { momentum: 0.9, nesterov: false, weight_decay: 1e-3 };
    let recipe = Recipe { clip: Some(1.0), ..Recipe::new(optimiser) };
    let training = differentiate(&net.graph, net.loss, &trained, &recipe).unwrap();
    let mut interpreter = Interpreter::new(&training.graph).unwrap();
    let mut plan = plan(&training);
    let memory = plan.memory();
    assert!(memory.dynamic_values == 0 && memory.planned >= memory.lower_bound, "{memory:?}");
    for step in 0..5 {
        set(&mut plan, &net.batch, 0.1);
        plan.run().unwrap();
        let mut inputs = net.batch.clone();
        inputs.push(Tensor::scalar(0.1f32));
        let outputs = interpreter.run(&training.graph, &inputs).unwrap();
        for (i, want) in outputs.iter().enumerate() {
            let found: f32 = plan.output(i).scalar().unwrap();
            let want: f32 = want.view().scalar().unwrap();
            assert!((found - want).abs() < 1e-5, "step {step}, output {i}: {found}, not {want}");
        }
    }
    let states = interpreter.into_states();
    let found = plan.shared().with_states(|states| states.to_vec());
    for trained in &training.trained {
        let [found, want] = [&found, &states].map(|s| s[trained.state.index()].clone());
        for (a, b) in found.slice::<f32>().unwrap().iter().zip(want.slice::<f32>().unwrap()) {
            assert!((a - b).abs() < 1e-5, "{}: {a}, not {b}", trained.name);
        }
    }
}

#[test]
fn what_is_not_trained_costs_nothing() {
    let net = net();
    let recipe = Recipe::new(Optimiser::adam_w());
    let step = |trained: &[ValueId]| {
        let training = differentiate(&net.graph, net.loss, trained, &recipe).unwrap();
        let memory = plan(&training).memory();
        (training.graph, memory)
    };
    let all: Vec<ValueId> = [&net.weights[..], &net.biases].concat();
    let (all_graph, all_memory) = step(&all);
    let (bias_graph, bias_memory) = step(&net.biases);
    let (head_graph, head_memory) = step(&net.weights[4..]);
    let (last_graph, _) = step(&net.biases[3..]);
    // Each convolution has one backward product for its weights, and one for its input but the first.
    assert_eq!([count::<ConvWeightGradient>(&all_graph), transposed(&all_graph)], [4, 3]);
    assert_eq!([count::<ConvWeightGradient>(&bias_graph), transposed(&bias_graph)], [0, 3]);
    assert_eq!([count::<ConvWeightGradient>(&head_graph), transposed(&head_graph)], [0, 0]);
    assert_eq!([count::<ConvWeightGradient>(&last_graph), transposed(&last_graph)], [0, 0]);
    // The head alone: the forward net keeps nothing, and the peak is that of inference.
    let forward = Plan::new(&net.graph_of_loss(), &PlanOptions::default()).unwrap().memory();
    assert!(head_memory.planned < forward.planned + 4096, "{head_memory:?}, {forward:?}");
    assert!(bias_memory.planned < all_memory.planned, "{bias_memory:?}, {all_memory:?}");
    assert!(head_memory.state < bias_memory.state + 8 * 5 * 4 * 3);
    assert!(bias_memory.state < all_memory.state / 10);
}

fn transposed(graph: &Graph) -> usize {
    count::<kinglet_graph::ops::conv::ConvTranspose>(graph)
}

impl Net {
    fn graph_of_loss(&self) -> Graph {
        let mut graph = self.graph.clone();
        graph.outputs = vec![self.loss];
        graph
    }
}

/// Of gradients that need not all be there for clipping, each is gone before the next is computed.
#[test]
fn gradients_do_not_wait_for_each_other() {
    const WIDTH: usize = 64;
    let (mut graph, mut seed) = (Graph::new("deep"), 1);
    let mut x = graph.add_input("x", ValueType::new(DType::F32, &[1, WIDTH][..]));
    let input = x;
    let mut trained = Vec::new();
    for layer in 0..8 {
        let w = graph.add_constant(format!("w{layer}"), numbers(&[WIDTH, WIDTH], &mut seed));
        x = graph.apply("", MatMul::new(), &[x, w], DType::F32);
        x = graph.apply("", Unary::Tanh, &[x], DType::F32);
        trained.push(w);
    }
    let loss = mean_squared_error(&mut graph, x, input).unwrap();
    let planned = |clip| {
        let recipe = Recipe { clip, ..Recipe::new(Optimiser::sgd()) };
        plan(&differentiate(&graph, loss, &trained, &recipe).unwrap()).memory().planned
    };
    let matrix = WIDTH * WIDTH * 4;
    assert!(planned(None) < 4 * matrix, "{}", planned(None));
    assert!(planned(Some(1.0)) > 7 * matrix, "{}", planned(Some(1.0)));
}

/// A graph of symbolic sizes is differentiated once; plans for several sizes share what is trained.
#[test]
fn sizes_may_be_symbols() {
    let (mut graph, mut seed) = (Graph::new("symbols"), 3);
    let n = || Dim::symbol("n");
    let x = graph.add_input("x", ValueType::new(DType::F32, vec![n(), 3.into(), 6.into()]));
    let w = graph.add_constant("w", numbers(&[6, 5], &mut seed));
    let bias = graph.add_constant("bias", numbers(&[5], &mut seed));
    let scale = graph.add_constant("scale", numbers(&[5], &mut seed));
    let y = graph.apply("y", MatMul::new(), &[x, w, bias], DType::F32);
    let y = graph.apply("normed", RmsNorm { axis: -1, epsilon: 1e-3 }, &[y, scale], DType::F32);
    let y = graph.apply("share", Softmax::new(-1), &[y], DType::F32);
    let want = graph.add_constant("want", numbers(&[5], &mut seed));
    let loss = mean_squared_error(&mut graph, y, want).unwrap();
    let trained = [w, bias, scale];
    let symbolic = gradients(&graph, loss, &trained).unwrap();
    let training =
        differentiate(&graph, loss, &trained, &Recipe::new(Optimiser::adam_w())).unwrap();
    let mut shared = None;
    let mut losses = Vec::new();
    for n in [2usize, 5, 2] {
        let x = numbers(&[n, 3, 6], &mut 9);
        let dims = Dims::from_slice(&[n, 3, 6]);
        let mut sized = graph.clone();
        kinglet_graph::set_input_shapes(&mut sized, std::slice::from_ref(&dims)).unwrap();
        let sized = gradients(&sized, loss, &trained).unwrap();
        let found = interpret(&symbolic, std::slice::from_ref(&x)).unwrap();
        let want = interpret(&sized, std::slice::from_ref(&x)).unwrap();
        for (found, want) in found.iter().zip(&want) {
            assert_eq!(found.slice::<f32>().unwrap(), want.slice::<f32>().unwrap());
        }
        let options = PlanOptions {
            input_shapes: Some(vec![dims, Dims::new()]),
            threads: 1,
            shared: shared.clone(),
            ..PlanOptions::default()
        };
        let mut plan = Plan::new(&training.graph, &options).unwrap();
        set(&mut plan, &[x], 0.05);
        plan.run().unwrap();
        losses.push(plan.output(0).scalar::<f32>().unwrap());
        shared = Some(plan.shared().clone());
    }
    assert!(losses[2] < losses[0], "{losses:?}");
}

#[test]
fn stored_weights_are_trained_in_f32() {
    let mut graph = Graph::new("stored");
    let x = graph.add_input("x", ValueType::new(DType::F32, &[2, 32][..]));
    let data: Vec<f32> = (0..3 * 32).map(|i| (i % 7) as f32 - 3.0).collect();
    let encode = |dtype| Tensor::encode(dtype, &[3, 32], &data).unwrap();
    for dtype in [DType::F16, DType::BF16, Encoding::Q8_0.into()] {
        let mut graph = graph.clone();
        let w = graph.add_constant("w", encode(dtype));
        let linear = kinglet_graph::ops::rows::Linear::default();
        let y = graph.apply("y", linear, &[x, w], DType::F32);
        let zero = graph.add_constant("", Tensor::scalar(0f32));
        let loss = mean_squared_error(&mut graph, y, zero).unwrap();
        let training = differentiate(&graph, loss, &[w], &Recipe::new(Optimiser::sgd())).unwrap();
        let state = training.graph.state(training.trained[0].state);
        assert_eq!((state.ty.dtype, state.name.as_str()), (DType::F32, "w"));
        let held = state.initial.as_ref().unwrap().slice::<f32>().unwrap();
        assert!(held.iter().zip(&data).all(|(a, b)| (a - b).abs() < 0.05), "{dtype}");
    }
}

#[test]
fn what_cannot_be_trained_is_said() {
    let net = net();
    let recipe = Recipe::new(Optimiser::sgd());
    let error = |graph: &Graph, loss, of: &[ValueId]| {
        differentiate(graph, loss, of, &recipe).unwrap_err().to_string()
    };
    let x = net.graph.inputs[0];
    assert!(error(&net.graph, net.loss, &[]).contains("name a tensor"));
    assert!(error(&net.graph, net.loss, &[x]).contains("'x': is no constant"));
    let twice = [net.weights[0]; 2];
    assert!(error(&net.graph, net.loss, &twice).contains("'w0': is to be trained twice"));
    let logits = net.graph.nodes().iter().find(|n| n.name == "logits").unwrap().outputs[0];
    assert!(error(&net.graph, logits, &net.weights[..1]).contains("a loss is one float"));
    let mut graph = net.graph.clone();
    let other = graph.add_constant("other", Tensor::scalar(1f32));
    assert!(error(&graph, net.loss, &[other]).contains("'other': has no gradient"));
    // An op without a rule is named, and so is its node: also where all that it reads is trained, and
    // small enough to be folded as a constant.
    let mut graph = Graph::new("");
    let w = graph.add_constant("w", numbers(&[2, 2], &mut 1));
    let det = kinglet_graph::ops::det::Det;
    let loss = graph.apply("volume", det, &[w], DType::F32);
    let found = error(&graph, loss, &[w]);
    assert!(found.contains("'volume' (Det)") && found.contains("no gradient rule"), "{found}");
}

/// A batch in two parts changes what one of both would, and an evaluation changes nothing.
#[test]
fn gradients_may_come_in_parts() {
    let line = |n: usize| {
        let (mut graph, mut seed) = (Graph::new("parts"), 5);
        let x = graph.add_input("x", ValueType::new(DType::F32, &[n, 6][..]));
        let targets = graph.add_input("targets", ValueType::new(DType::I32, &[n][..]));
        let share = graph.add_input("share", ValueType::new(DType::F32, Dims::new().as_slice()));
        let w = graph.add_constant("w", numbers(&[6, 4], &mut seed));
        let b = graph.add_constant("b", numbers(&[4], &mut seed));
        let y = graph.apply("y", MatMul::new(), &[x, w, b], DType::F32);
        let sum = cross_entropy_sum(&mut graph, y, targets, Some(-100)).unwrap();
        let mul = kinglet_graph::ops::binary::Binary::new(BinaryFn::Mul);
        let loss = graph.apply("loss", mul, &[sum, share], DType::F32);
        (graph, loss, [w, b])
    };
    let x = numbers(&[6, 6], &mut 11);
    let targets = [0i32, 3, -100, 2, 1, -100];
    let part = |from: usize, n: usize| {
        let rows = &x.slice::<f32>().unwrap()[from * 6..(from + n) * 6];
        vec![
            Tensor::from_slice(&[n, 6], rows).unwrap(),
            Tensor::from_slice(&[n], &targets[from..from + n]).unwrap(),
            Tensor::scalar(0.25f32),
        ]
    };
    let inputs = |plan: &mut Plan, batch: &[Tensor]| {
        for (i, tensor) in batch.iter().enumerate() {
            plan.set_input(i, &tensor.view()).unwrap();
        }
        plan.run().unwrap();
        plan.output(0).scalar::<f32>().unwrap()
    };
    for clip in [None, Some(0.05)] {
        let recipe = Recipe { clip, ..Recipe::new(Optimiser::adam_w()) };
        let (graph, loss, trained) = line(6);
        let whole = differentiate(&graph, loss, &trained, &recipe).unwrap();
        assert!(whole.update.is_none());
        let mut at_once = plan(&whole);
        let (graph, loss, trained) = line(3);
        let recipe = Recipe { accumulate: true, ..recipe };
        let parts = differentiate(&graph, loss, &trained, &recipe).unwrap();
        let mut part_plan = plan(&parts);
        let sharing = |graph: &Graph| {
            let shared = Some(part_plan.shared().clone());
            Plan::new(graph, &PlanOptions { threads: 2, shared, ..PlanOptions::default() }).unwrap()
        };
        let mut update = sharing(parts.update.as_ref().unwrap());
        let mut evaluation = sharing(&parts.evaluation);
        let rate = Tensor::scalar(0.1f32);
        for step in 0..4 {
            let mut batch = part(0, 6);
            batch.push(rate.clone());
            let want = inputs(&mut at_once, &batch);
            let told = inputs(&mut evaluation, &part(0, 3)) + inputs(&mut evaluation, &part(3, 3));
            let found = inputs(&mut part_plan, &part(0, 3)) + inputs(&mut part_plan, &part(3, 3));
            assert!((found - want).abs() < 1e-5 && (told - want).abs() < 1e-5, "{found}, {told}");
            update.set_input(0, &rate.view()).unwrap();
            update.run().unwrap();
            if clip.is_some() {
                let [norm, want] =
                    [update.output(0), at_once.output(1)].map(|norm| norm.scalar::<f32>().unwrap());
                assert!((norm - want).abs() < 1e-5 * want, "step {step}: {norm}, not {want}");
            }
        }
        let kept = |training: &Training, plan: &Plan| -> Vec<Tensor> {
            let states = plan.shared().with_states(|states| states.to_vec());
            training.kept.iter().map(|state| states[state.index()].clone()).collect()
        };
        let (found, want) = (kept(&parts, &part_plan), kept(&whole, &at_once));
        assert_eq!((found.len(), want.len()), (7, 7));
        // Weights, moments and the count of steps.
        for (found, want) in found.iter().zip(&want).filter(|(f, _)| f.dtype() == DType::F32) {
            let pairs = found.slice::<f32>().unwrap().iter().zip(want.slice::<f32>().unwrap());
            assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-4), "{found:?}");
        }
    }
}
