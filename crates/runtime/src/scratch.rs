//! Scratch that each worker of a kernel needs some of: a worker's own where that is enough, else
//! planned for the step.

use crate::Pool;
use crate::pool::WORKER_SCRATCH;
use kinglet_kernels::shared::SharedMut;

/// So many bytes for each worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerWorker {
    bytes: usize,
}

impl PerWorker {
    pub(crate) fn new(bytes: usize) -> PerWorker {
        PerWorker { bytes: bytes.next_multiple_of(64) }
    }

    /// What to ask of the plan, for `threads` workers.
    pub(crate) fn planned(self, threads: usize) -> usize {
        if self.bytes <= WORKER_SCRATCH { 0 } else { self.bytes.saturating_mul(threads) }
    }

    /// The bytes of worker number `worker`; `planned` is the step's scratch, of the size asked for.
    ///
    /// # Safety
    /// As for [`Pool::scratch`].
    pub(crate) unsafe fn of<'a>(
        self,
        pool: &'a Pool,
        planned: SharedMut<'a, u8>,
        worker: usize,
    ) -> &'a mut [u8] {
        // SAFETY: each worker number is one task's at a time, and has a part of its own of either.
        unsafe {
            if self.bytes <= WORKER_SCRATCH {
                &mut pool.scratch(worker)[..self.bytes]
            } else {
                planned.slice(worker * self.bytes..(worker + 1) * self.bytes)
            }
        }
    }
}
