//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file aside, in the same folder, and moves it into place when all is written: a full disk
/// or an interruption leaves what was there before. What is no plain file (a device, a pipe) is
/// written to as it is.
///
/// # Errors
/// What the system says.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    // Through a link, the file that it leads to is replaced and not the link.
    let place = path.canonicalize().unwrap_or_else(|_| path.into());
    if fs::metadata(&place).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return fs::write(&place, content);
    }
    let name = place.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let short: String = name.chars().take(60).collect();
    let aside = place.with_file_name(format!(".{short}.{}.part", std::process::id()));
    let fill = |mut file: File| file.write_all(content);
    let done = File::create(&aside).and_then(fill).and_then(|()| fs::rename(&aside, &place));
    if done.is_err() {
        // Nothing more can be done where even this fails.
        let _ = fs::remove_file(&aside);
    }
    done
}
