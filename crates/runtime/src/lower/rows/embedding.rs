//! Rows of a table, decoded.

use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use crate::lower::float::Cut;
use kinglet_graph::ops::rows::Embedding;
use kinglet_graph::{DType, OpError, OpResult};
use kinglet_kernels::encoded::Float;
use kinglet_kernels::halves;
use kinglet_kernels::isa::Isa;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let (Some(_), Some(table)) = (cx.op::<Embedding>(), cx.input(1)) else { return Ok(None) };
    let (dims, dtype) = (cx.dims(table)?, table.ty.dtype);
    let (&[size, width], n) = (&dims[..], cx.dims(cx.output(0))?[0]) else { return Ok(None) };
    if n * width == 0 {
        return Ok(None);
    }
    let cut = Cut::new(n, 1, n * width, cx.threads);
    Ok(Some(Lowered::new(Rows { isa: cx.isa, dtype, size, width, cut })))
}

struct Rows {
    isa: Isa,
    dtype: DType,
    size: usize,
    width: usize,
    cut: Cut,
}

impl Kernel for Rows {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let ids: &[i32] = io.input(0)?;
        let table = io.inputs[1].ok_or_else(|| OpError::new("the table is missing"))?.bytes;
        if let Some(id) = ids.iter().find(|id| **id >= 0 && **id as usize >= self.size) {
            return Err(OpError::new(format!("id {id} in a table of {}", self.size)));
        }
        let row_bytes = table.len() / self.size;
        let rows = self.cut.chunk();
        let pool = io.pool;
        pool.for_chunks(io.output::<f32>(0)?, rows * self.width, |task, out, _| {
            for (out, id) in out.chunks_exact_mut(self.width).zip(&ids[task * rows..]) {
                match usize::try_from(*id) {
                    Ok(id) => self.decode(&table[id * row_bytes..][..row_bytes], out),
                    Err(_) => out.fill(0.0),
                }
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("rows of {}", self.dtype)
    }
}

impl Rows {
    fn decode(&self, row: &[u8], out: &mut [f32]) {
        match self.dtype {
            DType::F16 => halves::widen(self.isa, Float::F16, row, out),
            DType::BF16 => halves::widen(self.isa, Float::BF16, row, out),
            DType::Encoded(encoding) => encoding.decode(row, out),
            // The shape rule admits nothing else but f32.
            _ => halves::widen(self.isa, Float::F32, row, out),
        }
    }
}
