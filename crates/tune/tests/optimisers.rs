//! Each optimiser, clipping and warm-up against PyTorch, on gradients that are given
//! (`pytorch/make.py` has written what PyTorch computes).

use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::{Builder, DType, Graph, Interpreter, Tensor, ValueId, ValueType};
use kinglet_testing::npz;
use kinglet_tune::{Decay, Optimiser, Recipe, Schedule, Training, differentiate};
use std::collections::BTreeMap;
use std::path::Path;

const STEPS: usize = 20;

/// The step of a loss Σ p g, whose gradients are the inputs g.
fn training(start: &[Tensor], recipe: &Recipe) -> Training {
    let mut graph = Graph::new("given gradients");
    let mut loss: Option<ValueId> = None;
    let mut trained = Vec::new();
    for (i, start) in start.iter().enumerate() {
        let p = graph.add_constant(i.to_string(), start.clone());
        let g = graph.add_input(format!("g{i}"), ValueType::new(DType::F32, start.dims()));
        let mut b = Builder::new(&mut graph, "loss");
        let product = b.binary(BinaryFn::Mul, p, g).unwrap();
        let axes: Vec<usize> = (0..start.dims().len()).collect();
        let sum = b.sum(product, &axes, false).unwrap();
        loss = Some(match loss {
            Some(loss) => b.add(loss, sum).unwrap(),
            None => sum,
        });
        trained.push(p);
    }
    differentiate(&graph, loss.unwrap(), &trained, recipe).unwrap()
}

#[test]
fn steps_are_pytorchs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pytorch/optimisers.npz");
    let expected: BTreeMap<_, _> = npz(&path).into_iter().collect();
    let floats = |key: String| -> (Vec<usize>, Vec<f32>) {
        let array = expected.get(&key).unwrap_or_else(|| panic!("no {key}"));
        (array.shape.clone(), array.to_vec().unwrap())
    };
    let start: Vec<Tensor> = (0..3)
        .map(|i| {
            let (dims, data) = floats(format!("start/{i}"));
            Tensor::from_slice(&dims, &data).unwrap()
        })
        .collect();
    let sgd =
        |momentum, nesterov, weight_decay| Optimiser::Sgd { momentum, nesterov, weight_decay };
    let (beta1, weight_decay) = (0.9, 0.1);
    for (name, rate, optimiser) in [
        ("sgd", 0.05, Optimiser::sgd()),
        ("momentum", 0.05, sgd(0.9, false, 0.01)),
        ("nesterov", 0.05, sgd(0.9, true, 0.0)),
        ("adam_w", 0.01, Optimiser::AdamW { beta1, beta2: 0.999, epsilon: 1e-8, weight_decay }),
        ("lion", 0.01, Optimiser::Lion { beta1, beta2: 0.99, weight_decay }),
        (
            "adafactor",
            0.05,
            Optimiser::Adafactor { decay: -0.8, least: 1e-3, clip: 1.0, weight_decay },
        ),
    ] {
        for clip in [None, Some(4.0)] {
            let key = format!("{name}{}", if clip.is_some() { "_clipped" } else { "" });
            let training = training(&start, &Recipe { clip, ..Recipe::new(optimiser) });
            let schedule = Schedule { peak: rate, warm_up: 5, decay: Decay::Constant };
            let mut run = Interpreter::new(&training.graph).unwrap();
            for step in 0..STEPS {
                let mut inputs: Vec<Tensor> = (0..3)
                    .map(|i| {
                        let (dims, data) = floats(format!("gradients/{i}"));
                        let size = data.len() / STEPS;
                        Tensor::from_slice(&dims[1..], &data[step * size..][..size]).unwrap()
                    })
                    .collect();
                inputs.push(Tensor::scalar(schedule.at(step as u64) as f32));
                let outputs = run.run(&training.graph, &inputs).unwrap();
                assert_eq!(outputs.len(), 1 + usize::from(clip.is_some()));
            }
            let states = run.into_states();
            for (i, trained) in training.trained.iter().enumerate() {
                let found = states[trained.state.index()].slice::<f32>().unwrap();
                let (_, want) = floats(format!("{key}/{i}"));
                for (found, want) in found.iter().zip(&want) {
                    assert!((found - want).abs() < 2e-6, "{key}/{i}: {found}, not {want}");
                }
                assert_ne!(found, start[i].slice::<f32>().unwrap(), "{key}/{i} has not moved");
            }
            let held: usize = states.iter().map(|s| s.raw().len()).sum();
            let own: usize = start.iter().map(|p| p.raw().len()).sum();
            let kept: usize = start.iter().map(|p| optimiser.state_bytes(p.dims())).sum();
            assert!(held == own + kept || held == own + kept + 8, "{key}: {held} bytes of state");
        }
    }
}
