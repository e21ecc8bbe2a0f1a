//! Packing weights, and what is known of them ahead.

use super::micro::{Element, Micro};
use super::split::{Rest, Steps, near, rests};
use super::{ConvShape, PackedQConv, Panel, QOutput, QWeights};
use crate::aligned::Aligned;
use crate::isa::Isa;
use crate::requant::{Byte, Requantiser, Rescale};
use crate::simd::{Kernel, Simd, dispatch};

pub(super) fn pack(
    isa: Isa,
    shape: &ConvShape,
    (input_kind, input_zero_point): (Byte, i32),
    weights: &QWeights,
    output: &QOutput,
) -> PackedQConv {
    check(shape, weights);
    let micro = Micro::new(isa);
    let depth = shape.depth();
    let zero = micro.element.zero_point(input_kind, input_zero_point);
    // Weights are kept as `i8`: unsigned ones are moved down by 128, and so are zero points.
    let (shift, flip) = if weights.kind == Byte::Unsigned { (128, 0x80) } else { (0, 0) };
    let zero_point = |channel: usize| match weights.zero_points {
        [] => 0,
        [one] => *one,
        each => each[channel],
    };

    let zero_weights = (0..shape.out_channels).all(|channel| zero_point(channel) == shift);
    // Where lines of the image are read as they are, each kernel row is a segment.
    let image_lines =
        micro.lines && shape.groups == 1 && shape.dilation[1] == 1 && !shape.is_pointwise();
    let cut = |lines: bool| {
        let segments = if lines { shape.kernel[0] } else { 1 };
        Steps::new(&micro, depth, segments)
    };
    let mut panels = panels(shape, &micro);
    let split: Option<Vec<Vec<Rest>>> = match !zero_weights && micro.seconds {
        true => {
            let steps = cut(image_lines);
            let rests = |panel| rests(isa, &steps, panel, weights, zero_point);
            panels.iter().map(rests).collect()
        }
        false => None,
    };
    let lines = image_lines && (zero_weights || split.is_some());
    let steps = cut(lines);
    let padded = steps.segments * steps.padded_segment;

    let (mut seconds, mut packed_len) = (Vec::new(), 0);
    for (index, panel) in panels.iter_mut().enumerate() {
        let rests = split.as_ref().map_or(&[][..], |split| &split[index]);
        let from = seconds.len();
        seconds.extend(Rest::by_step(rests).map(|step| step[0].second));
        assert!(seconds[from..].iter().all(|second| steps.holds(second)));
        panel.seconds = (from, seconds.len() - from);
        panel.weights = packed_len;
        let depth = padded + panel.seconds.1 * micro.depth_step;
        packed_len += panel.vectors * micro.lanes * depth;
    }
    let packed_columns =
        panels.last().map_or(0, |p| (p.start + p.vectors * micro.lanes).next_multiple_of(16));
    let mut packed = Aligned::<i8>::to_fill(packed_len);
    let mut start = vec![0i32; packed_columns];
    let mut weight_zero = vec![0i32; packed_columns];
    // The channel of each packed column, for the factors' order.
    let mut order = vec![usize::MAX; packed_columns];
    let mut largest = 0i64;
    // The columns of one vector, each padded to whole steps with zeros.
    let mut block = vec![0i8; micro.lanes * padded];
    for (index, panel) in panels.iter().enumerate() {
        for first in (0..panel.columns).step_by(micro.lanes) {
            let columns = micro.lanes.min(panel.columns - first);
            block[columns * padded..].fill(0);
            for column in 0..columns {
                let channel = panel.column + first + column;
                let zero_point = zero_point(channel) - shift;
                let less = if split.is_some() { zero_point } else { 0 };
                let (mut sum, mut magnitude) = (0i32, 0i64);
                for index in 0..steps.segments {
                    let from = channel * depth + index * steps.segment;
                    let from = &weights.data[from..][..steps.segment];
                    let to = column * padded + index * steps.padded_segment;
                    let to = &mut block[to..][..steps.segment];
                    let part = dispatch(isa, Stage { from, flip, zero_point, less, to });
                    sum = sum.wrapping_add(part.0);
                    magnitude += part.1;
                }
                let bias = weights.bias.get(channel).copied().unwrap_or(0);
                largest = largest.max(255 * magnitude + i64::from(bias).abs());
                let place = panel.start + first + column;
                start[place] = bias.wrapping_sub(zero.wrapping_mul(sum));
                weight_zero[place] = zero_point - less;
                order[place] = channel;
            }
            let stride = panel.vectors * micro.lanes * micro.depth_step;
            let to = &mut packed[panel.weights + first * micro.depth_step..];
            match micro.depth_step {
                4 => interleave::<4>(&block, padded, to, stride),
                2 => interleave::<2>(&block, padded, to, stride),
                _ => interleave::<1>(&block, padded, to, stride),
            }
        }
        let Some(split) = &split else { continue };
        let stride = panel.vectors * micro.lanes * micro.depth_step;
        let to = &mut packed[panel.weights + panel.vectors * micro.lanes * padded..];
        for (rests, to) in Rest::by_step(&split[index]).zip(to.chunks_exact_mut(stride)) {
            to.fill(0);
            for rest in rests {
                to[rest.column * micro.depth_step + rest.byte] = rest.value;
            }
        }
    }
    if weight_zero.iter().all(|&zero| zero == 0) {
        weight_zero.clear();
    }

    let requantiser = match output {
        QOutput::Accumulators => None,
        QOutput::Bytes(rescale, output) => {
            let rescale = match rescale {
                Rescale::Fixed(factors) => Rescale::Fixed(permute(factors, &order)),
                Rescale::FixedOnce(factors) => Rescale::FixedOnce(permute(factors, &order)),
                Rescale::Float(factors) => Rescale::Float(permute(factors, &order)),
            };
            Some(Requantiser::new(isa, &rescale, *output, packed_columns, largest))
        }
    };
    PackedQConv {
        shape: *shape,
        input_kind,
        input_zero_point: if micro.element == Element::Wide { input_zero_point } else { zero },
        micro,
        weights: packed,
        panels,
        seconds,
        start,
        weight_zero,
        requantiser,
        row_bytes: padded * micro.element.bytes(),
        lines,
    }
}

/// Copies the weights of one output channel, their bits flipped by `flip`, and sums them up.
struct Stage<'a> {
    from: &'a [u8],
    flip: u8,
    /// Of the flipped weights.
    zero_point: i32,
    /// What the copy is less: the zero point, where it is [`near`], or nothing.
    less: i32,
    to: &'a mut [i8],
}

impl Kernel for Stage<'_> {
    /// The sum of the flipped weights, less `less`, and of their magnitudes less the zero point.
    type Output = (i32, i64);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (i32, i64) {
        match i16::try_from(self.less) {
            Ok(0) | Err(_) => {
                for (to, from) in self.to.iter_mut().zip(self.from) {
                    *to = (from ^ self.flip) as i8;
                }
            }
            Ok(less) => {
                for (to, from) in self.to.iter_mut().zip(self.from) {
                    *to = near(i16::from((from ^ self.flip) as i8) - less);
                }
            }
        }
        // As unsigned bytes, whose distances are bytes; in parts whose sums fit 32 bits.
        let zero = u8::try_from(self.zero_point.saturating_add(128));
        let (mut sum, mut magnitude) = (0i32, 0i64);
        for part in self.from.chunks(1 << 20) {
            let unsigned = part.iter().map(|x| x ^ self.flip ^ 0x80);
            let plain: u32 = unsigned.clone().map(u32::from).sum();
            let far: u32 = match zero {
                Ok(zero) => unsigned.map(|x| u32::from(x.abs_diff(zero))).sum(),
                // No value of the type: no bound that would let sums be short.
                Err(_) => u32::MAX,
            };
            let offset = (128 + self.less) * part.len() as i32;
            sum = sum.wrapping_add(plain as i32 - offset);
            magnitude += i64::from(far);
        }
        (sum, magnitude)
    }
}

/// Writes the columns of `block`, each of `padded` bytes, `STEP` bytes of each in turn to the
/// beginning of each `stride`.
fn interleave<const STEP: usize>(block: &[i8], padded: usize, packed: &mut [i8], stride: usize) {
    let (block, steps) = (block.as_chunks::<STEP>().0, padded / STEP);
    let columns = block.len().checked_div(steps).unwrap_or(0);
    for (step, to) in packed.chunks_mut(stride).take(steps).enumerate() {
        for (column, to) in to.as_chunks_mut().0.iter_mut().take(columns).enumerate() {
            *to = block[column * steps + step];
        }
    }
}

fn check(shape: &ConvShape, weights: &QWeights) {
    let channels = shape.out_channels;
    assert!(shape.groups > 0 && shape.stride.iter().chain(&shape.dilation).all(|&x| x > 0));
    assert!(shape.in_channels.is_multiple_of(shape.groups), "groups do not divide the input");
    assert!(channels.is_multiple_of(shape.groups), "groups do not divide the output");
    assert_eq!(weights.data.len(), channels * shape.depth(), "weights");
    assert!([0, channels].contains(&weights.bias.len()), "bias");
    assert!([0, 1, channels].contains(&weights.zero_points.len()), "zero points");
}

/// One factor stays one; of many, each packed column gets its channel's.
fn permute<T: Copy + Default>(factors: &[T], order: &[usize]) -> Vec<T> {
    match factors {
        [one] => vec![*one],
        _ => {
            order.iter().map(|&channel| factors.get(channel).copied().unwrap_or_default()).collect()
        }
    }
}

/// Splits each group's columns into panels of nearly equal width, whose weights have no place yet.
fn panels(shape: &ConvShape, micro: &Micro) -> Vec<Panel> {
    let columns = shape.out_channels / shape.groups;
    let (mut panels, mut start) = (Vec::new(), 0);
    for group in 0..shape.groups {
        let vectors = columns.div_ceil(micro.lanes);
        let mut first = 0;
        for index in (1..=vectors.div_ceil(micro.most_vectors())).rev() {
            // The widest panels first.
            let width = (vectors - first).div_ceil(index);
            panels.push(Panel {
                group,
                column: group * columns + first * micro.lanes,
                columns: (columns - first * micro.lanes).min(width * micro.lanes),
                vectors: width,
                weights: 0,
                seconds: (0, 0),
                start,
            });
            // The requantiser's factors come in sixteens.
            start += (width * micro.lanes).next_multiple_of(16);
            first += width;
        }
    }
    panels
}
