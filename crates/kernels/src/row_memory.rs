//! Memories that a row changes: short convolutions, state-space models, the delta rule. A function
//! takes one row and part of the channels or heads.

use crate::isa::Isa;
use crate::math;
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd, dispatch};

/// A causal convolution of some channels: `out = Σ taps × (past, x) + bias`, and the past moves on.
/// Lines of `past` and `taps` (the oldest first, one tap more) are `stride` elements apart.
pub struct ConvRow<'a> {
    /// The row's channels.
    pub x: &'a [f32],
    /// The lines before, of all channels.
    pub past: SharedMut<'a, f32>,
    /// The first channel.
    pub channel: usize,
    /// For each tap a line, from the first channel on.
    pub taps: &'a [f32],
    /// Elements between lines.
    pub stride: usize,
    /// Taps.
    pub width: usize,
    /// A value a channel; empty: none.
    pub bias: &'a [f32],
    /// The results.
    pub out: &'a mut [f32],
}

impl ConvRow<'_> {
    /// Computes it.
    ///
    /// # Safety
    /// Nobody else has these channels of the lines before.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub unsafe fn run(self, isa: Isa) {
        let (n, lines) = (self.x.len(), self.width - 1);
        assert!(self.out.len() == n && (self.bias.is_empty() || self.bias.len() == n));
        assert!(self.taps.len() >= lines * self.stride + n);
        assert!(self.channel + n <= self.stride && self.past.len() >= lines * self.stride);
        dispatch(isa, self);
    }
}

impl Kernel for ConvRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ConvRow { x, past, channel, taps, stride, width, bias, out } = self;
        let (past, taps) = (past.as_mut_ptr().wrapping_add(channel), taps.as_ptr());
        for i in (0..x.len()).step_by(S::LANES) {
            let n = S::LANES.min(x.len() - i);
            // SAFETY: `ConvRow::run` checked that all lines have the channels `i..i + n`; its
            // caller promises that they are ours.
            unsafe {
                let now = s.load_n(x.as_ptr().add(i), n);
                let mut sum = match bias.is_empty() {
                    true => s.zero(),
                    false => s.load_n(bias.as_ptr().add(i), n),
                };
                for t in 0..width {
                    let line = past.wrapping_add(t * stride + i);
                    let v = if t + 1 < width { s.load_n(line, n) } else { now };
                    sum = s.fma(v, s.load_n(taps.add(t * stride + i), n), sum);
                    if t > 0 {
                        s.store_n(line.wrapping_sub(stride), v, n);
                    }
                }
                s.store_n(out.as_mut_ptr().add(i), sum, n);
            }
        }
    }
}

/// A step of a selective scan for one head: `h ← exp(δ a) h + δ x ⊗ b`, `y = h c + d x`.
pub struct ScanHead<'a> {
    /// The head's elements.
    pub x: &'a [f32],
    /// δ.
    pub delta: f32,
    /// One value, or one for each key.
    pub a: &'a [f32],
    /// For each key.
    pub b: &'a [f32],
    /// For each key.
    pub c: &'a [f32],
    /// d.
    pub d: f32,
    /// [x, keys].
    pub memory: &'a mut [f32],
    /// The results, as many as elements.
    pub out: &'a mut [f32],
}

impl ScanHead<'_> {
    /// Computes it.
    ///
    /// # Panics
    /// Where lengths differ from that.
    pub fn run(self, isa: Isa) {
        let keys = self.b.len();
        assert!(self.c.len() == keys && (self.a.len() == 1 || self.a.len() == keys));
        assert!(self.memory.len() == keys * self.x.len() && self.out.len() == self.x.len());
        dispatch(isa, self);
    }
}

impl Kernel for ScanHead<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ScanHead { x, delta, a, b, c, d, memory, out } = self;
        let keys = b.len();
        let one = math::exp(s, s.splat(delta * a[0]));
        for (e, (x, out)) in x.iter().zip(out).enumerate() {
            let mut y = s.zero();
            let step = s.splat(delta * x);
            for k in (0..keys).step_by(S::LANES) {
                let n = S::LANES.min(keys - k);
                // SAFETY: `ScanHead::run` checked the lengths.
                unsafe {
                    let fade = match a.len() == keys {
                        true => {
                            let a = s.load_n(a.as_ptr().add(k), n);
                            math::exp(s, s.mul(s.splat(delta), a))
                        }
                        false => one,
                    };
                    let p = memory.as_mut_ptr().add(e * keys + k);
                    let fresh = s.mul(step, s.load_n(b.as_ptr().add(k), n));
                    let h = s.fma(s.load_n(p, n), fade, fresh);
                    s.store_n(p, h, n);
                    // Lanes past the last are 0 in c.
                    y = s.fma(h, s.load_n(c.as_ptr().add(k), n), y);
                }
            }
            *out = d * x + s.sum(y);
        }
    }
}

/// A step of the gated delta rule for one head: `S ← e^g S`, `S ← S + k ⊗ β (v − Sᵀk)`, `o = Sᵀq`.
pub struct DeltaHead<'a> {
    /// For each element of a key.
    pub q: &'a [f32],
    /// For each element of a key.
    pub k: &'a [f32],
    /// For each element of a value.
    pub v: &'a [f32],
    /// g.
    pub gate: f32,
    /// β.
    pub beta: f32,
    /// [key, value].
    pub memory: &'a mut [f32],
    /// The results, as many as elements of a value.
    pub out: &'a mut [f32],
}

impl DeltaHead<'_> {
    /// Computes it.
    ///
    /// # Panics
    /// Where lengths differ from that.
    pub fn run(self, isa: Isa) {
        assert!(self.q.len() == self.k.len() && self.out.len() == self.v.len());
        assert!(self.memory.len() == self.k.len() * self.v.len());
        dispatch(isa, self);
    }
}

impl Kernel for DeltaHead<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let DeltaHead { q, k, v, gate, beta, memory, out } = self;
        let width = v.len();
        let (fade, beta) = (s.splat(gate.exp()), s.splat(beta));
        for e in (0..width).step_by(S::LANES) {
            let n = S::LANES.min(width - e);
            // SAFETY: `DeltaHead::run` checked the lengths.
            unsafe {
                let line = memory.as_mut_ptr().add(e);
                let mut said = s.zero();
                for (j, k) in k.iter().enumerate() {
                    let faded = s.mul(s.load_n(line.add(j * width), n), fade);
                    said = s.fma(faded, s.splat(*k), said);
                }
                let correction = s.mul(beta, s.sub(s.load_n(v.as_ptr().add(e), n), said));
                let mut read = s.zero();
                for (j, (k, q)) in k.iter().zip(q).enumerate() {
                    let faded = s.mul(s.load_n(line.add(j * width), n), fade);
                    let now = s.fma(s.splat(*k), correction, faded);
                    s.store_n(line.add(j * width), now, n);
                    read = s.fma(now, s.splat(*q), read);
                }
                s.store_n(out.as_mut_ptr().add(e), read, n);
            }
        }
    }
}
