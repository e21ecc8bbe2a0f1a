//! Compute kernels on slices, one module per instruction set, dispatched at run time.

pub mod aligned;
pub mod batch_norm_f32;
pub mod binary;
pub mod byte_table;
pub mod conv_f32;
pub mod conv_training_f32;
pub mod depthwise_f32;
pub mod dynamic;
pub mod elementwise;
pub mod encoded;
pub mod encoding;
pub mod fake_quantize;
pub mod fixed;
pub mod gemm_f32;
pub mod halves;
pub mod isa;
pub mod lstm_f32;
mod math;
pub mod norm_f32;
pub mod peak;
pub mod permute;
pub mod pool_f32;
pub mod qbinary;
pub mod qconv;
pub mod qconv16;
pub mod qdepthwise;
pub mod qlstm;
pub mod qpool;
pub mod qresize;
pub mod qsoftmax;
pub mod quantize;
pub mod reduce_f32;
pub mod requant;
pub mod resize_f32;
pub mod rotate;
pub mod row_memory;
pub mod rows_attention;
mod scratch;
pub mod shared;
mod simd;
pub mod slope_f32;
pub mod soft_loss_f32;
pub mod softmax_f32;
pub mod window;
mod words;

#[cfg(test)]
mod test_random;
#[cfg(test)]
mod testing;
