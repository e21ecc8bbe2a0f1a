//! Convolution of channels-last images, as matrix products whose left-hand side is never built.
//!
//! The dot product of an output pixel runs over the taps of its window. Tiles read a tap's
//! channels where they lie in the image, through one pointer a tap and pixel; taps outside the
//! image point at zeros. Where a pixel has so few channels that pointers would cost more than
//! products (an RGB image), a whole row of taps is one stretch, and only the windows that cross
//! the image's edge are copied out.

#[cfg(test)]
mod tests;
mod transposed;
mod winograd;

use std::ops::Range;

pub use transposed::{ConvTransposedF32, PackedConvTransposed, turned};
pub use winograd::{PackedWinograd, WinogradF32};

use crate::aligned::Aligned;
use crate::gemm_f32::micro;
use crate::gemm_f32::{Emit, Epilogue, Gemm, PackLayout, Rows, block_rows, check_rows, even_parts};
use crate::isa::Isa;
use crate::scratch::{carve, need};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd, dispatch};
use crate::window::{ImageShape, Window};

/// The shape of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// The images that go in.
    pub input: ImageShape,
    /// The images that come out.
    pub output: ImageShape,
    /// How the kernel slides.
    pub window: Window,
    /// Into how many groups the channels are cut; it divides both channel counts.
    pub groups: usize,
}

/// Distances, in elements, between neighbours in stored weights: output channels, taps below,
/// taps to the right, input channels (of one group).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightStrides {
    /// Between output channels.
    pub output: usize,
    /// Between rows of taps.
    pub vertical: usize,
    /// Between taps of a row.
    pub horizontal: usize,
    /// Between input channels.
    pub input: usize,
}

impl WeightStrides {
    /// Output channels, height, width, input channels of a group: TFLite's order.
    pub fn ohwi(height: usize, width: usize, inputs: usize) -> Self {
        Self {
            output: height * width * inputs,
            vertical: width * inputs,
            horizontal: inputs,
            input: 1,
        }
    }

    /// Output channels, input channels of a group, height, width: ONNX's order.
    pub fn oihw(height: usize, width: usize, inputs: usize) -> Self {
        Self {
            output: height * width * inputs,
            vertical: width,
            horizontal: 1,
            input: height * width,
        }
    }
}

/// How tiles find their inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gather {
    /// The input is the left-hand side.
    Pointwise,
    /// A stretch for every tap.
    Taps,
    /// A stretch for every row of taps.
    RowsOfTaps,
}

/// A convolution's packed weights.
#[derive(Clone)]
pub struct PackedConv {
    shape: ConvShape,
    gather: Gather,
    /// Layout of one group.
    layout: PackLayout,
    data: Aligned<f32>,
    /// What taps outside the image read.
    zeros: Aligned<f32>,
}

/// Below this many channels a row of taps is one stretch.
const FEW_CHANNELS: usize = 16;

impl PackedConv {
    /// Packs weights.
    ///
    /// # Panics
    /// Where `weights` is too short for the shape, or the groups do not divide the channels.
    pub fn new(isa: Isa, shape: ConvShape, weights: &[f32], strides: WeightStrides) -> Self {
        let ConvShape { input, output, window, groups } = shape;
        assert!(groups > 0 && input.channels.is_multiple_of(groups), "groups and input channels");
        assert!(output.channels.is_multiple_of(groups), "groups and output channels");
        let [height, width] = window.kernel;
        let (inputs, outputs) = (input.channels / groups, output.channels / groups);
        let layout = PackLayout::new(isa, height * width * inputs, outputs);
        let mut data = Aligned::to_fill(groups * layout.len());
        // The matrix a group multiplies with, gathered once into its plain order.
        let mut plain = vec![0.0; layout.k * outputs];
        for group in 0..groups {
            for o in 0..outputs {
                let channel = (group * outputs + o) * strides.output;
                for y in 0..height {
                    for x in 0..width {
                        let tap = channel + y * strides.vertical + x * strides.horizontal;
                        for i in 0..inputs {
                            plain[((y * width + x) * inputs + i) * outputs + o] =
                                weights[tap + i * strides.input];
                        }
                    }
                }
            }
            let packed = &mut data[group * layout.len()..][..layout.len()];
            layout.pack(0..layout.panels(), &plain, (outputs, 1), packed);
        }
        let gather = if window.is_pointwise() && groups == 1 && input.pixels() == output.pixels() {
            Gather::Pointwise
        } else if groups == 1 && inputs < FEW_CHANNELS && width > 1 && window.dilation[1] == 1 {
            Gather::RowsOfTaps
        } else {
            Gather::Taps
        };
        Self { shape, gather, layout, data, zeros: Aligned::zeros(inputs) }
    }

    /// The convolution's shape.
    pub fn shape(&self) -> ConvShape {
        self.shape
    }

    /// The instruction set it is for: a narrower one than was given, where outputs are few.
    pub fn isa(&self) -> Isa {
        self.layout.isa
    }

    /// Whether windows are of one pixel each, which is read where it is.
    pub fn is_pointwise(&self) -> bool {
        self.gather == Gather::Pointwise
    }

    /// How many panels the output channels are cut into, over all groups.
    pub fn panels(&self) -> usize {
        self.shape.groups * self.layout.panels()
    }

    /// Rows of a tile: threads do well to cut rows at multiples of it.
    pub fn tile_rows(&self) -> usize {
        self.layout.tile_rows()
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.data)
    }

    /// Bytes of scratch that a run needs; some KB.
    pub fn scratch_bytes(&self) -> usize {
        let taps: usize = self.shape.window.kernel.iter().product();
        let block = self.block_rows();
        match self.gather {
            Gather::Pointwise => 0,
            Gather::Taps => need::<usize>(block * taps),
            Gather::RowsOfTaps => {
                need::<usize>(block * self.shape.window.kernel[0])
                    + need::<f32>(block * self.layout.k)
            }
        }
    }

    /// The most rows whose pointers are held at once.
    fn block_rows(&self) -> usize {
        block_rows(&self.layout, self.layout.tile_rows())
    }
}

/// A convolution, ready to run.
#[derive(Clone, Copy)]
pub struct ConvF32<'a> {
    /// The packed weights.
    pub packed: &'a PackedConv,
    /// What is done to the results; the residual's rows are output pixels.
    pub epilogue: Epilogue<'a>,
}

impl ConvF32<'_> {
    /// Computes `panels` (of [`PackedConv::panels`]) of the output pixels `rows`, counted over the
    /// whole batch: pixel i of the output is `out[i * channels..][..channels]`.
    ///
    /// # Safety
    /// Meanwhile nobody else touches these channels of these pixels of `out`.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub unsafe fn run(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        input: &[f32],
        out: SharedMut<'_, f32>,
        scratch: &mut [u8],
    ) {
        let PackedConv { shape, gather, layout, data, .. } = self.packed;
        let ConvShape { input: image, output, .. } = *shape;
        if rows.is_empty() || panels.is_empty() {
            return;
        }
        if *gather == Gather::Pointwise {
            let gemm = Gemm { layout: *layout, b: data, epilogue: self.epilogue };
            let a = Rows { data: input, stride: image.channels };
            // SAFETY: the caller's promise.
            unsafe { gemm.run(rows, panels, a, out, output.channels) };
            return;
        }
        assert!(panels.end <= self.packed.panels(), "panel out of range");
        let images = rows.end.div_ceil(output.pixels());
        check_rows("input", images, image.len(), image.len(), input.len());
        check_rows("output", rows.end, output.channels, output.channels, out.len());
        self.epilogue.check(rows.end, output.channels);
        dispatch(layout.isa, Run { conv: self, rows, panels, input, out, scratch });
    }
}

struct Run<'a> {
    conv: &'a ConvF32<'a>,
    rows: Range<usize>,
    panels: Range<usize>,
    input: &'a [f32],
    out: SharedMut<'a, f32>,
    scratch: &'a mut [u8],
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { conv, rows, panels, input, out, mut scratch } = self;
        let PackedConv { shape, gather, layout, data, .. } = conv.packed;
        let [height, width] = shape.window.kernel;
        let inputs = shape.input.channels / shape.groups;
        let (taps, depth) = match gather {
            Gather::RowsOfTaps => (height, width * inputs),
            _ => (height * width, inputs),
        };
        let tile_rows = micro::tile_rows(S::REGISTERS, layout.vectors);
        let block_rows = block_rows(layout, tile_rows);
        // Pointers, kept as plain bytes between their writing here and their reading by a tile.
        let pointers: &mut [usize] = carve(&mut scratch, block_rows * taps);
        let pointers = pointers.as_mut_ptr().cast::<*const f32>();
        let patches: &mut [f32] = match gather {
            Gather::RowsOfTaps => carve(&mut scratch, block_rows * layout.k),
            _ => &mut [],
        };
        let inner = [
            shape.window.inner(0, shape.input.height, shape.output.height),
            shape.window.inner(1, shape.input.width, shape.output.width),
        ];
        let per_group = layout.panels();
        for block in even_parts(rows, block_rows) {
            for group in panels.start / per_group..panels.end.div_ceil(per_group) {
                // SAFETY: the pointers of `block.len()` ≤ `block_rows` rows fit, and the patches.
                unsafe {
                    let mut at = pointers;
                    for tile in even_parts(block.clone(), tile_rows) {
                        match gather {
                            Gather::RowsOfTaps => {
                                let patch = (tile.start - block.start) * layout.k;
                                let patch = &mut patches[patch..][..tile.len() * layout.k];
                                point_at_rows_of_taps(
                                    shape,
                                    &inner,
                                    input,
                                    tile.clone(),
                                    patch,
                                    at,
                                );
                            }
                            _ => {
                                let channel = group * inputs;
                                let from = input.as_ptr().wrapping_add(channel);
                                let from = (from, conv.packed.zeros.as_ptr());
                                point_at_taps(shape, &inner, from, tile.clone(), at);
                            }
                        }
                        at = at.add(tile.len() * taps);
                    }
                }
                let here = group * per_group..(group + 1) * per_group;
                let b = &data[group * layout.len()..][..layout.len()];
                let column = group * layout.n;
                let stride = shape.output.channels;
                let emit = Emit::new(layout, b, &conv.epilogue, column, out, stride);
                for panel in panels.start.max(here.start)..panels.end.min(here.end) {
                    let mut at = pointers;
                    for tile in even_parts(block.clone(), tile_rows) {
                        let panel = panel - here.start;
                        // SAFETY: the pointers were just set; `ConvF32::run` checked the slices,
                        // and its caller promises that these results are ours.
                        unsafe {
                            emit.tile(s, tile.start, 1, tile.len(), panel, (taps, depth), at);
                            at = at.add(tile.len() * taps);
                        }
                    }
                }
            }
        }
    }
}

/// The image, line and column of an output pixel.
#[derive(Clone, Copy)]
struct Place {
    image: usize,
    y: usize,
    x: usize,
}

impl Place {
    /// Of pixel `pixel`, counted over the batch.
    #[inline(always)]
    fn of(shape: &ConvShape, pixel: usize) -> Place {
        let ImageShape { height, width, .. } = shape.output;
        Place { image: pixel / (height * width), y: pixel / width % height, x: pixel % width }
    }

    /// Moves on to the next pixel.
    #[inline(always)]
    fn advance(&mut self, shape: &ConvShape) {
        self.x += 1;
        if self.x == shape.output.width {
            (self.x, self.y) = (0, self.y + 1);
        }
        if self.y == shape.output.height {
            (self.y, self.image) = (0, self.image + 1);
        }
    }

    /// Whether all its taps are inside the image: whether it is in the lines and columns `inner`.
    #[inline(always)]
    fn is_in(&self, inner: &[Range<usize>; 2]) -> bool {
        inner[0].contains(&self.y) && inner[1].contains(&self.x)
    }

    /// Where the pixel's tap (`tap_y`, `tap_x`), which is inside the image, begins in the input.
    #[inline(always)]
    fn tap(&self, shape: &ConvShape, tap_y: usize, tap_x: usize) -> usize {
        let ConvShape { input, window, .. } = shape;
        let row = self.image * input.height + window.place(0, self.y, tap_y);
        (row * input.width + window.place(1, self.x, tap_x)) * input.channels
    }
}

/// Writes, for each tap, for each pixel of `tile`, where the tap's channels begin: in the input,
/// from the first channel read on, or at the zeros. Pixels in `inner` have all taps inside.
///
/// # Safety
/// The input holds the images of the tile, and `pointers` has room.
#[inline(always)]
unsafe fn point_at_taps(
    shape: &ConvShape,
    inner: &[Range<usize>; 2],
    (input, zeros): (*const f32, *const f32),
    tile: Range<usize>,
    pointers: *mut *const f32,
) {
    let ConvShape { input: image, window, .. } = shape;
    let [height, width] = window.kernel;
    let down = window.dilation[0] * image.width * image.channels;
    let across = window.dilation[1] * image.channels;
    let rows = tile.len();
    let mut place = Place::of(shape, tile.start);
    for i in 0..rows {
        let mut at = pointers.wrapping_add(i);
        // SAFETY: the caller gives room for every tap of every pixel.
        let mut write = |pointer| unsafe {
            at.write(pointer);
            at = at.wrapping_add(rows);
        };
        if place.is_in(inner) {
            let mut row = input.wrapping_add(place.tap(shape, 0, 0));
            for _ in 0..height {
                let mut tap = row;
                for _ in 0..width {
                    write(tap);
                    tap = tap.wrapping_add(across);
                }
                row = row.wrapping_add(down);
            }
        } else {
            let inside_y = window.taps(0, place.y, image.height);
            let inside_x = window.taps(1, place.x, image.width);
            for tap_y in 0..height {
                for tap_x in 0..width {
                    let inside = inside_y.contains(&tap_y) && inside_x.contains(&tap_x);
                    write(match inside {
                        true => input.wrapping_add(place.tap(shape, tap_y, tap_x)),
                        false => zeros,
                    });
                }
            }
        }
        place.advance(shape);
    }
}

/// Writes, for each row of taps, for each pixel of `tile`, where that row's taps begin: in the
/// image, or in `patch` (one dot product's length a pixel) for windows that cross an edge. Pixels
/// in `inner` have all taps inside.
///
/// # Safety
/// `input` holds the images of the tile, and `pointers` has room.
#[inline(always)]
unsafe fn point_at_rows_of_taps(
    shape: &ConvShape,
    inner: &[Range<usize>; 2],
    input: &[f32],
    tile: Range<usize>,
    patch: &mut [f32],
    pointers: *mut *const f32,
) {
    let ConvShape { input: image, window, .. } = shape;
    let [height, width] = window.kernel;
    let (rows, channels) = (tile.len(), image.channels);
    let down = window.dilation[0] * image.width * channels;
    let row_length = width * channels;
    let mut place = Place::of(shape, tile.start);
    for (i, patch) in patch.chunks_exact_mut(height * row_length).enumerate() {
        let mut at = pointers.wrapping_add(i);
        // SAFETY: the caller gives room for every row of taps of every pixel.
        let mut write = |pointer| unsafe {
            at.write(pointer);
            at = at.wrapping_add(rows);
        };
        if place.is_in(inner) {
            let mut row = input.as_ptr().wrapping_add(place.tap(shape, 0, 0));
            for _ in 0..height {
                write(row);
                row = row.wrapping_add(down);
            }
        } else {
            let inside_y = window.taps(0, place.y, image.height);
            let inside_x = window.taps(1, place.x, image.width);
            for (tap_y, patch) in patch.chunks_exact_mut(row_length).enumerate() {
                patch.fill(0.0);
                if inside_y.contains(&tap_y) && !inside_x.is_empty() {
                    let start = place.tap(shape, tap_y, inside_x.start);
                    let inside = inside_x.start * channels..inside_x.end * channels;
                    patch[inside.clone()].copy_from_slice(&input[start..start + inside.len()]);
                }
                write(patch.as_ptr());
            }
        }
        place.advance(shape);
    }
}
