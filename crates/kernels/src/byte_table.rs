//! Functions of 8-bit values as tables of 256 entries, indexed by the value's bits.

use crate::isa::Isa;

/// Writes `table[x]` for each byte of `input`.
///
/// # Panics
/// If the lengths differ.
pub fn map_bytes(isa: Isa, table: &[u8; 256], input: &[u8], out: &mut [u8]) {
    assert_eq!(input.len(), out.len());
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Avx512Vnni(_) => {
            // SAFETY: the token proves the instructions; the lengths are equal.
            unsafe { x86::map(table, input, out) }
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(_) | Isa::NeonDot(_) | Isa::NeonI8mm(_) => {
            // SAFETY: as above.
            unsafe { neon::map(table, input, out) }
        }
        _ => plain(table, input, out),
    }
}

fn plain(table: &[u8; 256], input: &[u8], out: &mut [u8]) {
    for (out, &byte) in out.iter_mut().zip(input) {
        *out = table[usize::from(byte)];
    }
}

/// Writes `table[x]` for each byte of `input`: dequantisation, say.
///
/// # Panics
/// If the lengths differ.
pub fn map_to_floats(table: &[f32; 256], input: &[u8], out: &mut [f32]) {
    assert_eq!(input.len(), out.len());
    for (out, &byte) in out.iter_mut().zip(input) {
        *out = table[usize::from(byte)];
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// # Safety
    /// The CPU has AVX-512 F, BW and VBMI; the lengths are equal.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    pub(super) unsafe fn map(table: &[u8; 256], input: &[u8], out: &mut [u8]) {
        // SAFETY: masks keep the last load and store within the slices.
        unsafe {
            let quarter = |i: usize| _mm512_loadu_si512(table.as_ptr().add(64 * i).cast());
            let [a, b, c, d] = [quarter(0), quarter(1), quarter(2), quarter(3)];
            for at in (0..input.len()).step_by(64) {
                let left = input.len() - at;
                let mask = if left >= 64 { u64::MAX } else { (1 << left) - 1 };
                let bytes = _mm512_maskz_loadu_epi8(mask, input.as_ptr().add(at).cast());
                // Seven bits of the index choose within a half, the eighth chooses the half.
                let low = _mm512_permutex2var_epi8(a, bytes, b);
                let high = _mm512_permutex2var_epi8(c, bytes, d);
                let mapped = _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), low, high);
                _mm512_mask_storeu_epi8(out.as_mut_ptr().add(at).cast(), mask, mapped);
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    /// # Safety
    /// The lengths are equal.
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn map(table: &[u8; 256], input: &[u8], out: &mut [u8]) {
        // SAFETY: loads and stores stay within the slices.
        unsafe {
            let quarter = |i: usize| vld1q_u8_x4(table.as_ptr().add(64 * i));
            let quarters = [quarter(0), quarter(1), quarter(2), quarter(3)];
            let whole = input.len() / 16 * 16;
            for at in (0..whole).step_by(16) {
                let bytes = vld1q_u8(input.as_ptr().add(at));
                // An index outside a quarter gives zero, or keeps what was there.
                let mut mapped = vqtbl4q_u8(quarters[0], bytes);
                for (i, quarter) in quarters.iter().enumerate().skip(1) {
                    let index = vsubq_u8(bytes, vdupq_n_u8(64 * i as u8));
                    mapped = vqtbx4q_u8(mapped, *quarter, index);
                }
                vst1q_u8(out.as_mut_ptr().add(at), mapped);
            }
            super::plain(table, &input[whole..], &mut out[whole..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    #[test]
    fn every_isa_looks_up_every_byte() {
        let mut random = Random::new(1);
        let table: [u8; 256] = random.bytes(256).try_into().unwrap();
        for isa in Isa::available() {
            for len in [0, 1, 15, 63, 64, 65, 300] {
                let input: Vec<u8> = (0..=len).map(|i| (i * 37) as u8).collect();
                let mut out = vec![0; len + 1];
                map_bytes(isa, &table, &input[1..], &mut out[1..]);
                for i in 1..=len {
                    assert_eq!(out[i], table[usize::from(input[i])], "{isa:?} {len}");
                }
            }
        }
    }
}
