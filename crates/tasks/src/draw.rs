//! Lines, discs, frames and text on a picture, with soft edges.

use crate::Picture;
use crate::font;

/// Red, green and blue.
pub type Colour = [u8; 3];

/// A picture being drawn on. Coordinates are in pixels from its top left corner; what lies outside is
/// not drawn.
pub(crate) struct Canvas {
    picture: Picture,
}

type Point = (f32, f32);

impl Canvas {
    pub fn new(picture: Picture) -> Canvas {
        Canvas { picture }
    }

    pub fn picture(self) -> Picture {
        self.picture
    }

    /// A line's natural half width on a picture of this size.
    pub fn unit(&self) -> f32 {
        (self.picture.width.min(self.picture.height) as f32 / 250.0).max(1.0)
    }

    /// A line with round ends, `half` pixels to each side.
    pub fn line(&mut self, from: Point, to: Point, half: f32, colour: Colour) {
        let along = (to.0 - from.0, to.1 - from.1);
        let length = along.0 * along.0 + along.1 * along.1;
        if !length.is_finite() {
            return;
        }
        let bounds = [from.0.min(to.0), from.1.min(to.1), from.0.max(to.0), from.1.max(to.1)];
        self.shade(bounds, half, colour, |x, y| {
            let (dx, dy) = (x - from.0, y - from.1);
            let at = if length > 0.0 {
                ((dx * along.0 + dy * along.1) / length).clamp(0.0, 1.0)
            } else {
                0.0
            };
            (dx - at * along.0).hypot(dy - at * along.1)
        });
    }

    pub fn disc(&mut self, centre: Point, radius: f32, colour: Colour) {
        self.line(centre, centre, radius, colour);
    }

    /// A frame `half` pixels to each side of the rectangle left, top, right, bottom.
    pub fn frame(&mut self, [left, top, right, bottom]: [f32; 4], half: f32, colour: Colour) {
        let corners = [(left, top), (right, top), (right, bottom), (left, bottom)];
        for side in 0..4 {
            self.line(corners[side], corners[(side + 1) % 4], half, colour);
        }
    }

    /// Text on a ground of `colour`, its lower left corner at `at`, moved to lie inside the picture.
    pub fn tag(&mut self, at: Point, text: &str, colour: Colour) {
        let scale = (self.unit() * 0.9).round().max(1.0) as usize;
        let (width, height) = (font::width(text) * scale + 2 * scale, (font::HEIGHT + 2) * scale);
        let place = |at: f32, size: usize, most: usize| {
            (at.max(0.0) as usize).min(most.saturating_sub(size))
        };
        let left = place(at.0, width, self.picture.width);
        let top = place(at.1 - height as f32, height, self.picture.height);
        let brightness = colour.iter().map(|&c| u32::from(c)).sum::<u32>();
        let ink = if brightness > 330 { [0; 3] } else { [255; 3] };
        for y in 0..height {
            for x in 0..width {
                let (column, row) = ((x / scale).checked_sub(1), (y / scale).checked_sub(1));
                let inked = match (column, row) {
                    (Some(column), Some(row)) => font::inked(text, column, row),
                    _ => false,
                };
                self.blend(left + x, top + y, if inked { ink } else { colour }, 1.0);
            }
        }
    }

    /// Colours the pixels whose distance from the shape, given for a point, is below `half`.
    fn shade(
        &mut self,
        bounds: [f32; 4],
        half: f32,
        colour: Colour,
        distance: impl Fn(f32, f32) -> f32,
    ) {
        let low = |value: f32| (value - half - 1.0).max(0.0) as usize;
        let high = |value: f32, most: usize| ((value + half + 2.0).max(0.0) as usize).min(most);
        for y in low(bounds[1])..high(bounds[3], self.picture.height) {
            for x in low(bounds[0])..high(bounds[2], self.picture.width) {
                let cover = half + 0.5 - distance(x as f32 + 0.5, y as f32 + 0.5);
                if cover > 0.0 {
                    self.blend(x, y, colour, cover.min(1.0));
                }
            }
        }
    }

    fn blend(&mut self, x: usize, y: usize, colour: Colour, cover: f32) {
        if x >= self.picture.width || y >= self.picture.height {
            return;
        }
        let at = (y * self.picture.width + x) * 3;
        for (byte, new) in self.picture.rgb[at..at + 3].iter_mut().zip(colour) {
            let old = f32::from(*byte);
            *byte = (old + (f32::from(new) - old) * cover).round() as u8;
        }
    }
}
