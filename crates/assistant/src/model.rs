//! The trained model, as programs carry it.

/// Bytes at an address of which SIMD loads and page tables think well.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!("../model/assistant.gguf"));

/// The assistant's model, a GGUF file (`model/CARD.md` says what it is). Weights in it lie as in a file
/// that is mapped, so that they can be used where they are. Whoever does not use it does not carry it.
pub static MODEL: &[u8] = &ALIGNED.0;
