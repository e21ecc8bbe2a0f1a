//! Rounding that training sees: to an encoding and back, to integers, and its gradient.

use super::LowerCx;
use super::float::{Cut, Parts, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::ops::broadcast::AroundAxis;
use kinglet_graph::ops::fake_quantize::{FakeEncode, FakeQuantize, FakeQuantizeGradient, Integers};
use kinglet_graph::{DType, OpError, OpResult};
use kinglet_kernels::fake_quantize::{Range, Scales};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::shared::SharedMut;
use std::ops::Range as Places;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(x) = cx.input(0).filter(|_| is_f32(cx, 4)) else { return Ok(None) };
    let dims = cx.dims(x)?;
    let len: usize = dims.iter().product();
    if let Some(op) = cx.op::<FakeEncode>() {
        let work = if op.dtype.encoding().is_some() { OF_AN_ELEMENT } else { 4 };
        let cut = Cut::new(len, op.dtype.block().0, len * work, cx.threads);
        return Ok(Some(Lowered::new(Encode { dtype: op.dtype, cut })));
    }
    let (integers, gradient) = match (cx.op::<FakeQuantize>(), cx.op::<FakeQuantizeGradient>()) {
        (Some(op), _) => (op.integers, false),
        (_, Some(op)) => (op.integers, true),
        _ => return Ok(None),
    };
    let lines = Lines { around: integers.around(&dims)?, zero: cx.input(2).is_some() };
    if len == 0 {
        return Ok(None);
    }
    let Integers { low, high, .. } = integers;
    let range = Range { low: low as f32, high: high as f32 };
    let cut = Cut::new(len, lines.grain(), 8 * len, cx.threads);
    if !gradient {
        let kernel = Quantize { isa: cx.isa, range, lines, cut };
        return Ok(Some(Lowered::new(kernel).with_scratch(lines.scratch(0))));
    }
    let factor = FakeQuantizeGradient { integers }.factor(len / lines.around.len) as f32;
    let learned = cx.node.outputs.len() > 1;
    let kernel = Gradient { isa: cx.isa, range, lines, cut, factor, learned };
    let sums = if learned { lines.parts(len).count() * lines.around.len } else { 0 };
    Ok(Some(Lowered::new(kernel).with_scratch(lines.scratch(sums))))
}

/// Operations that encoding takes for an element: it tries some twenty scales.
const OF_AN_ELEMENT: usize = 60;

struct Encode {
    dtype: DType,
    cut: Cut,
}

impl Encode {
    fn round(&self, x: &[f32], out: &mut [f32]) {
        let each = |out: &mut [f32], round: fn(f32) -> f32| {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = round(*x));
        };
        match self.dtype {
            DType::Encoded(encoding) => encoding.round(x, out),
            DType::F16 => each(out, |x| half::f16::from_f32(x).to_f32()),
            DType::BF16 => each(out, |x| half::bf16::from_f32(x).to_f32()),
            _ => out.copy_from_slice(x),
        }
    }
}

impl Kernel for Encode {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[f32] = io.input(0)?;
        let (pool, piece) = (io.pool, self.cut.chunk());
        pool.for_chunks(io.output::<f32>(0)?, piece, |i, out, _| {
            self.round(&x[i * piece..][..out.len()], out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("to {} and back", self.dtype)
    }
}

/// Elements and their scales: lines that have one, or rows in which each element has its own.
#[derive(Clone, Copy)]
struct Lines {
    around: AroundAxis,
    /// Whether there are zero points.
    zero: bool,
}

impl Lines {
    /// Elements that must not be parted.
    fn grain(self) -> usize {
        if self.rows() { self.around.len } else { 1 }
    }

    /// Whether neighbours have scales of their own.
    fn rows(self) -> bool {
        self.around.inner == 1 && self.around.len > 1
    }

    /// Bytes for zeros, where scales have no zero point, and for `sums`.
    fn scratch(self, sums: usize) -> usize {
        let zeros = if self.zero { 0 } else { self.around.len };
        ((zeros + sums) * size_of::<f32>()).max(4096)
    }

    /// Parts of all elements whose gradients are summed each by itself.
    fn parts(self, len: usize) -> Parts {
        Parts::of(len / self.grain())
    }

    /// Calls `each` for stretches of `places`: where they lie, their scales, and the first one's number.
    fn walk(
        self,
        places: Places<usize>,
        (scale, zero): (&[f32], &[f32]),
        mut each: impl FnMut(Places<usize>, Scales<'_>, usize),
    ) {
        let AroundAxis { len, inner, .. } = self.around;
        let mut at = places.start;
        while at < places.end {
            let (size, scales, number) = match self.rows() {
                true => (len, Scales::Each(scale, zero), 0),
                false => {
                    let number = at / inner % len;
                    (inner - at % inner, Scales::One(scale[number], zero[number]), number)
                }
            };
            let end = (at + size).min(places.end);
            each(at..end, scales, number);
            at = end;
        }
    }

    /// The scales and zero points, and the scratch that is left.
    fn scales<'a>(self, io: &mut Io<'a>) -> OpResult<(&'a [f32], &'a [f32], &'a mut [f32])> {
        let scratch: &mut [f32] = bytemuck::try_cast_slice_mut(std::mem::take(&mut io.scratch))
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        if self.zero {
            return Ok((io.input(1)?, io.input(2)?, scratch));
        }
        let (zero, rest) = scratch.split_at_mut(self.around.len);
        zero.fill(0.0);
        Ok((io.input(1)?, zero, rest))
    }
}

struct Quantize {
    isa: Isa,
    range: Range,
    lines: Lines,
    cut: Cut,
}

impl Kernel for Quantize {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[f32] = io.input(0)?;
        let (scale, zero, _) = self.lines.scales(io)?;
        let (pool, piece) = (io.pool, self.cut.chunk());
        pool.for_chunks(io.output::<f32>(0)?, piece, |i, out, _| {
            let first = i * piece;
            self.lines.walk(first..first + out.len(), (scale, zero), |places, scales, _| {
                let out = &mut out[places.start - first..places.end - first];
                self.range.round(self.isa, &x[places], scales, out);
            });
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("to integers and back {}", self.isa.name())
    }
}

struct Gradient {
    isa: Isa,
    range: Range,
    lines: Lines,
    cut: Cut,
    factor: f32,
    /// Whether the scale's is asked for.
    learned: bool,
}

impl Kernel for Gradient {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (x, dy): (&[f32], &[f32]) = (io.input(0)?, io.input(3)?);
        let (scale, zero, sums) = self.lines.scales(io)?;
        let (pool, piece, isa) = (io.pool, self.cut.chunk(), self.isa);
        pool.for_chunks(io.output::<f32>(0)?, piece, |i, out, _| {
            let first = i * piece;
            self.lines.walk(first..first + out.len(), (scale, zero), |places, scales, _| {
                let out = &mut out[places.start - first..places.end - first];
                self.range.pass(isa, &x[places.clone()], scales, &dy[places], out);
            });
        });
        if !self.learned {
            return Ok(());
        }
        let (grain, count) = (self.lines.grain(), self.lines.around.len);
        let parts = self.lines.parts(x.len());
        let sums = &mut sums[..parts.count() * count];
        sums.fill(0.0);
        let shared = SharedMut::new(&mut *sums);
        pool.run(parts.count(), |part, _| {
            // SAFETY: every part has its own sums.
            let own = unsafe { shared.slice(part * count..(part + 1) * count) };
            let units = parts.part(part);
            let places = units.start * grain..units.end * grain;
            self.lines.walk(places, (scale, zero), |places, scales, number| {
                self.range.add_slopes(
                    isa,
                    &x[places.clone()],
                    scales,
                    &dy[places],
                    &mut own[number..],
                );
            });
        });
        for (i, out) in io.output::<f32>(1)?.iter_mut().enumerate() {
            let of_parts = sums.iter().skip(i).step_by(count).map(|sum| f64::from(*sum));
            *out = of_parts.sum::<f64>() as f32 * self.factor;
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("gradient of integers {}", self.isa.name())
    }
}
