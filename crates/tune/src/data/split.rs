//! Which examples are held out.

use crate::random::Random;

/// `count` examples in two parts, by the chance of `seed`: about `share` of them, and at most `most`, in
/// the second. Fewer than ten are not parted.
pub fn split(count: usize, share: f64, most: usize, seed: u64) -> (Vec<u32>, Vec<u32>) {
    const FEW: usize = 10;
    let mut all: Vec<u32> = (0..count as u32).collect();
    if share <= 0.0 || count < FEW {
        return (all, Vec::new());
    }
    Random::new(seed, u64::MAX).shuffle(&mut all);
    let second = ((share * count as f64).ceil() as usize).clamp(1, most.min(count / 2));
    let mut first = all.split_off(second);
    first.sort_unstable();
    all.sort_unstable();
    (first, all)
}
