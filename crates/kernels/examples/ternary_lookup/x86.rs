//! Both kernels, and what times them.

use std::arch::x86_64::*;
use std::hint::black_box;
use std::time::Instant;

use kinglet_kernels::aligned::Aligned;
use kinglet_kernels::encoded::{CodeLayout, Finish, Product, RoundedRows};
use kinglet_kernels::encoding::Encoding;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::shared::SharedMut;

/// Elements of a row: whole blocks for both, of 256 and of 36.
const K: usize = 2304;
/// Elements that share a scale of the row: four words of AVX-512's codes.
const BLOCK: usize = 36;
/// Elements that share a scale of the weights.
const UNIT: usize = 288;
/// Rows of weights that meet a table while it is in a register.
const PANEL: usize = 128;
/// Bytes from what is multiplied to what memory is asked for.
const AHEAD: usize = 8192;
/// Weights that meet the row: in the second-level cache, and in memory.
const ROWS: [usize; 2] = [8 * PANEL, 1024 * PANEL];
/// Rows until the same come again.
const DIFFERENT: usize = 4 * PANEL;

/// By tables of a row and its scales, and weights, to results.
type Run = unsafe fn(&[u8], &[f32], &[u8], &mut [f32]);

/// A kernel by lookup.
struct Lookup {
    name: &'static str,
    /// Weights that a code stands for, codes of a word, and bytes of that.
    weights: usize,
    codes: usize,
    word: usize,
    run: Run,
    entries: usize,
}

const LOOKUPS: [Lookup; 2] = [
    Lookup { name: "avx512vnni", weights: 3, codes: 3, word: 2, run: avx512, entries: 32 },
    Lookup { name: "avx2", weights: 2, codes: 2, word: 1, run: avx2, entries: 16 },
];

impl Lookup {
    /// For each group of weights, the sums of `x` by every code; where these are looked up in bytes, lower
    /// bytes first.
    fn tables(&self, x: &[i8]) -> Aligned<u8> {
        let mut out = Aligned::zeros(x.len() / self.weights * 2 * self.entries);
        for (x, table) in x.chunks(self.weights).zip(out.chunks_mut(2 * self.entries)) {
            for code in 0..self.entries {
                let digit = |i: usize| (code / 3usize.pow(i as u32) % 3) as i16 - 1;
                let each = x.iter().enumerate().map(|(i, x)| digit(i) * i16::from(*x));
                let [low, high] = each.sum::<i16>().to_le_bytes();
                let (at, next) = if self.word == 1 { (code, self.entries) } else { (2 * code, 1) };
                (table[at], table[at + next]) = (low, high);
            }
        }
        out
    }

    fn unit_bytes(&self) -> usize {
        2 * PANEL + UNIT / (self.weights * self.codes) * self.word * PANEL
    }

    /// Panels: for each unit halves, the scales of all rows, then words of their codes.
    fn pack(&self, trits: impl Fn(usize, usize) -> i8, rows: usize) -> Aligned<u8> {
        let mut out = Aligned::zeros(rows / PANEL * (K / UNIT) * self.unit_bytes());
        for (u, unit) in out.chunks_mut(self.unit_bytes()).enumerate() {
            let (panel, first) = (u / (K / UNIT) * PANEL, u % (K / UNIT) * UNIT);
            let (scales, words) = unit.split_at_mut(2 * PANEL);
            scales.chunks_mut(2).for_each(|s| s.copy_from_slice(&[0, 0x3c]));
            for (at, word) in words.chunks_mut(self.word).enumerate() {
                let (row, group) = (panel + at % PANEL, at / PANEL * self.codes);
                let mut bits = 0;
                for c in 0..self.codes {
                    let digit = |i| {
                        let trit = trits(row, first + (group + c) * self.weights + i) + 1;
                        trit as usize * 3usize.pow(i as u32)
                    };
                    let code: usize = (0..self.weights).map(digit).sum();
                    bits |= code << (c * (8 * self.word / self.codes));
                }
                word.copy_from_slice(&bits.to_le_bytes()[..self.word]);
            }
        }
        out
    }
}

/// # Safety
/// The CPU has AVX-512, and the slices what panels need.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
unsafe fn avx512(tables: &[u8], scales: &[f32], weights: &[u8], out: &mut [f32]) {
    const SIDE: usize = PANEL / 32;
    let mut p = weights.as_ptr();
    for out in out.chunks_mut(PANEL) {
        let mut acc = [[_mm512_setzero_ps(); 2]; SIDE];
        let (mut table, mut scale) = (tables.as_ptr(), scales.as_ptr());
        // SAFETY: there are tables, scales and weights for whole units.
        unsafe {
            for _ in 0..K / UNIT {
                let halves = p;
                p = p.add(2 * PANEL);
                let mut sums = [[_mm512_setzero_ps(); 2]; SIDE];
                for _ in 0..UNIT / BLOCK {
                    let mut ints = [_mm512_setzero_si512(); SIDE];
                    for _ in 0..BLOCK / 9 {
                        let [a, b, c] =
                            [0, 64, 128].map(|at| _mm512_loadu_si512(table.add(at).cast()));
                        table = table.add(192);
                        for ints in &mut ints {
                            _mm_prefetch::<_MM_HINT_T1>(p.wrapping_add(AHEAD).cast());
                            let word = _mm512_loadu_si512(p.cast());
                            p = p.add(64);
                            let a = _mm512_permutexvar_epi16(word, a);
                            let b = _mm512_permutexvar_epi16(_mm512_srli_epi16::<5>(word), b);
                            let c = _mm512_permutexvar_epi16(_mm512_srli_epi16::<10>(word), c);
                            let ab = _mm512_add_epi16(a, b);
                            *ints = _mm512_add_epi16(*ints, _mm512_add_epi16(ab, c));
                        }
                    }
                    let of_row = _mm512_set1_ps(*scale);
                    scale = scale.add(1);
                    for (sums, ints) in sums.iter_mut().zip(ints) {
                        let low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(ints));
                        let high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64::<1>(ints));
                        sums[0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), of_row, sums[0]);
                        sums[1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), of_row, sums[1]);
                    }
                }
                for s in 0..SIDE {
                    for i in 0..2 {
                        let half = _mm256_loadu_si256(halves.add(64 * s + 32 * i).cast());
                        acc[s][i] = _mm512_fmadd_ps(_mm512_cvtph_ps(half), sums[s][i], acc[s][i]);
                    }
                }
            }
            for (out, acc) in out.chunks_mut(16).zip(acc.as_flattened()) {
                _mm512_storeu_ps(out.as_mut_ptr(), *acc);
            }
        }
    }
}

/// # Safety
/// The CPU has AVX2, and the slices what panels need.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2(tables: &[u8], scales: &[f32], weights: &[u8], out: &mut [f32]) {
    const SIDE: usize = 2;
    let unit_bytes = LOOKUPS[1].unit_bytes();
    let panel_bytes = K / UNIT * unit_bytes;
    for (panel, out) in out.chunks_mut(PANEL).enumerate() {
        for (part, out) in out.chunks_mut(32 * SIDE).enumerate() {
            let mut acc = [[_mm256_setzero_ps(); 4]; SIDE];
            let (mut table, mut scale) = (tables.as_ptr(), scales.as_ptr());
            // SAFETY: there are tables, scales and weights for whole units.
            unsafe {
                let mask = _mm256_set1_epi8(15);
                for u in 0..K / UNIT {
                    let unit = weights.as_ptr().add(panel * panel_bytes + u * unit_bytes);
                    let mut p = unit.add(2 * PANEL + 32 * SIDE * part);
                    let mut sums = [[_mm256_setzero_ps(); 4]; SIDE];
                    for _ in 0..UNIT / BLOCK {
                        let mut ints = [[_mm256_setzero_si256(); 2]; SIDE];
                        for _ in 0..BLOCK / 4 {
                            let load = |at: usize| {
                                _mm256_broadcastsi128_si256(_mm_loadu_si128(table.add(at).cast()))
                            };
                            let (low, high) = ([load(0), load(32)], [load(16), load(48)]);
                            table = table.add(64);
                            for (s, ints) in ints.iter_mut().enumerate() {
                                let codes = p.wrapping_add(32 * s);
                                _mm_prefetch::<_MM_HINT_T1>(codes.wrapping_add(AHEAD).cast());
                                let codes = _mm256_loadu_si256(codes.cast());
                                let halves = [
                                    _mm256_and_si256(codes, mask),
                                    _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask),
                                ];
                                for (i, codes) in halves.into_iter().enumerate() {
                                    let low = _mm256_shuffle_epi8(low[i], codes);
                                    let high = _mm256_shuffle_epi8(high[i], codes);
                                    let words = _mm256_unpacklo_epi8(low, high);
                                    ints[0] = _mm256_add_epi16(ints[0], words);
                                    let words = _mm256_unpackhi_epi8(low, high);
                                    ints[1] = _mm256_add_epi16(ints[1], words);
                                }
                            }
                            p = p.add(PANEL);
                        }
                        let of_row = _mm256_set1_ps(*scale);
                        scale = scale.add(1);
                        for (sums, ints) in sums.iter_mut().zip(ints) {
                            for (i, ints) in ints.into_iter().enumerate() {
                                let parts = [
                                    _mm256_castsi256_si128(ints),
                                    _mm256_extracti128_si256::<1>(ints),
                                ];
                                for (h, part) in parts.into_iter().enumerate() {
                                    let v = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(part));
                                    let sum = &mut sums[2 * h + i];
                                    *sum = _mm256_fmadd_ps(v, of_row, *sum);
                                }
                            }
                        }
                    }
                    for s in 0..SIDE {
                        for i in 0..4 {
                            let at = 2 * (32 * (SIDE * part + s) + 8 * i);
                            let half = _mm256_cvtph_ps(_mm_loadu_si128(unit.add(at).cast()));
                            acc[s][i] = _mm256_fmadd_ps(half, sums[s][i], acc[s][i]);
                        }
                    }
                }
                for (out, acc) in out.chunks_mut(8).zip(acc.as_flattened()) {
                    _mm256_storeu_ps(out.as_mut_ptr(), *acc);
                }
            }
        }
    }
}

/// Nanoseconds of a run, the least of many: what else the machine does only adds to it.
fn time(bytes: usize, mut run: impl FnMut()) -> f64 {
    let repeats = (1 << 24) / bytes.min(1 << 24);
    let times = (0..40).map(|_| {
        let start = Instant::now();
        (0..repeats).for_each(|_| run());
        start.elapsed().as_nanos() as f64 / repeats as f64
    });
    times.fold(f64::INFINITY, f64::min)
}

/// GMAC/s and GB/s of `threads` threads, each of which runs what `job` makes it.
fn rates<R: FnMut()>(
    threads: usize,
    rows: usize,
    bytes: usize,
    job: impl Fn() -> R + Sync,
) -> String {
    let times: Vec<f64> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..threads).map(|_| s.spawn(|| time(bytes, job()))).collect();
        threads.into_iter().map(|t| t.join().expect("a thread that timed")).collect()
    });
    let each: f64 = times.iter().map(|ns| 1.0 / ns).sum();
    format!("{:>9.1} ({:.1})", (rows * K) as f64 * each, bytes as f64 * each)
}

fn trit(row: usize, at: usize) -> i8 {
    ((row * 7 + at * 5 + row * at % 11) % 3) as i8 - 1
}

fn by_lookup(lookup: &Lookup, x: &[i8], rows: usize, threads: usize) -> String {
    let (tables, scales) = (lookup.tables(x), vec![1.0; K / BLOCK]);
    let packed = lookup.pack(trit, DIFFERENT);
    let bytes = packed.len() * rows / DIFFERENT;
    rates(threads, rows, bytes, || {
        let mut weights = Aligned::zeros(bytes);
        weights.chunks_mut(packed.len()).for_each(|w| w.copy_from_slice(&packed));
        let mut out = vec![0.0; rows];
        let (tables, scales) = (&tables, &scales);
        let run = move |out: &mut [f32]| {
            // SAFETY: the CPU has the instructions, and the slices are of these sizes.
            unsafe { (lookup.run)(tables, scales, &weights, out) };
        };
        run(&mut out);
        for (row, got) in out.iter().enumerate().take(DIFFERENT) {
            let product = |(at, x): (usize, &i8)| i32::from(trit(row, at)) * i32::from(*x);
            let want: i32 = x.iter().enumerate().map(product).sum();
            assert_eq!(*got, want as f32, "{} row {row}", lookup.name);
        }
        move || {
            run(&mut out);
            black_box(&out);
        }
    })
}

fn by_dot(isa: Isa, x: &[i8], rows: usize, threads: usize) -> String {
    let layout = CodeLayout::new(isa, Encoding::TQ2_0, rows, K);
    let mut row = Aligned::zeros(layout.row_bytes());
    layout.round(&[&x.iter().map(|x| f32::from(*x)).collect::<Vec<_>>()], &mut row);
    rates(threads, rows, layout.bytes(), || {
        let mut weights = Aligned::zeros(layout.bytes());
        weights.iter_mut().enumerate().for_each(|(i, w)| *w = (i % 61) as u8);
        let (mut out, mut scratch) = (vec![0.0; rows], vec![0; layout.scratch(1)]);
        let row = &row;
        move || {
            let product = Product { layout: &layout, weights: &weights, finish: Finish::default() };
            let given = RoundedRows { data: row, count: 1, targets: None };
            let shared = SharedMut::new(&mut out);
            // SAFETY: nobody else has `out`.
            unsafe { product.run(given, 0..layout.panels(), shared, &mut scratch) };
            black_box(&out);
        }
    })
}

pub fn main() {
    let x: Vec<i8> = (0..K).map(|i| (i * 37 % 255) as u8 as i8).map(|x| x.max(-127)).collect();
    println!("GMAC/s (GB/s of weights): in the cache, from memory, from memory by two threads");
    for lookup in &LOOKUPS {
        let Some(isa) = Isa::available().into_iter().find(|isa| isa.name() == lookup.name) else {
            continue;
        };
        for (rows, threads) in [(ROWS[0], 1), (ROWS[1], 1), (ROWS[1], 2)] {
            let (a, b) = (by_lookup(lookup, &x, rows, threads), by_dot(isa, &x, rows, threads));
            println!("{:11} {threads} threads, {rows:6} rows: lookup {a}, dot {b}", lookup.name);
        }
    }
}
