//! Training without gradients: MeZO (Malladi et al., NeurIPS 2023, arXiv 2305.17333).
//!
//! All that is trained is shifted by ε along a direction of chance, and by ε against it; the difference
//! of the two losses says how far to go along it. The direction is not kept but drawn again from its
//! seed, so that a step takes the memory of inference. Its elements are ±1, as in simultaneous
//! perturbation (Spall, 1992): of all directions whose elements are independent and of mean square 1,
//! these make the estimate vary least, and 64 of them cost one draw.

use crate::backward::finished;
use crate::random::Random;
use crate::training::{Training, trained_of, with_states};
use kinglet_graph::{DType, Graph, GraphError, Shape, State, Tensor, ValueId, ValueType};

/// How far, and along which directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZerothOrder {
    /// ε.
    pub epsilon: f64,
    /// Of the directions.
    pub seed: u64,
}

impl ZerothOrder {
    /// The training of `graph` whose steps make `loss`, one float, smaller by changing the constants
    /// `trained`, in f32. Both of its graphs compute the loss and the outputs of `graph`; [`crate::Trainer`] makes the steps.
    ///
    /// # Errors
    /// Where one of `trained` is no constant of floats, or stands there twice.
    pub fn training(
        self,
        graph: &Graph,
        loss: ValueId,
        trained: &[ValueId],
    ) -> Result<Training, GraphError> {
        self.outline(graph, loss, trained)?.beginning_with(graph, trained)
    }

    /// As [`crate::outline`], the training that [`ZerothOrder::training`] makes.
    ///
    /// # Errors
    /// As [`ZerothOrder::training`].
    pub fn outline(
        self,
        graph: &Graph,
        loss: ValueId,
        trained: &[ValueId],
    ) -> Result<Training, GraphError> {
        let (mut graph, names) = with_states(graph, trained)?;
        let forward_states = graph.states().len() - names.len();
        graph.outputs.insert(0, loss);
        let trained = trained_of(&graph, forward_states, names);
        let ty = ValueType::new(DType::I64, Shape::new(Vec::new()));
        let steps =
            graph.add_state(State { name: STEPS.into(), ty, initial: Some(Tensor::scalar(0i64)) });
        let kept = trained.iter().map(|t| t.state).chain([steps]).collect();
        let graph = finished(graph)?;
        Ok(Training {
            evaluation: graph.clone(),
            graph,
            update: None,
            trained,
            kept,
            zeroth: Some(self),
        })
    }

    /// Adds `by` times the direction of step `number` to the values of tensor `tensor`.
    pub(crate) fn shift(self, number: u64, tensor: usize, by: f32, values: &mut [f32]) {
        let mut random = Random::new(self.seed ^ number.rotate_left(32), tensor as u64);
        for values in values.chunks_mut(u64::BITS as usize) {
            let mut bits = random.bits();
            for value in values {
                *value += if bits & 1 == 0 { by } else { -by };
                bits >>= 1;
            }
        }
    }
}

/// The state that counts steps.
const STEPS: &str = "zeroth_order.steps";
