//! Transposed convolution: every input pixel spreads over a window of the output.
//!
//! Seen from an output pixel it is a dot product like any: over the taps whose input falls on a
//! pixel. Which taps those are depends only on the pixel's position modulo the stride, its phase;
//! the weights are packed once a phase, and no product with a zero between pixels is computed.

use std::ops::Range;

use super::WeightStrides;
use crate::aligned::Aligned;
use crate::gemm_f32::micro::{self, MAX_ROWS};
use crate::gemm_f32::{Emit, Epilogue, PackLayout, check_rows, even_parts};
use crate::isa::Isa;
use crate::scratch::{carve, need};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd, dispatch};

use super::ConvShape;

/// A transposed convolution of stride 1 as the convolution that it is: by the turned kernel, which all
/// kernels for convolutions are for. The shape is as [`PackedConvTransposed`] has it, and so are `strides`
/// and `group_stride`; the answer is that convolution's shape, its weights and their strides.
///
/// `None` where there are strides, or pixels of the output that no window is to read.
///
/// # Panics
/// Where `weights` is too short for the shape, or the groups do not divide the channels.
pub fn turned(
    shape: ConvShape,
    weights: &[f32],
    strides: WeightStrides,
    group_stride: usize,
) -> Option<(ConvShape, Vec<f32>, WeightStrides)> {
    let ConvShape { input, output, mut window, groups } = shape;
    let sizes = [(input.height, output.height), (input.width, output.width)];
    for (axis, (input, output)) in sizes.into_iter().enumerate() {
        let reach = window.kernel[axis].checked_sub(1)? * window.dilation[axis];
        let after = (input + reach).checked_sub(window.padding[axis] + output)?;
        if window.stride[axis] != 1 || after > reach {
            return None;
        }
        window.padding[axis] = reach.checked_sub(window.padding[axis])?;
    }
    let [height, width] = window.kernel;
    let (inputs, outputs) = (input.channels / groups, output.channels / groups);
    let mut turned = Vec::with_capacity(groups * outputs * height * width * inputs);
    for (group, output) in (0..groups).flat_map(|g| (0..outputs).map(move |o| (g, o))) {
        for (y, x) in (0..height).rev().flat_map(|y| (0..width).rev().map(move |x| (y, x))) {
            let at = group * group_stride
                + output * strides.output
                + y * strides.vertical
                + x * strides.horizontal;
            turned.extend((0..inputs).map(|i| weights[at + i * strides.input]));
        }
    }
    Some((ConvShape { window, ..shape }, turned, WeightStrides::ohwi(height, width, inputs)))
}

/// The packed weights of a transposed convolution. In its [`ConvShape`] the window slides over
/// the *output*: input pixel (y, x) reaches output pixel
/// (y · stride + tap · dilation − padding, …).
#[derive(Clone)]
pub struct PackedConvTransposed {
    shape: ConvShape,
    /// Vertical phases × horizontal phases.
    phases: Vec<Phase>,
    data: Aligned<f32>,
    zeros: Aligned<f32>,
}

#[derive(Clone)]
struct Phase {
    /// The taps of this phase, down and across.
    taps: [Vec<usize>; 2],
    layout: PackLayout,
    /// Where the packed weights of its groups begin.
    start: usize,
}

impl PackedConvTransposed {
    /// Packs weights. `strides` are as for a convolution: `output` is between the channels of the
    /// output (of one group), `input` between those of the input. Group g's weights begin
    /// `g * group_stride` in.
    ///
    /// # Panics
    /// Where `weights` is too short for the shape, or the groups do not divide the channels.
    pub fn new(
        isa: Isa,
        shape: ConvShape,
        weights: &[f32],
        strides: WeightStrides,
        group_stride: usize,
    ) -> Self {
        let ConvShape { input, output, window, groups } = shape;
        assert!(groups > 0 && input.channels.is_multiple_of(groups), "groups and input channels");
        assert!(output.channels.is_multiple_of(groups), "groups and output channels");
        let (inputs, outputs) = (input.channels / groups, output.channels / groups);
        let taps_of = |axis: usize, phase: usize| -> Vec<usize> {
            let stride = window.stride[axis];
            let reach = |tap| (tap * window.dilation[axis]) % stride;
            let wanted = (phase + window.padding[axis]) % stride;
            (0..window.kernel[axis]).filter(|&tap| reach(tap) == wanted).collect()
        };
        let (mut phases, mut len) = (Vec::new(), 0);
        for y in 0..window.stride[0] {
            for x in 0..window.stride[1] {
                let taps = [taps_of(0, y), taps_of(1, x)];
                let layout = PackLayout::new(isa, taps[0].len() * taps[1].len() * inputs, outputs);
                phases.push(Phase { taps, layout, start: len });
                // Groups begin on a cache line.
                len += groups * layout.len().next_multiple_of(16);
            }
        }
        let mut data = Aligned::zeros(len);
        for phase in &phases {
            let mut plain = vec![0.0; phase.layout.k * outputs];
            for group in 0..groups {
                let mut rows = plain.chunks_exact_mut(outputs.max(1));
                for y in &phase.taps[0] {
                    for x in &phase.taps[1] {
                        for i in 0..inputs {
                            let at = group * group_stride
                                + y * strides.vertical
                                + x * strides.horizontal
                                + i * strides.input;
                            if let Some(row) = rows.next() {
                                for (o, value) in row.iter_mut().enumerate() {
                                    *value = weights[at + o * strides.output];
                                }
                            }
                        }
                    }
                }
                let packed = &mut data[phase.start_of(group)..][..phase.layout.len()];
                phase.layout.pack(0..phase.layout.panels(), &plain, (outputs, 1), packed);
            }
        }
        Self { shape, phases, data, zeros: Aligned::zeros(inputs) }
    }

    /// The convolution's shape.
    pub fn shape(&self) -> ConvShape {
        self.shape
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.data)
    }

    /// Bytes of scratch that a run needs.
    pub fn scratch_bytes(&self) -> usize {
        let taps: usize = self.shape.window.kernel.iter().product();
        need::<usize>(MAX_ROWS * taps)
    }
}

impl Phase {
    fn start_of(&self, group: usize) -> usize {
        self.start + group * self.layout.len().next_multiple_of(16)
    }
}

/// A transposed convolution, ready to run.
#[derive(Clone, Copy)]
pub struct ConvTransposedF32<'a> {
    /// The packed weights.
    pub packed: &'a PackedConvTransposed,
    /// What is done to the results; the residual's rows are output pixels.
    pub epilogue: Epilogue<'a>,
}

impl ConvTransposedF32<'_> {
    /// Computes the rows `lines` of the output images, counted over the whole batch.
    ///
    /// # Safety
    /// Meanwhile nobody else touches these lines of `out`.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub unsafe fn run(
        &self,
        lines: Range<usize>,
        input: &[f32],
        out: SharedMut<'_, f32>,
        scratch: &mut [u8],
    ) {
        let ConvShape { input: image, output, .. } = self.packed.shape;
        if lines.is_empty() || output.is_empty() {
            return;
        }
        let images = lines.end.div_ceil(output.height);
        check_rows("input", images, image.len(), image.len(), input.len());
        let pixels = lines.end * output.width;
        check_rows("output", pixels, output.channels, output.channels, out.len());
        self.epilogue.check(pixels, output.channels);
        let isa = self.packed.phases[0].layout.isa;
        dispatch(isa, Run { conv: self, lines, input, out, scratch });
    }
}

struct Run<'a> {
    conv: &'a ConvTransposedF32<'a>,
    lines: Range<usize>,
    input: &'a [f32],
    out: SharedMut<'a, f32>,
    scratch: &'a mut [u8],
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { conv, lines, input, out, mut scratch } = self;
        let PackedConvTransposed { shape, phases, data, zeros } = conv.packed;
        let ConvShape { input: image, output, window, groups } = shape;
        let [stride_y, stride_x] = window.stride;
        let inputs = image.channels / groups;
        let taps: usize = window.kernel.iter().product();
        let pointers: &mut [usize] = carve(&mut scratch, MAX_ROWS * taps);
        let pointers = pointers.as_mut_ptr().cast::<*const f32>();
        // The input position that `tap` brings to output position `at`, if there is one.
        let source = |axis: usize, at: usize, tap: usize, size: usize| {
            let ahead = (at + window.padding[axis]).checked_sub(tap * window.dilation[axis])?;
            Some(ahead / window.stride[axis]).filter(|&place| place < size)
        };
        for line in lines {
            let (n, y) = (line / output.height, line % output.height);
            for phase_x in 0..stride_x.min(output.width) {
                let phase = &phases[y % stride_y * stride_x + phase_x];
                let layout = &phase.layout;
                let taps = phase.taps[0].len() * phase.taps[1].len();
                let tile_rows = micro::tile_rows(S::REGISTERS, layout.vectors);
                let columns = (output.width - phase_x).div_ceil(stride_x);
                for tile in even_parts(0..columns, tile_rows) {
                    for group in 0..*groups {
                        let mut at = pointers;
                        for &tap_y in &phase.taps[0] {
                            let row = source(0, y, tap_y, image.height);
                            for &tap_x in &phase.taps[1] {
                                for column in tile.clone() {
                                    let x = column * stride_x + phase_x;
                                    let pointer = match (row, source(1, x, tap_x, image.width)) {
                                        (Some(row), Some(x)) => {
                                            let pixel = (n * image.height + row) * image.width + x;
                                            let first = pixel * image.channels + group * inputs;
                                            input[first..first + inputs].as_ptr()
                                        }
                                        _ => zeros.as_ptr(),
                                    };
                                    // SAFETY: there is room for all taps of `MAX_ROWS` pixels.
                                    unsafe {
                                        at.write(pointer);
                                        at = at.add(1);
                                    }
                                }
                            }
                        }
                        let b = &data[phase.start_of(group)..][..layout.len()];
                        let column = group * layout.n;
                        let stride = output.channels;
                        let emit = Emit::new(layout, b, &conv.epilogue, column, out, stride);
                        let first = line * output.width + tile.start * stride_x + phase_x;
                        for panel in 0..layout.panels() {
                            let depths = (taps, inputs);
                            // SAFETY: the pointers were just set; `run` checked the slices, and
                            // its caller promises that these lines are ours.
                            unsafe {
                                emit.tile(s, first, stride_x, tile.len(), panel, depths, pointers);
                            }
                        }
                    }
                }
            }
        }
    }
}
