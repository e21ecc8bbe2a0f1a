//! From a picture to the numbers a model takes, and back to the picture's coordinates.

use crate::Picture;
use crate::resize::{Region, resize};

/// What a model expects of a picture: everything between decoding and its input.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    /// Pixels in a row of the model's input.
    pub width: usize,
    /// Rows of the model's input.
    pub height: usize,
    /// Which numbers a pixel has.
    pub channels: Channels,
    /// Where a pixel's numbers lie.
    pub layout: Layout,
    /// How a picture of another shape is made to fit.
    pub fit: Fit,
    /// What a byte of the picture becomes.
    pub values: Values,
}

/// Which numbers a pixel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One: the brightness, as ITU-R 601 weighs it.
    Grey,
}

impl Channels {
    /// How many numbers a pixel has.
    pub fn count(self) -> usize {
        match self {
            Channels::Rgb | Channels::Bgr => 3,
            Channels::Grey => 1,
        }
    }
}

/// Where a pixel's numbers lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Together: height, width, channels.
    Nhwc,
    /// In planes: channels, height, width.
    Nchw,
}

/// How a picture of another shape is made to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Stretched to the model's shape.
    Stretch,
    /// Its largest centred part of the model's shape.
    Crop,
    /// Whole, centred, on black.
    Letterbox,
}

/// What a byte of the picture becomes.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Itself, 0 to 255.
    Bytes,
    /// A signed byte: 128 less, -128 to 127.
    SignedBytes,
    /// `(byte - mean) / std`, for each of red, green and blue.
    Scaled {
        /// Subtracted first, in bytes.
        mean: [f32; 3],
        /// Divided by then, in bytes.
        std: [f32; 3],
    },
}

impl Values {
    /// From 0 to 1.
    pub const UNIT: Values = Values::Scaled { mean: [0.0; 3], std: [255.0; 3] };
    /// From -1 to 1.
    pub const SYMMETRIC: Values = Values::Scaled { mean: [127.5; 3], std: [127.5; 3] };
    /// From 0 to 255, as floats.
    pub const RAW: Values = Values::Scaled { mean: [0.0; 3], std: [1.0; 3] };
    /// With ImageNet's mean and deviation, as models from PyTorch expect.
    pub const IMAGENET: Values =
        Values::Scaled { mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375] };
}

/// A model's input, made of a picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// Of [`Values::Bytes`].
    U8(Vec<u8>),
    /// Of [`Values::SignedBytes`].
    I8(Vec<i8>),
    /// Of [`Values::Scaled`].
    F32(Vec<f32>),
}

/// Where a model's input lies on the picture: the rectangle, in the picture's pixels, that the input
/// shows. With [`Fit::Letterbox`] it is larger than the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) width: f32,
    pub(crate) height: f32,
}

impl Placement {
    /// A picture stretched to the input.
    pub fn whole(picture: &Picture) -> Placement {
        Placement { x: 0.0, y: 0.0, width: picture.width as f32, height: picture.height as f32 }
    }

    /// The picture's pixel coordinates of a point of the input, given from 0 to 1 on each axis.
    pub fn to_picture(&self, x: f32, y: f32) -> (f32, f32) {
        (self.x + x * self.width, self.y + y * self.height)
    }

    /// The input's coordinates, from 0 to 1 on each axis where it shows them, of a point of the picture.
    pub fn to_input(&self, x: f32, y: f32) -> (f32, f32) {
        ((x - self.x) / self.width, (y - self.y) / self.height)
    }
}

impl Preprocess {
    /// The model's numbers, in its layout, and where they lie on the picture.
    pub fn apply(&self, picture: &Picture) -> (Pixels, Placement) {
        let (fitted, placement) = self.fit(picture);
        let pixels = match &self.values {
            Values::Bytes => Pixels::U8(self.arrange(&fitted.rgb, |byte, _| byte)),
            Values::SignedBytes => {
                Pixels::I8(self.arrange(&fitted.rgb, |byte, _| (byte ^ 0x80) as i8))
            }
            Values::Scaled { mean, std } => {
                Pixels::F32(self.arrange(&fitted.rgb, |byte, channel| {
                    (f32::from(byte) - mean[channel]) / std[channel]
                }))
            }
        };
        (pixels, placement)
    }

    fn fit(&self, picture: &Picture) -> (Picture, Placement) {
        let (from_width, from_height) = (picture.width as f64, picture.height as f64);
        let (width, height) = (self.width as f64, self.height as f64);
        let whole = Region { x: 0.0, y: 0.0, width: from_width, height: from_height };
        let ratios = (from_width / width, from_height / height);
        let region = match self.fit {
            Fit::Stretch => whole,
            Fit::Crop => {
                centred(whole, ratios.0.min(ratios.1) * width, ratios.0.min(ratios.1) * height)
            }
            Fit::Letterbox => {
                return self.letterbox(picture, whole, ratios.0.max(ratios.1));
            }
        };
        (resize(picture, region, self.width, self.height), placement(region))
    }

    fn letterbox(&self, picture: &Picture, whole: Region, scale: f64) -> (Picture, Placement) {
        let fit = |length: f64, most: usize| ((length / scale).round() as usize).clamp(1, most);
        let (width, height) = (fit(whole.width, self.width), fit(whole.height, self.height));
        let inner = resize(picture, whole, width, height);
        let mut out = Picture::filled(self.width, self.height, [0; 3]);
        let (left, top) = ((self.width - width) / 2, (self.height - height) / 2);
        for (y, row) in inner.rgb.chunks_exact(width * 3).enumerate() {
            let start = ((top + y) * self.width + left) * 3;
            out.rgb[start..start + row.len()].copy_from_slice(row);
        }
        let (across, down) = (whole.width / width as f64, whole.height / height as f64);
        let region = Region {
            x: -(left as f64) * across,
            y: -(top as f64) * down,
            width: self.width as f64 * across,
            height: self.height as f64 * down,
        };
        (out, placement(region))
    }

    fn arrange<T: Copy + Default>(&self, rgb: &[u8], value: impl Fn(u8, usize) -> T) -> Vec<T> {
        let count = self.channels.count();
        let pixels = self.width * self.height;
        let mut out = vec![T::default(); pixels * count];
        for (index, pixel) in rgb.chunks_exact(3).enumerate() {
            for channel in 0..count {
                let source = if self.channels == Channels::Bgr { 2 - channel } else { channel };
                let byte =
                    if self.channels == Channels::Grey { brightness(pixel) } else { pixel[source] };
                let at = match self.layout {
                    Layout::Nhwc => index * count + channel,
                    Layout::Nchw => channel * pixels + index,
                };
                out[at] = value(byte, source);
            }
        }
        out
    }
}

fn centred(whole: Region, width: f64, height: f64) -> Region {
    Region { x: (whole.width - width) / 2.0, y: (whole.height - height) / 2.0, width, height }
}

fn placement(region: Region) -> Placement {
    Placement {
        x: region.x as f32,
        y: region.y as f32,
        width: region.width as f32,
        height: region.height as f32,
    }
}

fn brightness(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_pixels() -> Picture {
        Picture { width: 2, height: 1, rgb: vec![0, 10, 20, 30, 40, 255] }
    }

    fn plain(width: usize, height: usize) -> Preprocess {
        Preprocess {
            width,
            height,
            channels: Channels::Rgb,
            layout: Layout::Nhwc,
            fit: Fit::Stretch,
            values: Values::Bytes,
        }
    }

    #[test]
    fn layouts_channels_and_values() {
        let picture = two_pixels();
        let pixels = |p: Preprocess| p.apply(&picture).0;
        assert_eq!(pixels(plain(2, 1)), Pixels::U8(picture.rgb.clone()));
        let planes = Preprocess { layout: Layout::Nchw, channels: Channels::Bgr, ..plain(2, 1) };
        assert_eq!(pixels(planes), Pixels::U8(vec![20, 255, 10, 40, 0, 30]));
        let signed = Preprocess { values: Values::SignedBytes, ..plain(2, 1) };
        assert_eq!(pixels(signed), Pixels::I8(vec![-128, -118, -108, -98, -88, 127]));
        let values = Values::Scaled { mean: [0.0, 10.0, 20.0], std: [1.0, 2.0, 5.0] };
        let scaled = Preprocess { values, channels: Channels::Bgr, ..plain(2, 1) };
        assert_eq!(pixels(scaled), Pixels::F32(vec![0.0, 0.0, 0.0, 47.0, 15.0, 30.0]));
        let grey = Preprocess { channels: Channels::Grey, ..plain(2, 1) };
        assert_eq!(pixels(grey), Pixels::U8(vec![8, 62]));
    }

    #[test]
    fn letterboxed_points_go_back_to_the_picture() {
        let picture = Picture::filled(200, 100, [255; 3]);
        let (pixels, placement) =
            Preprocess { fit: Fit::Letterbox, ..plain(40, 40) }.apply(&picture);
        let Pixels::U8(pixels) = pixels else { panic!("bytes") };
        let white = pixels.iter().filter(|&&byte| byte == 255).count();
        assert_eq!(white, 40 * 20 * 3);
        assert_eq!(placement.to_picture(0.5, 0.5), (100.0, 50.0));
        assert_eq!(placement.to_picture(0.0, 0.25), (0.0, 0.0));
        assert_eq!(placement.to_input(200.0, 100.0), (1.0, 0.75));
    }

    #[test]
    fn a_crop_shows_the_middle() {
        let picture = Picture { width: 4, height: 2, rgb: (0..24).collect() };
        let (pixels, placement) = Preprocess { fit: Fit::Crop, ..plain(2, 2) }.apply(&picture);
        assert_eq!(pixels, Pixels::U8(vec![3, 4, 5, 6, 7, 8, 15, 16, 17, 18, 19, 20]));
        assert_eq!(placement.to_picture(0.0, 0.0), (1.0, 0.0));
    }

    #[test]
    fn extreme_shapes_are_taken() {
        for (width, height) in [(1, 3000), (3000, 1), (1, 1)] {
            let picture = Picture::filled(width, height, [200, 100, 50]);
            for fit in [Fit::Stretch, Fit::Crop, Fit::Letterbox] {
                let (Pixels::U8(pixels), _) = (Preprocess { fit, ..plain(7, 5) }).apply(&picture)
                else {
                    panic!("bytes")
                };
                assert_eq!(pixels.len(), 7 * 5 * 3);
                assert!(pixels.chunks_exact(3).any(|pixel| pixel == [200, 100, 50]));
            }
        }
    }
}
