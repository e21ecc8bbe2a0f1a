//! Compute kernels on slices, one module per instruction set, dispatched at run time.

pub mod aligned;
pub mod binary;
pub mod conv_f32;
pub mod depthwise_f32;
pub mod elementwise;
pub mod fixed;
pub mod gemm_f32;
pub mod isa;
mod math;
pub mod pool_f32;
pub mod qconv;
pub mod qdepthwise;
pub mod requant;
mod scratch;
pub mod shared;
mod simd;
#[cfg(test)]
mod test_random;
#[cfg(test)]
mod testing;
pub mod window;
