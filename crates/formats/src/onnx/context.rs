//! What an import function sees of its node: inputs, attributes, and ways to build.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kinglet_graph::{
    DType, GraphError, Op, OpError, OpResult, Quant, Shape, Tensor, ValueId, ValueType,
};

use super::import::{Body, Importer, domain};
use super::proto::{self, Attribute, AttributeValue};
use super::{data, ops};

/// What holds for all nodes of a graph or a function.
pub struct Context<'c> {
    /// The version of each operator set.
    pub opsets: &'c [(&'c str, i64)],
    /// Within a function: the attributes of its call.
    pub attributes: &'c HashMap<&'c str, &'c AttributeValue<'c>>,
}

impl<'c> Context<'c> {
    /// The version of an operator set, if the file imports it.
    fn version(&self, of: &str) -> Option<i64> {
        self.opsets.iter().find(|(name, _)| domain(name) == of).map(|(_, v)| *v)
    }

    /// Refuses versions that do not exist yet: what an op means there is not known.
    pub fn check_opsets(&self) -> Result<(), GraphError> {
        match self.version("") {
            Some(v) if !(1..=ops::NEWEST_OPSET).contains(&v) => {
                let m = format!(
                    "it uses operator set {v}; 6 to {} are supported: convert it with \
                     onnx.version_converter",
                    ops::NEWEST_OPSET
                );
                Err(GraphError::new("ONNX file", m))
            }
            _ => Ok(()),
        }
    }

    /// A node's attributes, references to the function's attributes replaced by what the call
    /// gives; those it does not give are left out.
    pub fn resolve<'n>(
        &self,
        attributes: &'n [Attribute<'n>],
    ) -> Vec<(&'n str, &'n AttributeValue<'n>)>
    where
        'c: 'n,
    {
        let value = |a: &'n Attribute<'n>| match a.reference {
            "" => Some(&a.value),
            reference => self.attributes.get(reference).copied(),
        };
        attributes.iter().filter_map(|a| Some((a.name, value(a)?))).collect()
    }
}

/// One node being imported.
pub struct Cx<'c, 'm> {
    importer: &'c mut Importer<'m>,
    context: &'c Context<'c>,
    name: &'c str,
    domain: &'c str,
    op_type: &'c str,
    version: i64,
    inputs: Vec<Option<ValueId>>,
    attributes: Vec<(&'c str, &'c AttributeValue<'c>)>,
    read: RefCell<HashSet<String>>,
    wanted: Vec<bool>,
    results: Vec<ValueId>,
}

fn error<T>(message: impl Into<String>) -> OpResult<T> {
    Err(OpError::new(message))
}

impl<'c, 'm> Cx<'c, 'm> {
    /// A node of the file, or one that a composition makes.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        importer: &'c mut Importer<'m>,
        context: &'c Context<'c>,
        name: &'c str,
        domain: &'c str,
        op_type: &'c str,
        inputs: Vec<Option<ValueId>>,
        attributes: Vec<(&'c str, &'c AttributeValue<'c>)>,
        wanted: Vec<bool>,
    ) -> Self {
        let version = context.version(domain).unwrap_or(0);
        Self {
            importer,
            context,
            name,
            domain,
            op_type,
            version,
            inputs,
            attributes,
            read: RefCell::default(),
            wanted,
            results: Vec::new(),
        }
    }

    /// Imports the node by its table entry: its outputs.
    pub fn run(mut self) -> OpResult<Vec<ValueId>> {
        if self.version == 0 {
            let domain = self.domain;
            return error(format!(
                "the file does not import the operator set '{domain}' of this op"
            ));
        }
        let import = ops::find(self.domain, self.op_type, self.version)?;
        import(&mut self)?;
        let read = self.read.borrow();
        if let Some((name, _)) = self.attributes.iter().find(|(name, _)| !read.contains(*name)) {
            return error(format!(
                "attribute '{name}' is not supported here (opset {})",
                self.version
            ));
        }
        drop(read);
        Ok(self.results)
    }

    /// The version of the op's operator set that the file is written for.
    pub fn version(&self) -> i64 {
        self.version
    }

    // Inputs.

    /// How many inputs the node lists.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Input `i`, if it is there.
    pub fn opt(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// Input `i`.
    pub fn input(&self, i: usize) -> OpResult<ValueId> {
        self.opt(i).ok_or_else(|| OpError::new(format!("input {i} is missing")))
    }

    /// All inputs.
    pub fn inputs(&self) -> Vec<Option<ValueId>> {
        self.inputs.clone()
    }

    /// The first `n` inputs, missing ones at the end included.
    pub fn first_inputs(&self, n: usize) -> Vec<Option<ValueId>> {
        (0..n).map(|i| self.opt(i)).collect()
    }

    /// Fails where more than `n` inputs are given.
    pub fn at_most(&self, n: usize) -> OpResult {
        match self.inputs.len() > n && self.inputs[n..].iter().any(Option::is_some) {
            true => error(format!("has {} inputs, takes at most {n}", self.inputs.len())),
            false => Ok(()),
        }
    }

    /// The type of a value.
    pub fn ty(&mut self, id: ValueId) -> ValueType {
        self.importer.graph().value(id).ty.clone()
    }

    /// The element type of a value.
    pub fn dtype(&mut self, id: ValueId) -> DType {
        self.importer.graph().value(id).ty.dtype
    }

    /// The rank of a value; an error where it is not known when loading.
    pub fn rank(&mut self, id: ValueId) -> OpResult<usize> {
        let rank = self.importer.graph().value(id).ty.shape.rank();
        rank.ok_or_else(|| {
            OpError::new("the rank of its input is not known when loading: give the model's inputs fixed shapes")
        })
    }

    /// The data of a value, where it is a constant.
    pub fn data(&mut self, id: ValueId) -> Option<Tensor> {
        self.importer.graph().value(id).data.clone()
    }

    // Attributes.

    /// An attribute's value, which counts as read; `None` where the node does not have it.
    pub fn attribute(&self, name: &str) -> Option<&'c AttributeValue<'c>> {
        self.read.borrow_mut().insert(name.into());
        self.attributes.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    fn typed<T>(
        &self,
        name: &str,
        kind: &str,
        get: impl FnOnce(&'c AttributeValue<'c>) -> Option<T>,
    ) -> OpResult<Option<T>> {
        let Some(value) = self.attribute(name) else { return Ok(None) };
        match get(value) {
            Some(value) => Ok(Some(value)),
            None => error(format!("attribute '{name}' should be {kind}")),
        }
    }

    /// An integer.
    pub fn opt_int(&self, name: &str) -> OpResult<Option<i64>> {
        self.typed(name, "an integer", |v| match v {
            AttributeValue::Int(v) => Some(*v),
            _ => None,
        })
    }

    /// An integer with a default.
    pub fn int(&self, name: &str, default: i64) -> OpResult<i64> {
        Ok(self.opt_int(name)?.unwrap_or(default))
    }

    /// An integer that stands for a truth value.
    pub fn flag(&self, name: &str, default: bool) -> OpResult<bool> {
        Ok(self.opt_int(name)?.map_or(default, |v| v != 0))
    }

    /// A float.
    pub fn opt_float(&self, name: &str) -> OpResult<Option<f32>> {
        self.typed(name, "a float", |v| match v {
            AttributeValue::Float(v) => Some(*v),
            _ => None,
        })
    }

    /// A float with a default.
    pub fn float(&self, name: &str, default: f32) -> OpResult<f32> {
        Ok(self.opt_float(name)?.unwrap_or(default))
    }

    /// A string.
    pub fn opt_str(&self, name: &str) -> OpResult<Option<&'c str>> {
        self.typed(name, "a string", |v| match v {
            AttributeValue::String(v) => std::str::from_utf8(v).ok(),
            _ => None,
        })
    }

    /// A string with a default.
    pub fn str(&self, name: &str, default: &'static str) -> OpResult<&'c str> {
        Ok(self.opt_str(name)?.unwrap_or(default))
    }

    /// A list of integers.
    pub fn opt_ints(&self, name: &str) -> OpResult<Option<&'c [i64]>> {
        self.typed(name, "a list of integers", |v| match v {
            AttributeValue::Ints(v) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// A list of sizes (integers that are not negative).
    pub fn opt_sizes(&self, name: &str) -> OpResult<Option<Vec<usize>>> {
        let Some(ints) = self.opt_ints(name)? else { return Ok(None) };
        let sizes = ints.iter().map(|v| usize::try_from(*v).ok()).collect::<Option<Vec<_>>>();
        match sizes {
            Some(sizes) => Ok(Some(sizes)),
            None => error(format!("attribute '{name}' should not be negative, is {ints:?}")),
        }
    }

    /// A list of floats.
    pub fn opt_floats(&self, name: &str) -> OpResult<Option<&'c [f32]>> {
        self.typed(name, "a list of floats", |v| match v {
            AttributeValue::Floats(v) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// A list of strings.
    pub fn opt_strs(&self, name: &str) -> OpResult<Option<Vec<&'c str>>> {
        self.typed(name, "a list of strings", |v| match v {
            AttributeValue::Strings(v) => {
                v.iter().map(|s| std::str::from_utf8(s).ok()).collect::<Option<Vec<_>>>()
            }
            _ => None,
        })
    }

    /// A tensor.
    pub fn opt_tensor(&self, name: &str) -> OpResult<Option<Tensor>> {
        let proto = self.typed(name, "a tensor", |v| match v {
            AttributeValue::Tensor(v) => Some(&**v),
            _ => None,
        })?;
        proto.map(|t| self.tensor_of(name, t)).transpose()
    }

    fn tensor_of(&self, name: &str, tensor: &proto::Tensor<'_>) -> OpResult<Tensor> {
        self.importer
            .weights
            .tensor(tensor)
            .map_err(|m| OpError::new(format!("the tensor of attribute '{name}' {m}")))
    }

    /// A sparse tensor, made dense.
    pub fn opt_sparse(&self, name: &str) -> OpResult<Option<Tensor>> {
        let proto = self.typed(name, "a sparse tensor", |v| match v {
            AttributeValue::SparseTensor(v) => Some(&**v),
            _ => None,
        })?;
        let Some(proto) = proto else { return Ok(None) };
        match self.importer.weights.sparse(proto) {
            Ok(tensor) => Ok(Some(tensor)),
            Err(m) => error(format!("the tensor of attribute '{name}' {m}")),
        }
    }

    /// A body.
    pub fn graph(&self, name: &str) -> OpResult<&'c proto::Graph<'c>> {
        let graph = self.typed(name, "a graph", |v| match v {
            AttributeValue::Graph(v) => Some(&**v),
            _ => None,
        })?;
        graph.ok_or_else(|| OpError::new(format!("attribute '{name}' is missing")))
    }

    /// An element type by its number.
    pub fn opt_dtype(&self, name: &str) -> OpResult<Option<DType>> {
        let Some(id) = self.opt_int(name)? else { return Ok(None) };
        match data::dtype(id) {
            Ok(dtype) => Ok(Some(dtype)),
            Err(m) => error(format!("attribute '{name}' {m}")),
        }
    }

    /// An attribute that the op must have.
    pub fn need<T>(&self, name: &str, value: Option<T>) -> OpResult<T> {
        value.ok_or_else(|| OpError::new(format!("attribute '{name}' is missing")))
    }

    /// Marks attributes that change nothing about the result as read.
    pub fn ignore(&self, names: &[&str]) {
        for name in names {
            self.read.borrow_mut().insert((*name).into());
        }
    }

    // Building.

    /// How many outputs the node lists; those at the end that nothing names do not count.
    pub fn output_count(&self) -> usize {
        self.wanted.iter().rposition(|w| *w).map_or(0, |i| i + 1)
    }

    /// How many outputs the node lists, unnamed ones included.
    pub fn listed_outputs(&self) -> usize {
        self.wanted.len()
    }

    /// [`emit_on`](Self::emit_on) for an op to which the number of outputs has a meaning.
    pub fn emit_listed(&mut self, op: impl Op, inputs: Vec<Option<ValueId>>) -> OpResult {
        self.results = self.importer.apply(self.name, Arc::new(op), inputs, self.wanted.len())?;
        Ok(())
    }

    /// What a part of the import function made the node's one output.
    pub fn result(&self) -> OpResult<ValueId> {
        match self.results[..] {
            [one] => Ok(one),
            _ => error("it has no single output"),
        }
    }

    /// Whether the node names output `i`.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }

    /// Fails where the node names more outputs than `n`.
    pub fn at_most_outputs(&self, n: usize) -> OpResult {
        match self.output_count() > n {
            true => error(format!("output {n} is not supported")),
            false => Ok(()),
        }
    }

    /// Makes `op` of all of the node's inputs the node.
    pub fn emit(&mut self, op: impl Op) -> OpResult {
        self.emit_on(op, self.inputs())
    }

    /// Makes `op` of `inputs` the node: as many outputs as the node names.
    pub fn emit_on(&mut self, op: impl Op, inputs: Vec<Option<ValueId>>) -> OpResult {
        let outputs = self.output_count().max(1);
        self.results = self.importer.apply(self.name, Arc::new(op), inputs, outputs)?;
        Ok(())
    }

    /// Makes `value` the node's one output.
    pub fn finish(&mut self, value: ValueId) {
        self.results = vec![value];
    }

    /// Makes `values` the node's outputs.
    pub fn finish_all(&mut self, values: Vec<ValueId>) {
        self.results = values;
    }

    /// Applies an op of one output, as a part of the node.
    pub fn apply(&mut self, op: impl Op, inputs: &[ValueId]) -> OpResult<ValueId> {
        Ok(self.apply_many(op, inputs.iter().copied().map(Some).collect(), 1)?[0])
    }

    /// Applies an op of several outputs, as a part of the node.
    pub fn apply_many(
        &mut self,
        op: impl Op,
        inputs: Vec<Option<ValueId>>,
        outputs: usize,
    ) -> OpResult<Vec<ValueId>> {
        self.importer.apply(self.name, Arc::new(op), inputs, outputs)
    }

    /// A constant.
    pub fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.importer.graph().add_constant("", tensor)
    }

    /// `id` as a value of this quantisation; `None` where it has another and is no constant.
    pub fn quantised(&mut self, id: ValueId, quant: &Arc<Quant>) -> Option<ValueId> {
        let graph = self.importer.graph();
        let value = graph.value_mut(id);
        let own = value.ty.quant.clone();
        match own.as_deref() {
            Some(own) if *own == **quant => Some(id),
            Some(_) => {
                let data = value.data.clone()?.with_quant(Some(quant.clone()));
                Some(graph.add_constant("", data))
            }
            None => {
                value.ty.quant = Some(quant.clone());
                value.data = value.data.take().map(|data| data.with_quant(Some(quant.clone())));
                Some(id)
            }
        }
    }

    /// A constant list of integers.
    pub fn ints(&mut self, values: &[i64]) -> OpResult<ValueId> {
        Ok(self.constant(Tensor::from_slice(&[values.len()], values)?))
    }

    /// Applies the ONNX op `op_type` of the newest operator set, as a part of the node: what
    /// compositions are written with.
    pub fn call(
        &mut self,
        op_type: &str,
        inputs: &[ValueId],
        attributes: &[(&str, AttributeValue<'_>)],
    ) -> OpResult<ValueId> {
        let inputs = inputs.iter().copied().map(Some).collect();
        Ok(self.call_many(op_type, inputs, attributes, 1)?[0])
    }

    /// [`call`](Self::call) for an op of several outputs or with inputs left out.
    pub fn call_many(
        &mut self,
        op_type: &str,
        inputs: Vec<Option<ValueId>>,
        attributes: &[(&str, AttributeValue<'_>)],
        outputs: usize,
    ) -> OpResult<Vec<ValueId>> {
        let newest = Context { opsets: &[("", ops::NEWEST_OPSET)], attributes: &HashMap::new() };
        let attributes = attributes.iter().map(|(name, value)| (*name, value)).collect();
        let wanted = vec![true; outputs];
        Cx::new(self.importer, &newest, self.name, "", op_type, inputs, attributes, wanted).run()
    }

    /// Expands a graph of this op, of one output, in place.
    pub fn inline(&mut self, graph: &proto::Graph<'_>, inputs: &[ValueId]) -> OpResult<ValueId> {
        let outputs = self.inline_all(graph, inputs)?;
        match outputs[..] {
            [one] => Ok(one),
            _ => error(format!("graph '{}' has {} outputs, not one", graph.name, outputs.len())),
        }
    }

    /// Expands a graph of this op in place: its outputs.
    pub fn inline_all(
        &mut self,
        graph: &proto::Graph<'_>,
        inputs: &[ValueId],
    ) -> OpResult<Vec<ValueId>> {
        self.importer
            .inline(graph, inputs, self.context)
            .map_err(|e| OpError::new(format!("in '{}', {e}", graph.name)))
    }

    /// Imports a body of this op, whose own inputs have these types.
    pub fn body(&mut self, graph: &proto::Graph<'_>, inputs: &[ValueType]) -> OpResult<Body> {
        self.importer
            .body(graph, inputs, self.context)
            .map_err(|e| OpError::new(format!("in '{}', {e}", graph.name)))
    }

    /// The same element type, with nothing known of the shape.
    pub fn unshaped(&mut self, id: ValueId) -> ValueType {
        ValueType::new(self.dtype(id), Shape::unknown())
    }
}
