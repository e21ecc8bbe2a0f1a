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
/// Places that a thread reads at once: one stream leaves memory idle while the next line is awaited.
const STREAMS: usize = 8;

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
    let began = Instant::now();
    thread::scope(|scope| {
        for part in parts {
            scope.spawn(|| black_box(sum(part)));
        }
    });
    (parts.len() * BYTES_A_THREAD) as f64 / began.elapsed().as_secs_f64()
}

/// A line of cache of each stream in turn.
fn sum(numbers: &[u64]) -> u64 {
    const LINE: usize = 8;
    let streams: Vec<&[u64]> = numbers.chunks_exact(numbers.len() / STREAMS).collect();
    let mut sums = [0u64; LINE];
    for at in (0..streams[0].len()).step_by(LINE) {
        for stream in &streams {
            for (sum, number) in sums.iter_mut().zip(&stream[at..at + LINE]) {
                *sum = sum.wrapping_add(*number);
            }
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}
