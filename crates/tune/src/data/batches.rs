//! Batches: which examples come together, and the rows that they make.

use super::Data;
use crate::TuneError;
use crate::random::Random;
use kinglet_graph::ops::rows::PAGE;
use std::ops::Range;
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
    lines: usize,
    /// Lines of a part.
    part: usize,
    seed: u64,
}

/// One time through all examples.
#[derive(Clone, Debug)]
pub struct Epoch {
    order: Vec<u32>,
    /// Of each batch, its part of `order`.
    batches: Vec<Range<u32>>,
}

impl Epoch {
    /// How many batches it has.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

/// The rows of one batch, padded to a fixed count; what the inputs of a step are.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Tokens; −1 for padding.
    pub tokens: Vec<i32>,
    /// Positions.
    pub positions: Vec<i32>,
    /// Sequences: the line of each row; −1 for padding.
    pub sequences: Vec<i32>,
    /// The row before in the same example; −1: none.
    pub parents: Vec<i32>,
    /// The cell that takes a row in.
    pub slots: Vec<i32>,
    /// The token that follows each row; [`IGNORED`] where it does not count.
    pub targets: Vec<i32>,
    /// Rows that are no padding.
    pub rows: usize,
    /// Rows whose target counts.
    pub counted: usize,
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
        Batches { units: units.collect(), context, lines, part: lines, seed }
    }

    /// The same batches, each cut into `parts` of whole lines that run one after the other.
    #[must_use]
    pub fn in_parts(self, parts: usize) -> Batches {
        let part = self.lines.div_ceil(parts.max(1)).max(1);
        Batches { part, ..self }
    }

    /// The order of epoch `number`.
    pub fn epoch(&self, number: u64) -> Epoch {
        let mut order: Vec<u32> = (0..self.units.len() as u32).collect();
        Random::new(self.seed, number.wrapping_add(1)).shuffle(&mut order);
        let mut batches = Vec::new();
        let mut at = 0;
        while at < order.len() {
            let taken = self.places(&order[at..]).count();
            batches.push(at as u32..(at + taken) as u32);
            at += taken;
        }
        Epoch { order, batches }
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

    /// Batch `i` of `epoch`, in its parts that have rows.
    ///
    /// # Errors
    /// If a file has changed.
    pub fn batch(&self, epoch: &Epoch, i: usize, data: &Data) -> Result<Vec<Batch>, TuneError> {
        let n = self.part * self.context;
        let empty = Batch {
            tokens: vec![-1; n],
            positions: vec![0; n],
            sequences: vec![-1; n],
            parents: vec![-1; n],
            slots: vec![-1; n],
            targets: vec![IGNORED; n],
            rows: 0,
            counted: 0,
        };
        let mut parts = vec![empty; self.lines.div_ceil(self.part.max(1))];
        let cells = self.pages_of_line() * PAGE;
        let Range { start, end } = epoch.batches[i].clone();
        for (unit, line, at) in self.places(&epoch.order[start as usize..end as usize]) {
            let example = data.example(unit.example as usize)?;
            let (batch, line) = (&mut parts[line / self.part], line % self.part);
            let first = unit.first as usize;
            for position in 0..unit.rows as usize {
                let (token, row) = (first + position, line * self.context + at + position);
                batch.tokens[row] = example.tokens[token] as i32;
                batch.positions[row] = position as i32;
                batch.sequences[row] = line as i32;
                batch.parents[row] = if position == 0 { -1 } else { row as i32 - 1 };
                batch.slots[row] = (line * cells + at + position) as i32;
                if example.counts[token + 1] {
                    batch.targets[row] = example.tokens[token + 1] as i32;
                    batch.counted += 1;
                }
            }
            batch.rows += unit.rows as usize;
        }
        parts.retain(|part| part.rows > 0);
        Ok(parts)
    }

    /// Pages of cells that a line takes.
    pub fn pages_of_line(&self) -> usize {
        self.context.div_ceil(PAGE)
    }

    /// Lines of a part of a batch: what runs at once.
    pub fn lines(&self) -> usize {
        self.part
    }

    /// Rows of a line.
    pub fn context(&self) -> usize {
        self.context
    }
}
