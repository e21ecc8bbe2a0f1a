"""OpenVINO held to 32-bit floats, which it otherwise rounds to bfloat16 where the CPU has that."""

import numpy as np
import openvino

from nets import serve


class Engine:
    def __init__(self, model, threads):
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        self.shape = list(compiled.input(0).shape)
        self.request = compiled.create_infer_request()

    def feed(self, data):
        x = np.frombuffer(data, np.float32).reshape(self.shape)
        self.request.get_input_tensor(0).data[:] = x

    def run(self):
        self.request.infer()

    def output(self):
        return self.request.get_output_tensor(0).data.tobytes()


serve(Engine)
