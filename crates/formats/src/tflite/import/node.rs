//! An operator under import: its tensors, its options, and the ops that it becomes.

use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::quantized::Clamp;
use kinglet_graph::ops::reshape::Reshape;
use kinglet_graph::{
    DType, Graph, Op, OpError, OpResult, Quant, Shape, Tensor, ValueId, ValueType,
};
use std::sync::Arc;

use super::super::flatbuffer::{FlatError, Scalar, Table, Vector};
use super::super::schema::{Operator, Tensor as FileTensor};
use super::{Builder, dtype, quant};

/// One operator, and the builder of the graph that it goes into.
pub(super) struct Node<'b, 'm> {
    pub(super) builder: &'b mut Builder<'m>,
    pub(super) operator: &'m Operator<'m>,
    /// The node's name: the file's name of its first output.
    pub(super) name: String,
    outputs: Vec<ValueId>,
    written: Vec<bool>,
}

/// Fused activations of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fused {
    None,
    Relu,
    ReluN1To1,
    Relu6,
    Tanh,
}

impl Fused {
    fn from_code(code: i8) -> OpResult<Fused> {
        Ok(match code {
            0 => Fused::None,
            1 => Fused::Relu,
            2 => Fused::ReluN1To1,
            3 => Fused::Relu6,
            4 => Fused::Tanh,
            _ => return Err(OpError::new(format!("fused activation {code} is not supported"))),
        })
    }

    /// For float ops.
    pub(super) fn float(self) -> Activation {
        use kinglet_graph::ops::unary::Unary;
        match self {
            Fused::None => Activation::None,
            Fused::Relu => Activation::Relu,
            Fused::ReluN1To1 => Activation::ReluN1To1,
            Fused::Relu6 => Activation::Relu6,
            Fused::Tanh => Activation::Function(Unary::Tanh),
        }
    }

    /// The limits on stored integers of `ty`, which it leaves.
    pub(super) fn clamp(self, ty: &ValueType) -> OpResult<Clamp> {
        let (low, high) = match self {
            Fused::None => (None, None),
            Fused::Relu => (Some(0.0), None),
            Fused::ReluN1To1 => (Some(-1.0), Some(1.0)),
            Fused::Relu6 => (Some(0.0), Some(6.0)),
            Fused::Tanh => {
                return Err(OpError::new("tanh fused into an integer op is not supported"));
            }
        };
        Clamp::within(ty.dtype, (low, high), ty.quant.as_deref())
    }
}

impl<'b, 'm> Node<'b, 'm> {
    pub(super) fn new(
        builder: &'b mut Builder<'m>,
        operator: &'m Operator<'m>,
        index: usize,
    ) -> OpResult<Self> {
        let mut outputs = Vec::with_capacity(operator.outputs.len());
        for tensor in &operator.outputs {
            if builder.values[*tensor].is_some() {
                return Err(OpError::new(format!("tensor {tensor} is computed twice")));
            }
            let info = &builder.source.tensors[*tensor];
            let ty = builder.declared_type(*tensor)?;
            let id = builder.graph.add_value(info.name.clone(), ty);
            outputs.push(id);
        }
        let first = operator.outputs.first().map(|t| builder.source.tensors[*t].name.clone());
        let name = first.filter(|n| !n.is_empty()).unwrap_or_else(|| format!("operator {index}"));
        let written = vec![false; outputs.len()];
        Ok(Node { builder, operator, name, outputs, written })
    }

    /// Makes the outputs visible to the operators after this one.
    pub(super) fn finish(self) -> OpResult {
        if let Some(i) = self.written.iter().position(|w| !w) {
            return Err(OpError::new(format!("its output {i} is not supported")));
        }
        for (tensor, id) in self.operator.outputs.iter().zip(&self.outputs) {
            if self.builder.values[*tensor].is_some() {
                return Err(OpError::new(format!("tensor {tensor} is computed twice")));
            }
            self.builder.values[*tensor] = Some(*id);
        }
        Ok(())
    }

    pub(super) fn graph(&mut self) -> &mut Graph {
        &mut self.builder.graph
    }

    // Inputs.

    /// How many inputs the operator lists.
    pub(super) fn len(&self) -> usize {
        self.operator.inputs.len()
    }

    /// What the file says of input `i`.
    pub(super) fn opt_info(&self, i: usize) -> Option<&'m FileTensor> {
        let tensor = self.operator.inputs.get(i).copied().flatten()?;
        Some(&self.builder.source.tensors[tensor])
    }

    /// What the file says of input `i`; an error where it is left out.
    pub(super) fn info(&self, i: usize) -> OpResult<&'m FileTensor> {
        self.opt_info(i).ok_or_else(|| OpError::new(format!("input {i} is missing")))
    }

    /// What the file says of output `i`.
    pub(super) fn out_info(&self, i: usize) -> OpResult<&'m FileTensor> {
        let tensor = self.operator.outputs.get(i).copied();
        let tensor = tensor.ok_or_else(|| OpError::new(format!("output {i} is missing")))?;
        Ok(&self.builder.source.tensors[tensor])
    }

    /// Input `i`, if it is there.
    pub(super) fn opt(&mut self, i: usize) -> OpResult<Option<ValueId>> {
        match self.operator.inputs.get(i).copied().flatten() {
            Some(tensor) => self.builder.value(tensor).map(Some),
            None => Ok(None),
        }
    }

    /// Input `i`; an error where it is left out.
    pub(super) fn input(&mut self, i: usize) -> OpResult<ValueId> {
        self.opt(i)?.ok_or_else(|| OpError::new(format!("input {i} is missing")))
    }

    /// All inputs.
    pub(super) fn inputs(&mut self) -> OpResult<Vec<Option<ValueId>>> {
        (0..self.len()).map(|i| self.opt(i)).collect()
    }

    /// The element type and quantisation of input `i`.
    pub(super) fn ty(&self, i: usize) -> OpResult<ValueType> {
        let info = self.info(i)?;
        Ok(ValueType { dtype: dtype(info.dtype)?, shape: Shape::unknown(), quant: quant(info) })
    }

    /// The element type of input `i`.
    pub(super) fn dtype(&self, i: usize) -> OpResult<DType> {
        dtype(self.info(i)?.dtype)
    }

    /// The element type and quantisation of output `i`.
    pub(super) fn out_ty(&self, i: usize) -> OpResult<ValueType> {
        let info = self.out_info(i)?;
        Ok(ValueType { dtype: dtype(info.dtype)?, shape: Shape::unknown(), quant: quant(info) })
    }

    /// Whether input `i` holds integers of 8 or 16 bits that stand for other numbers.
    pub(super) fn is_quantized(&self, i: usize) -> OpResult<bool> {
        let ty = self.ty(i)?;
        Ok(ty.quant.is_some() && matches!(ty.dtype, DType::I8 | DType::U8 | DType::I16))
    }

    /// The data of constant input `i`.
    pub(super) fn constant(&self, i: usize) -> OpResult<Tensor> {
        let tensor = self.operator.inputs.get(i).copied().flatten();
        let tensor = tensor.ok_or_else(|| OpError::new(format!("input {i} is missing")))?;
        self.builder.constant(tensor)?.ok_or_else(|| {
            OpError::new(format!("input {i} must be constant; computed ones are not supported"))
        })
    }

    /// The integers of constant input `i`.
    pub(super) fn ints(&self, i: usize) -> OpResult<Vec<i64>> {
        self.constant(i)?.view().ints()
    }

    // Options.

    fn options(&self) -> Option<Table<'m>> {
        self.operator.options
    }

    /// A field of the operator's options.
    pub(super) fn option<T: Scalar>(&self, field: usize, default: T) -> OpResult<T> {
        self.options().map_or(Ok(default), |t| t.scalar(field, default)).map_err(flat)
    }

    /// A list of the operator's options.
    pub(super) fn list<T: Scalar>(&self, field: usize) -> OpResult<Vec<T>> {
        let list: Option<Vector<'_, T>> =
            self.options().map(|t| t.vector(field)).transpose().map_err(flat)?;
        Ok(list.map(|l| l.iter().collect()).unwrap_or_default())
    }

    /// A string of the operator's options.
    pub(super) fn text(&self, field: usize) -> OpResult<String> {
        self.options().map_or(Ok(String::new()), |t| t.string(field)).map_err(flat)
    }

    /// The fused activation in a field of the options.
    pub(super) fn fused(&self, field: usize) -> OpResult<Fused> {
        Fused::from_code(self.option(field, 0i8)?)
    }

    // Outputs.

    /// Output `i`.
    pub(super) fn output(&self, i: usize) -> OpResult<ValueId> {
        self.outputs.get(i).copied().ok_or_else(|| OpError::new(format!("output {i} is missing")))
    }

    /// How many outputs.
    pub(super) fn output_count(&self) -> usize {
        self.outputs.len()
    }

    /// Adds an op that computes output 0.
    pub(super) fn emit(&mut self, op: impl Op, inputs: Vec<Option<ValueId>>) -> OpResult {
        let out = self.output(0)?;
        self.emit_to(op, inputs, vec![out])
    }

    /// Adds an op that computes all outputs.
    pub(super) fn emit_all(&mut self, op: impl Op, inputs: Vec<Option<ValueId>>) -> OpResult {
        let outputs = self.outputs.clone();
        self.emit_to(op, inputs, outputs)
    }

    /// Adds an op that computes `outputs`, of the operator's own or made by [`Node::temp`].
    pub(super) fn emit_to(
        &mut self,
        op: impl Op,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<ValueId>,
    ) -> OpResult {
        for (written, own) in self.written.iter_mut().zip(&self.outputs) {
            *written |= outputs.contains(own);
        }
        let name = self.name.clone();
        self.graph().add_node(name, op, inputs, outputs);
        Ok(())
    }

    /// Lets output `i` be a value that exists already.
    pub(super) fn alias(&mut self, i: usize, value: ValueId) -> OpResult {
        self.output(i)?;
        self.outputs[i] = value;
        self.written[i] = true;
        Ok(())
    }

    /// A value inside the operator.
    pub(super) fn temp(&mut self, ty: ValueType) -> ValueId {
        let name = self.name.clone();
        self.graph().add_value(name, ValueType { shape: Shape::unknown(), ..ty })
    }

    /// Adds an op whose one output is a new value of element type `dtype`, and returns it.
    pub(super) fn apply(
        &mut self,
        op: impl Op,
        inputs: Vec<Option<ValueId>>,
        dtype: DType,
        quant: Option<Arc<Quant>>,
    ) -> OpResult<ValueId> {
        let out = self.temp(ValueType { dtype, shape: Shape::unknown(), quant });
        self.emit_to(op, inputs, vec![out])?;
        Ok(out)
    }

    /// A constant inside the operator.
    pub(super) fn constant_ints(&mut self, values: &[i64]) -> OpResult<ValueId> {
        let data = Tensor::from_slice(&[values.len()], values)?;
        let name = self.name.clone();
        Ok(self.graph().add_constant(name, data))
    }

    /// `value`, of element type and quantisation `ty`, under other sizes.
    pub(super) fn reshaped(
        &mut self,
        value: ValueId,
        ty: ValueType,
        sizes: &[i64],
    ) -> OpResult<ValueId> {
        let sizes = self.constant_ints(sizes)?;
        self.apply(Reshape::default(), vec![Some(value), Some(sizes)], ty.dtype, ty.quant)
    }

    /// That the inputs `range` and output 0 have one quantisation, as an op that moves stored
    /// numbers needs.
    pub(super) fn same_quantization(&self, range: impl Iterator<Item = usize>) -> OpResult {
        let out = self.out_ty(0)?;
        for i in range {
            let ty = self.ty(i)?;
            let differ = match (&ty.quant, &out.quant) {
                (Some(a), Some(b)) => a.scale != b.scale || a.zero_point != b.zero_point,
                _ => false,
            };
            if differ && self.is_quantized(i)? {
                return Err(OpError::new(format!(
                    "input {i} has another quantisation than the output"
                )));
            }
        }
        Ok(())
    }
}

/// A damaged option.
pub(super) fn flat(error: FlatError) -> OpError {
    OpError::new(format!("its options are damaged: {error}"))
}
