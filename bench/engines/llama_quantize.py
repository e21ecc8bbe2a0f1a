"""Writes a GGUF file with its weights in another encoding: llama_quantize.py IN OUT ENCODING"""

import sys

import llama_cpp

source, made, encoding = sys.argv[1:]
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{encoding.upper()}")
parameters.allow_requantize = True
if llama_cpp.llama_model_quantize(source.encode(), made.encode(), parameters):
    sys.exit(f"llama.cpp can't make {encoding} of {source}")
