//! The library, as an application uses it.

use kinglet::tasks::Picture;
use kinglet::{Answer, Fault, Model, PlanOptions, Tensor, Vision, VisionOptions};
use kinglet_testing::{golden, model};

#[test]
fn a_model_is_opened_planned_and_run() {
    let Some(path) = model("tiny/ad01_fp32.tflite") else { return };
    let case = &golden("ad01_fp32").unwrap()[0];
    let input = case.inputs[0].to_vec::<f32>().unwrap();
    let model = Model::open(path).unwrap();
    let mut plan = model.plan(PlanOptions { threads: 1, ..PlanOptions::default() }).unwrap();
    plan.set_input(0, &Tensor::from_slice(&[1, 640], &input).unwrap()).unwrap();
    plan.run().unwrap();
    let expected = case.outputs[0].to_vec::<f32>().unwrap();
    let scale = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
    for (found, expected) in plan.output(0).slice::<f32>().unwrap().iter().zip(&expected) {
        assert!((found - expected).abs() <= 1e-5 * scale, "{found} {expected}");
    }
    let wrong = Tensor::from_slice(&[1, 2], &[0f32; 2]).unwrap();
    assert_eq!(plan.set_input(0, &wrong).unwrap_err().fault(), Fault::Input);
    let wide = PlanOptions { shapes: vec![(0, vec![3, 640])], ..PlanOptions::default() };
    assert_eq!(model.plan(wide).unwrap().output(0).dims, [3, 640]);
    let odd = PlanOptions { shapes: vec![(0, vec![1, 641])], ..PlanOptions::default() };
    assert!(model.plan(odd).is_err());
}

#[test]
fn a_picture_is_shown_to_a_model() {
    let Some(path) = model("vision/mobilenet_v1_0.25_128_quant.tflite") else { return };
    let picture = Picture::open(&model("images/parrot.jpg").unwrap()).unwrap();
    let model = Model::open(path).unwrap();
    let mut plan = model.plan(PlanOptions::default()).unwrap();
    let vision = Vision::of(&model, &plan, &VisionOptions::default()).unwrap().unwrap();
    let placement = vision.set_input(&mut plan, &picture).unwrap();
    plan.run().unwrap();
    let answer = vision.answer(&plan, &picture, &placement, 0.0).unwrap();
    assert!(matches!(answer, Answer::Classes(_)));
    assert_eq!(vision.labels().get(answer.top(1, 0.0)[0].index), Some("macaw"));
}
