use super::*;
use crate::isa::Isa;
use crate::shared::SharedMut;
use crate::testing::{Values, assert_close, unary};
use half::bf16;

/// A product with everything around it, in f64.
struct Case<'a> {
    m: usize,
    k: usize,
    n: usize,
    a: &'a [f32],
    a_stride: usize,
    b: &'a [f32],
    epilogue: Epilogue<'a>,
}

impl Case<'_> {
    fn expected(&self) -> Vec<f64> {
        let mut out = Vec::new();
        for i in 0..self.m {
            for j in 0..self.n {
                let mut sum = self.epilogue.bias.map_or(0.0, |bias| f64::from(bias[j]));
                for k in 0..self.k {
                    sum += f64::from(self.a[i * self.a_stride + k])
                        * f64::from(self.b[k * self.n + j]);
                }
                let mut x = unary(self.epilogue.activation, sum);
                if let Some(residual) = self.epilogue.residual {
                    x += f64::from(residual.data[i * residual.stride + j]);
                    x = unary(self.epilogue.after, x);
                }
                out.push(x);
            }
        }
        out
    }

    fn run(&self, isa: Isa, cut: (usize, usize), out_stride: usize) -> Vec<f32> {
        let packed = PackedB::new(isa, self.k, self.n, self.b, (self.n, 1));
        let layout = packed.layout();
        let gemm = Gemm { layout, b: packed.data(), epilogue: self.epilogue };
        let len = if self.m == 0 { 0 } else { (self.m - 1) * out_stride + self.n };
        let mut out = vec![-77.0; len];
        let shared = SharedMut::new(&mut out);
        let a = Rows { data: self.a, stride: self.a_stride };
        let row_cut = cut.0.min(self.m);
        let panel_cut = cut.1.min(layout.panels());
        for rows in [0..row_cut, row_cut..self.m] {
            for panels in [0..panel_cut, panel_cut..layout.panels()] {
                // SAFETY: one thread.
                unsafe { gemm.run(rows.clone(), panels, a, shared, out_stride) };
            }
        }
        let mut dense = Vec::new();
        for i in 0..self.m {
            dense.extend_from_slice(&out[i * out_stride..][..self.n]);
            if i + 1 < self.m {
                let gap = &out[i * out_stride + self.n..(i + 1) * out_stride];
                assert!(gap.iter().all(|&x| x == -77.0), "wrote between rows");
            }
        }
        dense
    }
}

#[test]
fn products_of_all_shapes_are_right() {
    let mut values = Values::new(1);
    let mut shapes =
        vec![(0, 3, 5), (3, 0, 5), (1, 1, 1), (1, 700, 130), (29, 65, 48), (31, 2048, 200)];
    shapes.extend((0..60).map(|_| (1 + values.below(40), values.below(70), 1 + values.below(110))));
    for isa in Isa::available() {
        for &(m, k, n) in &shapes {
            let a_stride = k + values.below(3);
            // One element in: no slice is aligned.
            let (a, b) = (values.floats(m * a_stride + k + 1), values.floats(k * n + 1));
            let bias = values.floats(n + 1);
            let case = Case {
                m,
                k,
                n,
                a: &a[1..],
                a_stride,
                b: &b[1..],
                epilogue: Epilogue { bias: Some(&bias[1..]), ..Default::default() },
            };
            let cut = (values.below(m + 1), values.below(4));
            let got = case.run(isa, cut, n + values.below(4));
            // k products, each sum rounded: k/2 units of the largest partial sum, at most k.
            let bound = (k as f64 + 2.0) * (k as f64 + 1.0) * 0.5 * 6e-8;
            assert_close(&format!("{isa:?} {m}×{k}×{n}"), &got, &case.expected(), bound);
        }
    }
}

/// A matrix of chance, each element as `to` makes it, with a neighbour before it so that it is not
/// aligned; and transposed.
fn matrix<E: Copy>(
    values: &mut Values,
    (rows, columns): (usize, usize),
    to: fn(f32) -> E,
) -> [Vec<E>; 2] {
    let plain: Vec<E> = values.floats(rows * columns + 1).into_iter().map(to).collect();
    let mut turned = plain.clone();
    for i in 0..rows {
        for j in 0..columns {
            turned[1 + j * rows + i] = plain[1 + i * columns + j];
        }
    }
    [plain, turned]
}

/// Products of matrices that lie in rows or in columns, in terms `T`, are those in f64.
fn check_terms<T: Term>(to: fn(f32) -> T::Element, of: fn(T::Element) -> f64, nan: T::Element) {
    let mut values = Values::new(5);
    let mut shapes = vec![(1, 1, 1), (1, 513, 130), (29, 65, 48), (31, 1024, 200), (90, 3000, 7)];
    shapes.extend((0..40).map(|_| (1 + values.below(40), values.below(70), 1 + values.below(110))));
    for isa in Isa::available() {
        for &(m, k, n) in &shapes {
            let (a, b) = (matrix(&mut values, (m, k), to), matrix(&mut values, (k, n), to));
            let mut want = Vec::new();
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                want.push((0..k).map(|x| of(a[0][1 + i * k + x]) * of(b[0][1 + x * n + j])).sum());
            }
            for (turn_a, turn_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let layout = PackLayout::of::<T>(isa, k, n);
                let b_strides = [(n, 1), (1, k)][turn_b];
                let b = PackedB::<T>::of(layout, &b[turn_b][1..], b_strides);
                let (a, a_strides) = (&a[turn_a][1..], [(k, 1), (1, m)][turn_a]);
                let left = LeftLayout::of::<T>(&layout);
                // What was there before must not be multiplied.
                let before = vec![nan; m * left.stride * T::ELEMENTS];
                let mut packed: Vec<T> = bytemuck::cast_slice(&before).to_vec();
                let cut = values.below(m + 1);
                let (first, second) = packed.split_at_mut(cut * left.stride);
                left.pack(0..cut, a, a_strides, first);
                left.pack(cut..m, a, a_strides, second);
                let mut lying = vec![Rows { data: packed.as_slice(), stride: left.stride }];
                if turn_a == 0 && k.is_multiple_of(T::ELEMENTS) {
                    lying.push(Rows { data: bytemuck::cast_slice(a), stride: k / T::ELEMENTS });
                }
                for rows in lying {
                    let mut out = vec![f32::NAN; m * n];
                    let gemm = Gemm { layout, b: b.data(), epilogue: Epilogue::default() };
                    let shared = SharedMut::new(&mut out);
                    // SAFETY: one thread.
                    unsafe { gemm.run(0..m, 0..layout.panels(), rows, shared, n) };
                    // As above: each sum is rounded, and there may be two to an element.
                    let bound = (k as f64 + 2.0) * (k as f64 + 1.0) * 6e-8;
                    let what = format!("{isa:?} {} {m}×{k}×{n} {turn_a} {turn_b}", T::NAME);
                    assert_close(&what, &out, &want, bound);
                }
            }
        }
    }
}

#[test]
fn products_of_bf16_are_right_however_matrices_lie() {
    check_terms::<Pair>(bf16::from_f32, bf16::to_f64, bf16::NAN);
}

#[test]
fn products_of_f32_are_right_however_matrices_lie() {
    check_terms::<f32>(|x| x, f64::from, f32::NAN);
}

#[test]
fn epilogues_are_right() {
    let mut values = Values::new(2);
    let (m, k, n) = (17, 9, 37);
    let (a, b) = (values.floats(m * k), values.floats(k * n));
    let (bias, residual) = (values.floats(n), values.floats(m * (n + 2)));
    let activations = [
        Unary::Identity,
        Unary::RELU,
        Unary::RELU6,
        Unary::Clamp(-0.5, 0.5),
        Unary::LeakyRelu(0.1),
        Unary::HardSwish,
        Unary::Silu,
        Unary::Sigmoid,
        Unary::Tanh,
        Unary::Gelu,
        Unary::GeluTanh,
    ];
    for isa in Isa::available() {
        for activation in activations {
            for after in [Unary::Identity, Unary::RELU, Unary::Tanh] {
                for (bias, residual) in
                    [(None, None), (Some(&bias), None), (Some(&bias), Some(&residual))]
                {
                    let residual =
                        residual.map(|data| Rows { data: data.as_slice(), stride: n + 2 });
                    let bias = bias.map(Vec::as_slice);
                    let epilogue = Epilogue { bias, activation, residual, after };
                    let case = Case { m, k, n, a: &a, a_stride: k, b: &b, epilogue };
                    let what =
                        format!("{isa:?} {activation:?} {after:?} residual {}", residual.is_some());
                    assert_close(&what, &case.run(isa, (5, 1), n), &case.expected(), 3e-6);
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let mut values = Values::new(3);
    let (m, k, n) = (30, 33, 50);
    let (a, b) = (values.floats(m * k), values.floats(k * n));
    for isa in Isa::available() {
        let of = |rows: std::ops::Range<usize>| {
            let a = &a[rows.start * k..rows.end * k];
            let m = rows.len();
            Case { m, k, n, a, a_stride: k, b: &b, epilogue: Epilogue::default() }.run(
                isa,
                (0, 0),
                n,
            )
        };
        let whole = of(0..m);
        for i in 0..m {
            assert_eq!(of(i..i + 1), whole[i * n..(i + 1) * n], "{isa:?} row {i}");
        }
    }
}

#[test]
fn nan_and_infinity_come_through() {
    let (a, b) = ([f32::NAN, 1.0, 1.0, f32::INFINITY, 1.0, 1.0], [1.0, 1.0, 1.0]);
    for isa in Isa::available() {
        let epilogue = Epilogue { activation: Unary::RELU, ..Default::default() };
        let case = Case { m: 2, k: 3, n: 1, a: &a, a_stride: 3, b: &b, epilogue };
        let got = case.run(isa, (0, 0), 1);
        assert!(got[0].is_nan() && got[1] == f32::INFINITY, "{isa:?}: {got:?}");
    }
}

#[test]
fn a_transposed_matrix_packs_like_the_plain_one() {
    let mut values = Values::new(4);
    let (k, n) = (13, 41);
    let plain = values.floats(k * n);
    let mut transposed = vec![0.0; k * n];
    for i in 0..k {
        for j in 0..n {
            transposed[j * k + i] = plain[i * n + j];
        }
    }
    for isa in Isa::available() {
        let a = PackedB::new(isa, k, n, &plain, (n, 1));
        let b = PackedB::new(isa, k, n, &transposed, (1, k));
        assert_eq!(a.data(), b.data());
        // Panels packed one at a time, as threads do, lie one after the other.
        let layout = a.layout();
        let mut parts = Vec::new();
        for panel in 0..layout.panels() {
            let mut part =
                vec![f32::NAN; k * layout.columns(panel).len().next_multiple_of(layout.lanes)];
            layout.pack(panel..panel + 1, &plain, (n, 1), &mut part);
            parts.extend(part);
        }
        assert_eq!(a.data(), parts);
        // And rows one at a time, in any order.
        let mut rows = vec![f32::NAN; layout.len()];
        for row in (0..k).rev() {
            let packed = SharedMut::new(&mut rows);
            // SAFETY: nobody else has it.
            unsafe { layout.put_row(row, &plain[row * n..][..n], packed) };
        }
        assert_eq!(a.data(), rows);
    }
}

#[test]
fn even_parts_cover_the_range() {
    for len in 0..40 {
        for most in 1..9 {
            let parts: Vec<_> = even_parts(3..3 + len, most).collect();
            assert_eq!(
                parts.iter().flat_map(Clone::clone).collect::<Vec<_>>(),
                (3..3 + len).collect::<Vec<_>>()
            );
            assert_eq!(parts.len(), len.div_ceil(most));
            assert!(parts.iter().all(|p| p.len() <= most && p.len() + 1 >= len / parts.len()));
        }
    }
}
