//! Functions of 8- and 16-bit values as tables.

/// `sigmoid(i / 24)` with 16 fraction bits, as TensorFlow Lite rounds it (not always to nearest).
const SIGMOID: [u16; 256] = [
    32768, 33451, 34133, 34813, 35493, 36169, 36843, 37513, 38180, 38841, 39498, 40149, 40794,
    41432, 42064, 42688, 43304, 43912, 44511, 45102, 45683, 46255, 46817, 47369, 47911, 48443,
    48964, 49475, 49975, 50464, 50942, 51409, 51865, 52311, 52745, 53169, 53581, 53983, 54374,
    54755, 55125, 55485, 55834, 56174, 56503, 56823, 57133, 57433, 57724, 58007, 58280, 58544,
    58800, 59048, 59288, 59519, 59743, 59959, 60168, 60370, 60565, 60753, 60935, 61110, 61279,
    61441, 61599, 61750, 61896, 62036, 62172, 62302, 62428, 62549, 62666, 62778, 62886, 62990,
    63090, 63186, 63279, 63368, 63454, 63536, 63615, 63691, 63765, 63835, 63903, 63968, 64030,
    64090, 64148, 64204, 64257, 64308, 64357, 64405, 64450, 64494, 64536, 64576, 64614, 64652,
    64687, 64721, 64754, 64786, 64816, 64845, 64873, 64900, 64926, 64950, 64974, 64997, 65019,
    65039, 65060, 65079, 65097, 65115, 65132, 65149, 65164, 65179, 65194, 65208, 65221, 65234,
    65246, 65258, 65269, 65280, 65291, 65301, 65310, 65319, 65328, 65337, 65345, 65352, 65360,
    65367, 65374, 65381, 65387, 65393, 65399, 65404, 65410, 65415, 65420, 65425, 65429, 65433,
    65438, 65442, 65445, 65449, 65453, 65456, 65459, 65462, 65465, 65468, 65471, 65474, 65476,
    65479, 65481, 65483, 65485, 65488, 65489, 65491, 65493, 65495, 65497, 65498, 65500, 65501,
    65503, 65504, 65505, 65507, 65508, 65509, 65510, 65511, 65512, 65513, 65514, 65515, 65516,
    65517, 65517, 65518, 65519, 65520, 65520, 65521, 65522, 65522, 65523, 65523, 65524, 65524,
    65525, 65525, 65526, 65526, 65526, 65527, 65527, 65528, 65528, 65528, 65529, 65529, 65529,
    65529, 65530, 65530, 65530, 65530, 65531, 65531, 65531, 65531, 65531, 65532, 65532, 65532,
    65532, 65532, 65532, 65533, 65533, 65533, 65533, 65533, 65533, 65533, 65533, 65534, 65534,
    65534, 65534, 65534, 65534, 65534, 65534, 65534, 65534, 65535,
];

/// TensorFlow Lite's table of `sigmoid(i / 24)`, 16 fraction bits.
pub fn sigmoid_table() -> &'static [u16; 256] {
    &SIGMOID
}

/// Input scaling of the int16 [`logistic_i16`] and [`tanh_i16`]: the input times
/// `multiplier / 2^shift` has 12 fraction bits times three. A zero multiplier stands for inputs
/// whose scale is the power of two `2^(shift - 12)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputScaling16 {
    /// In `0..=32767`.
    pub multiplier: i32,
    /// In `0..=31`: to the right, or to the left where the multiplier is zero.
    pub shift: u32,
}

impl InputScaling16 {
    /// The scaling for an input scale, as `TanhPrepare` and `SigmoidPrepare` compute it.
    /// `None` if the scale is not positive or too large.
    pub fn new(scale: f32, largest_power_shift: u32) -> Option<Self> {
        if !(scale.is_finite() && scale > 0.0) {
            return None;
        }
        // f32 logarithms, as `CheckedLog2` computes them.
        let log2 = scale.ln() * (1.0 / 2f32.ln());
        let rounded = log2.round();
        let shift = 12 + rounded as i32;
        if (log2 - rounded).abs() < 1e-3 && (0..=largest_power_shift as i32).contains(&shift) {
            return Some(Self { multiplier: 0, shift: shift as u32 });
        }
        let mut multiplier = f64::from(scale) * 4096.0 * 3.0;
        let mut shift = 0;
        while multiplier <= 32767.0 / 2.0 && shift <= 30 {
            shift += 1;
            multiplier *= 2.0;
        }
        (multiplier < 32768.0).then_some(Self { multiplier: multiplier as i32, shift })
    }

    /// [`InputScaling16::new`] for [`logistic_i16`].
    pub fn for_logistic(scale: f32) -> Option<Self> {
        Self::new(scale, 0)
    }

    /// [`InputScaling16::new`] for [`tanh_i16`].
    pub fn for_tanh(scale: f32) -> Option<Self> {
        Self::new(scale, 1)
    }

    fn apply(self, x: i16) -> i32 {
        if self.multiplier == 0 {
            return i32::from(x) * (3 << self.shift);
        }
        let round = if self.shift > 0 { 1i32 << (self.shift - 1) } else { 0 };
        (i32::from(x) * self.multiplier).wrapping_add(round) >> self.shift
    }
}

/// `SIGMOID` at `position / 2^bits`, with `bits` more fraction bits; `None` past its end.
fn sigmoid_between(position: u32, bits: u32) -> Option<u32> {
    let index = (position >> bits) as usize;
    if index >= 255 {
        return None;
    }
    let (low, high) = (u32::from(SIGMOID[index]), u32::from(SIGMOID[index + 1]));
    Some((low << bits) + (position & ((1 << bits) - 1)) * (high - low))
}

/// The logistic function of an int16 value; the result has 15 fraction bits
/// (`reference_integer_ops::Logistic`).
#[inline]
pub fn logistic_i16(x: i16, scaling: InputScaling16) -> i16 {
    let scaled = scaling.apply(x);
    let result = sigmoid_between(scaled.unsigned_abs(), 9).unwrap_or(0x7fff << 10);
    let rounded = if scaled >= 0 { result + (1 << 9) } else { (1 << 25) - result + (1 << 9) - 1 };
    (rounded >> 10) as i16
}

/// The hyperbolic tangent of an int16 value; the result has 15 fraction bits
/// (`reference_integer_ops::Tanh`).
#[inline]
pub fn tanh_i16(x: i16, scaling: InputScaling16) -> i16 {
    let scaled = scaling.apply(x);
    let result = sigmoid_between(scaled.unsigned_abs(), 8).unwrap_or(0xffff << 8) as i32;
    let half = 1 << 23;
    let rounded = if scaled >= 0 { result - half + (1 << 7) } else { half - result + (1 << 7) - 1 };
    (rounded >> 8) as i16
}

/// An int16 function as 513 samples with linear interpolation (`LUTPopulate<int16_t>` and
/// `LUTLookup`), for every int16 function but logistic and tanh.
#[derive(Clone, Debug)]
pub struct Lut16([i16; 513]);

impl Lut16 {
    /// Samples `function` over the whole input range of `(scale, zero_point)`, for outputs of
    /// `output`, balancing the interpolation error at the middle of each step.
    pub fn new(input: (f32, i32), output: (f32, i32), function: impl Fn(f32) -> f32) -> Self {
        let bound = |(scale, zero): (f32, i32), edge: i16| scale * (i32::from(edge) - zero) as f32;
        let (low, high) = (bound(input, i16::MIN), bound(input, i16::MAX));
        let step = (high - low) / 512.0;
        let inverse = 65536.0 / (bound(output, i16::MAX) - bound(output, i16::MIN));
        // `as` saturates, which is the clamp of the original.
        let sample = |i: usize| {
            let start = low + i as f32 * step;
            let value = (function(start) * inverse).round();
            let next = function(low + (i + 1) as f32 * step) * inverse;
            let interpolated = ((next + value) / 2.0).round();
            let middle = (function(start + step / 2.0) * inverse).round();
            (value - ((interpolated - middle) / 2.0).round()) as i16
        };
        let mut samples = [0; 513];
        for (i, slot) in samples[..512].iter_mut().enumerate() {
            *slot = sample(i);
        }
        samples[512] = (function(high) * inverse).round() as i16;
        Self(samples)
    }

    /// The function's value at `x`.
    #[inline]
    pub fn at(&self, x: i16) -> i16 {
        let index = (256 + (i32::from(x) >> 7)) as usize;
        let offset = i32::from(x) & 0x7f;
        let base = i32::from(self.0[index]);
        let slope = i32::from(self.0[index + 1]) - base;
        (base + ((slope * offset + 64) >> 7)) as i16
    }
}

/// A table of an 8-bit function, indexed by the input's bits as `u8` (`LUTPopulate<int8_t>`,
/// `<uint8_t>`). `input` and `output` are scale and zero point; `limits` is the type's range,
/// `(-128, 127)` or `(0, 255)`, and entries hold the output's bits.
pub fn lut8(
    limits: (i32, i32),
    input: (f32, i32),
    output: (f32, i32),
    function: impl Fn(f32) -> f32,
) -> [u8; 256] {
    let mut table = [0; 256];
    let inverse = 1.0 / output.0;
    for value in limits.0..=limits.1 {
        let real = function(input.0 * (value - input.1) as f32);
        let quantised = ((real * inverse).round() + output.1 as f32) as i32;
        table[usize::from(value as u8)] = quantised.clamp(limits.0, limits.1) as u8;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_the_sigmoid_within_its_rounding() {
        for (i, &entry) in SIGMOID.iter().enumerate() {
            let real = 65536.0 / (1.0 + (-(i as f64) / 24.0).exp());
            assert!((f64::from(entry) - real).abs() < 1.2, "{i}");
        }
    }

    #[test]
    fn sixteen_bit_functions_are_close() {
        for scale in [1.0 / 4096.0, 1.0 / 2048.0, 0.0003, 0.00011] {
            let logistic = InputScaling16::for_logistic(scale).unwrap();
            let tanh = InputScaling16::for_tanh(scale).unwrap();
            for x in (i16::MIN..=i16::MAX).step_by(11) {
                let real = f64::from(x) * f64::from(scale);
                let want = 32768.0 / (1.0 + (-real).exp());
                let got = f64::from(logistic_i16(x, logistic));
                assert!((got - want).abs() < 6.0, "logistic {x} {scale}: {got} {want}");
                let got = f64::from(tanh_i16(x, tanh));
                let want = 32768.0 * real.tanh();
                assert!((got - want).abs() < 12.0, "tanh {x} {scale}: {got} {want}");
            }
        }
        let unit = InputScaling16::for_logistic(1.0 / 4096.0).unwrap();
        assert_eq!(unit, InputScaling16 { multiplier: 0, shift: 0 });
        assert_eq!(logistic_i16(0, unit), 16384);
        assert_eq!(logistic_i16(i16::MAX, unit), 32757);
        assert_eq!(tanh_i16(0, unit), 0);
        assert_eq!(tanh_i16(4096, unit), 24956); // tanh(1) = 0.76159
        assert_eq!(InputScaling16::for_tanh(1.0 / 2048.0).unwrap().shift, 1);
        assert_eq!(InputScaling16::for_tanh(f32::NAN), None);
        assert_eq!(InputScaling16::for_tanh(8.0), None);
    }

    #[test]
    fn interpolated_tables_follow_the_function() {
        let lut = Lut16::new((10.0 / 65535.0, 32767), (2.0 / 65535.0, 0), f32::exp);
        for x in (i16::MIN..=i16::MAX).step_by(5) {
            let real = (f64::from(x) - 32767.0) * 10.0 / 65535.0;
            assert!((f64::from(lut.at(x)) - 32767.5 * real.exp()).abs() < 8.0, "{x}");
        }
        // The last value is 127/128 of the way to the last sample.
        assert_eq!(lut.at(i16::MAX), 32762);
    }

    #[test]
    fn eight_bit_tables_round_and_clamp() {
        let table = lut8((-128, 127), (0.1, 5), (0.05, -3), |x| x);
        assert_eq!(table[5] as i8, -3);
        assert_eq!(table[6] as i8, -1);
        assert_eq!(table[127] as i8, 127);
        assert_eq!(table[128] as i8, -128);
        let table = lut8((0, 255), (1.0, 128), (1.0 / 256.0, 0), |x| 1.0 / (1.0 + (-x).exp()));
        assert_eq!((table[128], table[0], table[255]), (128, 0, 255));
    }
}
