"""MobileNetV2 1.0 224 in float32 as an ONNX file, with seeded random weights.

The architecture is that of Sandler et al. 2018 (arXiv 1801.04381, table 2): channels first, 1000
classes, batch normalisation folded into the convolutions and ReLU6 written as Clip, the way the
usual exporters write a trained model. Weights are scaled to keep activations in their usual range,
so that no engine meets denormal or infinite numbers.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Expansion, output channels, repeats, first stride.
STAGES = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]


class Builder:
    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes = []
        self.weights = []

    def weight(self, name, values):
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def node(self, op, inputs, name, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def conv(self, x, name, inputs, outputs, kernel=1, stride=1, groups=1, relu6=True):
        fan_in = inputs // groups * kernel * kernel
        shape = (outputs, inputs // groups, kernel, kernel)
        weight = self.random.normal(0, (2 / fan_in) ** 0.5, shape)
        bias = self.random.normal(0.1, 0.1, outputs)
        x = self.node(
            "Conv",
            [x, self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias)],
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=groups,
        )
        return self.node("Clip", [x, "zero", "six"], f"{name}.relu6") if relu6 else x

    def block(self, x, name, inputs, outputs, expansion, stride):
        hidden = inputs * expansion
        y = x
        if expansion != 1:
            y = self.conv(y, f"{name}.expand", inputs, hidden)
        y = self.conv(y, f"{name}.depthwise", hidden, hidden, 3, stride, groups=hidden)
        y = self.conv(y, f"{name}.project", hidden, outputs, relu6=False)
        residual = stride == 1 and inputs == outputs
        return self.node("Add", [x, y], f"{name}.add") if residual else y


def build(seed=2):
    b = Builder(seed)
    b.weight("zero", np.array(0.0))
    b.weight("six", np.array(6.0))
    x = b.conv("input", "stem", 3, 32, 3, 2)
    channels = 32
    for s, (expansion, outputs, repeats, first_stride) in enumerate(STAGES):
        for r in range(repeats):
            stride = first_stride if r == 0 else 1
            x = b.block(x, f"stage{s}.{r}", channels, outputs, expansion, stride)
            channels = outputs
    x = b.conv(x, "head", channels, 1280)
    x = b.node("GlobalAveragePool", [x], "pool")
    x = b.node("Flatten", [x], "flatten")
    weight = b.weight("classifier.weight", b.random.normal(0, 0.03, (1000, 1280)))
    bias = b.weight("classifier.bias", np.zeros(1000))
    b.node("Gemm", [x, weight, bias], "logits", transB=1)
    graph = helper.make_graph(
        b.nodes,
        "mobilenet_v2",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1000])],
        b.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
