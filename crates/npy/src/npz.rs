//! `.npz`: a ZIP archive of `.npy` files, stored or deflated.

use std::io::{self, Read, Seek, Write};

use zip::write::SimpleFileOptions;

use crate::{Array, Error};

/// Reads every array of an archive in its order, under its name without `.npy`; all of them together
/// hold at most `limit` bytes of elements.
pub fn read_npz(reader: impl Read + Seek, limit: usize) -> Result<Vec<(String, Array)>, Error> {
    let bad = |error: zip::result::ZipError| Error::Zip(error.to_string());
    let mut archive = zip::ZipArchive::new(reader).map_err(bad)?;
    let mut left = limit;
    let mut arrays = Vec::new();
    for index in 0..archive.len() {
        let mut member = archive.by_index(index).map_err(bad)?;
        let name = member.name().to_string();
        let array = Array::read(&mut member, left)
            .map_err(|source| Error::Member { name: name.clone(), source: Box::new(source) })?;
        left -= array.data.len();
        let name = name.strip_suffix(".npy").unwrap_or(&name).to_string();
        arrays.push((name, array));
    }
    Ok(arrays)
}

/// Writes an archive, deflated.
pub fn write_npz<'a>(
    writer: impl Write + Seek,
    arrays: impl IntoIterator<Item = (&'a str, &'a Array)>,
) -> io::Result<()> {
    let mut archive = zip::ZipWriter::new(writer);
    for (name, array) in arrays {
        let options = SimpleFileOptions::default().large_file(array.data.len() > 1 << 31);
        archive.start_file(format!("{name}.npy"), options)?;
        array.write(&mut archive)?;
    }
    archive.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn archive() -> Vec<u8> {
        let a = Array::new(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]);
        let b = Array::new(&[], &[7i64]);
        let mut out = Cursor::new(Vec::new());
        write_npz(&mut out, [("a", &a), ("b", &b)]).unwrap();
        out.into_inner()
    }

    #[test]
    fn archives_survive_a_round_trip() {
        let arrays = read_npz(Cursor::new(archive()), 1 << 20).unwrap();
        assert_eq!(arrays[0].0, "a");
        assert_eq!(arrays[0].1.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(arrays[1].1.to_vec::<i64>().unwrap(), [7]);
    }

    #[test]
    fn the_limit_counts_all_members() {
        let error = read_npz(Cursor::new(archive()), 20).unwrap_err().to_string();
        assert!(error.contains("member \"b.npy\"") && error.contains("larger"), "{error}");
    }

    #[test]
    fn every_truncation_and_every_damaged_byte_is_survived() {
        let good = archive();
        for end in 0..good.len() {
            assert!(read_npz(Cursor::new(&good[..end]), 1 << 20).is_err(), "cut at {end}");
        }
        for at in 0..good.len() {
            for value in [0, 0xff, good[at] ^ 1] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let _ = read_npz(Cursor::new(bytes), 1 << 20);
            }
        }
    }
}
