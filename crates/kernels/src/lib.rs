//! Compute kernels on slices, one module per instruction set, dispatched at run time.

pub mod fixed;
pub mod isa;
