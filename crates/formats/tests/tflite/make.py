#!/usr/bin/env python3
"""Makes ops.npz: TFLite models of one op (or few), inputs, and what LiteRT's reference kernels
make of them. Run by hand when a case is added; the tests read the result only.

    pip install numpy ai-edge-litert flatbuffers && python3 make.py

Each case NAME holds `NAME.model` (the file's bytes) and for each run K `NAME/K.inI`, `NAME/K.outI`.
Runs follow each other on one interpreter, so state is kept between them.
"""
import hashlib
import io
import sys
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as S
from ai_edge_litert.interpreter import Interpreter, OpResolverType

TYPES = {
    "f32": (S.TensorType.FLOAT32, np.float32), "f16": (S.TensorType.FLOAT16, np.float16),
    "i32": (S.TensorType.INT32, np.int32), "u8": (S.TensorType.UINT8, np.uint8),
    "i64": (S.TensorType.INT64, np.int64), "bool": (S.TensorType.BOOL, np.bool_),
    "i16": (S.TensorType.INT16, np.int16), "i8": (S.TensorType.INT8, np.int8),
    "u32": (S.TensorType.UINT32, np.uint32), "i4": (S.TensorType.INT4, np.int8),
    "resource": (S.TensorType.RESOURCE, np.int32), "u16": (S.TensorType.UINT16, np.uint16),
    "f64": (S.TensorType.FLOAT64, np.float64),
}
CASES = {}


class T:
    """A tensor: type, shape, and how it is filled (`data`: constant; else an input by `low..high`)."""

    def __init__(self, dtype, shape, q=None, data=None, low=None, high=None, axis=0, variable=False,
                 signature=None):
        self.dtype, self.shape, self.q, self.data = dtype, list(shape), q, data
        self.low, self.high, self.axis, self.variable = low, high, axis, variable
        self.signature = signature


def const(dtype, values, q=None, axis=0):
    values = np.asarray(values, TYPES[dtype][1])
    return T(dtype, values.shape, q, values, axis=axis)


def i32(values):
    return const("i32", values)


def rnd(rng, dtype, shape, low=None, high=None):
    code, np_type = TYPES[dtype]
    if dtype in ("f32", "f16", "f64"):
        return rng.uniform(-2 if low is None else low, 2 if high is None else high, shape).astype(np_type)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(np_type)
    if dtype == "i4":
        return rng.integers(-7, 8, shape).astype(np_type)
    info = np.iinfo(np_type)
    if low is None:
        low, high = (-20, 20) if dtype in ("i32", "i64") else (info.min, info.max)
        low = max(low, info.min)
    return rng.integers(low, high + 1, shape).astype(np_type)


def weights(name, dtype, shape, q=None, axis=0, low=None, high=None):
    rng = np.random.default_rng(seed(name))
    if dtype == "i8" and low is None:
        low, high = -127, 127
    return T(dtype, shape, q, rnd(rng, dtype, shape, low, high), axis=axis)


def seed(name):
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


class Model:
    """Builds a file of one or more subgraphs."""

    def __init__(self):
        self.m = S.ModelT()
        self.m.version = 3
        self.m.description = "kinglet test"
        self.m.operatorCodes, self.m.subgraphs = [], []
        self.m.buffers = [S.BufferT()]

    def subgraph(self, nodes, inputs, outputs):
        """nodes: (op, inputs, outputs, options, custom options)."""
        g = S.SubGraphT()
        g.name, g.tensors, g.operators = "main", [], []
        index = {}

        def tensor(t):
            if t is None:
                return -1
            if id(t) in index:
                return index[id(t)]
            x = S.TensorT()
            x.name = f"t{len(g.tensors)}"
            x.shape, x.type, x.isVariable, x.hasRank = t.shape, TYPES[t.dtype][0], t.variable, True
            x.shapeSignature = t.signature
            if t.q is not None:
                x.quantization = S.QuantizationParametersT()
                scale, zero = t.q
                x.quantization.scale = [float(np.float32(s)) for s in np.atleast_1d(scale)]
                x.quantization.zeroPoint = [int(z) for z in np.broadcast_to(zero, np.shape(np.atleast_1d(scale)))]
                x.quantization.quantizedDimension = t.axis
            if t.data is not None:
                b = S.BufferT()
                raw = t.data
                if t.dtype == "i4":
                    flat = np.concatenate([raw.ravel(), np.zeros(raw.size % 2, np.int8)]).view(np.uint8) & 15
                    raw = flat[0::2] | (flat[1::2] << 4)
                b.data = np.frombuffer(np.ascontiguousarray(raw).tobytes(), np.uint8)
                self.m.buffers.append(b)
                x.buffer = len(self.m.buffers) - 1
            g.tensors.append(x)
            index[id(t)] = len(g.tensors) - 1
            return index[id(t)]

        g.inputs = [tensor(t) for t in inputs]
        for node in nodes:
            op, ins, outs, options = node[:4]
            o = S.OperatorT()
            code = S.OperatorCodeT()
            if op.startswith("TFLite_"):
                code.builtinCode, code.customCode = S.BuiltinOperator.CUSTOM, op
            else:
                code.builtinCode = getattr(S.BuiltinOperator, op)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = node[5] if len(node) > 5 else 1
            self.m.operatorCodes.append(code)
            o.opcodeIndex = len(self.m.operatorCodes) - 1
            o.inputs = [tensor(t) for t in ins]
            o.outputs = [tensor(t) for t in outs]
            if options is not None:
                kind, fields = options
                o.builtinOptionsType = getattr(S.BuiltinOptions, kind)
                o.builtinOptions = getattr(S, kind + "T")()
                for field, value in fields.items():
                    assert hasattr(o.builtinOptions, field), (kind, field)
                    setattr(o.builtinOptions, field, value)
            if len(node) > 4 and node[4] is not None:
                if isinstance(node[4], dict):
                    from flatbuffers import flexbuffers
                    o.customOptions = np.frombuffer(bytes(flexbuffers.Dumps(node[4])), np.uint8)
                else:
                    o.intermediates = [tensor(t) for t in node[4]]
            g.operators.append(o)
        g.outputs = [tensor(t) for t in outputs]
        self.m.subgraphs.append(g)

    def bytes(self):
        b = flatbuffers.Builder(1024)
        b.Finish(self.m.Pack(b), b"TFL3")
        return bytes(b.Output())


def record(name, model, feeds, resize=None, optimised=False):
    """Runs the file on each of `feeds` and records the outputs of the reference kernels, or, where
    these are wrong, of the optimised ones."""
    data = model.bytes()
    try:
        # A few operators have no reference registration; their one kernel is as good.
        kinds = OpResolverType.BUILTIN_REF, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        for kind in kinds[optimised:]:
            try:
                it = Interpreter(model_content=data, experimental_op_resolver_type=kind)
                break
            except ValueError:
                if kind == kinds[-1]:
                    raise
        details = it.get_input_details()
        if resize:
            for d, shape in zip(details, resize):
                it.resize_tensor_input(d["index"], shape)
        it.allocate_tensors()
        arrays = {f"{name}.model": np.frombuffer(data, np.uint8)}
        for k, feed in enumerate(feeds):
            for i, (d, x) in enumerate(zip(details, feed)):
                it.set_tensor(d["index"], x)
                arrays[f"{name}/{k}.in{i}"] = x
            it.invoke()
            for i, d in enumerate(it.get_output_details()):
                arrays[f"{name}/{k}.out{i}"] = it.get_tensor(d["index"])
    except (RuntimeError, ValueError) as e:
        print(f"FAILED {name}: {str(e)[:300]}", file=sys.stderr)
        return
    assert name not in CASES, name
    CASES[name] = arrays


def op(name, kind, ins, outs, options=None, runs=1, custom=None, version=1, feeds=None, resize=None,
       optimised=False):
    """A case of one op whose non-constant inputs are random."""
    model = Model()
    inputs = [t for t in ins if t is not None and t.data is None and not t.variable]
    model.subgraph([(kind, ins, outs, options, custom, version)], inputs, outs)
    if feeds is None:
        rng = np.random.default_rng(seed(name))
        shapes = resize or [t.shape for t in inputs]
        feeds = [[rnd(rng, t.dtype, s, t.low, t.high) for t, s in zip(inputs, shapes)] for _ in range(runs)]
    record(name, model, feeds, resize, optimised)


def main():
    import cases  # noqa: F401  (fills CASES)
    out = Path(__file__).parent / "ops.npz"
    everything = {k: v for case in CASES.values() for k, v in case.items()}
    # An archive in an archive: many small members squeeze better together.
    inner = io.BytesIO()
    np.savez(inner, **everything)
    np.savez_compressed(out, cases=np.frombuffer(inner.getvalue(), np.uint8))
    print(f"{len(CASES)} cases, {out.stat().st_size} bytes")


if __name__ == "__main__":
    sys.modules["make"] = sys.modules["__main__"]
    main()
