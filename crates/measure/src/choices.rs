//! Which way of several a device runs faster.

use std::hint::black_box;

use kinglet_kernels::aligned::Aligned;
use kinglet_kernels::conv_f32::{
    ConvF32, ConvShape, PackedConv, PackedWinograd, WeightStrides, WinogradF32,
};
use kinglet_kernels::gemm_f32::Epilogue;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::shared::SharedMut;
use kinglet_kernels::window::{ImageShape, Window};
use kinglet_runtime::Choices;

use crate::profile::{ConvolutionRate, Profile};

/// Channels in and out that 3 × 3 convolutions are measured with.
pub(crate) const CHANNELS: [usize; 8] = [8, 12, 16, 24, 32, 64, 96, 128];

/// Lines and columns of the image that they are measured on: of the middle of a net.
const SIDE: usize = 28;

/// What the profile says is faster.
pub fn choose(profile: &Profile) -> Choices {
    let default = Choices::default();
    let second = profile.caches.iter().find(|cache| cache.level == 2);
    Choices {
        winograd_channels: match profile.convolutions.is_empty() {
            true => default.winograd_channels,
            false => from(&profile.convolutions),
        },
        band_bytes: second.map_or(default.band_bytes, |cache| cache.bytes),
    }
}

/// The least channels from which on Winograd's way is never slower.
fn from(rates: &[ConvolutionRate]) -> usize {
    let slower = |rate: &&ConvolutionRate| rate.winograd_gmac_s.best < rate.taps_gmac_s.best;
    let last = rates.iter().filter(slower).map(|rate| rate.channels).max();
    let faster = rates.iter().map(|rate| rate.channels).filter(|n| last.is_none_or(|m| *n > m));
    faster.min().unwrap_or(usize::MAX)
}

/// A 3 × 3 convolution by one of its ways, to be run over and over by one thread.
pub(crate) struct Convolution {
    way: Way,
    input: Aligned<f32>,
    out: Aligned<f32>,
    scratch: Aligned<u8>,
    /// Multiply-accumulates of a run, as its definition has them.
    pub macs: u64,
}

enum Way {
    Taps(PackedConv),
    Winograd(PackedWinograd),
}

impl Convolution {
    /// Of `channels` channels in and out.
    pub fn new(isa: Isa, channels: usize, winograd: bool) -> Convolution {
        let image = ImageShape { height: SIDE, width: SIDE, channels };
        let window = Window { padding: [1; 2], ..Window::plain(3, 3) };
        let shape = ConvShape { input: image, output: image, window, groups: 1 };
        let weights = vec![0.01; 9 * channels * channels];
        let strides = WeightStrides::ohwi(3, 3, channels);
        let (way, scratch) = match winograd {
            true => {
                let packed = PackedWinograd::new(isa, shape, &weights, strides);
                let scratch = packed.scratch_bytes();
                (Way::Winograd(packed), scratch)
            }
            false => {
                let packed = PackedConv::new(isa, shape, &weights, strides);
                let scratch = packed.scratch_bytes();
                (Way::Taps(packed), scratch)
            }
        };
        let mut input = Aligned::to_fill(image.len());
        input.fill(0.5);
        Convolution {
            way,
            input,
            out: Aligned::zeros(image.len()),
            scratch: Aligned::zeros(scratch),
            macs: (9 * channels * image.len()) as u64,
        }
    }

    /// Computes it once.
    pub fn run(&mut self) {
        let (input, epilogue) = (black_box(&*self.input), Epilogue::default());
        let (out, scratch) = (SharedMut::new(&mut self.out), &mut *self.scratch);
        // SAFETY: the output is this thread's own.
        unsafe {
            match &self.way {
                Way::Taps(packed) => {
                    let (rows, panels) = (0..SIDE * SIDE, 0..packed.panels());
                    ConvF32 { packed, epilogue }.run(rows, panels, input, out, scratch);
                }
                Way::Winograd(packed) => {
                    WinogradF32 { packed, epilogue }.run(0..packed.tiles(), input, out, scratch);
                }
            }
        }
        black_box(&*self.out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Rate;
    use crate::system::Cache;
    use crate::testing::profile;

    fn rates(rates: &[(usize, f64, f64)]) -> Vec<ConvolutionRate> {
        let rate = |best| Rate { best, median: best };
        let of = |(channels, taps, winograd): &(usize, f64, f64)| ConvolutionRate {
            channels: *channels,
            taps_gmac_s: rate(*taps),
            winograd_gmac_s: rate(*winograd),
        };
        rates.iter().map(of).collect()
    }

    #[test]
    fn winograd_is_chosen_from_where_it_stays_faster() {
        let mut profile = profile();
        assert_eq!(choose(&profile), Choices::default());
        let mut channels = |measured: &[(usize, f64, f64)]| {
            profile.convolutions = rates(measured);
            choose(&profile).winograd_channels
        };
        assert_eq!(channels(&[(8, 9.0, 5.0), (16, 20.0, 25.0), (32, 30.0, 45.0)]), 16);
        // One that was disturbed does not hide that the larger ones are slower.
        assert_eq!(channels(&[(8, 9.0, 10.0), (16, 20.0, 15.0), (32, 30.0, 45.0)]), 32);
        assert_eq!(channels(&[(8, 9.0, 5.0), (16, 20.0, 5.0)]), usize::MAX);
        assert_eq!(channels(&[(8, 9.0, 9.0), (16, 20.0, 25.0)]), 8);
    }

    #[test]
    fn bands_begin_where_the_second_cache_ends() {
        let mut profile = profile();
        profile.caches.push(Cache { level: 2, bytes: 512 << 10, shared_by: 1, count: 2 });
        assert_eq!(choose(&profile).band_bytes, 512 << 10);
    }

    #[test]
    fn both_ways_compute() {
        for isa in Isa::available() {
            let outs = [false, true].map(|winograd| {
                let mut convolution = Convolution::new(isa, 12, winograd);
                convolution.run();
                convolution.out.to_vec()
            });
            let pairs = outs[0].iter().zip(&outs[1]);
            for (taps, winograd) in pairs {
                assert!((taps - winograd).abs() < 1e-4 && *taps > 0.1, "{isa:?}");
            }
        }
    }
}
