//! Several measurements of one thing.

use serde::Serialize;

/// What several measurements of one thing were.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// A tenth of them are below.
    pub p10: f64,
    /// A tenth of them are above.
    pub p90: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// How many there are.
    pub runs: usize,
}

impl Spread {
    /// Of measurements, of which there is at least one; figures have three decimals.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            rounded(low + (high - low) * place.fract())
        };
        (!sorted.is_empty()).then(|| Spread {
            median: at(0.5),
            p10: at(0.1),
            p90: at(0.9),
            min: at(0.0),
            max: at(1.0),
            runs: sorted.len(),
        })
    }
}

/// To three decimals.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_lie_between_the_ends() {
        let all: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        let spread = Spread::of(&all).unwrap();
        assert_eq!((spread.min, spread.p10, spread.median), (0.0, 10.0, 50.0));
        assert_eq!((spread.p90, spread.max, spread.runs), (90.0, 100.0, 101));
        assert_eq!(Spread::of(&[3.0]).unwrap().p90, 3.0);
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
