//! The place of the largest or smallest element along an axis.

use super::LowerCx;
use super::float::Cut;
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::ops::broadcast::{AroundAxis, axis_of};
use kinglet_graph::ops::order::ArgReduce;
use kinglet_graph::{DType, Element, OpResult};

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let (Some(op), Some(x)) = (cx.op::<ArgReduce>(), cx.input(0)) else { return Ok(None) };
    let known = matches!(x.ty.dtype, DType::F32 | DType::I8 | DType::U8);
    if !known || !matches!(op.index, DType::I32 | DType::I64) {
        return Ok(None);
    }
    let dims = cx.dims(x)?;
    let around = AroundAxis::new(&dims, axis_of(op.axis, dims.len())?);
    // Every index fits in an i32, and there is one to find.
    if around.len == 0 || around.len > i32::MAX as usize || around.inner == 0 {
        return Ok(None);
    }
    let lines = around.outer * around.inner;
    let cut = Cut::new(lines, 1, dims.iter().product(), cx.threads);
    Ok(Some(Lowered::new(Find { op: *op, around, cut })))
}

struct Find {
    op: ArgReduce,
    around: AroundAxis,
    /// Over the lines along the axis.
    cut: Cut,
}

/// An element to compare: what the largest has most of.
trait Key: Element + PartialOrd {
    /// Whether this is no number, which stands before all others.
    fn is_nan(self) -> bool;
}

impl Key for f32 {
    fn is_nan(self) -> bool {
        self.is_nan()
    }
}

impl Key for i8 {
    fn is_nan(self) -> bool {
        false
    }
}

impl Key for u8 {
    fn is_nan(self) -> bool {
        false
    }
}

/// The place in `line` of the element that no other is `better` than: the first such one.
fn place<T: Key>(mut line: impl Iterator<Item = T>, better: impl Fn(T, T) -> bool) -> i32 {
    let (mut best, mut at) = (line.next(), 0);
    for (i, v) in (1..).zip(line) {
        if best.is_some_and(|best| better(v, best)) {
            (best, at) = (Some(v), i);
        }
    }
    at
}

impl Find {
    /// The place along the line that begins at `start`.
    fn along<T: Key>(&self, x: &[T], start: usize) -> i32 {
        let AroundAxis { len, inner, .. } = self.around;
        let line = || x[start..].iter().copied().step_by(inner).take(len);
        let nan = |v: T, best: T| v.is_nan() && !best.is_nan();
        match (self.op.largest, self.op.last) {
            (true, false) => place(line(), |v, best| v > best || nan(v, best)),
            (false, false) => place(line(), |v, best| v < best || nan(v, best)),
            (true, true) => place(line(), |v, best| v >= best || v.is_nan()),
            (false, true) => place(line(), |v, best| v <= best || v.is_nan()),
        }
    }

    fn all<T: Key, I: Element + From<i32>>(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[T] = io.input(0)?;
        let (pool, piece) = (io.pool, self.cut.chunk());
        let AroundAxis { len, inner, .. } = self.around;
        pool.for_chunks(io.output::<I>(0)?, piece, |i, out, _| {
            for (line, to) in (i * piece..).zip(out) {
                let start = line / inner * len * inner + line % inner;
                *to = self.along(x, start).into();
            }
        });
        Ok(())
    }

    fn into<I: Element + From<i32>>(&self, io: &mut Io<'_>) -> OpResult {
        match io.inputs[0].map(|x| x.dtype) {
            Some(DType::I8) => self.all::<i8, I>(io),
            Some(DType::U8) => self.all::<u8, I>(io),
            _ => self.all::<f32, I>(io),
        }
    }
}

impl Kernel for Find {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        match self.op.index {
            DType::I32 => self.into::<i32>(io),
            _ => self.into::<i64>(io),
        }
    }

    fn describe(&self) -> String {
        if self.op.largest { "argmax".into() } else { "argmin".into() }
    }
}
