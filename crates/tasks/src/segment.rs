//! Segmentation: a class for each pixel.

use crate::picture::indexed_png;
use crate::{Colour, Layout, Picture, Placement};

/// The class of pixels that the model did not see, as Pascal VOC marks them.
pub const UNSEEN: u8 = 255;

/// Classes laid on a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// A class a pixel, or [`UNSEEN`].
    pub classes: Vec<u8>,
}

/// The share of a picture's pixels that a class has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// The class.
    pub class: u8,
    /// Its part of the pixels that the model saw, from 0 to 1.
    pub share: f32,
}

/// A model's output as a class for each of its pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    width: usize,
    height: usize,
    classes: Vec<u8>,
}

impl Map {
    /// Class indices, rows of `width`. `None` if a class is not from 0 to 254 or the rows are not whole.
    pub fn from_classes(width: usize, height: usize, classes: &[i64]) -> Option<Map> {
        (width.checked_mul(height)? == classes.len() && width * height > 0).then_some(())?;
        let classes = classes.iter().map(|&c| u8::try_from(c).ok().filter(|&c| c != UNSEEN));
        Some(Map { width, height, classes: classes.collect::<Option<_>>()? })
    }

    /// Scores of each class for each pixel: the best class wins, the lower of equals. One score alone
    /// is that of class 1 against the background: above one half or, if any lies outside 0 to 1, above 0.
    ///
    /// `None` if the sizes do not fit `scores` or there are more than 255 classes.
    pub fn from_scores(
        width: usize,
        height: usize,
        count: usize,
        layout: Layout,
        scores: &[f32],
    ) -> Option<Map> {
        let pixels = width.checked_mul(height)?;
        (pixels.checked_mul(count)? == scores.len() && pixels > 0).then_some(())?;
        (1..=usize::from(UNSEEN)).contains(&count).then_some(())?;
        let score = |pixel: usize, class: usize| match layout {
            Layout::Nhwc => scores[pixel * count + class],
            Layout::Nchw => scores[class * pixels + pixel],
        };
        let probabilities = scores.iter().all(|score| (0.0..=1.0).contains(score));
        let least = if probabilities { 0.5 } else { 0.0 };
        let class = |pixel| match count {
            1 => u8::from(score(pixel, 0) > least),
            _ => {
                let better = |best, class| {
                    if score(pixel, class) > score(pixel, best) { class } else { best }
                };
                (1..count).fold(0, better) as u8
            }
        };
        Some(Map { width, height, classes: (0..pixels).map(class).collect() })
    }

    /// The classes laid on the picture that the model saw at `placement`.
    pub fn on(&self, picture: &Picture, placement: &Placement) -> Mask {
        let column = |x: usize| {
            let (x, _) = placement.to_input(x as f32 + 0.5, 0.0);
            position(x, self.width)
        };
        let row = |y: usize| {
            let (_, y) = placement.to_input(0.0, y as f32 + 0.5);
            position(y, self.height)
        };
        let columns: Vec<Option<usize>> = (0..picture.width).map(column).collect();
        let classes = (0..picture.height).flat_map(|y| {
            let row = row(y);
            columns.iter().map(move |&x| match (row, x) {
                (Some(y), Some(x)) => self.classes[y * self.width + x],
                _ => UNSEEN,
            })
        });
        Mask { width: picture.width, height: picture.height, classes: classes.collect() }
    }
}

fn position(at: f32, length: usize) -> Option<usize> {
    (0.0..1.0).contains(&at).then(|| ((at * length as f32) as usize).min(length - 1))
}

impl Mask {
    /// The classes that occur, the largest first.
    pub fn shares(&self) -> Vec<Share> {
        let mut counts = [0usize; 256];
        self.classes.iter().for_each(|&class| counts[usize::from(class)] += 1);
        let seen = self.classes.len() - counts[usize::from(UNSEEN)];
        let mut shares: Vec<Share> = (0..UNSEEN)
            .filter(|&class| counts[usize::from(class)] > 0)
            .map(|class| Share { class, share: counts[usize::from(class)] as f32 / seen as f32 })
            .collect();
        shares.sort_by(|a, b| b.share.total_cmp(&a.share));
        shares
    }

    /// A PNG file whose bytes are the classes and whose colours are Pascal VOC's.
    pub fn png(&self) -> Vec<u8> {
        let palette: Vec<Colour> = (0..=UNSEEN).map(colour).collect();
        indexed_png(self.width, self.height, &palette, &self.classes)
    }

    /// The picture with every class but 0 tinted in its colour.
    ///
    /// # Panics
    /// If the mask was not made for a picture of this size.
    pub fn overlay(&self, picture: &Picture) -> Picture {
        assert_eq!((self.width, self.height), (picture.width, picture.height));
        let mut out = picture.clone();
        for (pixel, &class) in out.rgb.chunks_exact_mut(3).zip(&self.classes) {
            if class != 0 && class != UNSEEN {
                for (byte, tint) in pixel.iter_mut().zip(colour(class)) {
                    *byte = ((u16::from(*byte) * 2 + u16::from(tint) * 3) / 5) as u8;
                }
            }
        }
        out
    }
}

/// A class's colour in Pascal VOC: the bits of its index, spread over red, green and blue from the
/// highest bit down.
pub fn colour(class: u8) -> Colour {
    let mut colour = [0; 3];
    for bit in 0..8 {
        colour[bit % 3] |= (class >> bit & 1) << (7 - bit / 3);
    }
    colour
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_of_pascal_voc() {
        let expected = [
            (0, [0, 0, 0]),
            (1, [128, 0, 0]),
            (3, [128, 128, 0]),
            (15, [192, 128, 128]),
            (20, [0, 64, 128]),
        ];
        for (class, rgb) in expected {
            assert_eq!(colour(class), rgb);
        }
        assert_eq!(colour(UNSEEN), [224, 224, 192]);
    }

    #[test]
    fn scores_in_both_layouts_and_alone() {
        let map = |classes: &[u8]| Some(Map { width: 2, height: 1, classes: classes.to_vec() });
        assert_eq!(
            Map::from_scores(2, 1, 3, Layout::Nhwc, &[0.0, 2.0, 1.0, 5.0, 5.0, 1.0]),
            map(&[1, 0])
        );
        assert_eq!(
            Map::from_scores(2, 1, 3, Layout::Nchw, &[0.0, 5.0, 2.0, 5.0, 1.0, 1.0]),
            map(&[1, 0])
        );
        assert_eq!(Map::from_scores(2, 1, 1, Layout::Nhwc, &[0.4, 0.6]), map(&[0, 1]));
        assert_eq!(Map::from_scores(2, 1, 1, Layout::Nhwc, &[-1.0, 0.4]), map(&[0, 1]));
        assert_eq!(Map::from_scores(2, 1, 2, Layout::Nhwc, &[0.0]), None);
        assert_eq!(Map::from_classes(2, 1, &[3, 255]), None);
        assert_eq!(Map::from_classes(2, 1, &[3, 254]), map(&[3, 254]));
    }

    #[test]
    fn a_map_is_laid_on_the_picture() {
        let map = Map::from_classes(2, 1, &[0, 15]).unwrap();
        let picture = Picture::filled(4, 2, [100; 3]);
        let mask = map.on(&picture, &Placement::whole(&picture));
        assert_eq!(mask.classes, [0, 0, 15, 15, 0, 0, 15, 15]);
        assert_eq!(mask.shares()[1], Share { class: 15, share: 0.5 });
        let overlay = mask.overlay(&picture);
        assert_eq!(overlay.rgb[..3], [100; 3]);
        assert_eq!(overlay.rgb[6..9], [155, 116, 116]);
        let middle = Placement { x: 1.0, y: 0.0, width: 2.0, height: 2.0 };
        let mask = map.on(&picture, &middle);
        assert_eq!(mask.classes[..4], [UNSEEN, 0, 15, UNSEEN]);
        assert_eq!(mask.shares()[0].share, 0.5);
        let back = Picture::decode(&mask.png()).unwrap();
        assert_eq!(back.rgb[..9], [224, 224, 192, 0, 0, 0, 192, 128, 128]);
    }
}
