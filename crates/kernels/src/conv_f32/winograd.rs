//! Convolution of 3 × 3 windows by Winograd's F(2 × 2, 3 × 3): 16 products for four output
//! pixels where the definition has 36 (Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", arXiv:1509.09308).
//!
//! A tile of 2 × 2 output pixels reads 4 × 4 of the input. Each of the 16 places of the
//! transformed tiles is a matrix product over the channels, of a few tiles at a time that stay in
//! the cache. Sums are rounded otherwise than by the definition, as precisely; an infinity or
//! not-a-number in the input reaches all four pixels of the tiles that read it.

use std::ops::Range;

use super::{ConvShape, WeightStrides};
use crate::aligned::Aligned;
use crate::gemm_f32::micro::{self, MAX_ROWS, Tile, run_tile};
use crate::gemm_f32::{Epilogue, PackLayout, check_rows, even_parts};
use crate::isa::Isa;
use crate::scratch::{carve, need};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd, dispatch};
use crate::window::Window;

/// Places of a transformed tile.
const PLACES: usize = 16;

/// The transformed and packed weights of a convolution.
#[derive(Clone)]
pub struct PackedWinograd {
    shape: ConvShape,
    /// Of the matrix of each place: input channels × output channels.
    layout: PackLayout,
    data: Aligned<f32>,
}

impl PackedWinograd {
    /// Whether it is for convolutions of this shape, and faster than a product over the taps, where
    /// it is that from so many channels on. Measured with AVX-512: 1.25 times as fast at 12 channels,
    /// twice at 128, slower with 8 outputs, and 1.05 where but 9/4 of a tile's four pixels lie in the
    /// image.
    pub fn suits(shape: &ConvShape, least_channels: usize) -> bool {
        let ConvShape { input, output, window, groups } = *shape;
        let plain = Window { padding: window.padding, ..Window::plain(3, 3) };
        let tiles = output.height.div_ceil(2) * output.width.div_ceil(2);
        let channels = input.channels.min(output.channels);
        groups == 1
            && window == plain
            && channels >= least_channels
            && 9 * tiles <= 4 * output.pixels()
    }

    /// Transforms and packs weights.
    ///
    /// # Panics
    /// Where the window is not 3 × 3 without stride, dilation and groups, or `weights` is too short.
    pub fn new(isa: Isa, shape: ConvShape, weights: &[f32], strides: WeightStrides) -> Self {
        let plain = Window { padding: shape.window.padding, ..Window::plain(3, 3) };
        assert!(shape.window == plain && shape.groups == 1, "window of Winograd's convolution");
        let (inputs, outputs) = (shape.input.channels, shape.output.channels);
        let layout = PackLayout::new(isa, inputs, outputs);
        let mut matrices = vec![0.0; PLACES * inputs * outputs];
        for o in 0..outputs {
            for i in 0..inputs {
                let tap = |y: usize, x: usize| {
                    let at = o * strides.output + i * strides.input;
                    f64::from(weights[at + y * strides.vertical + x * strides.horizontal])
                };
                // G · taps · Gᵀ.
                let rows: [[f64; 4]; 3] =
                    std::array::from_fn(|y| spread([tap(y, 0), tap(y, 1), tap(y, 2)]));
                for x in 0..4 {
                    let column = spread([rows[0][x], rows[1][x], rows[2][x]]);
                    for (y, value) in column.into_iter().enumerate() {
                        matrices[((y * 4 + x) * inputs + i) * outputs + o] = value as f32;
                    }
                }
            }
        }
        let mut data = Aligned::to_fill(PLACES * layout.len());
        for place in 0..PLACES {
            let matrix = &matrices[place * inputs * outputs..][..inputs * outputs];
            let packed = &mut data[place * layout.len()..][..layout.len()];
            layout.pack(0..layout.panels(), matrix, (outputs, 1), packed);
        }
        Self { shape, layout, data }
    }

    /// The instruction set it is for.
    pub fn isa(&self) -> Isa {
        self.layout.isa
    }

    /// Tiles of an image.
    pub fn tiles(&self) -> usize {
        self.shape.output.height.div_ceil(2) * self.shape.output.width.div_ceil(2)
    }

    /// Tiles that are computed together: threads do well to cut tiles at multiples of it.
    pub fn block_tiles(&self) -> usize {
        // Transformed tiles of this size stay in the first-level cache, and are what every thread
        // has room for without asking.
        const BYTES: usize = 28 << 10;
        let rows = self.layout.tile_rows();
        match BYTES / (size_of::<f32>() * self.elements() * rows) {
            // Products of half as many rows are little slower, and plans half as large.
            0 => rows.div_ceil(2),
            times => times * rows,
        }
    }

    /// Elements of a tile, transformed, before and after the products.
    fn elements(&self) -> usize {
        PLACES * (self.layout.k + self.layout.n)
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.data)
    }

    /// Bytes of scratch that a run needs.
    pub fn scratch_bytes(&self) -> usize {
        let rows = PLACES * self.block_tiles();
        need::<f32>(rows * self.layout.k) + need::<f32>(rows * self.layout.n)
    }
}

/// G times a column of taps.
fn spread([a, b, c]: [f64; 3]) -> [f64; 4] {
    [a, (a + b + c) / 2.0, (a - b + c) / 2.0, c]
}

/// A convolution by Winograd's transforms, ready to run.
#[derive(Clone, Copy)]
pub struct WinogradF32<'a> {
    /// The packed weights.
    pub packed: &'a PackedWinograd,
    /// What is done to the results; the residual's rows are output pixels.
    pub epilogue: Epilogue<'a>,
}

impl WinogradF32<'_> {
    /// Computes the output pixels of `tiles`, counted over the whole batch, each image's line by
    /// line: pixel i of the output is `out[i * channels..][..channels]`.
    ///
    /// # Safety
    /// Meanwhile nobody else touches these pixels of `out`.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub unsafe fn run(
        &self,
        tiles: Range<usize>,
        input: &[f32],
        out: SharedMut<'_, f32>,
        scratch: &mut [u8],
    ) {
        let ConvShape { input: image, output, .. } = self.packed.shape;
        if tiles.is_empty() || output.is_empty() {
            return;
        }
        let images = tiles.end.div_ceil(self.packed.tiles());
        check_rows("input", images, image.len(), image.len(), input.len());
        check_rows("output", images, output.len(), output.len(), out.len());
        self.epilogue.check(images * output.pixels(), output.channels);
        dispatch(self.packed.layout.isa, Run { conv: self, tiles, input, out, scratch });
    }
}

struct Run<'a> {
    conv: &'a WinogradF32<'a>,
    tiles: Range<usize>,
    input: &'a [f32],
    out: SharedMut<'a, f32>,
    scratch: &'a mut [u8],
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { conv, tiles, input, out, mut scratch } = self;
        let packed = conv.packed;
        let block = packed.block_tiles();
        let PackLayout { k, n, .. } = packed.layout;
        let before: &mut [f32] = carve(&mut scratch, PLACES * block * k);
        let after: &mut [f32] = carve(&mut scratch, PLACES * block * n);
        for tiles in even_parts(tiles, block) {
            s.outline(Before { packed, tiles: tiles.clone(), input, out: before });
            packed.multiply(s, tiles.len(), before, after);
            s.outline(After { conv, tiles, sums: after, out });
        }
    }
}

impl PackedWinograd {
    /// The image, and the line and column of the first output pixel, of a tile.
    #[inline(always)]
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let width = self.shape.output.width.div_ceil(2);
        let (image, tile) = (tile / self.tiles(), tile % self.tiles());
        (image, tile / width * 2, tile % width * 2)
    }

    /// The products of `count` tiles: each place's rows of `before` by its matrix.
    #[inline(always)]
    fn multiply<S: Simd>(&self, s: S, count: usize, before: &[f32], after: &mut [f32]) {
        let layout = &self.layout;
        let PackLayout { k, n, .. } = *layout;
        let identity = (f32::NEG_INFINITY, f32::INFINITY);
        assert!(before.len() >= PLACES * count * k && after.len() >= PLACES * count * n);
        for place in 0..PLACES {
            let matrix = &self.data[place * layout.len()..][..layout.len()];
            for panel in 0..layout.panels() {
                let columns = layout.columns(panel);
                for rows in even_parts(0..count, micro::tile_rows(S::REGISTERS, layout.vectors)) {
                    let first = place * count + rows.start;
                    let a: [*const f32; MAX_ROWS] =
                        std::array::from_fn(|i| before.as_ptr().wrapping_add((first + i) * k));
                    let tile = Tile {
                        taps: 1,
                        depth: k,
                        a: a.as_ptr(),
                        b: matrix.as_ptr().wrapping_add(layout.offset(panel)),
                        out: after.as_mut_ptr().wrapping_add(first * n + columns.start),
                        out_stride: n,
                        columns: columns.len(),
                        bias: std::ptr::null(),
                        residual: std::ptr::null(),
                        residual_stride: 0,
                        clamp: identity,
                        clamp_after: identity,
                    };
                    // SAFETY: `before` holds these rows, the matrix the panel, `after` the results.
                    unsafe { run_tile(s, rows.len(), layout.vectors_in(panel), &tile) };
                }
            }
        }
    }
}

/// Transforms the input of some tiles: Bᵀ · pixels · B. `out` becomes, for each place, a row of
/// channels for each tile.
struct Before<'a> {
    packed: &'a PackedWinograd,
    tiles: Range<usize>,
    input: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Before<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Before { packed, tiles, input, out } = self;
        let ConvShape { input: image, window, .. } = &packed.shape;
        let (channels, count) = (image.channels, tiles.len());
        assert!(out.len() >= PLACES * count * channels);
        for (t, tile) in tiles.enumerate() {
            let (n, y, x) = packed.place(tile);
            // Before the image these wrap round to huge numbers.
            let top = y.wrapping_sub(window.padding[0]);
            let left = x.wrapping_sub(window.padding[1]);
            let inside = |i: usize| {
                let (row, column) = (top.wrapping_add(i / 4), left.wrapping_add(i % 4));
                row < image.height && column < image.width
            };
            let whole = inside(0) && inside(15);
            let pixel = top.wrapping_mul(image.width).wrapping_add(left).wrapping_mul(channels);
            let first = input.as_ptr().wrapping_add(n * image.len()).wrapping_add(pixel);
            for channel in (0..channels).step_by(S::LANES) {
                let lanes = (channels - channel).min(S::LANES);
                // SAFETY: `WinogradF32::run` checked the input, of which pixels outside the image
                // are not read; `out` was checked above.
                unsafe {
                    let at = |i: usize| {
                        let pixel = i / 4 * image.width + i % 4;
                        first.wrapping_add(pixel * channels + channel)
                    };
                    let pixels: [S::V; PLACES] = if whole && lanes == S::LANES {
                        std::array::from_fn(|i| s.load(at(i)))
                    } else {
                        std::array::from_fn(|i| s.load_n(at(i), if inside(i) { lanes } else { 0 }))
                    };
                    let rows = each(pixels, |i| 4 * i, 1, |column| narrow(s, column));
                    let places = each(rows, |i| i, 4, |row| narrow(s, row));
                    let out = out.as_mut_ptr().add(t * channels + channel);
                    for (i, value) in places.into_iter().enumerate() {
                        let out = out.add(i * count * channels);
                        if lanes == S::LANES {
                            s.store(out, value)
                        } else {
                            s.store_n(out, value, lanes)
                        }
                    }
                }
            }
        }
    }
}

/// Replaces the four vectors from `first(i)` on, `step` apart, by what `f` makes of them, for each
/// `i` of four.
#[inline(always)]
fn each<V: Copy>(
    mut square: [V; PLACES],
    first: impl Fn(usize) -> usize,
    step: usize,
    f: impl Fn([V; 4]) -> [V; 4],
) -> [V; PLACES] {
    for i in 0..4 {
        let at = first(i);
        let four = f([square[at], square[at + step], square[at + 2 * step], square[at + 3 * step]]);
        for (j, value) in four.into_iter().enumerate() {
            square[at + j * step] = value;
        }
    }
    square
}

/// Bᵀ times a column of pixels.
#[inline(always)]
fn narrow<S: Simd>(s: S, [a, b, c, d]: [S::V; 4]) -> [S::V; 4] {
    [s.sub(a, c), s.add(b, c), s.sub(c, b), s.sub(b, d)]
}

/// Aᵀ times a column of sums: two pixels.
#[inline(always)]
fn widen<S: Simd>(s: S, [a, b, c, d]: [S::V; 4]) -> [S::V; 2] {
    [s.add(s.add(a, b), c), s.sub(s.sub(b, c), d)]
}

/// Makes output pixels of sums, laid out as [`Before`] does: Aᵀ · sums · A and the epilogue.
struct After<'a> {
    conv: &'a WinogradF32<'a>,
    tiles: Range<usize>,
    sums: &'a [f32],
    out: SharedMut<'a, f32>,
}

impl Kernel for After<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let After { conv, tiles, sums, out } = self;
        let (packed, epilogue) = (conv.packed, &conv.epilogue);
        let image = packed.shape.output;
        let (channels, count) = (image.channels, tiles.len());
        let (tile_epilogue, unfinished) = epilogue.split();
        let residual = epilogue.residual.filter(|_| tile_epilogue.residual);
        let clamp = |(low, high): (f32, f32), x| s.min(s.splat(high), s.max(s.splat(low), x));
        assert!(sums.len() >= PLACES * count * channels);
        for (t, tile) in tiles.enumerate() {
            let (n, y, x) = packed.place(tile);
            let first = (n * image.height + y) * image.width + x;
            let (lines, columns) = ((image.height - y).min(2), (image.width - x).min(2));
            // SAFETY: `WinogradF32::run` checked bias, residual and output, and its caller promises
            // that these pixels are ours; `sums` was checked above.
            unsafe {
                for channel in (0..channels).step_by(S::LANES) {
                    let lanes = (channels - channel).min(S::LANES);
                    let from = sums.as_ptr().add(t * channels + channel);
                    let sums: [S::V; PLACES] =
                        std::array::from_fn(|i| s.load_n(from.add(i * count * channels), lanes));
                    let columns_of: [[S::V; 2]; 4] = std::array::from_fn(|x| {
                        widen(s, [sums[x], sums[x + 4], sums[x + 8], sums[x + 12]])
                    });
                    let bias = match epilogue.bias {
                        Some(bias) => s.load_n(bias.as_ptr().add(channel), lanes),
                        None => s.zero(),
                    };
                    let pairs: [[S::V; 2]; 2] = std::array::from_fn(|line| {
                        widen(s, std::array::from_fn(|x| columns_of[x][line]))
                    });
                    for (line, pair) in pairs.into_iter().enumerate() {
                        for (column, value) in pair.into_iter().enumerate() {
                            if line >= lines || column >= columns {
                                continue;
                            }
                            let pixel = first + line * image.width + column;
                            let mut value = clamp(tile_epilogue.clamp, s.add(value, bias));
                            if let Some(residual) = residual {
                                let at =
                                    residual.data.as_ptr().add(pixel * residual.stride + channel);
                                value = s.add(value, s.load_n(at, lanes));
                                value = clamp(tile_epilogue.clamp_after, value);
                            }
                            let at = out.as_mut_ptr().add(pixel * channels + channel);
                            s.store_n(at, value, lanes);
                        }
                    }
                }
                if unfinished {
                    for line in 0..lines {
                        let pixel = first + line * image.width;
                        let at = out.as_mut_ptr().add(pixel * channels);
                        epilogue.finish(s, (pixel, 1, columns), (0, channels), at, channels);
                    }
                }
            }
        }
    }
}
