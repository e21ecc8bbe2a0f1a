//! Float functions of one element and of two, with broadcasting, and their slopes.

use super::LowerCx;
use super::broadcast::Lines;
use super::float::{Cut, activation, constant, function, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::OpResult;
use kinglet_graph::ops::binary::{Binary as BinaryOp, BinaryFn};
use kinglet_graph::ops::unary::{Slope as SlopeOp, Unary as UnaryOp};
use kinglet_kernels::binary::{Binary, Operand};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::slope_f32::Slope;

/// About how many simple operations a function of an element takes.
const COST: usize = 4;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    if let Some(op) = cx.op::<UnaryOp>() {
        return unary(cx, op);
    }
    if let Some(op) = cx.op::<SlopeOp>() {
        return slope(cx, op);
    }
    match cx.op::<BinaryOp>() {
        Some(op) => binary(cx, op),
        None => Ok(None),
    }
}

fn unary(cx: &LowerCx<'_>, op: &UnaryOp) -> OpResult<Option<Lowered>> {
    match function(*op) {
        Some(function) if is_f32(cx, 1) => {
            let len = cx.dims(cx.output(0))?.iter().product();
            Ok(Some(Lowered::new(Map { isa: cx.isa, function, cut: cut(cx, len) })))
        }
        _ => Ok(None),
    }
}

fn cut(cx: &LowerCx<'_>, len: usize) -> Cut {
    Cut::new(len, 1024, len.saturating_mul(COST), cx.threads)
}

struct Map {
    isa: Isa,
    function: Unary,
    cut: Cut,
}

impl Kernel for Map {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[f32] = io.input(0)?;
        let pool = io.pool;
        let piece = self.cut.chunk();
        pool.for_chunks(io.output::<f32>(0)?, piece, |i, out, _| {
            self.function.run_to(self.isa, &x[i * piece..][..out.len()], out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("{:?} {}", self.function, self.isa.name())
    }
}

fn slope(cx: &LowerCx<'_>, op: &SlopeOp) -> OpResult<Option<Lowered>> {
    match function(op.function).and_then(Slope::of) {
        Some(slope) if is_f32(cx, 2) => {
            let len = cx.dims(cx.output(0))?.iter().product();
            let kernel = SlopeMap { isa: cx.isa, slope, function: op.function, cut: cut(cx, len) };
            Ok(Some(Lowered::new(kernel)))
        }
        _ => Ok(None),
    }
}

struct SlopeMap {
    isa: Isa,
    slope: Slope,
    function: UnaryOp,
    cut: Cut,
}

impl Kernel for SlopeMap {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (x, by): (&[f32], &[f32]) = (io.input(0)?, io.input(1)?);
        let pool = io.pool;
        let piece = self.cut.chunk();
        pool.for_chunks(io.output::<f32>(0)?, piece, |i, out, _| {
            let here = i * piece..i * piece + out.len();
            self.slope.run(self.isa, &x[here.clone()], &by[here], out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("slope of {:?} {}", self.function, self.isa.name())
    }
}

fn binary(cx: &LowerCx<'_>, op: &BinaryOp) -> OpResult<Option<Lowered>> {
    let (Some(a), Some(b)) = (cx.input(0), cx.input(1)) else { return Ok(None) };
    let (function, then) = match (kernel_function(op.function), activation(op.activation)) {
        (Some(function), Some(then)) if is_f32(cx, 2) => (function, then),
        _ => return Ok(None),
    };
    let (a, b, out) = (cx.dims(a)?, cx.dims(b)?, cx.dims(cx.output(0))?);
    let len: usize = out.iter().product();
    if function == Binary::Pow && constant(cx, 1)?.is_some_and(|b| *b == [2.0]) && a == out {
        if then == Unary::Identity {
            let map = Map { isa: cx.isa, function: Unary::Square, cut: cut(cx, len) };
            return Ok(Some(Lowered::new(map).with_absorbed(&[1], 0)));
        }
        return Ok(None);
    }
    let lines = Lines::new(&out, &a, &b);
    let kernel = Zip {
        isa: cx.isa,
        function,
        then,
        cut: Cut::new(lines.count(), 1, len, cx.threads),
        // A single line is cut itself.
        piece: cut(cx, lines.columns.size),
        lines,
    };
    Ok(Some(Lowered::new(kernel)))
}

fn kernel_function(f: BinaryFn) -> Option<Binary> {
    Some(match f {
        BinaryFn::Add => Binary::Add,
        BinaryFn::Sub => Binary::Sub,
        BinaryFn::Mul => Binary::Mul,
        BinaryFn::Div => Binary::Div,
        BinaryFn::Pow => Binary::Pow,
        BinaryFn::Min => Binary::Min,
        BinaryFn::Max => Binary::Max,
        BinaryFn::SquaredDifference => Binary::SquaredDifference,
        BinaryFn::PRelu => Binary::PRelu,
        _ => return None,
    })
}

struct Zip {
    isa: Isa,
    function: Binary,
    then: Unary,
    lines: Lines,
    cut: Cut,
    piece: Cut,
}

impl Zip {
    /// Operand `i`, from its first row on.
    fn operand<'a>(&self, i: usize, data: &'a [f32]) -> Operand<'a> {
        let row_stride = self.lines.rows.strides[i];
        Operand { data, row_stride, repeated: self.lines.columns.strides[i] == 0 }
    }
}

impl Kernel for Zip {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (a, b): (&[f32], &[f32]) = (io.input(0)?, io.input(1)?);
        let pool = io.pool;
        let out = io.output::<f32>(0)?;
        let (columns, rows) = (self.lines.columns, self.lines.rows.size);
        let width = columns.size;
        if out.is_empty() {
            return Ok(());
        }
        if self.lines.count() == 1 {
            let piece = self.piece.chunk();
            pool.for_chunks(out, piece, |i, out, _| {
                let from = columns.strides.map(|s| i * piece * s);
                let (a, b) = (self.operand(0, &a[from[0]..]), self.operand(1, &b[from[1]..]));
                self.function.run(self.isa, a, b, out.len(), self.then, out);
            });
            return Ok(());
        }
        let lines = self.cut.chunk();
        pool.for_chunks(out, lines * width, |i, mut out, _| {
            let mut line = i * lines;
            while !out.is_empty() {
                // Up to the end of the rows that have one stride.
                let count = (rows - line % rows).min(out.len() / width);
                let (here, rest) = std::mem::take(&mut out).split_at_mut(count * width);
                let [from_a, from_b] = self.lines.starts(line);
                let (a, b) = (self.operand(0, &a[from_a..]), self.operand(1, &b[from_b..]));
                self.function.run(self.isa, a, b, width, self.then, here);
                (line, out) = (line + count, rest);
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("{:?} {}", self.function, self.isa.name())
    }
}
