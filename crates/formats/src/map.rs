//! Files in memory: mapped by the system, read when they are used, and let go again.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kinglet_graph::{Bytes, GraphError};
use memmap2::Mmap;

use crate::LoadError;

/// The files that are mapped, to tell their bytes from others.
static MAPS: Mutex<Vec<Weak<Mmap>>> = Mutex::new(Vec::new());

/// The bytes of the file at `path`, read when they are used.
///
/// The file must stay as it is for so long: another can take its place by renaming, but where this one
/// is cut off, the system ends the process (SIGBUS) when it next reads what was there. No check of
/// the length helps, as the file may change after it.
///
/// # Errors
/// If there is no such file, or it can't be mapped.
pub fn map(path: &Path) -> Result<Bytes, LoadError> {
    let fail = |e: std::io::Error| {
        let message = match e.kind() {
            std::io::ErrorKind::NotFound => "there is no such file".into(),
            _ => e.to_string(),
        };
        LoadError::new(path, GraphError::new("cannot open", message))
    };
    let file = File::open(path).map_err(fail)?;
    // SAFETY: the map is read-only. Whoever changes the file while the model is in use changes its
    // weights and vocabulary; lengths that are used again are checked again.
    let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(fail)?);
    let mut maps = maps();
    maps.retain(|map| map.strong_count() > 0);
    maps.push(Arc::downgrade(&map));
    Ok(Bytes::new(map))
}

/// Lets go of the memory that holds `bytes`, where they are part of a file that [`map`] mapped: the
/// system reads them again from the file when they are next used. Returns how many bytes that are.
pub fn release(bytes: &[u8]) -> usize {
    let Some((map, offset)) = place(bytes) else { return 0 };
    advise(&map, offset, bytes.len())
}

/// Whether `bytes` are part of a file that [`map`] mapped.
pub fn is_mapped(bytes: &[u8]) -> bool {
    place(bytes).is_some()
}

fn maps() -> MutexGuard<'static, Vec<Weak<Mmap>>> {
    MAPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The map that `bytes` lie in, and where.
fn place(bytes: &[u8]) -> Option<(Arc<Mmap>, usize)> {
    let start = bytes.as_ptr() as usize;
    maps().iter().filter_map(Weak::upgrade).find_map(|map| {
        let offset = start.checked_sub(map.as_ptr() as usize)?;
        (offset + bytes.len() <= map.len() && !bytes.is_empty()).then_some((map, offset))
    })
}

#[cfg(unix)]
fn advise(map: &Mmap, offset: usize, len: usize) -> usize {
    // SAFETY: the map is of a file and read-only, so pages that are dropped are read again with the
    // same content.
    let done =
        unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
    if done.is_ok() { len } else { 0 }
}

#[cfg(not(unix))]
fn advise(_: &Mmap, _: usize, _: usize) -> usize {
    0
}

/// How many of `bytes` this process has in memory now, to a page; `None` where the system does not
/// tell.
pub fn resident(bytes: &[u8]) -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        use std::io::{Read, Seek, SeekFrom};
        const PAGE: usize = 4096;
        let first = bytes.as_ptr() as usize / PAGE;
        let last = (bytes.as_ptr() as usize + bytes.len()).div_ceil(PAGE);
        // Eight bytes a page, of which the highest bit says that it is there
        // (Documentation/admin-guide/mm/pagemap.rst).
        let mut table = File::open("/proc/self/pagemap").ok()?;
        table.seek(SeekFrom::Start(first as u64 * 8)).ok()?;
        let mut pages = table.take((last - first) as u64 * 8);
        let mut chunk = vec![0; 1 << 16];
        let mut there = 0;
        loop {
            match pages.read(&mut chunk).ok()? {
                0 => return Some((there * PAGE).min(bytes.len())),
                n => {
                    let entries = chunk[..n].as_chunks::<8>().0;
                    there += entries.iter().filter(|e| e[7] & 0x80 != 0).count();
                }
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = bytes;
        None
    }
}

/// Bytes that this process has in memory; `None` where the system does not tell.
pub fn process_resident() -> Option<usize> {
    process_status("VmRSS:")
}

/// The most bytes that this process has had in memory; `None` where the system does not tell.
pub fn process_peak() -> Option<usize> {
    process_status("VmHWM:")
}

/// Lets [`process_peak`] count from now on (proc_pid_clear_refs(5)). Says whether it does.
pub fn reset_process_peak() -> bool {
    cfg!(target_os = "linux") && std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// A size from `/proc/self/status` (proc_pid_status(5)), in bytes.
fn process_status(name: &str) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_peak_is_forgotten() {
        drop(std::hint::black_box(vec![1u8; 64 << 20]));
        let before = process_peak().unwrap();
        // The kernel may lack it.
        if reset_process_peak() {
            assert!(process_peak().unwrap() < before);
        }
    }

    #[test]
    fn what_is_let_go_is_read_again() {
        let path = std::env::temp_dir().join(format!("kinglet-map-{}", std::process::id()));
        let content: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 7) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let bytes = map(&path).unwrap();
        assert!(is_mapped(&bytes) && is_mapped(&bytes[5..9]) && !is_mapped(&content));
        assert_eq!(&bytes[..], &content[..]);
        if cfg!(target_os = "linux") {
            assert_eq!(resident(&bytes), Some(1 << 20));
            assert_eq!(release(&bytes), 1 << 20);
            assert_eq!(resident(&bytes), Some(0));
            assert!(process_resident().unwrap() > 1 << 20);
            assert!(process_peak() >= process_resident());
        }
        assert_eq!(release(&content), 0);
        assert_eq!(&bytes[..], &content[..]);
        drop(bytes);
        std::fs::remove_file(path).unwrap();
    }
}
