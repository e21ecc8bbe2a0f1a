//! Models and plans.

use std::path::{Path, PathBuf};

use kinglet_graph::{DType, Dims, Graph, Shape, Tensor, TensorView, ValueType};
use kinglet_runtime as runtime;
pub use kinglet_runtime::Choices;

use crate::Error;

/// A model: a file's graph, its weights mapped and not copied.
#[derive(Debug, Clone)]
pub struct Model {
    path: PathBuf,
    graph: Graph,
}

/// How to compile a [`Plan`].
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// Sizes for the inputs by index, instead of the model's own. An open size that nothing says is 1
    /// where it is an input's first, and else an error.
    pub shapes: Vec<(usize, Vec<usize>)>,
    /// Threads to compute with; 0: as many as the machine has cores.
    pub threads: usize,
    /// Which way is faster, where there are several: what was measured where Kinglet is built, or what
    /// `kinglet probe` measured.
    pub choices: Choices,
    /// Run each op's reference implementation: slow, and what the kernels are compared with.
    pub reference: bool,
}

/// What a plan takes of memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// For all that is computed on the way.
    pub planned: usize,
    /// The largest sum of values needed at one step: no plan can take less.
    pub lower_bound: usize,
    /// The most that a kernel takes for itself while it runs; part of `planned`.
    pub scratch: usize,
    /// Copies of weights, packed for the kernels.
    pub packed: usize,
    /// State kept between runs.
    pub state: usize,
}

impl Model {
    /// Opens a TFLite or ONNX file, told from its content.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or needs an op that is not supported: which, and where.
    pub fn open(path: impl AsRef<Path>) -> Result<Model, Error> {
        let path = path.as_ref();
        let graph = kinglet_formats::load(path)?;
        Ok(Model { path: path.into(), graph })
    }

    /// The model of a graph that was made from the file at `path`.
    #[doc(hidden)]
    pub fn of_graph(path: impl Into<PathBuf>, graph: Graph) -> Model {
        Model { path: path.into(), graph }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The graph as loaded.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Compiles the model for this CPU.
    ///
    /// # Errors
    /// If `options` do not fit the model, or it cannot be compiled.
    pub fn plan(&self, options: PlanOptions) -> Result<Plan, Error> {
        self.observed_plan(options, &mut |_, _| {})
    }

    /// [`Model::plan`]; `observe` is given the graph as loaded and after each pass, with the pass's name.
    #[doc(hidden)]
    pub fn observed_plan(
        &self,
        options: PlanOptions,
        observe: &mut dyn FnMut(&str, &Graph),
    ) -> Result<Plan, Error> {
        let shapes =
            self.input_shapes(&options.shapes).map_err(|e| e.about(self.path.display()))?;
        let options = runtime::PlanOptions {
            input_shapes: Some(shapes),
            threads: options.threads,
            choices: options.choices,
            reference: options.reference,
            ..runtime::PlanOptions::default()
        };
        let plan = runtime::Plan::observed(&self.graph, &options, observe)
            .map_err(|e| Error::input(e.to_string()).about(self.path.display()))?;
        Ok(Plan { plan })
    }

    /// The inputs' names and types.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = (&str, &ValueType)> {
        self.values(&self.graph.inputs)
    }

    /// The outputs' names and types.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = (&str, &ValueType)> {
        self.values(&self.graph.outputs)
    }

    fn values<'a>(
        &'a self,
        ids: &'a [kinglet_graph::ValueId],
    ) -> impl ExactSizeIterator<Item = (&'a str, &'a ValueType)> {
        ids.iter().map(|id| {
            let value = self.graph.value(*id);
            (value.name.as_str(), &value.ty)
        })
    }

    fn input_shapes(&self, given: &[(usize, Vec<usize>)]) -> Result<Vec<Dims>, Error> {
        let shape = |(index, (name, ty)): (usize, (&str, &ValueType))| {
            match given
            .iter()
            .find(|(given, _)| *given == index)
        {
            Some((_, dims)) if ty.shape.admits(dims) => Ok(dims.as_slice().into()),
            Some((_, dims)) => Err(Error::input(format!(
                "input '{name}' takes {ty}, and was given the sizes {dims:?}"
            ))),
            None => one_at_a_time(&ty.shape).ok_or_else(|| {
                Error::input(format!(
                    "input '{name}' takes {ty}, whose sizes are open: say which to take (on the command line \
                         with --shape NAME=SIZE,…)"
                ))
            }),
        }
        };
        self.inputs().enumerate().map(shape).collect()
    }
}

/// The sizes of `shape`, with 1 for an open first one.
fn one_at_a_time(shape: &Shape) -> Option<Dims> {
    let dims = shape.dims()?.iter().enumerate();
    dims.map(|(axis, dim)| dim.fixed().or((axis == 0).then_some(1))).collect()
}

/// A model compiled for given sizes and this CPU. It holds its memory and its state, so it runs one
/// thing at a time.
pub struct Plan {
    plan: runtime::Plan,
}

impl Plan {
    /// Sets input `index` for the next run.
    ///
    /// # Errors
    /// If there is no such input, or the tensor's type or sizes are not the input's.
    pub fn set_input(&mut self, index: usize, tensor: &Tensor) -> Result<(), Error> {
        self.plan.set_input(index, &tensor.view()).map_err(|e| Error::input(e.to_string()))
    }

    /// Runs the model on the inputs, all of which were set since the last run.
    ///
    /// # Errors
    /// If an op meets data that it cannot work on, such as an index out of range.
    pub fn run(&mut self) -> Result<(), Error> {
        Ok(self.plan.run()?)
    }

    /// Output `index` of the last run.
    ///
    /// # Panics
    /// If there is no such output.
    pub fn output(&self, index: usize) -> TensorView<'_> {
        self.plan.output(index)
    }

    /// The inputs' names and types.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = (&str, &ValueType)> {
        self.plan.inputs().map(|value| (value.name.as_str(), &value.ty))
    }

    /// The outputs' names and types.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = (&str, &ValueType)> {
        self.plan.outputs().map(|value| (value.name.as_str(), &value.ty))
    }

    /// Forgets what earlier runs left in the model's state.
    ///
    /// # Errors
    /// If the state cannot be made anew.
    pub fn reset_state(&mut self) -> Result<(), Error> {
        Ok(self.plan.reset_state()?)
    }

    /// What the plan takes of memory.
    pub fn memory(&self) -> Memory {
        let report = self.plan.memory();
        Memory {
            planned: report.planned,
            lower_bound: report.lower_bound,
            scratch: self.plan.steps().map(|step| step.scratch).max().unwrap_or(0),
            packed: report.packed,
            state: report.state,
        }
    }

    /// The threads that it computes with.
    pub fn threads(&self) -> usize {
        self.plan.threads()
    }

    /// The runtime's own plan.
    #[doc(hidden)]
    pub fn inner(&mut self) -> &mut runtime::Plan {
        &mut self.plan
    }
}

/// The real numbers that a tensor stands for: dequantised, widened.
pub(crate) fn reals(view: &TensorView<'_>) -> Result<Vec<f32>, Error> {
    let values: Vec<f32> = match view.dtype {
        DType::F32 => view.slice::<f32>()?.to_vec(),
        DType::F16 => view.slice::<half::f16>()?.iter().map(|v| v.to_f32()).collect(),
        DType::BF16 => view.slice::<half::bf16>()?.iter().map(|v| v.to_f32()).collect(),
        DType::F64 => view.slice::<f64>()?.iter().map(|v| *v as f32).collect(),
        _ => view.ints()?.into_iter().map(|v| v as f32).collect(),
    };
    Ok(match view.quant.and_then(|quant| quant.single()) {
        Some((scale, zero)) => values.iter().map(|v| scale * (v - zero as f32)).collect(),
        None => values,
    })
}
