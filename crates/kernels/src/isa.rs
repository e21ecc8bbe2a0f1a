//! Instruction sets. Holding a value of [`Isa`] (or of a token in it) proves that this CPU has
//! the instructions: tokens are made by detection only.

macro_rules! tokens {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(());
    )*};
}

tokens! {
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX2 and AVX-VNNI is not told apart; this is AVX-512 F, BW, DQ, VL, VBMI.
    Avx512,
    /// [`Avx512`] and its 8-bit dot products (VNNI).
    Avx512Vnni,
    /// aarch64 with Advanced SIMD, which every aarch64 CPU has.
    Neon,
    /// [`Neon`] and 8-bit dot products (`dotprod`).
    NeonDot,
    /// [`NeonDot`] and 8-bit matrix products (`i8mm`).
    NeonI8mm,
    /// BF16 dot products beside [`Avx512Vnni`] (AVX512-BF16) or [`NeonI8mm`] (FEAT_BF16).
    Bf16,
}

/// An instruction set that this CPU has. Kernel families match on it; each variant includes the
/// ones before it of the same architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust; every CPU.
    Portable,
    /// See [`Avx2`].
    Avx2(Avx2),
    /// See [`Avx512`].
    Avx512(Avx512),
    /// See [`Avx512Vnni`].
    Avx512Vnni(Avx512Vnni),
    /// See [`Neon`].
    Neon(Neon),
    /// See [`NeonDot`].
    NeonDot(NeonDot),
    /// See [`NeonI8mm`].
    NeonI8mm(NeonI8mm),
}

impl Bf16 {
    /// Whether `isa` has them on this CPU.
    pub fn of(isa: Isa) -> Option<Bf16> {
        let has = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni(_) => is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm(_) => std::arch::is_aarch64_feature_detected!("bf16"),
            _ => false,
        };
        has.then_some(Bf16(()))
    }
}

/// The environment variable that forces a lower instruction set than the best one:
/// a name from [`Isa::name`], such as `portable` or `avx2`.
pub const ISA_VARIABLE: &str = "KINGLET_ISA";

impl Isa {
    /// Every instruction set this CPU has, slowest first.
    pub fn available() -> Vec<Isa> {
        let mut all = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vbmi");
            if avx2 {
                all.push(Isa::Avx2(Avx2(())));
            }
            if avx512 {
                all.push(Isa::Avx512(Avx512(())));
            }
            if avx512 && is_x86_feature_detected!("avx512vnni") {
                all.push(Isa::Avx512Vnni(Avx512Vnni(())));
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            all.push(Isa::Neon(Neon(())));
            let dot = std::arch::is_aarch64_feature_detected!("dotprod");
            if dot {
                all.push(Isa::NeonDot(NeonDot(())));
            }
            if dot && std::arch::is_aarch64_feature_detected!("i8mm") {
                all.push(Isa::NeonI8mm(NeonI8mm(())));
            }
        }
        all
    }

    /// The best instruction set of this CPU, or the lower one that [`ISA_VARIABLE`] names.
    /// A name this CPU lacks is an error that lists what it has.
    pub fn from_env() -> Result<Isa, String> {
        let all = Self::available();
        match std::env::var(ISA_VARIABLE) {
            Ok(name) if !name.is_empty() => {
                all.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
                    let names: Vec<_> = all.iter().map(|isa| isa.name()).collect();
                    format!("{ISA_VARIABLE}={name}: this CPU has {}", names.join(", "))
                })
            }
            _ => Ok(*all.last().unwrap_or(&Isa::Portable)),
        }
    }

    /// The one whose vectors `columns` numbers of `f32` fill best. Vectors of half the width take
    /// half the time, or do on CPUs that have pipes of that width.
    pub(crate) fn for_floats(self, columns: usize) -> Isa {
        match (self, columns) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512(_) | Isa::Avx512Vnni(_), ..=8) => Isa::Avx2(Avx2(())),
            (isa, _) => isa,
        }
    }

    /// The name that [`ISA_VARIABLE`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2(_) => "avx2",
            Isa::Avx512(_) => "avx512",
            Isa::Avx512Vnni(_) => "avx512vnni",
            Isa::Neon(_) => "neon",
            Isa::NeonDot(_) => "dotprod",
            Isa::NeonI8mm(_) => "i8mm",
        }
    }
}
