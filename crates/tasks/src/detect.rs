//! Detection: boxes around things.

use crate::draw::Canvas;
use crate::segment::colour;
use crate::{Colour, Labels, Picture, Placement};

/// A thing found on a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Its class.
    pub class: usize,
    /// How sure the model is, from 0 to 1.
    pub score: f32,
    /// Left, top, right and bottom, in the picture's pixels and inside it.
    pub bounds: [f32; 4],
}

/// The four outputs of TFLite's detection post-processing, for `n` boxes.
#[derive(Debug, Clone, Copy)]
pub struct Outputs<'a> {
    /// `n` times top, left, bottom, right, from 0 to 1 on the model's input.
    pub boxes: &'a [f32],
    /// `n` classes.
    pub classes: &'a [f32],
    /// `n` scores.
    pub scores: &'a [f32],
    /// How many of the boxes count.
    pub count: f32,
}

impl<'a> Outputs<'a> {
    /// The outputs in the operator's order (boxes, classes, scores, count), or in another: boxes and
    /// count are told from their sizes, and of the two others the classes are the whole numbers.
    /// `None` if these are not such outputs.
    pub fn find(outputs: [&'a [f32]; 4]) -> Option<Outputs<'a>> {
        let n = outputs.iter().map(|output| output.len()).max()? / 4;
        (n > 0).then_some(())?;
        let boxes = outputs.iter().position(|output| output.len() == 4 * n)?;
        let count = (0..4).rev().find(|&i| i != boxes && outputs[i].len() == 1)?;
        let mut rest = (0..4).filter(|&i| i != boxes && i != count && outputs[i].len() == n);
        let (first, second) = (outputs[rest.next()?], outputs[rest.next()?]);
        let whole = |values: &[f32]| values.iter().all(|value| value.fract() == 0.0);
        let (classes, scores) =
            if whole(second) && !whole(first) { (second, first) } else { (first, second) };
        Some(Outputs { boxes: outputs[boxes], classes, scores, count: outputs[count][0] })
    }
}

/// The things found with at least `threshold`, the surest first.
pub fn detections(
    outputs: &Outputs,
    picture: &Picture,
    placement: &Placement,
    threshold: f32,
) -> Vec<Detection> {
    let (width, height) = (picture.width as f32, picture.height as f32);
    let count = outputs.count.max(0.0) as usize;
    let rows = outputs.boxes.chunks_exact(4).zip(outputs.classes).zip(outputs.scores);
    let mut found: Vec<Detection> = rows
        .take(count)
        .filter(|(_, score)| **score >= threshold)
        .map(|((edges, &class), &score)| {
            let (left, top) = placement.to_picture(edges[1], edges[0]);
            let (right, bottom) = placement.to_picture(edges[3], edges[2]);
            let inside = |value: f32, most: f32| value.max(0.0).min(most);
            let bounds = [
                inside(left, width),
                inside(top, height),
                inside(right, width),
                inside(bottom, height),
            ];
            Detection { class: class.max(0.0) as usize, score, bounds }
        })
        .collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found
}

/// The picture with a box around each thing, named and scored; the surest lies on top.
pub fn overlay(picture: &Picture, found: &[Detection], labels: &Labels) -> Picture {
    let mut canvas = Canvas::new(picture.clone());
    for thing in found.iter().rev() {
        let colour = vivid(thing.class);
        canvas.frame(thing.bounds, canvas.unit(), colour);
        let name = match labels.get(thing.class) {
            Some(label) => label.to_string(),
            None => format!("class {}", thing.class),
        };
        let text = format!("{name} {:.0}%", thing.score * 100.0);
        canvas.tag((thing.bounds[0], thing.bounds[1]), &text, colour);
    }
    canvas.picture()
}

/// A class's colour, as bright as it can be: a thin line must stand out.
fn vivid(class: usize) -> Colour {
    let colour = colour((class % 254 + 1) as u8);
    let most = u16::from(colour.into_iter().max().unwrap_or(255).max(1));
    colour.map(|part| (u16::from(part) * 255 / most) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOXES: [f32; 8] = [0.25, 0.125, 0.5, 0.625, -0.5, 0.5, 2.0, 0.75];

    #[test]
    fn outputs_are_told_apart_in_any_order() {
        let (classes, scores, count) = ([16.0, 0.0], [0.25, 0.75], [2.0]);
        for order in [[&BOXES[..], &classes, &scores, &count], [&scores, &BOXES, &count, &classes]]
        {
            let outputs = Outputs::find(order).unwrap();
            assert_eq!(outputs.classes, classes);
            assert_eq!(outputs.scores, scores);
            assert_eq!(outputs.count, 2.0);
        }
        assert!(Outputs::find([&BOXES, &scores, &count, &count]).is_none());
        assert!(Outputs::find([&[], &[], &[], &[]]).is_none());
        let one = Outputs::find([&BOXES[..4], &[3.0], &[0.5], &[1.0]]).unwrap();
        assert_eq!((one.classes, one.scores, one.count), (&[3.0][..], &[0.5][..], 1.0));
    }

    #[test]
    fn boxes_are_placed_filtered_and_sorted() {
        let picture = Picture::filled(200, 100, [30, 30, 30]);
        let outputs =
            Outputs { boxes: &BOXES, classes: &[16.0, 0.0], scores: &[0.25, 0.75], count: 2.0 };
        let place = Placement::whole(&picture);
        let found = detections(&outputs, &picture, &place, 0.2);
        assert_eq!(
            found[0],
            Detection { class: 0, score: 0.75, bounds: [100.0, 0.0, 150.0, 100.0] }
        );
        assert_eq!(found[1].bounds, [25.0, 25.0, 125.0, 50.0]);
        assert_eq!(detections(&outputs, &picture, &place, 0.5).len(), 1);
        assert_eq!(detections(&Outputs { count: 0.0, ..outputs }, &picture, &place, 0.0), []);
        let labels = Labels::parse("person\ncar").unwrap();
        let drawn = overlay(&picture, &found, &labels);
        assert_eq!(drawn.rgb[(99 * 200 + 130) * 3..][..3], [255, 0, 0]);
    }
}
