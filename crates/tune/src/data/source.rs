//! Batches, and where they come from.

use crate::TuneError;
use crate::random::Random;
use kinglet_graph::Tensor;
use std::ops::Range;

/// What one run of a step reads: a batch, or a part of one.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The inputs of the objective's graph, in their order, but for its last, the share.
    pub inputs: Vec<Tensor>,
    /// Rows or samples that are no padding.
    pub rows: usize,
    /// Targets that count: what the loss is the mean of.
    pub counted: usize,
}

/// Examples that come in batches of one size.
pub trait Source {
    /// The order of epoch `number`.
    fn epoch(&self, number: u64) -> Epoch;

    /// Batch `i` of `epoch`, in its parts that are not empty.
    ///
    /// # Errors
    /// If what it is made of can't be read again.
    fn batch(&self, epoch: &Epoch, i: usize) -> Result<Vec<Batch>, TuneError>;

    /// Lets each batch run in `parts` of one size, one after the other.
    fn run_in_parts(&mut self, parts: usize);

    /// Tells other examples, and others of the same, from these.
    fn fingerprint(&self) -> String;
}

/// One time through all examples.
#[derive(Clone, Debug)]
pub struct Epoch {
    number: u64,
    order: Vec<u32>,
    /// Of each batch, its part of `order`.
    batches: Vec<Range<u32>>,
}

impl Epoch {
    /// `count` examples in the order of `seed` and the epoch's `number`. Batches are what `size` takes of
    /// the beginning of those that are left, at least one.
    pub(super) fn new(
        count: usize,
        seed: u64,
        number: u64,
        size: impl Fn(&[u32]) -> usize,
    ) -> Epoch {
        let mut order: Vec<u32> = (0..count as u32).collect();
        Random::new(seed, number.wrapping_add(1)).shuffle(&mut order);
        let mut batches = Vec::new();
        let mut at = 0;
        while at < order.len() {
            let taken = size(&order[at..]).max(1);
            batches.push(at as u32..(at + taken) as u32);
            at += taken;
        }
        Epoch { number, order, batches }
    }

    /// Its number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// How many batches it has.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The examples of batch `i`.
    pub(super) fn batch(&self, i: usize) -> &[u32] {
        let Range { start, end } = self.batches[i].clone();
        &self.order[start as usize..end as usize]
    }
}
