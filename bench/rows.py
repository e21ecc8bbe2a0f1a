"""The table: what is measured, against whom, and how many times as fast Kinglet is to be."""

from instructions import CPUS, decode, prompt
from language import Beside, Decode, FirstToken, Prompt
from nets import FirstRun, Net, PlannedMemory
from precision import Precision
from training import LanguageTraining, LoraTraining, NetTraining

MOBILENET = "vision/tf2_mobilenet_v2_1.0_224_ptq.tflite"


def vision(name, model):
    return Net(name, f"vision/{model}.tflite", {"litert": 1.3}, "exact")


def tiny(name, model, golden):
    return Net(f"{name}, one thread", f"tiny/{model}.tflite", {"litert": 1.0}, golden, threads=1)


NETS = [
    Net("MobileNetV2 int8", MOBILENET, {"litert": 1.3}, "exact"),
    vision("MobileNetV1 0.75 192 int8", "mobilenet_v1_0.75_192_quant"),
    vision("MobileNetV1 0.25 128 int8", "mobilenet_v1_0.25_128_quant"),
    vision("MoveNet int8", "movenet_single_pose_lightning_ptq"),
    vision("DeepLabV3 int8", "deeplabv3_mnv2_pascal_quant"),
    # The first four are to be met, so the best of them is.
    Net(
        "MobileNetV2 f32",
        "made/mobilenet_v2_f32.onnx",
        {
            "onnxruntime": 1.0,
            "openvino": 1.0,
            "ncnn": 1.0,
            "mnn": 1.0,
            "rten": None,
            "tract": None,
            "candle": None,
        },
        rounds=20,
    ),
    FirstRun("MobileNetV2 int8, load and first run", MOBILENET, {"litert": 1.0}),
    tiny("kws int8", "kws_ref_model", "exact"),
    tiny("vww int8", "vww_96_int8", "exact"),
    tiny("ResNet-8 int8", "pretrainedResnet_quant", "exact"),
    tiny("ad01 int8", "ad01_int8", "exact"),
    tiny("kws f32", "kws_ref_model_float32", "close"),
    tiny("vww f32", "vww_96_float", "close"),
    tiny("ResNet-8 f32", "pretrainedResnet", "close"),
    tiny("ad01 f32", "ad01_fp32", "close"),
]


def llama(goal):
    return {"llama": goal}


LANGUAGE = [
    Prompt("llama-1b", "q4_0", llama(2.0), tokens=512),
    Prompt("llama-1b", "q4_0", llama(2.0), rounds=3, tokens=4096),
    Prompt("olmoe-6l", "q4_0", llama(2.0), tokens=256),
    Prompt("qwen2.5-0.5b", "q4_0", llama(1.5), tokens=512),
    Prompt("smollm-135m", "q4_0", llama(1.5), tokens=512),
    Decode("llama-1b", "q4_0", llama(1.4), share=0.85),
    Decode("llama-1b", "q8_0", llama(1.5), share=0.85),
    Decode("llama-1b", "q4_k", llama(1.4), share=0.85),
    Decode("llama-1b", "tq2_0", llama(2.0)),
    Decode("llama-1b", "q2_k", llama(1.6)),
    Decode("qwen2.5-0.5b", "q4_0", llama(1.5)),
    Decode("smollm-135m", "q4_0", llama(1.5)),
    Decode("olmoe-6l", "q4_0", llama(None), dense=False),
    FirstToken("llama-1b", "q4_0", llama(1.5)),
    # Without a goal: other encodings and shapes.
    *(
        row(model, encoding, llama(None))
        for model, encodings in {
            "llama-1b": ["q8_0", "q4_k", "tq2_0", "q2_k", "f16"],
            "qwen2.5-0.5b": ["q8_0", "q4_k", "f16"],
            "smollm-135m": ["q8_0", "q4_k", "f16"],
        }.items()
        for encoding in encodings
        for row in (Prompt, FirstToken)
    ),
    Decode("llama-1b", "f16", llama(None)),
    # candle takes 25 times as long for a prompt.
    Prompt("llama-1b", "q4_0", {"candle": None}, rounds=3, suffix=", Rust", tokens=128),
    Decode("llama-1b", "q4_0", {"candle": None}, rounds=3, suffix=", Rust", tokens=16),
]

TRAINING = [
    LanguageTraining("Llama 15M, 8 x 256", {"torch": 1.0}, "llama-15m"),
    NetTraining("MobileNetV2 0.35 96, 16 images", {"torch": 1.0}, width=0.35, size=96, batch=16),
    LoraTraining(
        "SmolLM 135M Q4_0, LoRA, 4 x 256",
        {"torch": 2.0},
        "smollm-135m",
        lines=4,
        choices="lora=8",
        peer_choices="lora=8",
    ),
    # Against the peer's full step.
    LanguageTraining(
        "Llama 15M, 8 x 256, last two layers", {"torch": 3.0}, "llama-15m", choices="last=2"
    ),
    NetTraining(
        "MobileNetV2 0.35 96, 16 images, last two blocks and biases",
        {"torch": 3.0},
        width=0.35,
        size=96,
        batch=16,
        choices="stage5.2.*,stage6.*,head.*,classifier.*,*.bias",
    ),
]

BESIDE = [
    Beside("llama-1b", "q4_0", llama(0.7), question="decode 32"),
    Beside("llama-1b", "q4_0", llama(0.7), question="prompt 256"),
]

PRECISION = [
    *(
        Precision(
            "tinystories-260k",
            encoding,
            source="lm/tinystories-260k-f32.gguf",
            text="lm/stories.txt",
            chunks=64,
        )
        for encoding in ("q8_0", "q5_0", "q4_1", "q4_0")
    ),
    *(
        Precision("llama-1b", encoding, source="f16", context=64, chunks=16)
        for encoding in ("q8_0", "q4_k", "q4_0")
    ),
]

INSTRUCTIONS = [
    row("smollm-4l", encoding, cpu)
    for encoding in ("q4_0", "q8_0")
    for row in (prompt, decode)
    for cpu in CPUS
]

ROWS = [*NETS, *LANGUAGE, *TRAINING, *BESIDE, *INSTRUCTIONS, *PRECISION, PlannedMemory()]
