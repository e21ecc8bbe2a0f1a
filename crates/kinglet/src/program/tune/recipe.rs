//! How is learned: optimiser, learning rate, clipping.

use clap::{Args, ValueEnum};
use kinglet::Error;
use kinglet_kernels::gemm_f32::Pair;
use kinglet_kernels::isa::Isa;
use kinglet_tune::{Decay, Lora, Optimiser, Precision, Recipe, Schedule, Selection, ZerothOrder};

#[derive(Args)]
pub(super) struct Learning {
    /// Train these weights alone: last=N is the last N layers, other choices are GGUF's names with * for any
    /// text, such as *.bias; commas between them. With --lora, learn beside these alone
    #[arg(long, value_name = "CHOICES", value_parser = Selection::parse)]
    train: Option<Selection>,
    /// What products are computed of: bf16 is faster on CPUs with AVX512-BF16, and holds activations in
    /// less memory; weights and their updates stay f32
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    precision: Type,
    /// Leave the weights as they are, in any encoding, and learn a product of two matrices of this rank
    /// beside each (LoRA); what is written has them added
    #[arg(long, value_name = "RANK", value_parser = clap::value_parser!(u32).range(1..=4096))]
    lora: Option<u32>,
    /// Such products count by this over their rank [default: twice the rank]
    #[arg(long, value_name = "ALPHA", value_parser = number, requires = "lora")]
    lora_alpha: Option<f64>,
    /// Write these products alone, as an adapter: PEFT's folder, or a GGUF file where the name ends in
    /// .gguf
    #[arg(long, requires = "lora")]
    adapter: bool,
    /// How gradients change weights
    #[arg(long, value_name = "NAME", default_value = "adamw")]
    optimiser: Name,
    /// How far mezo looks to both sides
    #[arg(long, value_name = "DISTANCE", default_value_t = 1e-3, value_parser = super::positive)]
    epsilon: f64,
    /// The largest learning rate [default: adamw 3e-4, of a new model or LoRA 1e-3; lion a fifth of that;
    /// sgd and adafactor 1e-2; mezo 1e-6, of LoRA 1e-4]
    #[arg(long, value_name = "RATE", value_parser = number)]
    rate: Option<f64>,
    /// Steps over which the learning rate rises [default: a twentieth of all, at most 200]
    #[arg(long, value_name = "STEPS")]
    warm_up: Option<u64>,
    /// How the learning rate falls after that
    #[arg(long, value_name = "SHAPE", default_value = "cosine")]
    decay: Shape,
    /// The last learning rate, as a share of the largest
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = number)]
    last_rate: f64,
    /// Weights shrink by this times the learning rate in each step [default: 0.01; sgd and lion 0]
    #[arg(long, value_name = "DECAY", value_parser = number)]
    weight_decay: Option<f64>,
    /// What sgd keeps of its running sum of gradients
    #[arg(long, value_name = "SHARE", default_value_t = 0.9, value_parser = number)]
    momentum: f64,
    /// The largest length of all gradients together, which are scaled down to it; 0: none
    #[arg(long, value_name = "NORM", default_value_t = 1.0, value_parser = number)]
    clip: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Adamw,
    Sgd,
    Lion,
    Adafactor,
    /// Without gradients, in the memory of inference (MeZO)
    Mezo,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    F32,
    Bf16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    Cosine,
    Linear,
    Constant,
}

pub(super) fn number(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|n: &f64| *n >= 0.0 && n.is_finite());
    found.ok_or_else(|| "give a number that is not below 0".into())
}

/// The most steps of a warm-up where nothing is said.
const MOST_WARM_UP: u64 = 200;

impl Learning {
    /// What is learned beside the weights, where these stay as they are.
    pub fn lora(&self) -> Option<Lora> {
        let rank = self.lora? as usize;
        Some(Lora { rank, alpha: self.lora_alpha.unwrap_or(2.0 * rank as f64) })
    }

    /// How is learned without gradients, where that is asked for.
    pub fn zeroth(&self, seed: u64) -> Option<ZerothOrder> {
        matches!(self.optimiser, Name::Mezo).then_some(ZerothOrder { epsilon: self.epsilon, seed })
    }

    /// What products are computed of.
    fn precision(&self) -> Precision {
        match self.precision {
            Type::F32 => Precision::F32,
            Type::Bf16 => Precision::Bf16,
        }
    }

    /// What products round their factors to, where they do.
    pub fn rounding(&self) -> Option<&'static str> {
        matches!(self.precision, Type::Bf16).then_some("bf16")
    }

    /// Checks that products of bf16, if asked for, serve; returns what is to be said of them.
    pub fn check_precision(&self) -> Result<Option<&'static str>, Error> {
        if self.rounding().is_none() {
            return Ok(None);
        }
        if matches!(self.optimiser, Name::Mezo) {
            return Err(Error::input(
                "--precision bf16 with --optimiser mezo: steps along its directions are lost in the \
                 rounding: leave out one of the two",
            ));
        }
        let isa = Isa::from_env().map_err(Error::input)?;
        let slow = "this CPU has no AVX512-BF16: --precision bf16 takes less memory, and more time";
        Ok((!Pair::is_fast(isa)).then_some(slow))
    }

    /// Which weights are trained, where not all are.
    pub fn train(&self) -> Option<&Selection> {
        self.train.as_ref()
    }

    /// Whether what is learned beside the weights is written alone.
    pub fn adapter(&self) -> bool {
        self.adapter
    }

    /// The recipe and the learning rates of `steps` steps, by a model that is `new` or not, as if all of a
    /// step ran at once.
    pub fn recipe(&self, steps: u64, new: bool) -> (Recipe, Schedule) {
        let mut optimiser = match self.optimiser {
            Name::Adamw => Optimiser::adam_w(),
            Name::Sgd => {
                Optimiser::Sgd { momentum: self.momentum, nesterov: false, weight_decay: 0.0 }
            }
            Name::Lion => Optimiser::lion(),
            Name::Adafactor => Optimiser::adafactor(),
            // Its steps are plain ones, along directions instead of gradients.
            Name::Mezo => Optimiser::sgd(),
        };
        let (Optimiser::Sgd { weight_decay, .. }
        | Optimiser::AdamW { weight_decay, .. }
        | Optimiser::Lion { weight_decay, .. }
        | Optimiser::Adafactor { weight_decay, .. }) = &mut optimiser;
        *weight_decay = self.weight_decay.unwrap_or(*weight_decay);
        let usual = match (self.optimiser, new || self.lora.is_some()) {
            (Name::Adamw, false) => 3e-4,
            (Name::Adamw, true) => 1e-3,
            (Name::Lion, false) => 6e-5,
            (Name::Lion, true) => 2e-4,
            (Name::Sgd | Name::Adafactor, _) => 1e-2,
            (Name::Mezo, false) => 1e-6,
            (Name::Mezo, true) => 1e-4,
        };
        let warm_up = self.warm_up.unwrap_or_else(|| (steps / 20).min(MOST_WARM_UP));
        let end = self.last_rate;
        let decay = match self.decay {
            Shape::Cosine => Decay::Cosine { steps, end },
            Shape::Linear => Decay::Linear { steps, end },
            Shape::Constant => Decay::Constant,
        };
        let schedule = Schedule { peak: self.rate.unwrap_or(usual), warm_up, decay };
        let clip = Some(self.clip).filter(|clip| *clip > 0.0);
        let precision = self.precision();
        (Recipe { clip, precision, ..Recipe::new(optimiser) }, schedule)
    }
}
