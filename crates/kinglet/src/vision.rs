//! Models that look at pictures.

use kinglet_graph::{DType, Metadata, Tensor, ValueType};
use kinglet_tasks::classify::{self, Candidate};
use kinglet_tasks::detect::{self, Detection};
use kinglet_tasks::pose::{self, Keypoint};
use kinglet_tasks::segment::{Map, Mask};
use kinglet_tasks::{
    Channels, Fit, Input, Labels, Layout, Picture, Pixels, Placement, Preprocess, Task, Values,
    guess,
};

use crate::model::reals;
use crate::{Error, Model, Plan};

/// What to know of a model that its file may not say. `None` leaves each to the model.
#[derive(Debug, Clone, Default)]
pub struct VisionOptions {
    /// What the model does; told from its shapes otherwise.
    pub task: Option<Task>,
    /// The classes' names; those in the file otherwise.
    pub labels: Option<Labels>,
    /// How a picture of another shape is made to fit: letterboxed for poses and stretched otherwise.
    pub fit: Option<Fit>,
    /// What a float input takes for a byte: what the file says; otherwise what is common, which is
    /// -1 to 1 with channels last and ImageNet's normalisation with channels first.
    pub values: Option<Values>,
    /// The order of red, green and blue.
    pub channels: Option<Channels>,
}

/// A model that takes a picture: what it does, and how a picture is made its input.
#[derive(Debug, Clone)]
pub struct Vision {
    task: Task,
    preprocess: Preprocess,
    assumed: bool,
    labels: Labels,
}

/// What a model says of a picture.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Every class's score, from 0 to 1.
    Classes(Vec<f32>),
    /// A class for each pixel.
    Mask(Mask),
    /// A person's joints.
    Pose(Box<[Keypoint; 17]>),
    /// Things and where they are, the surest first.
    Things(Vec<Detection>),
    /// The model's outputs are only numbers.
    Tensors,
}

impl Vision {
    /// How `model`, planned as `plan`, looks at pictures; `None` if its input does not look like one and no task says so.
    ///
    /// # Errors
    /// If `options` ask for what the model cannot be, or its labels do not fit its classes.
    pub fn of(
        model: &Model,
        plan: &Plan,
        options: &VisionOptions,
    ) -> Result<Option<Vision>, Error> {
        let mut inputs = plan.inputs();
        let (Some((name, input)), 1) = (inputs.next(), plan.inputs().len()) else {
            return match options.task {
                Some(task) if task != Task::Tensors => Err(Error::input(format!(
                    "cannot {task}: the model takes {} tensors, not one picture",
                    plan.inputs().len()
                ))),
                _ => Ok(None),
            };
        };
        let Some(picture) = input.shape.fixed().as_deref().and_then(Input::of) else {
            return match options.task {
                Some(task) if task != Task::Tensors => Err(Error::input(format!(
                    "cannot {task}: the model's input '{name}' is {input}, which is not a picture"
                ))),
                _ => Ok(None),
            };
        };
        let Some((values, assumed)) = values(input, &model.graph().metadata, picture.layout) else {
            return Ok(None);
        };
        let task = options.task.unwrap_or_else(|| guess_task(plan, input));
        let fit = if task == Task::Pose { Fit::Letterbox } else { Fit::Stretch };
        let float = matches!(values, Values::Scaled { .. });
        let preprocess = Preprocess {
            width: picture.width,
            height: picture.height,
            channels: match options.channels {
                Some(channels) if picture.channels != Channels::Grey => channels,
                _ => picture.channels,
            },
            layout: picture.layout,
            fit: options.fit.unwrap_or(fit),
            values: options.values.clone().filter(|_| float).unwrap_or(values),
        };
        let assumed = assumed && options.values.is_none();
        let labels = labels(model, plan, task, options)?;
        Ok(Some(Vision { task, preprocess, assumed, labels }))
    }

    /// What the model does.
    pub fn task(&self) -> Task {
        self.task
    }

    /// How a picture is made the model's input.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// Whether the numbers for a byte are an assumption, as neither the file nor the options say.
    pub fn assumes_values(&self) -> bool {
        self.assumed
    }

    /// The classes' names.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Makes `picture` the input of `plan`, and says where it lies on the picture.
    ///
    /// # Errors
    /// If the plan is not of this model.
    pub fn set_input(&self, plan: &mut Plan, picture: &Picture) -> Result<Placement, Error> {
        let (name, ty) =
            plan.inputs().next().ok_or_else(|| Error::input("the model takes no input"))?;
        let dims = ty.shape.fixed().ok_or_else(|| Error::input(format!("'{name}' is {ty}")))?;
        let dtype = ty.dtype;
        let (pixels, placement) = self.preprocess.apply(picture);
        let tensor = match (pixels, dtype) {
            (Pixels::U8(bytes), _) => Tensor::from_slice(&dims, &bytes)?,
            (Pixels::I8(bytes), _) => Tensor::from_slice(&dims, &bytes)?,
            (Pixels::F32(numbers), DType::F16) => {
                let halves: Vec<half::f16> =
                    numbers.iter().map(|v| half::f16::from_f32(*v)).collect();
                Tensor::from_slice(&dims, &halves)?
            }
            (Pixels::F32(numbers), _) => Tensor::from_slice(&dims, &numbers)?,
        };
        plan.set_input(0, &tensor)?;
        Ok(placement)
    }

    /// Reads what the last run of `plan` says of `picture`, which the input showed at `placement`.
    /// Things below `threshold` are left out.
    ///
    /// # Errors
    /// If the outputs are not those of this task.
    pub fn answer(
        &self,
        plan: &Plan,
        picture: &Picture,
        placement: &Placement,
        threshold: f32,
    ) -> Result<Answer, Error> {
        let count = plan.outputs().len();
        let wrong = || {
            let types: Vec<String> = plan.outputs().map(|(_, ty)| ty.to_string()).collect();
            Error::input(format!(
                "cannot {}: the model's outputs are {}; choose another --task",
                self.task,
                types.join(", ")
            ))
        };
        match self.task {
            Task::Tensors => Ok(Answer::Tensors),
            Task::Classify if count == 1 => {
                let mut scores = reals(&plan.output(0))?;
                classify::to_scores(&mut scores);
                Ok(Answer::Classes(scores))
            }
            Task::Segment if count == 1 => {
                let map = self.map(plan)?.ok_or_else(wrong)?;
                Ok(Answer::Mask(map.on(picture, placement)))
            }
            Task::Pose if count == 1 => {
                let points = pose::keypoints(&reals(&plan.output(0))?, placement);
                points.map(|points| Answer::Pose(Box::new(points))).ok_or_else(wrong)
            }
            Task::Detect if count == 4 => {
                let outputs: Result<Vec<Vec<f32>>, Error> =
                    (0..4).map(|index| reals(&plan.output(index))).collect();
                let outputs = outputs?;
                let outputs = std::array::from_fn(|index| outputs[index].as_slice());
                let outputs = detect::Outputs::find(outputs).ok_or_else(wrong)?;
                Ok(Answer::Things(detect::detections(&outputs, picture, placement, threshold)))
            }
            _ => Err(wrong()),
        }
    }

    fn map(&self, plan: &Plan) -> Result<Option<Map>, Error> {
        let view = plan.output(0);
        Ok(match *view.dims {
            [1, height, width] if view.quant.is_none() && !view.dtype.is_float() => {
                Map::from_classes(width, height, &view.ints()?)
            }
            [1, a, b, c] => {
                let (height, width, count) = match self.preprocess.layout {
                    Layout::Nhwc => (a, b, c),
                    Layout::Nchw => (b, c, a),
                };
                Map::from_scores(width, height, count, self.preprocess.layout, &reals(&view)?)
            }
            _ => None,
        })
    }
}

fn guess_task(plan: &Plan, input: &ValueType) -> Task {
    let tensor = |ty: &ValueType| kinglet_tasks::Tensor {
        shape: ty.shape.fixed().unwrap_or_default().to_vec(),
        integer: ty.quant.is_none() && ty.dtype.is_integer(),
    };
    let outputs: Vec<_> = plan.outputs().map(|(_, ty)| tensor(ty)).collect();
    guess(&[tensor(input)], &outputs)
}

/// What a byte becomes for this input, and whether that is an assumption. An 8-bit input takes the
/// bytes as they are: whatever it is quantised with was chosen to span them.
fn values(input: &ValueType, metadata: &Metadata, layout: Layout) -> Option<(Values, bool)> {
    match input.dtype {
        DType::U8 => return Some((Values::Bytes, false)),
        DType::I8 => return Some((Values::SignedBytes, false)),
        DType::F32 | DType::F16 => {}
        _ => return None,
    }
    let property = |name: &str| -> Option<[f32; 3]> {
        let text = &metadata.properties.iter().find(|(key, _)| key == name)?.1;
        let numbers: Vec<f32> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
        match *numbers.as_slice() {
            [one] => Some([one; 3]),
            [red, green, blue] => Some([red, green, blue]),
            _ => None,
        }
    };
    use kinglet_formats::tflite::metadata::{MEAN, STD};
    Some(match (property(MEAN), property(STD), layout) {
        (Some(mean), Some(std), _) if !std.contains(&0.0) => (Values::Scaled { mean, std }, false),
        (_, _, Layout::Nhwc) => (Values::SYMMETRIC, true),
        (_, _, Layout::Nchw) => (Values::IMAGENET, true),
    })
}

fn labels(
    model: &Model,
    plan: &Plan,
    task: Task,
    options: &VisionOptions,
) -> Result<Labels, Error> {
    let in_file = &model.graph().metadata.labels;
    let labels = match &options.labels {
        Some(labels) => labels.clone(),
        None if in_file.is_empty() => return Ok(Labels::default()),
        None => Labels::parse(&in_file.join("\n")).unwrap_or_default(),
    };
    let classes = plan.outputs().next().and_then(|(_, ty)| ty.shape.fixed());
    match (task, classes) {
        (Task::Detect, _) => Ok(labels.for_detection()),
        (Task::Classify, Some(classes)) => match labels.for_classes(classes.iter().product()) {
            Ok(labels) => Ok(labels),
            // A list in the file that does not fit is no fault of the user's, nor a use to him.
            Err(_) if options.labels.is_none() => Ok(Labels::default()),
            Err(error) => Err(Error::input(error.to_string())),
        },
        _ => Ok(labels),
    }
}

impl Answer {
    /// The `count` best classes whose score is at least `threshold`; none if this is another answer.
    pub fn top(&self, count: usize, threshold: f32) -> Vec<Candidate> {
        match self {
            Answer::Classes(scores) => classify::top(scores, count, threshold),
            _ => Vec::new(),
        }
    }
}
