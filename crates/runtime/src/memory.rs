//! Where everything lies: offsets for values in one arena, planned before the first run.

/// A piece of memory needed from step `first` to step `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub size: usize,
    pub first: usize,
    pub last: usize,
}

/// Offsets of items, and the arena's size.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub offsets: Vec<usize>,
    pub size: usize,
}

/// Small pieces are aligned for any element type, larger ones for the widest vectors: a padded
/// handful of bytes would cost a microcontroller's net more than it gains.
fn alignment(size: usize) -> usize {
    if size >= 4096 { 64 } else { 16 }
}

/// The largest sum of sizes needed at one step: no plan can take less.
pub(crate) fn lower_bound(items: &[Item]) -> usize {
    let steps = items.iter().map(|i| i.last + 1).max().unwrap_or(0);
    let mut change = vec![0isize; steps + 1];
    for item in items {
        change[item.first] += item.size as isize;
        change[item.last + 1] -= item.size as isize;
    }
    let mut live = 0;
    let mut most = 0;
    for c in change {
        live += c;
        most = most.max(live);
    }
    most as usize
}

/// What items are sorted by, largest first.
type Key<'a> = &'a dyn Fn(&Item) -> (usize, usize);

/// Places the items so that no two that are needed at one step overlap.
///
/// Greedy, each item at the lowest place that fits, in several orders, of which the best is
/// taken (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
pub(crate) fn place(items: &[Item]) -> Layout {
    let bound = lower_bound(items);
    let span = |i: &Item| i.last - i.first;
    let by = |key: Key<'_>| {
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(key(&items[*i])));
        place_in_order(items, &order)
    };
    let mut best = by(&|i| (i.size, span(i)));
    let others: [Key<'_>; 3] =
        [&|i| (span(i), i.size), &|i| (i.size.saturating_mul(span(i) + 1), i.size), &|i| {
            (usize::MAX - i.first, i.size)
        }];
    for key in others {
        if best.size <= bound {
            break;
        }
        let other = by(key);
        if other.size < best.size {
            best = other;
        }
    }
    // What most steps need at the tightest step first: it is they that decide.
    if best.size > bound {
        let peak = peak_step(items);
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|i| {
            let item = &items[*i];
            let away = item.first.saturating_sub(peak).max(peak.saturating_sub(item.last));
            (away, std::cmp::Reverse(item.size))
        });
        let other = place_in_order(items, &order);
        if other.size < best.size {
            best = other;
        }
    }
    best
}

fn peak_step(items: &[Item]) -> usize {
    let steps = items.iter().map(|i| i.last + 1).max().unwrap_or(0);
    let live = |step: usize| -> usize {
        items.iter().filter(|i| i.first <= step && step <= i.last).map(|i| i.size).sum()
    };
    (0..steps).max_by_key(|s| live(*s)).unwrap_or(0)
}

fn place_in_order(items: &[Item], order: &[usize]) -> Layout {
    let mut offsets = vec![0; items.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(items.len());
    let mut size = 0;
    for &i in order {
        let item = items[i];
        if item.size == 0 {
            continue;
        }
        let align = alignment(item.size);
        // `placed` is sorted by offset, so one pass finds the tightest gap.
        let mut best: Option<(usize, usize)> = None;
        let mut free_from = 0usize;
        for &j in &placed {
            let other = items[j];
            if other.last < item.first || item.last < other.first {
                continue;
            }
            let start = free_from.next_multiple_of(align);
            if start + item.size <= offsets[j] {
                let gap = offsets[j] - free_from;
                if best.is_none_or(|(g, _)| gap < g) {
                    best = Some((gap, start));
                }
            }
            free_from = free_from.max(offsets[j] + other.size);
        }
        offsets[i] = best.map_or(free_from.next_multiple_of(align), |(_, start)| start);
        size = size.max(offsets[i] + item.size);
        let at = placed.partition_point(|j| offsets[*j] < offsets[i]);
        placed.insert(at, i);
    }
    Layout { offsets, size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(items: &[Item]) -> Layout {
        let layout = place(items);
        assert!(layout.size >= lower_bound(items));
        for (i, a) in items.iter().enumerate() {
            let (a0, a1) = (layout.offsets[i], layout.offsets[i] + a.size);
            assert!(a1 <= layout.size && a0 % alignment(a.size) == 0);
            for (j, b) in items.iter().enumerate().skip(i + 1) {
                let (b0, b1) = (layout.offsets[j], layout.offsets[j] + b.size);
                let together = a.first <= b.last && b.first <= a.last;
                assert!(!together || a1 <= b0 || b1 <= a0, "{a:?} and {b:?} overlap");
            }
        }
        layout
    }

    #[test]
    fn a_chain_takes_its_two_largest_neighbours() {
        let sizes = [640, 6400, 3200, 6400, 64];
        let items: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(i, size)| Item { size: *size, first: i, last: i + 1 })
            .collect();
        assert_eq!(check(&items).size, lower_bound(&items));
    }

    #[test]
    fn random_lifetimes_never_overlap_and_stay_near_the_bound() {
        let mut seed = 7u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((seed >> 33) % n) as usize
        };
        for _ in 0..100 {
            let items: Vec<_> = (0..60)
                .map(|_| {
                    let first = next(50);
                    Item { size: 64 * next(200), first, last: first + next(6) }
                })
                .collect();
            let layout = check(&items);
            assert!(layout.size as f64 <= 1.4 * lower_bound(&items) as f64);
        }
    }

    #[test]
    fn nothing_takes_nothing() {
        assert_eq!(check(&[]).size, 0);
    }
}
