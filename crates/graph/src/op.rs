//! What an op is: the trait that every file under `ops/` implements.

use crate::ops::unary::Unary;
use crate::tensor::cast_mut;
use crate::{Cost, DType, Dim, Element, Graph, Quant, Shape, StateId, Tensor, TensorView};
use crate::{Dims, Gradient, Gradients, ValueType};
use smallvec::SmallVec;
use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

/// Why an op can't do what it was asked: a sentence for people. Who asked (file, node) is added
/// by whoever holds the node.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct OpError {
    message: String,
}

impl OpError {
    /// An error that says `message`.
    pub fn new(message: impl Into<String>) -> OpError {
        OpError { message: message.into() }
    }
}

/// A result whose error is an [`OpError`].
pub type OpResult<T = ()> = Result<T, OpError>;

/// One operation with its attributes: its shape rule, its meaning, its cost.
///
/// Everything about an op stands in its implementation of this trait, in one file; nothing lists
/// ops. `Debug` (derived) is how the attributes are printed in dumps.
pub trait Op: Any + fmt::Debug + Send + Sync {
    /// The name that dumps and messages use: the Rust type's.
    fn name(&self) -> &'static str {
        let full = std::any::type_name::<Self>();
        let head = full.split('<').next().unwrap_or(full);
        head.rsplit("::").next().unwrap_or(head)
    }

    /// The shape rule: the types of the outputs, of which there are `cx.outputs()`.
    ///
    /// Sizes may be symbolic, and inputs' data is there only where it is known already. What
    /// can't be told yet is [`InferCx::unknown_dim`] or [`Shape::unknown`]. An output's quantisation
    /// is the graph's to say and need not be given.
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>>;

    /// The elements of output 0, where it holds integers that sizes are made of and these can be
    /// told from symbolic sizes, in row-major order. What shape arithmetic is followed through.
    fn sizes(&self, _cx: &InferCx<'_>) -> OpResult<Option<Vec<Dim>>> {
        Ok(None)
    }

    /// The reference implementation: slow, obvious, and the meaning of the op. Writes every
    /// element of every output. Given inputs that `infer` accepts it may still fail (an index out
    /// of range), never panic.
    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult;

    /// Work and traffic of one run on values of these types.
    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        Cost::traffic(inputs, outputs)
    }

    /// The gradient rule: builds, in `g`, the gradient of the loss with respect to each input, from
    /// those with respect to the outputs. `None` is a gradient of zero: of what is not wanted
    /// ([`Gradient::wants`]), of integers, and of all inputs of a function that is constant but for
    /// jumps. The default says that there is no rule.
    ///
    /// A rule is made of other ops; it is asked only where the gradient of an output is there.
    fn gradient(&self, _g: &mut Gradient<'_>) -> OpResult<Gradients> {
        Err(OpError::new(format!(
            "{} has no gradient rule: train nothing before it, or replace it",
            self.name()
        )))
    }

    /// Whether training changes input `i` where that is a constant of floats: not so for statistics that
    /// were gathered along the way.
    fn is_learned(&self, _input: usize) -> bool {
        true
    }

    /// `Some(i)` where output 0 is the very bytes of input `i` under other sizes or another type.
    fn alias(&self) -> Option<usize> {
        None
    }

    /// Whether `eval` looks at the data of input `i`, and not at its type alone.
    fn reads(&self, _input: usize) -> bool {
        true
    }

    /// Whether input `i` may be encoded weights ([`DType::Encoded`]). Other ops are refused them
    /// before their shape rule is asked.
    fn reads_encoded(&self, _input: usize) -> bool {
        false
    }

    /// Whether this op only decodes stored numbers, so that to fold it is to lose an encoding: it
    /// is left alone until passes had the chance to compute on the encoded numbers.
    fn decodes(&self) -> bool {
        false
    }

    /// Whether equal inputs always give equal outputs. Only such ops are folded or shared.
    fn is_pure(&self) -> bool {
        true
    }

    /// This op with `function` applied to each element of output 0 (after any it has already),
    /// where it can do that itself: how activations are fused.
    fn then(&self, _function: Unary) -> Option<Arc<dyn Op>> {
        None
    }

    /// The graphs that this op runs, for control flow.
    fn subgraphs(&self) -> Vec<&Graph> {
        Vec::new()
    }

    /// The state that this op reads or changes. All but `StateRead` and `StateWrite` do it in place:
    /// [`Outputs::take_state`].
    fn state(&self) -> Option<StateId> {
        None
    }

    /// This op on another state, where it has one: as when its graph is put beside another
    /// ([`Graph::append`]).
    fn with_state(&self, _state: StateId) -> Option<Arc<dyn Op>> {
        None
    }
}

impl dyn Op {
    /// An error where an input, of these types, is encoded and this op does not read such.
    pub fn check_encoded(&self, inputs: impl Iterator<Item = Option<DType>>) -> OpResult {
        for (i, dtype) in inputs.enumerate() {
            if let Some(DType::Encoded(encoding)) = dtype
                && !self.reads_encoded(i)
            {
                let name = self.name();
                return Err(OpError::new(format!("{name} does not read {encoding} (input {i})")));
            }
        }
        Ok(())
    }

    /// This op as `T`, if it is one.
    pub fn downcast<T: Op>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }

    /// Whether this op is a `T`.
    pub fn is<T: Op>(&self) -> bool {
        self.downcast::<T>().is_some()
    }
}

/// What is known of an input before the graph runs.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its type.
    pub ty: &'a ValueType,
    /// Its data, when it is a constant or was computed already.
    pub data: Option<TensorView<'a>>,
}

/// The inputs of a shape rule.
pub struct InferCx<'a> {
    inputs: &'a [Option<Known<'a>>],
    sizes: &'a [Option<&'a [Dim]>],
    outputs: usize,
    next_symbol: &'a Cell<usize>,
}

impl<'a> InferCx<'a> {
    /// Over `inputs` (`None`: an optional one left out), for a node of `outputs` outputs.
    /// `next_symbol` numbers the symbols that [`InferCx::unknown_dim`] makes.
    pub fn new(
        inputs: &'a [Option<Known<'a>>],
        outputs: usize,
        next_symbol: &'a Cell<usize>,
    ) -> InferCx<'a> {
        InferCx { inputs, sizes: &[], outputs, next_symbol }
    }

    /// The same, where the elements of some inputs are known as expressions.
    #[must_use]
    pub fn with_sizes(self, sizes: &'a [Option<&'a [Dim]>]) -> InferCx<'a> {
        InferCx { sizes, ..self }
    }

    /// How many inputs the node lists, left-out ones included.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether the node lists no inputs.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// How many outputs the node has.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The type of input `i`; an error where it is left out.
    pub fn ty(&self, i: usize) -> OpResult<&'a ValueType> {
        self.opt(i).ok_or_else(|| missing(i))
    }

    /// The type of input `i`, if it is there.
    pub fn opt(&self, i: usize) -> Option<&'a ValueType> {
        self.inputs.get(i).copied().flatten().map(|k| k.ty)
    }

    /// The element type of input `i`.
    pub fn dtype(&self, i: usize) -> OpResult<DType> {
        Ok(self.ty(i)?.dtype)
    }

    /// The sizes of input `i`, when its rank is known.
    pub fn dims(&self, i: usize) -> OpResult<Option<&'a [Dim]>> {
        Ok(self.ty(i)?.shape.dims())
    }

    /// The data of input `i`, when it is there and known.
    pub fn data(&self, i: usize) -> Option<TensorView<'a>> {
        self.inputs.get(i).copied().flatten().and_then(|k| k.data)
    }

    /// The integers in input `i`, when it is there and known.
    pub fn ints(&self, i: usize) -> OpResult<Option<Vec<i64>>> {
        self.data(i).map(|d| d.ints()).transpose()
    }

    /// The integers in input `i`, when it is there and they are known, be it as expressions over
    /// symbols, for a shape rule.
    pub fn sizes(&self, i: usize) -> OpResult<Option<Vec<Dim>>> {
        match self.ints(i)? {
            Some(ints) => Ok(Some(ints.into_iter().map(Dim::constant).collect())),
            None => Ok(self.sizes.get(i).copied().flatten().map(<[Dim]>::to_vec)),
        }
    }

    /// A size that only running tells: a symbol of its own.
    pub fn unknown_dim(&self) -> Dim {
        let n = self.next_symbol.get();
        self.next_symbol.set(n + 1);
        Dim::symbol(format!("?{n}"))
    }

    /// A shape of `rank` unknown sizes.
    pub fn unknown_dims(&self, rank: usize) -> Shape {
        Shape::new((0..rank).map(|_| self.unknown_dim()).collect())
    }
}

fn missing(i: usize) -> OpError {
    OpError::new(format!("input {i} is missing"))
}

/// Runs graphs on behalf of control-flow ops.
pub trait Runner {
    /// Runs `graph` on `inputs`, one for each of its inputs, and returns its outputs.
    fn run_subgraph(&self, graph: &Graph, inputs: &[TensorView<'_>]) -> OpResult<Vec<Tensor>>;
}

/// The inputs of a reference implementation.
pub struct Inputs<'a> {
    views: &'a [Option<TensorView<'a>>],
    runner: &'a dyn Runner,
}

impl<'a> Inputs<'a> {
    /// Over `views`; `None` is an optional input left out.
    pub fn new(views: &'a [Option<TensorView<'a>>], runner: &'a dyn Runner) -> Inputs<'a> {
        Inputs { views, runner }
    }

    /// How many inputs the node lists, left-out ones included.
    pub fn len(&self) -> usize {
        self.views.len()
    }

    /// Whether the node lists no inputs.
    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// Input `i`; an error where it is left out.
    pub fn get(&self, i: usize) -> OpResult<TensorView<'a>> {
        self.opt(i).ok_or_else(|| missing(i))
    }

    /// Input `i`, if it is there.
    pub fn opt(&self, i: usize) -> Option<TensorView<'a>> {
        self.views.get(i).copied().flatten()
    }

    /// The elements of input `i`.
    pub fn slice<T: Element>(&self, i: usize) -> OpResult<&'a [T]> {
        self.get(i)?.slice()
    }

    /// The quantisation of input `i`; an error where it has none.
    pub fn quant(&self, i: usize) -> OpResult<&'a Quant> {
        self.get(i)?.quant.ok_or_else(|| OpError::new(format!("input {i} is not quantised")))
    }

    /// The first `n` of them.
    pub fn first(&self, n: usize) -> Inputs<'a> {
        Inputs { views: &self.views[..n.min(self.views.len())], runner: self.runner }
    }

    /// All inputs.
    pub fn all(&self) -> &'a [Option<TensorView<'a>>] {
        self.views
    }

    /// The sizes of the `outputs` outputs of `op` on these inputs, by its own shape rule: for
    /// reference implementations of ops whose sizes depend on data. [`Outputs::dims`] costs less.
    pub fn output_dims(&self, op: &dyn Op, outputs: usize) -> OpResult<SmallVec<[Dims; 2]>> {
        let types: Vec<Option<ValueType>> = self
            .views
            .iter()
            .map(|v| {
                v.map(|v| ValueType {
                    dtype: v.dtype,
                    shape: v.dims.into(),
                    quant: v.quant.cloned().map(Arc::new),
                })
            })
            .collect();
        let known: Vec<Option<Known<'_>>> = types
            .iter()
            .zip(self.views)
            .map(|(ty, view)| ty.as_ref().map(|ty| Known { ty, data: *view }))
            .collect();
        let found = op.infer(&InferCx::new(&known, outputs, &Cell::new(0)))?;
        found.iter().map(|ty| fixed_dims(&ty.shape)).collect()
    }

    /// Runs a subgraph.
    pub fn run(&self, graph: &Graph, inputs: &[TensorView<'_>]) -> OpResult<Vec<Tensor>> {
        self.runner.run_subgraph(graph, inputs)
    }
}

/// Where one output goes: memory planned before, or a tensor made when its sizes are known.
pub enum Slot<'a> {
    /// Planned memory: the op must produce just this type and these sizes.
    Planned {
        /// Element type.
        dtype: DType,
        /// Sizes.
        dims: &'a [usize],
        /// Memory of that many elements, aligned; its content is arbitrary.
        bytes: &'a mut [u8],
        /// Quantisation that the graph gives the output.
        quant: Option<&'a Quant>,
    },
    /// To be made.
    Open {
        /// Quantisation that the graph gives the output.
        quant: Option<&'a Quant>,
        /// The tensor made.
        tensor: Option<Tensor>,
    },
}

/// The content of a piece of state, for an op that reads and changes it in place.
pub struct StateMut<'a> {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub dims: &'a [usize],
    /// Row-major elements, aligned for the element type.
    pub bytes: &'a mut [u8],
}

impl<'a> StateMut<'a> {
    /// The elements. Fails where `T` is not the state's element type.
    pub fn into_slice<T: Element>(self) -> OpResult<&'a mut [T]> {
        if self.dtype != T::DTYPE {
            return Err(OpError::new(format!("a state of {}, found {}", T::DTYPE, self.dtype)));
        }
        cast_mut(self.bytes)
    }
}

/// The outputs of a reference implementation, and the state that it changes in place. Where
/// memory comes from is the slots' business.
pub struct Outputs<'a> {
    slots: SmallVec<[Slot<'a>; 8]>,
    state: Option<StateMut<'a>>,
}

impl<'a> Outputs<'a> {
    /// Over one slot for each output. Up to eight take no allocation.
    pub fn new(slots: impl IntoIterator<Item = Slot<'a>>) -> Outputs<'a> {
        Outputs { slots: slots.into_iter().collect(), state: None }
    }

    /// The same, with the content of the state that the op names.
    #[must_use]
    pub fn with_state(self, state: Option<StateMut<'a>>) -> Outputs<'a> {
        Outputs { state, ..self }
    }

    /// The content of the state that the op names, to read and to change. Handed out once.
    pub fn take_state(&mut self) -> OpResult<StateMut<'a>> {
        self.state.take().ok_or_else(|| OpError::new("its state is reached by whole graphs only"))
    }

    /// The slots again, when the op has run.
    pub fn into_slots(self) -> impl Iterator<Item = Slot<'a>> {
        self.slots.into_iter()
    }

    /// How many outputs the node has.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The quantisation of output `i`; an error where it has none.
    pub fn quant(&self, i: usize) -> OpResult<&'a Quant> {
        self.opt_quant(i).ok_or_else(|| OpError::new(format!("output {i} is not quantised")))
    }

    /// The quantisation of output `i`, if it has one.
    pub fn opt_quant(&self, i: usize) -> Option<&'a Quant> {
        match self.slots.get(i)? {
            Slot::Planned { quant, .. } | Slot::Open { quant, .. } => *quant,
        }
    }

    /// The sizes of all outputs of `op`, whose shape rule looks at no data but constants: as
    /// planned where they are, else by that rule. What a reference implementation need not
    /// compute again.
    pub fn dims(&self, op: &dyn Op, inputs: &Inputs<'_>) -> OpResult<SmallVec<[Dims; 2]>> {
        let planned = |slot: &Slot<'_>| match slot {
            Slot::Planned { dims, .. } => Some(Dims::from_slice(dims)),
            Slot::Open { .. } => None,
        };
        match self.slots.iter().map(planned).collect() {
            Some(dims) => Ok(dims),
            None => inputs.output_dims(op, self.len()),
        }
    }

    /// The memory of output `i`, which is of `dtype` and `dims`; its content is arbitrary.
    pub fn bytes(&mut self, i: usize, dtype: DType, dims: &[usize]) -> OpResult<&mut [u8]> {
        slot_bytes(&mut self.slots[i], i, dtype, dims)
    }

    /// The elements of output `i`, which is of sizes `dims`; their content is arbitrary.
    pub fn slice<T: Element>(&mut self, i: usize, dims: &[usize]) -> OpResult<&mut [T]> {
        cast_mut(self.bytes(i, T::DTYPE, dims)?)
    }

    /// The elements of outputs `i` and `i + 1` at once.
    pub fn pair<A: Element, B: Element>(
        &mut self,
        i: usize,
        first: &[usize],
        second: &[usize],
    ) -> OpResult<(&mut [A], &mut [B])> {
        let (a, b) = self.slots.split_at_mut(i + 1);
        Ok((
            cast_mut(slot_bytes(&mut a[i], i, A::DTYPE, first)?)?,
            cast_mut(slot_bytes(&mut b[0], i + 1, B::DTYPE, second)?)?,
        ))
    }

    /// Sets output `i` to a copy of `view`.
    pub fn put(&mut self, i: usize, view: &TensorView<'_>) -> OpResult {
        self.bytes(i, view.dtype, view.dims)?.copy_from_slice(view.bytes);
        Ok(())
    }
}

fn slot_bytes<'s>(
    slot: &'s mut Slot<'_>,
    i: usize,
    dtype: DType,
    dims: &[usize],
) -> OpResult<&'s mut [u8]> {
    match slot {
        Slot::Planned { dtype: want, dims: planned, bytes, .. } => {
            if *want == dtype && *planned == dims && bytes.len() == dtype.bytes_of(dims)? {
                Ok(bytes)
            } else {
                Err(OpError::new(format!(
                    "output {i} was planned as {want}{planned:?} and came out as {dtype}{dims:?}"
                )))
            }
        }
        Slot::Open { tensor, .. } => {
            let same = |t: &Tensor| t.dtype() == dtype && t.dims() == dims;
            if !tensor.as_ref().is_some_and(same) {
                *tensor = Some(Tensor::zeros(dtype, dims)?);
            }
            match tensor {
                Some(tensor) => Ok(tensor.bytes_mut()),
                None => unreachable!("the tensor was just made"),
            }
        }
    }
}

/// `Dims` of a shape that must be known by now.
pub(crate) fn fixed_dims(shape: &Shape) -> OpResult<Dims> {
    shape.fixed().ok_or_else(|| OpError::new(format!("sizes {shape} are not known")))
}
