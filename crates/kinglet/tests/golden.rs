//! Whole TFLite models as plans, on every instruction set of this CPU, against LiteRT's reference
//! kernels: integers exactly (softmax and logistic at most one step off), floats within 1e-5 of
//! their scale.

use kinglet::parts::formats;
use kinglet::parts::runtime::{Plan, PlanOptions};
use kinglet_kernels::isa::Isa;
use kinglet_testing::{Array, Type, golden, model};

/// Runs `folder/name.tflite` on its golden cases. Integers may be `steps` off, floats `part` of
/// the largest expected magnitude.
fn check(folder: &str, name: &str, steps: f64, part: f64) {
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
                let allowed = if want.dtype == Type::F32 { part } else { steps };
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

macro_rules! models {
    ($($test:ident $folder:literal $name:literal $steps:literal $part:literal;)*) => {$(
        #[test]
        fn $test() {
            check($folder, $name, $steps, $part);
        }
    )*};
}

models! {
    ad01_float "tiny" "ad01_fp32" 0.0 1e-5;
    ad01_int8 "tiny" "ad01_int8" 0.0 0.0;
    deeplab_v3_uint8 "vision" "deeplabv3_mnv2_pascal_quant" 0.0 0.0;
    hello_world_float "tiny" "hello_world_float" 0.0 1e-5;
    hello_world_int8 "tiny" "hello_world_int8" 0.0 0.0;
    lstm_mnist_int8 "vision" "keras_lstm_mnist_ptq" 0.0 0.0;
    keyword_svdf_int8 "tiny" "keyword_scrambled" 0.0 0.0;
    kws_int8 "tiny" "kws_ref_model" 0.0 0.0;
    kws_float_hybrid "tiny" "kws_ref_model_float32" 0.0 1e-5;
    micro_speech_int8 "tiny" "micro_speech_quantized" 0.0 0.0;
    mobilenet_v1_025_uint8 "vision" "mobilenet_v1_0.25_128_quant" 0.0 0.0;
    mobilenet_v1_075_uint8 "vision" "mobilenet_v1_0.75_192_quant" 0.0 0.0;
    mobilenet_v2_bird_uint8 "vision" "mobilenet_v2_1.0_224_inat_bird_quant" 0.0 0.0;
    mobilenet_v2_uint8 "vision" "mobilenet_v2_1.0_224_quant" 0.0 0.0;
    movenet_int8 "vision" "movenet_single_pose_lightning_ptq" 0.0 1e-5;
    resnet_float "tiny" "pretrainedResnet" 0.0 1e-5;
    resnet_int8 "tiny" "pretrainedResnet_quant" 0.0 0.0;
    wake_word_int8 "tiny" "str_ww_ref_model" 0.0 0.0;
    mobilenet_v2_int8 "vision" "tf2_mobilenet_v2_1.0_224_ptq" 0.0 0.0;
    person_float "tiny" "vww_96_float" 0.0 1e-5;
    person_int8 "tiny" "vww_96_int8" 0.0 0.0;
}
