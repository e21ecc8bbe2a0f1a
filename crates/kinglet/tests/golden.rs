//! Whole TFLite models as plans, on every instruction set of this CPU, against LiteRT's reference
//! kernels: integers exactly, floats within 1e-5 of their scale.

use kinglet::parts::formats;
use kinglet::parts::runtime::{Plan, PlanOptions};
use kinglet_kernels::isa::Isa;
use kinglet_testing::{Array, Type, golden, model};

/// Runs `folder/name.tflite` on its golden cases.
fn check(folder: &str, name: &str) {
    let (Some(path), Some(cases)) = (model(&format!("{folder}/{name}.tflite")), golden(name))
    else {
        return;
    };
    let graph = formats::load(&path).unwrap_or_else(|e| panic!("{e}"));
    for isa in Isa::available() {
        let sizes = cases[0].inputs.iter().map(|input| input.shape.as_slice().into()).collect();
        let options = PlanOptions {
            input_shapes: Some(sizes),
            threads: 2,
            isa: Some(isa),
            ..PlanOptions::default()
        };
        let mut plan = Plan::new(&graph, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        for case in &cases {
            let place = format!("{name}, {}, {}", isa.name(), case.name);
            // Each case was recorded from the initial state.
            plan.reset_state().unwrap_or_else(|e| panic!("{place}: {e}"));
            for (i, input) in case.inputs.iter().enumerate() {
                plan.input_mut(i).copy_from_slice(&input.data);
            }
            plan.run().unwrap_or_else(|e| panic!("{place}: {e}"));
            assert_eq!(plan.outputs().len(), case.outputs.len(), "{place}");
            for (i, want) in case.outputs.iter().enumerate() {
                let got = plan.output(i);
                assert_eq!(got.dims, want.shape, "{place}, output {i}");
                let got = Array { data: got.bytes.to_vec(), ..want.clone() };
                let worst = difference(&got, want);
                let allowed = if want.dtype == Type::F32 { 1e-5 } else { 0.0 };
                assert!(worst <= allowed, "{place}, output {i}: {worst} off, {allowed} allowed");
            }
        }
    }
}

/// The largest difference: of integers in steps, of floats in parts of the largest magnitude.
fn difference(got: &Array, want: &Array) -> f64 {
    let (unit, got, want) = match want.dtype {
        Type::F32 => {
            let floats = want.to_vec::<f32>().unwrap();
            let scale = floats.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
            (f64::from(scale), reals::<f32>(got), reals::<f32>(want))
        }
        Type::U8 => (1.0, reals::<u8>(got), reals::<u8>(want)),
        Type::I8 => (1.0, reals::<i8>(got), reals::<i8>(want)),
        Type::I32 => (1.0, reals::<i32>(got), reals::<i32>(want)),
        Type::I64 => {
            let ints = |a: &Array| -> Vec<f64> {
                a.to_vec::<i64>().unwrap().into_iter().map(|v| v as f64).collect()
            };
            (1.0, ints(got), ints(want))
        }
        other => panic!("no golden outputs of {other:?}"),
    };
    let off = got.iter().zip(&want).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
    // A NaN must not hide: `max` would drop it.
    off.fold(0.0, |worst: f64, x| if x.is_nan() { f64::INFINITY } else { worst.max(x) }) / unit
}

fn reals<T: kinglet_npy::Element + Into<f64>>(array: &Array) -> Vec<f64> {
    array.to_vec::<T>().unwrap().into_iter().map(Into::into).collect()
}

kinglet_testing::golden_models!(check);
