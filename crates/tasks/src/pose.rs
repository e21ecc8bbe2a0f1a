//! Pose: where a person's joints are.

use crate::draw::Canvas;
use crate::{Colour, Picture, Placement};

/// The names of COCO's keypoints, in the order of MoveNet and PoseNet.
pub const NAMES: [&str; 17] = [
    "nose",
    "left eye",
    "right eye",
    "left ear",
    "right ear",
    "left shoulder",
    "right shoulder",
    "left elbow",
    "right elbow",
    "left wrist",
    "right wrist",
    "left hip",
    "right hip",
    "left knee",
    "right knee",
    "left ankle",
    "right ankle",
];

const LEFT: Colour = [255, 159, 28];
const RIGHT: Colour = [46, 196, 255];
const MIDDLE: Colour = [124, 252, 120];

const BONES: [(usize, usize, Colour); 18] = [
    (0, 1, LEFT),
    (0, 2, RIGHT),
    (1, 3, LEFT),
    (2, 4, RIGHT),
    (0, 5, LEFT),
    (0, 6, RIGHT),
    (5, 7, LEFT),
    (7, 9, LEFT),
    (6, 8, RIGHT),
    (8, 10, RIGHT),
    (5, 6, MIDDLE),
    (5, 11, LEFT),
    (6, 12, RIGHT),
    (11, 12, MIDDLE),
    (11, 13, LEFT),
    (13, 15, LEFT),
    (12, 14, RIGHT),
    (14, 16, RIGHT),
];

/// A joint found on a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Keypoint {
    /// Its name, of [`NAMES`].
    pub name: &'static str,
    /// Pixels from the picture's left edge.
    pub x: f32,
    /// Pixels from the picture's top edge.
    pub y: f32,
    /// How sure the model is, from 0 to 1.
    pub score: f32,
}

/// The keypoints of an output of 17 times y, x (from 0 to 1 on the model's input) and score.
/// `None` if it does not have 51 numbers.
pub fn keypoints(output: &[f32], placement: &Placement) -> Option<[Keypoint; 17]> {
    (output.len() == 51).then_some(())?;
    Some(std::array::from_fn(|index| {
        let (x, y) = placement.to_picture(output[index * 3 + 1], output[index * 3]);
        Keypoint { name: NAMES[index], x, y, score: output[index * 3 + 2] }
    }))
}

/// The picture with the joints of at least `threshold` and the bones between them: the person's left in
/// orange, right in blue.
pub fn overlay(picture: &Picture, keypoints: &[Keypoint; 17], threshold: f32) -> Picture {
    let mut canvas = Canvas::new(picture.clone());
    let unit = canvas.unit();
    let seen = |point: &Keypoint| point.score >= threshold;
    for (from, to, colour) in BONES {
        let (from, to) = (&keypoints[from], &keypoints[to]);
        if seen(from) && seen(to) {
            canvas.line((from.x, from.y), (to.x, to.y), 1.5 * unit, colour);
        }
    }
    for point in keypoints.iter().filter(|point| seen(point)) {
        let colour = if point.name.starts_with("left") { LEFT } else { RIGHT };
        let colour = if point.name == "nose" { MIDDLE } else { colour };
        canvas.disc((point.x, point.y), 2.2 * unit, [255; 3]);
        canvas.disc((point.x, point.y), 1.5 * unit, colour);
    }
    canvas.picture()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keypoints_are_named_and_placed() {
        let picture = Picture::filled(200, 100, [0; 3]);
        let mut output = [0.0; 51];
        output[33..36].copy_from_slice(&[0.5, 0.25, 0.9]);
        output[39..42].copy_from_slice(&[0.9, 0.25, 0.8]);
        let points = keypoints(&output, &Placement::whole(&picture)).unwrap();
        assert_eq!(points[11], Keypoint { name: "left hip", x: 50.0, y: 50.0, score: 0.9 });
        assert!(keypoints(&output[1..], &Placement::whole(&picture)).is_none());
        let drawn = overlay(&picture, &points, 0.3);
        let at = |x: usize, y: usize| &drawn.rgb[(y * 200 + x) * 3..][..3];
        assert_eq!(at(50, 70), LEFT);
        assert_eq!(at(0, 0), [0; 3], "joints below the threshold are not drawn");
    }

    #[test]
    fn the_bones_join_each_joint() {
        for joint in 0..17 {
            assert!(BONES.iter().any(|&(a, b, _)| a == joint || b == joint));
        }
    }

    #[test]
    fn joints_far_outside_the_picture_are_survived() {
        let picture = Picture::filled(20, 10, [0; 3]);
        let output = [f32::MAX, f32::NAN, 1.0].repeat(17);
        let points = keypoints(&output, &Placement::whole(&picture)).unwrap();
        overlay(&picture, &points, 0.1);
        let output = [-1e9, 1e9, 1.0].repeat(17);
        let points = keypoints(&output, &Placement::whole(&picture)).unwrap();
        overlay(&picture, &points, 0.1);
    }
}
