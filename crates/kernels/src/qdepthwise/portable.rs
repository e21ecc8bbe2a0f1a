//! Units in plain Rust.

use super::{BLOCK, Strip, UNIT};
use crate::requant::Byte;

/// Any instruction set, and any count of output channels for each input channel.
pub(super) fn unit(strip: Strip, kind: Byte, multiplier: usize) {
    let pixels = strip.taps.chunks_exact(strip.taps_per_pixel);
    for (taps, out) in pixels.zip(strip.acc.chunks_mut(BLOCK)) {
        let mut acc = [0i32; UNIT];
        acc.copy_from_slice(strip.start);
        for (&tap, weights) in taps.iter().zip(strip.weights.chunks_exact(2 * UNIT)) {
            let mut values = [0i32; UNIT];
            // SAFETY: a tap points at all channels of a pixel.
            unsafe {
                if multiplier == 1 {
                    let bytes = std::slice::from_raw_parts(tap.add(strip.channel), strip.channels);
                    for (value, &byte) in values.iter_mut().zip(bytes) {
                        *value = kind.value(byte);
                    }
                } else {
                    for (lane, value) in values.iter_mut().take(strip.channels).enumerate() {
                        *value = kind.value(*tap.add((strip.channel + lane) / multiplier));
                    }
                }
            }
            for ((acc, value), weight) in acc.iter_mut().zip(values).zip(weights.as_chunks::<2>().0)
            {
                let weight = i32::from(i16::from_ne_bytes(*weight));
                *acc = acc.wrapping_add(value.wrapping_mul(weight));
            }
        }
        out[..UNIT].copy_from_slice(&acc);
    }
}
