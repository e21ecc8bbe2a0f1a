//! An allocator that counts, for tests of what code allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static CALLS: AtomicUsize = AtomicUsize::new(0);
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counting, and the maps of large buffers with it. A test binary makes it
/// its own:
///
/// ```
/// #[global_allocator]
/// static MEMORY: kinglet_testing::Counting = kinglet_testing::Counting::new();
/// ```
///
/// The counts are of the whole process: tests that read them must not run beside others in it.
#[derive(Debug)]
pub struct Counting(());

impl Counting {
    /// Nothing counted yet.
    #[expect(clippy::new_without_default, reason = "a static needs a const constructor")]
    pub const fn new() -> Counting {
        Counting(())
    }

    /// How often memory was asked for since the start, growing a block included.
    pub fn calls(&self) -> usize {
        CALLS.load(Relaxed)
    }

    /// Runs `work` and gives its result with the most bytes that were held at once during it, over
    /// those held before.
    pub fn peak_of<T>(&self, work: impl FnOnce() -> T) -> (T, usize) {
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        let result = work();
        (result, PEAK.load(Relaxed).saturating_sub(before))
    }
}

fn took(bytes: usize) {
    // The first block is older than the first map.
    kinglet_kernels::aligned::watch(mapped);
    CALLS.fetch_add(1, Relaxed);
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
}

fn gave_back(bytes: usize) {
    LIVE.fetch_sub(bytes, Relaxed);
}

fn mapped(bytes: isize) {
    match usize::try_from(bytes) {
        Ok(bytes) => took(bytes),
        Err(_) => gave_back(bytes.unsigned_abs()),
    }
}

// SAFETY: every call goes to the system's allocator as it came, and its answer back; the counting
// touches nothing but atomics and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            took(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            took(layout.size());
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`; the block came from the system's allocator.
        unsafe { System.dealloc(block, layout) };
        gave_back(layout.size());
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `dealloc`.
        let moved = unsafe { System.realloc(block, layout, size) };
        if !moved.is_null() {
            // Both blocks may exist for a moment.
            took(size);
            gave_back(layout.size());
        }
        moved
    }
}
