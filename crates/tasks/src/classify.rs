//! Classification: a score for each class.

use std::cmp::Ordering;

/// A class and how sure the model is of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The class's index in the model's output.
    pub index: usize,
    /// Its score, from 0 to 1.
    pub score: f32,
}

/// Makes a model's output into scores from 0 to 1.
///
/// A model ends in a softmax, in independent sigmoids, or in neither. In the first two cases every
/// number already lies from 0 to 1 and stays as it is; a number outside shows that these are logits,
/// and their softmax is taken.
pub fn to_scores(output: &mut [f32]) {
    if output.iter().all(|value| (0.0..=1.0).contains(value)) {
        return;
    }
    let most = output.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in output.iter_mut() {
        *value = (*value - most).exp();
        sum += *value;
    }
    for value in output {
        *value /= sum;
    }
}

/// The `count` best classes whose score is at least `threshold`, best first; of equals, the lower index.
pub fn top(scores: &[f32], count: usize, threshold: f32) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = scores
        .iter()
        .enumerate()
        .filter(|(_, score)| **score >= threshold)
        .map(|(index, &score)| Candidate { index, score })
        .collect();
    all.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal));
    all.truncate(count);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_become_probabilities_and_probabilities_stay() {
        let mut logits = [1.0, 2.0, 1000.0, -4.0];
        to_scores(&mut logits);
        assert_eq!(logits, [0.0, 0.0, 1.0, 0.0]);
        let mut equal = [-3.0; 4];
        to_scores(&mut equal);
        assert_eq!(equal, [0.25; 4]);
        let mut sigmoids = [0.9, 0.8, 0.0];
        to_scores(&mut sigmoids);
        assert_eq!(sigmoids, [0.9, 0.8, 0.0]);
    }

    #[test]
    fn the_best_come_first() {
        let best = top(&[0.1, 0.5, f32::NAN, 0.5, 0.9, 0.0], 3, 0.05);
        let indices: Vec<usize> = best.iter().map(|c| c.index).collect();
        assert_eq!(indices, [4, 1, 3]);
        assert_eq!(top(&[0.1, 0.2], 9, 0.15).len(), 1);
    }
}
