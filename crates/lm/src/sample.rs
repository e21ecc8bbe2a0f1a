//! From logits to a token.

use std::cmp::Ordering;
use std::collections::HashMap;

/// How the next token is chosen. The default is greedy: the likeliest.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0: the likeliest token is taken.
    pub temperature: f32,
    /// Only the so many likeliest; 0: all.
    pub top_k: usize,
    /// Only the likeliest that together have this probability (nucleus, arXiv 1904.09751); 1: all.
    pub top_p: f32,
    /// Only those at least this fraction as likely as the likeliest (arXiv 2407.01082); 0: all.
    pub min_p: f32,
    /// Only the most typical that together have this probability (arXiv 2202.00666); 1: all.
    pub typical: f32,
    /// Divides positive logits of tokens seen lately, and multiplies negative ones (CTRL, arXiv
    /// 1909.05858); 1: nothing.
    pub repetition_penalty: f32,
    /// Taken from the logit for each time a token was seen lately.
    pub frequency_penalty: f32,
    /// Taken from the logit of a token seen lately.
    pub presence_penalty: f32,
    /// How many tokens back "lately" reaches; 0: all.
    pub penalty_window: usize,
    /// Added to the logits of these tokens; −∞ forbids one.
    pub bias: Vec<(u32, f32)>,
    /// Where the random numbers start: the same seed gives the same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: 64,
            bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// As the model's makers sample it, where its files say.
    pub fn of_model(made: &kinglet_formats::lm::Generation) -> Sampling {
        let usual = Sampling::default();
        let drawn = made.sampled.unwrap_or(false);
        let temperature = if drawn { made.temperature.unwrap_or(1.0) } else { usual.temperature };
        Sampling {
            temperature,
            top_k: made.top_k.filter(|_| drawn).unwrap_or(usual.top_k),
            top_p: made.top_p.filter(|_| drawn).unwrap_or(usual.top_p),
            min_p: made.min_p.filter(|_| drawn).unwrap_or(usual.min_p),
            repetition_penalty: made.repetition_penalty.unwrap_or(usual.repetition_penalty),
            ..usual
        }
    }

    /// Checks that every number makes sense; says which does not.
    pub fn check(&self) -> Result<(), String> {
        let share = |name: &str, v: f32| match v {
            v if (0.0..=1.0).contains(&v) => Ok(()),
            v => Err(format!("{name} is {v}: must lie from 0 to 1")),
        };
        share("top-p", self.top_p)?;
        share("min-p", self.min_p)?;
        share("typical", self.typical)?;
        let number = |name: &str, v: f32| match v.is_finite() {
            true => Ok(()),
            false => Err(format!("{name} is {v}: must be a number")),
        };
        number("frequency penalty", self.frequency_penalty)?;
        number("presence penalty", self.presence_penalty)?;
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(format!("temperature is {}: must be 0 or more", self.temperature));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return Err(format!(
                "repetition penalty is {}: must be above 0",
                self.repetition_penalty
            ));
        }
        match self.bias.iter().find(|(_, b)| b.is_nan() || *b == f32::INFINITY) {
            Some((token, b)) => Err(format!("the bias of token {token} is {b}: must be a number")),
            None => Ok(()),
        }
    }
}

/// A token and how likely it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    /// The token.
    pub token: u32,
    /// Natural logarithm of the probability that the model gave it, before any of [`Sampling`].
    pub log_probability: f32,
}

/// Chooses tokens by a [`Sampling`], with random numbers of its own.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: u64,
    // Kept for their capacity.
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: u32,
    logit: f32,
    /// Its probability among the candidates, by the last [`weigh`].
    share: f32,
}

impl Sampler {
    /// With the random numbers of `sampling.seed`.
    pub fn new(sampling: Sampling) -> Sampler {
        let random = sampling.seed;
        Sampler { sampling, random, logits: Vec::new(), candidates: Vec::new() }
    }

    /// How it chooses.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Chooses among `logits`, after the tokens `history`. `allowed`: a bit for each token that may
    /// come, lowest first; `None`: all may. Returns `None` where none may.
    pub fn choose(
        &mut self,
        logits: &[f32],
        history: &[u32],
        allowed: Option<&[u32]>,
    ) -> Option<Chosen> {
        let plain = log_sum_exp(logits);
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.penalise(history);
        for (token, bias) in &self.sampling.bias {
            if let Some(logit) = self.logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        if let Some(allowed) = allowed {
            for (i, logit) in self.logits.iter_mut().enumerate() {
                if allowed.get(i / 32).is_none_or(|word| word >> (i % 32) & 1 == 0) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let token = match self.sampling.temperature {
            0.0 => best(&self.logits)?,
            _ => self.draw()?,
        };
        Some(Chosen { token, log_probability: logits[token as usize] - plain })
    }

    fn penalise(&mut self, history: &[u32]) {
        let s = &self.sampling;
        let none =
            (s.repetition_penalty, s.frequency_penalty, s.presence_penalty) == (1.0, 0.0, 0.0);
        if none {
            return;
        }
        let window = if s.penalty_window == 0 { history.len() } else { s.penalty_window };
        let mut seen: HashMap<u32, u32> = HashMap::new();
        for token in &history[history.len().saturating_sub(window)..] {
            *seen.entry(*token).or_default() += 1;
        }
        for (token, times) in seen {
            let Some(logit) = self.logits.get_mut(token as usize) else { continue };
            match *logit > 0.0 {
                true => *logit /= s.repetition_penalty,
                false => *logit *= s.repetition_penalty,
            }
            *logit -= times as f32 * s.frequency_penalty + s.presence_penalty;
        }
    }

    /// The chain of the usual order: top-k, typical, top-p, min-p, temperature, draw.
    fn draw(&mut self) -> Option<u32> {
        let s = &self.sampling;
        let all = &mut self.candidates;
        all.clear();
        let possible = self.logits.iter().enumerate().filter(|(_, l)| **l > f32::NEG_INFINITY);
        all.extend(possible.map(|(i, l)| Candidate { token: i as u32, logit: *l, share: 0.0 }));
        if s.top_k > 0 && s.top_k < all.len() {
            all.select_nth_unstable_by(s.top_k - 1, likelier);
            all.truncate(s.top_k);
        }
        if s.typical < 1.0 {
            keep_typical(all, s.typical);
        }
        if s.top_p < 1.0 {
            weigh(all, 1.0);
            keep_likeliest(all, s.top_p);
        }
        if s.min_p > 0.0 {
            let (top, least) = (largest(all), s.min_p.ln());
            all.retain(|c| c.logit - top >= least);
        }
        weigh(all, s.temperature);
        // The draw is where the likeliest that have this probability end.
        keep_likeliest(all, unit(&mut self.random));
        all.last().map(|c| c.token)
    }
}

/// The likelier first; of equals the lower token.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

fn largest(all: &[Candidate]) -> f32 {
    all.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max)
}

/// Sets each one's share of all.
fn weigh(all: &mut [Candidate], temperature: f32) {
    let top = largest(all);
    let mut total = 0.0;
    for c in all.iter_mut() {
        c.share = ((c.logit - top) / temperature).exp();
        total += f64::from(c.share);
    }
    all.iter_mut().for_each(|c| c.share = (f64::from(c.share) / total) as f32);
}

/// Keeps the likeliest that together have probability `share`, at least one, in order.
fn keep_likeliest(all: &mut Vec<Candidate>, share: f32) {
    let share = f64::from(share);
    // Even all of those that are less likely than this do not make up what is left of 1.
    let least = 0.5 * (1.0 - share) / all.len() as f64;
    all.retain(|c| f64::from(c.share) >= least);
    keep_first(all, share, likelier, |c| f64::from(c.share));
}

/// Keeps those whose surprise is nearest to the expected one, until they have this probability.
fn keep_typical(all: &mut Vec<Candidate>, share: f32) {
    let top = largest(all);
    let total: f64 = all.iter().map(|c| f64::from(c.logit - top).exp()).sum();
    let log = |c: &Candidate| f64::from(c.logit - top) - total.ln();
    let entropy: f64 = -all.iter().map(|c| log(c).exp() * log(c)).sum::<f64>();
    let odd = |c: &Candidate| (-log(c) - entropy).abs();
    let order = |a: &Candidate, b: &Candidate| odd(a).total_cmp(&odd(b)).then(likelier(a, b));
    keep_first(all, f64::from(share), order, |c| log(c).exp());
}

/// Keeps the first in `order` whose probabilities add up to `share`, at least one, and puts them in
/// order. They are few as a rule, so that only as many as it takes are sorted.
fn keep_first(
    all: &mut Vec<Candidate>,
    share: f64,
    order: impl Fn(&Candidate, &Candidate) -> Ordering,
    probability: impl Fn(&Candidate) -> f64,
) {
    let (mut sorted, mut sum) = (0, 0.0);
    for i in 0..all.len() {
        if i == sorted {
            let rest = &mut all[sorted..];
            let more = (3 * sorted).max(64).min(rest.len());
            if more < rest.len() {
                rest.select_nth_unstable_by(more - 1, &order);
            }
            rest[..more].sort_unstable_by(&order);
            sorted += more;
        }
        sum += probability(&all[i]);
        if sum >= share {
            all.truncate(i + 1);
            return;
        }
    }
}

/// The index of the largest number, the lowest of equals; `None` where all are −∞.
pub fn best(logits: &[f32]) -> Option<u32> {
    let (mut found, mut top) = (None, f32::NEG_INFINITY);
    for (part, first) in logits.chunks(64).zip((0..).step_by(64)) {
        // Few parts have a larger one, and a whole part is compared in a few instructions.
        if !part.iter().fold(false, |any, l| any | (*l > top)) {
            continue;
        }
        for (i, l) in part.iter().enumerate() {
            if *l > top {
                (found, top) = (Some(first + i as u32), *l);
            }
        }
    }
    found
}

/// log Σ eˡ.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - top).exp()).sum();
    top + sum.ln() as f32
}

/// The next number of SplitMix64, as a fraction of 1.
fn unit(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 2.0, -1.0, 2.5];

    /// How often each token is drawn in `n` draws.
    fn drawn(sampling: Sampling, n: usize) -> [f32; 5] {
        let mut sampler = Sampler::new(Sampling { temperature: 1.0, ..sampling });
        let mut counts = [0.0; 5];
        for _ in 0..n {
            counts[sampler.choose(&LOGITS, &[], None).unwrap().token as usize] += 1.0 / n as f32;
        }
        counts
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let total: f32 = LOGITS.iter().map(|l| l.exp()).sum();
        let counts = drawn(Sampling::default(), 20_000);
        for (count, logit) in counts.iter().zip(LOGITS) {
            assert!((count - logit.exp() / total).abs() < 0.02, "{counts:?}");
        }
        // Colder: the likeliest comes more often.
        let mut cold = Sampler::new(Sampling { temperature: 0.2, ..Sampling::default() });
        let ones =
            (0..1000).filter(|_| cold.choose(&LOGITS, &[], None).unwrap().token == 1).count();
        assert!(ones > 880, "{ones}");
    }

    #[test]
    fn each_cut_leaves_what_it_says() {
        let left = |s: Sampling| drawn(s, 3000).map(|c| c > 0.0);
        let d = Sampling::default;
        assert_eq!(left(Sampling { top_k: 2, ..d() }), [false, true, false, false, true]);
        // Probabilities: 0.024, 0.482, 0.177, 0.009, 0.292… of which 1 and 4 make 0.77.
        assert_eq!(left(Sampling { top_p: 0.7, ..d() }), [false, true, false, false, true]);
        assert_eq!(left(Sampling { min_p: 0.3, ..d() }), [false, true, true, false, true]);
        // The entropy is near the surprise of token 4: it is the most typical.
        assert_eq!(left(Sampling { typical: 0.1, ..d() }), [false, false, false, false, true]);
    }

    /// What [`Sampler::draw`] is to do, said plainly: everything sorted, at each step.
    fn by_sorting(s: &Sampling, logits: &[f32]) -> u32 {
        fn shares(logits: &[(usize, f32)], temperature: f32) -> Vec<f64> {
            let top = logits[0].1;
            let parts = logits.iter().map(|(_, l)| ((l - top) / temperature).exp());
            let parts: Vec<f64> = parts.map(f64::from).collect();
            let total: f64 = parts.iter().sum();
            parts.iter().map(|part| f64::from((part / total) as f32)).collect()
        }
        fn until(shares: &[f64], share: f64) -> usize {
            let mut sum = 0.0;
            let enough = |part: &f64| {
                sum += part;
                sum >= share
            };
            shares.iter().position(enough).map_or(shares.len(), |last| last + 1)
        }
        let mut all: Vec<(usize, f32)> = logits.iter().copied().enumerate().collect();
        all.retain(|(_, l)| *l > f32::NEG_INFINITY);
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(if s.top_k == 0 { all.len() } else { s.top_k });
        if s.typical < 1.0 {
            let total: f64 = all.iter().map(|(_, l)| f64::from(l - all[0].1).exp()).sum();
            let log = |l: f32| f64::from(l - all[0].1) - total.ln();
            let entropy: f64 = -all.iter().map(|(_, l)| log(*l).exp() * log(*l)).sum::<f64>();
            let mut order = all.clone();
            let odd = |l: f32| (-log(l) - entropy).abs();
            order.sort_by(|a, b| odd(a.1).total_cmp(&odd(b.1)));
            let parts: Vec<f64> = order.iter().map(|(_, l)| log(*l).exp()).collect();
            order.truncate(until(&parts, f64::from(s.typical)));
            all.retain(|candidate| order.contains(candidate));
        }
        if s.top_p < 1.0 {
            all.truncate(until(&shares(&all, 1.0), f64::from(s.top_p)));
        }
        if s.min_p > 0.0 {
            let top = all[0].1;
            all.retain(|(_, l)| l - top >= s.min_p.ln());
        }
        let drawn = until(&shares(&all, s.temperature), f64::from(unit(&mut s.seed.clone())));
        all[drawn - 1].0 as u32
    }

    #[test]
    fn choices_are_those_of_sorting_everything() {
        let mut rng = kinglet_testing::Rng::new(11);
        for case in 0..2000 {
            let len = 1 + rng.below(700);
            // From flat to sharp, with equals, and some that cannot be.
            let spread = [0.0, 0.1, 2.0, 12.0][case % 4];
            let mut logits = rng.floats(len, -spread, spread);
            for _ in 0..len / 8 {
                let (from, to) = (rng.below(len), rng.below(len));
                logits[to] = logits[from];
            }
            if case % 3 == 0 {
                let place = rng.below(len);
                logits[place + 1..].fill(f32::NEG_INFINITY);
            }
            let mut one_of = |numbers: [f32; 4]| numbers[rng.below(4)];
            let sampling = Sampling {
                temperature: one_of([0.3, 0.7, 1.0, 3.0]),
                top_p: one_of([0.0, 0.5, 0.95, 1.0]),
                min_p: one_of([0.0, 0.0, 0.05, 1.0]),
                typical: one_of([0.2, 0.9, 1.0, 1.0]),
                top_k: one_of([0.0, 0.0, 1.0, 40.0]) as usize,
                seed: rng.bits(),
                ..Sampling::default()
            };
            let want = by_sorting(&sampling, &logits);
            let chosen = Sampler::new(sampling.clone()).choose(&logits, &[], None).unwrap();
            assert_eq!(chosen.token, want, "case {case}: {len} logits, {sampling:?}");
        }
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let run = |seed| {
            let mut s = Sampler::new(Sampling { temperature: 1.0, seed, ..Sampling::default() });
            (0..50).map(|_| s.choose(&LOGITS, &[], None).unwrap().token).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn penalties_biases_and_masks_count() {
        let greedy = |s: Sampling, history: &[u32], allowed: Option<&[u32]>| {
            Sampler::new(s).choose(&LOGITS, history, allowed).map(|c| c.token)
        };
        let d = Sampling::default;
        assert_eq!(greedy(d(), &[1, 1, 4], None), Some(1));
        assert_eq!(greedy(Sampling { repetition_penalty: 1.4, ..d() }, &[1], None), Some(4));
        assert_eq!(greedy(Sampling { frequency_penalty: 0.3, ..d() }, &[1, 1], None), Some(4));
        assert_eq!(greedy(Sampling { presence_penalty: 0.6, ..d() }, &[1], None), Some(4));
        // Only the window counts.
        let short = Sampling { presence_penalty: 0.6, penalty_window: 1, ..d() };
        assert_eq!(greedy(short, &[1, 0], None), Some(1));
        let biased = Sampling { bias: vec![(1, f32::NEG_INFINITY), (2, 1.0)], ..d() };
        assert_eq!(greedy(biased, &[], None), Some(2));
        assert_eq!(greedy(d(), &[], Some(&[0b1001])), Some(0));
        assert_eq!(greedy(d(), &[], Some(&[0])), None);
    }

    #[test]
    fn the_log_probability_is_the_models() {
        let mut s = Sampler::new(Sampling { repetition_penalty: 2.0, ..Sampling::default() });
        let chosen = s.choose(&LOGITS, &[4], None).unwrap();
        let total: f32 = LOGITS.iter().map(|l| l.exp()).sum();
        assert!((chosen.log_probability - (3.0f32.exp() / total).ln()).abs() < 1e-5);
    }
}
