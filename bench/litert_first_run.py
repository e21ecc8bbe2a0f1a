"""Prints the seconds LiteRT takes to load MODEL and run it once: litert_first_run.py MODEL THREADS"""

import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter

model, threads = sys.argv[1], int(sys.argv[2])
began = time.perf_counter()
interpreter = Interpreter(model, num_threads=threads)
interpreter.allocate_tensors()
details = interpreter.get_input_details()[0]
interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
interpreter.invoke()
interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
print(time.perf_counter() - began)
