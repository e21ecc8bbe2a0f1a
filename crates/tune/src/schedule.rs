//! The learning rate of each step.

/// How the learning rate goes over the steps: up from near zero, then along its decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The largest learning rate.
    pub peak: f64,
    /// Steps over which it rises in a straight line; step 0 has 1 / `warm_up` of the peak.
    pub warm_up: u64,
    /// What follows.
    pub decay: Decay,
}

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    /// It does not.
    Constant,
    /// In a straight line.
    Linear {
        /// All steps, the warm-up included; later ones stay at the end.
        steps: u64,
        /// The last one, as a part of the peak.
        end: f64,
    },
    /// Half a cosine (Loshchilov and Hutter, arXiv 1608.03983).
    Cosine {
        /// All steps, the warm-up included; later ones stay at the end.
        steps: u64,
        /// The last one, as a part of the peak.
        end: f64,
    },
}

impl Schedule {
    /// One learning rate for all steps.
    pub fn constant(rate: f64) -> Schedule {
        Schedule { peak: rate, warm_up: 0, decay: Decay::Constant }
    }

    /// The learning rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warm_up {
            return self.peak * (step + 1) as f64 / self.warm_up as f64;
        }
        let part = |steps: u64| {
            let all = steps.saturating_sub(self.warm_up).max(1);
            ((step - self.warm_up) as f64 / all as f64).min(1.0)
        };
        self.peak
            * match self.decay {
                Decay::Constant => 1.0,
                Decay::Linear { steps, end } => 1.0 + (end - 1.0) * part(steps),
                Decay::Cosine { steps, end } => {
                    let wave = (1.0 + (std::f64::consts::PI * part(steps)).cos()) / 2.0;
                    end + (1.0 - end) * wave
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, steps: &[u64]) -> Vec<f64> {
        steps.iter().map(|s| (schedule.at(*s) * 1e6).round() / 1e6).collect()
    }

    #[test]
    fn up_in_a_line_and_down() {
        let of = |decay| Schedule { peak: 2.0, warm_up: 4, decay };
        assert_eq!(rates(of(Decay::Constant), &[0, 1, 3, 4, 99]), [0.5, 1.0, 2.0, 2.0, 2.0]);
        let linear = of(Decay::Linear { steps: 14, end: 0.1 });
        assert_eq!(rates(linear, &[3, 4, 9, 14, 99]), [2.0, 2.0, 1.1, 0.2, 0.2]);
        let cosine = of(Decay::Cosine { steps: 14, end: 0.0 });
        assert_eq!(rates(cosine, &[4, 9, 14, 99]), [2.0, 1.0, 0.0, 0.0]);
        assert_eq!(rates(Schedule::constant(0.25), &[0, 7]), [0.25, 0.25]);
    }

    #[test]
    fn no_steps_are_no_division_by_zero() {
        let decay = Decay::Cosine { steps: 0, end: 0.5 };
        assert_eq!(Schedule { peak: 1.0, warm_up: 0, decay }.at(0), 1.0);
        assert_eq!(Schedule { peak: 1.0, warm_up: 3, decay }.at(5), 0.5);
    }
}
