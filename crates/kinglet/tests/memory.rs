//! Memory on every test model: a run allocates nothing, and the plan keeps near the lower bound.

use std::path::PathBuf;
use std::sync::Mutex;

use kinglet::{Model, Plan, PlanOptions};
use kinglet_testing::Counting;

#[global_allocator]
static MEMORY: Counting = Counting::new();

/// The counts are of the whole process: where tests share one, they take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Every TFLite file among the test models, with a plan of it; none where they are absent.
fn plans() -> Vec<(PathBuf, Plan)> {
    let Some(folder) = kinglet_testing::models() else { return Vec::new() };
    let mut files: Vec<PathBuf> = ["tiny", "vision"]
        .iter()
        .flat_map(|kind| folder.join(kind).read_dir().expect("the folder is readable"))
        .map(|entry| entry.expect("the folder is readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tflite"))
        .collect();
    files.sort();
    assert!(files.len() >= 20, "only {} models found", files.len());
    let plan = |path: PathBuf| {
        let options = PlanOptions { threads: 2, ..PlanOptions::default() };
        let plan = Model::open(&path).and_then(|model| model.plan(options));
        (path, plan.unwrap_or_else(|error| panic!("{error}")))
    };
    files.into_iter().map(plan).collect()
}

/// The steps that allocate, and how often: what to look at when a run does.
fn culprits(plan: &mut Plan) -> String {
    let inner = plan.inner();
    let steps: Vec<_> = inner.steps().collect();
    let mut found = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        let before = MEMORY.calls();
        inner.run_step(i).expect("it ran before");
        let calls = MEMORY.calls() - before;
        if calls > 0 {
            let op = inner.graph().node(step.node).op.name();
            found.push(format!("{op} ({}): {calls}", step.kernel));
        }
    }
    found.join(", ")
}

#[test]
fn running_allocates_nothing() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut wrong = Vec::new();
    for (path, mut plan) in plans() {
        let inputs = plan.inputs().len();
        for run in 0..3 {
            for i in 0..inputs {
                plan.inner().input_mut(i).fill(run);
            }
            let before = MEMORY.calls();
            plan.run().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let calls = MEMORY.calls() - before;
            if calls > 0 {
                let steps = culprits(&mut plan);
                wrong.push(format!("{}: run {run}, {calls} times: {steps}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn plans_keep_near_the_lower_bound() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut wrong = Vec::new();
    for (path, mut plan) in plans() {
        let memory = plan.memory();
        assert!(memory.lower_bound > 0, "{}: a bound of nothing", path.display());
        let unplanned = plan.inner().memory().dynamic_values;
        assert_eq!(unplanned, 0, "{}: values that are not planned", path.display());
        if memory.planned as f64 > 1.2 * memory.lower_bound as f64 {
            let (planned, bound) = (memory.planned, memory.lower_bound);
            let ratio = planned as f64 / bound as f64;
            wrong.push(format!("{}: {planned} over {bound}, {ratio:.3}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
