//! Who holds which cells: the pages of each sequence.
//!
//! Sequences share the pages of what they have in common, and a page that is shared is never
//! written: a fork copies its last page when it goes its own way.

use kinglet_graph::ops::rows::PAGE;

/// A sequence's cells: its length, and the pages that hold them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Held {
    length: usize,
    pages: Vec<u32>,
}

/// The pages of all sequences.
#[derive(Clone, Debug)]
pub struct Cells {
    sequences: Vec<Option<Held>>,
    /// How many sequences hold each page.
    holders: Vec<u32>,
    free: Vec<u32>,
}

/// No page is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A page to copy before it is written: a fork's last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The page that stays as it is.
    pub from: u32,
    /// The page that takes its content.
    pub to: u32,
}

impl Cells {
    /// `pages` pages for at most `sequences` sequences.
    pub fn new(sequences: usize, pages: usize) -> Cells {
        Cells {
            sequences: vec![None; sequences],
            holders: vec![0; pages],
            // Taken from the back: low pages first, so that memory is touched as it is needed.
            free: (0..pages as u32).rev().collect(),
        }
    }

    /// A new empty sequence, `None` where there are as many as can be told apart.
    pub fn open(&mut self) -> Option<usize> {
        let place = self.sequences.iter().position(Option::is_none)?;
        self.sequences[place] = Some(Held::default());
        Some(place)
    }

    /// A sequence that holds what `sequence` does, without a copy.
    pub fn fork(&mut self, sequence: usize) -> Option<usize> {
        let held = self.sequences.get(sequence)?.clone()?;
        let place = self.sequences.iter().position(Option::is_none)?;
        for page in &held.pages {
            self.holders[*page as usize] += 1;
        }
        self.sequences[place] = Some(held);
        Some(place)
    }

    /// Gives up a sequence and what only it holds.
    pub fn close(&mut self, sequence: usize) {
        self.truncate(sequence, 0);
        if let Some(held) = self.sequences.get_mut(sequence) {
            *held = None;
        }
    }

    /// Whether there is such a sequence.
    pub fn is_open(&self, sequence: usize) -> bool {
        self.sequences.get(sequence).is_some_and(Option::is_some)
    }

    /// Positions that `sequence` holds.
    pub fn length(&self, sequence: usize) -> usize {
        self.sequences.get(sequence).and_then(Option::as_ref).map_or(0, |h| h.length)
    }

    /// Forgets the positions of `sequence` from `length` on.
    pub fn truncate(&mut self, sequence: usize, length: usize) {
        let Some(Some(held)) = self.sequences.get_mut(sequence) else { return };
        held.length = held.length.min(length);
        for page in held.pages.drain(held.length.div_ceil(PAGE)..) {
            let holders = &mut self.holders[page as usize];
            *holders -= 1;
            if *holders == 0 {
                self.free.push(page);
            }
        }
    }

    /// Makes room for `n` more positions of `sequence`, and counts them as held. Returns a page to
    /// copy first, where the last one is shared. Changes nothing where there is no room.
    pub fn extend(&mut self, sequence: usize, n: usize) -> Result<Option<Copy>, Full> {
        let Some(Some(held)) = self.sequences.get(sequence) else { return Err(Full) };
        let length = held.length + n;
        let shared = held.pages.last().copied().filter(|page| {
            n > 0 && !held.length.is_multiple_of(PAGE) && self.holders[*page as usize] > 1
        });
        let more = length.div_ceil(PAGE) - held.pages.len();
        if more + usize::from(shared.is_some()) > self.free.len() {
            return Err(Full);
        }
        let fresh: Vec<u32> =
            (0..more + usize::from(shared.is_some())).filter_map(|_| self.free.pop()).collect();
        for page in &fresh {
            self.holders[*page as usize] = 1;
        }
        let mut fresh = fresh.into_iter();
        let copy = shared.and_then(|from| Some(Copy { from, to: fresh.next()? }));
        if let Some(Some(held)) = self.sequences.get_mut(sequence) {
            if let (Some(copy), Some(last)) = (copy, held.pages.last_mut()) {
                self.holders[copy.from as usize] -= 1;
                *last = copy.to;
            }
            held.pages.extend(fresh);
            held.length = length;
        }
        Ok(copy)
    }

    /// The cell of `position` of `sequence`, which must hold it.
    pub fn cell(&self, sequence: usize, position: usize) -> Option<usize> {
        let held = self.sequences.get(sequence)?.as_ref()?;
        let page = held.pages.get(position / PAGE)?;
        Some(*page as usize * PAGE + position % PAGE)
    }

    /// The pages of `sequence`, in the order of their positions.
    pub fn pages(&self, sequence: usize) -> &[u32] {
        self.sequences.get(sequence).and_then(Option::as_ref).map_or(&[], |h| &h.pages)
    }

    /// How many sequences can be told apart.
    pub fn sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Positions that still fit, in all.
    pub fn room(&self) -> usize {
        self.free.len() * PAGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_share_pages_until_they_part() {
        let mut cells = Cells::new(3, 4);
        let a = cells.open().unwrap();
        assert_eq!(cells.extend(a, PAGE + 5), Ok(None));
        let b = cells.fork(a).unwrap();
        assert_eq!(cells.room(), 2 * PAGE);
        assert_eq!(cells.cell(a, PAGE), cells.cell(b, PAGE));
        let copy = cells.extend(b, 1).unwrap().unwrap();
        assert_eq!(copy, Copy { from: 1, to: 2 });
        assert_eq!(cells.cell(a, 3), cells.cell(b, 3));
        assert_ne!(cells.cell(a, PAGE), cells.cell(b, PAGE));
        // The other holds its last page alone now.
        assert_eq!(cells.extend(a, 1), Ok(None));
        cells.close(a);
        assert_eq!(cells.room(), 2 * PAGE);
        cells.close(b);
        assert_eq!(cells.room(), 4 * PAGE);
    }

    #[test]
    fn no_room_changes_nothing() {
        let mut cells = Cells::new(1, 2);
        let a = cells.open().unwrap();
        assert_eq!(cells.open(), None);
        assert_eq!(cells.extend(a, 2 * PAGE + 1), Err(Full));
        assert_eq!((cells.length(a), cells.room()), (0, 2 * PAGE));
        assert_eq!(cells.extend(a, 2 * PAGE), Ok(None));
        assert_eq!(cells.extend(a, 1), Err(Full));
        assert_eq!(cells.length(a), 2 * PAGE);
    }
}
