"""MobileNetV2 in float32 as an ONNX file, with seeded random weights.

The architecture is that of Sandler et al. 2018 (arXiv 1801.04381, table 2): channels first, 1000
classes, batch normalisation folded into the convolutions and ReLU6 written as Clip, the way the
usual exporters write a trained model. Weights are scaled to keep activations in their usual range,
so that no engine meets denormal or infinite numbers. One that is to be trained has its batch
normalisation, by the batch, and no biases before it.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.mobilenet_v2_stages import STAGES, channels

class Builder:
    def __init__(self, seed, trains):
        self.random = np.random.default_rng(seed)
        self.trains = trains
        self.nodes = []
        self.weights = []

    def weight(self, name, values):
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def node(self, op, inputs, name, more=(), **attributes):
        self.nodes.append(helper.make_node(op, inputs, [name, *more], name=name, **attributes))
        return name

    def conv(self, x, name, inputs, outputs, kernel=1, stride=1, groups=1, relu6=True):
        fan_in = inputs // groups * kernel * kernel
        shape = (outputs, inputs // groups, kernel, kernel)
        weight = self.random.normal(0, (2 / fan_in) ** 0.5, shape)
        bias = self.random.normal(0.1, 0.1, outputs)
        operands = [x, self.weight(f"{name}.weight", weight)]
        if not self.trains:
            operands.append(self.weight(f"{name}.bias", bias))
        x = self.node(
            "Conv",
            operands,
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=groups,
        )
        x = self.norm(x, outputs) if self.trains else x
        return self.node("Clip", [x, "zero", "six"], f"{name}.relu6") if relu6 else x

    def norm(self, x, width):
        parts = {"scale": np.ones, "bias": np.zeros, "mean": np.zeros, "variance": np.ones}
        operands = [self.weight(f"{x}.{part}", of(width)) for part, of in parts.items()]
        more = [f"{x}.new_mean", f"{x}.new_variance"]
        return self.node("BatchNormalization", [x, *operands], f"{x}.norm", more, training_mode=1)

    def block(self, x, name, inputs, outputs, expansion, stride):
        hidden = inputs * expansion
        y = x
        if expansion != 1:
            y = self.conv(y, f"{name}.expand", inputs, hidden)
        y = self.conv(y, f"{name}.depthwise", hidden, hidden, 3, stride, groups=hidden)
        y = self.conv(y, f"{name}.project", hidden, outputs, relu6=False)
        residual = stride == 1 and inputs == outputs
        return self.node("Add", [x, y], f"{name}.add") if residual else y


def build(seed=2, width=1.0, size=224, batch=1, trains=False):
    b = Builder(seed, trains)
    b.weight("zero", np.array(0.0))
    b.weight("six", np.array(6.0))
    count = channels(32, width)
    x = b.conv("input", "stem", 3, count, 3, 2)
    for s, (expansion, outputs, repeats, first_stride) in enumerate(STAGES):
        for r in range(repeats):
            stride = first_stride if r == 0 else 1
            x = b.block(x, f"stage{s}.{r}", count, channels(outputs, width), expansion, stride)
            count = channels(outputs, width)
    x = b.conv(x, "head", count, 1280)
    x = b.node("GlobalAveragePool", [x], "pool")
    x = b.node("Flatten", [x], "flatten")
    weight = b.weight("classifier.weight", b.random.normal(0, 0.03, (1000, 1280)))
    bias = b.weight("classifier.bias", np.zeros(1000))
    b.node("Gemm", [x, weight, bias], "logits", transB=1)
    graph = helper.make_graph(
        b.nodes,
        "mobilenet_v2",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 1000])],
        b.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
