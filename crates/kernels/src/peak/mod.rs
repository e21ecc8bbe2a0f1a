//! The most that a CPU can do: loops of nothing but multiply-accumulates on registers, one for each
//! instruction set and kind of number, and one of nothing but loads.
//!
//! Each loop has as many independent sums as the registers hold, so that its instructions never
//! wait for one another. All factors are one: the sums add up to the number of
//! multiply-accumulates, which is how a test knows that all were computed.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::hint::black_box;

use crate::isa::{Bf16, Isa};
use crate::simd::{self, Kernel, Simd};

/// What kind of numbers are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// 8-bit integers, summed in 32 bits.
    Int8,
    /// Single-precision floats.
    F32,
    /// 16-bit brain floats, summed in single precision.
    Bf16,
}

impl Arithmetic {
    /// `int8`, `f32`, `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Arithmetic::Int8 => "int8",
            Arithmetic::F32 => "f32",
            Arithmetic::Bf16 => "bf16",
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Int8,
    F32,
    Bf16(Bf16),
}

/// A loop of multiply-accumulates that this CPU can run.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    isa: Isa,
    kind: Kind,
}

impl Peak {
    /// The most rounds of one run: until then sums of single precision are exact.
    pub const MOST_ROUNDS: u32 = 1 << 20;

    /// The loops of an instruction set: of bytes, of floats, and of brain floats where the CPU has
    /// instructions for them.
    pub fn all(isa: Isa) -> impl Iterator<Item = Peak> {
        let kinds = [Some(Kind::Int8), Some(Kind::F32), Bf16::of(isa).map(Kind::Bf16)];
        kinds.into_iter().flatten().map(move |kind| Peak { isa, kind })
    }

    /// Its instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// What it multiplies.
    pub fn arithmetic(&self) -> Arithmetic {
        match self.kind {
            Kind::Int8 => Arithmetic::Int8,
            Kind::F32 => Arithmetic::F32,
            Kind::Bf16(_) => Arithmetic::Bf16,
        }
    }

    /// Multiply-accumulates of a round.
    pub fn macs(&self) -> u64 {
        let (chains, each) = match (self.kind, self.isa) {
            (Kind::F32, isa) => (float_chains(isa), simd::lanes(isa)),
            (Kind::Int8, Isa::Avx2(_)) => (10, 32),
            (Kind::Int8, Isa::Avx512(_)) => (24, 64),
            (Kind::Int8, Isa::Avx512Vnni(_)) => (24, 64),
            (Kind::Int8, Isa::Neon(_)) => (16, 16),
            (Kind::Int8, Isa::NeonDot(_)) => (24, 16),
            (Kind::Int8, Isa::NeonI8mm(_)) => (24, 32),
            (Kind::Int8, Isa::Portable) => (PORTABLE_ROWS, PORTABLE_DEPTH),
            (Kind::Bf16(_), Isa::NeonI8mm(_)) => (24, 16),
            (Kind::Bf16(_), _) => (24, 32),
        };
        (chains * each) as u64
    }

    /// Runs `rounds` rounds, at most [`Peak::MOST_ROUNDS`], and returns how many
    /// multiply-accumulates the sums say that were: `rounds` × [`Peak::macs`].
    pub fn run(&self, rounds: u32) -> u64 {
        let rounds = rounds.min(Peak::MOST_ROUNDS);
        match (self.kind, self.isa) {
            (Kind::F32, isa) => simd::dispatch(isa, Floats { rounds }),
            #[cfg(target_arch = "x86_64")]
            (Kind::Int8, Isa::Avx2(token)) => x86::int8_avx2(token, rounds),
            #[cfg(target_arch = "x86_64")]
            (Kind::Int8, Isa::Avx512(token)) => x86::int8_avx512(token, rounds),
            #[cfg(target_arch = "x86_64")]
            (Kind::Int8, Isa::Avx512Vnni(token)) => x86::int8_vnni(token, rounds),
            #[cfg(target_arch = "x86_64")]
            (Kind::Bf16(token), _) => x86::bf16(token, rounds),
            #[cfg(target_arch = "aarch64")]
            (Kind::Int8, Isa::Neon(token)) => neon::int8(token, rounds),
            #[cfg(target_arch = "aarch64")]
            (Kind::Int8, Isa::NeonDot(token)) => neon::int8_dot(token, rounds),
            #[cfg(target_arch = "aarch64")]
            (Kind::Int8, Isa::NeonI8mm(token)) => neon::int8_i8mm(token, rounds),
            #[cfg(target_arch = "aarch64")]
            (Kind::Bf16(token), _) => neon::bf16(token, rounds),
            _ => int8_portable(rounds),
        }
    }
}

fn float_chains(isa: Isa) -> usize {
    match isa {
        Isa::Portable | Isa::Avx2(_) => 12,
        _ => 24,
    }
}

struct Floats {
    rounds: u32,
}

impl Kernel for Floats {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> u64 {
        match S::REGISTERS {
            0..32 => float_sums::<S, 12>(s, self.rounds),
            _ => float_sums::<S, 24>(s, self.rounds),
        }
    }
}

/// `N` sums, each of which becomes itself times one plus one: no product is the same twice, so none
/// can be taken out of the loop.
#[inline(always)]
fn float_sums<S: Simd, const N: usize>(s: S, rounds: u32) -> u64 {
    let one = s.splat(black_box(1.0));
    let mut sums = [s.zero(); N];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = s.fma(*sum, one, one);
        }
    }
    sums.into_iter().flat_map(|sum| s.lanes(sum)).map(|x| x as u64).sum()
}

const PORTABLE_ROWS: usize = 4;
const PORTABLE_DEPTH: usize = 64;

/// Dot products of bytes in the first cache, as plain Rust computes them.
fn int8_portable(rounds: u32) -> u64 {
    let x = [1i8; PORTABLE_DEPTH];
    let w = [[1i8; PORTABLE_DEPTH]; PORTABLE_ROWS];
    let mut sums = [0i32; PORTABLE_ROWS];
    for _ in 0..rounds {
        let (x, w) = (black_box(&x), black_box(&w));
        for (sum, w) in sums.iter_mut().zip(w) {
            *sum += x.iter().zip(w).map(|(x, w)| i32::from(*x) * i32::from(*w)).sum::<i32>();
        }
    }
    sums.into_iter().map(|sum| sum as u64).sum()
}

/// Reads all of `data`, in order, `times` times over with the vectors of `isa`, and returns the sum
/// of all elements read, modulo 2^32.
pub fn read(isa: Isa, data: &[i32], times: usize) -> u32 {
    simd::dispatch(isa, Read { data, times })
}

struct Read<'a> {
    data: &'a [i32],
    times: usize,
}

/// Vectors that are read side by side.
const ABREAST: usize = 8;

impl Kernel for Read<'_> {
    type Output = u32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> u32 {
        let mut sums = [s.isplat(0); ABREAST];
        let mut rest = 0u32;
        for _ in 0..self.times {
            let mut blocks = black_box(self.data).chunks_exact(S::LANES * ABREAST);
            for block in &mut blocks {
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the block holds so many vectors; floats are read for their bits alone.
                    let words = unsafe { s.load(block.as_ptr().add(i * S::LANES).cast()) };
                    *sum = s.iadd(*sum, s.bits(words));
                }
            }
            rest = blocks.remainder().iter().fold(rest, |sum, x| sum.wrapping_add(*x as u32));
        }
        let sum = sums.into_iter().fold(s.isplat(0), |all, sum| s.iadd(all, sum));
        let lanes = s.lanes(s.of_bits(sum)).into_iter().take(S::LANES).map(f32::to_bits);
        lanes.fold(rest, u32::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_multiply_accumulate_is_computed() {
        for isa in Isa::available() {
            for peak in Peak::all(isa) {
                // Sums of floats are exact until then; those of integers for longer.
                let most = match peak.arithmetic() {
                    Arithmetic::Int8 => 1000,
                    _ => Peak::MOST_ROUNDS,
                };
                for rounds in [0, 1, 2, 7, most] {
                    let name = (isa.name(), peak.arithmetic().name(), rounds);
                    assert_eq!(peak.run(rounds), u64::from(rounds) * peak.macs(), "{name:?}");
                }
            }
        }
    }

    #[test]
    fn all_that_is_there_is_read() {
        let data: Vec<i32> =
            (0..1000u32).map(|i| i.wrapping_mul(2_654_435_761).cast_signed()).collect();
        for isa in Isa::available() {
            for range in [0..0, 0..1, 3..130, 1..512, 0..1000] {
                let sum = data[range.clone()].iter().fold(0, |sum: i32, x| sum.wrapping_add(*x));
                for times in [0, 1, 3] {
                    let sum = sum.cast_unsigned().wrapping_mul(times as u32);
                    assert_eq!(read(isa, &data[range.clone()], times), sum, "{}", isa.name());
                }
            }
        }
    }
}
