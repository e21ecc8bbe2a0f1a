//! Scales for encoders: those with the least squared error among a few that are likely.

/// The largest finite half.
const MAX_HALF: f32 = 65504.0;

/// Below this a block is all zeros: no half is a scale for it.
const TINY: f32 = 1e-10;

/// `v` as a half, within the finite ones: its bytes, and what they stand for.
pub(super) fn to_half(v: f32) -> ([u8; 2], f32) {
    let half = half::f16::from_f32(v.clamp(-MAX_HALF, MAX_HALF));
    (half.to_le_bytes(), half.to_f32())
}

/// `1 / d`, or 0 for 0.
pub(super) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// `v`, rounded to an integer in `low..=high`; the limits lie within ±2²². NaN becomes some integer.
pub(super) fn nearest(v: f32, low: f32, high: f32) -> f32 {
    /// Adding this leaves no bits for a fraction.
    const INTEGERS: f32 = 12_582_912.0;
    (v.max(low).min(high) + INTEGERS) - INTEGERS
}

/// The value that is largest without its sign.
fn peak(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |peak: f32, v| if v.abs() > peak.abs() { *v } else { peak })
}

/// The scale `d` for which `x ≈ d q`, where `code` gives the `q` of a number, and the peak of `x` is
/// to have a `q` of about `end`.
pub(super) fn scale_by(x: &[f32], end: f32, code: impl Fn(f32) -> f32) -> f32 {
    let peak = peak(x);
    if !(peak.abs() > TINY && peak.is_finite()) {
        return 0.0;
    }
    // All scales side by side, so that there is a lane for each; every sum has its elements in order.
    let inverses = tried::<19>().map(|step| end * (1.0 + 0.0125 * step) / peak);
    let (mut xq, mut qq) = ([0.0; 19], [0.0; 19]);
    for x in x {
        for i in 0..inverses.len() {
            let q = code(x * inverses[i]);
            xq[i] += x * q;
            qq[i] += q * q;
        }
    }
    let mut best = (0.0, 0.0);
    for (xq, qq) in xq.into_iter().zip(qq) {
        // The error is Σx² − (Σxq)² / Σq².
        if qq > 0.0 && xq * xq / qq > best.0 {
            best = (xq * xq / qq, xq / qq);
        }
    }
    best.1
}

/// N whole numbers about 0, in order.
fn tried<const N: usize>() -> [f32; N] {
    std::array::from_fn(|i| i as f32 - (N / 2) as f32)
}

/// [`scale_by`] for codes that are the integers from `low`, which is negative, to `−low − 1`.
pub(super) fn scale(x: &[f32], low: f32) -> f32 {
    scale_by(x, low, |v| nearest(v, low, -low - 1.0))
}

/// The scale and minimum for which `x ≈ scale q + min`, where `q` are integers from 0 to `top`. The
/// minimum is not above `limit`.
pub(super) fn scale_and_min(x: &[f32], top: f32, limit: f32) -> (f32, f32) {
    let low = x.iter().copied().fold(limit, f32::min);
    let high = x.iter().copied().fold(low, f32::max);
    if !((high - low) > TINY && (high - low).is_finite()) {
        return (0.0, if low.is_finite() { low } else { 0.0 });
    }
    let n = x.len() as f32;
    // Side by side, as in `scale_by`.
    let per_units = tried::<21>().map(|step| (top + 0.1 * step) / (high - low));
    let mut sum_x = 0.0;
    let (mut sums_q, mut qqs, mut xqs) = ([0.0; 21], [0.0; 21], [0.0; 21]);
    for x in x {
        // Relative to the minimum, so that little is lost where that is large.
        let x = x - low;
        sum_x += x;
        for i in 0..per_units.len() {
            let q = nearest(x * per_units[i], 0.0, top);
            sums_q[i] += q;
            qqs[i] += q * q;
            xqs[i] += x * q;
        }
    }
    let fits: [(f32, f32); 21] = std::array::from_fn(|i| {
        let (sum_q, qq, xq) = (sums_q[i], qqs[i], xqs[i]);
        let determinant = n * qq - sum_q * sum_q;
        let (scale, min) = if determinant > 0.0 {
            let shift = (qq * sum_x - sum_q * xq) / determinant;
            ((n * xq - sum_x * sum_q) / determinant, low + shift)
        } else {
            // All have one code.
            (xq / qq, low)
        };
        if min > limit { ((xq + (low - limit) * sum_q) / qq, limit) } else { (scale, min) }
    });
    let (scales, mins) = (fits.map(|fit| fit.0), fits.map(|fit| fit.1));
    let (backs, mut errors) = (scales.map(inverse), [0.0; 21]);
    for x in x {
        for i in 0..errors.len() {
            let e = scales[i] * nearest((x - mins[i]) * backs[i], 0.0, top) + mins[i] - x;
            errors[i] += e * e;
        }
    }
    let mut best = (f32::INFINITY, 0.0, 0.0);
    for (error, (scale, min)) in errors.into_iter().zip(fits) {
        if error < best.0 {
            best = (error, scale, min);
        }
    }
    (best.1, best.2)
}
