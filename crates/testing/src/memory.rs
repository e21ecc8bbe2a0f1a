//! An allocator that counts, for tests of what code allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator, counting. A test binary makes it its own:
///
/// ```
/// #[global_allocator]
/// static MEMORY: kinglet_testing::Counting = kinglet_testing::Counting::new();
/// ```
///
/// The counts are of the whole process: tests that read them must not run beside others in it.
#[derive(Debug)]
pub struct Counting {
    calls: AtomicUsize,
    live: AtomicUsize,
    peak: AtomicUsize,
}

impl Counting {
    /// Nothing counted yet.
    #[expect(clippy::new_without_default, reason = "a static needs a const constructor")]
    pub const fn new() -> Counting {
        Counting {
            calls: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        }
    }

    /// How often memory was asked for since the start, growing a block included.
    pub fn calls(&self) -> usize {
        self.calls.load(Relaxed)
    }

    /// Runs `work` and gives its result with the most bytes that were held at once during it, over
    /// those held before.
    pub fn peak_of<T>(&self, work: impl FnOnce() -> T) -> (T, usize) {
        let before = self.live.load(Relaxed);
        self.peak.store(before, Relaxed);
        let result = work();
        (result, self.peak.load(Relaxed).saturating_sub(before))
    }

    fn took(&self, bytes: usize) {
        self.calls.fetch_add(1, Relaxed);
        let live = self.live.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(live, Relaxed);
    }

    fn gave_back(&self, bytes: usize) {
        self.live.fetch_sub(bytes, Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it came, and its answer back; the counting
// touches nothing but atomics and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            self.took(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            self.took(layout.size());
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`; the block came from the system's allocator.
        unsafe { System.dealloc(block, layout) };
        self.gave_back(layout.size());
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `dealloc`.
        let moved = unsafe { System.realloc(block, layout, size) };
        if !moved.is_null() {
            // Both blocks may exist for a moment.
            self.took(size);
            self.gave_back(layout.size());
        }
        moved
    }
}
