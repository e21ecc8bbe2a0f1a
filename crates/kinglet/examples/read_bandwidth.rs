//! How fast THREADS threads read memory, each a part of its own: a line of bytes a second, and another
//! for each line on standard input.
//!
//!     read_bandwidth THREADS

use std::error::Error;
use std::hint::black_box;
use std::io;
use std::thread;
use std::time::Instant;

/// Far more than caches hold.
const BYTES_A_THREAD: usize = 256 << 20;
/// The best of as many passes is told.
const PASSES: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let threads: usize = std::env::args().nth(1).ok_or("usage: read_bandwidth THREADS")?.parse()?;
    let part = || vec![1u64; BYTES_A_THREAD / size_of::<u64>()];
    let parts: Vec<Vec<u64>> = (0..threads).map(|_| part()).collect();
    println!("{:.0}", read(&parts));
    for line in io::stdin().lines() {
        line?;
        println!("{:.0}", read(&parts));
    }
    Ok(())
}

/// Bytes a second at which all parts are read, each by a thread.
fn read(parts: &[Vec<u64>]) -> f64 {
    let bytes = (parts.len() * BYTES_A_THREAD) as f64;
    let pass = || {
        let began = Instant::now();
        thread::scope(|scope| {
            for part in parts {
                scope.spawn(|| black_box(all_bits(part)));
            }
        });
        bytes / began.elapsed().as_secs_f64()
    };
    (0..PASSES).map(|_| pass()).fold(0.0, f64::max)
}

/// Cheap to compute from every number. Both halves are read at once: one stream leaves memory idle
/// while its next line is awaited.
fn all_bits(numbers: &[u64]) -> u64 {
    const LINE: usize = 8;
    let (first, second) = numbers.split_at(numbers.len() / 2);
    let mut all = [0u64; LINE];
    for (a, b) in first.chunks_exact(LINE).zip(second.chunks_exact(LINE)) {
        for ((all, a), b) in all.iter_mut().zip(a).zip(b) {
            *all |= a | b;
        }
    }
    all.iter().fold(0, |all, bits| all | bits)
}
