//! Functions of two elements, with the broadcasts that rows of elements have.

use crate::elementwise::Unary;
use crate::gemm_f32::check_rows;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// A function of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b
    Add,
    /// a − b
    Sub,
    /// a · b
    Mul,
    /// a / b
    Div,
    /// The lesser; NaN if either is.
    Min,
    /// The greater; NaN if either is.
    Max,
    /// (a − b)²
    SquaredDifference,
    /// a, or a · b where a is negative.
    PRelu,
    /// a to the power of b; computed one element at a time.
    Pow,
}

/// One side of a binary operation on rows.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// The elements, from the first row's first on.
    pub data: &'a [f32],
    /// Elements from one row to the next; 0 where all rows are the same.
    pub row_stride: usize,
    /// Whether a row is one element, repeated.
    pub repeated: bool,
}

impl Binary {
    /// `out[r][c] = then(self(a[r][c], b[r][c]))` for rows of `columns` elements.
    ///
    /// # Panics
    /// Where an operand is too short, or `out` is not whole rows.
    pub fn run(
        self,
        isa: Isa,
        a: Operand<'_>,
        b: Operand<'_>,
        columns: usize,
        then: Unary,
        out: &mut [f32],
    ) {
        if columns == 0 {
            return;
        }
        assert!(out.len().is_multiple_of(columns), "output is not whole rows");
        let rows = out.len() / columns;
        for operand in [a, b] {
            let row = if operand.repeated { 1 } else { columns };
            check_rows("operand", rows, operand.row_stride, row, operand.data.len());
        }
        dispatch(isa, Rows { function: self, a, b, columns, then, out });
    }
}

struct Rows<'a> {
    function: Binary,
    a: Operand<'a>,
    b: Operand<'a>,
    columns: usize,
    then: Unary,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.function {
            Binary::Add => self.map(s, |a, b| s.add(a, b)),
            Binary::Sub => self.map(s, |a, b| s.sub(a, b)),
            Binary::Mul => self.map(s, |a, b| s.mul(a, b)),
            Binary::Div => self.map(s, |a, b| s.div(a, b)),
            // Of two NaN-ignoring comparisons one keeps the NaN of each side.
            Binary::Min => self.map(s, |a, b| s.select(s.eq(a, a), s.min(a, b), a)),
            Binary::Max => self.map(s, |a, b| s.select(s.eq(a, a), s.max(a, b), a)),
            Binary::SquaredDifference => self.map(s, |a, b| {
                let d = s.sub(a, b);
                s.mul(d, d)
            }),
            Binary::PRelu => self.map(s, |a, b| s.select(s.lt(a, s.zero()), s.mul(a, b), a)),
            Binary::Pow => self.each(s, f32::powf),
        }
    }
}

impl Rows<'_> {
    #[inline(always)]
    fn map<S: Simd>(self, s: S, f: impl Fn(S::V, S::V) -> S::V) {
        let Rows { a, b, columns, then, out, .. } = self;
        for (r, row) in out.chunks_exact_mut(columns).enumerate() {
            let pa = a.data.as_ptr().wrapping_add(r * a.row_stride);
            let pb = b.data.as_ptr().wrapping_add(r * b.row_stride);
            let po = row.as_mut_ptr();
            let one = |operand: &Operand<'_>, p: *const f32| match operand.repeated {
                // SAFETY: `Binary::run` checked that the row has its element.
                true => Some(s.splat(unsafe { p.read() })),
                false => None,
            };
            let (whole_a, whole_b) = (one(&a, pa), one(&b, pb));
            let mut i = 0;
            // SAFETY: `Binary::run` checked that both rows have `columns` elements.
            unsafe {
                while i + S::LANES <= columns {
                    let x = whole_a.unwrap_or_else(|| s.load(pa.add(i)));
                    let y = whole_b.unwrap_or_else(|| s.load(pb.add(i)));
                    s.store(po.add(i), f(x, y));
                    i += S::LANES;
                }
                if i < columns {
                    let n = columns - i;
                    let x = whole_a.unwrap_or_else(|| s.load_n(pa.add(i), n));
                    let y = whole_b.unwrap_or_else(|| s.load_n(pb.add(i), n));
                    s.store_n(po.add(i), f(x, y), n);
                }
            }
            if then != Unary::Identity {
                s.outline(then.on(row));
            }
        }
    }

    #[inline(always)]
    fn each<S: Simd>(self, s: S, f: impl Fn(f32, f32) -> f32) {
        let Rows { a, b, columns, then, out, .. } = self;
        for (r, row) in out.chunks_exact_mut(columns).enumerate() {
            let at = |o: &Operand<'_>, i: usize| {
                o.data[r * o.row_stride + if o.repeated { 0 } else { i }]
            };
            for (i, y) in row.iter_mut().enumerate() {
                *y = f(at(&a, i), at(&b, i));
            }
            s.outline(then.on(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, assert_close, unary};

    const ALL: [Binary; 9] = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Min,
        Binary::Max,
        Binary::SquaredDifference,
        Binary::PRelu,
        Binary::Pow,
    ];

    fn exact(f: Binary, a: f64, b: f64) -> f64 {
        match f {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Min if a.is_nan() || b.is_nan() => f64::NAN,
            Binary::Max if a.is_nan() || b.is_nan() => f64::NAN,
            Binary::Min => a.min(b),
            Binary::Max => a.max(b),
            Binary::SquaredDifference => (a - b) * (a - b),
            Binary::PRelu => {
                if a < 0.0 {
                    a * b
                } else {
                    a
                }
            }
            Binary::Pow => a.powf(b),
        }
    }

    #[test]
    fn functions_and_broadcasts_are_right() {
        let mut values = Values::new(9);
        for isa in Isa::available() {
            for f in ALL {
                for columns in [1, 3, 16, 37] {
                    let rows = 5;
                    let data =
                        [values.floats(rows * columns + 9), values.floats(rows * columns + 9)];
                    let mut data = data
                        .map(|d| d.iter().map(|x| x + 0.01f32.copysign(*x)).collect::<Vec<_>>());
                    if f == Binary::Pow {
                        data[0].iter_mut().for_each(|x| *x = x.abs());
                    } else {
                        (data[0][0], data[1][2]) = (f32::NAN, f32::NAN);
                    }
                    for (stride, repeated) in
                        [(columns, false), (0, false), (1, true), (0, true), (columns + 1, false)]
                    {
                        let a = Operand { data: &data[0], row_stride: columns, repeated: false };
                        let b = Operand { data: &data[1], row_stride: stride, repeated };
                        for (a, b) in [(a, b), (b, a)] {
                            for then in [Unary::Identity, Unary::RELU6] {
                                let mut out = vec![-7.0; rows * columns];
                                f.run(isa, a, b, columns, then, &mut out);
                                let want: Vec<f64> = (0..rows * columns)
                                    .map(|i| {
                                        let at = |o: &Operand<'_>| {
                                            let c = if o.repeated { 0 } else { i % columns };
                                            f64::from(o.data[i / columns * o.row_stride + c])
                                        };
                                        unary(then, exact(f, at(&a), at(&b)))
                                    })
                                    .collect();
                                let scale = want
                                    .iter()
                                    .filter(|w| w.is_finite())
                                    .fold(1.0, |m: f64, w| m.max(w.abs()));
                                assert_close(
                                    &format!("{isa:?} {f:?} {columns} {stride}"),
                                    &out,
                                    &want,
                                    2e-7 * scale,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
