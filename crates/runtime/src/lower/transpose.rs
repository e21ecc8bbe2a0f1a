//! Permutations of axes, of any element type of 1, 2, 4 or 8 bytes.

use super::LowerCx;
use super::float::Cut;
use crate::kernel::{Io, Kernel, Lowered};
use bytemuck::Pod;
use kinglet_graph::ops::broadcast::axes_of;
use kinglet_graph::ops::transpose::Transpose;
use kinglet_graph::{OpError, OpResult};
use kinglet_kernels::permute::Permute;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(x) = cx.input(0).filter(|_| cx.op::<Transpose>().is_some()) else { return Ok(None) };
    let dims = cx.dims(x)?;
    let axes = match (cx.input(1), cx.constant(1)) {
        (None, _) => (0..dims.len()).rev().collect(),
        (_, Some(permutation)) => axes_of(&permutation.ints()?, dims.len())?,
        _ => return Ok(None),
    };
    let (Some(permute), Some(width)) = (Permute::new(&dims, &axes), x.ty.dtype.bytes(1)) else {
        return Ok(None);
    };
    if ![1, 2, 4, 8].contains(&width) || x.ty.dtype.bytes(2) != Some(2 * width) {
        return Ok(None);
    }
    let len: usize = dims.iter().product();
    let cut = Cut::new(permute.slices(), 1, 4 * len, cx.threads);
    Ok(Some(Lowered::new(Move { permute, width, cut })))
}

struct Move {
    permute: Permute,
    /// Bytes of an element.
    width: usize,
    cut: Cut,
}

impl Move {
    fn run_as<T: Pod + Send + Sync>(&self, io: &mut Io<'_>) -> OpResult {
        let failed = |e: bytemuck::PodCastError| OpError::new(format!("elements in memory: {e}"));
        let Some(x) = io.inputs[0] else { return Err(OpError::new("input 0 is missing")) };
        let x: &[T] = bytemuck::try_cast_slice(x.bytes).map_err(failed)?;
        let out: &mut [T] = bytemuck::try_cast_slice_mut(io.outputs[0].bytes).map_err(failed)?;
        let slices = self.cut.chunk();
        let slice = out.len() / self.permute.slices().max(1);
        io.pool.for_chunks(out, slices * slice, |i, out, _| {
            let first = i * slices;
            self.permute.run(first..first + out.len() / slice, x, out);
        });
        Ok(())
    }
}

impl Kernel for Move {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        match self.width {
            1 => self.run_as::<u8>(io),
            2 => self.run_as::<u16>(io),
            4 => self.run_as::<u32>(io),
            _ => self.run_as::<u64>(io),
        }
    }

    fn describe(&self) -> String {
        "permute".into()
    }
}
