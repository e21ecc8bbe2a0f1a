//! From the messages of a model file to a graph.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use kinglet_graph::{
    Bytes, Dim, Graph, GraphError, InferCx, Known, Metadata, Op, OpError, OpResult, Shape, Tensor,
    ValueId, ValueType,
};

use super::context::{Context, Cx};
use super::data;
use super::external::{ExternalFiles, Location};
use super::proto::{self, AttributeValue};
use super::wire::Budget;

/// How deep functions may call each other and bodies nest.
const MAX_NESTING: usize = 32;

/// What a node of the graph takes, roughly: the node, its output, their names, its op.
const NODE_BYTES: usize = 512;

/// Builds the graph of `model`, which was read from `bytes`.
pub fn model(
    model: &proto::Model<'_>,
    bytes: &Bytes,
    folder: Option<&Path>,
    budget: &Budget,
) -> Result<Graph, GraphError> {
    let file_error = |m: &str| GraphError::new("ONNX file", m);
    let graph = model.graph.as_ref().ok_or_else(|| {
        file_error("it holds no graph: is this an ONNX model, and was it copied whole?")
    })?;
    if model.opset_imports.is_empty() {
        return Err(file_error("it names no operator set"));
    }
    let mut functions = HashMap::new();
    for f in &model.functions {
        functions.insert((domain(f.domain), f.name, f.overload), f);
    }
    let mut importer = Importer {
        functions,
        weights: Weights::new(bytes, folder, budget),
        next_symbol: Cell::new(0),
        levels: Vec::new(),
        nesting: 0,
    };
    let context = Context { opsets: &model.opset_imports, attributes: &HashMap::new() };
    context.check_opsets()?;
    let mut graph = importer.main(graph, &context)?;
    let mut properties: Vec<(String, String)> =
        model.metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    if !model.producer.is_empty() {
        let producer = format!("{} {}", model.producer, model.producer_version);
        properties.push(("producer".into(), producer.trim().into()));
    }
    graph.metadata = Metadata { format: "onnx".into(), properties, ..Metadata::default() };
    graph.verify()?;
    Ok(graph)
}

/// The default domain has two names.
pub fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// Turns stored tensors into graph tensors.
pub struct Weights<'m> {
    bytes: &'m Bytes,
    pub budget: &'m Budget,
    external: RefCell<ExternalFiles>,
}

impl<'m> Weights<'m> {
    pub fn new(bytes: &'m Bytes, folder: Option<&Path>, budget: &'m Budget) -> Self {
        Self { bytes, budget, external: RefCell::new(ExternalFiles::new(folder)) }
    }

    /// A tensor over the file's own bytes where they are stored plainly. `Err` completes the
    /// sentence "The tensor …".
    pub fn tensor(&self, tensor: &proto::Tensor<'_>) -> Result<Tensor, String> {
        let head = data::head(tensor.data_type, tensor.dims())?;
        let bytes = if tensor.is_external {
            let location = Location::new(&tensor.external)?;
            let (map, at) = self.external.borrow_mut().get(&location, head.size)?;
            Bytes::new(map).slice(at, head.size).ok_or("has a broken range")?
        } else {
            match data::bytes(tensor, &head, self.budget)? {
                std::borrow::Cow::Borrowed(part) => self.share(part)?,
                std::borrow::Cow::Owned(own) => Bytes::new(Arc::new(own)),
            }
        };
        Tensor::from_bytes(head.dtype, &head.dims, bytes).map_err(|e| e.to_string())
    }

    /// The dense form of a sparse tensor.
    pub fn sparse(&self, sparse: &proto::SparseTensor<'_>) -> Result<Tensor, String> {
        let (Some(values), Some(indices)) = (&sparse.values, &sparse.indices) else {
            return Err("is a sparse tensor without values or indices".into());
        };
        let head = data::head(values.data_type, sparse.dims())?;
        let (values, indices) = (self.tensor(values)?, self.tensor(indices)?);
        let ints = indices.view().ints().map_err(|e| e.to_string())?;
        let rank = match indices.dims() {
            [_] => 1,
            [_, rank] if *rank == head.dims.len() && *rank > 0 => *rank,
            other => return Err(format!("has sparse indices of shape {other:?}")),
        };
        // The dense form is as large as the shape says, whatever the file holds.
        self.budget.charge(head.size).map_err(|e| e.to_string())?;
        let dense = data::densify(&head, values.raw(), &ints, rank)?;
        Tensor::from_bytes(head.dtype, &head.dims, Bytes::new(Arc::new(dense)))
            .map_err(|e| e.to_string())
    }

    /// `part` of the file, shared.
    fn share(&self, part: &[u8]) -> Result<Bytes, String> {
        let start = part.as_ptr().addr().wrapping_sub(self.bytes.as_ptr().addr());
        match self.bytes.slice(start, part.len()) {
            Some(shared) => Ok(shared),
            // A tensor that was made while reading, such as a function's default.
            None => Ok(Bytes::new(Arc::new(part.to_vec()))),
        }
    }
}

/// One graph under construction: the model's, or a body's.
struct Level {
    graph: Graph,
    /// The names in scope: the graph's own, and on top those of each function being expanded.
    frames: Vec<HashMap<String, ValueId>>,
    /// Values of the level below that this body uses: there, and here as an input.
    captures: Vec<(ValueId, ValueId)>,
}

/// The body of a control-flow op.
pub struct Body {
    /// Its graph, whose inputs are the body's own, then what it captures.
    pub graph: Graph,
    /// What the captured inputs are in the graph around.
    pub captures: Vec<ValueId>,
}

/// The import of one file.
pub struct Importer<'m> {
    functions: HashMap<(&'m str, &'m str, &'m str), &'m proto::Function<'m>>,
    pub weights: Weights<'m>,
    next_symbol: Cell<usize>,
    levels: Vec<Level>,
    nesting: usize,
}

impl Importer<'_> {
    /// The graph under construction.
    pub fn graph(&mut self) -> &mut Graph {
        &mut self.level().graph
    }

    fn level(&mut self) -> &mut Level {
        self.levels.last_mut().expect("import runs within a graph")
    }

    fn define(&mut self, name: &str, id: ValueId) -> Result<(), GraphError> {
        let frame = self.level().frames.last_mut().expect("a level has a frame");
        match frame.insert(name.into(), id) {
            None => Ok(()),
            Some(_) => Err(GraphError::new(format!("value '{name}'"), "it is defined twice")),
        }
    }

    /// The value called `name` at `level`, which may lie in a graph around it.
    fn lookup(&mut self, level: usize, name: &str) -> Result<Option<ValueId>, GraphError> {
        let at = &self.levels[level];
        if let Some(id) = at.frames.last().and_then(|frame| frame.get(name)) {
            return Ok(Some(*id));
        }
        // A function sees nothing of its caller.
        if at.frames.len() > 1 || level == 0 {
            return Ok(None);
        }
        let Some(outer) = self.lookup(level - 1, name)? else { return Ok(None) };
        self.charge(name.len()).map_err(|e| GraphError::new("graph", e.to_string()))?;
        let value = self.levels[level - 1].graph.value(outer).clone();
        let at = &mut self.levels[level];
        let inner = match value.data {
            Some(data) => at.graph.add_constant(value.name, data),
            None => {
                let inner = at.graph.add_input(value.name, value.ty);
                at.captures.push((outer, inner));
                inner
            }
        };
        at.frames[0].insert(name.into(), inner);
        Ok(Some(inner))
    }

    fn nested<T>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<T, GraphError>,
    ) -> Result<T, GraphError> {
        if self.nesting == MAX_NESTING {
            let m = format!("functions and bodies nest more than {MAX_NESTING} deep");
            return Err(GraphError::new("graph", m));
        }
        self.nesting += 1;
        let out = f(self);
        self.nesting -= 1;
        out
    }

    fn main(
        &mut self,
        graph: &proto::Graph<'_>,
        context: &Context<'_>,
    ) -> Result<Graph, GraphError> {
        self.levels.push(Level {
            graph: Graph::new(graph.name),
            frames: vec![HashMap::new()],
            captures: Vec::new(),
        });
        self.initializers(graph)?;
        for input in &graph.inputs {
            // Before IR version 4 every initializer was an input too.
            if self.level().frames[0].contains_key(input.name) {
                continue;
            }
            let ty = self.declared(input)?;
            let id = self.graph().add_input(input.name, ty);
            self.define(input.name, id)?;
        }
        self.contents(graph, context)?;
        Ok(self.levels.pop().expect("the level pushed above").graph)
    }

    /// Imports the body of a control-flow op. `inputs` are the types its own inputs have, as far
    /// as the op knows them.
    pub fn body(
        &mut self,
        graph: &proto::Graph<'_>,
        inputs: &[ValueType],
        context: &Context<'_>,
    ) -> Result<Body, GraphError> {
        if graph.inputs.len() != inputs.len() {
            let m = format!("has {} inputs, the op gives {}", graph.inputs.len(), inputs.len());
            return Err(GraphError::new(format!("body '{}'", graph.name), m));
        }
        self.nested(|this| {
            this.levels.push(Level {
                graph: Graph::new(graph.name),
                frames: vec![HashMap::new()],
                captures: Vec::new(),
            });
            this.initializers(graph)?;
            for (input, ty) in graph.inputs.iter().zip(inputs) {
                let mut ty = ty.clone();
                if ty.shape.rank().is_none() {
                    ty.shape = this.declared_sizes(input);
                }
                let id = this.graph().add_input(input.name, ty);
                this.define(input.name, id)?;
            }
            this.contents(graph, context)?;
            let level = this.levels.pop().expect("the level pushed above");
            let captures = level.captures.into_iter().map(|(outer, _)| outer).collect();
            Ok(Body { graph: level.graph, captures })
        })
    }

    /// Expands `graph` in the graph around it, whose names it sees: its outputs.
    pub fn inline(
        &mut self,
        graph: &proto::Graph<'_>,
        inputs: &[ValueId],
        context: &Context<'_>,
    ) -> Result<Vec<ValueId>, GraphError> {
        if graph.inputs.len() != inputs.len() {
            let m = format!("has {} inputs, the op gives {}", graph.inputs.len(), inputs.len());
            return Err(GraphError::new(format!("graph '{}'", graph.name), m));
        }
        self.nested(|this| {
            // Its own names hide those around it, and are forgotten again.
            let around = this.level().frames.last().expect("a level has a frame").clone();
            for (input, id) in graph.inputs.iter().zip(inputs) {
                this.hide(input.name);
                this.define(input.name, *id)?;
            }
            this.initializers(graph)?;
            for node in in_order(graph)? {
                node.outputs.iter().for_each(|name| this.hide(name));
                this.node(node, context)?;
            }
            let level = this.levels.len() - 1;
            let outputs = graph.outputs.iter().map(|o| {
                this.lookup(level, o.name)?.ok_or_else(|| {
                    GraphError::new(format!("output '{}'", o.name), "no node computes it")
                })
            });
            let outputs = outputs.collect();
            *this.level().frames.last_mut().expect("a level has a frame") = around;
            outputs
        })
    }

    fn hide(&mut self, name: &str) {
        self.level().frames.last_mut().expect("a level has a frame").remove(name);
    }

    fn initializers(&mut self, graph: &proto::Graph<'_>) -> Result<(), GraphError> {
        for tensor in &graph.initializers {
            self.initializer(tensor.name, |w| w.tensor(tensor))?;
        }
        for sparse in &graph.sparse_initializers {
            let name = sparse.values.as_ref().map_or("", |v| v.name);
            self.initializer(name, |w| w.sparse(sparse))?;
        }
        Ok(())
    }

    fn initializer(
        &mut self,
        name: &str,
        tensor: impl FnOnce(&Weights<'_>) -> Result<Tensor, String>,
    ) -> Result<(), GraphError> {
        let error = |m: String| GraphError::new(format!("initializer '{name}'"), m);
        self.charge(name.len()).map_err(|e| error(e.to_string()))?;
        let tensor = tensor(&self.weights).map_err(error)?;
        let id = self.graph().add_constant(name, tensor);
        self.define(name, id)
    }

    fn contents(
        &mut self,
        graph: &proto::Graph<'_>,
        context: &Context<'_>,
    ) -> Result<(), GraphError> {
        for node in in_order(graph)? {
            self.node(node, context)?;
        }
        for output in &graph.outputs {
            let place = || format!("output '{}'", output.name);
            let level = self.levels.len() - 1;
            let id = self
                .lookup(level, output.name)?
                .ok_or_else(|| GraphError::new(place(), "no node computes it"))?;
            let computed = self.graph().value(id).ty.dtype;
            match &output.ty {
                proto::Type::Tensor(elem, _) if *elem != 0 => {
                    let declared =
                        data::dtype(i64::from(*elem)).map_err(|m| GraphError::new(place(), m))?;
                    if declared != computed {
                        let m = format!("declared as {declared}, computed as {computed}");
                        return Err(GraphError::new(place(), m));
                    }
                }
                proto::Type::Other(kind) => return Err(not_a_tensor(&place(), kind)),
                _ => {}
            }
            self.graph().outputs.push(id);
        }
        Ok(())
    }

    /// The type that the file declares for a value.
    fn declared(&self, info: &proto::ValueInfo<'_>) -> Result<ValueType, GraphError> {
        let place = || format!("input '{}'", info.name);
        match &info.ty {
            proto::Type::Tensor(elem, shape) => {
                let dtype =
                    data::dtype(i64::from(*elem)).map_err(|m| GraphError::new(place(), m))?;
                let shape = match shape {
                    None => Shape::unknown(),
                    Some(dims) => Shape::new(dims.iter().map(|d| self.dim(d)).collect()),
                };
                Ok(ValueType::new(dtype, shape))
            }
            proto::Type::Other(kind) => Err(not_a_tensor(&place(), kind)),
            proto::Type::Unknown => Err(GraphError::new(place(), "it has no type")),
        }
    }

    /// The sizes that a body declares for an input of its own. Its names for sizes say nothing: a
    /// size may change from turn to turn.
    fn declared_sizes(&self, info: &proto::ValueInfo<'_>) -> Shape {
        match &info.ty {
            proto::Type::Tensor(_, Some(dims)) => {
                let dim = |d: &proto::Dim<'_>| match d {
                    proto::Dim::Known(_) => self.dim(d),
                    _ => self.infer_cx(&[], 0).unknown_dim(),
                };
                Shape::new(dims.iter().map(dim).collect())
            }
            _ => Shape::unknown(),
        }
    }

    fn dim(&self, dim: &proto::Dim<'_>) -> Dim {
        match dim {
            proto::Dim::Known(n) if *n >= 0 => Dim::from(usize::try_from(*n).unwrap_or(usize::MAX)),
            proto::Dim::Named(name) if !name.starts_with('?') => Dim::symbol(*name),
            _ => self.infer_cx(&[], 0).unknown_dim(),
        }
    }

    fn infer_cx<'a>(&'a self, known: &'a [Option<Known<'a>>], outputs: usize) -> InferCx<'a> {
        InferCx::new(known, outputs, &self.next_symbol)
    }

    /// Pays for a node, a value or a call, and for the copies of a name of `name` bytes.
    fn charge(&self, name: usize) -> OpResult {
        let bytes = NODE_BYTES.saturating_add(name.saturating_mul(2));
        self.weights.budget.charge(bytes).map_err(|e| OpError::new(e.to_string()))
    }

    fn node(&mut self, node: &proto::Node<'_>, context: &Context<'_>) -> Result<(), GraphError> {
        let place = place(node);
        let error = |m: String| GraphError::new(place.clone(), m);
        // A function that makes nothing must pay as well: its calls may multiply.
        let names: usize = node.outputs.iter().map(|name| name.len()).sum();
        self.charge(names).map_err(|e| error(e.to_string()))?;
        let mut inputs = Vec::with_capacity(node.inputs.len());
        let level = self.levels.len() - 1;
        for name in &node.inputs {
            inputs.push(match *name {
                "" => None,
                name => Some(self.lookup(level, name)?.ok_or_else(|| {
                    error(format!("uses '{name}', which nothing before it defines"))
                })?),
            });
        }
        let attributes = context.resolve(&node.attributes);
        let outputs = if let Some(function) =
            self.functions.get(&(domain(node.domain), node.op_type, node.overload)).copied()
        {
            self.call(function, &inputs, &attributes)
                .map_err(|e| GraphError::new(format!("{place}, in its function"), e.to_string()))?
        } else {
            let wanted: Vec<bool> = node.outputs.iter().map(|o| !o.is_empty()).collect();
            let cx = Cx::new(
                self,
                context,
                node.name,
                domain(node.domain),
                node.op_type,
                inputs,
                attributes,
                wanted,
            );
            cx.run().map_err(|e| error(e.to_string()))?
        };
        let named = node.outputs.iter().rposition(|o| !o.is_empty()).map_or(0, |i| i + 1);
        if outputs.len() < named {
            let m = format!("has {} outputs, the op makes {}", node.outputs.len(), outputs.len());
            return Err(error(m));
        }
        for (name, id) in node.outputs.iter().zip(outputs) {
            if name.is_empty() {
                continue;
            }
            let value = self.graph().value_mut(id);
            if value.name.is_empty() {
                value.name = (*name).into();
            }
            self.define(name, id)?;
        }
        Ok(())
    }

    /// Expands a call of a model-local function in place.
    fn call(
        &mut self,
        function: &proto::Function<'_>,
        inputs: &[Option<ValueId>],
        attributes: &[(&str, &AttributeValue<'_>)],
    ) -> Result<Vec<ValueId>, GraphError> {
        let error = |m: String| GraphError::new(format!("function '{}'", function.name), m);
        if inputs.len() > function.inputs.len() {
            let m = format!("takes {} inputs, {} are given", function.inputs.len(), inputs.len());
            return Err(error(m));
        }
        let defaults = function.defaults.iter().map(|a| (a.name, &a.value));
        let mut known: HashMap<&str, &AttributeValue<'_>> = defaults.collect();
        for (name, value) in attributes {
            if !known.contains_key(name) && !function.attributes.contains(name) {
                return Err(error(format!("has no attribute '{name}'")));
            }
            known.insert(name, value);
        }
        self.nested(|this| {
            let given = function.inputs.iter().zip(inputs);
            let frame = given.filter_map(|(name, id)| id.map(|id| ((*name).to_string(), id)));
            let frame = frame.collect();
            this.level().frames.push(frame);
            let context = Context { opsets: &function.opset_imports, attributes: &known };
            context.check_opsets()?;
            let all_given =
                (0..function.inputs.len()).all(|i| matches!(inputs.get(i), Some(Some(_))));
            for node in &function.nodes {
                match all_given {
                    true => this.node(node, &context)?,
                    false => this.node(&without_missing(node, function, inputs), &context)?,
                }
            }
            let frame = this.level().frames.pop().expect("the frame pushed above");
            let outputs = function.outputs.iter().map(|name| {
                frame
                    .get(*name)
                    .copied()
                    .ok_or_else(|| error(format!("does not define its output '{name}'")))
            });
            outputs.collect()
        })
    }

    /// Applies `op` and types its outputs by its shape rule.
    pub fn apply(
        &mut self,
        name: &str,
        op: Arc<dyn Op>,
        inputs: Vec<Option<ValueId>>,
        outputs: usize,
    ) -> OpResult<Vec<ValueId>> {
        self.charge(name.len())?;
        let graph = &self.levels.last().expect("import runs within a graph").graph;
        let known: Vec<Option<Known<'_>>> = inputs
            .iter()
            .map(|id| {
                id.map(|id| {
                    let value = graph.value(id);
                    Known { ty: &value.ty, data: value.data.as_ref().map(Tensor::view) }
                })
            })
            .collect();
        let types = op.infer(&self.infer_cx(&known, outputs))?;
        drop(known);
        if types.len() != outputs {
            let m = format!("{} makes {} outputs, not {outputs}", op.name(), types.len());
            return Err(OpError::new(m));
        }
        let graph = self.graph();
        let outputs: Vec<ValueId> = types.into_iter().map(|ty| graph.add_value("", ty)).collect();
        graph.push_node(kinglet_graph::Node {
            name: name.into(),
            op,
            inputs,
            outputs: outputs.clone(),
        });
        Ok(outputs)
    }
}

/// `node` of a function, with the function's inputs that the call leaves out left out of it too.
fn without_missing<'n>(
    node: &proto::Node<'n>,
    function: &proto::Function<'_>,
    given: &[Option<ValueId>],
) -> proto::Node<'n> {
    let missing = |name: &str| {
        let at = function.inputs.iter().position(|i| *i == name);
        at.is_some_and(|at| given.get(at).copied().flatten().is_none())
    };
    let mut node = node.clone();
    for name in node.inputs.iter_mut().filter(|name| missing(name)) {
        *name = "";
    }
    node
}

/// Nodes in an order in which they may run. The format asks for that; some writers do not keep it.
fn in_order<'g, 'm>(graph: &'g proto::Graph<'m>) -> Result<Vec<&'g proto::Node<'m>>, GraphError> {
    let mut made_here: HashMap<&str, usize> = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        for output in node.outputs.iter().filter(|o| !o.is_empty()) {
            made_here.insert(output, i);
        }
    }
    let needs = |i: usize| -> HashSet<usize> {
        let mut names = HashSet::new();
        uses(&graph.nodes[i], &mut names);
        names.iter().filter_map(|n| made_here.get(n).copied()).collect()
    };
    let mut waiting: Vec<usize> = Vec::with_capacity(graph.nodes.len());
    let mut users: HashMap<usize, Vec<usize>> = HashMap::new();
    for i in 0..graph.nodes.len() {
        let needs = needs(i);
        waiting.push(needs.len());
        for need in needs {
            users.entry(need).or_default().push(i);
        }
    }
    let mut ready: std::collections::BTreeSet<usize> =
        (0..waiting.len()).filter(|i| waiting[*i] == 0).collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(i) = ready.pop_first() {
        order.push(&graph.nodes[i]);
        for user in users.remove(&i).unwrap_or_default() {
            waiting[user] -= 1;
            if waiting[user] == 0 {
                ready.insert(user);
            }
        }
    }
    match waiting.iter().position(|w| *w > 0) {
        None => Ok(order),
        Some(stuck) => {
            let m = "depends on its own output: the model's nodes form a circle";
            Err(GraphError::new(place(&graph.nodes[stuck]), m))
        }
    }
}

/// Adds the names that a node and its bodies use.
fn uses<'m>(node: &proto::Node<'m>, names: &mut HashSet<&'m str>) {
    names.extend(node.inputs.iter().filter(|n| !n.is_empty()));
    for attribute in &node.attributes {
        if let AttributeValue::Graph(body) = &attribute.value {
            names.extend(body.outputs.iter().map(|o| o.name));
            for node in &body.nodes {
                uses(node, names);
            }
        }
    }
}

fn place(node: &proto::Node<'_>) -> String {
    let domain = match domain(node.domain) {
        "" => String::new(),
        domain => format!("{domain}."),
    };
    match node.name {
        "" => format!("node ({domain}{})", node.op_type),
        name => format!("node '{name}' ({domain}{})", node.op_type),
    }
}

fn not_a_tensor(place: &str, kind: &str) -> GraphError {
    let m = format!("it is a {kind}; only tensors are supported");
    GraphError::new(place, m)
}
