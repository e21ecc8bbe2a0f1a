//! The roofline (Williams, Waterman, Patterson 2009): how soon work could be done at best.

use kinglet_kernels::isa::Isa;
use serde::Serialize;

use crate::profile::Profile;
use crate::work::Work;

/// What work has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Multiply-accumulates.
    Arithmetic,
    /// Reading and writing.
    Memory,
}

/// What a device can do for one run of a model.
#[derive(Clone, Copy, Debug)]
pub struct Roof<'a> {
    /// The device.
    pub profile: &'a Profile,
    /// The instruction set in use.
    pub isa: Isa,
    /// Threads.
    pub threads: usize,
    /// Bytes that a run touches.
    pub touched: usize,
}

impl<'a> Roof<'a> {
    /// With the instruction set that plans take, of `touched` bytes.
    ///
    /// # Errors
    /// If `KINGLET_ISA` names one that this CPU lacks.
    pub fn here(profile: &'a Profile, threads: usize, touched: usize) -> Result<Roof<'a>, String> {
        Ok(Roof { profile, isa: Isa::from_env()?, threads, touched })
    }

    /// The seconds that `work` takes at least, and what sets them; `None` for work of nothing.
    ///
    /// Multiply-accumulates are at the measured peak of the instruction set. Weights come from where
    /// all that a run touches fits, as all of it passes before they are met again; what passes from
    /// step to step comes from where that step's own bytes fit. Both are at the highest rates that
    /// were measured for reading, though some of it is written.
    pub fn limit(&self, work: &Work) -> Option<(f64, Bound)> {
        let Roof { profile, isa, threads, touched } = *self;
        let peak = profile.peak(isa.name(), work.arithmetic, threads)?;
        let arithmetic = work.macs as f64 / peak / 1e9;
        let reading = |bytes: u64, among: usize| {
            Some(bytes as f64 / profile.bandwidth(among, threads)? / 1e9)
        };
        let memory = reading(work.weights, touched)?
            + reading(work.activations, (work.activations as usize).min(touched))?;
        let bound = if arithmetic > memory { Bound::Arithmetic } else { Bound::Memory };
        Some((arithmetic.max(memory), bound)).filter(|(seconds, _)| *seconds > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::profile;
    use kinglet_kernels::peak::Arithmetic;

    fn work(arithmetic: Arithmetic, macs: u64, weights: u64, activations: u64) -> Work {
        Work {
            name: String::new(),
            op: "Linear",
            kernel: String::new(),
            shape: String::new(),
            arithmetic,
            macs,
            weights,
            activations,
        }
    }

    #[test]
    fn the_slower_of_arithmetic_and_memory_is_the_limit() {
        let profile = profile();
        let roof = Roof { profile: &profile, isa: Isa::Portable, threads: 2, touched: 1 << 30 };
        let of = |work| roof.limit(&work).map(|(s, bound)| ((s * 1e6).round() / 1e6, bound));
        assert_eq!(of(work(Arithmetic::Int8, 10_000_000, 0, 8)), Some((1e-3, Bound::Arithmetic)));
        assert_eq!(of(work(Arithmetic::F32, 10_000_000, 0, 8)), Some((2e-3, Bound::Arithmetic)));
        // From memory, at 40 GB/s.
        assert_eq!(of(work(Arithmetic::F32, 1, 40_000_000, 0)), Some((1e-3, Bound::Memory)));
        // A small activation is in the first cache, at 400.
        assert_eq!(of(work(Arithmetic::F32, 0, 0, 4_000_000)).map(|l| l.1), Some(Bound::Memory));
        assert_eq!(of(work(Arithmetic::F32, 0, 0, 0)), None);
        // Weights of a small model stay in a cache.
        let small = Roof { touched: 1 << 20, ..roof };
        let (seconds, _) = small.limit(&work(Arithmetic::F32, 0, 120_000, 0)).unwrap();
        assert!((seconds - 1e-6).abs() < 1e-12);
    }
}
