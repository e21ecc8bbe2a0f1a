//! On-device AI in Rust.
