//! What a plan promises, on graphs of the simplest ops: order, aliases, state, sizes from data.

use kinglet_graph::ops::state::{StateRead, StateWrite};
use kinglet_graph::{
    DType, Dim, Graph, InferCx, Inputs, Op, OpResult, Outputs, Shape, State, Tensor, ValueId,
    ValueType, interpret,
};
use kinglet_runtime::{Plan, PlanOptions};

/// Input 0 plus `0`, times the sum of input 1 if there is one.
#[derive(Debug)]
struct Affine(f32);

impl Op for Affine {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        Ok(vec![cx.ty(0)?.clone()])
    }
    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let k: f32 = match inputs.opt(1) {
            Some(y) => y.slice::<f32>()?.iter().sum(),
            None => 1.0,
        };
        let out = outputs.slice::<f32>(0, x.dims)?;
        out.iter_mut().zip(x.slice::<f32>()?).for_each(|(o, x)| *o = (x + self.0) * k);
        Ok(())
    }
}

/// The same bytes as one row.
#[derive(Debug)]
struct Row;

impl Op for Row {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dims = cx.dims(0)?.unwrap_or_default();
        let n = dims.iter().fold(Dim::from(1), |n, d| n.mul(d));
        Ok(vec![cx.ty(0)?.with_shape(Shape::new(vec![n]))])
    }
    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        outputs.bytes(0, x.dtype, &[x.len()])?.copy_from_slice(x.bytes);
        Ok(())
    }
    fn alias(&self) -> Option<usize> {
        Some(0)
    }
}

/// The elements above zero: how many, only the data tells.
#[derive(Debug)]
struct Positive;

impl Op for Positive {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        Ok(vec![cx.ty(0)?.with_shape(Shape::new(vec![cx.unknown_dim()]))])
    }
    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let kept: Vec<f32> = inputs.slice::<f32>(0)?.iter().copied().filter(|x| *x > 0.0).collect();
        outputs.slice::<f32>(0, &[kept.len()])?.copy_from_slice(&kept);
        Ok(())
    }
}

fn f32s(dims: &[usize]) -> ValueType {
    ValueType::new(DType::F32, dims)
}

fn one_output(graph: &mut Graph, op: impl Op, inputs: &[ValueId], dims: Shape) -> ValueId {
    let out = graph.add_value("", ValueType::new(DType::F32, dims));
    graph.add_node("", op, inputs.iter().copied().map(Some).collect(), vec![out]);
    out
}

/// Runs a plan of `graph`, and checks that the interpreter gives the same.
fn run(graph: &Graph, inputs: &[Tensor]) -> Vec<Vec<f32>> {
    let mut plan = Plan::new(graph, &PlanOptions { threads: 2, ..Default::default() }).unwrap();
    let expected = interpret(graph, inputs).unwrap();
    let mut results = Vec::new();
    // Twice: a plan without state gives the same again.
    for _ in 0..1 + usize::from(graph.states().is_empty()) {
        for (i, tensor) in inputs.iter().enumerate() {
            plan.set_input(i, &tensor.view()).unwrap();
        }
        plan.run().unwrap();
        results = (0..graph.outputs.len())
            .map(|i| plan.output(i).slice::<f32>().unwrap().to_vec())
            .collect();
        for (got, want) in results.iter().zip(&expected) {
            assert_eq!(got, want.slice::<f32>().unwrap());
        }
    }
    results
}

#[test]
fn a_value_used_late_is_not_overwritten() {
    let mut g = Graph::new("late");
    let x = g.add_input("x", f32s(&[1000]));
    let mut v = x;
    for i in 0..6 {
        v = one_output(&mut g, Affine(i as f32), &[v], Shape::unknown());
    }
    let y = one_output(&mut g, Affine(0.0), &[v, x], Shape::unknown());
    g.outputs = vec![y, x];
    let input = Tensor::from_slice(&[1000], &vec![0.5f32; 1000]).unwrap();
    let out = run(&g, &[input]);
    assert_eq!(out[0][0], 15.5 * 500.0);
    assert_eq!(out[1][0], 0.5);
}

#[test]
fn aliases_share_bytes_and_outlive_their_source() {
    let mut g = Graph::new("alias");
    let x = g.add_input("x", f32s(&[2, 3]));
    let a = one_output(&mut g, Affine(1.0), &[x], Shape::unknown());
    let row = one_output(&mut g, Row, &[a], Shape::unknown());
    let b = one_output(&mut g, Affine(10.0), &[a], Shape::unknown());
    let c = one_output(&mut g, Affine(0.0), &[row, b], Shape::unknown());
    let constant = g.add_constant("c", Tensor::from_slice(&[1, 2], &[7.0f32, 8.0]).unwrap());
    let row_of_constant = one_output(&mut g, Row, &[constant], Shape::unknown());
    g.outputs = vec![c, row, row_of_constant];
    let input = Tensor::from_slice(&[2, 3], &[0f32, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    let plan = Plan::new(&g, &PlanOptions::default()).unwrap();
    assert_eq!(plan.steps().count(), 3);
    assert_eq!(run(&g, &[input])[1], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

#[test]
fn state_is_kept_read_before_written_and_reset() {
    let mut g = Graph::new("state");
    let x = g.add_input("x", f32s(&[2]));
    let initial = Tensor::from_slice(&[2], &[10.0f32, 20.0]).unwrap();
    let state = g.add_state(State { name: "sum".into(), ty: f32s(&[2]), initial: Some(initial) });
    let old = one_output(&mut g, StateRead { state, ty: f32s(&[2]) }, &[], Shape::unknown());
    let new = one_output(&mut g, Affine(1.0), &[old], Shape::unknown());
    g.add_node("", StateWrite { state }, vec![Some(new)], vec![]);
    // Read before the write, used after it.
    let late = one_output(&mut g, Affine(0.0), &[old, x], Shape::unknown());
    g.outputs = vec![late, old];
    let mut plan = Plan::new(&g, &PlanOptions::default()).unwrap();
    let ones = Tensor::from_slice(&[2], &[1.0f32, 0.0]).unwrap();
    let mut turn = || {
        plan.set_input(0, &ones.view()).unwrap();
        plan.run().unwrap();
        plan.output(0).slice::<f32>().unwrap().to_vec()
    };
    assert_eq!(turn(), [10.0, 20.0]);
    assert_eq!(turn(), [11.0, 21.0]);
    plan.reset_state().unwrap();
    plan.set_input(0, &ones.view()).unwrap();
    plan.run().unwrap();
    assert_eq!(plan.output(1).slice::<f32>().unwrap(), [10.0, 20.0]);
    assert_eq!(plan.memory().state, 8);
}

#[test]
fn sizes_that_depend_on_data_are_found_at_each_run() {
    let mut g = Graph::new("dynamic");
    let x = g.add_input("x", f32s(&[4]));
    let p = one_output(&mut g, Positive, &[x], Shape::unknown());
    let q = one_output(&mut g, Affine(1.0), &[p], Shape::unknown());
    let fixed = one_output(&mut g, Affine(0.0), &[x, q], Shape::unknown());
    g.outputs = vec![q, fixed];
    let out = run(&g, &[Tensor::from_slice(&[4], &[-1.0f32, 2.0, 0.0, 3.0]).unwrap()]);
    assert_eq!(out[0], [3.0, 4.0]);
    assert_eq!(out[1], [-7.0, 14.0, 0.0, 21.0]);
    assert_eq!(run(&g, &[Tensor::from_slice(&[4], &[-1.0f32; 4]).unwrap()])[0], []);
}

#[test]
fn wrong_inputs_are_named() {
    let mut g = Graph::new("wrong");
    let x = g.add_input("picture", f32s(&[2]));
    g.outputs = vec![x];
    let mut plan = Plan::new(&g, &PlanOptions::default()).unwrap();
    let error = |plan: &mut Plan, t: &Tensor| plan.set_input(0, &t.view()).unwrap_err().to_string();
    let wrong = Tensor::from_slice(&[3], &[0.0f32; 3]).unwrap();
    assert_eq!(error(&mut plan, &wrong), "input 'picture': takes f32[2], was given f32[3]");
    assert!(plan.set_input(1, &wrong.view()).is_err());
    let open = ValueType::new(DType::F32, Shape::new(vec![Dim::symbol("batch")]));
    let mut g = Graph::new("open");
    let x = g.add_input("x", open);
    g.outputs = vec![x];
    let error = Plan::new(&g, &PlanOptions::default()).err().unwrap().to_string();
    assert!(error.contains("[batch]"), "{error}");
}
