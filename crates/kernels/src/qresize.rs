//! Bilinear resizing of 8-bit images, channels last, as TensorFlow Lite's reference kernels
//! compute it: signed bytes with 10-bit fixed-point coordinates, unsigned ones in floats.

use crate::isa::Isa;
use crate::requant::Byte;
use crate::words::{Kernel, Words, on};

/// The two source positions of an output position, and how far it lies from the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResizeTap {
    /// The first source position.
    pub low: usize,
    /// The second.
    pub high: usize,
    /// Distance from the first in 1/1024; may lie outside 0 to 1024 at the borders, within
    /// ±2048. Signed bytes use this.
    pub fixed: i32,
    /// Distance from the first. Unsigned bytes use this.
    pub real: f32,
}

/// Resizes one line: blends two lines of input (each `width * channels` bytes) for each of
/// `columns`, between the lines as `row` says.
///
/// # Panics
/// If a position or length does not fit.
pub fn resize_line(
    isa: Isa,
    kind: Byte,
    lines: [&[u8]; 2],
    row: ResizeTap,
    columns: &[ResizeTap],
    channels: usize,
    out: &mut [u8],
) {
    assert_eq!(out.len(), columns.len() * channels, "output length");
    on(isa, Line { kind, lines, row, columns, channels, out });
}

struct Line<'a> {
    kind: Byte,
    lines: [&'a [u8]; 2],
    row: ResizeTap,
    columns: &'a [ResizeTap],
    channels: usize,
    out: &'a mut [u8],
}

impl Kernel for Line<'_> {
    // Plain Rust that is vectorised for the instructions at hand.
    #[inline(always)]
    unsafe fn run<W: Words>(self) {
        if self.channels == 0 {
            return;
        }
        let pixel = |line: usize, x: usize| &self.lines[line][x * self.channels..][..self.channels];
        for (column, out) in self.columns.iter().zip(self.out.chunks_exact_mut(self.channels)) {
            let (ll, lh) = (pixel(0, column.low), pixel(0, column.high));
            let (hl, hh) = (pixel(1, column.low), pixel(1, column.high));
            let corners = ll.iter().zip(lh).zip(hl.iter().zip(hh));
            match self.kind {
                Byte::Signed => {
                    let (y, x) = (self.row.fixed, column.fixed);
                    let weights = [(1024 - y) * (1024 - x), (1024 - y) * x, y * (1024 - x), y * x];
                    for (out, ((&ll, &lh), (&hl, &hh))) in out.iter_mut().zip(corners) {
                        let [a, b, c, d] = [ll, lh, hl, hh].map(|byte| i32::from(byte as i8));
                        let sum = a * weights[0] + b * weights[1] + c * weights[2] + d * weights[3];
                        let half = if sum > 0 { 1 << 19 } else { -(1 << 19) };
                        let value = (sum + half) / (1 << 20);
                        *out = value.clamp(-128, 127) as u8;
                    }
                }
                Byte::Unsigned => {
                    let (y, x) = (self.row.real, column.real);
                    for (out, ((&ll, &lh), (&hl, &hh))) in out.iter_mut().zip(corners) {
                        let [a, b, c, d] = [ll, lh, hl, hh].map(f32::from);
                        // In the order of the original: it is rounded at each step.
                        let value = a * (1.0 - y) * (1.0 - x)
                            + c * y * (1.0 - x)
                            + b * (1.0 - y) * x
                            + d * y * x;
                        *out = (value + 0.5) as i32 as u8;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    #[test]
    fn corners_blend() {
        let tap = |fixed: i32| ResizeTap { low: 0, high: 1, fixed, real: fixed as f32 / 1024.0 };
        for isa in Isa::available() {
            let lines: [&[u8]; 2] = [&[0, 100], &[200, 44]];
            let mut out = [0; 3];
            let columns = [tap(0), tap(512), tap(1024)];
            resize_line(isa, Byte::Unsigned, lines, tap(0), &columns, 1, &mut out);
            assert_eq!(out, [0, 50, 100]);
            resize_line(isa, Byte::Unsigned, lines, tap(512), &columns, 1, &mut out);
            assert_eq!(out, [100, 86, 72]);
            let lines: [&[u8]; 2] = [&[-100i8 as u8, 3], &[-100i8 as u8, 4]];
            resize_line(isa, Byte::Signed, lines, tap(512), &columns, 1, &mut out);
            // -48.25 and 3.5, halves away from zero.
            assert_eq!(out.map(|x| x as i8), [-100, -48, 4]);
        }
    }

    #[test]
    fn every_isa_agrees_with_the_portable_form() {
        let mut random = Random::new(9);
        for kind in [Byte::Signed, Byte::Unsigned] {
            for channels in [1, 21, 64] {
                let lines = [random.bytes(5 * channels), random.bytes(5 * channels)];
                let mut tap = || ResizeTap {
                    low: random.range(0, 4) as usize,
                    high: random.range(0, 4) as usize,
                    fixed: random.range(-512, 1535) as i32,
                    real: random.unit() as f32,
                };
                let (row, columns) = (tap(), [tap(), tap(), tap()]);
                let run = |isa| {
                    let mut out = vec![0; 3 * channels];
                    let lines = [&lines[0][..], &lines[1]];
                    resize_line(isa, kind, lines, row, &columns, channels, &mut out);
                    out
                };
                let want = run(Isa::Portable);
                for isa in Isa::available() {
                    assert_eq!(run(isa), want, "{isa:?}");
                }
            }
        }
    }
}
