//! Element by element: tables, to floats and back.

use super::{byte, byte_output, byte_value, input_bytes, part, tasks};
use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use kinglet_graph::ops::quantized::{Clamp, Dequantize, Integers, QUnary, Quantize, RoundTo};
use kinglet_graph::{Element, OpError, OpResult, Value};
use kinglet_kernels::byte_table::{map_bytes, map_to_floats};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::quantize::{Halves, quantize_floats};
use kinglet_kernels::requant::ByteOutput;
use kinglet_kernels::shared::SharedMut;
use std::sync::Mutex;

/// [`QUnary`]: from bytes to bytes a table, else one by one.
pub(super) fn lower_unary(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QUnary>() else { return Ok(None) };
    let (Some(x), y) = (cx.input(0), cx.output(0)) else { return Ok(None) };
    let len: usize = cx.dims(x)?.iter().product();
    let single = |value: &Value| value.ty.quant.as_ref().and_then(|quant| quant.single());
    let (Some(from), Some(to)) = (single(x), single(y)) else { return Ok(None) };
    if byte_value(&x.ty).is_some() && byte_value(&y.ty).is_some()
        // A function that fails for some inputs has no table.
        && let Ok(table) = op.table(x.ty.dtype, from, to)
    {
        let tasks = tasks(len, len * 4, cx.threads);
        return Ok(Some(Lowered::new(Table { isa: cx.isa, table: Box::new(table), tasks })));
    }
    let (Ok(f), Ok(limits)) = (op.evaluator(x.ty.dtype, from, to), Clamp::of(y.ty.dtype)) else {
        return Ok(None);
    };
    let f: Function = Box::new(move |x| f(x).map(|y| limits.apply(y)));
    let tasks = tasks(len, len * 40, cx.threads);
    kinglet_graph::dispatch!(y.ty.dtype, T in [I8 i8, U8 u8, I16 i16, U16 u16, I32 i32] => {
        Ok(Some(Lowered::new(Each::<T> { f, to: |x| x as T, tasks })))
    }, else => Ok(None))
}

struct Table {
    isa: Isa,
    table: Box<[u8; 256]>,
    tasks: usize,
}

impl Kernel for Table {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let input = input_bytes(io, 0)?;
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

    fn why(&self) -> &'static str {
        "a function of a byte has 256 values, computed once"
    }
}

/// A function of integers of any type, one by one.
struct Each<T> {
    f: Function,
    to: fn(i32) -> T,
    tasks: usize,
}

type Function = Box<dyn Fn(i32) -> OpResult<i32> + Send + Sync>;

impl<T: Element> Kernel for Each<T> {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let Some(view) = io.inputs.first().copied().flatten() else {
            return Err(OpError::new("input 0 is missing"));
        };
        let input = Integers::of(&view)?;
        let failed: Mutex<Option<OpError>> = Mutex::new(None);
        let pool = io.pool;
        let out = SharedMut::new(io.output::<T>(0)?);
        let len = out.len();
        pool.run(self.tasks, |i, _| {
            let range = part(len, self.tasks, i);
            // SAFETY: each task has its own part of the output.
            let out = unsafe { out.slice(range.clone()) };
            for (out, i) in out.iter_mut().zip(range) {
                match (self.f)(input.at(i)) {
                    Ok(value) => *out = (self.to)(value),
                    Err(e) => *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(e),
                }
            }
        });
        failed.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
    }

    fn describe(&self) -> String {
        format!("{} one by one", T::DTYPE)
    }

    fn why(&self) -> &'static str {
        "no vector kernel has these types"
    }
}

/// [`Quantize`] to bytes with one scale.
pub(super) fn lower_quantize(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<Quantize>() else { return Ok(None) };
    let (Some(x), y) = (cx.input(0), cx.output(0)) else { return Ok(None) };
    let (Some((_, scale, _)), Some(output)) =
        (byte_value(&y.ty), byte_output(&y.ty, Clamp::of(op.to)?))
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
    let (Some(kind), Some((_, scale, zero))) = (byte(x.ty.dtype), byte_value(&x.ty)) else {
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
        let input = input_bytes(io, 0)?;
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
