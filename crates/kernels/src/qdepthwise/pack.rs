//! Packing depthwise weights.

use super::{BLOCK, Kernel, PackedQDepthwise, UNIT};
use crate::aligned::Aligned;
use crate::isa::Isa;
use crate::qconv::{ConvShape, QOutput, QWeights};
use crate::requant::{Byte, Requantiser};

pub(super) fn pack(
    isa: Isa,
    shape: &ConvShape,
    (input_kind, zero_point): (Byte, i32),
    weights: &QWeights,
    output: &QOutput,
) -> PackedQDepthwise {
    let channels = shape.out_channels;
    let taps = shape.kernel[0] * shape.kernel[1];
    assert!(shape.groups == shape.in_channels && shape.in_channels > 0, "groups are the channels");
    assert!(channels.is_multiple_of(shape.in_channels), "channels do not divide");
    assert!(shape.stride.iter().chain(&shape.dilation).all(|&x| x > 0));
    assert_eq!(weights.data.len(), taps * channels, "weights");
    assert!([0, channels].contains(&weights.bias.len()), "bias");
    assert!([0, 1, channels].contains(&weights.zero_points.len()), "zero points");

    let mut values: Vec<i32> = weights.data.iter().map(|x| weights.kind.value(*x)).collect();
    match weights.zero_points {
        [] => {}
        [zero] => values.iter_mut().for_each(|x| *x -= zero),
        each => {
            let lines = values.chunks_exact_mut(channels);
            lines.for_each(|line| line.iter_mut().zip(each).for_each(|(x, zero)| *x -= zero));
        }
    }
    let kernel = choose(isa, shape, values.iter().copied().max().unwrap_or(0));

    // Bytes are used as `u8` by VNNI, as they are by the others.
    let zero = match (kernel, input_kind) {
        #[cfg(target_arch = "x86_64")]
        (Kernel::Vnni { .. }, Byte::Signed) => zero_point + 128,
        _ => zero_point,
    };
    let mut start = vec![0i32; channels.next_multiple_of(BLOCK)];
    let mut largest = 0i64;
    for (channel, start) in start.iter_mut().enumerate().take(channels) {
        let weights_of = (0..taps).map(|tap| values[tap * channels + channel]);
        let bias = weights.bias.get(channel).copied().unwrap_or(0);
        let sum: i64 = weights_of.clone().map(i64::from).sum();
        *start = bias.wrapping_sub((i64::from(zero) * sum) as i32);
        let magnitude: i64 = weights_of.map(|x| i64::from(x.abs())).sum();
        largest = largest.max(255 * magnitude + i64::from(bias).abs());
    }

    let at = |tap: usize, channel: usize| {
        if tap < taps && channel < channels { values[tap * channels + channel] } else { 0 }
    };
    let units = channels.div_ceil(UNIT);
    let mut halves = vec![false; units];
    for (channel, &value) in values.iter().enumerate().map(|(i, x)| (i % channels, x)) {
        halves[channel / UNIT] |= i8::try_from(value).is_err();
    }
    let mut bytes = Vec::new();
    for unit in (0..units).map(|unit| unit * UNIT) {
        match kernel {
            Kernel::Portable => words(&mut bytes, taps, |tap, lane| at(tap, unit + lane)),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => words(&mut bytes, taps, |tap, lane| at(tap, unit + lane)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => {
                for pair in 0..taps.div_ceil(2) {
                    // Unpacking works within 128-bit lanes.
                    for lane in [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15] {
                        for tap in [2 * pair, 2 * pair + 1] {
                            bytes.extend((at(tap, unit + lane) as i16).to_ne_bytes());
                        }
                    }
                }
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Vnni { square } => {
                let groups = if square { 3 } else { taps.div_ceil(4) };
                // Units are equally long.
                let (any_halves, halves) = (halves.contains(&true), halves[unit / UNIT]);
                for group in 0..groups {
                    for half in 0..1 + usize::from(halves) {
                        for lane in 0..UNIT {
                            for i in 0..4 {
                                let tap = match (square, i) {
                                    (true, 3) => taps,
                                    (true, row) => 3 * row + group,
                                    (false, i) => 4 * group + i,
                                };
                                let value = at(tap, unit + lane);
                                let floor = if halves { value >> 1 } else { value };
                                let part = if half == 0 { floor } else { value - floor };
                                bytes.push(part as i8 as u8);
                            }
                        }
                    }
                }
                if any_halves && !halves {
                    bytes.resize(bytes.len() + groups * 4 * UNIT, 0);
                }
            }
        }
    }
    let mut packed = Aligned::<u8>::zeros(bytes.len());
    packed.copy_from_slice(&bytes);

    let requantiser = match output {
        QOutput::Accumulators => None,
        QOutput::Bytes(rescale, output) => {
            Some(Requantiser::new(isa, rescale, *output, channels, largest))
        }
    };
    PackedQDepthwise {
        shape: *shape,
        input_kind,
        zeros: vec![zero_point as u8; shape.in_channels.next_multiple_of(UNIT) + UNIT],
        kernel,
        unit_weights: bytes.len().checked_div(units).unwrap_or(0),
        weights: packed,
        halves,
        start,
        requantiser,
    }
}

fn words(bytes: &mut Vec<u8>, taps: usize, at: impl Fn(usize, usize) -> i32) {
    for tap in 0..taps {
        for lane in 0..UNIT {
            bytes.extend((at(tap, lane) as i16).to_ne_bytes());
        }
    }
}

fn choose(isa: Isa, shape: &ConvShape, high: i32) -> Kernel {
    if shape.out_channels != shape.in_channels {
        return Kernel::Portable;
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        // Two signed bytes add up to at most 254.
        Isa::Avx512Vnni(_) if high < 255 => Kernel::Vnni {
            square: shape.kernel == [3, 3] && shape.dilation == [1, 1] && shape.stride[1] <= 2,
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) | Isa::Avx512(_) | Isa::Avx512Vnni(_) => Kernel::Avx2,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(_) | Isa::NeonDot(_) | Isa::NeonI8mm(_) => Kernel::Neon,
        _ => {
            let _ = high;
            Kernel::Portable
        }
    }
}
