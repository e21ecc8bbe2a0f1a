//! What is faster on a device, where there is more than one way.

/// Where one way of running a step becomes faster than another. The default is what was measured on
/// the machine that Kinglet is built on (AVX-512, 1 MiB of second-level cache); `kinglet probe`
/// measures a device's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    /// From so many channels in and out on, 3 × 3 convolutions of floats go by Winograd's
    /// transform; `usize::MAX` for never.
    pub winograd_channels: usize,
    /// From so many bytes on that the steps of a block hand to each other, they run in bands of
    /// lines.
    pub band_bytes: usize,
}

impl Default for Choices {
    fn default() -> Choices {
        Choices { winograd_channels: 12, band_bytes: 1 << 20 }
    }
}
