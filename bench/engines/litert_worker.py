"""LiteRT as it comes: XNNPACK where that can run the op."""

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from nets import serve


class Engine:
    def __init__(self, model, threads):
        self.interpreter = Interpreter(model, num_threads=threads)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]

    def feed(self, data):
        x = np.frombuffer(data, self.input["dtype"]).reshape(self.input["shape"])
        self.interpreter.set_tensor(self.input["index"], x)

    def run(self):
        self.interpreter.invoke()

    def output(self):
        details = self.interpreter.get_output_details()[0]
        return self.interpreter.get_tensor(details["index"]).tobytes()


serve(Engine)
