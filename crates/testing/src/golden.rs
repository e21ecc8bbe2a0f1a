//! The trained models whose outputs the reference kernels of LiteRT recorded.

use crate::{Array, model, npz};

/// Inputs given to a model, and what the reference kernels made of them.
#[derive(Debug, Clone)]
pub struct Case {
    /// Where the inputs come from: a picture's file name or `random0`.
    pub name: String,
    /// The model's inputs, in its order.
    pub inputs: Vec<Array>,
    /// The expected outputs, in the model's order.
    pub outputs: Vec<Array>,
}

/// The cases of `golden/NAME.npz`, where NAME is a TFLite model's name without its extension.
///
/// # Panics
/// If the folder is there and the file is missing or damaged.
pub fn golden(name: &str) -> Option<Vec<Case>> {
    let path = model(&format!("golden/{name}.npz"))?;
    let mut cases: Vec<Case> = Vec::new();
    for (key, array) in npz(&path) {
        let (case, part) = key.split_once('.').expect("a key is CASE.PART");
        let case: usize = case.parse().expect("a case is a number");
        while cases.len() <= case {
            cases.push(Case { name: String::new(), inputs: Vec::new(), outputs: Vec::new() });
        }
        let case = &mut cases[case];
        let (list, number) = match part {
            "name" => {
                case.name = array.text().expect("a name is text");
                continue;
            }
            _ if part.starts_with("in") => (&mut case.inputs, &part[2..]),
            _ => (&mut case.outputs, part.strip_prefix("out").expect("in, out or name")),
        };
        assert_eq!(number.parse(), Ok(list.len()), "{name}: {key} is out of order");
        list.push(array);
    }
    assert!(!cases.is_empty(), "{name}: no cases");
    Some(cases)
}

/// Makes a test of each golden model, which calls `$check(folder, name)`: the model is
/// `folder/name.tflite`.
#[macro_export]
macro_rules! golden_models {
    ($check:path) => {
        $crate::golden_models! { $check:
            ad01_float "tiny" "ad01_fp32",
            ad01_int8 "tiny" "ad01_int8",
            deeplab_v3_uint8 "vision" "deeplabv3_mnv2_pascal_quant",
            hello_world_float "tiny" "hello_world_float",
            hello_world_int8 "tiny" "hello_world_int8",
            lstm_mnist_int8 "vision" "keras_lstm_mnist_ptq",
            keyword_svdf_int8 "tiny" "keyword_scrambled",
            kws_int8 "tiny" "kws_ref_model",
            kws_float_hybrid "tiny" "kws_ref_model_float32",
            micro_speech_int8 "tiny" "micro_speech_quantized",
            mobilenet_v1_025_uint8 "vision" "mobilenet_v1_0.25_128_quant",
            mobilenet_v1_075_uint8 "vision" "mobilenet_v1_0.75_192_quant",
            mobilenet_v2_bird_uint8 "vision" "mobilenet_v2_1.0_224_inat_bird_quant",
            mobilenet_v2_uint8 "vision" "mobilenet_v2_1.0_224_quant",
            movenet_int8 "vision" "movenet_single_pose_lightning_ptq",
            resnet_float "tiny" "pretrainedResnet",
            resnet_int8 "tiny" "pretrainedResnet_quant",
            wake_word_int8 "tiny" "str_ww_ref_model",
            mobilenet_v2_int8 "vision" "tf2_mobilenet_v2_1.0_224_ptq",
            person_float "tiny" "vww_96_float",
            person_int8 "tiny" "vww_96_int8",
        }
    };
    ($check:path: $($test:ident $folder:literal $name:literal,)*) => {$(
        #[test]
        fn $test() {
            $check($folder, $name);
        }
    )*};
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Type;

    #[test]
    fn goldens_are_read() {
        let Some(cases) = golden("deeplabv3_mnv2_pascal_quant") else {
            return;
        };
        assert_eq!(cases[0].name, "bird.bmp");
        assert_eq!(cases[0].inputs[0].shape, [1, 513, 513, 3]);
        assert_eq!(cases[0].outputs[0].dtype, Type::I64);
        assert_eq!(cases[0].outputs[0].to_vec::<i64>().unwrap().len(), 513 * 513);
    }
}
