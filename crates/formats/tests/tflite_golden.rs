//! Whole TFLite models, run by the graph's reference interpreter, against LiteRT's reference
//! kernels: integer models exactly, softmax and logistic at most one step off, float models within
//! 1e-5 of their scale (recurrent ones 1e-4).

use kinglet_formats::tflite;
use kinglet_graph::{Fold, Graph, Interpreter, Tensor, infer};
use kinglet_testing::{golden, model};

mod compare;
use compare::{difference, tensor};

fn load(file: &str) -> Option<Graph> {
    let path = model(file)?;
    let mut graph = tflite::load(&path).unwrap_or_else(|e| panic!("{e}"));
    infer(&mut graph, Fold::Shapes).unwrap_or_else(|e| panic!("{file}: {e}"));
    graph.verify().unwrap_or_else(|e| panic!("{file}: {e}"));
    Some(graph)
}

/// Runs `folder/name.tflite` on its golden cases. Integers may be `steps` off, floats `part` of
/// the largest expected magnitude.
fn check(folder: &str, name: &str, steps: f64, part: f64) {
    let (Some(graph), Some(cases)) = (load(&format!("{folder}/{name}.tflite")), golden(name))
    else {
        return;
    };
    for case in cases {
        // Each case was recorded from the initial state.
        let mut interpreter = Interpreter::new(&graph).unwrap();
        let inputs: Vec<Tensor> = case.inputs.iter().map(tensor).collect();
        let outputs = interpreter.run(&graph, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(outputs.len(), case.outputs.len(), "{name}");
        for (i, (got, want)) in outputs.iter().zip(&case.outputs).enumerate() {
            difference(got, want, steps, part)
                .unwrap_or_else(|e| panic!("{name}, {}, output {i}: {e}", case.name));
        }
    }
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
    lstm_mnist_int8 "vision" "keras_lstm_mnist_ptq" 1.0 0.0;
    keyword_svdf_int8 "tiny" "keyword_scrambled" 1.0 0.0;
    kws_int8 "tiny" "kws_ref_model" 1.0 0.0;
    kws_float_hybrid "tiny" "kws_ref_model_float32" 0.0 1e-5;
    micro_speech_int8 "tiny" "micro_speech_quantized" 1.0 0.0;
    mobilenet_v1_025_uint8 "vision" "mobilenet_v1_0.25_128_quant" 1.0 0.0;
    mobilenet_v1_075_uint8 "vision" "mobilenet_v1_0.75_192_quant" 1.0 0.0;
    mobilenet_v2_bird_uint8 "vision" "mobilenet_v2_1.0_224_inat_bird_quant" 1.0 0.0;
    mobilenet_v2_uint8 "vision" "mobilenet_v2_1.0_224_quant" 1.0 0.0;
    movenet_int8 "vision" "movenet_single_pose_lightning_ptq" 1.0 1e-5;
    resnet_float "tiny" "pretrainedResnet" 0.0 1e-5;
    resnet_int8 "tiny" "pretrainedResnet_quant" 1.0 0.0;
    wake_word_int8 "tiny" "str_ww_ref_model" 1.0 0.0;
    mobilenet_v2_int8 "vision" "tf2_mobilenet_v2_1.0_224_ptq" 1.0 0.0;
    person_float "tiny" "vww_96_float" 0.0 1e-5;
    person_int8 "tiny" "vww_96_int8" 1.0 0.0;
}
