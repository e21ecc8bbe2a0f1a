//! Rows of `f32` rounded to signed bytes, block by block: what panels are multiplied by.

use super::form::BLOCK;
use crate::simd::{Kernel, Simd};

/// The most rows of a group.
pub(super) const MOST_ROWS: usize = 8;

/// Where the parts of a group of `count` rounded rows lie, in bytes from its start. All parts
/// hold, for each run of codes or block, the values of all rows next to each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupLayout {
    pub blocks: usize,
    pub subs: usize,
    pub mins: bool,
    /// Codes of a row that lie next to each other, before those of the next row: 4 or 8.
    pub run: usize,
}

impl GroupLayout {
    /// Bytes of each row.
    pub fn row_bytes(&self) -> usize {
        let kinds = if self.mins { 2 } else { 1 };
        self.blocks * (BLOCK + 4 + 4 * self.subs * kinds)
    }

    /// Where quad `q` of row `r` is among all quads.
    #[inline(always)]
    pub fn quad(&self, count: usize, r: usize, q: usize) -> usize {
        let run = self.run / 4;
        (q / run * count + r) * run + q % run
    }

    /// The scale of each block: f32.
    pub fn scales(&self, count: usize) -> usize {
        count * self.blocks * BLOCK
    }

    /// What integer sums start from, for each sub-block: −zero × the sum of its codes, i32.
    pub fn starts(&self, count: usize) -> usize {
        self.scales(count) + 4 * count * self.blocks
    }

    /// The sum of each sub-block, scaled: f32. Only with `mins`.
    pub fn sums(&self, count: usize) -> usize {
        self.starts(count) + 4 * count * self.blocks * self.subs
    }
}

/// Rounds a group of rows to the nearest, ties to even: a block's scale is its largest magnitude /
/// 127, in f32. With a scale for each 32 elements, also where the weights have blocks of 256, logits
/// are a third nearer to those of f32 activations than with one for each 256. A block with a NaN or
/// an infinity has the scale NaN.
pub(super) struct Round<'a> {
    pub layout: GroupLayout,
    /// The code of 0 of the weights.
    pub zero: i32,
    pub rows: &'a [&'a [f32]],
    pub out: &'a mut [u8],
}

impl Kernel for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (layout, count) = (self.layout, self.rows.len());
        let (codes, rest) = self.out.split_at_mut(layout.scales(count));
        let (scales, rest) = rest.split_at_mut(4 * count * layout.blocks);
        let (starts, sums) = rest.split_at_mut(4 * count * layout.blocks * layout.subs);
        let scales = scales.as_chunks_mut::<4>().0;
        let starts = starts.as_chunks_mut::<4>().0;
        let sums = sums.as_chunks_mut::<4>().0;
        let codes = codes.as_chunks_mut::<4>().0;
        for (r, row) in self.rows.iter().enumerate() {
            for (b, x) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
                let mut block = [0; BLOCK];
                let (scale, halves) = round_block(s, x, &mut block);
                for (q, quad) in block.as_chunks::<4>().0.iter().enumerate() {
                    codes[layout.quad(count, r, 8 * b + q)] = *quad;
                }
                scales[b * count + r] = scale.to_ne_bytes();
                for sub in 0..layout.subs {
                    let at = (b * layout.subs + sub) * count + r;
                    let sum = if layout.subs == 2 { halves[sub] } else { halves[0] + halves[1] };
                    starts[at] = (-self.zero * sum).to_ne_bytes();
                    if layout.mins {
                        sums[at] = (scale * sum as f32).to_ne_bytes();
                    }
                }
            }
        }
    }
}

/// Rounds a block to `codes`. Returns its scale, and the sum of the codes of each half.
#[inline(always)]
fn round_block<S: Simd>(s: S, x: &[f32; BLOCK], codes: &mut [u8; BLOCK]) -> (f32, [i32; 2]) {
    let p = x.as_ptr();
    let (mut top, mut bad) = (s.zero(), s.zero());
    let mut halves = [s.zero(); 2];
    // SAFETY: `LANES` divides 16, and that the length of both arrays.
    unsafe {
        for i in (0..BLOCK).step_by(S::LANES) {
            let v = s.load(p.add(i));
            top = s.max(top, s.abs(v));
            // 0 times a number is 0; times anything else it is NaN.
            bad = s.fma(v, s.zero(), bad);
        }
        let (top, bad) = (s.largest(top), s.sum(bad));
        // Below the bound the quotient would overflow, and the block is as good as 0.
        let factor = if top > 1e-35 { 127.0 / top } else { 0.0 };
        for i in (0..BLOCK).step_by(S::LANES) {
            let code = s.to_int(s.mul(s.load(p.add(i)), s.splat(factor)));
            s.store_bytes(codes.as_mut_ptr().add(i), code);
            halves[2 * i / BLOCK] = s.add(halves[2 * i / BLOCK], s.to_float(code));
        }
        // Sums of so few bytes are exact; where there is no number, there are none.
        let sums = match bad == 0.0 {
            true => [s.sum(halves[0]) as i32, s.sum(halves[1]) as i32],
            false => [0; 2],
        };
        (top / 127.0 + bad, sums)
    }
}
