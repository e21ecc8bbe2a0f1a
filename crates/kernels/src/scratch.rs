//! Working memory that callers lend to kernels.

/// Bytes that [`carve`] may need beyond the sum of what is carved, for alignment.
pub(crate) const SLACK: usize = 64;

/// Takes `n` values off the front of `scratch`, on a 64-byte boundary. The values are whatever
/// was there.
///
/// # Panics
/// Where `scratch` is too short; kernels tell callers what they need.
pub(crate) fn carve<'a, T: bytemuck::Pod>(scratch: &mut &'a mut [u8], n: usize) -> &'a mut [T] {
    let whole = std::mem::take(scratch);
    let skip = whole.as_ptr().align_offset(64).min(whole.len());
    let bytes = n * size_of::<T>();
    assert!(whole.len() - skip >= bytes, "scratch too short: {} of {bytes}", whole.len() - skip);
    let (here, rest) = whole[skip..].split_at_mut(bytes);
    *scratch = rest;
    bytemuck::cast_slice_mut(here)
}

/// Bytes that [`carve`] takes for `n` values of `T`, alignment included.
pub(crate) fn need<T>(n: usize) -> usize {
    n * size_of::<T>() + SLACK
}
