//! Merging neighbours, best pair first: the heart of byte-pair encoding.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A stretch of the text that is one token, or may become part of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// Where it starts in the text.
    pub start: usize,
    /// Its length in bytes; 0 once it has become part of the one before.
    pub len: usize,
    /// Its token, or [`NONE`].
    pub id: u32,
    previous: usize,
    next: usize,
}

/// No token.
pub(super) const NONE: u32 = u32::MAX;
const END: usize = usize::MAX;

/// A pair that may be merged into token `id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    priority: u32,
    left: usize,
    right: usize,
    /// The length of both: another one says that either has changed since.
    len: usize,
    id: u32,
}

impl Ord for Candidate {
    /// The best is the greatest: of the lowest priority number, then leftmost.
    fn cmp(&self, other: &Candidate) -> Ordering {
        (other.priority, other.left).cmp(&(self.priority, self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Symbols in a row; the memory is used again for the next text.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
}

impl Merger {
    /// Starts a new text.
    pub fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends the text's next `len` bytes as a symbol of token `id`.
    pub fn push(&mut self, len: usize, id: u32) {
        let index = self.symbols.len();
        let mut start = 0;
        let mut previous = END;
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
            start = last.start + last.len;
            previous = index - 1;
        }
        self.symbols.push(Symbol { start, len, id, previous, next: END });
    }

    /// Merges until `pair`, which gives a pair's priority (lowest first) and the token that it makes,
    /// has no more to offer. Takes n log n steps for n symbols.
    pub fn merge(&mut self, pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        for right in 1..self.symbols.len() {
            self.offer(right - 1, right, &pair);
        }
        while let Some(best) = self.queue.pop() {
            let (left, right) = (self.symbols[best.left], self.symbols[best.right]);
            if left.len == 0 || right.len == 0 || left.len + right.len != best.len {
                continue;
            }
            self.symbols[best.right].len = 0;
            if right.next != END {
                self.symbols[right.next].previous = best.left;
            }
            let merged = &mut self.symbols[best.left];
            merged.len = best.len;
            merged.id = best.id;
            merged.next = right.next;
            if left.previous != END {
                self.offer(left.previous, best.left, &pair);
            }
            if right.next != END {
                self.offer(best.left, right.next, &pair);
            }
        }
    }

    fn offer(
        &mut self,
        left: usize,
        right: usize,
        pair: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) {
        let (a, b) = (&self.symbols[left], &self.symbols[right]);
        if let Some((priority, id)) = pair(a, b) {
            let len = a.len + b.len;
            self.queue.push(Candidate { priority, left, right, len, id });
        }
    }

    /// What is left, in order.
    pub fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.len > 0)
    }
}
