//! Requantisation with AVX-512.

use std::arch::x86_64::*;

use super::{Byte, ByteOutput, FixedFactors, Tile};

/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL; `tile` is checked.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn fixed(factors: &FixedFactors, output: &ByteOutput, first: usize, tile: Tile) {
    // Without the correction negative accumulators still give no steps above zero, so limits that
    // start at the zero point hide it.
    let corrected = output.min < output.zero_point && !factors.once;
    // SAFETY: the factors are padded to whole vectors beyond the tile's channels.
    unsafe {
        match (factors.general, corrected) {
            (true, _) => columns(&Wide { factors, first }, output, tile),
            (false, true) => columns(&Plain::<true> { factors, first }, output, tile),
            (false, false) => columns(&Plain::<false> { factors, first }, output, tile),
        }
    }
}

/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL; `tile` is checked.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn float(scales: &[f32], output: &ByteOutput, first: usize, tile: Tile) {
    let low = _mm512_set1_ps((output.min - output.zero_point) as f32);
    let high = _mm512_set1_ps((output.max - output.zero_point) as f32);
    // SAFETY: the scales are padded to whole vectors beyond the tile's channels.
    unsafe { columns(&Float { scales: &scales[first..], low, high }, output, tile) }
}

/// From accumulators to output steps.
trait Steps {
    /// The factors of 16 channels, which stay in registers from row to row.
    type Factors: Copy;

    /// Those of the tile's columns from `column` on.
    ///
    /// # Safety
    /// The CPU has AVX-512 F; there are 16 such columns, or they are padded to that, and one more.
    unsafe fn load(&self, column: usize) -> Self::Factors;

    /// The steps of 16 accumulators.
    ///
    /// # Safety
    /// The CPU has AVX-512 F and DQ.
    unsafe fn apply(&self, factors: &Self::Factors, x: __m512i) -> __m512i;
}

/// [`FixedFactors`] that are not general; `CORRECTED`: negative accumulators less one.
struct Plain<'a, const CORRECTED: bool> {
    factors: &'a FixedFactors,
    first: usize,
}

/// The mantissas of even and odd channels, what is added to their products, and shifts.
#[derive(Clone, Copy)]
struct Product {
    mantissa: [__m512i; 2],
    round: [__m512i; 2],
    shift: __m512i,
}

impl Product {
    /// # Safety
    /// As [`Steps::load`].
    #[inline(always)]
    unsafe fn load(factors: &FixedFactors, channel: usize) -> Product {
        // SAFETY: the caller's promise.
        unsafe {
            let mantissa = factors.mantissa.as_ptr().add(channel);
            let round = factors.round.as_ptr().add(channel);
            Product {
                // Loaded one further on, the odd channels' mantissas lie in the even lanes.
                mantissa: [load(mantissa), load(mantissa.add(1))],
                round: [_mm512_loadu_si512(round.cast()), _mm512_loadu_si512(round.add(8).cast())],
                shift: load(factors.shift.as_ptr().add(channel)),
            }
        }
    }

    /// The high halves of the rounded products.
    ///
    /// # Safety
    /// As [`Steps::apply`].
    #[inline(always)]
    unsafe fn high(&self, x: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let twice = _mm512_add_epi32(x, x);
            let even = _mm512_mul_epi32(twice, self.mantissa[0]);
            let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(twice), self.mantissa[1]);
            let even = _mm512_add_epi64(even, self.round[0]);
            let odd = _mm512_add_epi64(odd, self.round[1]);
            _mm512_mask_shuffle_epi32::<0xf5>(odd, 0x5555, even)
        }
    }
}

impl<const CORRECTED: bool> Steps for Plain<'_, CORRECTED> {
    type Factors = Product;

    #[inline(always)]
    unsafe fn load(&self, column: usize) -> Product {
        // SAFETY: the caller's promise.
        unsafe { Product::load(self.factors, self.first + column) }
    }

    #[inline(always)]
    unsafe fn apply(&self, product: &Product, x: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let mut high = product.high(x);
            if CORRECTED {
                high = _mm512_add_epi32(high, _mm512_srai_epi32::<31>(x));
            }
            _mm512_srav_epi32(high, product.shift)
        }
    }
}

/// Any [`FixedFactors`], shifted as 64-bit products.
struct Wide<'a> {
    factors: &'a FixedFactors,
    first: usize,
}

/// Of even and odd channels: `shift` to the right, and minus 2^32 where the correction applies.
#[derive(Clone, Copy)]
struct WideProduct {
    left: __m512i,
    product: Product,
    shift: [__m512i; 2],
    correction: [__m512i; 2],
}

impl Steps for Wide<'_> {
    type Factors = WideProduct;

    #[inline(always)]
    unsafe fn load(&self, column: usize) -> WideProduct {
        let channel = self.first + column;
        // SAFETY: the caller's promise.
        unsafe {
            let product = Product::load(self.factors, channel);
            let sign = load(self.factors.sign.as_ptr().add(channel));
            let (word, low) = (_mm512_set1_epi64(32), _mm512_set1_epi64(0xffff_ffff));
            WideProduct {
                left: load(self.factors.left.as_ptr().add(channel)),
                product,
                shift: [
                    _mm512_add_epi64(_mm512_and_si512(product.shift, low), word),
                    _mm512_add_epi64(_mm512_srli_epi64::<32>(product.shift), word),
                ],
                correction: [_mm512_slli_epi64::<32>(sign), _mm512_andnot_si512(low, sign)],
            }
        }
    }

    #[inline(always)]
    unsafe fn apply(&self, factors: &WideProduct, x: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let x = _mm512_sllv_epi32(x, factors.left);
            let even = wide(factors, 0, x);
            let odd = wide(factors, 1, _mm512_srli_epi64::<32>(x));
            _mm512_mask_shuffle_epi32::<0xa0>(even, 0xaaaa, odd)
        }
    }
}

/// The steps of the accumulators in even lanes, whose channels have parity `odd`.
///
/// # Safety
/// As [`Steps::apply`].
#[inline(always)]
unsafe fn wide(factors: &WideProduct, odd: usize, x: __m512i) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let product = _mm512_mul_epi32(x, factors.product.mantissa[odd]);
        let negative = _mm512_srai_epi64::<63>(product);
        let rounded = _mm512_add_epi64(
            _mm512_add_epi64(product, product),
            _mm512_add_epi64(
                factors.product.round[odd],
                _mm512_and_si512(negative, factors.correction[odd]),
            ),
        );
        _mm512_srav_epi64(rounded, factors.shift[odd])
    }
}

struct Float<'a> {
    scales: &'a [f32],
    /// The output's limits in steps.
    low: __m512,
    high: __m512,
}

impl Steps for Float<'_> {
    type Factors = __m512;

    #[inline(always)]
    unsafe fn load(&self, column: usize) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(self.scales.as_ptr().add(column)) }
    }

    #[inline(always)]
    unsafe fn apply(&self, scales: &__m512, x: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let steps = _mm512_mul_ps(_mm512_cvtepi32_ps(x), *scales);
            _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(steps, self.low), self.high))
        }
    }
}

#[inline(always)]
unsafe fn load(from: *const i32) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(from.cast()) }
}

/// Rescales, adds the zero point, clamps and stores: 64 columns at a time, whose factors stay in
/// registers for all rows.
///
/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL; `tile` is checked.
#[inline(always)]
unsafe fn columns(steps: &impl Steps, output: &ByteOutput, tile: Tile) {
    let mut column = 0;
    while column < tile.columns {
        // SAFETY: the caller's promise.
        unsafe {
            match tile.columns - column {
                ..=16 => rows::<1, 4>(steps, output, column, tile),
                17..=32 => rows::<2, 2>(steps, output, column, tile),
                33..=48 => rows::<3, 1>(steps, output, column, tile),
                _ => rows::<4, 1>(steps, output, column, tile),
            }
        }
        column += 64;
    }
}

/// All rows of the `VECTORS` vectors of columns from `column` on, the last perhaps not whole,
/// `ROWS` rows at a time: together at most four vectors.
///
/// # Safety
/// As [`columns`].
#[inline(always)]
unsafe fn rows<const VECTORS: usize, const ROWS: usize>(
    steps: &impl Steps,
    output: &ByteOutput,
    column: usize,
    tile: Tile,
) {
    // SAFETY: `tile` is checked; masks keep the last loads and stores within the row.
    unsafe {
        let bytes = (tile.columns - column).min(16 * VECTORS);
        let last = u16::MAX >> (16 * VECTORS - bytes);
        let mut factors = [steps.load(column); VECTORS];
        for (vector, factors) in factors.iter_mut().enumerate().skip(1) {
            *factors = steps.load(column + 16 * vector);
        }
        let pack = Pack::new(output);
        let mut row = 0;
        while row < tile.rows {
            let count = ROWS.min(tile.rows - row);
            let mut x = [_mm512_setzero_si512(); 4];
            for i in 0..ROWS {
                // Rows that lack are computed from the last one.
                let acc = tile.acc.add((row + i.min(count - 1)) * tile.acc_stride + column);
                for (vector, factors) in factors.iter().enumerate() {
                    let mask = if vector + 1 == VECTORS { last } else { u16::MAX };
                    let acc = _mm512_maskz_loadu_epi32(mask, acc.add(16 * vector));
                    x[i * VECTORS + vector] = steps.apply(factors, acc);
                }
            }
            let packed = pack.bytes(x);
            let out = tile.out.add(row * tile.out_stride + column);
            if ROWS * bytes == 64 && (ROWS == 1 || count == ROWS && tile.out_stride == bytes) {
                _mm512_storeu_si512(out.cast(), packed);
            } else {
                let mask = u64::MAX >> (64 - bytes);
                for i in 0..count {
                    let out = out.add(i * tile.out_stride);
                    let packed = match (ROWS, i) {
                        (_, 0) => packed,
                        (2, _) => _mm512_shuffle_i64x2::<0b_11_10>(packed, packed),
                        (_, 1) => _mm512_shuffle_i64x2::<1>(packed, packed),
                        (_, 2) => _mm512_shuffle_i64x2::<2>(packed, packed),
                        (_, _) => _mm512_shuffle_i64x2::<3>(packed, packed),
                    };
                    match bytes {
                        16 => _mm_storeu_si128(out.cast(), _mm512_castsi512_si128(packed)),
                        32 => _mm256_storeu_si256(out.cast(), _mm512_castsi512_si256(packed)),
                        _ => _mm512_mask_storeu_epi8(out.cast(), mask, packed),
                    }
                }
            }
            row += ROWS;
        }
    }
}

/// From steps to bytes.
struct Pack {
    signed: bool,
    zero: __m512i,
    min: __m512i,
    max: __m512i,
    order: __m512i,
}

impl Pack {
    /// # Safety
    /// The CPU has AVX-512 F and BW.
    #[inline(always)]
    unsafe fn new(output: &ByteOutput) -> Pack {
        // SAFETY: the caller's promise.
        unsafe {
            Pack {
                signed: output.kind == Byte::Signed,
                zero: _mm512_set1_epi16(output.zero_point as i16),
                min: _mm512_set1_epi8(output.min as i8),
                max: _mm512_set1_epi8(output.max as i8),
                // Packing interleaves 128-bit lanes: dword 4 l + v of the result belongs at
                // 4 v + l.
                order: _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
            }
        }
    }

    /// Adds the zero point to the steps of four vectors and clamps them.
    ///
    /// # Safety
    /// The CPU has AVX-512 F and BW.
    #[inline(always)]
    unsafe fn bytes(&self, [a, b, c, d]: [__m512i; 4]) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let low = _mm512_adds_epi16(_mm512_packs_epi32(a, b), self.zero);
            let high = _mm512_adds_epi16(_mm512_packs_epi32(c, d), self.zero);
            let bytes = if self.signed {
                let bytes = _mm512_packs_epi16(low, high);
                _mm512_min_epi8(_mm512_max_epi8(bytes, self.min), self.max)
            } else {
                let bytes = _mm512_packus_epi16(low, high);
                _mm512_min_epu8(_mm512_max_epu8(bytes, self.min), self.max)
            };
            _mm512_permutexvar_epi32(self.order, bytes)
        }
    }
}
