//! The ops: one subject a file, each op whole in one place.
//!
//! To add an op, write its struct (the attributes), derive `Debug`, implement [`crate::Op`] in
//! the file of its subject, and let the importer that needs it make one.

pub mod activation;
pub mod attention;
pub mod batch_norm;
pub mod binary;
pub mod broadcast;
pub mod cast;
pub mod center_crop_pad;
pub mod col2im;
pub mod concat;
pub mod control;
pub mod conv;
pub mod convert;
pub mod deform_conv;
pub mod det;
pub mod detection;
pub mod diagonal;
pub mod einsum;
pub mod expand;
pub mod fake_quantize;
pub mod fill;
pub mod gather;
pub mod grid_sample;
pub mod linear_attention;
pub mod logic;
pub mod loss;
pub mod matmul;
mod movement;
pub mod nonzero;
pub mod norm;
pub mod order;
pub mod pad;
pub mod pool;
pub mod quantize_linear;
pub mod quantized;
pub mod random;
pub mod reduce;
pub mod reshape;
pub mod resize;
pub mod reverse;
pub mod rnn;
pub mod roi;
pub mod rows;
pub mod scatter;
pub mod signal;
pub mod slice;
pub mod soft_loss;
pub mod softmax;
pub mod space;
pub mod state;
pub mod tensor_scatter;
#[cfg(test)]
mod test;
pub mod transpose;
pub mod unary;
pub mod unique;
pub mod update_slice;
pub mod window;
