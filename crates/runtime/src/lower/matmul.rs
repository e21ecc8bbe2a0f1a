//! Float matrix products: the right-hand side packed ahead where it is constant, else when the
//! step runs.

use super::LowerCx;
use super::float::{Cut, GridCut, activation, constant, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::broadcast::{Offsets, broadcast_dims};
use kinglet_graph::ops::conv::{Conv, ConvTranspose, ConvWeightGradient};
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::rows::{Linear, LinearTranspose};
use kinglet_graph::ops::window::{Layout, WeightLayout};
use kinglet_graph::{Dims, OpError, OpResult};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::gemm_f32::{Epilogue, Gemm, PackLayout, PackedB, Rows};
use kinglet_kernels::permute::Permute;
use kinglet_kernels::shared::SharedMut;

/// Leading sizes, rows and columns of an operand, after transposition.
fn operand(dims: &[usize], transpose: bool, row: bool) -> Option<(&[usize], usize, usize)> {
    Some(match *dims {
        [] => return None,
        [n] if row => (&[][..], 1, n),
        [n] => (&[][..], n, 1),
        [ref lead @ .., r, c] if transpose => (lead, c, r),
        [ref lead @ .., r, c] => (lead, r, c),
    })
}

/// What is added to the product.
#[derive(Clone, Copy, PartialEq)]
enum Added {
    Nothing,
    /// A value a column.
    Bias,
    /// A value a result.
    Residual,
}

/// The product that a node is.
struct Found {
    op: MatMul,
    /// Which inputs are multiplied.
    inputs: [usize; 2],
    /// Their sizes, as the product sees them.
    dims: [Dims; 2],
}

/// The product that a node is. Linear ops and convolutions of single pixels by weights that are
/// computed, as in training, are products like any other; those by constant ones have kernels of
/// their own.
fn product(cx: &LowerCx<'_>) -> OpResult<Option<Found>> {
    let dims = |i: usize| cx.input(i).map(|v| cx.dims(v)).transpose();
    let (Some(first), Some(second)) = (dims(0)?, dims(1)?) else { return Ok(None) };
    let plain = |op| Some(Found { op, inputs: [0, 1], dims: [first.clone(), second.clone()] });
    if let Some(op) = cx.op::<MatMul>() {
        return Ok(plain(*op));
    }
    if cx.op::<LinearTranspose>().is_some() {
        return Ok(plain(MatMul::new()));
    }
    if cx.constant(1).is_some() {
        return Ok(None);
    }
    if let Some(op) = cx.op::<Linear>() {
        let activation = op.activation;
        let alone = cx.input(3).is_none();
        let op = MatMul { transpose_b: true, activation, ..MatMul::new() };
        return Ok(plain(op).filter(|_| alone));
    }
    let (window, weights, activation) = if let Some(op) = cx.op::<Conv>() {
        let fits = op.groups == 1 && op.layout == Layout::ChannelsLast && cx.input(3).is_none();
        let of_outputs = fits.then(|| by_outputs(op.weight_layout, &second)).flatten();
        (&op.window, of_outputs, op.activation)
    } else if let Some(op) = cx.op::<ConvTranspose>() {
        let wanted = cx.input(3).is_some() || op.output_padding.iter().any(|p| *p > 0);
        let fits = op.groups == 1 && op.layout == Layout::ChannelsLast && !wanted;
        let of_outputs = fits.then(|| by_outputs(op.weight_layout, &second)).flatten();
        (&op.window, of_outputs, op.activation)
    } else if let Some(op) = cx.op::<ConvWeightGradient>() {
        let fits = op.groups == 1 && op.layout == Layout::ChannelsLast;
        let weights = cx.dims(cx.output(0))?;
        let of_outputs = fits.then(|| by_outputs(op.weight_layout, &weights)).flatten();
        (&op.window, of_outputs, Activation::None)
    } else {
        return Ok(None);
    };
    let rows = |dims: &Dims| -> Dims {
        let last = dims.last().copied().unwrap_or(1);
        [dims.iter().product::<usize>() / last.max(1), last].into_iter().collect()
    };
    let (Some(of_outputs), true) = (weights, window.stride.iter().all(|s| *s == 1)) else {
        return Ok(None);
    };
    // Without padding, the image keeps its sizes.
    let images = if cx.op::<ConvWeightGradient>().is_some() {
        second.clone()
    } else {
        cx.dims(cx.output(0))?
    };
    if images[..images.len() - 1] != first[..first.len() - 1] {
        return Ok(None);
    }
    if cx.op::<ConvWeightGradient>().is_some() {
        let inputs = if of_outputs { [1, 0] } else { [0, 1] };
        let op = MatMul { transpose_a: true, ..MatMul::new() };
        let both = [rows(&first), rows(&second)];
        return Ok(Some(Found { op, inputs, dims: inputs.map(|i| both[i].clone()) }));
    }
    let op = MatMul { transpose_b: of_outputs, activation, ..MatMul::new() };
    let (channels, outputs) = (first[first.len() - 1], images[images.len() - 1]);
    let matrix = if of_outputs { [outputs, channels] } else { [channels, outputs] };
    Ok(Some(Found { op, inputs: [0, 1], dims: [rows(&first), matrix.into_iter().collect()] }))
}

/// Of weights of single pixels whether they are a row an output, else a row an input; `None`: they
/// see more than a pixel.
fn by_outputs(layout: WeightLayout, dims: &[usize]) -> Option<bool> {
    let (_, _, kernel) = layout.split(dims).ok()?;
    let (out, input, _) = layout.split(&(0..dims.len()).collect::<Vec<_>>()).ok()?;
    kernel.iter().all(|k| *k == 1).then_some(out < input)
}

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    if !is_f32(cx, 3) {
        return Ok(None);
    }
    let Some(Found { op, inputs, dims: [a, b] }) = product(cx)? else { return Ok(None) };
    let out = cx.dims(cx.output(0))?;
    let turn_a = op.transpose_a && a.len() > 1;
    let (Some(left), Some(right), Some(activation)) =
        (operand(&a, turn_a, true), operand(&b, op.transpose_b, false), activation(op.activation))
    else {
        return Ok(None);
    };
    let (mut m, k, n) = (left.1, left.2, right.2);
    if out.contains(&0) || k == 0 {
        return Ok(None);
    }
    let added = match cx.input(2) {
        None => Added::Nothing,
        Some(bias) => {
            let dims = cx.dims(bias)?;
            let of_columns = dims.last() == Some(&n) && dims.iter().product::<usize>() == n;
            if of_columns && (n > 1 || dims.len() <= 1) {
                Added::Bias
            } else if dims == out {
                Added::Residual
            } else {
                return Ok(None);
            }
        }
    };
    let lead = broadcast_dims(&[left.0, right.0])?;
    let mut matrices: Vec<[usize; 2]> = Offsets::broadcast(&lead, [left.0, right.0]).collect();
    let one_b = right.0.iter().product::<usize>() == 1;
    if one_b && !turn_a && left.0.iter().product::<usize>() == matrices.len() {
        // One matrix for all: all rows are one product.
        m *= matrices.len();
        matrices = vec![[0, 0]];
    }
    let layout = PackLayout::new(cx.isa, k, n);
    let b_strides = if op.transpose_b && b.len() > 1 { (1, k) } else { (n, 1) };
    let packed = match constant(cx, inputs[1])? {
        Some(b) if one_b => Some(PackedB::new(cx.isa, k, n, b, b_strides)),
        _ => None,
    };
    let turn = match turn_a {
        true => Permute::new(&[k, m], &[1, 0]),
        false => None,
    };
    // Scratch of one product: the packed right-hand side, then the turned left-hand side.
    let b_scratch = if packed.is_some() { 0 } else { layout.len().next_multiple_of(16) };
    let a_scratch = if turn.is_some() { (m * k).next_multiple_of(16) } else { 0 };
    let work = m.saturating_mul(k).saturating_mul(n);
    let whole = matrices.len() >= 2 * cx.threads;
    let kernel = Product {
        inputs,
        layout,
        b_strides,
        turn,
        added,
        activation,
        m,
        by_matrix: Cut::new(matrices.len(), 1, work.saturating_mul(matrices.len()), cx.threads),
        inside: GridCut::new(m, layout.tile_rows(), layout.panels(), work, cx.threads),
        packing: Cut::new(layout.panels(), 1, k * n * 4, cx.threads),
        matrices,
        whole,
        scratch: [b_scratch, a_scratch],
        packed,
    };
    let bytes = kernel.packed.as_ref().map_or(0, |p| size_of_val(p.data()));
    let each = (b_scratch + a_scratch) * size_of::<f32>();
    let scratch = each.checked_mul(if whole { cx.threads } else { 1 });
    let scratch = scratch.ok_or_else(|| OpError::new("the product is too large"))?;
    let absorbed: &[usize] = if kernel.packed.is_some() { &inputs[1..] } else { &[] };
    Ok(Some(Lowered::new(kernel).with_absorbed(absorbed, bytes).with_scratch(scratch)))
}

struct Product {
    /// Which inputs are multiplied.
    inputs: [usize; 2],
    layout: PackLayout,
    packed: Option<PackedB>,
    b_strides: (usize, usize),
    /// Turns a transposed left-hand side.
    turn: Option<Permute>,
    added: Added,
    activation: Unary,
    m: usize,
    /// For each product, which matrix of a and which of b.
    matrices: Vec<[usize; 2]>,
    /// Whether a thread does whole products.
    whole: bool,
    by_matrix: Cut,
    inside: GridCut,
    packing: Cut,
    /// Elements of scratch for packing b and for turning a.
    scratch: [usize; 2],
}

impl Kernel for Product {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let PackLayout { k, n, .. } = self.layout;
        let (m, [b_scratch, a_scratch]) = (self.m, self.scratch);
        let a: &[f32] = io.input(self.inputs[0])?;
        let b: &[f32] = if self.packed.is_some() { &[] } else { io.input(self.inputs[1])? };
        let added: &[f32] = if self.added == Added::Nothing { &[] } else { io.input(2)? };
        let out = SharedMut::new(io.outputs[0].slice_mut::<f32>()?);
        let scratch: &mut [f32] = bytemuck::try_cast_slice_mut(io.scratch)
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let scratch = SharedMut::new(scratch);
        let epilogue = |matrix: usize| match self.added {
            Added::Nothing => Epilogue { activation: self.activation, ..Epilogue::default() },
            Added::Bias => {
                Epilogue { bias: Some(added), activation: self.activation, ..Epilogue::default() }
            }
            Added::Residual => Epilogue {
                residual: Some(Rows { data: &added[matrix * m * n..][..m * n], stride: n }),
                after: self.activation,
                ..Epilogue::default()
            },
        };
        let a_of = |at: usize| &a[at * m * k..][..m * k];
        let b_of = |at: usize| &b[at * k * n..][..k * n];
        let run = |matrix: usize, rows, panels, a: &[f32], b: &[f32]| {
            let out = out.part(matrix * m * n..(matrix + 1) * m * n);
            let gemm = Gemm { layout: self.layout, b, epilogue: epilogue(matrix) };
            // SAFETY: every task has its own product, or its own rows and panels of one.
            unsafe { gemm.run(rows, panels, Rows { data: a, stride: k }, out, n) };
        };
        if self.whole {
            io.pool.run(self.by_matrix.tasks, |task, worker| {
                let start = worker * (b_scratch + a_scratch);
                // SAFETY: every worker has its own scratch.
                let (own_b, own_a) = unsafe {
                    let own = scratch.slice(start..start + b_scratch + a_scratch);
                    own.split_at_mut(b_scratch)
                };
                for matrix in self.by_matrix.part(task) {
                    let [at_a, at_b] = self.matrices[matrix];
                    let a = match &self.turn {
                        Some(turn) => {
                            turn.run(0..turn.slices(), a_of(at_a), &mut own_a[..m * k]);
                            &own_a[..m * k]
                        }
                        None => a_of(at_a),
                    };
                    let panels = 0..self.layout.panels();
                    let b = match &self.packed {
                        Some(packed) => packed.data(),
                        None => {
                            self.layout.pack(panels.clone(), b_of(at_b), self.b_strides, own_b);
                            &*own_b
                        }
                    };
                    run(matrix, 0..m, panels, a, b);
                }
            });
            return Ok(());
        }
        for (matrix, &[at_a, at_b]) in self.matrices.iter().enumerate() {
            if self.packed.is_none() {
                io.pool.run(self.packing.tasks, |task, _| {
                    let panels = self.packing.part(task);
                    let width = self.layout.panel_columns() * k;
                    let (start, end) = (panels.start * width, (panels.end * width).min(b_scratch));
                    // SAFETY: panels lie one after the other; every task has its own.
                    let own = unsafe { scratch.slice(start..end) };
                    self.layout.pack(panels, b_of(at_b), self.b_strides, own);
                });
            }
            if let Some(turn) = &self.turn {
                // SAFETY: no task is running.
                let own = unsafe { scratch.slice(b_scratch..b_scratch + m * k) };
                turn.run(0..turn.slices(), a_of(at_a), own);
            }
            // SAFETY: nobody writes the scratch while it is shared.
            let (own_b, own_a) = unsafe {
                (&*scratch.slice(0..b_scratch), &*scratch.slice(b_scratch..b_scratch + a_scratch))
            };
            let b = self.packed.as_ref().map_or(own_b, |p| p.data());
            let a = if self.turn.is_some() { &own_a[..m * k] } else { a_of(at_a) };
            io.pool.run(self.inside.tasks(), |task, _| {
                let (rows, panels) = self.inside.part(task);
                run(matrix, rows, panels, a, b);
            });
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let how = if self.packed.is_some() { "" } else { ", packed when run" };
        format!("gemm {}{how}", self.layout.isa().name())
    }

    fn why(&self) -> &'static str {
        match &self.packed {
            Some(_) => "the right matrix is constant, so it is packed once",
            None => "the right matrix is computed, so it is packed in every run",
        }
    }
}
