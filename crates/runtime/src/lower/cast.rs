//! Integers as floats, and floats rounded to bf16.

use super::LowerCx;
use super::float::Cut;
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::ops::cast::Cast;
use kinglet_graph::{DType, Element, OpResult};
use kinglet_kernels::halves;
use kinglet_kernels::isa::Isa;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let (Some(op), Some(x)) = (cx.op::<Cast>(), cx.input(0)) else { return Ok(None) };
    let len = cx.dims(x)?.iter().product();
    let cut = Cut::new(len, 1024, len, cx.threads);
    if (x.ty.dtype, op.to) == (DType::F32, DType::BF16) {
        return Ok(Some(Lowered::new(ToUpper { isa: cx.isa, cut })));
    }
    if op.to != DType::F32 {
        return Ok(None);
    }
    kinglet_graph::dispatch!(x.ty.dtype, T in [I8 i8, U8 u8, I16 i16, U16 u16, I32 i32, U32 u32] => {
        let convert = |x: &[T], out: &mut [f32]| {
            for (out, x) in out.iter_mut().zip(x) {
                *out = *x as f32;
            }
        };
        Ok(Some(Lowered::new(ToFloats { convert, cut })))
    }, else => Ok(None))
}

struct ToFloats<T> {
    convert: fn(&[T], &mut [f32]),
    cut: Cut,
}

impl<T: Element> Kernel for ToFloats<T> {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[T] = io.input(0)?;
        let pool = io.pool;
        let piece = self.cut.chunk();
        pool.for_chunks(io.output::<f32>(0)?, piece, |i, out, _| {
            (self.convert)(&x[i * piece..][..out.len()], out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("{} to floats", T::DTYPE)
    }
}

struct ToUpper {
    isa: Isa,
    cut: Cut,
}

impl Kernel for ToUpper {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[f32] = io.input(0)?;
        let piece = self.cut.chunk();
        io.pool.for_chunks(io.outputs[0].bytes, 2 * piece, |i, out, _| {
            halves::narrow_to_upper(self.isa, &x[i * piece..][..out.len() / 2], out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("f32 to bf16 {}", self.isa.name())
    }
}
