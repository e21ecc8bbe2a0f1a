//! Linear ops: rows by constant weights in their encoding.

use super::weights::{Given, Matrices, Weights};
use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use crate::lower::float::activation;
use crate::scratch::PerWorker;
use kinglet_graph::ops::rows::{ExpertLinear, Linear, Linears, RowNorm};
use kinglet_graph::{DType, OpError, OpResult};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::encoded::Finish;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::norm_f32::NormF32;
use kinglet_kernels::shared::SharedMut;

/// The most products of one x that are computed together.
pub(crate) const MOST_PARTS: usize = 4;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let alone;
    let (op, residual, weights): (&Linears, _, fn(usize) -> usize) = match cx.op::<Linear>() {
        Some(part) => {
            alone = Linears { norm: None, parts: vec![*part], gated: false };
            (&alone, Some(RESIDUAL), |_| 1)
        }
        None => match cx.op::<Linears>() {
            Some(op) => (op, None, Linears::weights),
            None => return Ok(None),
        },
    };
    let Some(x) = cx.input(0).filter(|x| x.ty.dtype == DType::F32) else { return Ok(None) };
    let x = cx.dims(x)?;
    let Some(&k) = x.last() else { return Ok(None) };
    if k == 0 || x.contains(&0) || op.parts.is_empty() || op.parts.len() > MOST_PARTS {
        return Ok(None);
    }
    let n = x.iter().product::<usize>() / k;
    let mut products = Vec::new();
    for (i, part) in op.parts.iter().enumerate() {
        let input = weights(i);
        let Some(w) = cx.input(input) else { return Ok(None) };
        let (&[m, _], Some(activation)) = (&cx.dims(w)?[..], activation(part.activation)) else {
            return Ok(None);
        };
        let new = |m| Weights::new(cx, input, [1, m, k]);
        let Some(weights) = (if m == 0 { None } else { new(m) }) else { return Ok(None) };
        products.push(Part { weights, input, activation, chunk: 0, tasks: 0 });
    }
    let panels = products.iter().map(|p| p.weights.panels()).sum();
    for part in &mut products {
        part.chunk = part.weights.panels_of_task(panels, n, cx.threads);
        part.tasks = part.weights.panels().div_ceil(part.chunk);
    }
    let first = &products[0].weights;
    let rounds = first.row_bytes() > 0;
    let alike = products.iter().all(|p| p.weights.takes_rows_of(first));
    if !alike || op.norm.is_some() && !rounds {
        return Ok(None);
    }
    let normed = if op.norm.is_some() { 4 * k * first.group_rows(n) } else { 0 };
    let kernel = Products {
        n,
        k,
        isa: cx.isa,
        norm: op.norm,
        gated: op.gated,
        residual,
        own: PerWorker::new(first.scratch(n).max(normed)),
        rounded: (n * first.row_bytes()).next_multiple_of(64),
        parts: products,
    };
    let scratch = kernel.rounded + kernel.own.planned(cx.threads);
    Ok(Some(Lowered::new(kernel).with_scratch(scratch)))
}

/// The input of a [`Linear`] that is added to its result.
const RESIDUAL: usize = 3;

struct Part {
    weights: Weights,
    /// The input that they are; their bias is the next one.
    input: usize,
    activation: Unary,
    /// Panels of a task.
    chunk: usize,
    tasks: usize,
}

/// Products of one x, which is normalised and rounded once.
struct Products {
    isa: Isa,
    norm: Option<RowNorm>,
    parts: Vec<Part>,
    /// Whether results are multiplied with each other.
    gated: bool,
    /// The input that is added to the result.
    residual: Option<usize>,
    n: usize,
    k: usize,
    /// Bytes of all rounded rows.
    rounded: usize,
    own: PerWorker,
}

impl Kernel for Products {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let Products { parts, n, k, .. } = self;
        let (n, k, pool) = (*n, *k, io.pool);
        let x: &[f32] = io.input(0)?;
        let floats = |i: usize| {
            let input = io.inputs.get(i).copied().flatten();
            input.map(|values| values.slice::<f32>()).transpose()
        };
        let residual = self.residual.map(floats).transpose()?.flatten();
        let norm = match self.norm {
            Some(RowNorm { epsilon, centred }) => {
                Some(NormF32 { epsilon, centred, scale: floats(1)?, bias: floats(2)? })
            }
            None => None,
        };
        let mut finishes = [Finish::default(); MOST_PARTS];
        let mut matrices = [const { Matrices::Stored(&[]) }; MOST_PARTS];
        for (i, part) in parts.iter().enumerate() {
            let (activation, factor) = (part.activation, self.gated && i > 0);
            finishes[i] = Finish { bias: floats(part.input + 1)?, residual, activation, factor };
            let stored = io.inputs[part.input];
            let stored = stored.ok_or_else(|| OpError::new("the weights are missing"))?;
            matrices[i] = part.weights.matrices(pool, stored.bytes);
        }
        let mut outputs = [const { None }; MOST_PARTS];
        for (to, out) in outputs.iter_mut().zip(&mut io.outputs) {
            *to = Some(SharedMut::new(out.slice_mut::<f32>()?));
        }
        let (rounded, planned) = io.scratch.split_at_mut(self.rounded);
        let (rounded, planned) = (SharedMut::new(rounded), SharedMut::new(planned));
        let first = &parts[0].weights;
        if first.row_bytes() > 0 {
            let group = first.group_rows(n);
            pool.run(n.div_ceil(group), |task, worker| {
                let rows = task * group..n.min((task + 1) * group);
                let given = &x[rows.start * k..rows.end * k];
                // SAFETY: every task has its own rows, every worker its own scratch, which floats
                // are carved of.
                unsafe {
                    let own = self.own.of(pool, planned, worker);
                    let given = match &norm {
                        Some(norm) => {
                            let normed = bytemuck::cast_slice_mut(&mut own[..4 * given.len()]);
                            norm.run(self.isa, given, k, normed);
                            normed
                        }
                        None => given,
                    };
                    let row = |i: usize| &given[(i - rows.start) * k..][..k];
                    first.round(rows.clone(), row, rounded);
                }
            });
        }
        // SAFETY: nobody writes to it any more.
        let rounded = unsafe { &*rounded.slice(0..rounded.len()) };
        let given = Given { x, rounded, count: n, sources: None, targets: None };
        let multiply = |i: usize, task: usize, out, worker: usize| {
            let Part { weights, chunk, .. } = &parts[i];
            let panels = task * chunk..weights.panels().min((task + 1) * chunk);
            // SAFETY: every worker has its own scratch, every task its own columns.
            unsafe {
                let own = self.own.of(pool, planned, worker);
                weights.run(matrices[i].bytes(), given, finishes[i], panels, out, own);
            }
        };
        if let (true, Some(out)) = (self.gated, outputs[0]) {
            // Each task multiplies its columns of the first result by those of the others.
            pool.run(parts[0].tasks, |task, worker| {
                (0..parts.len()).for_each(|i| multiply(i, task, out, worker));
            });
            return Ok(());
        }
        let tasks = parts.iter().map(|p| p.tasks).sum();
        pool.run(tasks, |task, worker| {
            let (mut i, mut task) = (0, task);
            while task >= parts[i].tasks {
                task -= parts[i].tasks;
                i += 1;
            }
            if let Some(out) = outputs[i] {
                multiply(i, task, out, worker);
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(|p| p.weights.describe()).collect();
        let products = match parts.iter().all(|p| *p == parts[0]) {
            true if parts.len() > 1 => format!("{} of {}", parts.len(), parts[0]),
            _ => parts.join(", "),
        };
        let norm = match self.norm {
            Some(RowNorm { centred: true, .. }) => "layer norm, ",
            Some(RowNorm { centred: false, .. }) => "rms norm, ",
            None => "",
        };
        format!("{norm}{products}{}", if self.gated { ", gated" } else { "" })
    }

    fn why(&self) -> &'static str {
        self.parts[0].weights.why()
    }
}

pub(super) fn lower_experts(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let (Some(_), Some(x), Some(w), Some(choices)) =
        (cx.op::<ExpertLinear>(), cx.input(0), cx.input(1), cx.input(2))
    else {
        return Ok(None);
    };
    let (x, w, choices) = (cx.dims(x)?, cx.dims(w)?, cx.dims(choices)?);
    let (&[experts, m, k], &[n, each]) = (&w[..], &choices[..]) else { return Ok(None) };
    let shared = x.len() == 2;
    let fits = x[0] == n && (shared || x.len() == 3 && x[1] == each);
    if !fits || [experts, m, k, n, each].contains(&0) {
        return Ok(None);
    }
    let Some(weights) = Weights::new(cx, 1, [experts, m, k]) else { return Ok(None) };
    let all = n * each;
    let kernel = Experts {
        n: all,
        k,
        m,
        experts,
        shared_by: if shared { each } else { 1 },
        own: PerWorker::new(weights.scratch(all)),
        rounded: (all * weights.row_bytes()).next_multiple_of(64),
        lists: (4 * (2 * all + experts + 1)).next_multiple_of(64),
        chunk: weights.panels_of_task(weights.panels(), all.div_ceil(experts), cx.threads),
        weights,
    };
    let scratch = kernel.rounded + kernel.lists + kernel.own.planned(cx.threads);
    Ok(Some(Lowered::new(kernel).with_scratch(scratch.max(4096))))
}

struct Experts {
    weights: Weights,
    /// Choices of all rows.
    n: usize,
    k: usize,
    m: usize,
    experts: usize,
    /// Choices that share a row of x.
    shared_by: usize,
    /// Bytes of all rounded rows, and of the lists.
    rounded: usize,
    lists: usize,
    own: PerWorker,
    /// Panels of a task.
    chunk: usize,
}

impl Kernel for Experts {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let Experts { weights, n, k, m, experts, .. } = self;
        let (n, k, m, experts, pool) = (*n, *k, *m, *experts, io.pool);
        let (x, choices): (&[f32], &[i32]) = (io.input(0)?, io.input(2)?);
        if let Some(choice) =
            choices.iter().find(|c| !usize::try_from(**c).is_ok_and(|c| c < experts))
        {
            return Err(OpError::new(format!("expert {choice} of {experts}")));
        }
        let bias: Option<&[f32]> =
            io.inputs.get(3).copied().flatten().map(|_| io.input(3)).transpose()?;
        let stored = io.inputs[1].ok_or_else(|| OpError::new("the weights are missing"))?;
        let matrices = weights.matrices(pool, stored.bytes);
        let out = SharedMut::new(io.outputs[0].slice_mut::<f32>()?);
        let (rounded, rest) = io.scratch.split_at_mut(self.rounded);
        let (lists, planned) = rest.split_at_mut(self.lists);
        let (rounded, planned) = (SharedMut::new(rounded), SharedMut::new(planned));
        let lists: &mut [i32] = bytemuck::try_cast_slice_mut(lists)
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let (starts, lists) = lists.split_at_mut(experts + 1);
        let (targets, sources) = lists.split_at_mut(n);
        let sources = &mut sources[..n];
        by_expert(choices, starts, targets);
        let shared_by = self.shared_by as i32;
        sources.iter_mut().zip(&*targets).for_each(|(s, t)| *s = t / shared_by);
        let (starts, targets, sources) = (&*starts, &*targets, &*sources);
        let rows_of = |expert: usize| starts[expert] as usize..starts[expert + 1] as usize;
        let size = weights.row_bytes();
        if size > 0 {
            pool.run(experts, |expert, _| {
                let rows = rows_of(expert);
                let most = weights.group_rows(rows.len());
                for first in rows.clone().step_by(most) {
                    let group = first..rows.end.min(first + most);
                    let row = |i: usize| &x[sources[i] as usize * k..][..k];
                    // SAFETY: every expert has its own rows.
                    unsafe { weights.round(group, row, rounded) };
                }
            });
        }
        // SAFETY: nobody writes to it any more.
        let rounded = unsafe { &*rounded.slice(0..rounded.len()) };
        let parts = weights.panels().div_ceil(self.chunk);
        pool.run(experts * parts, |task, worker| {
            let (expert, part) = (task / parts, task % parts);
            let rows = rows_of(expert);
            if rows.is_empty() {
                return;
            }
            let panels = part * self.chunk..weights.panels().min((part + 1) * self.chunk);
            let given = Given {
                x,
                rounded: &rounded[rows.start * size..rows.end * size],
                count: rows.len(),
                sources: Some(&sources[rows.clone()]),
                targets: Some(&targets[rows]),
            };
            let bias = bias.map(|b| &b[expert * m..][..m]);
            let bytes = weights.matrix_bytes();
            let matrix = &matrices.bytes()[expert * bytes..][..bytes];
            // SAFETY: every worker has its own scratch, every task its own columns of its rows.
            unsafe {
                let own = self.own.of(pool, planned, worker);
                let finish = Finish { bias, ..Finish::default() };
                weights.run(matrix, given, finish, panels, out, own);
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("experts of {}", self.weights.describe())
    }

    fn why(&self) -> &'static str {
        self.weights.why()
    }
}

/// The numbers of `choices` in the order of the expert chosen, and where each expert's start.
fn by_expert(choices: &[i32], starts: &mut [i32], order: &mut [i32]) {
    starts.fill(0);
    for choice in choices {
        starts[*choice as usize + 1] += 1;
    }
    for i in 1..starts.len() {
        starts[i] += starts[i - 1];
    }
    for (i, choice) in choices.iter().enumerate() {
        let next = &mut starts[*choice as usize];
        order[*next as usize] = i as i32;
        *next += 1;
    }
    // Each start has moved on to the next one.
    starts.copy_within(..starts.len() - 1, 1);
    starts[0] = 0;
}
