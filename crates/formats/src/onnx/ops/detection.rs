//! Boxes and regions.

use kinglet_graph::ops::detection::NonMaxSuppression;
use kinglet_graph::ops::roi::RoiAlign;
use kinglet_graph::{OpError, OpResult};

use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    op("NonMaxSuppression", 10, |cx| {
        let centred = cx.flag("center_point_box", false)?;
        cx.emit(NonMaxSuppression { centred })
    }),
    op("RoiAlign", 10, roi_align),
];

fn roi_align(cx: &mut Cx<'_, '_>) -> OpResult {
    let size = |name: &str, default: i64| -> OpResult<usize> {
        let size = cx.int(name, default)?;
        usize::try_from(size).map_err(|_| OpError::new(format!("attribute '{name}' is {size}")))
    };
    let half_pixel = match cx.version() {
        ..16 => false,
        _ => match cx.str("coordinate_transformation_mode", "half_pixel")? {
            "half_pixel" => true,
            "output_half_pixel" => false,
            other => {
                let m = format!("coordinate_transformation_mode '{other}' is not known");
                return Err(OpError::new(m));
            }
        },
    };
    let max = match cx.str("mode", "avg")? {
        "avg" => false,
        "max" => true,
        other => return Err(OpError::new(format!("mode '{other}' is not known"))),
    };
    let op = RoiAlign {
        rows: size("output_height", 1)?,
        columns: size("output_width", 1)?,
        sampling_ratio: size("sampling_ratio", 0)?,
        spatial_scale: cx.float("spatial_scale", 1.0)?,
        half_pixel,
        max,
    };
    cx.emit(op)
}
