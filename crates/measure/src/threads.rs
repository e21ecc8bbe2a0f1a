//! How many threads to compute with.

use crate::profile::{CoreRate, Profile};

/// The pieces that work is cut into for each thread, about.
const PIECES: f64 = 4.0;

/// The number of threads that gets work done soonest, where the fastest cores are taken first and all
/// claim piece by piece, each as it can: together they are as fast as the sum of them, and at last
/// the slowest is waited for while it does one piece.
///
/// Cores of one kind count as equally fast, by the median of the kind: a core that another program
/// used while it was measured is not left out for that. What counts as fast is the lower of a core's
/// arithmetic and its reading of memory, each as a share of the best core's.
pub fn choose(profile: &Profile) -> usize {
    let best = |rate: fn(&CoreRate) -> f64| profile.cores.iter().map(rate).fold(0.0, f64::max);
    let (arithmetic, reading) = (best(|c| c.int8_gmac_s.best), best(|c| c.read_gb_s.best));
    let speed =
        |core: &CoreRate| (core.int8_gmac_s.best / arithmetic).min(core.read_gb_s.best / reading);
    let mut speeds: Vec<f64> = Vec::new();
    for kind in &profile.kinds {
        let of_kind = profile.cores.iter().filter(|core| kind.cpus.contains(&core.cpu));
        let mut measured: Vec<f64> = of_kind.map(speed).collect();
        measured.sort_by(f64::total_cmp);
        if let Some(median) = measured.get(measured.len() / 2) {
            speeds.extend(measured.iter().map(|_| *median));
        }
    }
    speeds.sort_by(|a, b| b.total_cmp(a));
    speeds.truncate(profile.usable);
    let together = |count: usize| {
        let (sum, slowest) = (speeds[..count].iter().sum::<f64>(), speeds[count - 1]);
        1.0 / (1.0 / sum + 1.0 / (PIECES * count as f64 * slowest))
    };
    // Where nothing was measured of cores, all are taken.
    (1..=speeds.len())
        .max_by(|a, b| together(*a).total_cmp(&together(*b)))
        .unwrap_or(profile.usable)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Rate;
    use crate::system::Kind;
    use crate::testing::profile;

    /// A device with kinds of cores of these speeds.
    fn device(kinds: &[&[f64]], usable: usize) -> Profile {
        let mut device = profile();
        (device.kinds, device.cores, device.usable) = (Vec::new(), Vec::new(), usable);
        for speeds in kinds {
            let first = device.cores.len();
            device.cores.extend(speeds.iter().enumerate().map(|(i, speed)| {
                let rate = |scale: f64| Rate { best: speed * scale, median: speed * scale };
                CoreRate {
                    cpu: first + i,
                    int8_gmac_s: rate(100.0),
                    f32_gmac_s: rate(50.0),
                    read_gb_s: rate(20.0),
                }
            }));
            let cpus = (first..device.cores.len()).collect();
            device.kinds.push(Kind { cpus, part: None, max_mhz: None, capacity: None });
        }
        device
    }

    #[test]
    fn slow_cores_are_left_out_where_they_would_be_waited_for() {
        assert_eq!(choose(&device(&[&[0.15; 4], &[1.0; 4]], 8)), 4);
        assert_eq!(choose(&device(&[&[0.6; 4], &[1.0; 4]], 8)), 8);
        // One prime core, three big, four little, as phones have them.
        assert_eq!(choose(&device(&[&[0.15; 4], &[0.8; 3], &[1.0]], 8)), 4);
    }

    #[test]
    fn equal_cores_are_all_taken() {
        assert_eq!(choose(&device(&[&[1.0, 1.0]], 2)), 2);
        assert_eq!(choose(&device(&[&[1.0; 64]], 64)), 64);
        // Two of eight were busy while they were measured.
        assert_eq!(choose(&device(&[&[1.0, 0.3, 1.0, 0.97, 1.0, 0.5, 0.99, 1.0]], 8)), 8);
    }

    #[test]
    fn no_more_than_the_quota_allows() {
        assert_eq!(choose(&device(&[&[1.0; 8]], 2)), 2);
        assert_eq!(choose(&device(&[&[0.3; 4], &[1.0; 4]], 2)), 2);
        assert_eq!(choose(&device(&[&[0.15; 4], &[1.0; 4]], 6)), 4);
        assert_eq!(choose(&device(&[&[1.0]], 1)), 1);
    }

    #[test]
    fn a_core_is_as_fast_as_what_it_does_worst() {
        let mut device = device(&[&[1.0; 4], &[1.0; 4]], 8);
        device.cores[4..].iter_mut().for_each(|core| core.read_gb_s.best = 4.0);
        assert_eq!(choose(&device), 4);
    }

    #[test]
    fn where_no_core_was_measured_all_are_taken() {
        assert_eq!(choose(&device(&[], 6)), 6);
    }
}
