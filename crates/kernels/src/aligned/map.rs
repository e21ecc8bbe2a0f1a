//! Memory straight from the system.

use std::sync::OnceLock;

use memmap2::{MmapMut, MmapOptions};

/// What the memory's pages may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pages {
    Small,
    Huge,
}

/// Zeros in a map of their own.
pub(super) struct Map(MmapMut);

impl Map {
    /// `None` where the system gives no map of so many bytes.
    pub fn zeros(bytes: usize, pages: Pages) -> Option<Map> {
        let map = MmapOptions::new().len(bytes).map_anon().ok()?;
        #[cfg(target_os = "linux")]
        if pages == Pages::Huge {
            // Only advice: without it, the memory is the same.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = pages;
        tell(bytes as isize);
        Some(Map(map))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        tell(-(self.0.len() as isize));
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
