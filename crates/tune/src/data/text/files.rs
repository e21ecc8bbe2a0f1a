//! Files of examples: found once, and read again piece by piece.

use super::example::{Encoder, Example, texts};
use crate::TuneError;
use crate::data::bad::{Bad, LeftOut};
use kinglet_lm::Fnv;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A longer line is no example.
const LONGEST_LINE: usize = 16 << 20;

/// A line of a plain text by itself that ends what stands before it.
const END: &str = "<|endoftext|>";

/// How a piece of a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A line of JSON.
    Line,
    /// Text that goes on in the next piece.
    Part,
    /// Text that ends.
    End,
}

/// A piece of a file.
#[derive(Clone, Copy, Debug)]
struct Piece {
    file: u32,
    offset: u64,
    len: u32,
    form: Form,
    line: u64,
}

/// Examples in files. What stands in them must not change while they are used.
#[derive(Debug)]
pub struct Data {
    encoder: Encoder,
    files: Vec<(PathBuf, File)>,
    pieces: Vec<Piece>,
    rows: Vec<u32>,
    bad: Vec<Bad>,
    fingerprint: String,
}

impl Data {
    /// The examples in `files` as `encoder` makes them. Lines that are none are left out, at most
    /// `most_bad` of them. Of plain text, pieces of about `piece` bytes are examples. `hear` is told how
    /// many bytes of how many have been read.
    ///
    /// # Errors
    /// If a file can't be read, more lines are no examples, or there is none at all.
    pub fn open(
        files: &[PathBuf],
        encoder: Encoder,
        piece: usize,
        most_bad: usize,
        hear: &mut dyn FnMut(u64, u64),
    ) -> Result<Data, TuneError> {
        let mut data = Data {
            encoder,
            files: Vec::new(),
            pieces: Vec::new(),
            rows: Vec::new(),
            bad: Vec::new(),
            fingerprint: String::new(),
        };
        let mut left_out = LeftOut::at_most(most_bad);
        let sizes = files.iter().map(|path| std::fs::metadata(path).map_or(0, |about| about.len()));
        let total = sizes.sum();
        let (mut before, mut hash) = (0, Fnv::new());
        for path in files {
            let file = File::open(path).map_err(|e| unreadable(path, &e))?;
            let number = data.files.len() as u32;
            let mut scan = Scan::new(&file, piece).map_err(|e| unreadable(path, &e))?;
            while let Some(found) = scan.next().map_err(|e| unreadable(path, &e))? {
                hash.take(&scan.bytes);
                let made =
                    found.and_then(|form| Ok((form, encode(&data.encoder, &scan.bytes, form)?)));
                match made {
                    Ok((form, example)) => {
                        data.pieces.push(Piece {
                            file: number,
                            offset: scan.offset,
                            len: scan.bytes.len() as u32,
                            form,
                            line: scan.line,
                        });
                        data.rows.push(u32::try_from(example.rows()).unwrap_or(u32::MAX));
                    }
                    Err(reason) => {
                        left_out.add(Bad { file: path.clone(), line: scan.line, reason })?;
                    }
                }
                hear(before + scan.offset, total);
            }
            before += scan.end();
            data.files.push((path.clone(), file));
        }
        if data.pieces.is_empty() {
            let names: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
            let m = format!("{}: no line is an example", names.join(", "));
            return Err(TuneError::Input(m));
        }
        (data.bad, data.fingerprint) = (left_out.bad, hash.text());
        Ok(data)
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are none: never, as then nothing is opened.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The rows of each example.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// The lines that were left out.
    pub fn bad(&self) -> &[Bad] {
        &self.bad
    }

    /// Tells other data from these.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Example `i`, read and encoded again.
    ///
    /// # Errors
    /// If its file has changed.
    pub fn example(&self, i: usize) -> Result<Example, TuneError> {
        let piece = self.pieces[i];
        let (path, file) = &self.files[piece.file as usize];
        let mut bytes = vec![0; piece.len as usize];
        let mut reader = file;
        let read = reader.seek(SeekFrom::Start(piece.offset));
        read.and_then(|_| reader.read_exact(&mut bytes)).map_err(|e| unreadable(path, &e))?;
        let example = encode(&self.encoder, &bytes, piece.form);
        match example {
            Ok(example) if example.rows() == self.rows[i] as usize => Ok(example),
            _ => Err(TuneError::Work(format!(
                "{}, line {}: the file is not as it was when the training began",
                path.display(),
                piece.line
            ))),
        }
    }
}

/// Every text in `files`, for a tokeniser to be made for; what is no example is left out.
///
/// # Errors
/// If a file can't be opened. What can't be read later ends the texts.
pub fn all_texts(files: &[PathBuf]) -> Result<impl Iterator<Item = String> + Send, TuneError> {
    const PIECE: usize = 1 << 16;
    let mut scans = Vec::with_capacity(files.len());
    for path in files {
        let file = File::open(path).map_err(|e| unreadable(path, &e))?;
        scans.push(Scan::new(file, PIECE).map_err(|e| unreadable(path, &e))?);
    }
    Ok(scans.into_iter().flat_map(|mut scan| {
        std::iter::from_fn(move || {
            let form = scan.next().ok()??;
            let text = std::str::from_utf8(&scan.bytes).unwrap_or_default();
            Some(match form {
                Ok(Form::Line) => texts(text).unwrap_or_default(),
                Ok(Form::Part | Form::End) => vec![text.to_string()],
                Err(_) => Vec::new(),
            })
        })
        .flatten()
    }))
}

fn encode(encoder: &Encoder, bytes: &[u8], form: Form) -> Result<Example, String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| format!("byte {} of it is no UTF-8", e.valid_up_to() + 1))?;
    match form {
        Form::Line => encoder.line(text),
        Form::Part => encoder.text(text, false),
        Form::End => encoder.text(text, true),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> TuneError {
    TuneError::Input(match error.kind() {
        std::io::ErrorKind::NotFound => format!("{}: there is no such file", path.display()),
        _ => format!("{}: cannot read it: {error}", path.display()),
    })
}

/// The pieces of one file.
struct Scan<R> {
    reader: BufReader<R>,
    /// Whether lines are JSON.
    json: bool,
    piece: usize,
    /// The last piece's bytes.
    bytes: Vec<u8>,
    /// Where they lie.
    offset: u64,
    /// The line that they begin with.
    line: u64,
    next_offset: u64,
    next_line: u64,
}

impl<R: Read> Scan<R> {
    fn new(file: R, piece: usize) -> std::io::Result<Scan<R>> {
        let mut reader = BufReader::with_capacity(1 << 18, file);
        let start = reader.fill_buf()?;
        // A byte order mark is no text.
        let mark = if start.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        reader.consume(mark);
        let first = reader.fill_buf()?.iter().find(|byte| !byte.is_ascii_whitespace());
        Ok(Scan {
            json: first == Some(&b'{'),
            reader,
            piece,
            bytes: Vec::new(),
            offset: 0,
            line: 0,
            next_offset: mark as u64,
            next_line: 1,
        })
    }

    /// Bytes read so far.
    fn end(&self) -> u64 {
        self.next_offset
    }

    /// The next piece that is not empty; inside, what is wrong with a line.
    fn next(&mut self) -> std::io::Result<Option<Result<Form, String>>> {
        loop {
            self.bytes.clear();
            (self.offset, self.line) = (self.next_offset, self.next_line);
            let found = if self.json { self.next_line()? } else { self.next_text()? };
            let Some(found) = found else { return Ok(None) };
            if found.is_err() || !self.bytes.trim_ascii().is_empty() {
                return Ok(Some(found));
            }
        }
    }

    /// Appends a line, of at most so many bytes, to `bytes`; says how many it has.
    fn read_line(&mut self, most: usize) -> std::io::Result<usize> {
        let count = (&mut self.reader).take(most as u64).read_until(b'\n', &mut self.bytes)?;
        self.next_offset += count as u64;
        if self.bytes.ends_with(b"\n") {
            self.next_line += 1;
        }
        Ok(count)
    }

    fn next_line(&mut self) -> std::io::Result<Option<Result<Form, String>>> {
        let count = self.read_line(LONGEST_LINE)?;
        if count == LONGEST_LINE && !self.bytes.ends_with(b"\n") {
            while !self.bytes.ends_with(b"\n") {
                self.bytes.clear();
                if self.read_line(LONGEST_LINE)? == 0 {
                    break;
                }
            }
            self.bytes.clear();
            return Ok(Some(Err(format!("it has more than {LONGEST_LINE} bytes"))));
        }
        Ok((count > 0).then_some(Ok(Form::Line)))
    }

    /// Whole lines, as many as make a piece, or part of a very long one.
    fn next_text(&mut self) -> std::io::Result<Option<Result<Form, String>>> {
        loop {
            let before = self.bytes.len();
            let room = self.piece.saturating_sub(before).max(4 * END.len()) * 4;
            let count = self.read_line(room)?;
            if count == 0 {
                return Ok((before > 0).then_some(Ok(Form::End)));
            }
            if self.bytes[before..].trim_ascii() == END.as_bytes() {
                self.bytes.truncate(before);
                return Ok(Some(Ok(Form::End)));
            }
            if !self.bytes.ends_with(b"\n") && count == room {
                // A character is not cut: its other bytes are at most three.
                while self.reader.fill_buf()?.first().is_some_and(|byte| byte & 0xc0 == 0x80) {
                    self.read_line(1)?;
                }
                return Ok(Some(Ok(Form::Part)));
            }
            if self.bytes.len() >= self.piece {
                let over = self.reader.fill_buf()?.is_empty();
                return Ok(Some(Ok(if over { Form::End } else { Form::Part })));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(text: &str, piece: usize) -> Vec<(String, String, u64, u64)> {
        let mut scan = Scan::new(text.as_bytes(), piece).unwrap();
        let mut all = Vec::new();
        while let Some(found) = scan.next().unwrap() {
            let bytes = String::from_utf8(scan.bytes.clone()).unwrap();
            let from = scan.offset as usize;
            assert_eq!(&text[from..from + bytes.len()], bytes);
            all.push((bytes, format!("{found:?}"), scan.offset, scan.line));
        }
        all
    }

    #[test]
    fn lines_of_json_are_found() {
        let all = scanned("\u{feff}{\"text\": \"a\"}\n\n  \n{\"text\": \"ü\"}", 10);
        let shown: Vec<_> = all.iter().map(|(t, f, o, l)| (t.trim(), f.as_str(), *o, *l)).collect();
        assert_eq!(
            shown,
            [("{\"text\": \"a\"}", "Ok(Line)", 3, 1), ("{\"text\": \"ü\"}", "Ok(Line)", 21, 4)]
        );
        let long = format!("{{{}\n{{}}\n", "x".repeat(LONGEST_LINE + 5));
        let mut scan = Scan::new(long.as_bytes(), 10).unwrap();
        assert!(scan.next().unwrap().unwrap().unwrap_err().contains("more than"));
        assert_eq!((scan.next().unwrap().unwrap(), scan.line), (Ok(Form::Line), 2));
    }

    #[test]
    fn text_is_cut_at_line_ends_and_where_it_ends() {
        let all = scanned("aa\nbb\ncc\n<|endoftext|>\n\ndd\n", 5);
        let shown: Vec<_> = all.iter().map(|(t, f, _, l)| (t.as_str(), f.as_str(), *l)).collect();
        assert_eq!(
            shown,
            [("aa\nbb\n", "Ok(Part)", 1), ("cc\n", "Ok(End)", 3), ("\ndd\n", "Ok(End)", 5)]
        );
        // A line without end is cut too, but no character of it.
        let long = "ü€a".repeat(1000);
        let all = scanned(&long, 5);
        assert!(all.len() > 10);
        assert_eq!(all.iter().map(|(t, ..)| t.as_str()).collect::<String>(), long);
        assert_eq!(all.last().unwrap().1, "Ok(End)");
    }
}
