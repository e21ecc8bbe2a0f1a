"""MNN with its high precision, 32-bit floats, on ONNX files that its converter has read."""

import subprocess
import sys
from pathlib import Path

from nets import serve  # before MNN, which prints when it is imported

import MNN
import numpy as np


class Engine:
    def __init__(self, model, threads):
        self.interpreter = MNN.Interpreter(model)
        self.session = self.interpreter.createSession(
            {"backend": "CPU", "numThread": threads, "precision": "high"}
        )
        self.input = self.interpreter.getSessionInput(self.session)

    def feed(self, data):
        shape = self.input.getShape()
        x = np.frombuffer(data, np.float32).reshape(shape)
        host = MNN.Tensor(shape, MNN.Halide_Type_Float, x, MNN.Tensor_DimensionType_Caffe)
        self.input.copyFrom(host)

    def run(self):
        self.interpreter.runSession(self.session)

    def output(self):
        output = self.interpreter.getSessionOutput(self.session)
        shape = output.getShape()
        empty = np.empty(shape, np.float32)
        host = MNN.Tensor(shape, MNN.Halide_Type_Float, empty, MNN.Tensor_DimensionType_Caffe)
        output.copyToHostTensor(host)
        return np.array(host.getNumpyData(), np.float32).tobytes()


def convert(model):
    made = Path(model).with_suffix(".mnn")
    command = [Path(sys.executable).with_name("mnnconvert"), "-f", "ONNX", "--modelFile", model]
    command += ["--MNNModel", made, "--bizCode", "kinglet"]
    subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)
    return str(made)


serve(Engine, convert)
