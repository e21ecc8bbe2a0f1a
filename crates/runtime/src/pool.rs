//! A thread pool for work of microseconds: workers spin briefly, then sleep.
//!
//! The caller works too, and waits only for workers that took part: one that the system keeps
//! from its core before it takes a task does not hold up a run. Where one is kept from its core in
//! the midst of a task, the caller soon sleeps too, so that the system has a core to put it on.
//!
//! Each worker has its own share of a job's tasks, the same in every job, and takes from the
//! others' when it has done that: what one step of a plan wrote is in the cache of the core that
//! reads it in the next, and a slower core does less.

use kinglet_graph::AlignedBytes;
use std::cell::UnsafeCell;
use std::hint;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle, Thread};

/// Turns of the spin loop before a worker sleeps: some tens of microseconds, the time between two
/// steps of a plan.
const SPINS: usize = 20_000;

/// In [`Shared::gate`]: whether workers may join, above the count of those that have.
const OPEN: u64 = 1 << 15;
const COUNT: u64 = OPEN - 1;
const EPOCH: u64 = 1 << 16;

type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

struct Job {
    run: *const Task<'static>,
    tasks: usize,
}

/// The number of the next task of one worker's share; on a line of its own, as each worker writes
/// to its own mostly.
#[repr(align(128))]
struct Next(AtomicUsize);

struct Shared {
    /// The job's number, whether it is open, and how many workers are in it.
    gate: AtomicU64,
    job: UnsafeCell<Job>,
    /// One for each worker.
    next: Box<[Next]>,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// The caller, and whether it is one, that sleeps until the last worker has left.
    sleeper: Mutex<Option<Thread>>,
    sleeps: AtomicBool,
}

// SAFETY: `job` is written by the one caller (which holds `&mut`-like access through the pool's
// lock) while the gate is closed and empty, and read only by workers that joined an open gate;
// joining acquires what opening released.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer is only dereferenced between joining and leaving.
unsafe impl Send for Shared {}

struct Worker {
    asleep: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

/// Bytes of scratch that each thread of a pool owns, for kernels to use while they run a task.
pub const WORKER_SCRATCH: usize = 32 << 10;

struct Scratch(UnsafeCell<AlignedBytes>);

// SAFETY: each is used by the one task that runs with its worker's number, as the contract of
// `Pool::scratch` says.
unsafe impl Sync for Scratch {}

/// Threads that share out tasks. One job runs at a time; a second caller waits.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    scratch: Vec<Scratch>,
    busy: Mutex<()>,
}

impl Pool {
    /// A pool in which `threads` work, the caller included; at least one.
    pub fn new(threads: usize) -> Pool {
        fn nothing(_: usize, _: usize) {}
        let threads = threads.clamp(1, COUNT as usize);
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            job: UnsafeCell::new(Job { run: &nothing as *const Task<'static>, tasks: 0 }),
            next: (0..threads).map(|_| Next(AtomicUsize::new(0))).collect(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleeper: Mutex::new(None),
            sleeps: AtomicBool::new(false),
        });
        // A thread that can't be had leaves a smaller pool, which gives the same results.
        let workers = (1..threads)
            .map_while(|index| {
                let asleep = Arc::new(AtomicBool::new(false));
                let (shared, flag) = (shared.clone(), asleep.clone());
                let handle = thread::Builder::new()
                    .name(format!("kinglet-{index}"))
                    .spawn(move || shared.work(index, &flag))
                    .ok()?;
                Some(Worker { asleep, handle: Some(handle) })
            })
            .collect::<Vec<_>>();
        let own = || Scratch(UnsafeCell::new(AlignedBytes::zeros(WORKER_SCRATCH)));
        let scratch = (0..=workers.len()).map(|_| own()).collect();
        Pool { shared, workers, scratch, busy: Mutex::new(()) }
    }

    /// The [`WORKER_SCRATCH`] bytes, aligned to 64, that belong to worker number `worker`.
    ///
    /// # Safety
    /// Call it from a task that [`Pool::run`] called with this number, and let go of the bytes
    /// before the task ends or asks again.
    #[expect(clippy::mut_from_ref, reason = "each worker number is one task's at a time")]
    pub(crate) unsafe fn scratch(&self, worker: usize) -> &mut [u8] {
        // SAFETY: no two tasks have one number at one time, so nobody else uses these bytes.
        unsafe { (*self.scratch[worker].0.get()).as_mut() }
    }

    /// Calls `work` on this thread with [`WORKER_SCRATCH`] bytes, aligned to 64, while no other
    /// caller runs. It must not call this pool.
    pub(crate) fn alone<R>(&self, work: impl FnOnce(&mut [u8]) -> R) -> R {
        let _busy = self.busy.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: worker number 0 is the caller's, and the lock keeps other callers out.
        work(unsafe { self.scratch(0) })
    }

    /// How many threads work, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i, worker)` once for each `i < tasks`, on any worker `< self.threads()`, and
    /// returns when all are done. A task must not call this. No two calls at one time have the same worker number. Panics
    /// if a task did.
    pub fn run(&self, tasks: usize, task: impl Fn(usize, usize) + Sync) {
        // Worker number 0 is the caller's, so callers take turns with single tasks too.
        let busy = self.busy.lock().unwrap_or_else(|e| e.into_inner());
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(|i| task(i, 0));
            return;
        }
        let shared = &*self.shared;
        let run: &Task<'_> = &task;
        // SAFETY: the gate is closed and no worker is in it (the last `run` waited for that), so
        // nothing reads the job. The pointer outlives its use: this function closes the gate and
        // waits for every worker that joined before it returns, also when `task` panics.
        unsafe {
            let run = std::mem::transmute::<*const Task<'_>, *const Task<'static>>(run);
            *shared.job.get() = Job { run, tasks };
        }
        for (worker, next) in shared.next.iter().enumerate() {
            next.0.store(shared.share(worker, tasks).start, Ordering::Relaxed);
        }
        let epoch = (shared.gate.load(Ordering::Relaxed) / EPOCH + 1) * EPOCH;
        shared.gate.store(epoch | OPEN, Ordering::SeqCst);
        for worker in self.workers.iter().take(tasks - 1) {
            if worker.asleep.load(Ordering::SeqCst)
                && let Some(handle) = &worker.handle
            {
                handle.thread().unpark();
            }
        }
        let result = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(&task, tasks, 0)));
        shared.gate.fetch_and(!OPEN, Ordering::SeqCst);
        shared.wait_for_the_last();
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        drop(busy);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        assert!(!panicked, "a task panicked on another thread");
    }

    /// Splits `data` into pieces of `len` elements (the last may be shorter) and calls
    /// `task(i, piece, worker)` once for each, as [`Pool::run`] does.
    pub fn for_chunks<T: Send>(
        &self,
        data: &mut [T],
        len: usize,
        task: impl Fn(usize, &mut [T], usize) + Sync,
    ) {
        let len = len.max(1);
        let total = data.len();
        let base = SendPtr(data.as_mut_ptr());
        self.run(total.div_ceil(len), |i, worker| {
            let start = i * len;
            // SAFETY: pieces of different `i` do not overlap, each `i` is called once, and
            // `data` stays borrowed until `run` returns.
            let piece =
                unsafe { std::slice::from_raw_parts_mut(base.at(start), len.min(total - start)) };
            task(i, piece, worker);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            if let Some(handle) = worker.handle.take() {
                handle.thread().unpark();
                // A worker's panics are caught; there is nothing to learn from its end.
                let _ = handle.join();
            }
        }
    }
}

impl Shared {
    /// Returns when no worker is in the closed gate.
    fn wait_for_the_last(&self) {
        let left = |order| self.gate.load(order) & COUNT == 0;
        for _ in 0..SPINS {
            if left(Ordering::Acquire) {
                return;
            }
            hint::spin_loop();
        }
        *self.sleeper() = Some(thread::current());
        self.sleeps.store(true, Ordering::SeqCst);
        // A worker that left before it could see the flag is seen to have left; a later one wakes
        // this thread. Other wakes mean nothing.
        while !left(Ordering::SeqCst) {
            thread::park();
        }
        self.sleeps.store(false, Ordering::Relaxed);
    }

    /// Whole between any two statements, whoever panicked.
    fn sleeper(&self) -> MutexGuard<'_, Option<Thread>> {
        self.sleeper.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The tasks that worker number `worker` begins with: always the same part of them, so that it
    /// finds in its cache what it wrote in the last job.
    fn share(&self, worker: usize, tasks: usize) -> Range<usize> {
        let shares = self.next.len().min(tasks);
        if worker >= shares {
            return 0..0;
        }
        tasks * worker / shares..tasks * (worker + 1) / shares
    }

    /// Runs the worker's own share, and then what others have not come to of theirs.
    fn take_tasks(&self, task: &Task<'_>, tasks: usize, worker: usize) {
        for offset in 0..self.next.len() {
            let of = (worker + offset) % self.next.len();
            let end = self.share(of, tasks).end;
            loop {
                let i = self.next[of].0.fetch_add(1, Ordering::Relaxed);
                if i >= end {
                    break;
                }
                task(i, worker);
            }
        }
    }

    fn work(&self, worker: usize, asleep: &AtomicBool) {
        let mut seen = 0;
        let mut idle = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let gate = self.gate.load(Ordering::SeqCst);
            let is_new = gate & OPEN != 0 && gate / EPOCH != seen;
            let joined = is_new
                && self
                    .gate
                    .compare_exchange(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok();
            if joined {
                seen = gate / EPOCH;
                idle = 0;
                // SAFETY: the gate was open when this worker joined, so the job was written
                // before, and it is not written again until this worker leaves.
                let (task, tasks) = unsafe {
                    let job = &*self.job.get();
                    (&*job.run, job.tasks)
                };
                let done = catch_unwind(AssertUnwindSafe(|| self.take_tasks(task, tasks, worker)));
                if done.is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                    self.next.iter().for_each(|next| next.0.store(tasks, Ordering::Relaxed));
                }
                self.gate.fetch_sub(1, Ordering::SeqCst);
                if self.sleeps.load(Ordering::SeqCst)
                    && let Some(caller) = &*self.sleeper()
                {
                    caller.unpark();
                }
            } else if idle < SPINS {
                idle += 1;
                hint::spin_loop();
            } else {
                asleep.store(true, Ordering::SeqCst);
                // Work that came between the last look and the flag would not wake us.
                let gate = self.gate.load(Ordering::SeqCst);
                let nothing_new = gate & OPEN == 0 || gate / EPOCH == seen;
                if nothing_new && !self.stop.load(Ordering::SeqCst) {
                    thread::park();
                }
                asleep.store(false, Ordering::SeqCst);
                idle = 0;
            }
        }
    }
}

/// A pointer that tasks on several threads derive disjoint slices from.
pub(crate) struct SendPtr<T>(pub(crate) *mut T);

// SAFETY: a plain address; each use of it says why it does not overlap another's.
unsafe impl<T: Send> Sync for SendPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SendPtr<T> {}

impl<T> SendPtr<T> {
    /// The address `offset` elements on.
    ///
    /// # Safety
    /// As for `pointer::add`.
    pub(crate) unsafe fn at(&self, offset: usize) -> *mut T {
        // SAFETY: passed on to the caller.
        unsafe { self.0.add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, |i, worker| {
                    assert!(worker < threads);
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(2);
        for _ in 0..5 {
            thread::sleep(std::time::Duration::from_millis(20));
            let mut data = vec![0u32; 1000];
            pool.for_chunks(&mut data, 7, |i, piece, _| piece.fill(i as u32));
            assert!(data.iter().enumerate().all(|(i, v)| *v == (i / 7) as u32));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
        let pool = Pool::new(2);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            pool.run(100, |i, _| assert!(i != 50));
        }));
        assert!(panicked.is_err());
        let mut data = vec![0; 64];
        pool.for_chunks(&mut data, 1, |i, piece, _| piece[0] = i);
        assert_eq!(data[63], 63);
    }

    #[test]
    fn a_slower_worker_takes_fewer_tasks() {
        let pool = Pool::new(2);
        let taken = [AtomicUsize::new(0), AtomicUsize::new(0)];
        pool.run(40, |_, worker| {
            // A core of a tenth of the other's speed.
            thread::sleep(std::time::Duration::from_millis(if worker == 1 { 20 } else { 2 }));
            taken[worker].fetch_add(1, Ordering::Relaxed);
        });
        let [fast, slow] = taken.map(|n| n.into_inner());
        assert!(fast + slow == 40 && slow < 20, "{fast} and {slow}");
    }

    #[test]
    fn workers_begin_with_their_own_share() {
        let pool = Pool::new(2);
        for _ in 0..50 {
            let first = [AtomicUsize::new(usize::MAX), AtomicUsize::new(usize::MAX)];
            pool.run(9, |i, worker| {
                let unset = usize::MAX;
                let _ =
                    first[worker].compare_exchange(unset, i, Ordering::Relaxed, Ordering::Relaxed);
                thread::sleep(std::time::Duration::from_micros(50));
            });
            let [caller, other] = first.map(|first| first.into_inner());
            // One that came too late has no task.
            assert!(caller == 0 && other >= 4, "{caller} and {other}");
        }
    }

    #[test]
    fn a_caller_sleeps_while_a_worker_is_kept_from_its_task() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            let done = AtomicUsize::new(0);
            pool.run(2, |_, worker| {
                // The worker has time to come, and then outlasts the caller's spins.
                let millis = if worker == 0 { 2 } else { 20 };
                thread::sleep(std::time::Duration::from_millis(millis));
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = Pool::new(2);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let sum = AtomicUsize::new(0);
                        pool.run(10, |i, _| {
                            sum.fetch_add(i, Ordering::Relaxed);
                        });
                        assert_eq!(sum.load(Ordering::Relaxed), 45);
                    }
                });
            }
        });
    }
}
