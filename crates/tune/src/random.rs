//! Chance that a seed repeats, on every machine and in every version.

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed` for one of several uses of it.
    pub fn new(seed: u64, usage: u64) -> Random {
        let mut random = Random(seed ^ usage.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    /// The next number.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 64 coins.
    pub fn bits(&mut self) -> u64 {
        self.next()
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// Whether something of this chance happens.
    pub fn happens(&mut self, chance: f64) -> bool {
        ((self.next() >> 11) as f64 / (1u64 << 53) as f64) < chance
    }

    /// A number of the standard normal distribution (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let mut unit = || (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        // From above 0, as it has a logarithm.
        let (a, b) = (1.0 - unit(), unit());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    /// Puts `items` in an order of chance.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_its_uses_differ() {
        let draw = |seed, usage| {
            let mut items: Vec<usize> = (0..50).collect();
            Random::new(seed, usage).shuffle(&mut items);
            items
        };
        assert_eq!(draw(1, 0), draw(1, 0));
        assert_ne!(draw(1, 0), draw(2, 0));
        assert_ne!(draw(1, 0), draw(1, 1));
        let mut all = draw(7, 7);
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn normal_numbers_are_normal() {
        let mut random = Random::new(3, 0);
        let n = 100_000;
        let all: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let moment = |p: i32| all.iter().map(|x| x.powi(p)).sum::<f64>() / f64::from(n);
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02, "{}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.1, "{}", moment(4));
    }
}
