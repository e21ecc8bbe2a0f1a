//! Batches: which examples come together, and the rows that they make.

use super::Data;
use crate::TuneError;
use crate::data::{Batch, Epoch, Source};
use kinglet_graph::Tensor;
use kinglet_graph::ops::rows::PAGE;
use std::sync::Arc;

/// The target of a row that does not count.
pub const IGNORED: i32 = -100;

/// Rows of an example that stand together in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    example: u32,
    first: u32,
    rows: u32,
}

/// How examples come together: in lines of as many rows as the context has, as many lines as the batch.
///
/// A longer example is cut into pieces of that length; shorter ones share a line. They do not see each
/// other: each begins at position 0 with a row that follows none.
#[derive(Clone, Debug)]
pub struct Batches {
    units: Arc<[Unit]>,
    context: usize,
    /// Lines of a batch.
    batch_lines: usize,
    /// Lines of a part of one.
    lines: usize,
    seed: u64,
}

impl Batches {
    /// Of the examples `chosen` of `data`, in `lines` lines of `context` rows, in orders of `seed`.
    pub fn new(data: &Data, chosen: &[u32], context: usize, lines: usize, seed: u64) -> Batches {
        let all = data.rows();
        let most = context as u32;
        let units = chosen.iter().flat_map(|&example| {
            let rows = all[example as usize];
            let starts = (0..rows).step_by(context.max(1));
            starts.map(move |first| Unit { example, first, rows: most.min(rows - first) })
        });
        Batches { units: units.collect(), context, batch_lines: lines, lines, seed }
    }

    /// The same batches, each cut into `parts` of whole lines that run one after the other.
    #[must_use]
    pub fn in_parts(self, parts: usize) -> Batches {
        let lines = self.batch_lines.div_ceil(parts.max(1)).max(1);
        Batches { lines, ..self }
    }

    /// The order of epoch `number`.
    pub fn epoch(&self, number: u64) -> Epoch {
        Epoch::new(self.units.len(), self.seed, number, |order| self.places(order).count())
    }

    /// Where units lie in the batch that begins with them: line, and place in it. Each goes into the
    /// first line that has room; the batch ends before one that fits in none.
    fn places<'a>(&'a self, order: &'a [u32]) -> impl Iterator<Item = (Unit, usize, usize)> + 'a {
        let mut filled = vec![0; self.batch_lines];
        order.iter().map_while(move |unit| {
            let unit = self.units[*unit as usize];
            let rows = unit.rows as usize;
            let line = filled.iter().position(|filled| filled + rows <= self.context)?;
            let at = filled[line];
            filled[line] += rows;
            Some((unit, line, at))
        })
    }

    /// Batch `i` of `epoch`, in its parts that have rows: the inputs of [`crate::language::objective`]'s
    /// graph.
    ///
    /// # Errors
    /// If a file has changed.
    pub fn batch(&self, epoch: &Epoch, i: usize, data: &Data) -> Result<Vec<Batch>, TuneError> {
        let mut parts =
            vec![Rows::empty(self.lines * self.context); self.batch_lines.div_ceil(self.lines)];
        let cells = self.pages_of_line() * PAGE;
        for (unit, line, at) in self.places(epoch.batch(i)) {
            let example = data.example(unit.example as usize)?;
            let (part, line) = (&mut parts[line / self.lines], line % self.lines);
            let first = unit.first as usize;
            for position in 0..unit.rows as usize {
                let (token, row) = (first + position, line * self.context + at + position);
                part.tokens[row] = example.tokens[token] as i32;
                part.positions[row] = position as i32;
                part.sequences[row] = line as i32;
                part.parents[row] = if position == 0 { -1 } else { row as i32 - 1 };
                part.slots[row] = (line * cells + at + position) as i32;
                if example.counts[token + 1] {
                    part.targets[row] = example.tokens[token + 1] as i32;
                    part.counted += 1;
                }
            }
            part.rows += unit.rows as usize;
        }
        let parts = parts.into_iter().filter(|part| part.rows > 0);
        parts.map(|part| part.batch(self.lines, self.pages())).collect()
    }

    /// Pages of cells that a part of a batch takes.
    pub fn pages(&self) -> usize {
        self.lines * self.pages_of_line()
    }

    /// Pages of cells that a line takes.
    fn pages_of_line(&self) -> usize {
        self.context.div_ceil(PAGE)
    }

    /// Lines of a part of a batch: what runs at once.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Rows of a line.
    pub fn context(&self) -> usize {
        self.context
    }
}

/// The rows of a part of a batch, padded to a fixed count.
#[derive(Clone)]
struct Rows {
    /// −1 for padding.
    tokens: Vec<i32>,
    positions: Vec<i32>,
    /// The line of each row; −1 for padding.
    sequences: Vec<i32>,
    /// The row before in the same example; −1: none.
    parents: Vec<i32>,
    /// The cell that takes a row in.
    slots: Vec<i32>,
    /// The token that follows each row; [`IGNORED`] where it does not count.
    targets: Vec<i32>,
    rows: usize,
    counted: usize,
}

impl Rows {
    fn empty(n: usize) -> Rows {
        let none = || vec![-1; n];
        Rows {
            tokens: none(),
            positions: vec![0; n],
            sequences: none(),
            parents: none(),
            slots: none(),
            targets: vec![IGNORED; n],
            rows: 0,
            counted: 0,
        }
    }

    fn batch(self, lines: usize, pages: usize) -> Result<Batch, TuneError> {
        let Rows { tokens, positions, sequences, parents, slots, targets, rows, counted } = self;
        let n = tokens.len();
        let wanted: Vec<i32> = (0..n as i32).collect();
        let of_rows = |values: &[i32]| Tensor::from_slice(&[n], values);
        // Rows see their ancestors in the batch alone, and nothing that was held before.
        let pages = Tensor::from_slice(&[lines, pages], &vec![-1i32; lines * pages]);
        let rest = [&wanted, &targets].map(|values| of_rows(values));
        let all = [tokens, positions, sequences, parents, slots].map(|values| of_rows(&values));
        let inputs = all.into_iter().chain([pages]).chain(rest).collect::<Result<_, _>>()?;
        Ok(Batch { inputs, rows, counted })
    }
}

/// Texts in batches.
#[derive(Clone, Debug)]
pub struct Texts {
    /// The examples.
    pub data: Arc<Data>,
    /// How those that are taken come together.
    pub batches: Batches,
}

impl Source for Texts {
    fn epoch(&self, number: u64) -> Epoch {
        self.batches.epoch(number)
    }

    fn batch(&self, epoch: &Epoch, i: usize) -> Result<Vec<Batch>, TuneError> {
        self.batches.batch(epoch, i, &self.data)
    }

    fn run_in_parts(&mut self, parts: usize) {
        self.batches = self.batches.clone().in_parts(parts);
    }

    fn fingerprint(&self) -> String {
        self.data.fingerprint().to_string()
    }
}
