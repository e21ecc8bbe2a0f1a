//! Pictures: decoded from files with bounds, saved as PNG.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

/// The most pixels that a picture may have: a 300 MB picture, above which phones do not go by default.
const MOST_PIXELS: u64 = 100_000_000;
/// The most memory that a decoder may take beside the picture, in bytes.
const MOST_MEMORY: u64 = 512 << 20;

/// A picture of 8-bit red, green and blue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Three bytes a pixel, rows from top to bottom.
    pub rgb: Vec<u8>,
}

/// Why a file is not a picture that can be used.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Read(std::io::Error),
    /// The path is a folder.
    #[error("it is a folder; give a picture file")]
    Folder,
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// The content is not of a known format.
    #[error("not a picture (PNG, JPEG, BMP, GIF and WebP are read)")]
    Unknown,
    /// The content is damaged.
    #[error("a damaged {format} picture: {why}")]
    Damaged {
        /// The format's name.
        format: &'static str,
        /// What the decoder says.
        why: String,
    },
    /// The picture is too large.
    #[error(
        "the picture is {width}x{height}; at most 100 megapixels are taken, so make it smaller first"
    )]
    TooLarge {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
}

impl Picture {
    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Picture {
        Picture { width, height, rgb: colour.repeat(width * height) }
    }

    /// Reads and decodes a file; see [`Picture::decode`].
    pub fn open(path: &Path) -> Result<Picture, PictureError> {
        if path.is_dir() {
            return Err(PictureError::Folder);
        }
        Picture::decode(&fs::read(path).map_err(PictureError::Read)?)
    }

    /// Decodes a PNG, JPEG, BMP, GIF (its first frame) or WebP file, told from its content.
    ///
    /// It is turned as its EXIF orientation says, transparency is dropped, grey becomes red, green
    /// and blue. A picture above 100 megapixels is refused before memory is taken for it.
    pub fn decode(bytes: &[u8]) -> Result<Picture, PictureError> {
        if bytes.is_empty() {
            return Err(PictureError::Empty);
        }
        let format = image::guess_format(bytes).map_err(|_| PictureError::Unknown)?;
        let name = match format {
            ImageFormat::Png => "PNG",
            ImageFormat::Jpeg => "JPEG",
            ImageFormat::Bmp => "BMP",
            ImageFormat::Gif => "GIF",
            ImageFormat::WebP => "WebP",
            _ => return Err(PictureError::Unknown),
        };
        let damaged =
            |error: ImageError| PictureError::Damaged { format: name, why: error.to_string() };
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(MOST_MEMORY);
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        reader.limits(limits.clone());
        let mut decoder = reader.into_decoder().map_err(damaged)?;
        let (width, height) = decoder.dimensions();
        if u64::from(width) * u64::from(height) > MOST_PIXELS {
            return Err(PictureError::TooLarge { width, height });
        }
        decoder.set_limits(limits).map_err(damaged)?;
        let orientation = decoder.orientation().map_err(damaged)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
        image.apply_orientation(orientation);
        let image = image.into_rgb8();
        let (width, height) = (image.width() as usize, image.height() as usize);
        if width == 0 || height == 0 {
            return Err(PictureError::Damaged { format: name, why: "it has no pixels".into() });
        }
        Ok(Picture { width, height, rgb: image.into_raw() })
    }

    /// The picture with left and right exchanged.
    pub fn mirrored(&self) -> Picture {
        let row = |row: &[u8]| row.rchunks_exact(3).flatten().copied().collect::<Vec<u8>>();
        let rgb = self.rgb.chunks_exact(3 * self.width).flat_map(row).collect();
        Picture { rgb, ..*self }
    }

    /// The picture as a PNG file.
    pub fn png(&self) -> Vec<u8> {
        encode(self.width, self.height, png::ColorType::Rgb, &[], &self.rgb)
    }
}

/// A PNG file of one byte a pixel, each an index into `palette`.
///
/// # Panics
/// If there are not `width * height` indices.
pub(crate) fn indexed_png(
    width: usize,
    height: usize,
    palette: &[[u8; 3]],
    indices: &[u8],
) -> Vec<u8> {
    encode(width, height, png::ColorType::Indexed, palette, indices)
}

fn encode(
    width: usize,
    height: usize,
    colour: png::ColorType,
    palette: &[[u8; 3]],
    data: &[u8],
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width as u32, height as u32);
    encoder.set_color(colour);
    encoder.set_depth(png::BitDepth::Eight);
    if !palette.is_empty() {
        encoder.set_palette(palette.concat());
    }
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(data));
    written.expect("a vector takes every byte, and the picture is as large as it says");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_error(bytes: &[u8]) -> String {
        Picture::decode(bytes).unwrap_err().to_string()
    }

    #[test]
    fn a_png_survives_a_round_trip() {
        let picture = Picture { width: 2, height: 1, rgb: vec![1, 2, 3, 250, 251, 252] };
        assert_eq!(Picture::decode(&picture.png()).unwrap(), picture);
    }

    #[test]
    fn what_is_no_picture_is_said() {
        assert_eq!(decode_error(b""), "the file is empty");
        assert!(decode_error(b"hello, I am a text file").starts_with("not a picture"));
        let png = Picture::filled(40, 30, [9, 9, 9]).png();
        assert!(decode_error(&png[..png.len() / 2]).starts_with("a damaged PNG picture"));
        let folder = Picture::open(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_err();
        assert!(folder.to_string().contains("folder"));
    }

    #[test]
    fn a_bomb_is_refused_from_its_header() {
        let mut bomb = Vec::new();
        let encoder = png::Encoder::new(&mut bomb, 60_000, 60_000);
        drop(encoder.write_header().unwrap());
        bomb.truncate(8 + 25);
        bomb.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
        assert!(decode_error(&bomb).contains("60000x60000"));
    }

    #[test]
    fn every_truncation_and_many_corruptions_are_survived() {
        let mut rng = kinglet_testing::Rng::new(5);
        let picture = Picture { width: 17, height: 9, rgb: rng.bytes(17 * 9 * 3) };
        let image = image::RgbImage::from_raw(17, 9, picture.rgb.clone()).unwrap();
        let mut files = vec![picture.png()];
        for format in [ImageFormat::Jpeg, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::WebP] {
            let mut out = Cursor::new(Vec::new());
            image.write_to(&mut out, format).unwrap();
            files.push(out.into_inner());
        }
        for file in files {
            assert!(Picture::decode(&file).is_ok());
            for end in 0..file.len() {
                let _ = Picture::decode(&file[..end]);
            }
            for _ in 0..4000 {
                let mut bytes = file.clone();
                for _ in 0..=rng.below(4) {
                    let at = rng.below(bytes.len());
                    bytes[at] = rng.bits() as u8;
                }
                let _ = Picture::decode(&bytes);
            }
        }
    }

    #[test]
    fn the_orientation_of_a_jpeg_is_honoured() {
        let mut image = image::RgbImage::new(32, 16);
        for x in 0..16 {
            for y in 0..16 {
                image.put_pixel(x, y, image::Rgb([255, 255, 255]));
            }
        }
        let mut jpeg = Cursor::new(Vec::new());
        image.write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
        let jpeg = jpeg.into_inner();
        // APP1 with a TIFF directory of one entry: orientation 6, "turn right to see it upright".
        let exif = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let turned = [&jpeg[..2], exif, &jpeg[2..]].concat();
        let picture = Picture::decode(&turned).unwrap();
        assert_eq!((picture.width, picture.height), (16, 32));
        assert!(picture.rgb[0] > 200 && picture.rgb[16 * 31 * 3] < 50, "white was left, is top");
    }
}
