//! Sliding windows: what convolutions and pools share.

use crate::{Dim, OpError, OpResult};

/// Where the channels of an image tensor stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// [n, c, spatial…]: ONNX.
    ChannelsFirst,
    /// [n, spatial…, c]: TFLite, and the runtime's own.
    ChannelsLast,
}

impl Layout {
    /// The dimension that the channels are, of `rank`.
    pub fn channel(self, rank: usize) -> usize {
        match self {
            Layout::ChannelsFirst => 1,
            Layout::ChannelsLast => rank.saturating_sub(1),
        }
    }

    /// The first of the spatial dimensions.
    pub fn spatial(self) -> usize {
        match self {
            Layout::ChannelsFirst => 2,
            Layout::ChannelsLast => 1,
        }
    }
}

/// How far a window may stand outside of its input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Padding {
    /// So many elements before and after, for each spatial dimension.
    Explicit(Vec<[usize; 2]>),
    /// As many as make the output `ceil(input / stride)`; an odd one goes after.
    SameUpper,
    /// The same; an odd one goes before.
    SameLower,
}

/// How a window moves over the spatial dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Steps between neighbouring outputs.
    pub stride: Vec<usize>,
    /// Steps between neighbouring taps.
    pub dilation: Vec<usize>,
    /// Outside of the input.
    pub padding: Padding,
    /// Also start a window where its end does not fit any more (pools only).
    pub ceil: bool,
}

/// One spatial dimension of a window, all of it known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowAxis {
    /// Size of the input.
    pub input: usize,
    /// Size of the output.
    pub output: usize,
    /// Taps.
    pub kernel: usize,
    /// Steps between outputs.
    pub stride: usize,
    /// Steps between taps.
    pub dilation: usize,
    /// Padding before the first element.
    pub before: usize,
}

impl WindowAxis {
    /// The input position of tap `tap` of output `at`, if it lies inside the input.
    #[inline]
    pub fn position(&self, at: usize, tap: usize) -> Option<usize> {
        (at * self.stride + tap * self.dilation)
            .checked_sub(self.before)
            .filter(|p| *p < self.input)
    }
}

impl Window {
    /// Steps of one and no padding over `rank` dimensions.
    pub fn valid(rank: usize) -> Window {
        Window {
            stride: vec![1; rank],
            dilation: vec![1; rank],
            padding: Padding::Explicit(vec![[0, 0]; rank]),
            ceil: false,
        }
    }

    fn check(&self, kernel: &[usize]) -> OpResult {
        let rank = kernel.len();
        let pads = match &self.padding {
            Padding::Explicit(pads) => pads.len(),
            _ => rank,
        };
        if self.stride.len() != rank || self.dilation.len() != rank || pads != rank {
            return Err(OpError::new(format!(
                "a window of {rank} dimensions does not fit {self:?}"
            )));
        }
        let small = |n: usize| (1..1 << 31).contains(&n);
        let fine = kernel.iter().chain(&self.stride).chain(&self.dilation).all(|n| small(*n));
        let spans = kernel.iter().zip(&self.dilation).all(|(k, d)| k.saturating_mul(*d) < 1 << 31);
        let pads = match &self.padding {
            Padding::Explicit(pads) => pads.iter().flatten().all(|p| *p < 1 << 31),
            _ => true,
        };
        if fine && spans && pads {
            Ok(())
        } else {
            Err(OpError::new(format!("a window of taps {kernel:?} can't move by {self:?}")))
        }
    }

    /// The spatial sizes of the output.
    ///
    /// # Errors
    /// Where the window has another rank than `input`, or is larger than it.
    pub fn outputs(&self, kernel: &[usize], input: &[Dim]) -> OpResult<Vec<Dim>> {
        self.check(kernel)?;
        if input.len() != kernel.len() {
            let (k, i) = (kernel.len(), input.len());
            return Err(OpError::new(format!("a window of {k} dimensions over {i}")));
        }
        (0..kernel.len()).map(|i| self.output(i, kernel[i], &input[i])).collect()
    }

    fn output(&self, i: usize, kernel: usize, input: &Dim) -> OpResult<Dim> {
        let stride = Dim::from(self.stride[i]);
        let Padding::Explicit(pads) = &self.padding else {
            return Ok(input.ceil_div(&stride));
        };
        let span = (kernel - 1) * self.dilation[i] + 1;
        let [before, after] = pads[i];
        let room = input.clone() + (before + after) - Dim::from(span);
        if input.fixed().is_some_and(|n| n + before + after < span) {
            return Err(OpError::new(format!(
                "a window of {span} is larger than its input of {input}"
            )));
        }
        if !self.ceil {
            return Ok(room.floor_div(&stride) + 1);
        }
        let out = room.ceil_div(&stride) + 1;
        // The last window must start inside the input or the padding before it.
        let starts = (input.clone() + before).ceil_div(&stride);
        Ok(out.at_most(&starts))
    }

    /// All about the window over an input of sizes `input`.
    ///
    /// # Errors
    /// As for [`Window::outputs`].
    pub fn axes(&self, kernel: &[usize], input: &[usize]) -> OpResult<Vec<WindowAxis>> {
        let dims: Vec<Dim> = input.iter().map(|n| Dim::from(*n)).collect();
        let outputs = self.outputs(kernel, &dims)?;
        let mut axes = Vec::with_capacity(kernel.len());
        for (i, output) in outputs.iter().enumerate() {
            let output =
                output.fixed().ok_or_else(|| OpError::new("a window's output has no size"))?;
            let (stride, dilation) = (self.stride[i], self.dilation[i]);
            let before = match &self.padding {
                Padding::Explicit(pads) => pads[i][0],
                same => {
                    let span = (kernel[i] - 1) * dilation + 1;
                    let total = (output.saturating_sub(1) * stride + span).saturating_sub(input[i]);
                    if *same == Padding::SameUpper { total / 2 } else { total.div_ceil(2) }
                }
            };
            axes.push(WindowAxis {
                input: input[i],
                output,
                kernel: kernel[i],
                stride,
                dilation,
                before,
            });
        }
        Ok(axes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_padding_puts_the_odd_element_last_or_first() {
        let mut window =
            Window { stride: vec![2], padding: Padding::SameUpper, ..Window::valid(1) };
        let axis = window.axes(&[3], &[8]).unwrap()[0];
        assert_eq!((axis.output, axis.before), (4, 0));
        assert_eq!((axis.position(3, 1), axis.position(3, 2)), (Some(7), None));
        window.padding = Padding::SameLower;
        assert_eq!(window.axes(&[3], &[8]).unwrap()[0].before, 1);
    }

    #[test]
    fn sizes_follow_stride_dilation_and_ceil() {
        let n = Dim::symbol("n");
        let window = Window {
            stride: vec![2],
            dilation: vec![2],
            padding: Padding::Explicit(vec![[1, 1]]),
            ceil: false,
        };
        assert_eq!(window.outputs(&[3], &[Dim::from(8)]).unwrap(), [Dim::from(3)]);
        assert_eq!(window.outputs(&[3], &[n]).unwrap()[0].to_string(), "floor((n - 3)/(2)) + 1");
        let ceil = Window { ceil: true, ..window };
        assert_eq!(ceil.outputs(&[3], &[Dim::from(8)]).unwrap(), [Dim::from(4)]);
        assert!(ceil.outputs(&[9], &[Dim::from(8)]).is_err());
        assert!(ceil.outputs(&[1, 1], &[Dim::from(8)]).is_err());
    }
}
