//! The end of an SSD detector: anchors decoded, overlapping boxes pruned.

use super::{Corners, better};
use crate::op::{OpError, OpResult};
use crate::ops::movement::fail;
use crate::{DType, Dim, InferCx, Inputs, Op, Outputs, TensorView, ValueType};
use std::cell::RefCell;

/// TFLite's custom op `TFLite_Detection_PostProcess`, to the bit.
///
/// Inputs: box encodings `[1, n, 4 or more]`, scores `[1, n, classes or one more]` whose first
/// column is then the background, anchors `[n, 4]` (y, x, h, w); f32, or quantised u8.
/// Outputs, all f32: boxes `[1, k, 4]` as corners (y, x, y, x), classes `[1, k]`, scores
/// `[1, k]`, count `[1]`, where k is `max_detections × max_classes_per_detection`. What is past
/// the count is 0.
#[derive(Clone, Debug)]
pub struct DetectionPostProcess {
    /// Most boxes.
    pub max_detections: usize,
    /// Classes given for each box, when pruning is fast.
    pub max_classes_per_detection: usize,
    /// Most boxes of each class, when each class is pruned by itself.
    pub detections_per_class: usize,
    /// Whether each class is pruned by itself. Otherwise a box counts with its best class only.
    pub regular: bool,
    /// The least score.
    pub score_threshold: f32,
    /// The overlap over which the worse box is dropped.
    pub overlap_threshold: f32,
    /// Classes without the background.
    pub classes: usize,
    /// What encodings are divided by: y, x, height, width.
    pub scales: [f32; 4],
}

/// What one run works in; kept by the thread for the next one.
#[derive(Default)]
struct Scratch {
    boxes: Vec<Corners>,
    scores: Vec<f32>,
    /// Scores and boxes of one class, or each box's best.
    candidates: Vec<(f32, usize)>,
    dropped: Vec<bool>,
    /// Score, box, class; the best of all classes so far.
    best: Vec<(f32, usize, usize)>,
    merged: Vec<(f32, usize)>,
    order: Vec<(f32, usize)>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Elements of `view` as reals.
fn reals(view: &TensorView<'_>, out: &mut Vec<f32>) -> OpResult {
    out.clear();
    match (view.dtype, view.quant.and_then(|q| q.single())) {
        (DType::F32, _) => out.extend_from_slice(view.slice()?),
        (DType::U8, Some((scale, zero))) => {
            let real = |v: &u8| (f32::from(*v) - zero as f32) * scale;
            out.extend(view.slice::<u8>()?.iter().map(real));
        }
        _ => return fail(format!("boxes can't be {}", view.dtype)),
    }
    Ok(())
}

/// Element `i` as a real.
fn real(view: &TensorView<'_>, i: usize) -> OpResult<f32> {
    match (view.dtype, view.quant.and_then(|q| q.single())) {
        (DType::F32, _) => Ok(view.slice::<f32>()?[i]),
        (DType::U8, Some((scale, zero))) => {
            Ok((f32::from(view.slice::<u8>()?[i]) - zero as f32) * scale)
        }
        _ => fail(format!("boxes can't be {}", view.dtype)),
    }
}

impl DetectionPostProcess {
    fn count(&self) -> OpResult<usize> {
        let count = self.max_detections.checked_mul(self.max_classes_per_detection);
        count.filter(|k| *k > 0 && *k <= 1 << 24).ok_or_else(|| {
            let (n, c) = (self.max_detections, self.max_classes_per_detection);
            OpError::new(format!("{n} detections of {c} classes"))
        })
    }

    fn decode(&self, inputs: &Inputs<'_>, boxes: &mut Vec<Corners>) -> OpResult {
        let (encodings, anchors) = (inputs.get(0)?, inputs.get(2)?);
        let [1, n, length] = *encodings.dims else {
            return fail(format!("encodings of sizes {:?}", encodings.dims));
        };
        if length < 4 || anchors.dims != [n, 4] {
            return fail(format!("anchors {:?} for encodings {:?}", anchors.dims, encodings.dims));
        }
        boxes.clear();
        for i in 0..n {
            let encoded = |k: usize| real(&encodings, i * length + k).map(f64::from);
            let anchor = |k: usize| real(&anchors, i * 4 + k).map(f64::from);
            let scale = |k: usize| f64::from(self.scales[k]);
            let centre = |k: usize, size: f64| -> OpResult<f32> {
                Ok((encoded(k)? / scale(k) * size + anchor(k)?) as f32)
            };
            let half = |k: usize, size: f64| -> OpResult<f32> {
                Ok((0.5 * (encoded(k)? / scale(k)).exp() * size) as f32)
            };
            let (h, w) = (anchor(2)?, anchor(3)?);
            let (y, x) = (centre(0, h)?, centre(1, w)?);
            let (h, w) = (half(2, h)?, half(3, w)?);
            let corners = Corners { y0: y - h, x0: x - w, y1: y + h, x1: x + w };
            if corners.y0 > corners.y1 || corners.x0 > corners.x1 {
                return fail(format!("box {i} has a negative size"));
            }
            boxes.push(corners);
        }
        Ok(())
    }

    /// Leaves, of candidates in the order of their boxes, the `most` best that do not overlap.
    fn prune(
        &self,
        boxes: &[Corners],
        candidates: &mut Vec<(f32, usize)>,
        dropped: &mut Vec<bool>,
        most: usize,
    ) {
        candidates.retain(|(score, _)| *score >= self.score_threshold);
        candidates.sort_unstable_by(|a, b| better(*a, *b));
        dropped.clear();
        dropped.resize(candidates.len(), false);
        let mut kept = 0;
        for i in 0..candidates.len() {
            if kept == most {
                break;
            }
            if dropped[i] {
                continue;
            }
            for j in i + 1..candidates.len() {
                let (a, b) = (&boxes[candidates[i].1], &boxes[candidates[j].1]);
                dropped[j] |= a.overlap(b) > self.overlap_threshold;
            }
            candidates[kept] = candidates[i];
            kept += 1;
        }
        candidates.truncate(kept);
    }

    /// Scores of box `i`, without the background.
    fn row<'s>(&self, scores: &'s [f32], columns: usize, i: usize) -> &'s [f32] {
        &scores[i * columns + columns - self.classes..][..self.classes]
    }

    fn fast(&self, s: &mut Scratch, columns: usize) -> usize {
        s.candidates.clear();
        for i in 0..s.boxes.len() {
            let row = self.row(&s.scores, columns, i);
            let best = row.iter().copied().reduce(|a, b| if b > a { b } else { a });
            s.candidates.push((best.unwrap_or(0.0), i));
        }
        self.prune(&s.boxes, &mut s.candidates, &mut s.dropped, self.max_detections);
        for (_, i) in &s.candidates {
            s.order.clear();
            s.order.extend(self.row(&s.scores, columns, *i).iter().copied().zip(0..));
            s.order.sort_unstable_by(|a, b| better(*a, *b));
            let best = s.order.iter().take(self.max_classes_per_detection);
            s.best.extend(best.map(|(score, class)| (*score, *i, *class)));
        }
        s.candidates.len()
    }

    fn regular(&self, s: &mut Scratch, columns: usize) -> usize {
        for class in 0..self.classes {
            s.candidates.clear();
            for i in 0..s.boxes.len() {
                s.candidates.push((self.row(&s.scores, columns, i)[class], i));
            }
            self.prune(&s.boxes, &mut s.candidates, &mut s.dropped, self.detections_per_class);
            s.best.extend(s.candidates.iter().map(|(score, i)| (*score, *i, class)));
            s.merged.clear();
            s.merged.extend(s.best.iter().map(|b| b.0).zip(0..));
            s.merged.sort_unstable_by(|a, b| better(*a, *b));
            s.merged.truncate(self.max_detections);
            let start = s.best.len();
            for k in 0..s.merged.len() {
                s.best.push(s.best[s.merged[k].1]);
            }
            s.best.drain(..start);
        }
        s.best.len()
    }
}

impl Op for DetectionPostProcess {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        for i in 0..3 {
            cx.ty(i)?;
        }
        let (one, k) = (Dim::from(1), Dim::from(self.count()?));
        let row = ValueType::new(DType::F32, vec![one.clone(), k.clone()]);
        let boxes = ValueType::new(DType::F32, vec![one.clone(), k, Dim::from(4)]);
        Ok(vec![boxes, row.clone(), row, ValueType::new(DType::F32, vec![one])])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let count = self.count()?;
        let scores = inputs.get(1)?;
        let boxes = inputs.get(0)?.dims.get(1).copied().unwrap_or(0);
        let columns = match *scores.dims {
            [1, n, c] if n == boxes && (c == self.classes || c == self.classes + 1) => c,
            _ => return fail(format!("scores {:?} of {} classes", scores.dims, self.classes)),
        };
        if !(self.overlap_threshold > 0.0 && self.overlap_threshold <= 1.0) {
            return fail(format!("an overlap threshold of {}", self.overlap_threshold));
        }
        SCRATCH.with_borrow_mut(|s| {
            self.decode(inputs, &mut s.boxes)?;
            reals(&scores, &mut s.scores)?;
            s.best.clear();
            let found = if self.regular { self.regular(s, columns) } else { self.fast(s, columns) };
            // Fewer classes than asked for leave places empty.
            let (each, stride) = match self.regular {
                true => (1, 1),
                false => (
                    self.max_classes_per_detection.min(self.classes),
                    self.max_classes_per_detection,
                ),
            };
            let place = |k: usize| k / each.max(1) * stride + k % each.max(1);
            let out = outputs.slice::<f32>(0, &[1, count, 4])?;
            out.fill(0.0);
            for (k, (_, i, _)) in s.best.iter().enumerate() {
                let b = s.boxes[*i];
                out[place(k) * 4..][..4].copy_from_slice(&[b.y0, b.x0, b.y1, b.x1]);
            }
            let out = outputs.slice::<f32>(1, &[1, count])?;
            out.fill(0.0);
            s.best.iter().enumerate().for_each(|(k, b)| out[place(k)] = b.2 as f32);
            let out = outputs.slice::<f32>(2, &[1, count])?;
            out.fill(0.0);
            s.best.iter().enumerate().for_each(|(k, b)| out[place(k)] = b.0);
            outputs.slice::<f32>(3, &[1])?[0] = found as f32;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::test::{run_opt, t};
    use super::*;
    use crate::Tensor;

    const ENCODINGS: [f32; 24] = [
        1.7640524,
        0.4001572,
        0.978738,
        2.2408931,
        1.867558,
        -0.9772779,
        0.95008844,
        -0.1513572,
        -0.10321885,
        0.41059852,
        0.14404356,
        1.4542735,
        0.7610377,
        0.121675014,
        0.44386324,
        0.33367434,
        1.4940791,
        -0.20515826,
        0.3130677,
        -0.85409576,
        -2.5529897,
        0.6536186,
        0.8644362,
        -0.742165,
    ];
    const SCORES: [f32; 24] = [
        0.45615032, 0.56843394, 0.0187898, 0.6176355, 0.6120957, 0.616934, 0.94374806, 0.6818203,
        0.3595079, 0.43703195, 0.6976312, 0.06022547, 0.6667667, 0.67063785, 0.21038257,
        0.12892629, 0.31542835, 0.36371076, 0.57019675, 0.43860152, 0.9883738, 0.10204481,
        0.20887676, 0.16130951,
    ];
    const ANCHORS: [f32; 24] = [
        0.6531083, 0.6563296, 0.6189725, 0.5696318, 0.2532916, 0.13818295, 0.2480492, 0.2195939,
        0.46631077, 0.19658236, 0.68822974, 0.34140348, 0.2444256, 0.36872518, 0.4343256,
        0.26009828, 0.15896958, 0.82099324, 0.68838054, 0.34807009, 0.11037514, 0.09710128,
        0.50242275, 0.25936386,
    ];

    fn run(regular: bool, classes: usize, per_class: usize) -> OpResult<Vec<Tensor>> {
        let op = DetectionPostProcess {
            max_detections: 4,
            max_classes_per_detection: classes,
            detections_per_class: per_class,
            regular,
            score_threshold: 0.3,
            overlap_threshold: 0.3,
            classes: 3,
            scales: [10.0, 10.0, 5.0, 5.0],
        };
        let (e, s) = (t(&[1, 6, 4], &ENCODINGS), t(&[1, 6, 4], &SCORES));
        run_opt(&op, &[Some(&e), Some(&s), Some(&t(&[6, 4], &ANCHORS))], 4)
    }

    /// Expected: LiteRT's kernel, ai-edge-litert 2, on the same random boxes.
    fn assert_found(found: &[Tensor], boxes: &[f32], classes: &[f32], scores: &[f32]) {
        assert_eq!(found[0].slice::<f32>().unwrap(), boxes);
        assert_eq!(found[1].slice::<f32>().unwrap(), classes);
        assert_eq!(found[2].slice::<f32>().unwrap(), scores);
        assert_eq!(found[3].slice::<f32>().unwrap(), [4.0]);
    }

    #[test]
    fn each_box_counts_with_its_best_class() {
        let boxes = [
            0.1496369,
            0.010199487,
            0.4495956,
            0.22324556,
            0.10503438,
            -0.01772523,
            0.8133795,
            0.4389259,
            0.040156916,
            0.23286583,
            0.5148019,
            0.510914,
            0.38589495,
            0.2332564,
            1.1387017,
            1.1249912,
        ];
        assert_found(
            &run(false, 1, 100).unwrap(),
            &boxes,
            &[1.0, 1.0, 0.0, 2.0],
            &[0.94374806, 0.6976312, 0.67063785, 0.6176355],
        );
        let twice: Vec<f32> = boxes.chunks(4).flat_map(|b| [b, b].concat()).collect();
        let classes = [1.0, 2.0, 1.0, 0.0, 0.0, 1.0, 2.0, 0.0];
        let scores = [
            0.94374806, 0.6818203, 0.6976312, 0.43703195, 0.67063785, 0.21038257, 0.6176355,
            0.56843394,
        ];
        assert_found(&run(false, 2, 100).unwrap(), &twice, &classes, &scores);
    }

    #[test]
    fn each_class_is_pruned_by_itself() {
        let boxes = [
            0.1496369,
            0.010199487,
            0.4495956,
            0.22324556,
            0.10503438,
            -0.01772523,
            0.8133795,
            0.4389259,
            0.1496369,
            0.010199487,
            0.4495956,
            0.22324556,
            0.040156916,
            0.23286583,
            0.5148019,
            0.510914,
        ];
        assert_found(
            &run(true, 1, 2).unwrap(),
            &boxes,
            &[1.0, 1.0, 2.0, 0.0],
            &[0.94374806, 0.6976312, 0.6818203, 0.67063785],
        );
    }

    #[test]
    fn more_classes_than_there_are_leave_places_empty() {
        let found = run(false, 4, 100).unwrap();
        let scores = found[2].slice::<f32>().unwrap();
        assert_eq!((scores[3], scores[7]), (0.0, 0.0));
        assert_eq!(scores[4], 0.6976312);
        assert!(run(false, 1 << 40, 1).is_err());
    }
}
