//! Measuring the device.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use kinglet_kernels::aligned::Aligned;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::peak::{self, Arithmetic, Peak};

use crate::choices::{CHANNELS, Convolution};
use crate::pin;
use crate::profile::{ConvolutionRate, CoreRate, PeakRate, Profile, Rate, ReadRate};
use crate::system::{Cache, System};

/// How long one measurement takes; several make a [`Rate`].
const WINDOW: Duration = Duration::from_millis(20);
const REPEATS: usize = 5;
/// What measuring all cores one by one may take.
const CORES: Duration = Duration::from_secs(3);
/// Rounds of an arithmetic loop between two looks at the clock: some microseconds.
const ROUNDS: u32 = 2000;
/// Bytes read at least between two looks at the clock, likewise.
const READ_AT_ONCE: usize = 1 << 20;
/// The smallest amount that is read over and over.
const FIRST_SIZE: usize = 8 << 10;

/// Measures the device `system`, some seconds long. `say` is told what is measured next.
pub fn probe(system: System, say: &mut dyn FnMut(&str)) -> Profile {
    let began = Instant::now();
    let threads = system.identity.usable;
    let isas = Isa::available();
    let best = *isas.last().unwrap_or(&Isa::Portable);
    // Clocks rise under work.
    if let Some(peak) = Peak::all(best).next() {
        rate(threads, None, Duration::from_millis(100), 1, &of(peak));
    }

    let whole = beyond_caches(&system.caches);
    let mut memory = Memory::new(best, threads, whole);
    say("memory");
    memory.measure();
    let counts = if threads > 1 { vec![1, threads] } else { vec![1] };
    let mut peaks = Vec::new();
    for peak in isas.iter().flat_map(|isa| Peak::all(*isa)) {
        say(&format!("arithmetic: {} {}", peak.isa().name(), peak.arithmetic().name()));
        peaks.extend(counts.iter().map(|threads| PeakRate {
            isa: peak.isa().name().into(),
            arithmetic: peak.arithmetic().name().into(),
            threads: *threads,
            gmac_s: rate(*threads, None, WINDOW, REPEATS, &of(peak)),
        }));
    }

    say("memory");
    memory.measure();
    say("caches");
    let reads = by_size(best, &counts, whole);
    let caches_measured = system.caches.is_empty();
    let caches = match caches_measured {
        true => steps(&reads),
        false => system.caches.clone(),
    };
    say("convolutions");
    let convolutions = CHANNELS.iter().map(|channels| convolution(best, *channels)).collect();
    let cores = one_by_one(best, &system.cpus, whole, say);
    say("memory");
    memory.measure();
    let memory = memory.rates();
    let seconds = (began.elapsed().as_secs_f64() * 1e3).round() / 1e3;
    let unmeasured = Profile::unmeasured(&system);
    Profile {
        cores,
        caches,
        caches_measured,
        peaks,
        memory,
        reads,
        convolutions,
        seconds,
        ..unmeasured
    }
}

/// Work that is done over and over by one thread; it says how much it has done.
type Work = Box<dyn FnMut() -> u64>;

/// What each thread does to run a loop of arithmetic.
fn of(peak: Peak) -> impl Fn(usize) -> Work + Sync {
    move |_| {
        Box::new(move || {
            black_box(peak.run(black_box(ROUNDS)));
            peak.macs() * u64::from(ROUNDS)
        })
    }
}

/// What each of `threads` threads does to read its part of `bytes`, which it has written before.
fn reader(isa: Isa, threads: usize, bytes: usize) -> impl Fn(usize) -> Work + Sync {
    let words = (bytes / size_of::<i32>() / threads).max(1);
    move |thread| {
        let mut data = Aligned::<i32>::to_fill(words);
        data.iter_mut().enumerate().for_each(|(i, word)| *word = (i + thread) as i32);
        let size = words * size_of::<i32>();
        let times = READ_AT_ONCE.div_ceil(size);
        Box::new(move || {
            black_box(peak::read(isa, &data, times));
            (times * size) as u64
        })
    }
}

/// 10⁹ of what `make`'s works count, a second, by `threads` threads at once. Each thread makes its
/// own work, on the core `cpu` if one is given.
fn rate(
    threads: usize,
    cpu: Option<usize>,
    window: Duration,
    repeats: usize,
    make: &(impl Fn(usize) -> Work + Sync),
) -> Rate {
    summed_up(rates(threads, cpu, window, repeats, make))
}

/// [`rate`], each repeat by itself.
fn rates(
    threads: usize,
    cpu: Option<usize>,
    window: Duration,
    repeats: usize,
    make: &(impl Fn(usize) -> Work + Sync),
) -> Vec<f64> {
    let together = Barrier::new(threads);
    let measure = |thread: usize| {
        // Where pinning fails the core is any; the caller has checked that it may be used.
        cpu.map(pin::to);
        let mut work = make(thread);
        let mut rates = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            together.wait();
            let began = Instant::now();
            let mut done = 0;
            let took = loop {
                done += work();
                let took = began.elapsed();
                if took >= window {
                    break took;
                }
            };
            rates.push(done as f64 / took.as_secs_f64() / 1e9);
        }
        rates
    };
    let measure = &measure;
    let all: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let started: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || measure(thread))).collect();
        // A thread that panics has met a defect, which its own message tells.
        started.into_iter().map(|thread| thread.join().expect("the thread measures")).collect()
    });
    (0..repeats).map(|i| all.iter().map(|rates| rates[i]).sum()).collect()
}

fn summed_up(mut rates: Vec<f64>) -> Rate {
    rates.sort_by(f64::total_cmp);
    let rounded = |rate: f64| (rate * 1e3).round() / 1e3;
    let best = rates.last().copied().unwrap_or(0.0);
    Rate { best: rounded(best), median: rounded(rates[rates.len() / 2]) }
}

fn reading(isa: Isa, threads: usize, bytes: usize, repeats: usize) -> ReadRate {
    let gb_s = rate(threads, None, WINDOW, repeats, &reader(isa, threads, bytes));
    ReadRate { threads, bytes, gb_s }
}

/// Both ways of a convolution of `channels` channels.
fn convolution(isa: Isa, channels: usize) -> ConvolutionRate {
    let by = |winograd: bool| {
        let make = move |_: usize| -> Work {
            let mut convolution = Convolution::new(isa, channels, winograd);
            Box::new(move || {
                convolution.run();
                convolution.macs
            })
        };
        rate(1, None, WINDOW / 2, REPEATS, &make)
    };
    ConvolutionRate { channels, taps_gmac_s: by(false), winograd_gmac_s: by(true) }
}

/// Bytes that no cache holds a good part of, and that the machine has to spare.
fn beyond_caches(caches: &[Cache]) -> usize {
    let last = caches.iter().max_by_key(|cache| cache.level);
    let last = last.map_or(0, |cache| cache.bytes * cache.count);
    let spare = spare_memory().map_or(usize::MAX, |bytes| bytes / 4);
    (8 * last).clamp(256 << 20, 1 << 30).min(spare).max(FIRST_SIZE)
}

/// Memory that may be taken without others having to give any up (proc_meminfo(5)).
fn spare_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// Counts of threads to measure memory with: each up to eight, then every doubling, and all.
fn by_threads(most: usize) -> Vec<usize> {
    let doublings = std::iter::successors(Some(16), |n| Some(n * 2)).take_while(|n| *n < most);
    let mut counts: Vec<usize> = (1..=most.min(8)).chain(doublings).collect();
    if counts.last() != Some(&most) {
        counts.push(most);
    }
    counts
}

/// Rates of memory by count of threads, measured at several times: others who use it come and go.
struct Memory {
    isa: Isa,
    bytes: usize,
    found: Vec<(usize, Vec<f64>)>,
}

impl Memory {
    fn new(isa: Isa, threads: usize, bytes: usize) -> Memory {
        let found = by_threads(threads).into_iter().map(|threads| (threads, Vec::new())).collect();
        Memory { isa, bytes, found }
    }

    fn measure(&mut self) {
        for (threads, found) in &mut self.found {
            let make = reader(self.isa, *threads, self.bytes);
            found.extend(rates(*threads, None, WINDOW, REPEATS, &make));
        }
    }

    fn rates(self) -> Vec<ReadRate> {
        let bytes = self.bytes;
        let rate = |(threads, found)| ReadRate { threads, bytes, gb_s: summed_up(found) };
        self.found.into_iter().map(rate).collect()
    }
}

/// Amounts below `whole`, doubled each time, read by each count of threads.
fn by_size(isa: Isa, counts: &[usize], whole: usize) -> Vec<ReadRate> {
    let sizes = || std::iter::successors(Some(FIRST_SIZE), |n| Some(n * 2));
    let each = |threads: &usize| {
        let threads = *threads;
        sizes().take_while(|n| *n < whole).map(move |n| reading(isa, threads, n, 3))
    };
    counts.iter().flat_map(each).collect()
}

/// Caches as the reading rates of one thread show them: one ends where twice as much is read at
/// less than three quarters of the rate.
fn steps(reads: &[ReadRate]) -> Vec<Cache> {
    let alone: Vec<&ReadRate> = reads.iter().filter(|read| read.threads == 1).collect();
    let falls = alone.windows(2).filter(|pair| pair[1].gb_s.best < 0.75 * pair[0].gb_s.best);
    let mut ends: Vec<usize> = falls.map(|pair| pair[0].bytes).collect();
    // A fall that takes two doublings is one fall.
    ends.dedup_by(|next, end| *next == 2 * *end);
    let cache = |(level, bytes): (u32, usize)| Cache { level, bytes, shared_by: 1, count: 1 };
    (1..).zip(ends).map(cache).collect()
}

/// Each core by itself; none where threads cannot be kept on cores.
fn one_by_one(isa: Isa, cpus: &[usize], whole: usize, say: &mut dyn FnMut(&str)) -> Vec<CoreRate> {
    if pin::allowed().is_none() {
        return Vec::new();
    }
    let of_kind = |wanted: Arithmetic| Peak::all(isa).find(|peak| peak.arithmetic() == wanted);
    let (Some(int8), Some(f32s)) = (of_kind(Arithmetic::Int8), of_kind(Arithmetic::F32)) else {
        return Vec::new();
    };
    const EACH: usize = 3;
    // Three rates of a core, and about as long again to fill what it reads.
    let window = CORES / (4 * EACH * cpus.len().max(1)) as u32;
    let window = window.clamp(Duration::from_millis(2), WINDOW);
    let bytes = whole / 4;
    let measure = |cpu: usize, say: &mut dyn FnMut(&str)| {
        say(&format!("core {cpu}"));
        let cpu_of = Some(cpu);
        CoreRate {
            cpu,
            int8_gmac_s: rate(1, cpu_of, window, EACH, &of(int8)),
            f32_gmac_s: rate(1, cpu_of, window, EACH, &of(f32s)),
            read_gb_s: rate(1, cpu_of, window, EACH, &reader(isa, 1, bytes)),
        }
    };
    cpus.iter().map(|cpu| measure(*cpu, say)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: usize, best: f64) -> ReadRate {
        ReadRate { threads: 1, bytes, gb_s: Rate { best, median: best } }
    }

    #[test]
    fn caches_end_where_reading_slows() {
        let rates = [
            (8, 200.0),
            (16, 205.0),
            (32, 200.0),
            (64, 100.0),
            (128, 98.0),
            (256, 99.0),
            (512, 97.0),
            (1024, 70.0),
            (2048, 50.0),
            (4096, 49.0),
            (8192, 25.0),
            (16384, 24.0),
        ];
        let reads: Vec<_> = rates.iter().map(|(kb, rate)| read(kb << 10, *rate)).collect();
        let ends: Vec<_> = steps(&reads).iter().map(|c| (c.level, c.bytes >> 10)).collect();
        assert_eq!(ends, [(1, 32), (2, 512), (3, 4096)]);
        assert_eq!(steps(&[]), []);
    }

    #[test]
    fn counts_of_threads() {
        assert_eq!(by_threads(1), [1]);
        assert_eq!(by_threads(2), [1, 2]);
        assert_eq!(by_threads(12), [1, 2, 3, 4, 5, 6, 7, 8, 12]);
        assert_eq!(by_threads(64), [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64]);
    }

    #[test]
    fn what_is_read_is_more_than_caches_hold() {
        let cache = |level, bytes, count| Cache { level, bytes, shared_by: 1, count };
        let most = spare_memory().map_or(usize::MAX, |bytes| bytes / 4);
        assert_eq!(beyond_caches(&[]), (256 << 20).min(most));
        let large = beyond_caches(&[cache(1, 32 << 10, 8), cache(3, 32 << 20, 2)]);
        assert_eq!(large, (512 << 20).min(most));
    }

    #[test]
    fn work_is_counted() {
        let counted = |_: usize| -> Work {
            Box::new(|| {
                std::thread::sleep(Duration::from_millis(1));
                1_000_000
            })
        };
        let rate = rate(3, None, Duration::from_millis(5), 3, &counted);
        // Three threads of at most 10^9 a second each.
        assert!(rate.best <= 3.0 && rate.best > 0.0 && rate.median <= rate.best, "{rate:?}");
    }

    #[test]
    fn reading_has_a_rate() {
        let size = 1 << 20;
        for threads in [1, 2] {
            let read = reading(Isa::Portable, threads, size, 2);
            assert!(read.gb_s.median > 0.0 && read.bytes == size);
        }
    }
}
