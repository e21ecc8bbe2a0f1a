//! LSTMs of floats with constant weights: all steps' products of the inputs are one product, then
//! each step adds that of the state and moves the cells on.

use super::LowerCx;
use super::float::{GridCut, constant, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use crate::pool::Pool;
use kinglet_graph::ops::rnn::{Cell, Direction, Recurrent, SequenceLstm};
use kinglet_graph::ops::unary::Unary as Function;
use kinglet_graph::{OpError, OpResult};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::gemm_f32::{Epilogue, Gemm, PackedB, Rows};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::lstm_f32::LstmCellF32;
use kinglet_kernels::shared::SharedMut;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    if let Some(op) = cx.op::<Recurrent>() {
        return onnx(cx, op);
    }
    match cx.op::<SequenceLstm>() {
        Some(op) => tflite(cx, op),
        None => Ok(None),
    }
}

/// A matrix product with packed weights.
struct Product {
    weights: PackedB,
    bias: Option<Vec<f32>>,
    activation: Unary,
}

impl Product {
    /// Of `columns` rows of weights, each as long as the rows that they multiply.
    fn new(isa: Isa, rows: &[f32], columns: usize, bias: Option<Vec<f32>>) -> Product {
        let k = rows.len() / columns;
        let weights = PackedB::new(isa, k, columns, rows, (1, k));
        Product { weights, bias, activation: Unary::Identity }
    }

    fn bytes(&self) -> usize {
        size_of_val(self.weights.data()) + self.bias.as_ref().map_or(0, |b| size_of_val(&b[..]))
    }

    /// Writes `count` rows of results one after the other.
    fn run(
        &self,
        pool: &Pool,
        count: usize,
        a: Rows<'_>,
        added: Option<Rows<'_>>,
        out: &mut [f32],
    ) {
        let layout = self.weights.layout();
        let work = count.saturating_mul(layout.k).saturating_mul(layout.n);
        let cut = GridCut::new(count, layout.tile_rows(), layout.panels(), work, pool.threads());
        let epilogue = Epilogue {
            bias: self.bias.as_deref(),
            residual: added,
            activation: self.activation,
            ..Epilogue::default()
        };
        let gemm = Gemm { layout, b: self.weights.data(), epilogue };
        let out = SharedMut::new(out);
        pool.run(cut.tasks(), |task, _| {
            let (rows, panels) = cut.part(task);
            // SAFETY: tasks have results of their own.
            unsafe { gemm.run(rows, panels, a, out, layout.n) };
        });
    }
}

/// The weights of one direction.
struct Way {
    /// From the inputs to the gates' sums.
    input: Product,
    /// From the state to the gates' sums.
    state: Product,
    /// Of the input, forget and output gate.
    peepholes: Option<[Vec<f32>; 3]>,
    /// From what the cells give to the state.
    projection: Option<Product>,
    backwards: bool,
}

/// A net of LSTM cells over sequences.
struct Lstm {
    isa: Isa,
    ways: Vec<Way>,
    steps: usize,
    batch: usize,
    features: usize,
    units: usize,
    /// Size of the state: the units, unless they are projected.
    width: usize,
    /// Where the input gate, forget gate, cell input and output gate stand among the sums.
    gates: [usize; 4],
    clip: f32,
    coupled: bool,
    /// x and Y have batches outside of steps.
    batch_first: bool,
    /// The states have batches outside of directions.
    state_batch_first: bool,
    /// Places of the initial H and C among the inputs.
    initial: [usize; 2],
}

/// The scratch of an [`Lstm`], in elements.
struct Scratch {
    /// Sums of the gates from the inputs, for all rows of x.
    inputs: usize,
    /// Sums of the gates of one step.
    sums: usize,
    /// H of one step.
    state: usize,
    /// C, and what the cells give before a projection.
    cells: usize,
}

impl Scratch {
    fn of(lstm: &Lstm) -> Option<Scratch> {
        let product = |n: [usize; 4]| n.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        Some(Scratch {
            inputs: product([lstm.steps, lstm.batch, 4, lstm.units])?,
            sums: product([lstm.batch, 4, lstm.units, 1])?,
            state: product([lstm.batch, lstm.width, 1, 1])?,
            cells: product([lstm.batch, lstm.units, 1, 1])?,
        })
    }

    fn total(&self) -> Option<usize> {
        let parts = [self.sums, self.state, self.cells, self.cells];
        parts.iter().try_fold(self.inputs, |n, part| n.checked_add(*part))
    }
}

impl Lstm {
    fn lowered(self, absorbed: &[usize]) -> OpResult<Option<Lowered>> {
        let scratch = Scratch::of(&self).and_then(|s| s.total()?.checked_mul(size_of::<f32>()));
        let scratch = scratch.ok_or_else(|| OpError::new("the LSTM is too large"))?;
        let of_way = |way: &Way| {
            let peepholes = way.peepholes.iter().flatten().map(|p| size_of_val(&p[..]));
            let products = [Some(&way.input), Some(&way.state), way.projection.as_ref()];
            let products = products.into_iter().flatten().map(Product::bytes);
            products.chain(peepholes).sum::<usize>()
        };
        let bytes = self.ways.iter().map(of_way).sum();
        Ok(Some(Lowered::new(self).with_absorbed(absorbed, bytes).with_scratch(scratch)))
    }

    /// Runs direction `d`.
    fn run_way(&self, io: &mut Io<'_>, d: usize) -> OpResult {
        let (way, pool) = (&self.ways[d], io.pool);
        let (steps, batch, units, width) = (self.steps, self.batch, self.units, self.width);
        let x: &[f32] = io.input(0)?;
        let sizes = Scratch::of(self).ok_or_else(|| OpError::new("the LSTM is too large"))?;
        let scratch: &mut [f32] = bytemuck::try_cast_slice_mut(io.scratch)
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let (inputs, rest) = scratch.split_at_mut(sizes.inputs);
        let (sums, rest) = rest.split_at_mut(sizes.sums);
        let (state, rest) = rest.split_at_mut(sizes.state);
        let (cells, rest) = rest.split_at_mut(sizes.cells);
        let given = &mut rest[..sizes.cells];
        // Row n of the states of direction d, among all of them.
        let of_state = |n: usize| match self.state_batch_first {
            true => n * self.ways.len() + d,
            false => d * batch + n,
        };
        for (i, (to, size)) in [(&mut *state, width), (&mut *cells, units)].into_iter().enumerate()
        {
            match io.inputs.get(self.initial[i]).copied().flatten() {
                None => to.fill(0.0),
                Some(initial) => {
                    let initial = initial.slice::<f32>()?;
                    for (n, to) in to.chunks_exact_mut(size).enumerate() {
                        to.copy_from_slice(&initial[of_state(n) * size..][..size]);
                    }
                }
            }
        }
        let rows = Rows { data: x, stride: self.features };
        way.input.run(pool, steps * batch, rows, None, inputs);
        let peepholes = way.peepholes.as_ref().map(|p| [&p[0][..], &p[1][..], &p[2][..]]);
        let cell = LstmCellF32 { peepholes, clip: self.clip, coupled: self.coupled };
        for step in 0..steps {
            let t = if way.backwards { steps - 1 - step } else { step };
            let (first, stride) = if self.batch_first { (t, steps) } else { (t * batch, 1) };
            let row = 4 * units;
            let added = Rows { data: &inputs[first * row..], stride: stride * row };
            let last = Rows { data: state, stride: width };
            way.state.run(pool, batch, last, Some(added), sums);
            for n in 0..batch {
                let sums = &sums[n * row..][..row];
                let gates = self.gates.map(|g| &sums[g * units..][..units]);
                let given = &mut given[n * units..][..units];
                cell.step(self.isa, gates, &mut cells[n * units..][..units], given);
            }
            match &way.projection {
                Some(projection) => {
                    let given = Rows { data: given, stride: units };
                    projection.run(pool, batch, given, None, state);
                }
                None => state.copy_from_slice(given),
            }
            let y = io.outputs[0].slice_mut::<f32>()?;
            for (n, state) in state.chunks_exact(width).enumerate() {
                let at = match self.batch_first {
                    true => (n * steps + t) * self.ways.len() + d,
                    false => (t * self.ways.len() + d) * batch + n,
                };
                y[at * width..][..width].copy_from_slice(state);
            }
        }
        for (i, (from, size)) in [(&*state, width), (&*cells, units)].into_iter().enumerate() {
            let Some(out) = io.outputs.get_mut(i + 1) else { continue };
            let out = out.slice_mut::<f32>()?;
            for (n, from) in from.chunks_exact(size).enumerate() {
                out[of_state(n) * size..][..size].copy_from_slice(from);
            }
        }
        Ok(())
    }
}

impl Kernel for Lstm {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        (0..self.ways.len()).try_for_each(|d| self.run_way(io, d))
    }

    fn describe(&self) -> String {
        format!("lstm {}", self.isa.name())
    }
}

fn onnx(cx: &LowerCx<'_>, op: &Recurrent) -> OpResult<Option<Lowered>> {
    let usual = op.cell == Cell::Lstm { input_forget: false }
        && op.activations.chunks(3).all(|a| a == op.cell.default_activations())
        && op.clip.is_none()
        && cx.input(4).is_none();
    let (Some(x), Some(w), Some(r)) = (cx.input(0), constant_f32(cx, 1)?, constant_f32(cx, 2)?)
    else {
        return Ok(None);
    };
    let (biases, peepholes) = (constant_f32(cx, 3)?, constant_f32(cx, 7)?);
    let given = |i: usize, found: bool| cx.input(i).is_some() == found;
    if !usual || !is_f32(cx, 8) || !given(3, biases.is_some()) || !given(7, peepholes.is_some()) {
        return Ok(None);
    }
    let (x, r_dims) = (cx.dims(x)?, cx.dims(cx.output(0))?);
    let (&[first, second, features], Some(&units)) = (x.as_slice(), r_dims.last()) else {
        return Ok(None);
    };
    let (steps, batch) = if op.batch_first { (second, first) } else { (first, second) };
    if [steps, batch, features, units].contains(&0) {
        return Ok(None);
    }
    let row = 4 * units;
    let way = |d: usize| {
        let of = |v: &[f32], size: usize| v[d * size..][..size].to_vec();
        let bias = biases.map(|b| {
            let both = of(b, 2 * row);
            (0..row).map(|i| both[i] + both[row + i]).collect()
        });
        // The file has them in the order input, output, forget.
        let peepholes = peepholes.map(|p| {
            let all = of(p, 3 * units);
            [0, 2, 1].map(|i: usize| all[i * units..][..units].to_vec())
        });
        Way {
            input: Product::new(cx.isa, &of(w, row * features), row, bias),
            state: Product::new(cx.isa, &of(r, row * units), row, None),
            peepholes,
            projection: None,
            backwards: op.direction == Direction::Reverse || d == 1,
        }
    };
    let lstm = Lstm {
        isa: cx.isa,
        ways: (0..op.direction.count()).map(way).collect(),
        steps,
        batch,
        features,
        units,
        width: units,
        gates: [0, 2, 3, 1],
        clip: 0.0,
        coupled: false,
        batch_first: op.batch_first,
        state_batch_first: op.batch_first,
        initial: [5, 6],
    };
    lstm.lowered(&present(cx, &[1, 2, 3, 7]))
}

/// The inputs among `places` that the node has.
fn present(cx: &LowerCx<'_>, places: &[usize]) -> Vec<usize> {
    places.iter().copied().filter(|i| cx.input(*i).is_some()).collect()
}

fn constant_f32<'a>(cx: &LowerCx<'a>, i: usize) -> OpResult<Option<&'a [f32]>> {
    match cx.input(i) {
        Some(value) if value.ty.dtype == kinglet_graph::DType::F32 => constant(cx, i),
        _ => Ok(None),
    }
}

fn tflite(cx: &LowerCx<'_>, op: &SequenceLstm) -> OpResult<Option<Lowered>> {
    let (Some(x), true) = (cx.input(0), is_f32(cx, 24)) else { return Ok(None) };
    let places: Vec<usize> = (1..18).collect();
    let absorbed = present(cx, &places);
    let constant_weights = absorbed.iter().all(|i| cx.constant(*i).is_some());
    let normalised = (20..24).any(|i| cx.input(i).is_some());
    if op.activation != Function::Tanh || normalised || !constant_weights {
        return Ok(None);
    }
    let (x, h, c) = (cx.dims(x)?, cx.dims(cx.output(1))?, cx.dims(cx.output(2))?);
    let (&[first, second, features], Some(&width), Some(&units)) =
        (x.as_slice(), h.last(), c.last())
    else {
        return Ok(None);
    };
    let (steps, batch) = if op.time_major { (first, second) } else { (second, first) };
    if [steps, batch, features, units, width].contains(&0) {
        return Ok(None);
    }
    // The matrices of the four gates, one after the other; zeros where there is none.
    let joined = |first: usize, size: usize| -> OpResult<Vec<f32>> {
        let mut all = Vec::with_capacity(4 * size);
        for i in first..first + 4 {
            match constant(cx, i)? {
                Some(matrix) => all.extend_from_slice(matrix),
                None => all.resize(all.len() + size, 0.0),
            }
        }
        Ok(all)
    };
    let peepholes = [9, 10, 11].map(|i| cx.input(i).is_some());
    let peepholes = if peepholes.contains(&true) {
        let of = |i: usize| -> OpResult<Vec<f32>> {
            Ok(constant(cx, i)?.map_or_else(|| vec![0.0; units], <[f32]>::to_vec))
        };
        Some([of(9)?, of(10)?, of(11)?])
    } else {
        None
    };
    let projection = match constant(cx, 16)? {
        None => None,
        Some(weights) => {
            let bias = constant(cx, 17)?.map(<[f32]>::to_vec);
            let product = Product::new(cx.isa, weights, width, bias);
            let activation = op.projection_clip.map_or(Unary::Identity, |c| Unary::Clamp(-c, c));
            Some(Product { activation, ..product })
        }
    };
    let way = Way {
        input: Product::new(
            cx.isa,
            &joined(1, units * features)?,
            4 * units,
            Some(joined(12, units)?),
        ),
        state: Product::new(cx.isa, &joined(5, units * width)?, 4 * units, None),
        peepholes,
        projection,
        backwards: false,
    };
    // The kernel takes a bound of 0 for none; the op bounds by it.
    if op.cell_clip.is_some_and(|clip| clip <= 0.0) {
        return Ok(None);
    }
    let lstm = Lstm {
        isa: cx.isa,
        ways: vec![way],
        steps,
        batch,
        features,
        units,
        width,
        gates: [0, 1, 2, 3],
        clip: op.cell_clip.unwrap_or(0.0),
        coupled: cx.input(1).is_none(),
        batch_first: !op.time_major,
        state_batch_first: true,
        initial: [18, 19],
    };
    lstm.lowered(&absorbed)
}
