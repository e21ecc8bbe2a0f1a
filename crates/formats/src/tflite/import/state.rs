//! State: resource variables and variable tensors, wherever in the file they are used.
//!
//! State is the whole model's. The main subgraph reads and writes it by nodes. The body of a
//! branch or a loop gets what it uses as inputs after its own, and gives back what it changed as
//! outputs: [`Builder::carry`] and [`Builder::give_back`].

use kinglet_graph::ops::reshape::Identity;
use kinglet_graph::ops::state::{StateRead, StateWrite};
use kinglet_graph::{
    DType, OpError, OpResult, Quant, Shape, State, StateId, Tensor, ValueId, ValueType,
};

use super::Builder;

/// What a variable is known by in the whole file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A resource variable, by container and shared name.
    Resource(String),
    /// A variable tensor; that of a body lives as long as the branch or loop runs.
    Tensor { subgraph: usize, tensor: usize },
}

/// A piece of state of the model.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    pub(super) key: Key,
    pub(super) name: String,
    pub(super) ty: ValueType,
    pub(super) initial: Option<Tensor>,
}

/// A variable that a subgraph uses, by its place in [`Builder::held`].
#[derive(Clone, Copy, Debug)]
pub(super) struct VariableId(usize);

/// A variable in use, and where a subgraph has it.
pub(super) struct Held {
    pub(super) variable: Variable,
    content: Content,
}

#[derive(Clone, Copy)]
enum Content {
    /// State of the main graph.
    State(StateId),
    /// In a body: what it was given, and what it has made of that.
    Carried { given: ValueId, now: ValueId },
}

impl Held {
    pub(super) fn is_changed(&self) -> bool {
        matches!(self.content, Content::Carried { given, now } if given != now)
    }
}

impl Builder<'_> {
    /// The variable in this subgraph, in use from now on.
    pub(super) fn hold(&mut self, mut variable: Variable) -> OpResult<VariableId> {
        if let Some(i) = self.held.iter().position(|h| h.variable.key == variable.key) {
            let (known, ty) = (&self.held[i].variable.ty, &variable.ty);
            return match known.dtype == ty.dtype {
                true => Ok(VariableId(i)),
                false => {
                    let name = variable.name;
                    Err(OpError::new(format!("the variable '{name}' is {known}, not {ty}")))
                }
            };
        }
        let content = if self.depth > 0 {
            let ty = ValueType { shape: Shape::unknown(), ..variable.ty.clone() };
            let given = self.graph.add_input(variable.name.clone(), ty);
            Content::Carried { given, now: given }
        } else {
            if let Some(initial) = self.initial.get(&variable.key) {
                if initial.dtype() != variable.ty.dtype {
                    let (name, ty) = (variable.name, variable.ty);
                    let m = format!("the variable '{name}' starts as {initial:?} and is {ty}");
                    return Err(OpError::new(m));
                }
                variable.ty.shape = Shape::from(initial.dims());
                variable.initial = Some(initial.clone());
            }
            let Variable { name, ty, initial, .. } = variable.clone();
            Content::State(self.graph.add_state(State { name, ty, initial }))
        };
        self.held.push(Held { variable, content });
        Ok(VariableId(self.held.len() - 1))
    }

    pub(super) fn variable(&self, id: VariableId) -> &Variable {
        &self.held[id.0].variable
    }

    /// The content of a variable at this point of the subgraph; a node that reads it is `name`.
    pub(super) fn read(&mut self, id: VariableId, name: &str) -> ValueId {
        match self.held[id.0].content {
            Content::Carried { now, .. } => now,
            Content::State(state) => {
                let ty = self.variable(id).ty.clone();
                let value = self.graph.add_value(name, ty.clone());
                self.graph.add_node(name, StateRead { state, ty }, vec![], vec![value]);
                value
            }
        }
    }

    /// Replaces the content of a variable by `value`, which a node made for it.
    pub(super) fn write(&mut self, id: VariableId, value: ValueId) {
        match &mut self.held[id.0].content {
            Content::Carried { now, .. } => *now = value,
            Content::State(state) => {
                let (state, name) = (*state, self.variable(id).name.clone());
                self.graph.add_node(name, StateWrite { state }, vec![Some(value)], vec![]);
            }
        }
    }

    /// Replaces the content of a variable by `value`, which may be a constant or an input.
    pub(super) fn assign(&mut self, id: VariableId, value: ValueId) {
        let own = match self.held[id.0].content {
            Content::Carried { .. } => value,
            Content::State(_) => {
                let Variable { name, ty, .. } = self.variable(id).clone();
                let ty = ValueType { shape: Shape::unknown(), ..ty };
                let own = self.graph.add_value(name.clone(), ty);
                self.graph.add_node(name, Identity, vec![Some(value)], vec![own]);
                own
            }
        };
        self.write(id, own);
    }

    /// Makes the inputs of this body its own and then `variables`, in this order.
    pub(super) fn carry(&mut self, variables: &[Variable]) -> OpResult {
        let mut inputs = self.graph.inputs[..self.source.inputs.len()].to_vec();
        for variable in variables {
            let id = self.hold(variable.clone())?;
            if let Content::Carried { given, .. } = self.held[id.0].content {
                inputs.push(given);
            }
        }
        self.graph.inputs = inputs;
        Ok(())
    }

    /// Makes what this body leaves in `variables` outputs, after its own.
    pub(super) fn give_back(&mut self, variables: &[Variable]) -> OpResult {
        for variable in variables {
            let id = self.hold(variable.clone())?;
            let value = self.read(id, &variable.name);
            self.graph.outputs.push(value);
        }
        Ok(())
    }

    /// The variable that a variable tensor of this subgraph is.
    pub(super) fn variable_tensor(&mut self, tensor: usize) -> OpResult<VariableId> {
        let info = &self.source.tensors[tensor];
        let initial = self.constant(tensor)?;
        let ty =
            ValueType { shape: Shape::from(info.shape.as_slice()), ..self.declared_type(tensor)? };
        let name = match info.name.as_str() {
            "" => format!("state {tensor}"),
            name => format!("{name}#{tensor}"),
        };
        let initial = match (initial, ty.quant.as_deref().and_then(Quant::single)) {
            // A memory of int8 starts at zero, which its zero point stands for; others at stored 0.
            (None, Some((_, zero))) if zero != 0 && ty.dtype == DType::I8 => {
                let mut tensor = Tensor::zeros(ty.dtype, &info.shape)?;
                tensor.slice_mut::<i8>()?.fill(zero as i8);
                Some(tensor.with_quant(ty.quant.clone()))
            }
            (initial, _) => initial,
        };
        self.hold(Variable { key: Key::Tensor { subgraph: self.index, tensor }, name, ty, initial })
    }
}
