//! Loaders on damaged files: every answer is an error or a valid model, without a panic, without
//! more memory than 4 times the file and 64 MB, and without hanging. What loads is used: graphs are
//! planned and, where that is cheap, run; of other files all that they hold is read.
//!
//! A failure names the file and the seed; `KINGLET_HOSTILE=FILE:SEED` repeats that case alone.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kinglet_formats::gguf::{Gguf, Value};
use kinglet_formats::{onnx, tflite};
use kinglet_graph::{Bytes, Graph, ValueId};
use kinglet_runtime::{Plan, PlanOptions, Pool};
use kinglet_testing::{Counting, Layout, Specimen};

#[global_allocator]
static MEMORY: Counting = Counting::new();

/// The counts are of the whole process: where tests share one, they take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Damaged files of each format, over all its specimens.
const CORRUPTIONS: usize = 20_000;
/// Places at which each specimen is cut.
const CUTS: usize = 200;
/// Far more than any case takes, on a busy machine too.
const HANG: Duration = Duration::from_secs(120);

/// A plan is made up to this much traffic, and run up to this much work, so that tens of thousands
/// fit into minutes.
const PLANNED_BYTES: u64 = 1 << 28;
const RUN_BYTES: u64 = 1 << 24;
const RUN_MACS: u64 = 4_000_000;

/// How one format is read, and the files to damage, each with its share of the corruptions.
struct Format<T> {
    layout: Layout,
    load: fn(Bytes) -> Result<T, String>,
    /// Uses what was loaded; an error on the way is a fine answer.
    exercise: fn(&T) -> Reached,
    files: Vec<(PathBuf, usize)>,
}

#[test]
fn tflite_files() {
    let Some(models) = kinglet_testing::models() else { return };
    let names = [
        ("tiny/hello_world_float.tflite", 3),
        ("tiny/hello_world_int8.tflite", 3),
        ("tiny/micro_speech_quantized.tflite", 3),
        ("vision/keras_lstm_mnist_ptq.tflite", 5),
        ("tiny/keyword_scrambled.tflite", 3),
        ("tiny/kws_ref_model.tflite", 2),
        ("tiny/str_ww_ref_model.tflite", 2),
        ("tiny/pretrainedResnet_quant.tflite", 1),
        ("vision/deeplabv3_mnv2_pascal_quant.tflite", 1),
        ("vision/movenet_single_pose_lightning_ptq.tflite", 1),
    ];
    let files = names.map(|(name, share)| (models.join(name), share)).into();
    let load = |bytes: Bytes| tflite::parse(bytes).map_err(|e| e.to_string());
    survive(&Format { layout: Layout::Words, load, exercise: plan_and_run, files });
}

#[test]
fn onnx_files() {
    let Some(suite) = kinglet_testing::onnx_suite() else { return };
    let names = [
        ("light/test_squeezenet", 2),
        ("light/test_shufflenet", 1),
        ("light/test_resnet50", 1),
        ("pytorch-converted/test_Conv2d_groups", 2),
        ("pytorch-converted/test_Linear", 2),
        ("pytorch-operator/test_operator_repeat_dim_overflow", 1),
        ("simple/test_expand_shape_model1", 2),
        ("node/test_qlinearconv", 2),
        ("node/test_qlinearmatmul_2D_uint8_float32", 1),
        ("node/test_lstm_with_peepholes", 2),
        ("node/test_if", 2),
        ("node/test_loop11", 2),
        ("node/test_scan9_sum", 2),
        ("node/test_resize_upsample_sizes_nearest", 1),
        ("node/test_reshape_reordered_last_dims", 1),
        ("node/test_averagepool_2d_pads_count_include_pad", 1),
        ("node/test_constantofshape_float_ones", 1),
        ("node/test_range_float_type_positive_delta_expanded", 1),
    ];
    let files = names.map(|(name, share)| (suite.join(name).join("model.onnx"), share)).into();
    let load = |bytes: Bytes| onnx::parse(bytes, None).map_err(|e| e.to_string());
    survive(&Format { layout: Layout::Varints, load, exercise: plan_and_run, files });
}

#[test]
fn gguf_files() {
    let Some(models) = kinglet_testing::models() else { return };
    let names = [
        ("encodings/Q2_K.gguf", 3),
        ("encodings/TQ1_0.gguf", 3),
        ("encodings/IQ3_S.gguf", 2),
        ("encodings/MXFP4_MOE.gguf", 1),
        ("encodings/BF16.gguf", 1),
        ("lm/tinystories-260k-f32.gguf", 3),
    ];
    let files = names.map(|(name, share)| (models.join(name), share)).into();
    let load = |bytes: Bytes| Gguf::parse(bytes).map_err(|e| e.to_string());
    survive(&Format { layout: Layout::Numbers, load, exercise: read_all, files });
}

/// Reads every value and the start and end of every tensor.
fn read_all(file: &Gguf) -> Reached {
    for (_, value) in file.metadata.iter() {
        let read = value.to_string().len()
            + value.array_of_strings().map_or(0, |texts| texts.len())
            + value.array_of_f32().map_or(0, |numbers| numbers.len())
            + value.array_of_i32().map_or(0, |numbers| numbers.len())
            + usize::from(Value::as_u64(value).is_some());
        assert!(read > 0);
    }
    for (_, tensor) in file.tensors.iter() {
        let (len, _) = tensor.dtype().block();
        let mut block = vec![0.0; len];
        for from in [0, tensor.view().len() - len] {
            if tensor.view().decode(from, &mut block).is_err() {
                return Reached::Loaded;
            }
        }
    }
    Reached::Ran
}

fn survive<T>(format: &Format<T>) {
    let turn: MutexGuard<'_, ()> = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let only = std::env::var("KINGLET_HOSTILE").ok();
    let watch = Watch::start();
    let shares: usize = format.files.iter().map(|(_, share)| share).sum();
    let mut tally = Tally::default();
    for (path, share) in &format.files {
        let file = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = short_name(path);
        let specimen = Specimen::new(file, format.layout);
        let subject = Subject { name: &name, format, watch: &watch };

        if only.is_none() {
            let whole = Bytes::new(Arc::new(specimen.bytes().to_vec()));
            (format.load)(whole).unwrap_or_else(|e| panic!("{name}, undamaged: {e}"));
            for cut in specimen.cuts(CUTS) {
                let what = format!("cut to {cut} bytes");
                subject.check(specimen.bytes()[..cut].to_vec(), &what, &mut tally);
            }
        }
        for seed in 0..(CORRUPTIONS * share).div_ceil(shares) as u64 {
            let case = format!("{name}:{seed}");
            if only.as_ref().is_some_and(|only| *only != case) {
                continue;
            }
            let (bytes, what) = specimen.damaged(seed);
            subject.check(bytes, &format!("seed {seed}: {what}"), &mut tally);
        }
    }
    println!("{tally:?}");
    assert!(tally.failures.is_empty(), "{}", tally.failures.join("\n"));
    assert!(only.is_some() || tally.loaded > 0 && tally.refused > 0 && tally.ran > 0, "{tally:?}");
    drop(turn);
}

/// What became of the cases.
#[derive(Debug, Default)]
struct Tally {
    refused: usize,
    loaded: usize,
    planned: usize,
    ran: usize,
    failures: Vec<String>,
}

/// One file, and how to load it.
struct Subject<'a, T> {
    name: &'a str,
    format: &'a Format<T>,
    watch: &'a Watch,
}

impl<T> Subject<'_, T> {
    /// Loads and uses one damaged file; whether it loaded. Failures are noted and not fatal,
    /// so that one run shows them all.
    fn check(&self, bytes: Vec<u8>, what: &str, tally: &mut Tally) -> bool {
        let case = format!("{}, {what}", self.name);
        let limit = 4 * bytes.len() + (64 << 20);
        let bytes = Bytes::new(Arc::new(bytes));
        let _timed = self.watch.case(&case);
        let mut fail = |problem: String| {
            eprintln!("{case}: {problem}");
            tally.failures.push(format!("{case}: {problem}"));
        };
        let (loaded, peak) = MEMORY.peak_of(|| caught(|| (self.format.load)(bytes)));
        if peak > limit {
            fail(format!("loading took {peak} bytes, over the limit of {limit}"));
        }
        let loaded = match loaded {
            Err(panic) => {
                fail(format!("loading panicked: {panic}"));
                return false;
            }
            Ok(Err(message)) => {
                if message.trim().is_empty() {
                    fail("an error without words".into());
                }
                tally.refused += 1;
                return false;
            }
            Ok(Ok(loaded)) => loaded,
        };
        tally.loaded += 1;
        match caught(|| (self.format.exercise)(&loaded)) {
            Err(panic) => fail(format!("using it panicked: {panic}")),
            Ok(reached) => {
                tally.planned += usize::from(reached >= Reached::Planned);
                tally.ran += usize::from(reached >= Reached::Ran);
            }
        }
        true
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Loaded,
    Planned,
    Ran,
}

/// Plans and runs the graph where that is cheap; an error on the way is a fine answer.
fn plan_and_run(graph: &Graph) -> Reached {
    thread_local! {
        static POOL: Arc<Pool> = Arc::new(Pool::new(1));
    }
    let mut inferred = graph.clone();
    if kinglet_graph::infer(&mut inferred, kinglet_graph::Fold::Shapes).is_err() {
        return Reached::Loaded;
    }
    let cost = inferred.cost().total;
    if cost.bytes > PLANNED_BYTES {
        return Reached::Loaded;
    }
    let sizes = |id: &ValueId| {
        inferred.value(*id).ty.shape.dims()?.iter().map(|n| n.fixed().or(Some(1))).collect()
    };
    let options = PlanOptions {
        input_shapes: inferred.inputs.iter().map(sizes).collect(),
        pool: Some(POOL.with(Arc::clone)),
        ..PlanOptions::default()
    };
    let Ok(mut plan) = Plan::new(graph, &options) else { return Reached::Loaded };
    if cost.bytes > RUN_BYTES || cost.macs > RUN_MACS {
        return Reached::Planned;
    }
    let inputs = plan.inputs().len();
    for i in 0..inputs {
        plan.input_mut(i).fill(1);
    }
    match plan.run() {
        Ok(()) => Reached::Ran,
        Err(_) => Reached::Planned,
    }
}

thread_local! {
    static WITHIN: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `work`; a panic becomes its message and place, without being printed.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            LAST_PANIC.with_borrow_mut(|last| *last = info.to_string().replace('\n', " "));
            if !WITHIN.get() {
                usual(info);
            }
        }));
    });
    WITHIN.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    WITHIN.set(false);
    result.map_err(|_: Box<dyn Any + Send>| LAST_PANIC.take())
}

fn short_name(path: &Path) -> String {
    let name = match path.file_name() {
        Some(name) if name == "model.onnx" => path.parent().and_then(Path::file_name),
        name => name,
    };
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// Ends the process, naming the case, where one takes longer than [`HANG`].
struct Watch {
    shared: Arc<(Mutex<Watched>, Condvar)>,
}

#[derive(Default)]
struct Watched {
    case: Option<(String, Instant)>,
    over: bool,
}

impl Watch {
    fn start() -> Watch {
        let shared = Arc::new((Mutex::new(Watched::default()), Condvar::new()));
        let seen = shared.clone();
        std::thread::spawn(move || {
            let (watched, wake) = &*seen;
            let mut now = watched.lock().expect("no holder panics");
            while !now.over {
                if let Some((case, began)) = &now.case
                    && began.elapsed() > HANG
                {
                    eprintln!("HANG: {case}: longer than {HANG:?}");
                    std::process::exit(101);
                }
                now = wake.wait_timeout(now, Duration::from_secs(1)).expect("as above").0;
            }
        });
        Watch { shared }
    }

    /// Times the case until the guard is dropped.
    fn case(&self, name: &str) -> impl Drop {
        struct Guard<'a>(&'a Watch);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.set(|watched| watched.case = None);
            }
        }
        self.set(|watched| watched.case = Some((name.to_string(), Instant::now())));
        Guard(self)
    }

    fn set(&self, change: impl FnOnce(&mut Watched)) {
        change(&mut self.shared.0.lock().expect("no holder panics"));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.set(|watched| watched.over = true);
        self.shared.1.notify_all();
    }
}
