//! The loss of scores of classes, by targets or by a teacher's scores, and the gradient of the latter.

use super::LowerCx;
use super::float::{Cut, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::ops::loss::{ClassLoss, LossReduction};
use kinglet_graph::ops::soft_loss::{SoftLoss, SoftLossGradient};
use kinglet_graph::{DType, OpError, OpResult};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::soft_loss_f32::{difference, divergence};
use kinglet_kernels::softmax_f32::log_sum_exp;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    match (cx.op::<SoftLoss>(), cx.op::<SoftLossGradient>()) {
        (Some(op), _) => soft(cx, *op, false),
        (_, Some(op)) => soft(cx, op.loss, true),
        _ => hard(cx),
    }
}

/// Scores in lines, classes that weigh alike, and nothing but the loss asked for.
fn hard(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<ClassLoss>() else { return Ok(None) };
    let (Some(x), Some(targets), None) = (cx.input(0), cx.input(1), cx.input(2)) else {
        return Ok(None);
    };
    let wide = targets.ty.dtype == DType::I64;
    let plain = op.softmax && cx.node.outputs.len() == 1 && is_f32(cx, 1);
    let (dims, count) = (cx.dims(x)?, cx.dims(targets)?.iter().product::<usize>());
    let [lines, classes] = *dims else { return Ok(None) };
    if !plain || lines == 0 || lines != count || !(wide || targets.ty.dtype == DType::I32) {
        return Ok(None);
    }
    let cut = Cut::new(lines, 1, lines * classes * 10, cx.threads);
    let kernel = Loss { op: *op, isa: cx.isa, lines, classes, wide, cut };
    Ok(Some(Lowered::new(kernel).with_scratch((4 * lines).max(4096))))
}

struct Loss {
    op: ClassLoss,
    isa: Isa,
    lines: usize,
    classes: usize,
    /// Whether targets are i64, and not i32.
    wide: bool,
    cut: Cut,
}

impl Kernel for Loss {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[f32] = io.input(0)?;
        let (narrow, wide): (&[i32], &[i64]) = match self.wide {
            true => (&[], io.input(1)?),
            false => (io.input(1)?, &[]),
        };
        let target = |line: usize| if self.wide { wide[line] } else { narrow[line].into() };
        let counts = |line: usize| self.op.ignore != Some(target(line));
        for line in (0..self.lines).filter(|line| counts(*line)) {
            let target = target(line);
            if usize::try_from(target).map_or(true, |class| class >= self.classes) {
                let m = format!("target {target} is none of {} classes", self.classes);
                return Err(OpError::new(m));
            }
        }
        let losses: &mut [f32] = bytemuck::try_cast_slice_mut(io.scratch)
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let losses = &mut losses[..self.lines];
        let piece = self.cut.chunk();
        io.pool.for_chunks(losses, piece, |i, losses, _| {
            for (line, loss) in (i * piece..).zip(losses) {
                *loss = 0.0;
                if counts(line) {
                    let scores = &x[line * self.classes..][..self.classes];
                    *loss = log_sum_exp(self.isa, scores) - scores[target(line) as usize];
                }
            }
        });
        let losses = &*losses;
        let sum = || losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        let out = io.outputs[0].slice_mut::<f32>()?;
        match self.op.reduction {
            LossReduction::None => out.copy_from_slice(losses),
            LossReduction::Sum => out.fill(sum() as f32),
            LossReduction::Mean => {
                let counted = (0..self.lines).filter(|line| counts(*line)).count();
                out.fill((sum() / counted as f64) as f32);
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("loss of classes {}", self.isa.name())
    }
}

/// By a teacher's scores: the loss, or its gradient.
fn soft(cx: &LowerCx<'_>, loss: SoftLoss, gradient: bool) -> OpResult<Option<Lowered>> {
    let Some(x) = cx.input(0).filter(|_| is_f32(cx, 2)) else { return Ok(None) };
    let [rows, classes] = *cx.dims(x)? else { return Ok(None) };
    let targets = match cx.input(2).filter(|_| loss.ignore.is_some()) {
        Some(targets) if cx.dims(targets)?.iter().product::<usize>() != rows => return Ok(None),
        Some(targets) => Some(targets.ty.dtype),
        None => None,
    };
    if rows * classes == 0 || !matches!(targets, None | Some(DType::I32 | DType::I64)) {
        return Ok(None);
    }
    let cut = Cut::new(rows, 1, rows * classes * 30, cx.threads);
    let soft = Soft { loss, isa: cx.isa, rows, classes, targets, cut };
    Ok(Some(match gradient {
        true => Lowered::new(SoftSlope { soft }),
        false => Lowered::new(soft).with_scratch((4 * rows).max(4096)),
    }))
}

struct Soft {
    loss: SoftLoss,
    isa: Isa,
    rows: usize,
    classes: usize,
    /// The type of the targets, where rows may not count.
    targets: Option<DType>,
    /// Over the rows.
    cut: Cut,
}

impl Soft {
    /// Whether a row counts.
    fn counts<'a>(&self, io: &Io<'a>) -> OpResult<impl Fn(usize) -> bool + Sync + use<'a>> {
        let (mut narrow, mut wide): (&[i32], &[i64]) = (&[], &[]);
        match self.targets {
            Some(DType::I32) => narrow = io.input(2)?,
            Some(_) => wide = io.input(2)?,
            None => {}
        }
        let ignore = self.loss.ignore;
        Ok(move |row: usize| {
            let target = narrow.get(row).map(|t| i64::from(*t)).or(wide.get(row).copied());
            target.is_none() || target != ignore
        })
    }

    fn scale(&self) -> f32 {
        1.0 / self.loss.temperature
    }
}

impl Kernel for Soft {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (x, z): (&[f32], &[f32]) = (io.input(0)?, io.input(1)?);
        let counts = self.counts(io)?;
        let losses: &mut [f32] = bytemuck::try_cast_slice_mut(io.scratch)
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let losses = &mut losses[..self.rows];
        let (piece, c) = (self.cut.chunk(), self.classes);
        io.pool.for_chunks(losses, piece, |i, losses, _| {
            for (row, loss) in (i * piece..).zip(losses) {
                let (x, z) = (&x[row * c..][..c], &z[row * c..][..c]);
                *loss = if counts(row) { divergence(self.isa, x, z, self.scale()) } else { 0.0 };
            }
        });
        let sum: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
        let all = if self.loss.mean { (0..self.rows).filter(|r| counts(*r)).count() } else { 1 };
        let square = f64::from(self.loss.temperature).powi(2);
        io.output::<f32>(0)?.fill((square * sum / all as f64) as f32);
        Ok(())
    }

    fn describe(&self) -> String {
        format!("loss by a teacher {}", self.isa.name())
    }
}

struct SoftSlope {
    soft: Soft,
}

impl Kernel for SoftSlope {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let soft = &self.soft;
        let (x, z, dy): (&[f32], &[f32], &[f32]) = (io.input(0)?, io.input(1)?, io.input(3)?);
        let counts = soft.counts(io)?;
        let counted = (0..soft.rows).filter(|row| counts(*row)).count();
        let factor = SoftLossGradient { loss: soft.loss }.factor(counted) as f32 * dy[0];
        let (pool, c) = (io.pool, soft.classes);
        let rows = soft.cut.chunk();
        pool.for_chunks(io.output::<f32>(0)?, rows * c, |i, out, _| {
            for (row, out) in (i * rows..).zip(out.chunks_exact_mut(c)) {
                let (x, z) = (&x[row * c..][..c], &z[row * c..][..c]);
                match counts(row) {
                    true => difference(soft.isa, x, z, soft.scale(), factor, out),
                    false => out.fill(0.0),
                }
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("gradient by a teacher {}", self.soft.isa.name())
    }
}
