//! Weights that need nine bits, as two bytes.
//!
//! A byte less its zero point may not fit a byte. What does not fit is rare (a few weights at one
//! end of the range), so that the products are of bytes, and the few steps in which a weight has
//! something left over are done a second time with what is left. Rows of the input then need
//! neither be copied nor summed up for the zero points' sake.

use super::micro::{Micro, Second};
use super::{Panel, QWeights};
use crate::isa::Isa;
use crate::requant::Byte;
use crate::simd::{Kernel, Simd, dispatch};

/// How the weights of an output channel are cut into segments and steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    pub(super) segments: usize,
    /// Weights of a segment.
    pub(super) segment: usize,
    /// The same in whole steps.
    pub(super) padded_segment: usize,
    /// Weights of a step, and bytes of the rows that they meet.
    step: (usize, usize),
}

impl Steps {
    /// Cuts `depth` weights into equal segments.
    pub(super) fn new(micro: &Micro, depth: usize, segments: usize) -> Self {
        let segment = depth / segments.max(1);
        let padded_segment = segment.next_multiple_of(micro.depth_step);
        let step = (micro.depth_step, micro.depth_step * micro.element.bytes());
        Self { segments, segment, padded_segment, step }
    }

    fn count(&self) -> usize {
        self.segments * self.padded_segment / self.step.0
    }

    /// Whether this is one of them.
    pub(super) fn holds(&self, second: &Second) -> bool {
        let steps = self.padded_segment / self.step.0;
        second.segment < self.segments && second.at / self.step.1 < steps
    }
}

/// What a byte does not hold of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) second: Second,
    /// The column of the panel.
    pub(super) column: usize,
    /// Which weight of the step.
    pub(super) byte: usize,
    pub(super) value: i8,
}

impl Rest {
    /// Those of each step together, which are ordered so.
    pub(super) fn by_step(rests: &[Rest]) -> impl Iterator<Item = &[Rest]> {
        rests.chunk_by(|a, b| a.second == b.second)
    }
}

/// A weight less its zero point: what a byte holds of it.
pub(super) fn near(value: i16) -> i8 {
    value.clamp(i8::MIN.into(), i8::MAX.into()) as i8
}

/// What is left over in a panel, ordered by step; nothing if a second byte does not hold it
/// either, or if so many steps would be done again that sums of rows cost less.
pub(super) fn rests(
    isa: Isa,
    steps: &Steps,
    panel: &Panel,
    weights: &QWeights,
    zero_point: impl Fn(usize) -> i32,
) -> Option<Vec<Rest>> {
    let (depth, flip) =
        (steps.segments * steps.segment, if weights.kind == Byte::Signed { 0x80 } else { 0 });
    let mut rests = Vec::new();
    for column in 0..panel.columns {
        let channel = panel.column + column;
        let zero = zero_point(channel);
        let data = &weights.data[channel * depth..][..depth];
        let (low, high) = dispatch(isa, Range { data, flip });
        // Of a byte that was flipped.
        let value = |byte: u8| i32::from(byte) - i32::from(flip) - zero;
        let fits = |value: i32| i8::try_from(value).is_ok();
        if data.is_empty() || fits(value(low)) && fits(value(high)) {
            continue;
        }
        for (i, &byte) in data.iter().enumerate() {
            let value = value(byte ^ flip);
            if fits(value) {
                continue;
            }
            let (segment, within) = (i / steps.segment, i % steps.segment);
            let near = i32::from(near(i16::try_from(value).ok()?));
            rests.push(Rest {
                second: Second { segment, at: within / steps.step.0 * steps.step.1 },
                column,
                byte: within % steps.step.0,
                value: i8::try_from(value - near).ok()?,
            });
        }
    }
    rests.sort_by_key(|rest| (rest.second.segment, rest.second.at));
    (4 * Rest::by_step(&rests).count() <= steps.count() + 8).then_some(rests)
}

/// The least and the greatest byte, their bits flipped by `flip`.
struct Range<'a> {
    data: &'a [u8],
    flip: u8,
}

impl Kernel for Range<'_> {
    type Output = (u8, u8);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (u8, u8) {
        self.data.iter().fold((u8::MAX, 0), |(low, high), &byte| {
            let byte = byte ^ self.flip;
            (low.min(byte), high.max(byte))
        })
    }
}
