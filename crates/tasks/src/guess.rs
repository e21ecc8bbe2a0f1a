//! What a model does, told from the shapes of its inputs and outputs.

use std::fmt;
use std::str::FromStr;

use crate::{Channels, Layout};

/// What is done with a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A picture's class.
    Classify,
    /// The class of each pixel.
    Segment,
    /// A person's joints.
    Pose,
    /// Boxes around things.
    Detect,
    /// Numbers in, numbers out.
    Tensors,
}

impl Task {
    /// Every task.
    pub const ALL: [Task; 5] =
        [Task::Classify, Task::Segment, Task::Pose, Task::Detect, Task::Tensors];
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Task::Classify => "classify",
            Task::Segment => "segment",
            Task::Pose => "pose",
            Task::Detect => "detect",
            Task::Tensors => "tensors",
        })
    }
}

impl FromStr for Task {
    type Err = String;

    fn from_str(name: &str) -> Result<Task, String> {
        let known = Task::ALL.into_iter().find(|task| task.to_string() == name);
        known.ok_or_else(|| format!("no task is called {name:?}"))
    }
}

/// An input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Whether its elements are plain integers: neither floats nor quantised.
    pub integer: bool,
}

/// An input that takes a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Which numbers a pixel has.
    pub channels: Channels,
    /// Where a pixel's numbers lie.
    pub layout: Layout,
}

/// Narrower inputs are tables of features, such as a spectrogram.
const NARROWEST: usize = 16;

impl Input {
    /// How an input of this shape takes a picture: one picture at a time, of one or three numbers a
    /// pixel, before or after the two sizes. `None` if it does not look like a picture.
    pub fn of(shape: &[usize]) -> Option<Input> {
        let (height, width, count, layout) = match *shape {
            [1, height, width, count @ (1 | 3)] => (height, width, count, Layout::Nhwc),
            [1, count @ (1 | 3), height, width] => (height, width, count, Layout::Nchw),
            [1, height, width] if height == width => (height, width, 1, Layout::Nhwc),
            _ => return None,
        };
        let channels = if count == 3 { Channels::Rgb } else { Channels::Grey };
        (height.min(width) >= NARROWEST).then_some(Input { width, height, channels, layout })
    }
}

/// What a model does, told from its shapes: [`Task::Tensors`] where they do not say.
pub fn guess(inputs: &[Tensor], outputs: &[Tensor]) -> Task {
    let pictures = matches!(inputs, [input] if Input::of(&input.shape).is_some());
    if !pictures {
        return Task::Tensors;
    }
    let shapes: Vec<&[usize]> = outputs.iter().map(|output| output.shape.as_slice()).collect();
    let boxes = |shape: &&[usize]| matches!(shape, [1, _, 4]);
    match shapes.as_slice() {
        [[1, 1, 17, 3] | [1, 17, 3]] => Task::Pose,
        [_, _, _, _] if shapes.iter().any(boxes) => Task::Detect,
        [[1, classes] | [1, 1, 1, classes] | [1, classes, 1, 1]] if *classes > 1 => Task::Classify,
        [[1, height, width]] if outputs[0].integer && *height > 1 && *width > 1 => Task::Segment,
        [[1, a, b, c]] if is_map(*a, *b, *c) => Task::Segment,
        _ => Task::Tensors,
    }
}

/// Whether an output has two sizes of an image and, before or after them, a score for each of a few
/// classes. Three numbers a pixel are more likely a picture.
fn is_map(a: usize, b: usize, c: usize) -> bool {
    let map = |height: usize, width: usize, count: usize| {
        height.min(width) >= NARROWEST && count <= 255 && count != 3
    };
    map(a, b, c) || map(b, c, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(input: &[usize], outputs: &[&[usize]], integer: bool) -> Task {
        let tensor = |shape: &[usize]| Tensor { shape: shape.to_vec(), integer };
        let outputs: Vec<Tensor> = outputs.iter().map(|shape| tensor(shape)).collect();
        guess(&[tensor(input)], &outputs)
    }

    #[test]
    fn shapes_tell_the_task() {
        let picture = &[1, 224, 224, 3];
        type Case<'a> = (&'a [usize], &'a [&'a [usize]], bool, Task);
        let cases: [Case; 13] = [
            (picture, &[&[1, 1001]], false, Task::Classify),
            (&[1, 3, 224, 224], &[&[1, 1000, 1, 1]], false, Task::Classify),
            (&[1, 28, 28], &[&[1, 10]], false, Task::Classify),
            (&[1, 513, 513, 3], &[&[1, 513, 513]], true, Task::Segment),
            (&[1, 513, 513, 3], &[&[1, 65, 65, 21]], false, Task::Segment),
            (&[1, 3, 512, 512], &[&[1, 21, 512, 512]], false, Task::Segment),
            (&[1, 3, 64, 64], &[&[1, 3, 256, 256]], false, Task::Tensors),
            (&[1, 192, 192, 3], &[&[1, 1, 17, 3]], false, Task::Pose),
            (picture, &[&[1, 20, 4], &[1, 20], &[1, 20], &[1]], false, Task::Detect),
            (&[1, 1960], &[&[1, 4]], false, Task::Tensors),
            (&[1, 49, 10, 1], &[&[1, 12]], false, Task::Tensors),
            (&[1, 30, 1, 40], &[&[1, 3]], false, Task::Tensors),
            (picture, &[&[1, 1]], false, Task::Tensors),
        ];
        for (input, outputs, integer, expected) in cases {
            assert_eq!(task(input, outputs, integer), expected, "{input:?} {outputs:?}");
        }
    }

    #[test]
    fn names_are_read_back() {
        for task in Task::ALL {
            assert_eq!(task.to_string().parse(), Ok(task));
        }
        assert!("sing".parse::<Task>().is_err());
    }
}
