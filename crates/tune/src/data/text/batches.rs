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
    units: Vec<Unit>,
    context: usize,
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
        Batches { units: units.collect(), context, lines, seed }
    }

    /// The order of epoch `number`.
    pub fn epoch(&self, number: u64) -> Epoch {
        Epoch::new(self.units.len(), self.seed, number, |order| self.places(order).count())
    }

    /// Where units lie in the batch that begins with them: line, and place in it. Each goes into the
    /// first line that has room; the batch ends before one that fits in none.
    fn places<'a>(&'a self, order: &'a [u32]) -> impl Iterator<Item = (Unit, usize, usize)> + 'a {
        let mut filled = vec![0; self.lines];
        order.iter().map_while(move |unit| {
            let unit = self.units[*unit as usize];
            let rows = unit.rows as usize;
            let line = filled.iter().position(|filled| filled + rows <= self.context)?;
            let at = filled[line];
            filled[line] += rows;
            Some((unit, line, at))
        })
    }

    /// Batch `i` of `epoch`: the inputs of [`crate::language::objective`]'s graph.
    ///
    /// # Errors
    /// If a file has changed.
    pub fn batch(&self, epoch: &Epoch, i: usize, data: &Data) -> Result<Batch, TuneError> {
        let n = self.lines * self.context;
        let [mut tokens, mut sequences, mut parents, mut slots] = [(); 4].map(|()| vec![-1i32; n]);
        let (mut positions, mut targets) = (vec![0i32; n], vec![IGNORED; n]);
        let (mut rows, mut counted) = (0, 0);
        let cells = self.pages_of_line() * PAGE;
        for (unit, line, at) in self.places(epoch.batch(i)) {
            let example = data.example(unit.example as usize)?;
            let first = unit.first as usize;
            for position in 0..unit.rows as usize {
                let (token, row) = (first + position, line * self.context + at + position);
                tokens[row] = example.tokens[token] as i32;
                positions[row] = position as i32;
                sequences[row] = line as i32;
                parents[row] = if position == 0 { -1 } else { row as i32 - 1 };
                slots[row] = (line * cells + at + position) as i32;
                if example.counts[token + 1] {
                    targets[row] = example.tokens[token + 1] as i32;
                    counted += 1;
                }
            }
            rows += unit.rows as usize;
        }
        // Rows see their ancestors in the batch alone, and nothing that was held before.
        let pages = vec![-1i32; self.lines * self.pages()];
        let wanted: Vec<i32> = (0..n as i32).collect();
        let of_rows = [tokens, positions, sequences, parents, slots];
        let of_rows = of_rows.iter().map(|values| Tensor::from_slice(&[n], values));
        let pages = [Tensor::from_slice(&[self.lines, self.pages()], &pages)];
        let of_wanted = [&wanted, &targets].map(|values| Tensor::from_slice(&[n], values));
        let inputs = of_rows.chain(pages).chain(of_wanted).collect::<Result<_, _>>()?;
        Ok(Batch { inputs, rows, counted })
    }

    /// Pages of cells that a batch takes.
    pub fn pages(&self) -> usize {
        self.lines * self.pages_of_line()
    }

    /// Pages of cells that a line takes.
    fn pages_of_line(&self) -> usize {
        self.context.div_ceil(PAGE)
    }

    /// Lines of a batch.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Rows of a line.
    pub fn context(&self) -> usize {
        self.context
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

    fn batch(&self, epoch: &Epoch, i: usize) -> Result<Batch, TuneError> {
        self.batches.batch(epoch, i, &self.data)
    }

    fn fingerprint(&self) -> String {
        self.data.fingerprint().to_string()
    }
}
