//! Output that several threads write at once, each its own part.

use std::marker::PhantomData;

/// A slice that several threads write disjoint parts of, where the parts interleave in memory
/// (columns of a matrix) and so cannot be split into slices.
#[derive(Clone, Copy)]
pub struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` whose users promise, at each unsafe use, to touch disjoint parts.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Shares `slice` until the last copy is gone.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The first element. Writing through it is as unsafe as any pointer.
    pub fn as_mut_ptr(self) -> *mut T {
        self.start
    }

    /// How many elements there are.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The part `range`, still shared.
    ///
    /// # Panics
    /// Where `range` is not inside.
    pub fn part(self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "range out of bounds");
        Self { start: self.start.wrapping_add(range.start), len: range.len(), slice: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the result lives nobody else reads or writes these elements.
    ///
    /// # Panics
    /// Where `range` is not inside.
    pub unsafe fn slice(self, range: std::ops::Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range out of bounds");
        // SAFETY: the range is inside, and the caller promises that it is ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
