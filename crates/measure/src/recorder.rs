//! The time of each step of plans while they run.

use std::time::Instant;

use kinglet_runtime::Plan;

use crate::spread::median;
use crate::work::{Work, touched};

/// Takes the time of the steps of plans, stretch by stretch: a stretch is one run, or several that
/// belong together as the parts of a prompt do.
///
/// A plan's runs are told by [`Recorder::observe`], as
/// `kinglet_lm::LanguageModel::extend_observed` calls it.
#[derive(Debug, Default)]
pub struct Recorder {
    steps: Vec<Recorded>,
    touched: usize,
    /// Positions that the sequence holds before the run.
    held: usize,
    stretches: usize,
    last: Option<Instant>,
    /// Whether the plans seen had steps of different counts.
    mixed: bool,
}

/// One step, as recorded.
#[derive(Debug)]
struct Recorded {
    work: Work,
    /// Of all stretches so far.
    total: [u64; 3],
    /// The current stretch.
    seconds: f64,
    /// Of each stretch.
    times: Vec<f64>,
}

/// A step, its work in a stretch on average, and the median of its times.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// What it did.
    pub work: Work,
    /// How long it took.
    pub seconds: f64,
}

impl Recorder {
    /// Starts a stretch before which the sequence, where there is one, holds `held` positions.
    pub fn begin(&mut self, held: usize) {
        self.held = held;
    }

    /// Hears that step `step` of `plan` begins, or, where it is the count of its steps, that the
    /// last has ended.
    pub fn observe(&mut self, plan: &Plan, step: usize) {
        if let (Some(last), Some(before)) = (self.last, step.checked_sub(1)) {
            if let Some(recorded) = self.steps.get_mut(before) {
                recorded.seconds += last.elapsed().as_secs_f64();
            }
            if before + 1 == plan.steps().len() {
                self.last = None;
                return;
            }
        }
        if step == 0 {
            self.count(plan);
        }
        self.last = Some(Instant::now());
    }

    /// Adds the work of a run of `plan`.
    fn count(&mut self, plan: &Plan) {
        let work = Work::of(plan, self.held);
        self.held += plan
            .inputs()
            .next()
            .and_then(|v| v.ty.shape.fixed())
            .map_or(0, |d| d.first().copied().unwrap_or(0));
        self.touched = self.touched.max(touched(plan, &work));
        if self.steps.is_empty() {
            let fresh = |work: Work| Recorded { work, total: [0; 3], seconds: 0.0, times: vec![] };
            self.steps = work.iter().cloned().map(fresh).collect();
        }
        self.mixed |= self.steps.len() != work.len();
        for (recorded, work) in self.steps.iter_mut().zip(work) {
            let more = [work.macs, work.weights, work.activations];
            recorded.total.iter_mut().zip(more).for_each(|(total, more)| *total += more);
        }
    }

    /// Ends a stretch.
    pub fn end(&mut self) {
        self.stretches += 1;
        for step in &mut self.steps {
            step.times.push(std::mem::take(&mut step.seconds));
        }
    }

    /// Bytes that a run touched at most.
    pub fn touched(&self) -> usize {
        self.touched
    }

    /// The steps, in order.
    ///
    /// # Errors
    /// If the plans seen were not of the same steps.
    pub fn steps(&self) -> Result<Vec<Timed>, String> {
        if self.mixed {
            return Err("plans of different steps cannot be put into one table".into());
        }
        let stretches = self.stretches.max(1) as u64;
        let timed = |step: &Recorded| {
            let [macs, weights, activations] = step.total.map(|total| total / stretches);
            let work = Work { macs, weights, activations, ..step.work.clone() };
            Timed { work, seconds: median(&step.times) }
        };
        Ok(self.steps.iter().map(timed).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::two_products;
    use kinglet_runtime::PlanOptions;

    #[test]
    fn stretches_of_two_runs_have_the_work_of_two() {
        let mut plan = Plan::new(&two_products(), &PlanOptions::default()).unwrap();
        let mut recorder = Recorder::default();
        let count = plan.steps().len();
        for _ in 0..3 {
            recorder.begin(0);
            for _ in 0..2 {
                for step in 0..count {
                    recorder.observe(&plan, step);
                    plan.run_step(step).unwrap();
                }
                recorder.observe(&plan, count);
                // Time between runs is no step's.
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            recorder.end();
        }
        let steps = recorder.steps().unwrap();
        let once = Work::of(&plan, 0);
        assert_eq!(steps.len(), once.len());
        for (step, once) in steps.iter().zip(once) {
            assert_eq!(step.work.macs, 2 * once.macs);
            assert_eq!(step.work.bytes(), 2 * once.bytes());
        }
        let all: f64 = steps.iter().map(|step| step.seconds).sum();
        assert!(all > 0.0 && all < 0.02, "{all}");
    }
}
