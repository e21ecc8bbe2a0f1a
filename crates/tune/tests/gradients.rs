//! Every gradient rule against central finite differences in f64, on odd and broadcast sizes; and
//! every op either in that table or listed with the reason why not.

mod cases;
mod coverage;

use cases::{Case, Input, cases};
use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::{
    Builder, DType, Fold, Graph, Node, OpError, Tensor, ValueId, ValueType, infer, interpret,
};
use kinglet_tune::gradients;
use std::sync::Arc;

/// A reproducible number in [0, 1).
pub fn random(seed: &mut u64) -> f64 {
    // SplitMix64 (Steele et al., OOPSLA 2014).
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

fn numbers(dims: &[usize], low: f64, high: f64, seed: &mut u64) -> Tensor {
    let all: Vec<f64> =
        (0..dims.iter().product()).map(|_| low + (high - low) * random(seed)).collect();
    Tensor::from_slice(dims, &all).unwrap()
}

/// The graph of a case: its loss is the sum of what its op gives, each element times a number.
struct Trial {
    graph: Graph,
    loss: ValueId,
    differentiated: Vec<ValueId>,
    inputs: Vec<Tensor>,
}

impl Trial {
    fn new(case: &Case) -> Result<Trial, OpError> {
        let mut seed = 7;
        let mut graph = Graph::new(case.name.clone());
        let (mut values, mut differentiated, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
        for (i, input) in case.inputs.iter().enumerate() {
            values.push(match input {
                Input::None => None,
                Input::Constant(tensor) => Some(graph.add_constant("", tensor.clone())),
                Input::Real { dims, low, high } => {
                    let data = numbers(dims, *low, *high, &mut seed);
                    let ty = ValueType::new(DType::F64, data.dims());
                    let v = graph.add_input(format!("x{i}"), ty);
                    differentiated.push(v);
                    inputs.push(data);
                    Some(v)
                }
            });
        }
        for state in &case.states {
            graph.add_state(state.clone());
        }
        let outputs: Vec<ValueId> = (0..case.outputs)
            .map(|_| {
                graph.add_value("", ValueType::new(DType::F64, kinglet_graph::Shape::unknown()))
            })
            .collect();
        for (v, dtype) in outputs.iter().zip(&case.dtypes) {
            graph.value_mut(*v).ty.dtype = *dtype;
        }
        let (op, name) = (case.op.clone(), case.name.clone());
        graph.push_node(Node { name, op, inputs: values, outputs: outputs.clone() });
        infer(&mut graph, Fold::Shapes).map_err(|e| OpError::new(e.to_string()))?;
        let mut loss = None;
        for i in &case.differentiable {
            let v = outputs[*i];
            let dims = graph.value(v).ty.shape.fixed().expect("all sizes are known");
            let by = numbers(&dims, 0.5, 1.5, &mut seed);
            let by = graph.add_constant("", by);
            let mut b = Builder::new(&mut graph, "loss");
            let weighed = b.binary(BinaryFn::Mul, v, by)?;
            let axes: Vec<usize> = (0..dims.len()).collect();
            let sum = b.sum(weighed, &axes, false)?;
            loss = Some(match loss {
                Some(loss) => b.add(loss, sum)?,
                None => sum,
            });
        }
        let loss = loss.expect("an output is differentiated");
        graph.outputs = vec![loss];
        Ok(Trial { graph, loss, differentiated, inputs })
    }

    fn loss(&self, inputs: &[Tensor]) -> f64 {
        interpret(&self.graph, inputs).unwrap()[0].slice::<f64>().unwrap()[0]
    }
}

/// Compares all gradients of a case with differences.
fn check(case: &Case) -> Result<(), String> {
    check_as(case, case)
}

/// Compares all gradients of a case with differences of another one on the same inputs.
fn check_as(case: &Case, differs: &Case) -> Result<(), String> {
    const STEP: f64 = 1e-5;
    let trial = Trial::new(case).map_err(|e| format!("is refused: {e}"))?;
    let differs = Trial::new(differs).map_err(|e| format!("is refused: {e}"))?;
    let graph = gradients(&trial.graph, trial.loss, &trial.differentiated)
        .map_err(|e| format!("has no gradient: {e}"))?;
    let found = interpret(&graph, &trial.inputs).map_err(|e| format!("does not run: {e}"))?;
    let mut compared = 0;
    for (i, gradient) in found[1..].iter().enumerate() {
        if gradient.dims() != trial.inputs[i].dims() {
            return Err(format!("input {i}: {gradient:?} for {:?}", trial.inputs[i]));
        }
        for (at, found) in gradient.slice::<f64>().unwrap().iter().enumerate() {
            let moved = |step: f64| {
                let mut inputs = trial.inputs.clone();
                inputs[i].slice_mut::<f64>().unwrap()[at] += step;
                differs.loss(&inputs)
            };
            let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let off = (found - difference).abs();
            if off.is_nan() || off > 1e-6 * difference.abs().max(1.0) {
                return Err(format!(
                    "input {i}, element {at}: the rule says {found}, differences {difference}"
                ));
            }
            compared += 1;
        }
    }
    if compared == 0 { Err("compares nothing".into()) } else { Ok(()) }
}

#[test]
fn rules_agree_with_differences() {
    let wrong: Vec<String> = cases()
        .iter()
        .filter_map(|case| check(case).err().map(|e| format!("{}: {e}", case.name)))
        .collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn rounding_has_the_gradient_of_what_it_is_taken_for() {
    for (case, taken_for) in cases::straight_through() {
        check_as(&case, &taken_for).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    }
}

/// What is constant but for jumps passes no gradient on, and says so where nothing else does.
#[test]
fn flat_functions_have_a_gradient_of_zero() {
    for case in cases::flat() {
        let trial = Trial::new(&case).unwrap();
        let error = gradients(&trial.graph, trial.loss, &trial.differentiated).unwrap_err();
        assert!(error.to_string().contains("does not depend"), "{}: {error}", case.name);
        let moved: Vec<Tensor> = trial
            .inputs
            .iter()
            .map(|t| {
                let all: Vec<f64> = t.slice::<f64>().unwrap().iter().map(|v| v + 1e-5).collect();
                Tensor::from_slice(t.dims(), &all).unwrap()
            })
            .collect();
        assert_eq!(trial.loss(&trial.inputs), trial.loss(&moved), "{}", case.name);
    }
}

/// The ops whose rule the table asks, by the names of their Rust types; and the functions of those
/// that are tables themselves.
pub fn covered() -> (Vec<&'static str>, Vec<&'static str>) {
    let rounding = cases::straight_through().into_iter().map(|(case, _)| case);
    let all: Vec<Case> = cases().into_iter().chain(cases::flat()).chain(rounding).collect();
    let functions = all.iter().map(|c| Arc::clone(&c.op).name()).collect();
    (all.iter().map(|c| c.type_name).collect(), functions)
}
