//! What a step of a plan is: a kernel bound to its attributes and packed weights.

use crate::Pool;
use crate::bands::Banded;
use kinglet_graph::{DType, Element, OpError, OpResult, Quant, StateMut, TensorView};

/// A node made ready to run: sizes known, weights packed, instruction set chosen.
pub trait Kernel: Send + Sync {
    /// Computes every element of the outputs. Allocates nothing.
    fn run(&self, io: &mut Io<'_>) -> OpResult;

    /// Which implementation this is, for people: `qgemm avx512vnni 16x4`, say.
    fn describe(&self) -> String;

    /// Why it is this one and runs as it does, for people; empty where nothing was to be chosen.
    fn why(&self) -> &'static str {
        ""
    }

    /// The kernel as one that can make some lines of its output by themselves, if it can.
    fn banded(&self) -> Option<&dyn Banded> {
        None
    }
}

/// A kernel and what it needs.
pub struct Lowered {
    /// The kernel.
    pub kernel: Box<dyn Kernel>,
    /// Bytes of scratch it is given, aligned to 64 where they are 4096 or more.
    pub scratch: usize,
    /// Bytes it keeps for packed weights.
    pub packed: usize,
    /// Inputs that it took in when it was made (packed weights) and does not read when it runs:
    /// they are `None` in [`Io::inputs`].
    pub absorbed: Vec<usize>,
}

impl Lowered {
    /// A kernel without scratch or packed weights.
    pub fn new(kernel: impl Kernel + 'static) -> Lowered {
        Lowered { kernel: Box::new(kernel), scratch: 0, packed: 0, absorbed: Vec::new() }
    }

    /// The same with `bytes` of scratch.
    #[must_use]
    pub fn with_scratch(self, bytes: usize) -> Lowered {
        Lowered { scratch: bytes, ..self }
    }

    /// The same with inputs absorbed into `packed` bytes.
    #[must_use]
    pub fn with_absorbed(self, inputs: &[usize], packed: usize) -> Lowered {
        Lowered { packed, absorbed: inputs.to_vec(), ..self }
    }
}

/// What a kernel works on.
pub struct Io<'a> {
    /// The node's inputs; `None` where left out or absorbed.
    pub inputs: &'a [Option<TensorView<'a>>],
    /// The node's outputs, of arbitrary content.
    pub outputs: Vec<OutView<'a>>,
    /// The content of the state that the node changes in place, if it does.
    pub state: Option<StateMut<'a>>,
    /// Scratch of the size asked for, of arbitrary content.
    pub scratch: &'a mut [u8],
    /// Threads to share the work out to.
    pub pool: &'a Pool,
}

impl<'a> Io<'a> {
    /// The elements of input `i`.
    pub fn input<T: Element>(&self, i: usize) -> OpResult<&'a [T]> {
        input(self.inputs, i)
    }

    /// The elements of output `i`.
    pub fn output<T: Element>(&mut self, i: usize) -> OpResult<&mut [T]> {
        self.outputs[i].slice_mut()
    }
}

/// The elements of number `i` of a step's inputs.
pub(crate) fn input<'a, T: Element>(
    inputs: &[Option<TensorView<'a>>],
    i: usize,
) -> OpResult<&'a [T]> {
    match inputs.get(i).copied().flatten() {
        Some(view) => view.slice(),
        None => Err(OpError::new(format!("input {i} is missing"))),
    }
}

/// One output of a kernel: planned memory of known type.
pub struct OutView<'a> {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub dims: &'a [usize],
    /// The elements' bytes, aligned for the element type.
    pub bytes: &'a mut [u8],
    /// Quantisation that the graph gives the output.
    pub quant: Option<&'a Quant>,
}

impl OutView<'_> {
    /// The elements. Fails where `T` is not the element type.
    pub fn slice_mut<T: Element>(&mut self) -> OpResult<&mut [T]> {
        if self.dtype != T::DTYPE {
            let m = format!("expected {} memory, planned as {}", T::DTYPE, self.dtype);
            return Err(OpError::new(m));
        }
        bytemuck::try_cast_slice_mut(self.bytes)
            .map_err(|e| OpError::new(format!("{} output: {e}", T::DTYPE)))
    }
}
