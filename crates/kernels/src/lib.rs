//! Compute kernels on slices, one module per instruction set, dispatched at run time.

pub mod aligned;
pub mod conv_f32;
pub mod depthwise_f32;
pub mod elementwise;
pub mod fixed;
pub mod gemm_f32;
pub mod isa;
mod math;
mod scratch;
pub mod shared;
mod simd;
#[cfg(test)]
mod testing;
pub mod window;
