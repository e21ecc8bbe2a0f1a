"""ONNX Runtime's CPU provider as it comes."""

import numpy as np
import onnxruntime

from nets import serve


class Engine:
    def __init__(self, model, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0]

    def feed(self, data):
        x = np.frombuffer(data, np.float32).reshape(self.input.shape)
        self.feeds = {self.input.name: x}

    def run(self):
        self.outputs = self.session.run(None, self.feeds)

    def output(self):
        return self.outputs[0].tobytes()


serve(Engine)
