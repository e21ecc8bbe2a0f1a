//! TensorFlow Lite's integer LSTM: all steps' sums over the inputs are one product, then each
//! step adds those over the state and moves the cells on.

use super::sums::Sums;
use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use crate::pool::WORKER_SCRATCH;
use kinglet_graph::ops::quantized::{QLstm, QLstmProduct};
use kinglet_graph::{Inputs, Interpreter, OpResult, TensorView};
use kinglet_kernels::fixed::Multiplier;
use kinglet_kernels::qconv::{ConvShape, QWeights};
use kinglet_kernels::qlstm::{QGate, QGateNorm, QLstmCell};
use kinglet_kernels::requant::Byte;

/// [`QLstm`] with constant weights.
pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QLstm>() else { return Ok(None) };
    let changing = [0, QLstm::H, QLstm::C];
    let mut dims = Vec::new();
    for i in changing {
        let Some(value) = cx.input(i) else { return Ok(None) };
        dims.push(cx.dims(value)?);
    }
    let mut views = Vec::new();
    for i in 0..cx.node.inputs.len() {
        let Some(value) = cx.input(i) else {
            views.push(None);
            continue;
        };
        let (dims, bytes): (&[usize], &[u8]) = match changing.iter().position(|c| *c == i) {
            Some(at) => (&dims[at], &[]),
            None => match cx.constant(i) {
                Some(view) => (view.dims, view.bytes),
                None => return Ok(None),
            },
        };
        let quant = value.ty.quant.as_deref();
        views.push(Some(TensorView { dtype: value.ty.dtype, dims, bytes, quant }));
    }
    let (&[first, second, features], &[batch, outputs], &[_, units]) =
        (dims[0].as_slice(), dims[1].as_slice(), dims[2].as_slice())
    else {
        return Ok(None);
    };
    let steps = if op.time_major { first } else { second };
    if steps * batch * features * units * outputs == 0 || first * second != steps * batch {
        return Ok(None);
    }
    // What does not fit, the reference implementation says.
    let runner = Interpreter::default();
    let inputs = Inputs::new(&views, &runner);
    let Ok(net) = op.net(&inputs, (features, units, outputs)) else { return Ok(None) };
    let product = |products: &[&QLstmProduct], rows: usize, columns: usize| -> Option<Sums> {
        let (mut data, mut bias) = (Vec::new(), Vec::new());
        for product in products {
            let bytes = product.weights.iter().map(|w| i8::try_from(*w).map(|w| w as u8));
            data.extend(bytes.collect::<Result<Vec<u8>, _>>().ok()?);
            bias.extend_from_slice(&product.bias);
        }
        // Zero points are part of the biases.
        let shape = ConvShape::matrix(rows, columns, bias.len());
        let weights = QWeights { data: &data, kind: Byte::Signed, zero_points: &[0], bias: &bias };
        Some(Sums::dense(cx.isa, &shape, (Byte::Signed, 0), &weights, cx.threads))
    };
    let of = |f: fn(&kinglet_graph::ops::quantized::QLstmGate) -> &QLstmProduct| {
        net.gates.iter().flatten().map(f).collect::<Vec<_>>()
    };
    let (Some(x), Some(state)) = (
        product(&of(|g| &g.input), steps * batch, features),
        product(&of(|g| &g.state), batch, outputs),
    ) else {
        return Ok(None);
    };
    let projection = match &net.projection {
        None => None,
        Some(p) => match product(&[p], batch, units) {
            Some(sums) => Some(Projection {
                sums,
                scale: p.scale,
                zero: net.out_zero,
                clip: net.projection_clip,
            }),
            None => return Ok(None),
        },
    };
    let narrow = |all: &[i32]| all.iter().map(|v| *v as i16).collect::<Vec<i16>>();
    let gates = net.gates.each_ref().map(|gate| {
        gate.as_ref().map(|g| QGate {
            input: g.input.scale,
            state: g.state.scale,
            peephole: g.peephole.as_ref().map(|(w, scale)| (narrow(w), *scale)),
            norm: g.norm.as_ref().map(|n| QGateNorm {
                coefficients: narrow(&n.coefficients),
                bias: n.bias.iter().map(|b| *b as i32).collect(),
                scale: n.scale,
                guard: n.guard,
            }),
        })
    });
    // The projection takes its input less the zero point.
    let zero = if projection.is_some() { -net.hidden_zero } else { net.hidden_zero };
    let cell = QLstmCell {
        gates,
        cell_power: net.cell_power,
        cell_clip: net.cell_clip as i16,
        hidden: (net.hidden, zero),
    };
    let time_major = op.time_major;
    let lstm = Lstm { x, state, projection, cell, steps, batch, units, outputs, time_major };
    let scratch = if lstm.alone() { 0 } else { lstm.sizes(Some(cx.threads)).iter().sum() };
    let packed = lstm.packed_bytes();
    let absorbed: Vec<usize> =
        (1..views.len()).filter(|i| !changing.contains(i) && views[*i].is_some()).collect();
    Ok(Some(Lowered::new(lstm).with_scratch(scratch).with_absorbed(&absorbed, packed)))
}

/// From what the cells give to the state.
struct Projection {
    sums: Sums,
    scale: Multiplier,
    zero: i32,
    clip: i32,
}

struct Lstm {
    x: Sums,
    state: Sums,
    projection: Option<Projection>,
    cell: QLstmCell,
    steps: usize,
    batch: usize,
    units: usize,
    /// Size of the state: the units, unless they are projected.
    outputs: usize,
    time_major: bool,
}

impl Lstm {
    /// Bytes of scratch: sums over x, over the state, of the projection; gates; what the cells
    /// give; the products' own, on so many threads or on this one alone.
    fn sizes(&self, threads: Option<usize>) -> [usize; 6] {
        let gates = self.cell.sums() * self.units;
        let projected = self.projection.as_ref().map_or(0, |_| self.batch * self.outputs);
        let products =
            [Some(&self.x), Some(&self.state), self.projection.as_ref().map(|p| &p.sums)];
        let own = products.iter().flatten().map(|p| threads.map_or(p.alone(), |n| p.planned(n)));
        [
            4 * self.steps * self.batch * gates,
            4 * self.batch * gates,
            4 * projected,
            2 * 4 * self.units,
            self.batch * self.units,
            own.max().unwrap_or(0),
        ]
        .map(|bytes| bytes.next_multiple_of(64))
    }

    /// Whether a thread's own scratch is enough: then so is one thread.
    fn alone(&self) -> bool {
        self.sizes(None).iter().sum::<usize>() <= WORKER_SCRATCH
    }

    fn packed_bytes(&self) -> usize {
        let projection = self.projection.as_ref().map_or(0, |p| p.sums.packed_bytes());
        self.x.packed_bytes() + self.state.packed_bytes() + projection
    }

    /// Runs all steps, with sums by `product` and scratch of `sizes`.
    fn steps(
        &self,
        x: &[i8],
        [y, h]: [&mut [i8]; 2],
        c: &mut [i16],
        (scratch, sizes): (&mut [u8], [usize; 6]),
        product: impl Fn(&Sums, &[u8], &mut [i32], &mut [u8]),
    ) {
        let (batch, units, outputs) = (self.batch, self.units, self.outputs);
        let gates = self.cell.sums() * units;
        let (of_x, rest) = carve::<i32>(scratch, sizes[0], self.steps * batch * gates);
        let (of_state, rest) = carve::<i32>(rest, sizes[1], batch * gates);
        let projected = if self.projection.is_some() { batch * outputs } else { 0 };
        let (projected, rest) = carve::<i32>(rest, sizes[2], projected);
        let (scratch, rest) = carve::<i16>(rest, sizes[3], 4 * units);
        let (hidden, own) = carve::<i8>(rest, sizes[4], batch * units);
        product(&self.x, bytemuck::cast_slice(x), of_x, own);
        for t in 0..self.steps {
            product(&self.state, bytemuck::cast_slice(h), of_state, own);
            let at = |b: usize| if self.time_major { t * batch + b } else { b * self.steps + t };
            for b in 0..batch {
                self.cell.step(
                    &of_x[at(b) * gates..][..gates],
                    &of_state[b * gates..][..gates],
                    &mut c[b * units..][..units],
                    scratch,
                    &mut hidden[b * units..][..units],
                );
            }
            match &self.projection {
                None => h.copy_from_slice(hidden),
                Some(p) => {
                    product(&p.sums, bytemuck::cast_slice(hidden), projected, own);
                    for (h, sum) in h.iter_mut().zip(&*projected) {
                        let value = p.scale.apply(*sum).saturating_add(p.zero).clamp(-128, 127);
                        *h = if p.clip > 0 { value.clamp(-p.clip, p.clip) } else { value } as i8;
                    }
                }
            }
            for b in 0..batch {
                y[at(b) * outputs..][..outputs].copy_from_slice(&h[b * outputs..][..outputs]);
            }
        }
    }
}

/// The first `count` elements of the first `bytes` bytes, and the rest.
fn carve<T: bytemuck::Pod>(
    scratch: &mut [u8],
    bytes: usize,
    count: usize,
) -> (&mut [T], &mut [u8]) {
    let (mine, rest) = scratch.split_at_mut(bytes);
    (bytemuck::cast_slice_mut(&mut mine[..count * size_of::<T>()]), rest)
}

impl Kernel for Lstm {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x = io.input::<i8>(0)?;
        let (h0, c0) = (io.input::<i8>(QLstm::H)?, io.input::<i16>(QLstm::C)?);
        let [y, h, c] = io.outputs.as_mut_slice() else { unreachable!("it has three outputs") };
        let (y, h, c) = (y.slice_mut::<i8>()?, h.slice_mut::<i8>()?, c.slice_mut::<i16>()?);
        h.copy_from_slice(h0);
        c.copy_from_slice(c0);
        if self.alone() {
            io.pool.alone(|scratch| {
                let product =
                    |p: &Sums, x: &[u8], out: &mut [i32], own: &mut [u8]| p.run_alone(x, out, own);
                self.steps(x, [y, h], c, (scratch, self.sizes(None)), product);
            });
        } else {
            let sizes = self.sizes(Some(io.pool.threads()));
            let product =
                |p: &Sums, x: &[u8], out: &mut [i32], own: &mut [u8]| p.run(io.pool, x, out, own);
            self.steps(x, [y, h], c, (io.scratch, sizes), product);
        }
        Ok(())
    }

    fn describe(&self) -> String {
        "qlstm".into()
    }
}
