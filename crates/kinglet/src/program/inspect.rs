//! `kinglet inspect`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use kinglet::lm::{LanguageModel, Options};
use kinglet::parts::graph::{Shape, Tensor, ValueType};
use kinglet::parts::runtime::passes::PASSES;
use kinglet::tasks::Task;
use kinglet::{Error, Graph, Model, Plan, PlanOptions, Vision, VisionOptions};
use kinglet_kernels::isa::{ISA_VARIABLE, Isa};
use serde::Serialize;

use super::language::{inspect::LanguageLine, is_language_model};
use super::{Common, files, names, probe, svg};

/// `kinglet inspect`.
#[derive(Args)]
pub(super) struct Inspect {
    /// The model: a GGUF, TFLite or ONNX file
    model: PathBuf,
    /// Print the graph as it is after a pass; `list` names the passes, `all` prints every stage
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// Draw the graph, as loaded or after --stage, to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Sizes for an input whose sizes are open
    #[arg(long, value_name = "NAME=SIZE,…")]
    shape: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Report {
    model: String,
    format: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    task: String,
    labels: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<LanguageLine>,
    inputs: Vec<ValueLine>,
    outputs: Vec<ValueLine>,
    state: Vec<ValueLine>,
    ops: Vec<OpLine>,
    planned_ops: Vec<OpLine>,
    weights: Vec<WeightLine>,
    macs: u64,
    memory: MemoryLine,
    #[serde(skip_serializing_if = "Option::is_none")]
    svg: Option<String>,
}

#[derive(Serialize)]
struct ValueLine {
    name: String,
    dtype: &'static str,
    /// A size is a number, or an expression where it is open.
    shape: Option<Vec<serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quant: Option<QuantLine>,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct QuantLine {
    scale: Vec<f32>,
    zero_point: Vec<i32>,
    axis: Option<usize>,
}

#[derive(Serialize)]
struct OpLine {
    name: String,
    count: usize,
}

#[derive(Serialize)]
struct WeightLine {
    encoding: String,
    tensors: usize,
    elements: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct MemoryLine {
    planned_bytes: usize,
    lower_bound_bytes: usize,
    scratch_bytes: usize,
    packed_weights_bytes: usize,
    state_bytes: usize,
}

#[derive(Serialize)]
struct Stage {
    stage: String,
    graph: String,
}

#[derive(Serialize)]
struct StageName {
    stage: &'static str,
    what: &'static str,
}

/// The stages before and after the passes.
const LOADED: StageName = StageName { stage: "load", what: "the graph as the file says it" };
const PLANNED: StageName =
    StageName { stage: "kernels", what: "the kernel of each step, and why that one" };

fn stages() -> Vec<StageName> {
    let passes = PASSES.iter().map(|pass| StageName { stage: pass.name, what: pass.what });
    std::iter::once(LOADED).chain(passes).chain([PLANNED]).collect()
}

impl Inspect {
    pub fn run(self) -> Result<(), Error> {
        if self.stage.as_deref() == Some("list") {
            return self.list_stages();
        }
        if let Some(stage) = self.stage.as_deref().filter(|stage| *stage != "all")
            && stages().iter().all(|known| known.stage != stage)
        {
            let known: Vec<&str> = stages().iter().map(|known| known.stage).collect();
            let known = known.join(", ");
            return Err(Error::input(format!(
                "no stage is called '{stage}'; there are {known}, all"
            )));
        }
        let (model, language) = if is_language_model(&self.model) {
            let model = LanguageModel::open(&self.model, &Options::default())?;
            let line = LanguageLine::new(&model);
            let mut graph = model.stepper().graph().clone();
            graph.metadata.format = "gguf".into();
            (Model::of_graph(&self.model, graph), Some(line))
        } else {
            (Model::open(&self.model)?, None)
        };
        let options = PlanOptions {
            shapes: names::shapes(&model, &self.shape)?,
            threads: self.common.threads(),
            choices: probe::choices(),
            ..PlanOptions::default()
        };
        let drawn = match self.stage.as_deref() {
            None | Some("all") => PASSES.first().map_or("load", |pass| pass.name),
            Some("kernels") => PASSES.last().map_or("load", |pass| pass.name),
            Some(stage) => stage,
        };
        let mut seen = Vec::new();
        let mut drawing = None;
        let mut plan = model.observed_plan(options, &mut |stage, graph| {
            if self.wants(stage) {
                seen.push(Stage { stage: stage.into(), graph: graph.to_string() });
            }
            if self.svg.is_some() && stage == drawn {
                drawing = Some(svg::draw(graph));
            }
        })?;
        if self.wants(PLANNED.stage) {
            seen.push(Stage { stage: PLANNED.stage.into(), graph: steps(&mut plan)? });
        }
        if let (Some(path), Some(drawing)) = (&self.svg, drawing) {
            files::write(path, drawing.as_bytes())
                .map_err(|e| super::cannot_write_file(path, "the drawing", &e))?;
        }
        if self.stage.is_some() {
            return self.print_stages(&seen);
        }
        let report = report(&model, &mut plan, language, self.svg.as_ref())?;
        if self.common.json {
            return super::print_json(&report);
        }
        super::print(&people(&report))
    }

    fn wants(&self, stage: &str) -> bool {
        self.stage.as_deref().is_some_and(|wanted| wanted == stage || wanted == "all")
    }

    fn list_stages(&self) -> Result<(), Error> {
        let stages = stages();
        if self.common.json {
            return super::print_json(&stages);
        }
        let wide = stages.iter().map(|stage| stage.stage.len()).max().unwrap_or(0);
        let lines = stages.iter().map(|s| format!("{:wide$}  {}\n", s.stage, s.what));
        super::print(&lines.collect::<String>())
    }

    fn print_stages(&self, seen: &[Stage]) -> Result<(), Error> {
        match (self.common.json, seen) {
            (true, [one]) => super::print_json(one),
            (true, many) => super::print_json(&many),
            (false, [one]) => super::print(&one.graph),
            (false, many) => {
                let text = many.iter().map(|s| format!("# {}\n{}", s.stage, s.graph));
                super::print(&text.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}

fn steps(plan: &mut Plan) -> Result<String, Error> {
    let plan = plan.inner();
    let isa = Isa::from_env().map_err(Error::input)?;
    let best = match Isa::available().last() == Some(&isa) {
        true => "the best of this CPU".to_string(),
        false => format!("as {ISA_VARIABLE} says"),
    };
    let threads = match plan.threads() {
        1 => "1 thread".to_string(),
        threads => format!("{threads} threads"),
    };
    let mut text = format!("instructions: {}, {best}; {threads}\n", isa.name());
    for step in plan.steps() {
        let node = plan.graph().node(step.node);
        let outputs: Vec<String> =
            node.outputs.iter().map(|id| plan.graph().value(*id).ty.to_string()).collect();
        let scratch = match step.scratch {
            0 => String::new(),
            scratch => format!(", {} of scratch", bytes(scratch)),
        };
        let why = match step.why {
            "" => String::new(),
            why => format!(" ({why})"),
        };
        let _ = writeln!(
            text,
            "{:5} {:20} {:28} {}{why}{scratch}",
            step.node.to_string(),
            node.op.name(),
            outputs.join(", "),
            step.kernel
        );
    }
    Ok(text)
}

fn report(
    model: &Model,
    plan: &mut Plan,
    language: Option<LanguageLine>,
    svg: Option<&PathBuf>,
) -> Result<Report, Error> {
    let graph = model.graph();
    // A model that fits no task is one of tensors.
    let vision = Vision::of(model, plan, &VisionOptions::default()).ok().flatten();
    let memory = plan.memory();
    let state = graph.states().iter().map(|state| ValueLine::new(&state.name, &state.ty));
    let task = match &language {
        Some(_) => "text".to_string(),
        None => vision.map_or(Task::Tensors, |vision| vision.task()).to_string(),
    };
    Ok(Report {
        model: model.path().display().to_string(),
        format: graph.metadata.format.clone(),
        description: graph.metadata.description.clone(),
        task,
        labels: graph.metadata.labels.len(),
        language,
        inputs: model.inputs().map(|(name, ty)| ValueLine::new(name, ty)).collect(),
        outputs: plan.outputs().map(|(name, ty)| ValueLine::new(name, ty)).collect(),
        state: state.collect(),
        ops: ops(graph),
        planned_ops: ops(plan.inner().graph()),
        weights: weights(graph),
        macs: plan.inner().graph().cost().total.macs,
        memory: MemoryLine {
            planned_bytes: memory.planned,
            lower_bound_bytes: memory.lower_bound,
            scratch_bytes: memory.scratch,
            packed_weights_bytes: memory.packed,
            state_bytes: memory.state,
        },
        svg: svg.map(|path| path.display().to_string()),
    })
}

impl ValueLine {
    fn new(name: &str, ty: &ValueType) -> ValueLine {
        let size = |dim: &kinglet::parts::graph::Dim| match dim.fixed() {
            Some(size) => size.into(),
            None => dim.to_string().into(),
        };
        ValueLine {
            name: name.into(),
            dtype: ty.dtype.name(),
            shape: ty.shape.dims().map(|dims| dims.iter().map(size).collect()),
            quant: ty.quant.as_ref().map(|quant| QuantLine {
                scale: quant.scale.clone(),
                zero_point: quant.zero_point.clone(),
                axis: quant.axis,
            }),
            text: ty.to_string(),
        }
    }
}

/// How often each op occurs, the most frequent first; the bodies of control flow count too.
fn ops(graph: &Graph) -> Vec<OpLine> {
    fn count<'a>(graph: &'a Graph, counts: &mut BTreeMap<&'a str, usize>) {
        for node in graph.nodes() {
            *counts.entry(node.op.name()).or_default() += 1;
            node.op.subgraphs().into_iter().for_each(|body| count(body, counts));
        }
    }
    let mut counts = BTreeMap::new();
    count(graph, &mut counts);
    let lines = counts.into_iter().map(|(name, count)| OpLine { name: name.into(), count });
    let mut lines: Vec<OpLine> = lines.collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.count));
    lines
}

/// Constants by how their elements are stored, the most bytes first.
fn weights(graph: &Graph) -> Vec<WeightLine> {
    fn collect(graph: &Graph, lines: &mut BTreeMap<String, WeightLine>) {
        for data in graph.values().iter().filter_map(|value| value.data.as_ref()) {
            let encoding = encoding(data);
            let line = lines.entry(encoding.clone()).or_insert(WeightLine {
                encoding,
                tensors: 0,
                elements: 0,
                bytes: 0,
            });
            line.tensors += 1;
            line.elements += data.dims().iter().product::<usize>() as u64;
            line.bytes += data.raw().len() as u64;
        }
        for node in graph.nodes() {
            node.op.subgraphs().into_iter().for_each(|body| collect(body, lines));
        }
    }
    let mut lines = BTreeMap::new();
    collect(graph, &mut lines);
    let mut lines: Vec<WeightLine> = lines.into_values().collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.bytes));
    lines
}

fn encoding(data: &Tensor) -> String {
    let kind = match data.quant() {
        Some(quant) if quant.axis.is_some() => " quantised per channel",
        Some(_) => " quantised",
        None => "",
    };
    format!("{}{kind}", data.dtype())
}

/// A number of bytes for people.
pub(super) fn bytes(count: usize) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.2} MB", count as f64 / 1e6),
    }
}

/// A count for people.
pub(super) fn number(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.1} k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.1} G", count as f64 / 1e9),
    }
}

/// A shape for a drawing: `1×224×224×3`.
pub(super) fn sizes(shape: &Shape) -> String {
    match shape.dims() {
        None => "?".into(),
        Some([]) => "scalar".into(),
        Some(dims) => dims.iter().map(|dim| dim.to_string()).collect::<Vec<_>>().join("×"),
    }
}

fn people(report: &Report) -> String {
    let mut text = format!("{} ({}", report.model, report.format);
    if !report.description.is_empty() {
        let _ = write!(text, ", {}", report.description.trim());
    }
    text += ")\n";
    let mut row = |what: &str, lines: Vec<String>| {
        for (index, line) in lines.iter().enumerate() {
            let _ = writeln!(text, "{:9} {line}", if index == 0 { what } else { "" });
        }
    };
    let values = |lines: &[ValueLine]| -> Vec<String> {
        let wide = lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
        lines.iter().map(|line| format!("{:wide$}  {}", line.name, line.text)).collect()
    };
    let labels = match report.labels {
        0 => String::new(),
        labels => format!(", {labels} labels in the file"),
    };
    row("task", vec![format!("{}{labels}", report.task)]);
    for (what, lines) in report.language.iter().flat_map(LanguageLine::rows) {
        row(what, lines);
    }
    row("inputs", values(&report.inputs));
    row("outputs", values(&report.outputs));
    row("state", values(&report.state));
    let list = |lines: &[OpLine]| {
        let total: usize = lines.iter().map(|line| line.count).sum();
        let each: Vec<String> = lines.iter().map(|l| format!("{} {}", l.count, l.name)).collect();
        format!("{total}: {}", each.join(", "))
    };
    row("ops", vec![list(&report.ops)]);
    row("planned", vec![list(&report.planned_ops)]);
    let total: u64 = report.weights.iter().map(|line| line.bytes).sum();
    let mut weights = vec![format!("{} in all", bytes(total as usize))];
    let wide = report.weights.iter().map(|line| line.encoding.len()).max().unwrap_or(0);
    weights.extend(report.weights.iter().map(|line| {
        format!(
            "{:wide$}  {:>8}  {} elements in {} tensor{}",
            line.encoding,
            bytes(line.bytes as usize),
            number(line.elements),
            line.tensors,
            if line.tensors == 1 { "" } else { "s" }
        )
    }));
    row("weights", weights);
    let run = if report.language.is_some() { "token" } else { "run" };
    row("work", vec![format!("{} multiply-accumulates a {run}", number(report.macs))]);
    let memory = &report.memory;
    let mut lines = vec![format!(
        "{} at the peak, planned; {} is the lower bound",
        bytes(memory.planned_bytes),
        bytes(memory.lower_bound_bytes)
    )];
    lines.push(format!("{} of scratch for each thread", bytes(kinglet_runtime::WORKER_SCRATCH)));
    if memory.packed_weights_bytes > 0 {
        lines.push(format!(
            "{} of weights packed for the kernels",
            bytes(memory.packed_weights_bytes)
        ));
    }
    if memory.state_bytes > 0 {
        lines.push(format!("{} of state", bytes(memory.state_bytes)));
    }
    row("memory", lines);
    if let Some(svg) = &report.svg {
        row("drawn", vec![svg.clone()]);
    }
    text
}
