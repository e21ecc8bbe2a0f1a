//! Runs the bodies of control flow as plans of their own.

use crate::{Plan, PlanOptions, Pool};
use kinglet_graph::{
    DType, Dims, Graph, Interpreter, OpError, OpResult, Runner, Tensor, TensorView,
};
use kinglet_kernels::isa::Isa;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The address of a body, which its op keeps alive, and the types of its inputs.
type Key = (usize, Vec<(DType, Dims)>);

/// Plans kept of a body for at most this many kinds of inputs.
const KEPT: usize = 16;

/// Runs graphs by plans, which it keeps for the next time.
///
/// A body met with inputs of new sizes is interpreted the first time: a loop whose tensors grow
/// would otherwise compile a plan for each turn.
pub(crate) struct PlanRunner {
    pool: Arc<Pool>,
    isa: Isa,
    interpret: bool,
    plans: Mutex<HashMap<Key, Option<Plan>>>,
}

impl PlanRunner {
    /// `interpret`: run bodies by their reference implementations only.
    pub(crate) fn new(pool: Arc<Pool>, isa: Isa, interpret: bool) -> PlanRunner {
        PlanRunner { pool, isa, interpret, plans: Mutex::new(HashMap::new()) }
    }

    fn compile(&self, graph: &Graph, inputs: &[TensorView<'_>]) -> OpResult<Plan> {
        let options = PlanOptions {
            input_shapes: Some(inputs.iter().map(|t| t.dims.into()).collect()),
            pool: Some(self.pool.clone()),
            isa: Some(self.isa),
            ..PlanOptions::default()
        };
        Plan::new(graph, &options).map_err(|e| in_body(graph, &e))
    }

    fn take(&self, key: &Key) -> Option<Option<Plan>> {
        let mut plans = self.plans.lock().unwrap_or_else(|e| e.into_inner());
        plans.get_mut(key).map(Option::take)
    }

    fn keep(&self, key: Key, plan: Option<Plan>) {
        let mut plans = self.plans.lock().unwrap_or_else(|e| e.into_inner());
        if plans.len() < KEPT || plans.contains_key(&key) {
            plans.insert(key, plan);
        }
    }
}

fn in_body(graph: &Graph, error: &dyn std::fmt::Display) -> OpError {
    OpError::new(format!("in '{}', {error}", graph.name))
}

impl Runner for PlanRunner {
    fn run_subgraph(&self, graph: &Graph, inputs: &[TensorView<'_>]) -> OpResult<Vec<Tensor>> {
        let key: Key = (
            std::ptr::from_ref(graph) as usize,
            inputs.iter().map(|t| (t.dtype, t.dims.into())).collect(),
        );
        // State is the whole model's; a body that has some of its own starts it anew each time.
        let planned = graph.states().is_empty() && !self.interpret;
        let met_before = if planned { self.take(&key) } else { None };
        let Some(plan) = met_before else {
            self.keep(key, None);
            return Interpreter::default().run_subgraph(graph, inputs);
        };
        let mut plan = match plan {
            Some(plan) => plan,
            None => self.compile(graph, inputs)?,
        };
        for (i, tensor) in inputs.iter().enumerate() {
            plan.set_input(i, tensor).map_err(|e| in_body(graph, &e))?;
        }
        plan.run().map_err(|e| in_body(graph, &e))?;
        let outputs = (0..graph.outputs.len()).map(|i| Tensor::copy_of(&plan.output(i))).collect();
        self.keep(key, Some(plan));
        Ok(outputs)
    }
}
