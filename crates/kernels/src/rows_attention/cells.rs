//! How a page holds the keys and values of its cells, and which cells rows see.
//!
//! A page of a head has the keys of its cells by element, so that a vector holds an element of many
//! keys, and then the values by cell:
//!
//! - singles and halves: key elements [key, [`PAGE`]], values [[`PAGE`], value];
//! - `Q8_0`: for each 32 elements of keys, scales [[`PAGE`]] and codes [32, [`PAGE`]]; values are
//!   rows of blocks.

use crate::encoded::Float;
use crate::encoding::Encoding;
use crate::halves::{narrow, widen};
use crate::isa::Isa;

/// Cells of a page.
pub const PAGE: usize = 32;

/// Elements of a key that are moved together: a block of `Q8_0`.
const CHUNK: usize = 32;

/// Bytes of a block of `Q8_0`.
const BLOCK: usize = 34;

/// How keys and values are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Singles.
    F32,
    /// Halves.
    F16,
    /// Blocks of `Q8_0`.
    Q8_0,
}

impl Held {
    /// Bytes of `n` elements; whole blocks where they are held in blocks.
    pub fn bytes(self, n: usize) -> usize {
        match self {
            Held::F32 => 4 * n,
            Held::F16 => 2 * n,
            Held::Q8_0 => n / CHUNK * BLOCK,
        }
    }

    /// Writes `data` as it is held.
    pub fn encode(self, isa: Isa, data: &[f32], to: &mut [u8]) {
        match self {
            Held::F32 => to.copy_from_slice(bytemuck::cast_slice(data)),
            Held::F16 => narrow(isa, data, to),
            Held::Q8_0 => Encoding::Q8_0.encode(data, to),
        }
    }

    /// Reads what [`Held::encode`] wrote.
    pub fn decode(self, isa: Isa, bytes: &[u8], to: &mut [f32]) {
        match self {
            Held::F32 => widen(isa, Float::F32, bytes, to),
            Held::F16 => widen(isa, Float::F16, bytes, to),
            Held::Q8_0 => Encoding::Q8_0.decode(bytes, to),
        }
    }
}

/// Which part of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its key.
    Key,
    /// Its value.
    Value,
}

/// The pages of a layer: [pages, heads, page], of which each is as the module says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// How cells are held; in blocks only where `key` and `value` are multiples of 32.
    pub held: Held,
    /// Heads of keys and values.
    pub heads: usize,
    /// Elements of a key.
    pub key: usize,
    /// Elements of a value; 0 where values are the first elements of keys.
    pub value: usize,
}

impl Pages {
    /// Bytes of a page of one head.
    pub fn page_bytes(&self) -> usize {
        self.held.bytes(PAGE * (self.key + self.value))
    }

    /// Where the page of a head that has `cell` lies.
    pub fn page_of(&self, cell: usize, head: usize) -> std::ops::Range<usize> {
        let start = (cell / PAGE * self.heads + head) * self.page_bytes();
        start..start + self.page_bytes()
    }

    /// The parts that cells hold.
    pub fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        let own_value = self.value > 0;
        [Part::Key, Part::Value].into_iter().filter(move |p| *p == Part::Key || own_value)
    }

    /// Bytes of a cell's part as [`Pages::put`] takes it.
    pub fn part_bytes(&self, part: Part) -> usize {
        match part {
            Part::Key => self.held.bytes(self.key),
            Part::Value => self.held.bytes(self.value),
        }
    }

    /// Where the values of a page start.
    pub fn values_at(&self) -> usize {
        self.held.bytes(PAGE * self.key)
    }

    /// Where a value of a page lies.
    fn value_of(&self, cell: usize) -> std::ops::Range<usize> {
        let bytes = self.held.bytes(self.value);
        let start = self.values_at() + cell % PAGE * bytes;
        start..start + bytes
    }

    /// Where the bytes of 32 elements of a cell's key, from number 32 `chunk` on, lie in its page.
    fn key_of(&self, cell: usize, chunk: usize) -> KeyBytes {
        let (cell, first) = (cell % PAGE, chunk * CHUNK);
        match self.held {
            Held::F32 => KeyBytes { unit: 4, head: 0, at: 0, start: (first * PAGE + cell) * 4 },
            Held::F16 => KeyBytes { unit: 2, head: 0, at: 0, start: (first * PAGE + cell) * 2 },
            Held::Q8_0 => {
                let scales = chunk * BLOCK * PAGE;
                let start = scales + 2 * PAGE + cell;
                KeyBytes { unit: 1, head: 2, at: scales + 2 * cell, start }
            }
        }
    }

    /// Writes a part of `cell`, held as it says, to the cell's page.
    ///
    /// # Panics
    /// Where the lengths are not those of a page and a part.
    pub fn put(&self, page: &mut [u8], cell: usize, part: Part, bytes: &[u8]) {
        assert_eq!((page.len(), bytes.len()), (self.page_bytes(), self.part_bytes(part)));
        match part {
            Part::Value => page[self.value_of(cell)].copy_from_slice(bytes),
            Part::Key => {
                for (chunk, bytes) in bytes.chunks(self.held.bytes(CHUNK)).enumerate() {
                    self.key_of(cell, chunk).put(page, bytes);
                }
            }
        }
    }

    /// Reads a part of `cell` from the cell's page.
    ///
    /// # Panics
    /// As [`Pages::put`].
    pub fn get(&self, page: &[u8], cell: usize, part: Part, bytes: &mut [u8]) {
        assert_eq!((page.len(), bytes.len()), (self.page_bytes(), self.part_bytes(part)));
        match part {
            Part::Value => bytes.copy_from_slice(&page[self.value_of(cell)]),
            Part::Key => {
                for (chunk, bytes) in bytes.chunks_mut(self.held.bytes(CHUNK)).enumerate() {
                    self.key_of(cell, chunk).get(page, bytes);
                }
            }
        }
    }

    /// Takes a key and, where values are held by themselves, a value into `cell` of its page.
    ///
    /// # Panics
    /// Where lengths differ from what is held.
    pub fn take_in(&self, isa: Isa, page: &mut [u8], cell: usize, key: &[f32], value: &[f32]) {
        assert_eq!((page.len(), key.len()), (self.page_bytes(), self.key), "a page and a key");
        let mut bytes = [0; 4 * CHUNK];
        for (chunk, key) in key.chunks(CHUNK).enumerate() {
            let bytes = &mut bytes[..self.held.bytes(key.len())];
            self.held.encode(isa, key, bytes);
            self.key_of(cell, chunk).put(page, bytes);
        }
        if self.value > 0 {
            self.held.encode(isa, value, &mut page[self.value_of(cell)]);
        }
    }

    /// Reads `cell`'s key.
    ///
    /// # Panics
    /// Where lengths differ from what is held.
    pub fn key(&self, isa: Isa, page: &[u8], cell: usize, key: &mut [f32]) {
        assert_eq!((page.len(), key.len()), (self.page_bytes(), self.key), "a page and a key");
        let mut bytes = [0; 4 * CHUNK];
        for (chunk, key) in key.chunks_mut(CHUNK).enumerate() {
            let bytes = &mut bytes[..self.held.bytes(key.len())];
            self.key_of(cell, chunk).get(page, bytes);
            self.held.decode(isa, bytes, key);
        }
    }

    /// Reads `cell`'s value, which is held by itself.
    ///
    /// # Panics
    /// Where lengths differ from what is held.
    pub fn value(&self, isa: Isa, page: &[u8], cell: usize, value: &mut [f32]) {
        self.held.decode(isa, &page[self.value_of(cell)], value);
    }

    /// Reads the keys of all cells of a page, by element: [key, [`PAGE`]].
    #[inline(always)]
    pub(super) fn keys(&self, isa: Isa, page: &[u8], keys: &mut [f32]) {
        let bytes = &page[..self.values_at()];
        if self.held != Held::Q8_0 {
            return self.held.decode(isa, bytes, keys);
        }
        let blocks = bytes.chunks_exact(BLOCK * PAGE).zip(keys.chunks_exact_mut(CHUNK * PAGE));
        for (block, keys) in blocks {
            let (scale_bytes, codes) = block.split_at(2 * PAGE);
            let mut scales = [0.0; PAGE];
            widen(isa, Float::F16, scale_bytes, &mut scales);
            for (codes, keys) in codes.chunks_exact(PAGE).zip(keys.chunks_exact_mut(PAGE)) {
                for ((key, code), scale) in keys.iter_mut().zip(codes).zip(scales) {
                    *key = f32::from(*code as i8) * scale;
                }
            }
        }
    }

    /// Reads the values of all cells of a page: [[`PAGE`], value].
    pub(super) fn values(&self, isa: Isa, page: &[u8], values: &mut [f32]) {
        self.held.decode(isa, &page[self.values_at()..], values);
    }
}

/// Where some elements of a key lie: `head` bytes at `at`, and then an element of `unit` bytes each
/// [`PAGE`] elements from `start` on.
struct KeyBytes {
    unit: usize,
    head: usize,
    at: usize,
    start: usize,
}

impl KeyBytes {
    fn put(&self, page: &mut [u8], bytes: &[u8]) {
        let (head, elements) = bytes.split_at(self.head);
        page[self.at..self.at + self.head].copy_from_slice(head);
        for (i, element) in elements.chunks_exact(self.unit).enumerate() {
            page[self.start + i * PAGE * self.unit..][..self.unit].copy_from_slice(element);
        }
    }

    fn get(&self, page: &[u8], bytes: &mut [u8]) {
        let (head, elements) = bytes.split_at_mut(self.head);
        head.copy_from_slice(&page[self.at..self.at + self.head]);
        for (i, element) in elements.chunks_exact_mut(self.unit).enumerate() {
            element.copy_from_slice(&page[self.start + i * PAGE * self.unit..][..self.unit]);
        }
    }
}

/// The cells that a row and the rows before it in its step see, by position.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The pages of the positions before `past`.
    pub pages: &'a [i32],
    /// Positions that the row's sequence holds and the row sees.
    pub past: usize,
    /// The cells of the positions from `past` on.
    pub chain: &'a [i32],
}

impl Seen<'_> {
    /// The cell of a position.
    pub fn cell(&self, position: usize) -> usize {
        match position.checked_sub(self.past) {
            Some(i) => self.chain[i] as usize,
            None => self.pages[position / PAGE] as usize * PAGE + position % PAGE,
        }
    }

    /// The first cell of the page in which `positions`, of one block, lie each at its place; `None`
    /// where they lie in several pages or in another order.
    pub fn page(&self, positions: std::ops::RangeInclusive<usize>) -> Option<usize> {
        let (first, last) = (*positions.start(), *positions.end());
        let page = self.cell(first) / PAGE * PAGE;
        let chained = first.max(self.past.min(last + 1))..=last;
        let mut places = std::iter::once(first).chain(chained);
        places.all(|p| self.cell(p) == page + p % PAGE).then_some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Values;

    #[test]
    fn cells_come_back_as_they_were_put() {
        for held in [Held::F32, Held::F16, Held::Q8_0] {
            for (key, value) in [(64, 96), (32, 0), (40, 24)] {
                if held == Held::Q8_0 && key % 32 != 0 {
                    continue;
                }
                let pages = Pages { held, heads: 2, key, value };
                let mut state = vec![0; 3 * 2 * pages.page_bytes()];
                let mut values = Values::new(key as u64);
                let cells: Vec<_> = (0..3 * PAGE)
                    .flat_map(|cell| [(cell, 0), (cell, 1)])
                    .map(|at| (at, values.floats(key), values.floats(value)))
                    .collect();
                for isa in Isa::available() {
                    for ((cell, head), key, value) in &cells {
                        let page = &mut state[pages.page_of(*cell, *head)];
                        pages.take_in(isa, page, *cell, key, value);
                    }
                    for ((cell, head), key, value) in &cells {
                        let page = &state[pages.page_of(*cell, *head)];
                        let want = |x: &[f32]| {
                            let (mut bytes, mut back) = (vec![0; held.bytes(x.len())], x.to_vec());
                            held.encode(Isa::Portable, x, &mut bytes);
                            held.decode(Isa::Portable, &bytes, &mut back);
                            (bytes, back)
                        };
                        let (bytes, floats) = want(key);
                        let mut back = vec![0.0; key.len()];
                        pages.key(isa, page, *cell, &mut back);
                        assert_eq!(back, floats, "{isa:?} {held:?} {cell}");
                        let mut all = vec![0.0; PAGE * key.len()];
                        pages.keys(isa, page, &mut all);
                        let own = all.iter().skip(cell % PAGE).step_by(PAGE);
                        assert!(own.eq(&floats), "{isa:?} {held:?} {cell}");
                        let mut part = vec![0; pages.part_bytes(Part::Key)];
                        pages.get(page, *cell, Part::Key, &mut part);
                        assert_eq!(part, bytes, "{isa:?} {held:?} {cell}");
                        let mut copy = vec![0; page.len()];
                        pages.put(&mut copy, *cell, Part::Key, &part);
                        pages.key(isa, &copy, *cell, &mut back);
                        assert_eq!(back, floats, "{isa:?} {held:?} {cell}");
                        if !value.is_empty() {
                            let mut back = vec![0.0; value.len()];
                            pages.value(isa, page, *cell, &mut back);
                            assert_eq!(back, want(value).1, "{isa:?} {held:?} {cell}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_page_is_seen_where_its_cells_are_in_order() {
        // Two pages, then two rows of this step: one where it belongs, one elsewhere.
        let mut seen = Seen { pages: &[5, 2], past: 40, chain: &[2 * 32 + 8, 2 * 32 + 9] };
        assert_eq!(seen.page(0..=31), Some(5 * 32));
        assert_eq!(seen.page(32..=39), Some(2 * 32));
        assert_eq!(seen.page(32..=41), Some(2 * 32));
        assert_eq!((seen.cell(3), seen.cell(33), seen.cell(41)), (163, 65, 73));
        seen.chain = &[2 * 32 + 8, 7];
        assert_eq!(seen.page(32..=40), Some(2 * 32));
        assert_eq!(seen.page(32..=41), None);
        seen.chain = &[2 * 32 + 10, 2 * 32 + 9];
        assert_eq!(seen.page(40..=41), None);
    }
}
