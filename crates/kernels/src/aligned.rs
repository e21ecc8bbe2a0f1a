//! Buffers that start on a cache line, where packed weights live.

use bytemuck::{AnyBitPattern, NoUninit, Pod, Zeroable};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A buffer of plain values that starts on a 64-byte boundary, so that no vector load of packed
/// weights straddles two cache lines.
#[derive(Clone)]
pub struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: AnyBitPattern + NoUninit> Aligned<T> {
    /// `len` zeros.
    ///
    /// # Panics
    /// Where `len` elements are more bytes than memory can hold.
    pub fn zeros(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).expect("buffer too large");
        // Zero pages as the system gives them: those that nobody writes cost nothing.
        let lines = bytemuck::zeroed_vec(bytes.div_ceil(64));
        Self { lines, len, element: std::marker::PhantomData }
    }

    /// A copy of `data`.
    pub fn copy_of(data: &[T]) -> Self {
        let mut copy = Self::zeros(data.len());
        copy.copy_from_slice(data);
        copy
    }
}

impl<T: AnyBitPattern + NoUninit> AsRef<[T]> for Aligned<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: AnyBitPattern + NoUninit> AsMut<[T]> for Aligned<T> {
    fn as_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<T: AnyBitPattern + NoUninit> std::ops::Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: AnyBitPattern + NoUninit> std::ops::DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_line_and_holds_its_length() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let mut buffer = Aligned::<f32>::zeros(len);
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            assert_eq!(buffer.len(), len);
            buffer.fill(1.0);
            assert!(buffer.iter().all(|&x| x == 1.0));
        }
    }
}
