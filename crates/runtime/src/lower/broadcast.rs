//! How two operands that broadcast like NumPy's are walked line by line.

use kinglet_graph::ops::broadcast::broadcast_strides;

/// A dimension of the result, and how far apart its elements lie in either operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub size: usize,
    pub strides: [usize; 2],
}

/// The dimensions of `out` but those of size 1, neighbours joined where both operands allow.
fn joined(out: &[usize], a: &[usize], b: &[usize]) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::new();
    for i in (0..out.len()).filter(|i| out[*i] != 1) {
        let axis = Axis { size: out[i], strides: [a[i], b[i]] };
        match axes.last_mut() {
            Some(last) if last.strides == axis.strides.map(|s| s.saturating_mul(axis.size)) => {
                *last = Axis { size: last.size * axis.size, strides: axis.strides };
            }
            _ => axes.push(axis),
        }
    }
    axes
}

/// The result as lines, along which each operand is contiguous (stride 1) or one repeated element
/// (stride 0).
pub(super) struct Lines {
    /// Along a line.
    pub columns: Axis,
    /// From line to line.
    pub rows: Axis,
    /// What encloses the rows.
    pub outer: Vec<Axis>,
}

impl Lines {
    /// For a result of sizes `out` and operands of sizes `a` and `b`, which broadcast to it.
    pub fn new(out: &[usize], a: &[usize], b: &[usize]) -> Lines {
        let mut axes = joined(out, &broadcast_strides(a, out), &broadcast_strides(b, out));
        let columns = axes.pop().unwrap_or(Axis { size: 1, strides: [1, 1] });
        let rows = axes.pop().unwrap_or(Axis { size: 1, strides: [0, 0] });
        Lines { columns, rows, outer: axes }
    }

    /// How many lines there are.
    pub fn count(&self) -> usize {
        self.rows.size * self.outer.iter().map(|axis| axis.size).product::<usize>()
    }

    /// Where line `line` begins in each operand.
    pub fn starts(&self, line: usize) -> [usize; 2] {
        let mut rest = line / self.rows.size;
        let row = line % self.rows.size;
        let mut at = self.rows.strides.map(|s| s * row);
        for axis in self.outer.iter().rev() {
            for (at, stride) in at.iter_mut().zip(axis.strides) {
                *at += rest % axis.size * stride;
            }
            rest /= axis.size;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_where_both_allow() {
        let axis = |size, a, b| Axis { size, strides: [a, b] };
        let of = |out: &[usize], a: &[usize], b: &[usize]| {
            joined(out, &broadcast_strides(a, out), &broadcast_strides(b, out))
        };
        assert_eq!(of(&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]), [axis(24, 1, 1)]);
        assert_eq!(of(&[2, 3, 4], &[2, 3, 4], &[4]), [axis(6, 4, 0), axis(4, 1, 1)]);
        assert_eq!(of(&[2, 3, 4], &[2, 3, 4], &[]), [axis(24, 1, 0)]);
        assert_eq!(
            of(&[2, 3, 4], &[2, 1, 4], &[3, 1]),
            [axis(2, 4, 0), axis(3, 0, 1), axis(4, 1, 0)]
        );
        assert_eq!(of(&[1, 1], &[1], &[1, 1]), []);
    }

    #[test]
    fn lines_begin_where_their_operands_do() {
        let lines = Lines::new(&[2, 3, 4], &[2, 1, 4], &[3, 1]);
        assert_eq!((lines.count(), lines.columns.strides), (6, [1, 0]));
        let starts: Vec<_> = (0..6).map(|line| lines.starts(line)).collect();
        assert_eq!(starts, [[0, 0], [0, 1], [0, 2], [4, 0], [4, 1], [4, 2]]);
    }
}
