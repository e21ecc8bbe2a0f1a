//! The time of a plan's runs.

use std::time::{Duration, Instant};

use kinglet_graph::GraphError;
use kinglet_runtime::Plan;

use crate::inputs;
use crate::recorder::Recorder;

/// How long runs are repeated where nothing says how often.
const ENOUGH: Duration = Duration::from_secs(2);
/// How often at least, and at most.
const RUNS: (usize, usize) = (10, 2000);
/// Caches, clocks and branch predictors settle.
const WARM: Duration = Duration::from_millis(200);

/// What a plan's runs took.
#[derive(Debug)]
pub struct Runs {
    /// Milliseconds of the first.
    pub first_ms: f64,
    /// Milliseconds of each later one, from before its first step until after its last.
    pub ms: Vec<f64>,
    /// The steps of as many runs more, of which each step was timed.
    pub steps: Recorder,
}

/// Runs `plan` on random inputs, over and over: `repeats` times, or for about two seconds.
///
/// # Errors
/// If a run fails, as one may that takes places in other tensors.
pub fn time(plan: &mut Plan, repeats: Option<usize>) -> Result<Runs, GraphError> {
    let types: Vec<_> = plan.inputs().map(|value| value.ty.dtype).collect();
    let content: Vec<Vec<u8>> = types
        .into_iter()
        .enumerate()
        .map(|(i, dtype)| inputs::tensor(dtype, plan.input_mut(i).len()))
        .collect();
    // A plan may reuse its inputs' memory, so each run gets them anew.
    let set = |plan: &mut Plan| {
        content.iter().enumerate().for_each(|(i, bytes)| plan.input_mut(i).copy_from_slice(bytes));
    };
    let run = |plan: &mut Plan| {
        set(plan);
        let began = Instant::now();
        plan.run()?;
        Ok::<f64, GraphError>(began.elapsed().as_secs_f64() * 1e3)
    };
    let first_ms = run(plan)?;
    let began = Instant::now();
    while repeats.is_none() && began.elapsed() < WARM {
        run(plan)?;
    }
    let mut ms = Vec::new();
    let began = Instant::now();
    let more = |done: usize, took: Duration| match repeats {
        Some(repeats) => done < repeats,
        None => done < RUNS.0 || done < RUNS.1 && took < ENOUGH,
    };
    while more(ms.len(), began.elapsed()) {
        ms.push(run(plan)?);
    }
    let mut steps = Recorder::default();
    let count = plan.steps().len();
    let began = Instant::now();
    let mut done = 0;
    while more(done, began.elapsed()) {
        set(plan);
        steps.begin(0);
        for step in 0..count {
            steps.observe(plan, step);
            plan.run_step(step)?;
        }
        steps.observe(plan, count);
        steps.end();
        done += 1;
    }
    Ok(Runs { first_ms, ms, steps })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::two_products;
    use kinglet_runtime::PlanOptions;

    #[test]
    fn a_plan_runs_as_often_as_it_should() {
        let mut plan = Plan::new(&two_products(), &PlanOptions::default()).unwrap();
        let runs = time(&mut plan, Some(3)).unwrap();
        assert_eq!(runs.ms.len(), 3);
        assert!(runs.first_ms > 0.0 && runs.ms.iter().all(|ms| *ms > 0.0));
        assert_eq!(runs.steps.steps().unwrap().len(), plan.steps().len());
    }
}
