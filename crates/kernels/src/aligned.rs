//! Buffers that start on a cache line, where packed weights live.

#[cfg(unix)]
mod map;
#[cfg(not(unix))]
#[path = "aligned/no_map.rs"]
mod map;

use bytemuck::{AnyBitPattern, NoUninit, Pod, Zeroable};

pub use map::watch;
use map::{Map, Pages};

/// Buffers of so many bytes have maps of their own, where the system has maps: what is dropped
/// then leaves the process at once, where an allocator may keep it.
const MAPPED: usize = 256 << 10;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A buffer of plain values that starts on a 64-byte boundary, so that no vector load of packed
/// weights straddles two cache lines.
pub struct Aligned<T> {
    block: Block,
    len: usize,
    element: std::marker::PhantomData<T>,
}

enum Block {
    Heap(Vec<Line>),
    Map(Map),
}

impl<T: AnyBitPattern + NoUninit> Aligned<T> {
    /// `len` zeros. Of large buffers, pages that nobody writes take no memory where there are maps.
    ///
    /// # Panics
    /// Where `len` elements are more bytes than memory can hold.
    pub fn zeros(len: usize) -> Self {
        Self::new(len, Pages::Small)
    }

    /// `len` zeros of which all are soon written: as [`Aligned::zeros`], but what is written may
    /// take whole huge pages, and is there in far fewer page faults.
    ///
    /// # Panics
    /// Where `len` elements are more bytes than memory can hold.
    pub fn to_fill(len: usize) -> Self {
        Self::new(len, Pages::Huge)
    }

    fn new(len: usize, pages: Pages) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).expect("buffer too large");
        let map = if bytes >= MAPPED { Map::zeros(bytes, pages) } else { None };
        let heap = || Block::Heap(bytemuck::zeroed_vec(bytes.div_ceil(64)));
        Self { block: map.map_or_else(heap, Block::Map), len, element: std::marker::PhantomData }
    }

    /// A copy of `data`.
    pub fn copy_of(data: &[T]) -> Self {
        let mut copy = Self::to_fill(data.len());
        copy.copy_from_slice(data);
        copy
    }
}

impl<T: AnyBitPattern + NoUninit> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        Self::copy_of(self)
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
        let bytes = match &self.block {
            Block::Heap(lines) => bytemuck::cast_slice(lines),
            Block::Map(map) => map.bytes(),
        };
        &bytemuck::cast_slice(&bytes[..self.len * size_of::<T>()])[..self.len]
    }
}

impl<T: AnyBitPattern + NoUninit> std::ops::DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes = match &mut self.block {
            Block::Heap(lines) => bytemuck::cast_slice_mut(lines),
            Block::Map(map) => map.bytes_mut(),
        };
        &mut bytemuck::cast_slice_mut(&mut bytes[..self.len * size_of::<T>()])[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_line_and_holds_its_length() {
        for len in [0, 1, 15, 16, 17, 1000, MAPPED / 4 - 1, MAPPED / 4, MAPPED + 3] {
            let mut buffer = Aligned::<f32>::zeros(len);
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            assert_eq!(buffer.len(), len);
            buffer.fill(1.0);
            assert!(buffer.iter().all(|&x| x == 1.0));
            assert_eq!(buffer.clone()[..], buffer[..]);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_dropped_leaves_the_process() {
        let resident = || {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        const LEN: usize = 64 << 20;
        // What is allocated last keeps an allocator's heap from shrinking.
        let (mut buffer, before) = (Aligned::<u8>::zeros(LEN), resident());
        let after = vec![1u8; 1000];
        buffer.fill(1);
        let full = resident();
        drop(buffer);
        let left = resident();
        assert!(full > before + LEN / 2 && left + LEN / 2 < full, "{before}, {full}, {left}");
        drop(after);
    }

    #[cfg(unix)]
    #[test]
    fn watchers_hear_of_maps() {
        use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
        static HELD: AtomicIsize = AtomicIsize::new(0);
        watch(|bytes| {
            // Tests beside this one have maps of other sizes.
            if bytes.unsigned_abs() == 3 * MAPPED + 64 {
                HELD.fetch_add(bytes, Relaxed);
            }
        });
        let buffer = Aligned::<u8>::zeros(3 * MAPPED + 64);
        assert_eq!(HELD.load(Relaxed), 3 * MAPPED as isize + 64);
        drop(buffer);
        assert_eq!(HELD.load(Relaxed), 0);
    }
}
