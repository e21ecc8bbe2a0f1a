//! Damaged files: what loaders must survive.

use std::ops::Range;

use crate::Rng;

/// How a file's structure is laid out: where damage hurts most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Offsets and sizes are little-endian words at multiples of their size (FlatBuffers).
    Words,
    /// Sizes and offsets are little-endian words at any place (GGUF).
    Numbers,
    /// Tags and lengths are variable-length numbers (Protocol Buffers).
    Varints,
}

/// A file to damage, with the places where its structure lies.
#[derive(Debug, Clone)]
pub struct Specimen {
    bytes: Vec<u8>,
    layout: Layout,
    /// Where a number of the file's structure, a size or an offset, starts and ends.
    numbers: Vec<Range<usize>>,
}

impl Specimen {
    /// Finds the structure of `bytes`.
    pub fn new(bytes: Vec<u8>, layout: Layout) -> Specimen {
        let numbers = match layout {
            Layout::Words => words(&bytes),
            Layout::Numbers => numbers(&bytes),
            Layout::Varints => {
                let mut found = Vec::new();
                varints(&bytes, 0..bytes.len(), 0, &mut found);
                found
            }
        };
        Specimen { bytes, layout, numbers }
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `places` lengths to cut the file at: every one near the start, the rest spread evenly.
    pub fn cuts(&self, places: usize) -> Vec<usize> {
        let near = (places / 4).min(self.bytes.len());
        let spread = (near..places).map(|i| i * self.bytes.len() / places);
        (0..near).chain(spread).collect()
    }

    /// The file with one to four damages, as `seed` says, and their description.
    pub fn damaged(&self, seed: u64) -> (Vec<u8>, String) {
        let mut rng = Rng::new(seed);
        let mut bytes = self.bytes.clone();
        let mut what = Vec::new();
        for _ in 0..=rng.below(4).min(rng.below(4)) {
            if !bytes.is_empty() {
                what.push(self.damage(&mut bytes, &mut rng));
            }
        }
        (bytes, what.join("; "))
    }

    fn damage(&self, bytes: &mut Vec<u8>, rng: &mut Rng) -> String {
        match rng.below(8) {
            0 => {
                let at = rng.below(bytes.len());
                flip(bytes, at, rng)
            }
            1 => {
                let at = self.place(bytes, rng).start;
                flip(bytes, at, rng)
            }
            2 => splice(bytes, rng),
            3 => {
                let (a, b) = (self.place(bytes, rng), self.place(bytes, rng));
                exchange(bytes, a, b)
            }
            _ => {
                let place = self.place(bytes, rng);
                let number = extreme(bytes.len(), rng);
                match self.layout {
                    Layout::Words | Layout::Numbers => overwrite(bytes, place.start, number, rng),
                    Layout::Varints => replace(bytes, place, number),
                }
            }
        }
    }

    /// Where some number of the structure lies; an earlier damage may have moved it.
    fn place(&self, bytes: &[u8], rng: &mut Rng) -> Range<usize> {
        if self.numbers.is_empty() {
            let at = rng.below(bytes.len());
            return at..at + 1;
        }
        let place = self.numbers[rng.below(self.numbers.len())].clone();
        let start = place.start.min(bytes.len() - 1);
        start..place.end.clamp(start + 1, bytes.len().max(start + 1))
    }
}

fn flip(bytes: &mut [u8], at: usize, rng: &mut Rng) -> String {
    let bit = rng.below(8);
    bytes[at] ^= 1 << bit;
    format!("bit {bit} of byte {at} flipped")
}

/// Copies, removes or doubles a stretch of the file.
fn splice(bytes: &mut Vec<u8>, rng: &mut Rng) -> String {
    let from = rng.below(bytes.len());
    let len = 1 + rng.below((bytes.len() - from).min(256));
    let part = bytes[from..from + len].to_vec();
    match rng.below(3) {
        0 => {
            let to = rng.below(bytes.len() - len + 1);
            bytes[to..to + len].copy_from_slice(&part);
            format!("{len} bytes at {from} copied over those at {to}")
        }
        1 => {
            bytes.drain(from..from + len);
            format!("{len} bytes at {from} removed")
        }
        _ => {
            bytes.splice(from..from, part);
            format!("{len} bytes at {from} doubled")
        }
    }
}

/// Swaps two stretches, as far as both reach.
fn exchange(bytes: &mut [u8], a: Range<usize>, b: Range<usize>) -> String {
    let len = a.len().min(b.len());
    if a.start.abs_diff(b.start) >= len {
        for i in 0..len {
            bytes.swap(a.start + i, b.start + i);
        }
    }
    format!("{len} bytes at {} and {} exchanged", a.start, b.start)
}

/// A number that sizes and offsets should not be.
fn extreme(file: usize, rng: &mut Rng) -> u64 {
    let file = file as u64;
    let numbers = [
        0,
        1,
        2,
        0x7f,
        0xff,
        0x7fff,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0xffff_fff0,
        0x4000_0000,
        i64::MAX as u64,
        u64::MAX,
        1 << 63,
        1 << 40,
        file - 1,
        file,
        file + 1,
        file * 4,
    ];
    let at = rng.below(numbers.len() + 2);
    numbers.get(at).copied().unwrap_or_else(|| rng.bits() >> rng.below(64))
}

/// Writes the low bytes of `number` in place.
fn overwrite(bytes: &mut [u8], at: usize, number: u64, rng: &mut Rng) -> String {
    let width = [1, 2, 4, 4, 4, 8][rng.below(6)].min(bytes.len() - at);
    bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
    format!("{width} bytes at {at} set to {number:#x}")
}

/// Puts `number`, as a varint, in the place of another.
fn replace(bytes: &mut Vec<u8>, place: Range<usize>, number: u64) -> String {
    let mut varint = Vec::new();
    let mut rest = number;
    while rest >= 0x80 {
        varint.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    varint.push(rest as u8);
    let at = place.start;
    bytes.splice(place, varint);
    format!("the varint at {at} set to {number:#x}")
}

/// Aligned words that could be an offset, a size or a small enumeration: most of those of a
/// FlatBuffer's tables, and few of those of its weights.
fn words(bytes: &[u8]) -> Vec<Range<usize>> {
    let is_small = |word: &[u8]| {
        let value = i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        value != 0 && value.unsigned_abs() < 1 << 16
    };
    let words = bytes.chunks_exact(4).enumerate();
    words.filter(|(_, word)| is_small(word)).map(|(i, _)| 4 * i..4 * i + 4).collect()
}

/// Eight bytes anywhere that hold a number below 2^16, not 0: lengths, and most other numbers of a
/// structure, and hardly anything within text or weights.
fn numbers(bytes: &[u8]) -> Vec<Range<usize>> {
    let is_number = |at: usize| match bytes.get(at..at + 8) {
        Some(word) => word[0] != 0 && word[2..] == [0; 6],
        None => false,
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at + 8 <= bytes.len() {
        // What is before a number below 256 looks like its low byte.
        if is_number(at) && !is_number(at + 1) {
            found.push(at..at + 8);
            at += 8;
        } else {
            at += 1;
        }
    }
    found
}

/// The tags, lengths and numbers of the message in `range` and of those within it. A field that
/// does not read as a message is taken for text or data. Whether all of `range` read as one.
fn varints(bytes: &[u8], range: Range<usize>, depth: usize, found: &mut Vec<Range<usize>>) -> bool {
    let kept = found.len();
    let mut at = range.start;
    while at < range.end {
        let Some((field, tag, end)) = tag(bytes, at, range.end) else {
            found.truncate(kept);
            return false;
        };
        found.push(at..tag);
        found.extend(field.number);
        if let Some(inside) = field.inside
            && depth < 8
        {
            varints(bytes, inside, depth + 1, found);
        }
        at = end;
    }
    true
}

/// What follows a tag: a number's place, and a length's field.
struct Field {
    number: Option<Range<usize>>,
    inside: Option<Range<usize>>,
}

/// The field at `at`, where its tag ends, and where it ends itself.
fn tag(bytes: &[u8], at: usize, end: usize) -> Option<(Field, usize, usize)> {
    let (tag, after) = varint(bytes, at, end)?;
    let fixed = |size: usize| {
        let next = after.checked_add(size).filter(|next| *next <= end)?;
        Some((Field { number: None, inside: None }, after, next))
    };
    match tag & 7 {
        0 => {
            let (_, next) = varint(bytes, after, end)?;
            Some((Field { number: Some(after..next), inside: None }, after, next))
        }
        1 => fixed(8),
        5 => fixed(4),
        2 => {
            let (len, start) = varint(bytes, after, end)?;
            let stop = start.checked_add(usize::try_from(len).ok()?).filter(|s| *s <= end)?;
            let field = Field { number: Some(after..start), inside: Some(start..stop) };
            Some((field, after, stop))
        }
        _ => None,
    }
}

fn varint(bytes: &[u8], at: usize, end: usize) -> Option<(u64, usize)> {
    let mut value = 0;
    for (i, byte) in bytes[at..end].iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i).min(63);
        if byte & 0x80 == 0 {
            return Some((value, at + i + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of a number (field 1, 150) and a message (field 2) that holds a text (field 3).
    const MESSAGE: [u8; 9] = [0x08, 0x96, 0x01, 0x12, 0x04, 0x1a, 0x02, 0xff, 0xff];

    #[test]
    fn numbers_of_nested_messages_are_found() {
        let specimen = Specimen::new(MESSAGE.to_vec(), Layout::Varints);
        assert_eq!(specimen.numbers, [0..1, 1..3, 3..4, 4..5, 5..6, 6..7]);
    }

    #[test]
    fn numbers_at_any_place_are_found() {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u64.to_le_bytes());
        bytes.extend(b"key");
        bytes.extend(700u64.to_le_bytes());
        bytes.extend([255; 9]);
        let specimen = Specimen::new(bytes, Layout::Numbers);
        assert_eq!(specimen.numbers, [4..12, 15..23]);
    }

    #[test]
    fn damage_repeats_and_differs() {
        for layout in [Layout::Words, Layout::Numbers, Layout::Varints] {
            let specimen = Specimen::new(MESSAGE.repeat(20), layout);
            let distinct: std::collections::BTreeSet<_> =
                (0..100).map(|seed| specimen.damaged(seed).0).collect();
            assert!(distinct.len() > 80, "{layout:?}: {}", distinct.len());
            assert_eq!(specimen.damaged(3), specimen.damaged(3));
        }
    }

    #[test]
    fn cuts_start_at_nothing() {
        let specimen = Specimen::new(MESSAGE.repeat(200), Layout::Words);
        let cuts = specimen.cuts(200);
        assert_eq!((cuts.len(), cuts[0], cuts[49]), (200, 0, 49));
        assert!(cuts.iter().all(|cut| *cut < specimen.bytes().len()));
    }
}
