//! The geometry of sliding windows that convolutions and pools of every kind share: strides,
//! dilations, padding, and where channels lie.

use crate::{Dim, OpError, OpResult, Shape};
use smallvec::SmallVec;

/// How the edges of an image are padded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Padding {
    /// So many elements on either side of each spatial dimension.
    Explicit {
        /// Before the first element.
        before: Vec<usize>,
        /// After the last element.
        after: Vec<usize>,
    },
    /// As many as make the output input / stride, rounded up; the odd one goes after.
    SameUpper,
    /// As [`Padding::SameUpper`], but the odd one goes before.
    SameLower,
    /// None.
    Valid,
}

/// How a window moves over the spatial dimensions, of which there are as many as strides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Steps between windows.
    pub stride: Vec<usize>,
    /// Steps between the elements of one window.
    pub dilation: Vec<usize>,
    /// What lies around the input.
    pub padding: Padding,
}

/// A window along one dimension, all sizes known: output `o` looks at the inputs
/// `o * stride + k * dilation - pad_before` for `k` in `0..kernel`, where these exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AxisWindow {
    /// Size of the input.
    pub input: usize,
    /// Elements of the window.
    pub kernel: usize,
    /// Steps between windows.
    pub stride: usize,
    /// Steps between elements of one window.
    pub dilation: usize,
    /// Padding before the first element.
    pub pad_before: usize,
    /// Padding after the last element, not counting what rounding up adds.
    pub pad_after: usize,
    /// Size of the output.
    pub output: usize,
}

/// The windows along all spatial dimensions.
pub type Windows = SmallVec<[AxisWindow; 3]>;

impl AxisWindow {
    /// The input that element `k` of window `output` falls on; `None` in the padding.
    pub fn input_at(&self, output: usize, k: usize) -> Option<usize> {
        (output * self.stride + k * self.dilation)
            .checked_sub(self.pad_before)
            .filter(|i| *i < self.input)
    }

    /// Elements from the first to the last of one window.
    pub fn span(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }
}

impl Window {
    /// Over `rank` spatial dimensions with stride and dilation 1 and no padding.
    pub fn unit(rank: usize) -> Window {
        Window { stride: vec![1; rank], dilation: vec![1; rank], padding: Padding::Valid }
    }

    /// Spatial dimensions.
    pub fn rank(&self) -> usize {
        self.stride.len()
    }

    /// The span of a window of `kernel` elements in each dimension, everything checked.
    fn spans(&self, input_rank: usize, kernel: &[usize]) -> OpResult<SmallVec<[usize; 3]>> {
        let rank = self.rank();
        let pads = match &self.padding {
            Padding::Explicit { before, after } => [before.len(), after.len()],
            _ => [rank; 2],
        };
        if [self.dilation.len(), kernel.len(), input_rank, pads[0], pads[1]] != [rank; 5] {
            return Err(OpError::new(format!(
                "{input_rank} spatial dimensions, {} of the kernel, {rank} strides, {} dilations, {} and {} pads: must be as many of each",
                kernel.len(),
                self.dilation.len(),
                pads[0],
                pads[1],
            )));
        }
        kernel
            .iter()
            .zip(&self.dilation)
            .zip(&self.stride)
            .map(|((k, d), s)| {
                let span = k.checked_sub(1).and_then(|k| k.checked_mul(*d)?.checked_add(1));
                // Small enough that no sum below can leave an i64.
                span.filter(|span| *d > 0 && *s > 0 && (*span).max(*s) < 1 << 40).ok_or_else(|| {
                    OpError::new(format!("kernel of {k}, stride {s}, dilation {d}: out of range"))
                })
            })
            .collect()
    }

    /// The spatial sizes that windows of `kernel` elements make of `input`. With `ceil`, a last
    /// window that begins inside the input or the padding before it, but leaves it, counts.
    /// SAME padding needs no such thing and ignores it.
    pub fn output_dims(&self, input: &[Dim], kernel: &[usize], ceil: bool) -> OpResult<Vec<Dim>> {
        let spans = self.spans(input.len(), kernel)?;
        let one = |i: usize| -> OpResult<Dim> {
            if let Some(n) = input[i].fixed() {
                return Ok(self.axis(i, n, kernel[i], spans[i], ceil)?.output.into());
            }
            let stride = Dim::from(self.stride[i]);
            Ok(match &self.padding {
                Padding::SameUpper | Padding::SameLower => input[i].ceil_div(&stride),
                _ => {
                    let (before, after) = self.explicit(i);
                    let room = input[i].clone() + before + after - spans[i];
                    let last = if ceil { room.ceil_div(&stride) } else { room.floor_div(&stride) };
                    // Whether the last window of `ceil` begins inside only running tells; where
                    // windows do not leave gaps it does.
                    last + 1
                }
            })
        };
        (0..input.len()).map(one).collect()
    }

    fn explicit(&self, i: usize) -> (usize, usize) {
        match &self.padding {
            Padding::Explicit { before, after } => (before[i], after[i]),
            _ => (0, 0),
        }
    }

    fn axis(
        &self,
        i: usize,
        input: usize,
        kernel: usize,
        span: usize,
        ceil: bool,
    ) -> OpResult<AxisWindow> {
        let (stride, dilation) = (self.stride[i], self.dilation[i]);
        let same = matches!(self.padding, Padding::SameUpper | Padding::SameLower);
        let axis = |pad_before, pad_after, output| AxisWindow {
            input,
            kernel,
            stride,
            dilation,
            pad_before,
            pad_after,
            output,
        };
        if same {
            let output = input.div_ceil(stride);
            let reach = output.saturating_sub(1).saturating_mul(stride).saturating_add(span);
            let total = if output == 0 { 0 } else { reach.saturating_sub(input) };
            let before = match self.padding {
                Padding::SameUpper => total / 2,
                _ => total - total / 2,
            };
            return Ok(axis(before, total - before, output));
        }
        let (before, after) = self.explicit(i);
        let padded = input.checked_add(before).and_then(|n| n.checked_add(after));
        let room = padded.and_then(|n| n.checked_sub(span)).ok_or_else(|| {
            OpError::new(format!(
                "a window of {span} does not fit in {input} elements padded by {before} and {after}"
            ))
        })?;
        let mut output = if ceil { room.div_ceil(stride) } else { room / stride } + 1;
        if ceil && (output - 1) * stride >= input + before {
            output -= 1;
        }
        Ok(axis(before, after, output))
    }

    /// The windows of `kernel` elements over `input`, all numbers resolved.
    pub fn resolve(&self, input: &[usize], kernel: &[usize], ceil: bool) -> OpResult<Windows> {
        let spans = self.spans(input.len(), kernel)?;
        (0..input.len()).map(|i| self.axis(i, input[i], kernel[i], spans[i], ceil)).collect()
    }

    /// The spatial sizes that a transposed convolution makes of `input`: what a convolution of
    /// these strides, dilations and padding would have been applied to. `extra` is added at the
    /// end; `wanted` sizes, where given, rule.
    pub fn transposed_dims(
        &self,
        input: &[Dim],
        kernel: &[usize],
        extra: &[usize],
        wanted: Option<&[i64]>,
    ) -> OpResult<Vec<Dim>> {
        let spans = self.spans(input.len(), kernel)?;
        check_transposed(input.len(), extra, wanted)?;
        if let Some(wanted) = wanted {
            return wanted.iter().map(|n| size(*n).map(Dim::from)).collect();
        }
        let one = |i: usize| {
            let stride = Dim::from(self.stride[i]);
            match &self.padding {
                Padding::SameUpper | Padding::SameLower => input[i].mul(&stride),
                _ => {
                    let (before, after) = self.explicit(i);
                    let full = (&input[i] - &Dim::from(1)).mul(&stride) + extra[i] + spans[i];
                    full - before - after
                }
            }
        };
        let dims: Vec<Dim> = (0..input.len()).map(one).collect();
        if dims.iter().zip(input).any(|(d, n)| n.fixed().is_some() && d.fixed().is_none()) {
            return Err(OpError::new(format!("padding is larger than the output of {input:?}")));
        }
        Ok(dims)
    }

    /// The windows of a transposed convolution from `input` to `output` sizes, as those of the
    /// convolution back: [`AxisWindow::input`] is the size of this op's output and
    /// [`AxisWindow::output`] that of its input.
    pub fn resolve_transposed(
        &self,
        input: &[usize],
        kernel: &[usize],
        extra: &[usize],
        output: &[usize],
        wanted: bool,
    ) -> OpResult<Windows> {
        let spans = self.spans(input.len(), kernel)?;
        check_transposed(input.len(), extra, None)?;
        let axis = |i: usize| {
            let stride = self.stride[i];
            let full = input[i].saturating_sub(1).saturating_mul(stride) + extra[i] + spans[i];
            let total = full.saturating_sub(output[i]);
            let (pad_before, pad_after) = match &self.padding {
                Padding::Explicit { before, after } if !wanted => (before[i], after[i]),
                Padding::SameUpper => (total / 2, total - total / 2),
                Padding::Valid => (0, total),
                _ => (total - total / 2, total / 2),
            };
            AxisWindow {
                input: output[i],
                kernel: kernel[i],
                stride,
                dilation: self.dilation[i],
                pad_before,
                pad_after,
                output: input[i],
            }
        };
        Ok((0..input.len()).map(axis).collect())
    }
}

fn check_transposed(rank: usize, extra: &[usize], wanted: Option<&[i64]>) -> OpResult {
    if extra.len() != rank || wanted.is_some_and(|w| w.len() != rank) {
        return Err(OpError::new(format!(
            "{rank} spatial dimensions, {} output paddings, {} output sizes: must be as many of each",
            extra.len(),
            wanted.map_or(rank, |w| w.len()),
        )));
    }
    match extra.iter().find(|e| **e >= 1 << 40) {
        Some(e) => Err(OpError::new(format!("output padding {e} is out of range"))),
        None => Ok(()),
    }
}

fn size(n: i64) -> OpResult<usize> {
    usize::try_from(n).map_err(|_| OpError::new(format!("a size of {n}")))
}

/// Where the channels of a batch of images lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Batch, channels, then the spatial dimensions: ONNX.
    ChannelsFirst,
    /// Batch, the spatial dimensions, then channels: TFLite, and the runtime's choice.
    ChannelsLast,
}

impl Layout {
    /// Batch, channels and spatial sizes of `dims`, of which there are two or more.
    pub fn split<T: Clone>(self, dims: &[T]) -> OpResult<(T, T, Vec<T>)> {
        match (self, dims) {
            (Layout::ChannelsFirst, [n, c, spatial @ ..])
            | (Layout::ChannelsLast, [n, spatial @ .., c]) => {
                Ok((n.clone(), c.clone(), spatial.to_vec()))
            }
            _ => Err(OpError::new(format!("rank {} is no batch of images", dims.len()))),
        }
    }

    /// The channels of a batch of images of this shape, where its rank is known.
    pub fn channels(self, shape: &Shape) -> Option<&Dim> {
        match self {
            Layout::ChannelsFirst => shape.dims()?.get(1),
            Layout::ChannelsLast => shape.dims()?.last(),
        }
    }

    /// The sizes of a batch of images.
    pub fn join<T: Clone>(self, batch: T, channels: T, spatial: &[T]) -> Vec<T> {
        let mut dims = Vec::with_capacity(spatial.len() + 2);
        dims.push(batch);
        match self {
            Layout::ChannelsFirst => {
                dims.push(channels);
                dims.extend_from_slice(spatial);
            }
            Layout::ChannelsLast => {
                dims.extend_from_slice(spatial);
                dims.push(channels);
            }
        }
        dims
    }
}

/// The order of the dimensions of a convolution's weights, outermost first. In a grouped
/// convolution the input channels are those of one group (in a grouped transposed one, the
/// output channels).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// Output channels, input channels, spatial: ONNX convolution.
    OutInSpatial,
    /// Input channels, output channels, spatial: ONNX transposed convolution.
    InOutSpatial,
    /// Output channels, spatial, input channels: TFLite convolution, also transposed.
    OutSpatialIn,
    /// Input channels, spatial, output channels: TFLite depthwise convolution.
    InSpatialOut,
    /// Spatial, input channels, output channels: TFLite convolution in three dimensions.
    SpatialInOut,
    /// Spatial, output channels, input channels: TFLite's transposed one in three dimensions.
    SpatialOutIn,
}

impl WeightLayout {
    /// Output channels, input channels and spatial sizes of `dims`.
    pub fn split<T: Clone>(self, dims: &[T]) -> OpResult<(T, T, Vec<T>)> {
        use WeightLayout::*;
        let (out, input, spatial) = match (self, dims) {
            (OutInSpatial, [o, i, s @ ..]) | (InOutSpatial, [i, o, s @ ..]) => (o, i, s),
            (OutSpatialIn, [o, s @ .., i]) | (InSpatialOut, [i, s @ .., o]) => (o, i, s),
            (SpatialInOut, [s @ .., i, o]) | (SpatialOutIn, [s @ .., o, i]) => (o, i, s),
            _ => {
                return Err(OpError::new(format!(
                    "weights of a convolution have rank {}",
                    dims.len()
                )));
            }
        };
        Ok((out.clone(), input.clone(), spatial.to_vec()))
    }

    /// The sizes of weights.
    pub fn join<T: Clone>(self, out: T, input: T, spatial: &[T]) -> Vec<T> {
        use WeightLayout::*;
        let ends = |first: T, last: T| [&[first], spatial, &[last]].concat();
        match self {
            OutInSpatial => [&[out, input], spatial].concat(),
            InOutSpatial => [&[input, out], spatial].concat(),
            OutSpatialIn => ends(out, input),
            InSpatialOut => ends(input, out),
            SpatialInOut => [spatial, &[input, out]].concat(),
            SpatialOutIn => [spatial, &[out, input]].concat(),
        }
    }

    /// The layout of the same numbers when inputs and outputs change places, as they do between a
    /// convolution and its transpose.
    #[must_use]
    pub fn transposed(self) -> WeightLayout {
        use WeightLayout::*;
        match self {
            OutInSpatial => InOutSpatial,
            InOutSpatial => OutInSpatial,
            OutSpatialIn => InSpatialOut,
            InSpatialOut => OutSpatialIn,
            SpatialInOut => SpatialOutIn,
            SpatialOutIn => SpatialInOut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(stride: usize, dilation: usize, padding: Padding) -> Window {
        Window { stride: vec![stride], dilation: vec![dilation], padding }
    }

    fn pads(before: usize, after: usize) -> Padding {
        Padding::Explicit { before: vec![before], after: vec![after] }
    }

    fn resolved(w: &Window, input: usize, kernel: usize, ceil: bool) -> (usize, usize, usize) {
        let axis = w.resolve(&[input], &[kernel], ceil).unwrap()[0];
        let dims = w.output_dims(&[input.into()], &[kernel], ceil).unwrap();
        assert_eq!(dims[0], axis.output);
        (axis.output, axis.pad_before, axis.pad_after)
    }

    #[test]
    fn output_sizes_worked_by_hand() {
        assert_eq!(resolved(&window(2, 1, Padding::SameUpper), 224, 3, false), (112, 0, 1));
        assert_eq!(resolved(&window(2, 1, Padding::SameLower), 224, 3, false), (112, 1, 0));
        assert_eq!(resolved(&window(1, 2, Padding::SameUpper), 7, 3, false), (7, 2, 2));
        assert_eq!(resolved(&window(2, 1, Padding::Valid), 7, 3, false), (3, 0, 0));
        assert_eq!(resolved(&window(2, 1, pads(1, 1)), 224, 3, false), (112, 1, 1));
        assert_eq!(resolved(&window(2, 1, pads(0, 0)), 4, 3, true), (2, 0, 0));
        // The third window would begin in the padding after the input.
        assert_eq!(resolved(&window(2, 1, pads(0, 1)), 2, 1, true), (1, 0, 1));
        assert_eq!(resolved(&window(3, 1, Padding::SameUpper), 6, 1, false), (2, 0, 0));
    }

    #[test]
    fn symbols_stay_symbols() {
        let n = Dim::symbol("n");
        let dims = |w: &Window| w.output_dims(std::slice::from_ref(&n), &[3], false).unwrap();
        assert_eq!(dims(&window(1, 1, pads(1, 1)))[0], n);
        assert_eq!(dims(&window(2, 1, Padding::SameUpper))[0].to_string(), "floor((n + 1)/(2))");
        let w = window(2, 1, pads(1, 1));
        let back = w.transposed_dims(&dims(&w), &[3], &[1], None).unwrap();
        let eight = crate::Bindings::from([("n".into(), 8)]);
        assert_eq!(back[0].bind(&eight), 8);
    }

    #[test]
    fn hostile_numbers_are_errors() {
        for (stride, dilation, kernel, input) in
            [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, usize::MAX, 3, 1), (1, 1, 9, 3)]
        {
            let w = window(stride, dilation, Padding::Valid);
            assert!(w.resolve(&[input], &[kernel], false).is_err());
        }
        let w = window(1, 1, pads(usize::MAX, usize::MAX));
        assert!(w.resolve(&[3], &[1], false).is_err());
        assert!(w.resolve(&[3, 3], &[1, 1], false).is_err());
    }

    #[test]
    fn transposed_sizes_worked_by_hand() {
        let w = window(2, 1, pads(1, 1));
        let dims = |input: usize, extra, wanted: Option<&[i64]>| {
            w.transposed_dims(&[input.into()], &[3], &[extra], wanted).unwrap()[0].fixed().unwrap()
        };
        assert_eq!(dims(4, 0, None), 7);
        assert_eq!(dims(4, 1, None), 8);
        assert_eq!(dims(4, 0, Some(&[9])), 9);
        let axis = w.resolve_transposed(&[4], &[3], &[0], &[8], true).unwrap()[0];
        assert_eq!((axis.pad_before, axis.pad_after), (1, 0));
    }

    #[test]
    fn layouts_split_what_they_join() {
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            let dims = layout.join(1, 2, &[3, 4]);
            assert_eq!(layout.split(&dims).unwrap(), (1, 2, vec![3, 4]));
        }
        assert_eq!(WeightLayout::InSpatialOut.split(&[1, 3, 3, 8]).unwrap(), (8, 1, vec![3, 3]));
        assert!(WeightLayout::OutInSpatial.split(&[1]).is_err());
    }
}
