//! The loss of scores of classes.

use super::LowerCx;
use super::float::{Cut, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::ops::loss::{ClassLoss, LossReduction};
use kinglet_graph::{DType, OpError, OpResult};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::softmax_f32::log_sum_exp;

/// Scores in lines, classes that weigh alike, and nothing but the loss asked for.
pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
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
