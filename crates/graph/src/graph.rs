//! The graph: values, nodes, state, and the few ways to change them.

use crate::{Op, OpError, Tensor, ValueType};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl $name {
            /// Its place in the graph's list.
            pub fn index(self) -> usize {
                self.0 as usize
            }

            fn at(index: usize) -> $name {
                // Lists are made from files of bounded size, an entry at a time.
                $name(u32::try_from(index).expect("fewer than 2^32 entries"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A value of a graph.
    ValueId "%"
);
id!(
    /// A node of a graph.
    NodeId "#"
);
id!(
    /// A piece of state of a graph.
    StateId "@"
);

/// A value: an input, a constant, or what a node computes.
#[derive(Clone, Debug)]
pub struct Value {
    /// The name from the model file; may be empty.
    pub name: String,
    /// Its type.
    pub ty: ValueType,
    /// Its data, if it is a constant.
    pub data: Option<Tensor>,
}

/// One op applied to values.
#[derive(Clone, Debug)]
pub struct Node {
    /// The name from the model file; may be empty.
    pub name: String,
    /// What it does. Shared between copies of a graph.
    pub op: Arc<dyn Op>,
    /// `None` is an optional input left out.
    pub inputs: Vec<Option<ValueId>>,
    /// What it defines.
    pub outputs: Vec<ValueId>,
}

/// A value that lives from one run to the next.
#[derive(Clone, Debug)]
pub struct State {
    /// Its name; unique in the graph.
    pub name: String,
    /// Its type, whose sizes are fixed when the graph is planned.
    pub ty: ValueType,
    /// Its content before the first run; zeros where absent.
    pub initial: Option<Tensor>,
}

/// What a model file says about itself.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// The format it came from, such as `tflite` or `onnx`.
    pub format: String,
    /// Free text.
    pub description: String,
    /// Class labels that the file carries, in the order of the classes.
    pub labels: Vec<String>,
    /// Anything else, as name and text.
    pub properties: Vec<(String, String)>,
}

/// A model. Nodes stand in an order in which they may run; it is also the order in which state is
/// read and written.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Its name; may be empty.
    pub name: String,
    /// What the file says about itself.
    pub metadata: Metadata,
    /// Values that the caller gives, in order.
    pub inputs: Vec<ValueId>,
    /// Values that the caller gets, in order; one may stand here twice.
    pub outputs: Vec<ValueId>,
    values: Vec<Value>,
    nodes: Vec<Node>,
    states: Vec<State>,
}

/// An error at a place in a graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct GraphError {
    /// Which node, value or input.
    pub place: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl GraphError {
    /// An error at `place`.
    pub fn new(place: impl Into<String>, message: impl Into<String>) -> GraphError {
        GraphError { place: place.into(), message: message.into() }
    }

    /// An op's error, at its node.
    pub fn at(node: &Node, error: &OpError) -> GraphError {
        GraphError::new(node.place(), error.to_string())
    }
}

impl Node {
    /// How messages call this node: its name, if any, and its op.
    pub fn place(&self) -> String {
        if self.name.is_empty() {
            format!("node ({})", self.op.name())
        } else {
            format!("node '{}' ({})", self.name, self.op.name())
        }
    }
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Adds a value that something else must define.
    pub fn add_value(&mut self, name: impl Into<String>, ty: ValueType) -> ValueId {
        self.values.push(Value { name: name.into(), ty, data: None });
        ValueId::at(self.values.len() - 1)
    }

    /// Adds an input.
    pub fn add_input(&mut self, name: impl Into<String>, ty: ValueType) -> ValueId {
        let id = self.add_value(name, ty);
        self.inputs.push(id);
        id
    }

    /// Adds a constant, typed as its data.
    pub fn add_constant(&mut self, name: impl Into<String>, data: Tensor) -> ValueId {
        let id = self.add_value(name, type_of(&data));
        self.values[id.index()].data = Some(data);
        id
    }

    /// Adds a node that defines `outputs`, which exist already.
    pub fn add_node(
        &mut self,
        name: impl Into<String>,
        op: impl Op,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<ValueId>,
    ) -> NodeId {
        self.push_node(Node { name: name.into(), op: Arc::new(op), inputs, outputs })
    }

    /// Adds a node.
    pub fn push_node(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId::at(self.nodes.len() - 1)
    }

    /// Adds a node of one output of yet unknown shape (inference tells it) and `dtype`, and
    /// returns that output. What compositions are built with.
    pub fn apply(
        &mut self,
        name: impl Into<String>,
        op: impl Op,
        inputs: &[ValueId],
        dtype: crate::DType,
    ) -> ValueId {
        let name = name.into();
        let out = self.add_value(name.clone(), ValueType::new(dtype, crate::Shape::unknown()));
        self.add_node(name, op, inputs.iter().copied().map(Some).collect(), vec![out]);
        out
    }

    /// Adds a piece of state.
    pub fn add_state(&mut self, state: State) -> StateId {
        self.states.push(state);
        StateId::at(self.states.len() - 1)
    }

    /// All values.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// All values with their ids.
    pub fn values_with_ids(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId::at(i), v))
    }

    /// One value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// One value, to change.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.index()]
    }

    /// Makes `id` a constant.
    pub fn set_constant(&mut self, id: ValueId, data: Tensor) {
        let value = &mut self.values[id.index()];
        value.ty = type_of(&data);
        value.data = Some(data);
    }

    /// All nodes, in the order in which they run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All nodes, to change. The order must stay one in which they may run.
    pub fn nodes_mut(&mut self) -> &mut Vec<Node> {
        &mut self.nodes
    }

    /// The id of the node at `index`, which must be below the number of nodes.
    pub fn node_id(&self, index: usize) -> NodeId {
        assert!(index < self.nodes.len(), "node {index} of {}", self.nodes.len());
        NodeId::at(index)
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// All state.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// One piece of state.
    pub fn state(&self, id: StateId) -> &State {
        &self.states[id.index()]
    }

    /// One piece of state, to change.
    pub fn state_mut(&mut self, id: StateId) -> &mut State {
        &mut self.states[id.index()]
    }

    /// The id of the state at `index`.
    pub fn state_id(&self, index: usize) -> Option<StateId> {
        (index < self.states.len()).then(|| StateId::at(index))
    }

    /// For each value, the node that defines it.
    pub fn producers(&self) -> Vec<Option<NodeId>> {
        let mut producers = vec![None; self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for out in &node.outputs {
                producers[out.index()] = Some(NodeId::at(i));
            }
        }
        producers
    }

    /// For each value, the nodes that use it, once for each use; and how often it is an output.
    pub fn uses(&self) -> Vec<Vec<NodeId>> {
        let mut uses = vec![Vec::new(); self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for input in node.inputs.iter().flatten() {
                uses[input.index()].push(NodeId::at(i));
            }
        }
        uses
    }

    /// Lets every user of `from`, the graph's outputs included, use `to` instead.
    pub fn replace_uses(&mut self, from: ValueId, to: ValueId) {
        for node in &mut self.nodes {
            for input in node.inputs.iter_mut().flatten().filter(|v| **v == from) {
                *input = to;
            }
        }
        for out in self.outputs.iter_mut().filter(|v| **v == from) {
            *out = to;
        }
    }

    /// Puts all of `other` after what this graph has, reading `inputs` in place of its inputs, and returns
    /// its outputs. Names get `prefix` before them.
    ///
    /// # Errors
    /// If there are more or fewer inputs, or one is of another element type.
    pub fn append(
        &mut self,
        other: &Graph,
        inputs: &[ValueId],
        prefix: &str,
    ) -> Result<Vec<ValueId>, GraphError> {
        if inputs.len() != other.inputs.len() {
            let m = format!("has {} inputs, and is given {}", other.inputs.len(), inputs.len());
            return Err(GraphError::new(format!("graph '{}'", other.name), m));
        }
        let named = |name: &str| match name {
            "" => String::new(),
            name => format!("{prefix}{name}"),
        };
        let mut places: Vec<Option<ValueId>> = vec![None; other.values.len()];
        for (theirs, own) in other.inputs.iter().zip(inputs) {
            let (want, found) = (&other.value(*theirs).ty, &self.value(*own).ty);
            if want.dtype != found.dtype {
                let place = format!("input '{}'", other.value(*theirs).name);
                return Err(GraphError::new(place, format!("is {want}, and is given {found}")));
            }
            places[theirs.index()] = Some(*own);
        }
        let mut place = |v: &ValueId| {
            *places[v.index()].get_or_insert_with(|| {
                let value = &other.values[v.index()];
                self.values.push(Value { name: named(&value.name), ..value.clone() });
                ValueId::at(self.values.len() - 1)
            })
        };
        let first = self.states.len();
        for state in &other.states {
            self.states.push(State { name: named(&state.name), ..state.clone() });
        }
        for node in &other.nodes {
            let op = match node.op.state() {
                None => node.op.clone(),
                Some(state) => {
                    node.op.with_state(StateId::at(first + state.index())).ok_or_else(|| {
                        GraphError::new(node.place(), "can't be put beside another graph's state")
                    })?
                }
            };
            let inputs = node.inputs.iter().map(|v| v.as_ref().map(&mut place)).collect();
            let outputs = node.outputs.iter().map(&mut place).collect();
            self.nodes.push(Node { name: named(&node.name), op, inputs, outputs });
        }
        Ok(other.outputs.iter().map(place).collect())
    }

    /// Removes nodes that no output and no state depends on, and values that nothing uses.
    /// Ids change.
    pub fn remove_unused(&mut self) {
        let mut live = vec![false; self.values.len()];
        for v in self.inputs.iter().chain(&self.outputs) {
            live[v.index()] = true;
        }
        let mut keep = vec![false; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().rev() {
            let writes_state = node.outputs.is_empty();
            keep[i] = writes_state || node.outputs.iter().any(|v| live[v.index()]);
            if keep[i] {
                for v in node.inputs.iter().flatten().chain(&node.outputs) {
                    live[v.index()] = true;
                }
            }
        }
        let mut kept = keep.iter();
        self.nodes.retain(|_| kept.next().copied().unwrap_or(false));
        let mut place = vec![ValueId(0); self.values.len()];
        let mut next = 0;
        for (i, is_live) in live.iter().enumerate() {
            place[i] = ValueId::at(next);
            next += usize::from(*is_live);
        }
        let mut live = live.iter();
        self.values.retain(|_| live.next().copied().unwrap_or(false));
        let nodes = self.nodes.iter_mut();
        let of_nodes = nodes.flat_map(|n| n.inputs.iter_mut().flatten().chain(&mut n.outputs));
        for v in of_nodes.chain(&mut self.inputs).chain(&mut self.outputs) {
            *v = place[v.index()];
        }
    }

    /// Puts the nodes in an order in which they may run, keeping their order where it is one.
    /// Fails where they depend on each other in a circle.
    pub fn sort(&mut self) -> Result<(), GraphError> {
        let producers = self.producers();
        let mut waiting: Vec<usize> = Vec::with_capacity(self.nodes.len());
        let mut users = vec![Vec::new(); self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            let needs: BTreeSet<NodeId> =
                node.inputs.iter().flatten().filter_map(|v| producers[v.index()]).collect();
            waiting.push(needs.len());
            for need in needs {
                users[need.index()].push(i);
            }
        }
        let mut ready: BTreeSet<usize> =
            (0..self.nodes.len()).filter(|i| waiting[*i] == 0).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(i) = ready.pop_first() {
            order.push(i);
            for user in &users[i] {
                waiting[*user] -= 1;
                if waiting[*user] == 0 {
                    ready.insert(*user);
                }
            }
        }
        if order.len() < self.nodes.len() {
            let stuck = waiting.iter().position(|w| *w > 0).unwrap_or(0);
            return Err(GraphError::new(
                self.nodes[stuck].place(),
                "depends on its own output: the model's nodes form a circle",
            ));
        }
        let mut nodes: Vec<Option<Node>> = self.nodes.drain(..).map(Some).collect();
        self.nodes = order.into_iter().filter_map(|i| nodes[i].take()).collect();
        Ok(())
    }
}

pub(crate) fn type_of(data: &Tensor) -> ValueType {
    ValueType { dtype: data.dtype(), shape: data.dims().into(), quant: data.quant().cloned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::state::{StateRead, StateWrite};
    use crate::ops::unary::Unary;
    use crate::{DType, Interpreter};

    /// Gives what it was given before, and its opposite now.
    fn late() -> Graph {
        let mut graph = Graph::new("late");
        let ty = ValueType::new(DType::F32, &[1][..]);
        let x = graph.add_input("x", ty.clone());
        let state = State { name: "last".into(), ty: ty.clone(), initial: None };
        let state = graph.add_state(state);
        let last = graph.apply("last", StateRead { state, ty }, &[], DType::F32);
        let y = graph.apply("y", Unary::Neg, &[x], DType::F32);
        graph.add_node("", StateWrite { state }, vec![Some(y)], Vec::new());
        graph.outputs = vec![last, y];
        graph
    }

    #[test]
    fn graphs_stand_beside_each_other_with_states_of_their_own() {
        let mut graph = late();
        let y = graph.outputs[1];
        let beside = graph.append(&late(), &[y], "other.").unwrap();
        graph.outputs.extend(beside);
        graph.verify().unwrap();
        assert_eq!(graph.states()[1].name, "other.last");
        let mut run = Interpreter::new(&graph).unwrap();
        let mut step = |x: f32| -> Vec<f32> {
            let x = Tensor::from_slice(&[1], &[x]).unwrap();
            let all = run.run(&graph, &[x]).unwrap();
            all.iter().map(|t| t.slice::<f32>().unwrap()[0]).collect()
        };
        assert_eq!(step(3.0), [0.0, -3.0, 0.0, 3.0]);
        assert_eq!(step(5.0), [-3.0, -5.0, 3.0, 5.0]);
    }

    #[test]
    fn graphs_are_given_the_inputs_that_they_take() {
        let mut graph = late();
        assert!(graph.append(&late(), &[], "").unwrap_err().to_string().contains("has 1 inputs"));
        let wrong = graph.add_input("i", ValueType::new(DType::I32, &[1][..]));
        assert!(graph.append(&late(), &[wrong], "").unwrap_err().to_string().contains("'x'"));
    }
}
