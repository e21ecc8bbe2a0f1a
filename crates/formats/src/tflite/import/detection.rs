//! Choosing boxes.

use kinglet_graph::ops::detection::{DetectionPostProcess, SoftNonMaxSuppression};
use kinglet_graph::{OpError, OpResult};

use super::super::flexbuffer::{self, Value};
use super::node::{Node, flat};

pub(super) const HANDLERS: &[(&str, super::Handler)] = &[
    ("NON_MAX_SUPPRESSION_V4", non_max_suppression),
    ("NON_MAX_SUPPRESSION_V5", non_max_suppression),
    ("TFLite_Detection_PostProcess", post_process),
];

fn non_max_suppression(node: &mut Node<'_, '_>) -> OpResult {
    let inputs = node.inputs()?;
    node.emit_all(SoftNonMaxSuppression, inputs)
}

fn post_process(node: &mut Node<'_, '_>) -> OpResult {
    let options = flexbuffer::map(node.operator.custom_options).map_err(flat)?;
    let find = |name: &str| options.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
    let need = |name: &str| -> OpResult<Value> {
        find(name).ok_or_else(|| OpError::new(format!("its option '{name}' is missing")))
    };
    let count = |name: &str, value: Value| -> OpResult<usize> {
        let value = value.as_i64();
        let count = usize::try_from(value).ok().filter(|n| *n <= 1 << 24);
        count.ok_or_else(|| OpError::new(format!("its option '{name}' is {value}")))
    };
    let number = |name: &str, default: i64| count(name, find(name).unwrap_or(Value::Int(default)));
    let scale = |name: &str| need(name).map(Value::as_f32);
    let op = DetectionPostProcess {
        max_detections: count("max_detections", need("max_detections")?)?,
        max_classes_per_detection: number("max_classes_per_detection", 1)?,
        detections_per_class: number("detections_per_class", 100)?,
        regular: find("use_regular_nms").is_some_and(Value::as_bool),
        score_threshold: scale("nms_score_threshold")?,
        overlap_threshold: scale("nms_iou_threshold")?,
        classes: count("num_classes", need("num_classes")?)?,
        scales: [scale("y_scale")?, scale("x_scale")?, scale("h_scale")?, scale("w_scale")?],
    };
    let inputs = node.inputs()?;
    node.emit_all(op, inputs)
}
