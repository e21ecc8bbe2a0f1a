//! Times attention of a prompt's last rows, on one thread, and tells how far results are off.
//!
//!     cargo run --release -p kinglet-kernels --example attention -- [POSITIONS] [KEY] [GROUP]
//!
//! A head of keys and values held as halves, 512 rows whose queries share it, by instruction set and by
//! rows of a task. Times are the best of several. Errors are against f64, in thousandths of the results'
//! size: of the same cells, and, in the first line, of cells that are not rounded to halves.

use std::time::Instant;

use kinglet_kernels::isa::{ISA_VARIABLE, Isa};
use kinglet_kernels::rows_attention::{
    Biases, HeadAttention, Held, PAGE, Pages, Part, QueryRow, Seen,
};
use kinglet_kernels::shared::SharedMut;

/// Rows that are computed.
const ROWS: usize = 512;
/// Of them, how many are compared with f64.
const COMPARED: usize = 16;

/// About normal, of a seed of its own for each call.
fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum()).collect()
}

/// Attention in f64 of a query over the first `seen` keys and values.
fn exact(query: &[f32], keys: &[f32], values: &[f32], seen: usize, scale: f64) -> Vec<f64> {
    let width = query.len();
    let scores: Vec<f64> = (0..seen)
        .map(|i| {
            let key = &keys[i * width..][..width];
            scale * query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()
        })
        .collect();
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let (mut total, mut out) = (0.0, vec![0.0; width]);
    for (score, value) in scores.iter().zip(values.chunks(width)) {
        let weight = (score - top).exp();
        total += weight;
        out.iter_mut().zip(value).for_each(|(o, v)| *o += weight * f64::from(*v));
    }
    out.iter_mut().for_each(|o| *o /= total);
    out
}

/// √(Σ (a − b)² / Σ b²)
fn off(a: &[f64], b: &[f64]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (error / b.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
}

fn main() {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let of = |i: usize, default: usize| given.get(i).copied().unwrap_or(default);
    let (positions, key, group) =
        (of(0, 8192).next_multiple_of(PAGE).max(ROWS), of(1, 64), of(2, 4));
    let pages = Pages { held: Held::F16, heads: 1, key, value: key };
    let mut state = vec![0; positions / PAGE * pages.page_bytes()];
    // Scores of some size, so that weights differ much.
    let (keys, values) = (normal(positions * key, 1), normal(positions * key, 2));
    let queries: Vec<f32> = normal(ROWS * group * key, 3).iter().map(|x| 2.0 * x).collect();
    let (mut held_keys, mut held_values) = (keys.clone(), values.clone());
    for (cell, (key_of, value_of)) in keys.chunks(key).zip(values.chunks(key)).enumerate() {
        let page = &mut state[pages.page_of(cell, 0)];
        pages.take_in(Isa::Portable, page, cell, key_of, value_of);
        for (part, held) in [(Part::Key, &mut held_keys), (Part::Value, &mut held_values)] {
            let mut bytes = vec![0; pages.part_bytes(part)];
            pages.get(page, cell, part, &mut bytes);
            pages.held.decode(Isa::Portable, &bytes, &mut held[cell * key..][..key]);
        }
    }
    let table: Vec<i32> = (0..positions as i32 / PAGE as i32).collect();
    let seen = Seen { pages: &table, past: positions, chain: &[] };
    let scale = 1.0 / (key as f32).sqrt();
    let compared = |keys: &[f32], values: &[f32]| -> Vec<f64> {
        let rows = (0..COMPARED).map(|i| i * (ROWS / COMPARED));
        let of_row = |row: usize| {
            let seen = positions - ROWS + row + 1;
            let queries = queries[row * group * key..][..group * key].chunks(key);
            queries.flat_map(move |q| exact(q, keys, values, seen, f64::from(scale)))
        };
        rows.flat_map(of_row).collect()
    };
    let want = compared(&held_keys, &held_values);
    println!("{positions} positions, keys of {key}, {group} heads of queries");
    println!("halves for singles: off by {:.4} ‰", 1e3 * off(&want, &compared(&keys, &values)));
    let macs: usize = (0..ROWS).map(|i| (positions - ROWS + i + 1) * group * 2 * key).sum();
    let every = Isa::available();
    let forced = std::env::var_os(ISA_VARIABLE).and_then(|_| Isa::from_env().ok());
    for isa in every.into_iter().filter(|isa| forced.is_none_or(|forced| forced == *isa)) {
        let head =
            HeadAttention { isa, pages, group, value: key, scale, softcap: None, window: None };
        for rows in [8, 16, 32, 64] {
            let mut scratch = vec![0; head.scratch(rows) + 64];
            let mut out = vec![0.0; ROWS * group * key];
            let mut best = f64::MAX;
            for _ in 0..if isa == Isa::Portable { 1 } else { 5 } {
                let start = Instant::now();
                let out = SharedMut::new(&mut out);
                for first in (0..ROWS).step_by(rows) {
                    let task: Vec<_> = (first..first + rows)
                        .map(|row| QueryRow {
                            position: positions - ROWS + row,
                            query: &queries[row * group * key..][..group * key],
                            out: row * group * key,
                        })
                        .collect();
                    let biases = Biases { slopes: &[], sinks: &[] };
                    // SAFETY: nobody else has the results.
                    unsafe { head.run(&state, 0, &task, biases, seen, out, &mut scratch) };
                }
                best = best.min(start.elapsed().as_secs_f64());
            }
            let got: Vec<f64> = out
                .chunks(group * key)
                .step_by(ROWS / COMPARED)
                .flat_map(|row| row.iter().map(|x| f64::from(*x)))
                .collect();
            println!(
                "{:10} {rows:3} rows {:7.1} GMAC/s, off by {:.4} ‰",
                isa.name(),
                macs as f64 / best / 1e9,
                1e3 * off(&got, &want)
            );
        }
    }
}
