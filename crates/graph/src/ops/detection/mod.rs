//! Boxes around what a network found, and the pruning of those that overlap.

mod nms;
mod postprocess;

pub use nms::{NonMaxSuppression, SoftNonMaxSuppression};
pub use postprocess::DetectionPostProcess;

/// Ends of a box along both dimensions.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Corners {
    y0: f32,
    x0: f32,
    y1: f32,
    x1: f32,
}

impl Corners {
    /// From two opposite corners (y, x, y, x), whichever they are.
    fn sorted(c: &[f32]) -> Corners {
        Corners { y0: c[0].min(c[2]), x0: c[1].min(c[3]), y1: c[0].max(c[2]), x1: c[1].max(c[3]) }
    }

    /// From the centre, width and height (x, y, w, h).
    fn centred(c: &[f32]) -> Corners {
        let (w, h) = (c[2] / 2.0, c[3] / 2.0);
        Corners { y0: c[1] - h, x0: c[0] - w, y1: c[1] + h, x1: c[0] + w }
    }

    fn area(&self) -> f32 {
        (self.y1 - self.y0) * (self.x1 - self.x0)
    }

    /// Intersection over union; 0 where a box has no area.
    fn overlap(&self, other: &Corners) -> f32 {
        let (a, b) = (self.area(), other.area());
        if a <= 0.0 || b <= 0.0 {
            return 0.0;
        }
        let height = (self.y1.min(other.y1) - self.y0.max(other.y0)).max(0.0);
        let width = (self.x1.min(other.x1) - self.x0.max(other.x0)).max(0.0);
        let both = height * width;
        both / (a + b - both)
    }
}

/// Orders by score, best first, equal scores by index. A NaN comes last.
fn better(a: (f32, usize), b: (f32, usize)) -> std::cmp::Ordering {
    let score = |v: f32| if v.is_nan() { f32::NEG_INFINITY } else { v };
    score(b.0).total_cmp(&score(a.0)).then(a.1.cmp(&b.1))
}
