//! The geometry that convolutions and pools share. Images are channels-last: an image of a batch
//! is `height × width × channels` elements.

use std::ops::Range;

/// The window a convolution or a pool slides over an image; pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width of the kernel, in taps.
    pub kernel: [usize; 2],
    /// Steps between windows; at least 1.
    pub stride: [usize; 2],
    /// Steps between taps; at least 1.
    pub dilation: [usize; 2],
    /// Rows above and columns left of the image that windows may reach.
    pub padding: [usize; 2],
}

impl Window {
    /// A window without stride, dilation and padding.
    pub fn plain(height: usize, width: usize) -> Self {
        Self { kernel: [height, width], stride: [1; 2], dilation: [1; 2], padding: [0; 2] }
    }

    /// Whether the window is one pixel that visits every pixel.
    pub fn is_pointwise(&self) -> bool {
        *self == Self { dilation: self.dilation, ..Self::plain(1, 1) }
    }

    /// The taps of output position `at` along `axis` that fall inside `0..size`.
    #[inline(always)]
    pub(crate) fn taps(&self, axis: usize, at: usize, size: usize) -> Range<usize> {
        let start = at * self.stride[axis];
        let (padding, dilation) = (self.padding[axis], self.dilation[axis]);
        let first = padding.saturating_sub(start).div_ceil(dilation);
        let end = (size + padding).saturating_sub(start).div_ceil(dilation);
        first.min(self.kernel[axis])..end.min(self.kernel[axis]).max(first.min(self.kernel[axis]))
    }

    /// Where tap `tap` of output position `at` falls along `axis`, which must be inside.
    #[inline(always)]
    pub(crate) fn place(&self, axis: usize, at: usize, tap: usize) -> usize {
        at * self.stride[axis] + tap * self.dilation[axis] - self.padding[axis]
    }

    /// The lines that go in of which output lines `lines` are made, both counted over a batch of
    /// images of `size` and `count` lines.
    pub fn lines_read(&self, lines: Range<usize>, size: usize, count: usize) -> Range<usize> {
        if lines.is_empty() {
            return 0..0;
        }
        let (first, last) = (lines.start, lines.end - 1);
        let top = (first % count * self.stride[0]).saturating_sub(self.padding[0]).min(size);
        let reach = (self.kernel[0].max(1) - 1) * self.dilation[0] + 1;
        let end = (last % count * self.stride[0] + reach).saturating_sub(self.padding[0]).min(size);
        let (from, to) = (first / count * size + top, last / count * size + end);
        from.min(to)..to
    }

    /// The output positions along `axis`, of `count`, all of whose taps fall inside `0..size`.
    pub(crate) fn inner(&self, axis: usize, size: usize, count: usize) -> Range<usize> {
        let stride = self.stride[axis];
        let first = self.padding[axis].div_ceil(stride);
        let reach = (self.kernel[axis].max(1) - 1) * self.dilation[axis] + 1;
        let end = match (size + self.padding[axis]).checked_sub(reach) {
            Some(last) => last / stride + 1,
            None => 0,
        };
        let first = first.min(count);
        first..end.min(count).max(first)
    }
}

/// Lines of a batch of images, one after another, from line `first` on (counted over the whole
/// batch): all of them, or as many as are read or written.
#[derive(Clone, Copy, Debug)]
pub struct Lines<D> {
    /// Their elements.
    pub data: D,
    /// The number of the first.
    pub first: usize,
}

impl<D> Lines<D> {
    /// Every line of every image.
    pub fn all(data: D) -> Self {
        Self { data, first: 0 }
    }
}

/// The images that go into a convolution or a pool, and those that come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
    /// Values of a pixel.
    pub channels: usize,
}

impl ImageShape {
    /// Pixels of an image.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Elements of an image.
    pub fn len(&self) -> usize {
        self.pixels() * self.channels
    }

    /// Whether an image has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_are_those_of_the_taps() {
        for (kernel, stride, dilation, padding, size, count) in
            [(3, 1, 1, 1, 5, 5), (3, 2, 1, 0, 7, 3), (5, 2, 2, 4, 9, 5), (1, 1, 1, 0, 4, 4)]
        {
            let window = Window {
                kernel: [kernel; 2],
                stride: [stride; 2],
                dilation: [dilation; 2],
                padding: [padding; 2],
            };
            for first in 0..2 * count {
                for end in first + 1..2 * count {
                    let places = (first..end).flat_map(|line| {
                        let (image, at) = (line / count, line % count);
                        let taps = window.taps(0, at, size);
                        taps.map(move |tap| image * size + window.place(0, at, tap))
                    });
                    let places: Vec<usize> = places.collect();
                    let read = window.lines_read(first..end, size, count);
                    assert_eq!(read.start, *places.iter().min().unwrap());
                    assert_eq!(read.end, places.iter().max().unwrap() + 1);
                }
            }
        }
    }

    #[test]
    fn taps_and_inner_agree_with_counting() {
        for (kernel, stride, dilation, padding, size) in [
            (3, 1, 1, 1, 5),
            (3, 2, 1, 0, 7),
            (5, 2, 2, 4, 9),
            (1, 3, 1, 0, 4),
            (7, 1, 3, 20, 3),
            (2, 1, 1, 3, 1),
        ] {
            let window = Window {
                kernel: [kernel; 2],
                stride: [stride; 2],
                dilation: [dilation; 2],
                padding: [padding; 2],
            };
            let count = 12;
            let mut inner = Vec::new();
            for at in 0..count {
                let inside: Vec<usize> = (0..kernel)
                    .filter(|tap| {
                        let place = at * stride + tap * dilation;
                        place >= padding && place - padding < size
                    })
                    .collect();
                assert_eq!(window.taps(0, at, size).collect::<Vec<_>>(), inside);
                for tap in &inside {
                    assert_eq!(window.place(0, at, *tap), at * stride + tap * dilation - padding);
                }
                if inside.len() == kernel {
                    inner.push(at);
                }
            }
            assert_eq!(window.inner(0, size, count).collect::<Vec<_>>(), inner);
        }
    }
}
