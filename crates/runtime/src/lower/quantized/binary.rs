//! Arithmetic between two quantised tensors, broadcast.

use super::{byte_output, byte_value, input_bytes, part, tasks};
use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use crate::lower::broadcast::Lines;
use crate::pool::Pool;
use kinglet_graph::ops::quantized::{Clamp, QBinary, QBinaryKind, Rescale};
use kinglet_graph::{DType, Element, OpError, OpResult};
use kinglet_kernels::fixed::Multiplier;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::qbinary::{self, ByteArithmetic, QArithmetic, QReal, RealArithmetic};
use kinglet_kernels::requant::{Byte, ByteOutput};
use kinglet_kernels::shared::SharedMut;
use std::sync::Mutex;

/// [`QBinary`]: bytes by vectors where the arithmetic has them, anything else one by one.
pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<QBinary>() else { return Ok(None) };
    let (Some(a), Some(b), y) = (cx.input(0), cx.input(1), cx.output(0)) else { return Ok(None) };
    let (a_dims, b_dims, y_dims) = (cx.dims(a)?, cx.dims(b)?, cx.dims(y)?);
    let len: usize = y_dims.iter().product();
    let dtype = y.ty.dtype;
    if len == 0 || a.ty.dtype != dtype || b.ty.dtype != dtype {
        return Ok(None);
    }
    let lines = Lines::new(&y_dims, &a_dims, &b_dims);
    // Each element costs as much as some tens of multiply-adds.
    let units = if lines.count() == 1 { lines.columns.size } else { lines.count() };
    let tasks = tasks(units, len * 40, cx.threads);
    let walk = Walk { lines, tasks };
    if let (Some(a), Some(b), Some(output)) =
        (byte_value(&a.ty), byte_value(&b.ty), byte_output(&y.ty, op.clamp))
        && let Some((_, scale, _)) = byte_value(&y.ty)
        && let Some(kernel) = bytes(cx.isa, op, [a, b], (scale, output))?
    {
        return Ok(Some(Lowered::new(Vectors { kernel, walk, name: cx.isa.name() })));
    }
    let single = |value: &kinglet_graph::Value| value.ty.quant.as_ref().and_then(|q| q.single());
    let (Some(a), Some(b), Some(out)) = (single(a), single(b), single(y)) else { return Ok(None) };
    let (f, limits) = (op.evaluator(dtype, [a, b, out])?, Clamp::of(dtype)?);
    let f: Function = Box::new(move |x, y| f(x, y).map(|z| limits.apply(z)));
    kinglet_graph::dispatch!(dtype, T in [I8 i8, U8 u8, I16 i16, U16 u16, I32 i32] => {
        Ok(Some(Lowered::new(OneByOne::<T> { f, walk, from: Into::into, to: |x| x as T })))
    }, else => Ok(None))
}

/// The kernel for operands of one type, scales and zero points, if there is one.
pub(super) fn bytes(
    isa: Isa,
    op: &QBinary,
    [(kind, a_scale, a_zero), (_, b_scale, b_zero)]: [(Byte, f32, i32); 2],
    (out_scale, output): (f32, ByteOutput),
) -> OpResult<Option<ByteArithmetic>> {
    let dtype = if kind == Byte::Signed { DType::I8 } else { DType::U8 };
    if op.rescale == Rescale::Float {
        let arithmetic = match op.kind {
            QBinaryKind::Add => RealArithmetic::Add,
            QBinaryKind::Sub => RealArithmetic::Sub,
            QBinaryKind::Mul => RealArithmetic::Mul,
            QBinaryKind::Div => RealArithmetic::Div,
            _ => return Ok(None),
        };
        let operands = [(a_scale, a_zero), (b_scale, b_zero)];
        let kernel = QReal { isa, arithmetic, kind, operands, scale: out_scale, output };
        return Ok(Some(ByteArithmetic::Real(kernel)));
    }
    let arithmetic = match op.kind {
        QBinaryKind::Add | QBinaryKind::Sub if !op.power_of_two => {
            let [a, b, out] = op.sum_factors(dtype, [a_scale, b_scale, out_scale])?;
            QArithmetic::Sum { a, b, out }
        }
        QBinaryKind::Mul => match Multiplier::new(f64::from(a_scale * b_scale / out_scale)) {
            Some(out) => QArithmetic::Product { out },
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    if op.rescale != Rescale::FixedPoint {
        return Ok(None);
    }
    let kernel = qbinary::QBinary::new(isa, arithmetic, kind, [a_zero, b_zero], output);
    Ok(kernel.map(ByteArithmetic::Fixed))
}

/// Lines of at most so many elements are joined, a call for each would cost more than they.
const SHORT: usize = 64;
/// The most elements of joined lines.
const JOINED: usize = 512;

/// The lines of the result, shared out to threads.
struct Walk {
    lines: Lines,
    tasks: usize,
}

impl Walk {
    /// Calls `f(a, b, out)` for pieces of the result, an operand that repeats being one element.
    fn run<T: Copy + Send + Sync>(
        &self,
        pool: &Pool,
        [a, b]: [&[T]; 2],
        out: &mut [T],
        f: impl Fn(&[T], &[T], &mut [T]) + Sync,
    ) {
        let out = SharedMut::new(out);
        let columns = self.lines.columns;
        let piece = |i: usize, start: usize, from: usize, len: usize| match columns.strides[i] {
            0 => start..start + 1,
            _ => start + from..start + from + len,
        };
        if self.lines.count() == 1 {
            pool.run(self.tasks, |i, _| {
                let range = part(columns.size, self.tasks, i);
                let (from, len) = (range.start, range.len());
                // SAFETY: each task has its own part of the output.
                f(&a[piece(0, 0, from, len)], &b[piece(1, 0, from, len)], unsafe {
                    out.slice(range)
                });
            });
            return;
        }
        let len = columns.size;
        if len <= SHORT {
            pool.run(self.tasks, |task, _| {
                let mut joined = [[a[0]; JOINED], [b[0]; JOINED]];
                let mut lines = part(self.lines.count(), self.tasks, task);
                while !lines.is_empty() {
                    let in_block = self.lines.rows.size - lines.start % self.lines.rows.size;
                    let count = (JOINED / len).min(in_block).min(lines.len());
                    let starts = self.lines.starts(lines.start);
                    let [first, second] = &mut joined;
                    let a = self.join((a, first), (0, starts[0]), count);
                    let b = self.join((b, second), (1, starts[1]), count);
                    let range = lines.start * len..(lines.start + count) * len;
                    // SAFETY: each task has its own lines of the output.
                    f(a, b, unsafe { out.slice(range) });
                    lines.start += count;
                }
            });
            return;
        }
        pool.run(self.tasks, |i, _| {
            for line in part(self.lines.count(), self.tasks, i) {
                let [at_a, at_b] = self.lines.starts(line);
                let range = line * len..(line + 1) * len;
                // SAFETY: each task has its own lines of the output.
                f(&a[piece(0, at_a, 0, len)], &b[piece(1, at_b, 0, len)], unsafe {
                    out.slice(range)
                });
            }
        });
    }
}

impl Walk {
    /// `count` lines of operand `i`, which begin at `start` in `from`, as they lie in the result:
    /// where they are, or copied to `to`.
    fn join<'a, T: Copy>(
        &self,
        (from, to): (&'a [T], &'a mut [T; JOINED]),
        (i, start): (usize, usize),
        count: usize,
    ) -> &'a [T] {
        let Lines { columns, rows, .. } = &self.lines;
        let (len, stride, apart) = (columns.size, columns.strides[i], rows.strides[i]);
        if stride == 1 && (apart == len || count == 1) {
            return &from[start..start + count * len];
        }
        for (row, to) in to.chunks_exact_mut(len).take(count).enumerate() {
            let at = start + row * apart;
            match stride {
                0 => to.fill(from[at]),
                _ => to.copy_from_slice(&from[at..at + len]),
            }
        }
        &to[..count * len]
    }
}

struct Vectors {
    kernel: ByteArithmetic,
    walk: Walk,
    name: &'static str,
}

impl Kernel for Vectors {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let operands = [input_bytes(io, 0)?, input_bytes(io, 1)?];
        let out = &mut *io.outputs[0].bytes;
        self.walk.run(io.pool, operands, out, |a, b, out| self.kernel.run(a, b, out));
        Ok(())
    }

    fn describe(&self) -> String {
        let how = if matches!(self.kernel, ByteArithmetic::Real(_)) { " by floats" } else { "" };
        format!("qbinary {}{how}", self.name)
    }
}

type Function = Box<dyn Fn(i32, i32) -> OpResult<i32> + Send + Sync>;

/// Any arithmetic on integers of any type.
struct OneByOne<T> {
    f: Function,
    walk: Walk,
    from: fn(T) -> i32,
    to: fn(i32) -> T,
}

impl<T: Element> Kernel for OneByOne<T> {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let operands = [io.input::<T>(0)?, io.input::<T>(1)?];
        let failed: Mutex<Option<OpError>> = Mutex::new(None);
        let pool = io.pool;
        self.walk.run(pool, operands, io.output::<T>(0)?, |a, b, out| {
            let at = |v: &[T], i: usize| (self.from)(v[if v.len() == 1 { 0 } else { i }]);
            for (i, out) in out.iter_mut().enumerate() {
                match (self.f)(at(a, i), at(b, i)) {
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
