//! Element by element: sums and products, tables, to floats and back.

use super::{byte, byte_output, byte_value, part, tasks};
use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use kinglet_graph::ops::quantized::{
    Clamp, Dequantize, QBinary, QBinaryKind, QUnary, Quantize, Rescale, RoundTo,
};
use kinglet_graph::{OpError, OpResult};
use kinglet_kernels::byte_table::{map_bytes, map_to_floats};
use kinglet_kernels::fixed::Multiplier;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::qbinary::{self, QArithmetic};
use kinglet_kernels::quantize::{Halves, quantize_floats};
use kinglet_kernels::requant::ByteOutput;
use kinglet_kernels::shared::SharedMut;

/// [`QBinary`] sums, differences and products in fixed point: of equal sizes, or with one operand
/// repeated.
pub(super) fn lower_binary(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QBinary>() else { return Ok(None) };
    let (Some(a), Some(b), y) = (cx.input(0), cx.input(1), cx.output(0)) else { return Ok(None) };
    let (Some((kind, a_scale, a_zero)), Some((b_kind, b_scale, b_zero)), Some(output)) =
        (byte_value(a), byte_value(b), byte_output(y, op.clamp))
    else {
        return Ok(None);
    };
    let Some((out_kind, out_scale, _)) = byte_value(y) else { return Ok(None) };
    if kind != b_kind || kind != out_kind || op.rescale != Rescale::FixedPoint || op.power_of_two {
        return Ok(None);
    }
    let arithmetic = match op.kind {
        QBinaryKind::Add | QBinaryKind::Sub => {
            let [a, b, out] = op.sum_factors(y.ty.dtype, [a_scale, b_scale, out_scale])?;
            QArithmetic::Sum { a, b, out }
        }
        QBinaryKind::Mul => match Multiplier::new(f64::from(a_scale * b_scale / out_scale)) {
            Some(out) => QArithmetic::Product { out },
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let (a_dims, b_dims, y_dims) = (cx.dims(a)?, cx.dims(b)?, cx.dims(y)?);
    // The smaller operand repeats: one element, or the last dimensions whole.
    let repeats = |dims: &[usize]| {
        let whole = y_dims.ends_with(dims);
        dims.iter().product::<usize>() == 1 || whole
    };
    let len: usize = y_dims.iter().product();
    if len == 0 || !repeats(&a_dims) || !repeats(&b_dims) {
        return Ok(None);
    }
    let piece = |dims: &[usize]| match dims.iter().product::<usize>() {
        1 => len,
        n => n,
    };
    let piece = piece(&a_dims).min(piece(&b_dims));
    let zeros = [a_zero, b_zero];
    let Some(kernel) = qbinary::QBinary::new(cx.isa, arithmetic, kind, zeros, output) else {
        return Ok(None);
    };
    // Each element costs as much as some tens of multiply-adds.
    let tasks = tasks(len, len * 40, cx.threads);
    Ok(Some(Lowered::new(Binary { kernel, piece, tasks, name: cx.isa.name() })))
}

struct Binary {
    kernel: qbinary::QBinary,
    /// Elements after which an operand repeats.
    piece: usize,
    tasks: usize,
    name: &'static str,
}

impl Kernel for Binary {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (a, b) = (bytes(io, 0)?, bytes(io, 1)?);
        let out = SharedMut::new(&mut *io.outputs[0].bytes);
        let len = out.len();
        io.pool.run(self.tasks, |i, _| {
            let mut range = part(len, self.tasks, i);
            while range.start < range.end {
                let first = range.start % self.piece;
                let count = (self.piece - first).min(range.end - range.start);
                let operand = |x: &'_ [u8]| match x.len() {
                    1 => 0..1,
                    n if n == len => range.start..range.start + count,
                    n => range.start % n..range.start % n + count,
                };
                let (a, b) = (&a[operand(a)], &b[operand(b)]);
                // SAFETY: each task has its own part of the output.
                self.kernel.run(a, b, unsafe { out.slice(range.start..range.start + count) });
                range.start += count;
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("qbinary {}", self.name)
    }
}

/// The bytes of input `i`, which must be there.
fn bytes<'a>(io: &Io<'a>, i: usize) -> OpResult<&'a [u8]> {
    match io.inputs.get(i).copied().flatten() {
        Some(view) => Ok(view.bytes),
        None => Err(OpError::new(format!("input {i} is missing"))),
    }
}

/// [`QUnary`] from bytes to bytes: a table.
pub(super) fn lower_unary(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QUnary>() else { return Ok(None) };
    let (Some(x), y) = (cx.input(0), cx.output(0)) else { return Ok(None) };
    let (Some((_, scale, zero)), Some((_, out_scale, out_zero))) = (byte_value(x), byte_value(y))
    else {
        return Ok(None);
    };
    // A function that fails for some inputs has no table.
    let Ok(table) = op.table(x.ty.dtype, (scale, zero), (out_scale, out_zero)) else {
        return Ok(None);
    };
    let len: usize = cx.dims(x)?.iter().product();
    let tasks = tasks(len, len * 4, cx.threads);
    Ok(Some(Lowered::new(Table { isa: cx.isa, table: Box::new(table), tasks })))
}

struct Table {
    isa: Isa,
    table: Box<[u8; 256]>,
    tasks: usize,
}

impl Kernel for Table {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let input = bytes(io, 0)?;
        let out = SharedMut::new(&mut *io.outputs[0].bytes);
        io.pool.run(self.tasks, |i, _| {
            let range = part(input.len(), self.tasks, i);
            // SAFETY: each task has its own part of the output.
            let out = unsafe { out.slice(range.clone()) };
            map_bytes(self.isa, &self.table, &input[range], out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("table {}", self.isa.name())
    }
}

/// [`Quantize`] to bytes with one scale.
pub(super) fn lower_quantize(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<Quantize>() else { return Ok(None) };
    let (Some(x), y) = (cx.input(0), cx.output(0)) else { return Ok(None) };
    let (Some((_, scale, _)), Some(output)) = (byte_value(y), byte_output(y, Clamp::of(op.to)?))
    else {
        return Ok(None);
    };
    let halves = match op.round {
        RoundTo::AwayFromZero => Halves::AwayFromZero,
        RoundTo::Even => Halves::ToEven,
    };
    let len: usize = cx.dims(x)?.iter().product();
    let tasks = tasks(len, len * 20, cx.threads);
    Ok(Some(Lowered::new(ToBytes { isa: cx.isa, scale, halves, output, tasks })))
}

struct ToBytes {
    isa: Isa,
    scale: f32,
    halves: Halves,
    output: ByteOutput,
    tasks: usize,
}

impl Kernel for ToBytes {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let input = io.input::<f32>(0)?;
        let out = SharedMut::new(&mut *io.outputs[0].bytes);
        io.pool.run(self.tasks, |i, _| {
            let range = part(input.len(), self.tasks, i);
            // SAFETY: each task has its own part of the output.
            let out = unsafe { out.slice(range.clone()) };
            quantize_floats(self.isa, &input[range], self.scale, self.halves, &self.output, out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("quantize {}", self.isa.name())
    }
}

/// [`Dequantize`] of bytes with one scale.
pub(super) fn lower_dequantize(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    if cx.op::<Dequantize>().is_none() {
        return Ok(None);
    }
    let Some(x) = cx.input(0) else { return Ok(None) };
    let (Some(kind), Some((_, scale, zero))) = (byte(x.ty.dtype), byte_value(x)) else {
        return Ok(None);
    };
    let real = |bits: usize| {
        let steps = i64::from(kind.value(bits as u8)) - i64::from(zero);
        (f64::from(scale) * steps as f64) as f32
    };
    let table = Box::new(std::array::from_fn(real));
    let len: usize = cx.dims(x)?.iter().product();
    let tasks = tasks(len, len * 40, cx.threads);
    Ok(Some(Lowered::new(ToFloats { table, tasks })))
}

struct ToFloats {
    table: Box<[f32; 256]>,
    tasks: usize,
}

impl Kernel for ToFloats {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let input = bytes(io, 0)?;
        let out = SharedMut::new(io.outputs[0].slice_mut::<f32>()?);
        io.pool.run(self.tasks, |i, _| {
            let range = part(input.len(), self.tasks, i);
            // SAFETY: each task has its own part of the output.
            map_to_floats(&self.table, &input[range.clone()], unsafe { out.slice(range) });
        });
        Ok(())
    }

    fn describe(&self) -> String {
        "dequantize".into()
    }
}
