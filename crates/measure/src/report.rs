//! What was measured of a model.

use serde::Serialize;

use crate::recorder::{Recorder, Timed};
use crate::roof::{Bound, Roof};
use crate::spread::{Spread, rounded};

/// What was measured of one model.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The model's path.
    pub model: String,
    /// Its format, or its family where it is a language model.
    pub kind: String,
    /// Threads that computed.
    pub threads: usize,
    /// Milliseconds from before the file was opened until it could run.
    pub load_ms: f64,
    /// Milliseconds of the first run, in which weights may be read and packed.
    pub first_run_ms: f64,
    /// The most bytes that the process had in memory; `None` where the system does not tell.
    pub peak_bytes: Option<usize>,
    /// Its speed.
    #[serde(flatten)]
    pub figures: Figures,
    /// What the device can do.
    pub limits: Limits,
    /// The layers, by what they were run for.
    pub phases: Vec<Phase>,
}

/// How fast a model is.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Figures {
    /// A language model: tokens a second.
    Language {
        /// Tokens of a prompt.
        prompt_tokens: usize,
        /// Of a prompt.
        prompt_tok_s: Spread,
        /// Tokens decoded one by one after it.
        decode_tokens: usize,
        /// Of these.
        decode_tok_s: Spread,
    },
    /// Any other.
    Net {
        /// A run.
        latency_ms: Spread,
    },
}

impl Figures {
    /// The medians of latency in milliseconds, and of prompt and decoding in tokens a second.
    pub fn medians(&self) -> (Option<f64>, Option<f64>, Option<f64>) {
        match self {
            Figures::Net { latency_ms } => (Some(latency_ms.median), None, None),
            Figures::Language { prompt_tok_s, decode_tok_s, .. } => {
                (None, Some(prompt_tok_s.median), Some(decode_tok_s.median))
            }
        }
    }
}

/// What the device can do with the threads and the instruction set in use.
#[derive(Clone, Debug, Serialize)]
pub struct Limits {
    /// The instruction set.
    pub isa: String,
    /// 8-bit arithmetic, 10⁹ multiply-accumulates a second.
    pub int8_gmac_s: Option<f64>,
    /// Single-precision arithmetic.
    pub f32_gmac_s: Option<f64>,
    /// Memory beyond the caches, 10⁹ bytes a second.
    pub memory_gb_s: Option<f64>,
    /// What a run reads over and over, 10⁹ bytes a second: from a cache, where one holds all.
    pub weights_gb_s: Option<f64>,
    /// Bytes that a run touches.
    pub touched_bytes: usize,
}

/// What the layers took for one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// `run`, `prompt`, `decode`.
    pub name: &'static str,
    /// What times are of, for people.
    pub what: String,
    /// The sum of the layers' times.
    pub ms: f64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// The sum of the layers' limits as a share of the time, in per cent.
    pub of_limit: Option<f64>,
    /// The layers, in the order in which they run.
    pub layers: Vec<Layer>,
}

/// One step of a plan, or several alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// Its name in the model.
    pub name: String,
    /// The op.
    pub op: &'static str,
    /// The kernel.
    pub kernel: String,
    /// Sizes of the result, and of weights.
    pub shape: String,
    /// What it multiplies.
    pub arithmetic: &'static str,
    /// Milliseconds, the median.
    pub ms: f64,
    /// Of the phase, in per cent.
    pub share: f64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Bytes of weights, and of all else that is read and written.
    pub bytes: u64,
    /// 10⁹ multiply-accumulates a second; `None` where there are none.
    pub gmac_s: Option<f64>,
    /// 10⁹ bytes a second.
    pub gb_s: Option<f64>,
    /// Milliseconds that it takes at least.
    pub limit_ms: Option<f64>,
    /// That limit as a share of its time, in per cent.
    pub of_limit: Option<f64>,
    /// What the limit is set by.
    pub bound: Option<Bound>,
    /// How many steps these are together.
    pub count: usize,
}

/// `amount` in `ms` milliseconds, in 10⁹ a second.
fn rate(amount: u64, ms: f64) -> Option<f64> {
    (amount > 0 && ms > 0.0).then(|| rounded(amount as f64 / ms / 1e6))
}

/// `part` of `whole`, in per cent.
fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| 100.0 * part / whole)
}

impl Limits {
    /// The limits of what touches as much as `roof` says.
    pub fn new(roof: &Roof<'_>) -> Limits {
        use kinglet_kernels::peak::Arithmetic;
        let Roof { profile, isa, threads, touched } = *roof;
        let peak = |arithmetic| profile.peak(isa.name(), arithmetic, threads);
        Limits {
            isa: isa.name().into(),
            int8_gmac_s: peak(Arithmetic::Int8),
            f32_gmac_s: peak(Arithmetic::F32),
            memory_gb_s: profile.memory_bandwidth(threads),
            weights_gb_s: profile.bandwidth(touched, threads),
            touched_bytes: touched,
        }
    }
}

impl Phase {
    /// What `recorder` recorded, against the limits of a device.
    ///
    /// # Errors
    /// As [`Recorder::steps`].
    pub fn new(
        name: &'static str,
        what: impl Into<String>,
        recorder: &Recorder,
        roof: &Roof<'_>,
    ) -> Result<Phase, String> {
        let steps = recorder.steps()?;
        let whole: f64 = steps.iter().map(|step| step.seconds).sum();
        let layers: Vec<Layer> =
            steps.into_iter().map(|step| Layer::new(step, whole, roof)).collect();
        let sum = |of: fn(&Layer) -> f64| layers.iter().map(of).sum::<f64>();
        let limit = sum(|layer| layer.limit_ms.unwrap_or(0.0));
        Ok(Phase {
            name,
            what: what.into(),
            ms: sum(|layer| layer.ms),
            macs: layers.iter().map(|layer| layer.macs).sum(),
            bytes: layers.iter().map(|layer| layer.bytes).sum(),
            of_limit: share(limit, sum(|layer| layer.ms)).filter(|share| *share > 0.0),
            layers,
        })
    }

    /// 10⁹ multiply-accumulates a second.
    pub fn gmac_s(&self) -> Option<f64> {
        rate(self.macs, self.ms)
    }

    /// 10⁹ bytes a second.
    pub fn gb_s(&self) -> Option<f64> {
        rate(self.bytes, self.ms)
    }

    /// The layers with those put together that differ in the numbers in their names only, as the
    /// blocks of a language model do: the longest first.
    pub fn alike(&self) -> Vec<Layer> {
        let mut groups: Vec<Layer> = Vec::new();
        for layer in &self.layers {
            match groups.iter_mut().find(|group| layer.is_of(group)) {
                Some(group) => group.take_in(layer),
                None => {
                    let name = without_numbers(&layer.name);
                    groups.push(Layer { name, ..layer.clone() });
                }
            }
        }
        for group in groups.iter_mut().filter(|group| group.count == 1) {
            let only = self.layers.iter().find(|layer| layer.is_of(group));
            if let Some(only) = only {
                group.name.clone_from(&only.name);
            }
        }
        groups.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        groups
    }
}

/// `blk.*.ffn_up` of `blk.12.ffn_up`: parts of a name that are numbers.
fn without_numbers(name: &str) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts = name.split('.').map(|part| if number(part) { "*" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

impl Layer {
    /// Whether this is one of the layers that `group`, named without numbers, is of.
    fn is_of(&self, group: &Layer) -> bool {
        group.name == without_numbers(&self.name)
            && (&group.kernel, &group.shape) == (&self.kernel, &self.shape)
    }

    fn new(step: Timed, whole: f64, roof: &Roof<'_>) -> Layer {
        let limit = roof.limit(&step.work);
        let mut layer = Layer {
            name: step.work.name.clone(),
            op: step.work.op,
            kernel: step.work.kernel.clone(),
            shape: step.work.shape.clone(),
            arithmetic: step.work.arithmetic.name(),
            ms: step.seconds * 1e3,
            share: share(step.seconds, whole).unwrap_or(0.0),
            macs: step.work.macs,
            bytes: step.work.bytes(),
            gmac_s: None,
            gb_s: None,
            limit_ms: limit.map(|(seconds, _)| seconds * 1e3),
            of_limit: None,
            bound: limit.map(|(_, bound)| bound),
            count: 1,
        };
        layer.divide();
        layer
    }

    /// Computes what is so much in so much time.
    fn divide(&mut self) {
        self.gmac_s = rate(self.macs, self.ms);
        self.gb_s = rate(self.bytes, self.ms);
        self.of_limit = self.limit_ms.and_then(|limit| share(limit, self.ms));
    }

    fn take_in(&mut self, other: &Layer) {
        self.ms += other.ms;
        self.share += other.share;
        self.macs += other.macs;
        self.bytes += other.bytes;
        self.limit_ms = self.limit_ms.zip(other.limit_ms).map(|(a, b)| a + b);
        self.count += other.count;
        self.divide();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{profile, two_products};
    use kinglet_kernels::isa::Isa;
    use kinglet_runtime::{Plan, PlanOptions};

    fn phase() -> Phase {
        let mut plan = Plan::new(&two_products(), &PlanOptions::default()).unwrap();
        let mut recorder = Recorder::default();
        for _ in 0..3 {
            recorder.begin(0);
            let count = plan.steps().len();
            for step in 0..count {
                recorder.observe(&plan, step);
                plan.run_step(step).unwrap();
            }
            recorder.observe(&plan, count);
            recorder.end();
        }
        let profile = profile();
        let touched = recorder.touched();
        let roof = Roof { profile: &profile, isa: Isa::Portable, threads: 2, touched };
        Phase::new("run", "a run", &recorder, &roof).unwrap()
    }

    #[test]
    fn shares_are_a_hundred_and_nothing_is_no_number() {
        let phase = phase();
        let shares: f64 = phase.layers.iter().map(|layer| layer.share).sum();
        assert!((shares - 100.0).abs() < 1e-9, "{shares}");
        let alike: f64 = phase.alike().iter().map(|layer| layer.share).sum();
        assert!((alike - 100.0).abs() < 1e-9, "{alike}");
        let softmax = phase.layers.iter().find(|layer| layer.op == "Softmax").unwrap();
        assert_eq!(softmax.gmac_s, None);
        for layer in &phase.layers {
            let all = [layer.gmac_s, layer.gb_s, layer.limit_ms, layer.of_limit];
            assert!(all.into_iter().flatten().all(f64::is_finite), "{layer:?}");
        }
        let text = serde_json::to_string(&phase).unwrap();
        assert!(text.contains("\"gmac_s\":null") && !text.contains("NaN"));
    }

    #[test]
    fn blocks_that_are_alike_come_together() {
        let phase = phase();
        let names: Vec<_> = phase.layers.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(names, ["up", "blk.0.down", "blk.1.down", "softmax"]);
        let alike = phase.alike();
        let down = alike.iter().find(|layer| layer.name == "blk.*.down").unwrap();
        assert_eq!((down.count, down.macs), (2, 2 * phase.layers[1].macs));
        assert!(alike.iter().any(|layer| layer.name == "up" && layer.count == 1));
        assert!(alike.is_sorted_by(|a, b| a.ms >= b.ms));
    }

    #[test]
    fn a_block_of_another_shape_keeps_its_own_name() {
        let mut phase = phase();
        phase.layers[2].shape.push('x');
        let alike = phase.alike();
        for name in ["blk.0.down", "blk.1.down"] {
            assert_eq!(alike.iter().filter(|layer| layer.name == name).count(), 1, "{name}");
        }
    }

    #[test]
    fn numbers_in_names() {
        assert_eq!(without_numbers("blk.12.ffn_up"), "blk.*.ffn_up");
        assert_eq!(without_numbers("conv2d_3"), "conv2d_3");
        assert_eq!(without_numbers(""), "");
    }
}
