use super::*;

/// Runs one-vector functions on padded slices, so that every operation meets plain Rust's answer.
struct Ops<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for Ops<'_> {
    type Output = Vec<Vec<f32>>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<Vec<f32>> {
        let mut all = vec![Vec::new(); 17];
        for (a, b) in self.a.chunks(S::LANES).zip(self.b.chunks(S::LANES)) {
            let n = a.len();
            // SAFETY: `n` elements are in both chunks.
            let (a, b) = unsafe { (s.load_n(a.as_ptr(), n), s.load_n(b.as_ptr(), n)) };
            let results = [
                s.add(a, b),
                s.sub(a, b),
                s.mul(a, b),
                s.div(a, b),
                s.min(b, a),
                s.max(b, a),
                s.sqrt(s.abs(a)),
                s.round(a),
                s.floor(a),
                s.ceil(a),
                s.select(s.lt(a, b), a, b),
                s.select(s.eq(a, b), s.splat(1.0), s.splat(0.0)),
                s.neg(a),
                s.with_sign(s.abs(a), b),
                s.to_float(s.ishr::<3>(s.ishl::<1>(s.to_int(s.min(s.splat(1e6), a))))),
                s.to_float(s.imul(s.to_int(a), s.to_int(b))),
                s.of_bits(s.isub(s.iadd(s.bits(a), s.isplat(5)), s.isplat(5))),
            ];
            for (all, v) in all.iter_mut().zip(results) {
                let mut out = [f32::NAN; 17];
                // SAFETY: `n` ≤ 16 elements fit.
                unsafe { s.store_n(out.as_mut_ptr(), v, n) };
                assert!(out[n..].iter().all(|x| x.is_nan()), "store_n wrote too much");
                all.extend_from_slice(&out[..n]);
            }
        }
        all
    }
}

#[test]
fn every_instruction_set_computes_what_plain_rust_does() {
    let a: Vec<f32> = (0..101).map(|i| (i as f32 - 50.0) * 0.5).collect();
    let b: Vec<f32> = (0..101).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.25).collect();
    type Scalar = fn(f32, f32) -> f32;
    let expected: [Scalar; 17] = [
        |a, b| a + b,
        |a, b| a - b,
        |a, b| a * b,
        |a, b| a / b,
        |a, b| a.min(b),
        |a, b| a.max(b),
        |a, _| a.abs().sqrt(),
        |a, _| a.round_ties_even(),
        |a, _| a.floor(),
        |a, _| a.ceil(),
        |a, b| if a < b { a } else { b },
        |a, b| if a == b { 1.0 } else { 0.0 },
        |a, _| -a,
        |a, b| a.abs().copysign(b),
        |a, _| (((a.round_ties_even() as i32) << 1) >> 3) as f32,
        |a, b| (a.round_ties_even() as i32 * b.round_ties_even() as i32) as f32,
        |a, _| a,
    ];
    for isa in Isa::available() {
        let got = dispatch(isa, Ops { a: &a, b: &b });
        for (op, (got, f)) in got.iter().zip(expected).enumerate() {
            for i in 0..a.len() {
                let want = f(a[i], b[i]);
                assert!(
                    got[i] == want || got[i].is_nan() && want.is_nan(),
                    "{isa:?} op {op}: f({}, {}) = {} not {want}",
                    a[i],
                    b[i],
                    got[i]
                );
            }
        }
    }
}

#[test]
fn clamping_keeps_nan() {
    struct Clamp;
    impl Kernel for Clamp {
        type Output = [f32; 16];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; 16] {
            let x = s.splat(f32::NAN);
            s.lanes(s.min(s.splat(6.0), s.max(s.splat(0.0), x)))
        }
    }
    for isa in Isa::available() {
        assert!(dispatch(isa, Clamp)[0].is_nan(), "{isa:?}");
    }
}

#[test]
fn sum_adds_every_lane() {
    struct Sum;
    impl Kernel for Sum {
        type Output = (f32, usize);
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> (f32, usize) {
            let x: [f32; 16] = std::array::from_fn(|i| (i + 1) as f32);
            // SAFETY: no vector has more than 16 lanes.
            (s.sum(unsafe { s.load(x.as_ptr()) }), S::LANES)
        }
    }
    for isa in Isa::available() {
        let (sum, lanes) = dispatch(isa, Sum);
        assert_eq!(lanes, super::lanes(isa));
        assert_eq!(sum, (lanes * (lanes + 1) / 2) as f32);
    }
}

#[test]
fn the_largest_lane_and_the_lowest_bytes() {
    struct Both<'a>(&'a [f32; 16], &'a mut [u8; 16]);
    impl Kernel for Both<'_> {
        type Output = f32;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f32 {
            // SAFETY: no vector has more than 16 lanes.
            unsafe {
                let x = s.load(self.0.as_ptr());
                s.store_bytes(self.1.as_mut_ptr(), s.to_int(x));
                s.largest(x)
            }
        }
    }
    for isa in Isa::available() {
        let lanes = super::lanes(isa);
        for largest in 0..lanes {
            let x: [f32; 16] =
                std::array::from_fn(|i| if i == largest { -1.0 } else { -2.0 - 8.0 * i as f32 });
            let mut bytes = [7; 16];
            assert_eq!(dispatch(isa, Both(&x, &mut bytes)), -1.0, "{isa:?} {largest}");
            let want: Vec<u8> = x[..lanes].iter().map(|x| *x as i8 as u8).collect();
            assert_eq!(bytes[..lanes], want[..], "{isa:?}");
            assert!(bytes[lanes..].iter().all(|b| *b == 7), "{isa:?}");
        }
    }
}
