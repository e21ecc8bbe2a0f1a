//! Memory straight from the system.

use std::sync::OnceLock;

use memmap2::{MmapMut, MmapOptions};

/// What the memory's pages may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pages {
    Small,
    Huge,
}

/// Bytes of a huge page, where the system has them.
const HUGE: usize = 2 << 20;

/// Zeros in a map of their own.
pub(super) struct Map {
    map: MmapMut,
    /// Bytes that take memory once they are written.
    held: usize,
}

impl Map {
    /// `None` where the system gives no map of so many bytes.
    pub fn zeros(bytes: usize, pages: Pages) -> Option<Map> {
        // Huge pages save most page faults. Part of the last one is worth a whole one only where it
        // is the first: the many weights of a language model would take a tenth more memory.
        let huge = match pages {
            Pages::Huge if (HUGE / 2..HUGE).contains(&bytes) => HUGE,
            Pages::Huge => bytes / HUGE * HUGE,
            Pages::Small => 0,
        };
        // Systems align maps to huge pages only where they are whole ones.
        let len = if huge > 0 { bytes.checked_next_multiple_of(HUGE)? } else { bytes };
        let map = MmapOptions::new().len(len).map_anon().ok()?;
        #[cfg(target_os = "linux")]
        if huge > 0 {
            // Only advice: without it, the memory is the same.
            let _ = map.advise_range(memmap2::Advice::HugePage, 0, huge);
        }
        let held = bytes.max(huge);
        tell(held as isize);
        Some(Map { map, held })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        tell(-(self.held as isize));
    }
}

static WATCHER: OnceLock<fn(isize)> = OnceLock::new();

/// Has `watcher` told of the bytes of each map from now on, negative when it is given back: maps
/// pass by the allocator, and by whoever counts what it gives. The first watcher stays.
pub fn watch(watcher: fn(isize)) {
    let _ = WATCHER.set(watcher);
}

fn tell(bytes: isize) {
    if let Some(watcher) = WATCHER.get() {
        watcher(bytes);
    }
}
