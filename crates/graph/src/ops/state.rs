//! State that lives from one run to the next: a recurrent net's memory, a resource variable.
//!
//! Executors carry these two out themselves, in the order of the nodes.

use crate::{InferCx, Inputs, Op, OpError, OpResult, Outputs, StateId, ValueType};
use std::sync::Arc;

/// The content of a piece of state. No inputs; output 0 has the state's element type.
#[derive(Clone, Debug)]
pub struct StateRead {
    /// Which.
    pub state: StateId,
    /// The state's type.
    pub ty: ValueType,
}

/// Replaces the content of a piece of state by input 0. No outputs.
#[derive(Clone, Debug)]
pub struct StateWrite {
    /// Which.
    pub state: StateId,
}

impl Op for StateRead {
    fn infer(&self, _cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        Ok(vec![self.ty.clone()])
    }

    fn eval(&self, _inputs: &Inputs<'_>, _outputs: &mut Outputs<'_>) -> OpResult {
        Err(OpError::new("state can't be read outside a graph"))
    }

    fn is_pure(&self) -> bool {
        false
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn with_state(&self, state: StateId) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Self { state, ..self.clone() }))
    }
}

impl Op for StateWrite {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        cx.ty(0).map(|_| Vec::new())
    }

    fn eval(&self, _inputs: &Inputs<'_>, _outputs: &mut Outputs<'_>) -> OpResult {
        Err(OpError::new("state can't be written outside a graph"))
    }

    fn is_pure(&self) -> bool {
        false
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn with_state(&self, state: StateId) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Self { state }))
    }
}
