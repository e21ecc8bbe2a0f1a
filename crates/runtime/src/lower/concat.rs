//! Tensors put together along one dimension, unsigned bytes of other scales on the way through a
//! table.

use super::LowerCx;
use super::float::Cut;
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::ops::broadcast::{AroundAxis, axis_of};
use kinglet_graph::ops::concat::Concat;
use kinglet_graph::{OpError, OpResult};
use kinglet_kernels::byte_table::map_bytes;
use kinglet_kernels::isa::Isa;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(op) = cx.op::<Concat>() else { return Ok(None) };
    let y = cx.output(0);
    let dims = cx.dims(y)?;
    let axis = axis_of(op.axis, dims.len())?;
    let AroundAxis { outer, len, inner } = AroundAxis::new(&dims, axis);
    let Some(width) =
        y.ty.dtype.bytes(1).filter(|width| Some(8 * width) == Some(y.ty.dtype.bits()))
    else {
        return Ok(None);
    };
    let row = len * inner * width;
    let (mut parts, mut total, mut tables) = (Vec::new(), 0, false);
    for i in 0..cx.node.inputs.len() {
        let Some(x) = cx.input(i).filter(|x| x.ty.dtype == y.ty.dtype) else { return Ok(None) };
        let x_dims = cx.dims(x)?;
        let table = Concat::table(x.ty.dtype, x.ty.quant.as_deref(), y.ty.quant.as_deref(), i)?;
        let bytes = x_dims[axis] * inner * width;
        tables |= table.is_some();
        parts.push(Part { input: i, at: total, bytes, table: table.map(Box::new) });
        total += bytes;
    }
    parts.retain(|part| part.bytes > 0);
    if total != row || row == 0 || outer == 0 {
        return Ok(None);
    }
    // Copying a byte is less work than an operation, looking it up is some.
    let work = if tables { row * outer * 2 } else { row * outer / 8 };
    let cut = Cut::new(outer, 1, work, cx.threads);
    Ok(Some(Lowered::new(Joined { isa: cx.isa, parts, row, cut })))
}

/// What an input adds to a row of the output.
struct Part {
    input: usize,
    /// Where it begins in the row.
    at: usize,
    bytes: usize,
    /// What each byte becomes, where that is not itself.
    table: Option<Box<[u8; 256]>>,
}

struct Joined {
    isa: Isa,
    parts: Vec<Part>,
    /// Bytes of a row of the output: what lies before the axis numbers them.
    row: usize,
    cut: Cut,
}

impl Kernel for Joined {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let inputs = io.inputs;
        if self.parts.iter().any(|part| inputs[part.input].is_none()) {
            return Err(OpError::new("an input is missing"));
        }
        let rows = self.cut.chunk();
        io.pool.for_chunks(io.outputs[0].bytes, rows * self.row, |i, out, _| {
            for part in &self.parts {
                let Some(input) = inputs[part.input] else { continue };
                let from = input.bytes[i * rows * part.bytes..].chunks_exact(part.bytes);
                for (row, from) in out.chunks_exact_mut(self.row).zip(from) {
                    let to = &mut row[part.at..part.at + part.bytes];
                    match &part.table {
                        None => to.copy_from_slice(from),
                        Some(table) => map_bytes(self.isa, table, from, to),
                    }
                }
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        let how =
            if self.parts.iter().any(|part| part.table.is_some()) { ", rescaled" } else { "" };
        format!("concat{how}")
    }
}
