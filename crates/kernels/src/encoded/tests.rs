use super::*;
use crate::elementwise::Unary;
use crate::testing::Values;

/// Bytes that decode to numbers of moderate size: any codes, scales that are neither large nor
/// NaN.
fn weights(values: &mut Values, encoding: Encoding, elements: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..encoding.bytes(elements).unwrap()).map(|_| values.below(256) as u8).collect();
    let halves: &[usize] = match encoding {
        Encoding::Q4_1 | Encoding::Q5_1 | Encoding::Q4_K | Encoding::Q5_K => &[0, 2],
        Encoding::Q2_K => &[80, 82],
        Encoding::Q3_K => &[108],
        Encoding::Q6_K => &[208],
        Encoding::TQ1_0 => &[52],
        Encoding::TQ2_0 => &[64],
        Encoding::MXFP4 => &[],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(encoding.block_bytes()) {
        for at in halves {
            let scale = 0.01 + 0.01 * values.below(100) as f32;
            let scale = if values.below(2) == 0 { scale } else { -scale };
            block[*at..at + 2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
        }
        match encoding {
            Encoding::MXFP4 => block[0] = 118 + values.below(12) as u8,
            // Code 3 is not written.
            Encoding::TQ2_0 => block[..64].iter_mut().for_each(|b| *b &= *b >> 1 & 0x55 ^ 0xff),
            _ => {}
        }
    }
    bytes
}

fn packed(layout: &CodeLayout, weights: &[u8]) -> Vec<u8> {
    if !layout.is_packed() {
        return weights.to_vec();
    }
    let mut bytes = vec![0xaa; layout.bytes()];
    layout.pack(0..layout.panels(), weights, &mut bytes);
    bytes
}

fn rounded(layout: &CodeLayout, x: &[f32]) -> crate::aligned::Aligned<u8> {
    let rows: Vec<&[f32]> = x.chunks_exact(layout.k).collect();
    let mut out = crate::aligned::Aligned::zeros(rows.len() * layout.row_bytes());
    let group = layout.group_rows(rows.len());
    for (rows, out) in rows.chunks(group).zip(out.chunks_mut(group * layout.row_bytes())) {
        layout.round(rows, out);
    }
    out
}

fn product(product: &Product<'_>, x: &[f32]) -> Vec<f32> {
    let layout = product.layout;
    let count = x.len() / layout.k;
    let data = rounded(layout, x);
    let mut out = vec![f32::NAN; count * layout.m];
    let mut scratch = vec![0xff; layout.scratch(count)];
    let rows = RoundedRows { data: &data, count, targets: None };
    // SAFETY: nobody else has `out`.
    unsafe { product.run(rows, 0..layout.panels(), SharedMut::new(&mut out), &mut scratch) };
    out
}

/// The results, and how far each may be off: half a step of each block's rounded elements.
fn want(encoding: Encoding, weights: &[u8], m: usize, x: &[f32], k: usize) -> Vec<(f64, f64)> {
    let mut w = vec![0.0; m * k];
    encoding.decode(weights, &mut w);
    let mut out = Vec::new();
    for x in x.chunks_exact(k) {
        for w in w.chunks_exact(k) {
            let (mut sum, mut off) = (0.0, 0.0);
            for (x, w) in x.chunks(32).zip(w.chunks(32)) {
                let top = x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                for (x, w) in x.iter().zip(w) {
                    sum += f64::from(*x) * f64::from(*w);
                    // The rounding to bytes, and that of sums of f32.
                    off += f64::from(top * w.abs()) * (0.501 / 127.0 + 1e-5);
                }
            }
            out.push((sum, off + 1e-4));
        }
    }
    out
}

#[test]
fn every_encoding_is_within_the_rounding_of_rows() {
    let mut values = Values::new(5);
    for &encoding in Encoding::ALL {
        for (m, blocks) in [(1, 1), (16, 3), (37, 2), (67, 11)] {
            let blocks = if encoding.block_len() == 256 { blocks.min(3) } else { blocks };
            let k = blocks * encoding.block_len();
            let weights = weights(&mut values, encoding, m * k);
            for isa in Isa::available() {
                let layout = CodeLayout::new(isa, encoding, m, k);
                let packed = packed(&layout, &weights);
                for n in [1, 2, 5, 6, 7, 13] {
                    let x = values.floats(n * k);
                    let p =
                        Product { layout: &layout, weights: &packed, finish: Finish::default() };
                    let got = product(&p, &x);
                    let want = want(encoding, &weights, m, &x, k);
                    for (i, (got, (want, off))) in got.iter().zip(want).enumerate() {
                        let close = (f64::from(*got) - want).abs() <= off;
                        assert!(
                            close,
                            "{isa:?} {encoding} {n}×{m}×{k} [{i}]: {got}, not {want} ± {off}"
                        );
                    }
                }
            }
        }
    }
}

/// Every instruction set rounds to the same bits: codes to the nearest, ties to even.
#[test]
fn every_isa_rounds_as_written() {
    let mut values = Values::new(10);
    for &encoding in Encoding::ALL {
        let k = 2 * encoding.block_len().max(64);
        let mut x = values.floats(6 * k);
        x[..BLOCK].fill(0.0);
        // Steps of 1, and halves between them.
        let ties = [127.0, 0.5, 1.5, -0.5, -2.5, 126.5, -126.5, -127.0];
        x[BLOCK..2 * BLOCK].copy_from_slice(&ties.repeat(4));
        x[k] = 1e30;
        x[k + BLOCK] = 1e-30;
        for isa in Isa::available() {
            let layout = CodeLayout::new(isa, encoding, 1, k);
            let group = layout.group();
            let zero =
                if layout.form.is_wide() { needs(isa).wide_zero } else { layout.form.zero.into() };
            for count in 1..=layout.group_rows(usize::MAX) {
                let rows: Vec<&[f32]> = x.chunks_exact(k).take(count).collect();
                let mut data = vec![0; count * layout.row_bytes()];
                layout.round(&rows, &mut data);
                let word = |at: usize| data[at..at + 4].try_into().unwrap();
                for (r, b) in (0..count).flat_map(|r| (0..k / BLOCK).map(move |b| (r, b))) {
                    let what = format!("{isa:?} {encoding}, block {b} of row {r} of {count}");
                    let block = &x[r * k + b * BLOCK..][..BLOCK];
                    let top = block.iter().fold(0.0f32, |a, x| a.max(x.abs()));
                    let factor = if top > 0.0 { 127.0 / top } else { 0.0 };
                    let codes: Vec<i8> =
                        block.iter().map(|x| (x * factor).round_ties_even() as i8).collect();
                    for (e, code) in codes.iter().enumerate() {
                        let quad = group.quad(count, r, 8 * b + e / 4);
                        assert_eq!(data[4 * quad + e % 4] as i8, *code, "{what} [{e}]");
                    }
                    let scale = f32::from_ne_bytes(word(group.scales(count) + 4 * (b * count + r)));
                    assert_eq!(scale.to_bits(), (top / 127.0).to_bits(), "{what}");
                    for (sub, codes) in codes.chunks(BLOCK / group.subs).enumerate() {
                        let sum: i32 = codes.iter().map(|c| i32::from(*c)).sum();
                        let at = 4 * ((b * group.subs + sub) * count + r);
                        let start = i32::from_ne_bytes(word(group.starts(count) + at));
                        assert_eq!(start, -zero * sum, "{what}");
                        if group.mins {
                            let scaled = f32::from_ne_bytes(word(group.sums(count) + at));
                            let want = scale * sum as f32;
                            assert_eq!(scaled.to_bits(), want.to_bits(), "{what}");
                        }
                    }
                }
            }
        }
    }
}

/// Where rows are whole numbers of steps nothing is rounded but the sums.
#[test]
fn whole_numbers_are_exact() {
    let mut values = Values::new(6);
    for &encoding in Encoding::ALL {
        let (m, k) = (35, 256);
        let weights = weights(&mut values, encoding, m * k);
        for isa in Isa::available() {
            let layout = CodeLayout::new(isa, encoding, m, k);
            let packed = packed(&layout, &weights);
            for n in [1, 9] {
                let mut x: Vec<f32> =
                    (0..n * k).map(|_| values.below(255) as f32 - 127.0).collect();
                x.chunks_mut(32).for_each(|block| block[7] = 127.0);
                let p = Product { layout: &layout, weights: &packed, finish: Finish::default() };
                let mut w = vec![0.0; m * k];
                encoding.decode(&weights, &mut w);
                for (got, x) in product(&p, &x).chunks(m).zip(x.chunks(k)) {
                    for (got, w) in got.iter().zip(w.chunks(k)) {
                        let each = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                        let (sum, size): (f64, f64) = (each().sum(), each().map(f64::abs).sum());
                        let off = (f64::from(*got) - sum).abs();
                        assert!(off <= 4e-6 * size, "{isa:?} {encoding}: {got}, not {sum}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let mut values = Values::new(7);
    for &encoding in Encoding::ALL {
        let (m, k, n) = (50, 1280, 37);
        let weights = weights(&mut values, encoding, m * k);
        let x = values.floats(n * k);
        for isa in Isa::available() {
            let layout = CodeLayout::new(isa, encoding, m, k);
            let packed = packed(&layout, &weights);
            let p = Product { layout: &layout, weights: &packed, finish: Finish::default() };
            let whole = product(&p, &x);
            for rows in [1, 3, 7] {
                for (x, whole) in x.chunks_exact(rows * k).zip(whole.chunks_exact(rows * m)) {
                    assert_eq!(product(&p, x), whole, "{isa:?} {encoding}, {rows} at a time");
                }
            }
        }
    }
}

#[test]
fn bias_activation_targets_and_parts() {
    let mut values = Values::new(8);
    let (m, k, n) = (70, 64, 9);
    let encoding = Encoding::Q4_0;
    let weights = weights(&mut values, encoding, m * k);
    let (x, bias) = (values.floats(n * k), values.floats(m));
    for isa in Isa::available() {
        let layout = CodeLayout::new(isa, encoding, m, k);
        let packed = packed(&layout, &weights);
        let plain = Product { layout: &layout, weights: &packed, finish: Finish::default() };
        let plain_out = product(&plain, &x);
        let data = rounded(&layout, &x);
        let targets: Vec<i32> = (0..n as i32).rev().collect();
        let p = Product {
            finish: Finish { bias: Some(&bias), activation: Unary::RELU, ..Finish::default() },
            ..plain
        };
        let mut out = vec![f32::NAN; n * m];
        let mut scratch = vec![0; layout.scratch(n)];
        let rows = RoundedRows { data: &data, count: n, targets: Some(&targets) };
        let shared = SharedMut::new(&mut out);
        for panels in [0..1, 1..4, 4..5] {
            // SAFETY: nobody else has `out`.
            unsafe { p.run(rows, panels, shared, &mut scratch) };
        }
        for i in 0..n {
            for j in 0..m {
                let want = (plain_out[i * m + j] + bias[j]).max(0.0);
                assert_eq!(out[(n - 1 - i) * m + j], want, "{isa:?}");
            }
        }
    }
}

#[test]
fn what_is_no_number_is_not_hidden() {
    let mut values = Values::new(9);
    let (m, k) = (16, 64);
    let weights = weights(&mut values, Encoding::Q8_0, m * k);
    for isa in Isa::available() {
        let layout = CodeLayout::new(isa, Encoding::Q8_0, m, k);
        let packed = packed(&layout, &weights);
        let p = Product { layout: &layout, weights: &packed, finish: Finish::default() };
        for (bad, at) in [(f32::NAN, 3), (f32::INFINITY, 63), (f32::NEG_INFINITY, 40)] {
            let mut x = values.floats(k);
            x[at] = bad;
            assert!(product(&p, &x).iter().all(|y| y.is_nan()), "{isa:?} {bad}");
        }
        assert!(product(&p, &vec![1e-39; k]).iter().all(|y| y.abs() < 1e-30));
    }
}

/// The bytes of `values` as `float`, and what they then are.
fn float_bytes(float: Float, values: &mut [f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for v in values {
        match float {
            Float::F32 => bytes.extend(v.to_le_bytes()),
            Float::F16 => {
                let half = half::f16::from_f32(*v);
                *v = half.to_f32();
                bytes.extend(half.to_le_bytes());
            }
            Float::BF16 => {
                let half = half::bf16::from_f32(*v);
                *v = half.to_f32();
                bytes.extend(half.to_le_bytes());
            }
        }
    }
    bytes
}

#[test]
fn float_weights_as_they_are_stored() {
    let mut values = Values::new(11);
    for float in [Float::F32, Float::F16, Float::BF16] {
        for (m, k) in [(1, 1), (16, 16), (5, 37), (50, 100), (33, 1283), (3, 3100)] {
            let mut w = values.floats(m * k);
            // At an odd address, as a file may have them.
            let bytes = [vec![0], float_bytes(float, &mut w)].concat();
            let (n, bias) = (13, values.floats(m));
            let x = values.floats(n * k);
            for isa in Isa::available() {
                let layout = FloatLayout::new(isa, float, m, k);
                let p = FloatProduct {
                    layout: &layout,
                    weights: &bytes[1..],
                    finish: Finish::default(),
                };
                let product = |p: &FloatProduct<'_>, rows: FloatRows<'_>| {
                    let mut out = vec![f32::NAN; rows.count * m];
                    let shared = SharedMut::new(&mut out);
                    // SAFETY: nobody else has `out`.
                    unsafe { p.run(rows, 0..layout.panels(), shared) };
                    out
                };
                let all = FloatRows { data: &x, count: n, sources: None, targets: None };
                let whole = product(&p, all);
                for (x, got) in x.chunks(k).zip(whole.chunks(m)) {
                    for (w, got) in w.chunks(k).zip(got) {
                        let each = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                        let (sum, size): (f64, f64) = (each().sum(), each().map(f64::abs).sum());
                        let off = (f64::from(*got) - sum).abs();
                        assert!(off <= 1e-6 * size, "{isa:?} {float:?} {m}x{k}: {got}, not {sum}");
                    }
                }
                for count in 1..n {
                    let some = product(&p, FloatRows { count, ..all });
                    assert_eq!(some, whole[..count * m], "{isa:?} {float:?}: {count} rows");
                }
                let back: Vec<i32> = (0..n as i32).rev().collect();
                let p = FloatProduct {
                    finish: Finish {
                        bias: Some(&bias),
                        activation: Unary::RELU,
                        ..Finish::default()
                    },
                    ..p
                };
                let placed =
                    product(&p, FloatRows { sources: Some(&back), targets: Some(&back), ..all });
                for (placed, whole) in placed.chunks(m).zip(whole.chunks(m)) {
                    for ((placed, whole), bias) in placed.iter().zip(whole).zip(&bias) {
                        assert_eq!(*placed, (whole + bias).max(0.0), "{isa:?} {float:?}");
                    }
                }
            }
        }
    }
}
