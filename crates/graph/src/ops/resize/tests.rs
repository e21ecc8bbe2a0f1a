use super::super::test::{i, run_opt, shape, t, ty};
use super::*;
use crate::Tensor;

fn by_scales(op: &Resize, x: &Tensor, scales: &[f32]) -> OpResult<Tensor> {
    let scales = t(&[scales.len()], scales);
    Ok(run_opt(op, &[Some(x), None, Some(&scales)], 1)?.remove(0))
}

fn by_sizes(op: &Resize, x: &Tensor, sizes: &[i64]) -> OpResult<Tensor> {
    Ok(run_opt(op, &[Some(x), None, None, Some(&i(sizes))], 1)?.remove(0))
}

fn assert_close(t: &Tensor, dims: &[usize], want: &[f32]) {
    assert_eq!(t.dims(), dims);
    for (a, b) in t.slice::<f32>().unwrap().iter().zip(want) {
        assert!((a - b).abs() < 1e-4, "{:?} for {want:?}", t.slice::<f32>());
    }
}

#[test]
fn nearest_in_each_rounding() {
    let x = t(&[4], &[1u8, 2, 3, 4]);
    let at = |rounding, coordinates, size| {
        let op = Resize { rounding, coordinates, ..Resize::default() };
        by_sizes(&op, &x, &[size]).unwrap().slice::<u8>().unwrap().to_vec()
    };
    let (corners, asymmetric) = (Coordinates::AlignCorners, Coordinates::Asymmetric);
    // Places 0, 0.5, 1, 1.5, …
    assert_eq!(at(Rounding::PreferFloor, corners, 7), [1, 1, 2, 2, 3, 3, 4]);
    assert_eq!(at(Rounding::PreferCeil, corners, 7), [1, 2, 2, 3, 3, 4, 4]);
    assert_eq!(at(Rounding::Floor, asymmetric, 8), [1, 1, 2, 2, 3, 3, 4, 4]);
    assert_eq!(at(Rounding::Ceil, asymmetric, 8), [1, 2, 2, 3, 3, 4, 4, 4]);
    assert_eq!(at(Rounding::Floor, Coordinates::TfHalfPixelForNearest, 2), [2, 4]);
    assert_eq!(at(Rounding::PreferFloor, Coordinates::HalfPixel, 2), [1, 3]);
}

#[test]
fn linear_in_each_layout() {
    let x = t(&[1, 1, 2, 2], &[1f32, 2., 3., 4.]);
    let linear = Resize { interpolation: Interpolation::Linear, ..Resize::default() };
    let want = [1., 1.25, 1.75, 2., 1.5, 1.75, 2.25, 2.5, 2.5, 2.75, 3.25, 3.5, 3., 3.25, 3.75, 4.];
    assert_close(&by_scales(&linear, &x, &[1., 1., 2., 2.]).unwrap(), &[1, 1, 4, 4], &want);
    let last = t(&[1, 2, 2, 1], &[1f32, 2., 3., 4.]);
    let middle = Resize { axes: Some(vec![2, 1]), ..linear.clone() };
    assert_close(&by_sizes(&middle, &last, &[4, 4]).unwrap(), &[1, 4, 4, 1], &want);
    let corners = Resize { coordinates: Coordinates::AlignCorners, ..linear.clone() };
    let out = by_sizes(&corners, &t(&[2], &[0f32, 3.]), &[4]).unwrap();
    assert_close(&out, &[4], &[0., 1., 2., 3.]);
    let half = by_sizes(&linear, &t(&[2], &[1i32, 2]), &[3]).unwrap();
    assert_eq!(half.slice::<i32>().unwrap(), [1, 2, 2]);
}

#[test]
fn cubic_and_antialias() {
    let x = t(&[4], &[1f32, 2., 3., 4.]);
    let cubic = Resize {
        interpolation: Interpolation::Cubic,
        cubic_coefficient: -0.75,
        ..Resize::default()
    };
    // Expected: the reference implementation of the onnx package, version 1.23.
    assert_close(&by_scales(&cubic, &x, &[0.8]).unwrap(), &[3], &[1.094238, 2.404297, 3.705566]);
    let outside = Resize { exclude_outside: true, ..cubic.clone() };
    assert_close(
        &by_scales(&outside, &x, &[2.0]).unwrap(),
        &[8],
        &[0.863636, 1.173145, 1.645283, 2.296875, 2.703125, 3.354717, 3.826855, 4.136364],
    );
    let both = Resize { antialias: true, cubic_coefficient: -0.5, ..outside };
    assert_close(&by_scales(&both, &x, &[0.6]).unwrap(), &[2], &[1.353846, 3.071749]);
    let symmetric = Resize {
        interpolation: Interpolation::Linear,
        coordinates: Coordinates::HalfPixelSymmetric,
        ..Resize::default()
    };
    assert_close(&by_scales(&symmetric, &x, &[0.8]).unwrap(), &[3], &[1.25, 2.5, 3.75]);
    let triangle =
        Resize { interpolation: Interpolation::Linear, antialias: true, ..Resize::default() };
    // Half size: weights 1, 3, 3, 1 of 8, the border repeated.
    assert_close(&by_scales(&triangle, &x, &[0.5]).unwrap(), &[2], &[1.625, 3.375]);
    let nearest = Resize { antialias: true, ..Resize::default() };
    assert!(by_scales(&nearest, &x, &[0.5]).is_err());
}

#[test]
fn crops_extrapolate() {
    let x = t(&[3], &[1f32, 2., 3.]);
    let op = Resize {
        interpolation: Interpolation::Linear,
        coordinates: Coordinates::TfCropAndResize,
        extrapolation_value: 9.0,
        ..Resize::default()
    };
    let roi = t(&[2], &[0.5f32, 1.5]);
    let out = run_opt(&op, &[Some(&x), Some(&roi), None, Some(&i(&[3]))], 1).unwrap();
    assert_close(&out[0], &[3], &[2., 3., 9.]);
    let nearest = Resize { interpolation: Interpolation::Nearest, ..op.clone() };
    let out = run_opt(&nearest, &[Some(&x), Some(&roi), None, Some(&i(&[3]))], 1).unwrap();
    assert_close(&out[0], &[3], &[2., 3., 9.]);
    assert!(by_sizes(&op, &x, &[3]).unwrap_err().to_string().contains("region"));
}

#[test]
fn proportions_are_kept() {
    let x = t(&[2, 4], &[0f32; 8]);
    let dims = |aspect_ratio| {
        let op = Resize { aspect_ratio, ..Resize::default() };
        by_sizes(&op, &x, &[7, 8]).unwrap().dims().to_vec()
    };
    assert_eq!(dims(AspectRatio::Stretch), [7, 8]);
    assert_eq!(dims(AspectRatio::NotLarger), [4, 8]);
    assert_eq!(dims(AspectRatio::NotSmaller), [7, 14]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let x = t(&[2], &[1f32, 2.]);
    let message = |r: OpResult<Tensor>| r.unwrap_err().to_string();
    let op = Resize::default();
    assert!(message(by_scales(&op, &x, &[-1.0])).contains("scale"));
    assert!(message(by_scales(&op, &x, &[f32::NAN])).contains("scale"));
    assert!(message(by_scales(&op, &x, &[f32::INFINITY])).contains("scale"));
    assert!(message(by_scales(&op, &x, &[1.0, 2.0])).contains("2 scales"));
    assert!(message(by_sizes(&op, &x, &[-1])).contains("no size"));
    assert!(message(by_sizes(&op, &x, &[i64::MAX])).contains("too large"));
    assert!(run_opt(&op, &[Some(&x)], 1).is_err());
    let none = t::<f32>(&[0], &[]);
    assert!(message(by_sizes(&op, &none, &[2])).contains("size 0"));
}

#[test]
fn symbols_survive_whole_scales() {
    let x = ty(DType::F32, "n, 3, h, w");
    let none = t::<f32>(&[0], &[]);
    let scales = |s: [f32; 4]| shape(&Resize::default(), &x, &[&none, &t(&[4], &s)]);
    assert_eq!(scales([1., 1., 2., 0.5]), "[n, 3, 2*h, floor((w)/(2))]");
}

#[test]
fn tflite_rounds_as_its_kernels_do() {
    // Expected: LiteRT's reference kernels, ai-edge-litert 2.
    let bytes = [200u8, 100, 7, 10, 255, 3];
    let x = t(&[1, 2, 3, 1], &bytes);
    let ways = [(false, false), (true, false), (false, true)];
    let want = [
        [200u8, 140, 81, 26, 7, 73, 151, 164, 44, 4, 10, 157, 205, 53, 3],
        [200, 150, 100, 54, 7, 105, 141, 178, 91, 5, 10, 133, 255, 129, 3],
        [200, 160, 100, 44, 7, 105, 134, 178, 74, 5, 10, 108, 255, 104, 3],
    ];
    for ((align, half), want) in ways.into_iter().zip(want) {
        let out = by_sizes(&Resize::tflite_bilinear(align, half), &x, &[3, 5]).unwrap();
        assert_eq!(out.slice::<u8>().unwrap(), want);
    }
    let x = t(&[1, 2, 3, 1], &bytes.map(|v| (i16::from(v) - 128) as i8));
    let want = [
        [72i8, 12, -47, -102, -121, -55, 23, 36, -84, -124, -118, 29, 77, -74, -125],
        [72, 22, -28, -75, -121, -23, 13, 50, -37, -123, -118, 5, 127, 1, -125],
        [72, 32, -28, -84, -121, -23, 6, 49, -54, -123, -118, -20, 127, -24, -125],
    ];
    for ((align, half), want) in ways.into_iter().zip(want) {
        let out = by_sizes(&Resize::tflite_bilinear(align, half), &x, &[3, 5]).unwrap();
        assert_eq!(out.slice::<i8>().unwrap(), want);
    }
    let x = t(&[1, 2, 2, 1], &[-128i8, 127, 100, -3]);
    let nearest = Resize::tflite_nearest(false, true);
    let out = by_sizes(&nearest, &x, &[1, 4]).unwrap();
    assert_eq!(out.slice::<i8>().unwrap(), [100, 100, -3, -3]);
    let floats = t(&[1, 1, 2, 1], &[0f32, 1.]);
    let out = by_sizes(&Resize::tflite_bilinear(false, true), &floats, &[1, 4]).unwrap();
    assert_eq!(out.slice::<f32>().unwrap(), [0., 0.25, 0.75, 1.]);
}
