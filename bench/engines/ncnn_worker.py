"""ncnn in 32-bit floats, on ONNX files that pnnx has read."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import ncnn
import numpy as np
import onnx

from nets import serve


class Engine:
    def __init__(self, model, threads):
        self.net = ncnn.Net()
        options = self.net.opt
        options.num_threads = threads
        options.use_fp16_packed = False
        options.use_fp16_storage = False
        options.use_fp16_arithmetic = False
        options.use_bf16_storage = False
        self.net.load_param(str(model) + ".ncnn.param")
        self.net.load_model(str(model) + ".ncnn.bin")

    def feed(self, data):
        x = np.frombuffer(data, np.float32).reshape(SHAPE[1:])
        self.input = ncnn.Mat(x).clone()

    def run(self):
        extractor = self.net.create_extractor()
        extractor.input("in0", self.input)
        failed, self.result = extractor.extract("out0")
        if failed:
            sys.exit(f"ncnn failed to run: {failed}")

    def output(self):
        return np.array(self.result, np.float32).tobytes()


def convert(model):
    """pnnx writes a dozen files beside the model: it gets a folder of its own."""
    folder = Path(model).resolve().with_suffix(".pnnx")
    folder.mkdir(exist_ok=True)
    copy = folder / Path(model).name
    shutil.copy(model, copy)
    # The package's Python module needs PyTorch, its program does not.
    package = Path(importlib.util.find_spec("pnnx").origin).parent
    shape = ",".join(map(str, SHAPE))
    command = [package / "pnnx", copy, f"inputshape=[{shape}]f32", "fp16=0"]
    subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr, cwd=folder)
    return copy.with_suffix("")


def shape_of_input(model):
    dims = onnx.load(model, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    return [dim.dim_value for dim in dims]


SHAPE = shape_of_input(sys.argv[1])
serve(Engine, convert)
