"""The cases of make.py: each operator with the element types it takes."""
import numpy as np
from make import T, Model, const, i32, op, record, rnd, seed, weights

Q8 = {"i8": [(0.05, -3), (0.031, 12), (0.11, 5)], "u8": [(0.05, 131), (0.031, 120), (0.11, 99)],
      "i16": [(0.0011, 0), (0.0007, 0), (0.0017, 0)]}


def act(code):
    return {"fusedActivationFunction": code}


# Arithmetic.
SHAPES = [("same", (2, 3, 4), (2, 3, 4)), ("wide", (2, 3, 4), (3, 1))]
for kind, options in [("ADD", "AddOptions"), ("SUB", "SubOptions"), ("MUL", "MulOptions"),
                      ("DIV", "DivOptions")]:
    for label, a, b in SHAPES:
        for fused in (0, 1):
            name = f"{kind.lower()}_f32_{label}_{fused}"
            op(name, kind, [T("f32", a), T("f32", b, low=0.5, high=2)], [T("f32", a)], (options, act(fused)))
    op(f"{kind.lower()}_i32", kind, [T("i32", (2, 5)), T("i32", (2, 5), low=1, high=9)], [T("i32", (2, 5))],
       (options, act(0)))
for kind, options in [("ADD", "AddOptions"), ("SUB", "SubOptions"), ("MUL", "MulOptions")]:
    for dtype in ("i8", "u8", "i16"):
        q = Q8[dtype]
        for label, a, b in SHAPES:
            for fused in (0, 1, 3):
                fields = act(fused)
                if kind != "MUL":
                    fields = {**fields, "potScaleInt16": False}
                op(f"{kind.lower()}_{dtype}_{label}_{fused}", kind, [T(dtype, a, q[0]), T(dtype, b, q[1])],
                   [T(dtype, a, q[2])], (options, fields), runs=2)
for kind, options in [("ADD", "AddOptions"), ("SUB", "SubOptions")]:
    op(f"{kind.lower()}_i16_pot", kind, [T("i16", (40,), (2**-12, 0)), T("i16", (40,), (2**-11, 0))],
       [T("i16", (40,), (2**-11, 0))], (options, {"fusedActivationFunction": 0, "potScaleInt16": True}))
op("div_u8", "DIV", [T("u8", (60,), (0.02, 3)), T("u8", (60,), (0.05, 10), low=11, high=255)],
   [T("u8", (60,), (0.01, 7))], ("DivOptions", act(0)))
for dtype in ("f32", "i32", "i8"):
    q = Q8.get(dtype, [None] * 3)
    op(f"squared_difference_{dtype}", "SQUARED_DIFFERENCE", [T(dtype, (3, 9), q[0]), T(dtype, (9,), q[1])],
       [T(dtype, (3, 9), q[2])])
for kind in ("MAXIMUM", "MINIMUM"):
    for dtype in ("f32", "i32", "i8", "u8"):
        q = Q8[dtype][0] if dtype in Q8 else None
        op(f"{kind.lower()}_{dtype}", kind, [T(dtype, (3, 4), q), T(dtype, (4,), q)], [T(dtype, (3, 4), q)])
for kind in ("FLOOR_DIV", "FLOOR_MOD"):
    for dtype in ("f32", "i32"):
        op(f"{kind.lower()}_{dtype}", kind, [T(dtype, (40,)), T(dtype, (40,), low=1, high=7)], [T(dtype, (40,))])
op("pow_f32", "POW", [T("f32", (20,), low=0.1, high=3), T("f32", (20,))], [T("f32", (20,))])
op("pow_i32", "POW", [T("i32", (20,), low=-4, high=4), T("i32", (20,), low=0, high=5)], [T("i32", (20,))])
op("add_n", "ADD_N", [T("f32", (2, 3)) for _ in range(3)], [T("f32", (2, 3))])
op("atan2", "ATAN2", [T("f32", (9,)), T("f32", (9,))], [T("f32", (9,))])

# Functions of one element.
for kind in ("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "ELU", "HARD_SWISH", "ABS", "NEG", "EXP", "SIN",
             "COS", "SQUARE", "FLOOR", "CEIL", "ROUND", "SIGN", "RELU_0_TO_1"):
    op(f"{kind.lower()}_f32", kind, [T("f32", (2, 20), low=-5, high=8)], [T("f32", (2, 20))])
for kind in ("LOG", "SQRT", "RSQRT"):
    op(f"{kind.lower()}_f32", kind, [T("f32", (2, 20), low=0.1, high=9)], [T("f32", (2, 20))])
op("leaky_relu_f32", "LEAKY_RELU", [T("f32", (20,))], [T("f32", (20,))], ("LeakyReluOptions", {"alpha": 0.2}))
op("prelu_f32", "PRELU", [T("f32", (2, 3, 4)), T("f32", (1, 1, 4))], [T("f32", (2, 3, 4))])
for tanh in (False, True):
    op(f"gelu_{tanh}_f32", "GELU", [T("f32", (40,), low=-4, high=4)], [T("f32", (40,))],
       ("GeluOptions", {"approximate": tanh}))
ALL8 = {"i8": np.arange(-128, 128, dtype=np.int8), "u8": np.arange(256).astype(np.uint8),
        "i16": np.arange(-32768, 32768, 97).astype(np.int16)}
OUT = {"LOGISTIC": {"i8": (1 / 256, -128), "u8": (1 / 256, 0), "i16": (1 / 32768, 0)},
       "TANH": {"i8": (1 / 128, 0), "u8": (1 / 128, 128), "i16": (1 / 32768, 0)}}
IN = {"i8": (0.043, -9), "u8": (0.043, 117), "i16": (0.00021, 0)}


def table(name, kind, dtype, qin, qout, options=None):
    x = ALL8[dtype]
    op(name, kind, [T(dtype, x.shape, qin)], [T(dtype, x.shape, qout)], options, feeds=[[x]])


for dtype in ("i8", "u8", "i16"):
    for kind in ("LOGISTIC", "TANH"):
        table(f"{kind.lower()}_{dtype}", kind, dtype, IN[dtype], OUT[kind][dtype])
    for kind in ("RELU", "RELU6", "RELU_N1_TO_1")[: 2 if dtype == "i16" else 3]:
        table(f"{kind.lower()}_{dtype}", kind, dtype, IN[dtype], Q8[dtype][1])
    table(f"leaky_relu_{dtype}", "LEAKY_RELU", dtype, IN[dtype], Q8[dtype][1], ("LeakyReluOptions", {"alpha": 0.21}))
table("tanh_i16_pot", "TANH", "i16", (2**-12, 0), (2**-15, 0))
table("logistic_i16_pot", "LOGISTIC", "i16", (2**-12, 0), (2**-15, 0))
for dtype in ("i8", "u8"):
    table(f"hard_swish_{dtype}", "HARD_SWISH", dtype, IN[dtype], Q8[dtype][1])
    table(f"hard_swish_wide_{dtype}", "HARD_SWISH", dtype, (0.2, IN[dtype][1]), (0.3, Q8[dtype][1][1]))
    for tanh in (False, True):
        table(f"gelu_{tanh}_{dtype}", "GELU", dtype, IN[dtype], Q8[dtype][1], ("GeluOptions", {"approximate": tanh}))
table("elu_i8", "ELU", "i8", IN["i8"], Q8["i8"][1])
table("exp_i8", "EXP", "i8", (0.02, -9), (0.06, -128))
table("exp_i16", "EXP", "i16", (0.0001, 0), (0.001, 0))
table("abs_i8", "ABS", "i8", IN["i8"], (0.05, -128))
table("abs_i16", "ABS", "i16", IN["i16"], (0.0003, 0))
table("log_i8", "LOG", "i8", (0.043, -128), (0.03, 4))
table("rsqrt_i8", "RSQRT", "i8", (0.043, -128), (0.02, -128))
for dtype in ("i8", "u8"):
    op(f"prelu_{dtype}", "PRELU", [T(dtype, (4, 6), Q8[dtype][0]), weights("prelu" + dtype, dtype, (1, 6), (0.01, Q8[dtype][1][1]))],
       [T(dtype, (4, 6), Q8[dtype][2])])

# Comparisons, logic, choice.
for kind in ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"):
    op(f"{kind.lower()}_i32", kind, [T("i32", (30,), low=-2, high=2), T("i32", (30,), low=-2, high=2)], [T("bool", (30,))])
    op(f"{kind.lower()}_f32", kind, [T("f32", (3, 4)), T("f32", (4,))], [T("bool", (3, 4))])
    for dtype in ("i8", "u8"):
        op(f"{kind.lower()}_{dtype}", kind, [T(dtype, (300,), (0.5, 1)), T(dtype, (300,), (0.25, 3))], [T("bool", (300,))])
for kind in ("LOGICAL_AND", "LOGICAL_OR"):
    op(kind.lower(), kind, [T("bool", (9,)), T("bool", (9,))], [T("bool", (9,))])
op("logical_not", "LOGICAL_NOT", [T("bool", (9,))], [T("bool", (9,))])
op("bitwise_xor", "BITWISE_XOR", [T("i32", (9,)), T("i32", (9,))], [T("i32", (9,))])
op("right_shift", "RIGHT_SHIFT", [T("i32", (9,)), T("i32", (9,), low=0, high=4)], [T("i32", (9,))])
for dtype in ("f32", "i32", "i8"):
    q = Q8[dtype][0] if dtype in Q8 else None
    op(f"select_{dtype}", "SELECT", [T("bool", (3, 4)), T(dtype, (3, 4), q), T(dtype, (3, 4), q)], [T(dtype, (3, 4), q)])
    op(f"select_rows_{dtype}", "SELECT", [T("bool", (3,)), T(dtype, (3, 4), q), T(dtype, (3, 4), q)], [T(dtype, (3, 4), q)])
    op(f"select_v2_{dtype}", "SELECT_V2", [T("bool", (3, 1)), T(dtype, (3, 4), q), T(dtype, (4,), q)], [T(dtype, (3, 4), q)])
op("where", "WHERE", [T("bool", (3, 4))], [T("i64", (1, 2))])

# Conversions.
for a, b in [("f32", "i32"), ("i32", "f32"), ("f32", "u8"), ("u8", "f32"), ("i64", "i32"), ("i32", "i64"),
             ("bool", "f32"), ("f32", "bool"), ("i8", "f32"), ("i16", "i32"), ("f32", "f16"), ("f16", "f32")]:
    low, high = (0, 100) if b == "u8" else (None, None)
    op(f"cast_{a}_{b}", "CAST", [T(a, (20,), low=low, high=high)], [T(b, (20,))], ("CastOptions", {}))
for dtype, q in [("i8", (0.05, -3)), ("u8", (0.05, 131)), ("i16", (0.001, 0))]:
    op(f"quantize_f32_{dtype}", "QUANTIZE", [T("f32", (60,), low=-9, high=9)], [T(dtype, (60,), q)])
    op(f"dequantize_{dtype}", "DEQUANTIZE", [T(dtype, (60,), q)], [T("f32", (60,))])
op("dequantize_f16", "DEQUANTIZE", [const("f16", np.linspace(-3, 3, 12))], [T("f32", (12,))])
REQ = {"i8": (0.05, -3), "u8": (0.031, 120), "i16": (0.0011, 0), "i32": (0.00031, 0)}
for a, b in [("i8", "i8"), ("i8", "u8"), ("u8", "i8"), ("u8", "u8"), ("i16", "i8"), ("i8", "i16"), ("i16", "i16"),
             ("i16", "i32"), ("i32", "i16"), ("i32", "i8")]:
    q = REQ[b] if a != b else (REQ[b][0] * 0.7, REQ[b][1] + (4 if b != "i16" else 0))
    low, high = (-9000, 9000) if a == "i32" else (None, None)
    op(f"requantize_{a}_{b}", "QUANTIZE", [T(a, (250,), REQ[a], low=low, high=high)], [T(b, (250,), q)])
op("requantize_same_u8_i8", "QUANTIZE", [T("u8", (250,), (0.05, 128))], [T("i8", (250,), (0.05, 0))])
for bits, narrow in [(8, False), (4, False)]:
    op(f"fake_quant_{bits}_{narrow}", "FAKE_QUANT", [T("f32", (60,), low=-3, high=3)], [T("f32", (60,))],
       ("FakeQuantOptions", {"min": -1.3, "max": 2.1, "numBits": bits, "narrowRange": narrow}))

# Softmax and normalisation.
op("softmax_f32", "SOFTMAX", [T("f32", (3, 7))], [T("f32", (3, 7))], ("SoftmaxOptions", {"beta": 1.3}))
for a, b, q in [("i8", "i8", (1 / 256, -128)), ("u8", "u8", (1 / 256, 0)), ("i8", "i16", (1 / 65536, -32768)),
                ("i16", "i16", (1 / 32768, 0))]:
    for scale in (0.02, 0.3):
        s = scale if a != "i16" else scale / 100
        op(f"softmax_{a}_{b}_{scale}", "SOFTMAX", [T(a, (5, 11), (s, 0 if a == "i16" else 3))], [T(b, (5, 11), q)],
           ("SoftmaxOptions", {"beta": 1.0}))
op("log_softmax_f32", "LOG_SOFTMAX", [T("f32", (3, 7))], [T("f32", (3, 7))], ("LogSoftmaxOptions", {}))
op("log_softmax_i8", "LOG_SOFTMAX", [T("i8", (3, 7), (0.05, 3))], [T("i8", (3, 7), (16 / 256, 127))], ("LogSoftmaxOptions", {}))
op("log_softmax_u8", "LOG_SOFTMAX", [T("u8", (3, 7), (0.05, 3))], [T("u8", (3, 7), (16 / 256, 255))], ("LogSoftmaxOptions", {}))
op("l2_normalization_f32", "L2_NORMALIZATION", [T("f32", (3, 7))], [T("f32", (3, 7))], ("L2NormOptions", act(0)))
op("l2_normalization_i8", "L2_NORMALIZATION", [T("i8", (3, 7), (0.05, 3))], [T("i8", (3, 7), (1 / 128, 0))], ("L2NormOptions", act(0)))
op("l2_normalization_u8", "L2_NORMALIZATION", [T("u8", (3, 7), (0.05, 130))], [T("u8", (3, 7), (1 / 128, 128))], ("L2NormOptions", act(0)))
op("lrn", "LOCAL_RESPONSE_NORMALIZATION", [T("f32", (1, 2, 2, 9))], [T("f32", (1, 2, 2, 9))],
   ("LocalResponseNormalizationOptions", {"radius": 2, "bias": 0.7, "alpha": 0.3, "beta": 0.6}), optimised=True)

# Convolutions.


def conv_case(name, kind, dtype, x, w, out, options, wdtype="i8", per_channel=None, bias="i32", axis=0, fused_q=None, batch=1):
    if dtype == "f32":
        channels = w[axis]
        op(name, kind, [T("f32", x), weights(name, "f32", w), weights(name + "b", "f32", (channels,))], [T("f32", out)], options)
        return
    qx = Q8[dtype][0]
    channels = w[axis]
    if per_channel:
        scales = np.linspace(0.003, 0.012, channels)
        W = weights(name, wdtype, w, (scales, 0), axis=axis)
        qb = (scales * qx[0], 0)
    else:
        W = weights(name, wdtype, w, (0.007, 117 if wdtype == "u8" else 0))
        qb = (0.007 * qx[0], 0)
    B = None if bias is None else weights(name + "b", bias, (channels,), qb, low=-4000, high=4000)
    ins = [T(dtype, x, qx), W] + ([B] if B is not None else [])
    op(name, kind, ins, [T(dtype, out, fused_q or Q8[dtype][2])], options)


def conv_options(pad, sw, sh, dw=1, dh=1, fused=0):
    return ("Conv2DOptions", {"padding": pad, "strideW": sw, "strideH": sh, "dilationWFactor": dw,
                              "dilationHFactor": dh, "fusedActivationFunction": fused})


for label, pad, s, d, out in [("same", 0, (2, 1), (1, 1), (2, 7, 4, 6)), ("valid", 1, (1, 2), (2, 1), (2, 3, 3, 6))]:
    x, w = (2, 7, 7, 4), (6, 3, 3, 4)
    for fused in (0, 3):
        options = conv_options(pad, s[0], s[1], d[0], d[1], fused)
        conv_case(f"conv_f32_{label}_{fused}", "CONV_2D", "f32", x, w, out, options)
        conv_case(f"conv_i8_{label}_{fused}", "CONV_2D", "i8", x, w, out, options)
        conv_case(f"conv_i8_pc_{label}_{fused}", "CONV_2D", "i8", x, w, out, options, per_channel=True)
        conv_case(f"conv_u8_{label}_{fused}", "CONV_2D", "u8", x, w, out, options, wdtype="u8")
        conv_case(f"conv_i16_{label}_{fused}", "CONV_2D", "i16", x, w, out, options, per_channel=True, bias="i64")
conv_case("conv_i16_b32", "CONV_2D", "i16", (1, 5, 5, 3), (4, 3, 3, 3), (1, 3, 3, 4),
          ("Conv2DOptions", {**conv_options(1, 1, 1)[1], "quantizedBiasType": 2}), per_channel=True)
conv_case("conv_i8_groups", "CONV_2D", "i8", (1, 5, 5, 4), (6, 3, 3, 2), (1, 3, 3, 6), conv_options(1, 1, 1), per_channel=True)
conv_case("conv_i8_i4", "CONV_2D", "i8", (1, 5, 5, 3), (4, 3, 3, 3), (1, 3, 3, 4), conv_options(1, 1, 1), wdtype="i4", per_channel=True)
for per_channel in (False, True):
    name = f"conv_hybrid_{per_channel}"
    q = (np.linspace(0.003, 0.012, 4), 0) if per_channel else (0.007, 0)
    op(name, "CONV_2D", [T("f32", (2, 5, 5, 3)), weights(name, "i8", (4, 3, 3, 3), q), weights(name + "b", "f32", (4,))],
       [T("f32", (2, 3, 3, 4))], conv_options(1, 1, 1, fused=1))


def depthwise_options(pad, s, mult, d=1, fused=0):
    return ("DepthwiseConv2DOptions", {"padding": pad, "strideW": s, "strideH": s, "depthMultiplier": mult,
                                       "dilationWFactor": d, "dilationHFactor": d, "fusedActivationFunction": fused})


for mult in (1, 3):
    w, out = (1, 3, 3, 4 * mult), (1, 4, 4, 4 * mult)
    options = depthwise_options(0, 2, mult, fused=1)
    conv_case(f"depthwise_f32_{mult}", "DEPTHWISE_CONV_2D", "f32", (1, 7, 7, 4), w, out, options, axis=3)
    conv_case(f"depthwise_i8_{mult}", "DEPTHWISE_CONV_2D", "i8", (1, 7, 7, 4), w, out, options, per_channel=True, axis=3)
    conv_case(f"depthwise_u8_{mult}", "DEPTHWISE_CONV_2D", "u8", (1, 7, 7, 4), w, out, options, wdtype="u8", axis=3)
    conv_case(f"depthwise_i16_{mult}", "DEPTHWISE_CONV_2D", "i16", (1, 7, 7, 4), w, out, options, per_channel=True, axis=3, bias="i64")
name = "depthwise_hybrid"
op(name, "DEPTHWISE_CONV_2D", [T("f32", (2, 5, 5, 4)), weights(name, "i8", (1, 3, 3, 4), (np.linspace(0.003, 0.012, 4), 0), axis=3),
                               weights(name + "b", "f32", (4,))], [T("f32", (2, 3, 3, 4))], depthwise_options(1, 1, 1))
for pad, out in [(0, (1, 8, 8, 3)), (1, (1, 9, 9, 3))]:
    options = ("TransposeConvOptions", {"padding": pad, "strideW": 2, "strideH": 2, "fusedActivationFunction": 0})
    w, x = (3, 3, 3, 2), (1, 4, 4, 2)
    name = f"transpose_conv_{pad}"
    op(name + "_f32", "TRANSPOSE_CONV", [i32(out), weights(name, "f32", w), T("f32", x), weights(name + "b", "f32", (3,))],
       [T("f32", out)], options, version=3)
    op(name + "_u8", "TRANSPOSE_CONV", [i32(out), weights(name, "u8", w, (0.007, 117)), T("u8", x, Q8["u8"][0])],
       [T("u8", out, Q8["u8"][2])], options)
    for dtype, b in [("i8", "i32"), ("i16", "i64")]:
        scales = np.linspace(0.003, 0.012, 3)
        op(f"{name}_{dtype}", "TRANSPOSE_CONV",
           [i32(out), weights(name, "i8", w, (scales, 0)), T(dtype, x, Q8[dtype][0]),
            weights(name + "b", b, (3,), (scales * Q8[dtype][0][0], 0), low=-4000, high=4000)],
           [T(dtype, out, Q8[dtype][2])], options, version=3)
options3 = {"padding": 0, "strideD": 1, "strideW": 2, "strideH": 1, "dilationDFactor": 1, "dilationWFactor": 1,
            "dilationHFactor": 1, "fusedActivationFunction": 1}
op("conv_3d", "CONV_3D", [T("f32", (1, 3, 4, 5, 2)), weights("conv3d", "f32", (2, 2, 3, 2, 3)), weights("conv3db", "f32", (3,))],
   [T("f32", (1, 3, 4, 3, 3))], ("Conv3DOptions", options3))
op("conv_3d_transpose", "CONV_3D_TRANSPOSE", [i32([1, 3, 4, 6, 3]), weights("conv3dt", "f32", (2, 2, 3, 3, 2)), T("f32", (1, 3, 4, 3, 2))],
   [T("f32", (1, 3, 4, 6, 3))], ("Conv3DOptions", {**options3, "fusedActivationFunction": 0}))

# Pools.
for kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"):
    for dtype in ("f32", "i8", "u8", "i16"):
        if kind == "L2_POOL_2D" and dtype != "f32":
            continue
        for pad, out in [(0, (2, 3, 4, 3)), (1, (2, 2, 3, 3))]:
            q = Q8[dtype][0] if dtype in Q8 else None
            op(f"{kind.lower()}_{dtype}_{pad}", kind, [T(dtype, (2, 5, 7, 3), q)], [T(dtype, out, q)],
               ("Pool2DOptions", {"padding": pad, "strideW": 2, "strideH": 2, "filterWidth": 3, "filterHeight": 3,
                                  "fusedActivationFunction": pad}))

# Products.
for keep in (False, True):
    for label, x in [("2d", (3, 8)), ("3d", (2, 3, 8))]:
        out = (*x[:-1], 5) if keep else (int(np.prod(x[:-1])), 5)
        options = ("FullyConnectedOptions", {"keepNumDims": keep, "fusedActivationFunction": 1})
        name = f"fc_{label}_{keep}"
        op(name + "_f32", "FULLY_CONNECTED", [T("f32", x), weights(name, "f32", (5, 8)), weights(name + "b", "f32", (5,))], [T("f32", out)], options)
        op(name + "_i8", "FULLY_CONNECTED", [T("i8", x, Q8["i8"][0]), weights(name, "i8", (5, 8), (0.007, 0)),
                                             weights(name + "b", "i32", (5,), (0.007 * 0.05, 0), low=-4000, high=4000)],
           [T("i8", out, Q8["i8"][2])], options)
for n in (40,):
    scales = np.linspace(0.003, 0.012, n)
    for dtype, b in [("i8", "i32"), ("i16", "i64"), ("i16", "i32")]:
        for pc in (False, True):
            q = (scales, 0) if pc else (0.007, 0)
            qb = (scales * Q8[dtype][0][0], 0) if pc else (0.007 * Q8[dtype][0][0], 0)
            name = f"fc_{dtype}_{b}_{pc}"
            quantized_bias = {"i32": 2, "i64": 4}[b]
            op(name, "FULLY_CONNECTED", [T(dtype, (6, 32), Q8[dtype][0]), weights(name, "i8", (n, 32), q),
                                         weights(name + "b", b, (n,), qb, low=-4000, high=4000)],
               [T(dtype, (6, n), Q8[dtype][2])], ("FullyConnectedOptions", {"fusedActivationFunction": 0, "quantizedBiasType": quantized_bias if dtype == "i16" else 0}))
op("fc_u8", "FULLY_CONNECTED", [T("u8", (6, 32), Q8["u8"][0]), weights("fc_u8", "u8", (40, 32), (0.007, 117)),
                                weights("fc_u8b", "i32", (40,), (0.007 * 0.05, 0), low=-4000, high=4000)],
   [T("u8", (6, 40), Q8["u8"][2])], ("FullyConnectedOptions", act(1)))
op("fc_i8_nobias", "FULLY_CONNECTED", [T("i8", (6, 32), Q8["i8"][0]), weights("fc_i8n", "i8", (40, 32), (0.007, 0))],
   [T("i8", (6, 40), Q8["i8"][2])], ("FullyConnectedOptions", act(0)))
op("fc_i8_i4", "FULLY_CONNECTED", [T("i8", (6, 32), Q8["i8"][0]), weights("fc_i8i4", "i4", (40, 32), (0.07, 0)),
                                   weights("fc_i4b", "i32", (40,), (0.07 * 0.05, 0), low=-4000, high=4000)],
   [T("i8", (6, 40), Q8["i8"][2])], ("FullyConnectedOptions", act(0)))
for asym in (False, True):
    for wd in ("i8", "i4"):
        op(f"fc_hybrid_{wd}_{asym}", "FULLY_CONNECTED", [T("f32", (3, 32)), weights("fch" + wd, wd, (9, 32), (0.02, 0)), weights("fchb", "f32", (9,))],
           [T("f32", (3, 9))], ("FullyConnectedOptions", {"fusedActivationFunction": 1, "asymmetricQuantizeInputs": asym}))
op("fc_hybrid_pc", "FULLY_CONNECTED", [T("f32", (3, 32)), weights("fchpc", "i8", (9, 32), (np.linspace(0.01, 0.02, 9), 0)), weights("fchb", "f32", (9,))],
   [T("f32", (3, 9))], ("FullyConnectedOptions", {"asymmetricQuantizeInputs": True}))
for dtype in ("f32", "i8", "i16"):
    q = Q8.get(dtype, [None] * 3)
    for adj in ((False, False), (True, True)):
        a, b = ((2, 1, 6, 9), (3, 9, 5)) if not adj[0] else ((2, 1, 9, 6), (3, 5, 9))
        op(f"batch_matmul_{dtype}_{adj[0]}", "BATCH_MATMUL", [T(dtype, a, q[0]), T(dtype, b, q[1])], [T(dtype, (2, 3, 6, 5), q[2])],
           ("BatchMatMulOptions", {"adjX": adj[0], "adjY": adj[1]}))
op("embedding_lookup", "EMBEDDING_LOOKUP", [T("i32", (4,), low=0, high=5), weights("emb", "f32", (6, 3))], [T("f32", (4, 3))])
op("embedding_lookup_i8", "EMBEDDING_LOOKUP", [T("i32", (4,), low=0, high=5), weights("emb8", "i8", (6, 3), (0.1, 0))], [T("f32", (4, 3))])

# Moving elements.
for dtype in ("f32", "i8", "i32", "u8"):
    q = Q8[dtype][0] if dtype in Q8 else None
    op(f"reshape_{dtype}", "RESHAPE", [T(dtype, (2, 6), q), i32([3, -1])], [T(dtype, (3, 4), q)], ("ReshapeOptions", {"newShape": [3, -1]}))
    op(f"transpose_{dtype}", "TRANSPOSE", [T(dtype, (2, 3, 4), q), i32([2, 0, 1])], [T(dtype, (4, 2, 3), q)])
    op(f"slice_{dtype}", "SLICE", [T(dtype, (4, 5), q), i32([1, 2]), i32([2, -1])], [T(dtype, (2, 3), q)])
    op(f"strided_slice_{dtype}", "STRIDED_SLICE", [T(dtype, (4, 5, 3), q), i32([1, 4, 0]), i32([4, 0, 2]), i32([2, -2, 1])],
       [T(dtype, (2, 2), q)], ("StridedSliceOptions", {"beginMask": 0, "endMask": 0, "shrinkAxisMask": 4}))
    op(f"concat_{dtype}", "CONCATENATION", [T(dtype, (2, 3), q), T(dtype, (2, 1), q)], [T(dtype, (2, 4), q)], ("ConcatenationOptions", {"axis": -1}))
    op(f"pad_{dtype}", "PAD", [T(dtype, (2, 3), q), i32([[1, 0], [2, 1]])], [T(dtype, (3, 6), q)])
    op(f"tile_{dtype}", "TILE", [T(dtype, (2, 3), q), i32([2, 2])], [T(dtype, (4, 6), q)])
    op(f"gather_{dtype}", "GATHER", [T(dtype, (4, 5), q), i32([3, 0, 3])], [T(dtype, (4, 3), q)], ("GatherOptions", {"axis": 1}))
    op(f"gather_nd_{dtype}", "GATHER_ND", [T(dtype, (4, 5), q), i32([[3, 0], [1, 2]])], [T(dtype, (2,), q)])
    op(f"pack_{dtype}", "PACK", [T(dtype, (2, 3), q), T(dtype, (2, 3), q)], [T(dtype, (2, 2, 3), q)], ("PackOptions", {"valuesCount": 2, "axis": 1}))
    op(f"unpack_{dtype}", "UNPACK", [T(dtype, (2, 2, 3), q)], [T(dtype, (2, 3), q), T(dtype, (2, 3), q)], ("UnpackOptions", {"num": 2, "axis": 1}))
    op(f"split_{dtype}", "SPLIT", [i32(1), T(dtype, (2, 6), q)], [T(dtype, (2, 3), q), T(dtype, (2, 3), q)], ("SplitOptions", {"numSplits": 2}))
    op(f"split_v_{dtype}", "SPLIT_V", [T(dtype, (2, 6), q), i32([2, 4]), i32(1)], [T(dtype, (2, 2), q), T(dtype, (2, 4), q)], ("SplitVOptions", {"numSplits": 2}))
    op(f"mirror_pad_{dtype}", "MIRROR_PAD", [T(dtype, (3, 4), q), i32([[1, 1], [2, 0]])], [T(dtype, (5, 6), q)], ("MirrorPadOptions", {"mode": 0}))
    op(f"space_to_depth_{dtype}", "SPACE_TO_DEPTH", [T(dtype, (1, 4, 4, 2), q)], [T(dtype, (1, 2, 2, 8), q)], ("SpaceToDepthOptions", {"blockSize": 2}))
    op(f"depth_to_space_{dtype}", "DEPTH_TO_SPACE", [T(dtype, (1, 2, 2, 8), q)], [T(dtype, (1, 4, 4, 2), q)], ("DepthToSpaceOptions", {"blockSize": 2}))
    op(f"space_to_batch_{dtype}", "SPACE_TO_BATCH_ND", [T(dtype, (1, 3, 4, 2), q), i32([2, 2]), i32([[1, 0], [0, 0]])], [T(dtype, (4, 2, 2, 2), q)])
    op(f"batch_to_space_{dtype}", "BATCH_TO_SPACE_ND", [T(dtype, (4, 2, 2, 2), q), i32([2, 2]), i32([[1, 0], [0, 0]])], [T(dtype, (1, 3, 4, 2), q)])
    op(f"broadcast_to_{dtype}", "BROADCAST_TO", [T(dtype, (3, 1), q), i32([2, 3, 4])], [T(dtype, (2, 3, 4), q)], version=2)
    op(f"reverse_{dtype}", "REVERSE_V2", [T(dtype, (2, 3, 4), q), i32([1])], [T(dtype, (2, 3, 4), q)])
    op(f"fill_{dtype}", "FILL", [i32([2, 3]), T(dtype, (), q)], [T(dtype, (2, 3), q)])
for align, half in [(False, False), (True, False), (False, True)]:
    for kind, options in [("RESIZE_BILINEAR", "ResizeBilinearOptions"), ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions")]:
        for dtype in ("f32", "i8", "u8", "i16"):
            q = Q8[dtype][0] if dtype in Q8 else None
            for size in ((5, 9), (2, 3)):
                op(f"{kind.lower()}_{dtype}_{align}_{half}_{size[0]}", kind, [T(dtype, (1, 3, 4, 2), q), i32(size)],
                   [T(dtype, (1, *size, 2), q)], (options, {"alignCorners": align, "halfPixelCenters": half}))
op("concat_u8_rescale", "CONCATENATION", [T("u8", (2, 30), Q8["u8"][0]), T("u8", (2, 30), Q8["u8"][1])], [T("u8", (2, 60), Q8["u8"][2])],
   ("ConcatenationOptions", {"axis": 1}))
op("padv2_f32", "PADV2", [T("f32", (2, 3)), i32([[1, 0], [2, 1]]), const("f32", 1.5)], [T("f32", (3, 6))])
op("padv2_i8", "PADV2", [T("i8", (2, 3), (0.05, -3)), i32([[1, 0], [2, 1]]), const("i8", 7, (0.05, -3))], [T("i8", (3, 6), (0.05, -3))])
op("squeeze", "SQUEEZE", [T("f32", (1, 3, 1))], [T("f32", (3, 1))], ("SqueezeOptions", {"squeezeDims": [0]}))
op("expand_dims", "EXPAND_DIMS", [T("f32", (2, 3)), i32(-1)], [T("f32", (2, 3, 1))])
op("gather_batch", "GATHER", [T("f32", (2, 4, 3)), i32([[3, 0], [1, 1]])], [T("f32", (2, 2, 3))], ("GatherOptions", {"axis": 1, "batchDims": 1}))
op("scatter_nd", "SCATTER_ND", [i32([[4], [1], [4]]), T("f32", (3, 2)), i32([6, 2])], [T("f32", (6, 2))])
op("reverse_sequence", "REVERSE_SEQUENCE", [T("f32", (4, 3, 2)), i32([2, 4, 1])], [T("f32", (4, 3, 2))], ("ReverseSequenceOptions", {"seqDim": 0, "batchDim": 1}))
op("one_hot", "ONE_HOT", [T("i32", (5,), low=-1, high=4), i32(4), const("f32", 2.0), const("f32", -1.0)], [T("f32", (5, 4))], ("OneHotOptions", {"axis": -1}))
op("range_i32", "RANGE", [i32(2), i32(11), i32(3)], [T("i32", (3,))])
op("range_f32", "RANGE", [const("f32", 0.5), const("f32", 2.6), const("f32", 0.5)], [T("f32", (5,))])
op("shape", "SHAPE", [T("f32", (2, 5, 3))], [T("i32", (3,))], ("ShapeOptions", {"outType": 2}))
op("rank", "RANK", [T("f32", (2, 5, 3))], [T("i32", ())])
op("zeros_like", "ZEROS_LIKE", [T("f32", (2, 3))], [T("f32", (2, 3))])
op("dynamic_update_slice_past_the_end", "DYNAMIC_UPDATE_SLICE", [T("i8", (4, 5)), T("i8", (2, 5)), T("i32", (2,), low=-3, high=7)], [T("i8", (4, 5))], runs=3)
for dtype in ("f32", "i32"):
    op(f"unique_{dtype}", "UNIQUE", [T("i32", (9,), low=0, high=4)] if dtype == "i32" else [const("f32", [2, 1, 2, -3, 1, 0.5])], [T(dtype, (9,)), T("i32", (9,))], ("UniqueOptions", {"idxOutType": 2}))
op("dynamic_update_slice", "DYNAMIC_UPDATE_SLICE", [T("f32", (4, 5)), T("f32", (2, 2)), i32([1, 2])], [T("f32", (4, 5))])

# Reductions.
for kind in ("SUM", "MEAN", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN"):
    for dtype in ("f32", "i32", "i8", "u8", "i16"):
        if kind == "REDUCE_PROD" and dtype == "u8" or kind == "SUM" and dtype == "i16":
            continue
        # The reference kernel of int8 sums forgets to rescale, and that of normalisation the last neighbour.
        q = Q8.get(dtype, [None] * 3)
        out = q[0] if kind.startswith("REDUCE") else q[2]
        if kind == "SUM" and dtype in Q8:
            out = (out[0] * 3, out[1])
        for keep, axes, shape in [(False, [1], (2, 5)), (True, [1, 2], (2, 1, 1, 5)), (True, [0, -1], (1, 3, 4, 1))]:
            x = (2, 3, 5) if len(axes) == 1 else (2, 3, 4, 5)
            op(f"{kind.lower()}_{dtype}_{len(axes)}_{axes[0]}", kind, [T(dtype, x, q[0], low=-2 if dtype == "i32" else None, high=2 if dtype == "i32" else None), i32(axes)],
               [T(dtype, shape, out)], ("ReducerOptions", {"keepDims": keep}), optimised=kind == "SUM" and dtype == "i8")
for kind in ("REDUCE_ANY", "REDUCE_ALL"):
    op(kind.lower(), kind, [T("bool", (4, 3)), i32([1])], [T("bool", (4,))], ("ReducerOptions", {"keepDims": False}))
for dtype in ("f32", "i8", "u8", "i32"):
    q = Q8[dtype][0] if dtype in Q8 else None
    op(f"arg_max_{dtype}", "ARG_MAX", [T(dtype, (3, 7, 2), q), i32(1)], [T("i32", (3, 2))], ("ArgMaxOptions", {"outputType": 2}))
    op(f"arg_min_{dtype}", "ARG_MIN", [T(dtype, (3, 7), q), i32(-1)], [T("i64", (3,))], ("ArgMinOptions", {"outputType": 4}))
    op(f"top_k_{dtype}", "TOPK_V2", [T(dtype, (3, 9), q), i32(4)], [T(dtype, (3, 4), q), T("i32", (3, 4))])
for exclusive in (False, True):
    op(f"cumsum_{exclusive}", "CUMSUM", [T("f32", (3, 5)), i32(1)], [T("f32", (3, 5))], ("CumsumOptions", {"exclusive": exclusive, "reverse": exclusive}))

# Recurrent nets.


def lstm(name, kind, steps=3, batch=2, features=4, units=5, outputs=None, cifg=False, peephole=False, norm=False,
         dtype="f32", time_major=False, clip=0.0, asym=False, runs=2):
    out = outputs or units
    integer = dtype == "i8"
    wd = "f32" if dtype == "f32" else "i8"
    qw = lambda s: None if wd == "f32" else (s, 0)
    fd = "f32" if not integer else "i8"
    ws, rs = 0.011, 0.013
    def gates(shape, scale, label):
        return [None if cifg and g == 0 else weights(f"{name}{label}{g}", wd, shape, qw(scale), low=None if wd == "i8" else -0.7, high=None if wd == "i8" else 0.7) for g in range(4)]
    qx, qh, qc = (0.02, 4), (1 / 128, 3), (2**-11, 0)
    hidden = (1 / 120, -5)
    W = gates((units, features), ws, "w")
    R = gates((units, out), rs, "r")
    if peephole:
        pd = "i16" if integer else wd
        P = [None if cifg and g == 0 else weights(f"{name}p{g}", pd, (units,), (0.00003, 0) if integer else qw(0.004), low=-30000 if integer else (None if wd == "i8" else -0.5), high=30000 if integer else (None if wd == "i8" else 0.5)) for g in (0, 1, 3)]
    else:
        P = [None] * 3
    nq = (0.00004, 0)
    if integer:
        qb = (nq[0] / 1024, 0) if norm else (ws * qx[0], 0)
        B = [None if cifg and g == 0 else weights(f"{name}b{g}", "i32", (units,), qb, low=-900 if not norm else -9000000, high=900 if not norm else 9000000) for g in range(4)]
    else:
        B = [None if cifg and g == 0 else weights(f"{name}b{g}", "f32", (units,), low=-0.5, high=0.5) for g in range(4)]
    proj = [weights(name + "proj", wd, (out, units), qw(0.01), low=None if wd == "i8" else -0.6, high=None if wd == "i8" else 0.6), None] if outputs else [None, None]
    if outputs and integer:
        proj[1] = weights(name + "projb", "i32", (out,), (0.01 * hidden[0], 0), low=-900, high=900)
    step = kind == "LSTM"
    around = [batch] if step else [steps, batch] if time_major else [batch, steps]
    x = T(fd, (*around, features), qx if integer else None, low=None if integer else -1, high=None if integer else 1)
    H = T(fd, (batch, out), qh if integer else None, variable=True)
    C = T("i16" if integer else "f32", (batch, units), qc if integer else None, variable=True)
    N = [None] * 4
    if norm:
        N = [None if cifg and g == 0 else weights(f"{name}n{g}", "i16" if integer else "f32", (units,), nq if integer else None,
                                                  low=9000 if integer else 0.4, high=30000 if integer else 1.2) for g in range(4)]
    y = T(fd, (*around, out), qh if integer else None)
    inter = None
    if integer:
        inter = [T("i16", (), (0.0007 * (g + 1), 0)) for g in range(4)] if norm else [T("i16", (), (2**-12, 0)) for _ in range(4)]
        inter.append(T("i8", (), hidden))
    ins = [x, *W, *R, *P, *B, *proj, H, C, *N]
    options = {"fusedActivationFunction": 4, "cellClip": clip, "projClip": clip, "asymmetricQuantizeInputs": asym}
    options = ("LSTMOptions", options) if step else ("UnidirectionalSequenceLSTMOptions", {**options, "timeMajor": time_major})
    op(name, kind, ins, [y], options, runs=runs, custom=inter)


SEQ = "UNIDIRECTIONAL_SEQUENCE_LSTM"
lstm("lstm_f32", SEQ)
lstm("lstm_f32_time", SEQ, time_major=True)
lstm("lstm_f32_cifg", SEQ, cifg=True, clip=0.3)
lstm("lstm_f32_full", SEQ, peephole=True, norm=True, outputs=3)
lstm("lstm_hybrid", SEQ, dtype="hybrid")
lstm("lstm_hybrid_asym", SEQ, dtype="hybrid", asym=True)
lstm("lstm_hybrid_full", SEQ, dtype="hybrid", peephole=True, norm=True, outputs=3)
lstm("lstm_i8", SEQ, dtype="i8")
lstm("lstm_i8_cifg", SEQ, dtype="i8", cifg=True, time_major=True, clip=0.4)
lstm("lstm_i8_peephole", SEQ, dtype="i8", peephole=True)
lstm("lstm_i8_norm", SEQ, dtype="i8", norm=True)
lstm("lstm_i8_projection", SEQ, dtype="i8", outputs=3)
lstm("lstm_i8_full", SEQ, dtype="i8", peephole=True, norm=True)

for dtype, asym in [("f32", False), ("hybrid", False), ("hybrid", True)]:
    name = f"svdf_{dtype}_{asym}"
    wd, q = ("f32", lambda s: None) if dtype == "f32" else ("i8", lambda s: (s, 0))
    op(name, "SVDF", [T("f32", (2, 3)), weights(name, wd, (8, 3), q(0.01)), weights(name + "t", wd, (8, 5), q(0.02)),
                      weights(name + "b", "f32", (4,)), T("f32", (2, 40), variable=True)], [T("f32", (2, 4))],
       ("SVDFOptions", {"rank": 2, "fusedActivationFunction": 1, "asymmetricQuantizeInputs": asym}), runs=4)
op("svdf_i8", "SVDF", [T("i8", (2, 3), (0.02, 4)), weights("svdf8", "i8", (8, 3), (0.01, 0)), weights("svdf8t", "i16", (8, 5), (0.0004, 0), low=-30000, high=30000),
                       weights("svdf8b", "i32", (4,), (0.0004 * 0.0003, 0), low=-900000, high=900000), T("i16", (2, 40), (0.0003, 0), variable=True)],
   [T("i8", (2, 4), (0.1, 7))], ("SVDFOptions", {"rank": 2, "fusedActivationFunction": 1}), runs=4)
for dtype in ("f32", "hybrid"):
    wd, q = ("f32", lambda s: None) if dtype == "f32" else ("i8", lambda s: (s, 0))
    name = f"rnn_{dtype}"
    op(name, "UNIDIRECTIONAL_SEQUENCE_RNN", [T("f32", (2, 3, 4)), weights(name, wd, (5, 4), q(0.01), low=None if wd == "i8" else -0.6, high=None if wd == "i8" else 0.6),
                                            weights(name + "r", wd, (5, 5), q(0.01), low=None if wd == "i8" else -0.6, high=None if wd == "i8" else 0.6),
                                            weights(name + "b", "f32", (5,)), T("f32", (2, 5), variable=True)],
       [T("f32", (2, 3, 5))], ("SequenceRNNOptions", {"timeMajor": False, "fusedActivationFunction": 4}), runs=2)

# Choosing boxes.
boxes = np.array([[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, -0.1, 1, 0.9], [0, 10, 1, 11], [0, 10.1, 1, 11.1], [0, 100, 1, 101]], np.float32)
scores = np.array([0.9, 0.75, 0.6, 0.95, 0.5, 0.3], np.float32)
op("nms_v4", "NON_MAX_SUPPRESSION_V4", [T("f32", (6, 4)), T("f32", (6,)), i32(4), const("f32", 0.5), const("f32", 0.4)], [T("i32", (4,)), T("i32", ())],
   feeds=[[boxes, scores]])
op("nms_v5", "NON_MAX_SUPPRESSION_V5", [T("f32", (6, 4)), T("f32", (6,)), i32(6), const("f32", 0.5), const("f32", 0.4), const("f32", 0.5)],
   [T("i32", (6,)), T("f32", (6,)), T("i32", ())], feeds=[[boxes, scores]])
anchors = np.array([[0.5, 0.5, 1, 1], [0.5, 0.5, 1, 1], [0.5, 0.5, 1, 1], [0.5, 10.5, 1, 1], [0.5, 10.5, 1, 1], [0.5, 100.5, 1, 1]], np.float32)
enc = np.array([[[0, 0, 0, 0], [0, 1, 0, 0], [0, -1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]], np.float32)
cls = np.array([[[0, 0.9, 0.8], [0, 0.75, 0.72], [0, 0.6, 0.5], [0, 0.93, 0.95], [0, 0.5, 0.4], [0, 0.3, 0.2]]], np.float32)
for regular in (False, True):
    op(f"detection_{regular}", "TFLite_Detection_PostProcess",
       [T("f32", (1, 6, 4)), T("f32", (1, 6, 3)), const("f32", anchors)],
       [T("f32", (1, 3, 4)), T("f32", (1, 3)), T("f32", (1, 3)), T("f32", (1,))],
       custom={"max_detections": 3, "max_classes_per_detection": 1, "detections_per_class": 2, "use_regular_nms": regular,
               "nms_score_threshold": 0.0, "nms_iou_threshold": 0.5, "num_classes": 2, "y_scale": 10.0, "x_scale": 10.0,
               "h_scale": 5.0, "w_scale": 5.0}, feeds=[[enc, cls]])

# Control flow and resources.
m = Model()
x, c = T("f32", (3,)), T("bool", ())
y = T("f32", (3,))
m.subgraph([("IF", [c, x], [y], ("IfOptions", {"thenSubgraphIndex": 1, "elseSubgraphIndex": 2}))], [c, x], [y])
for kind in ("NEG", "EXP"):
    a, b = T("f32", (3,)), T("f32", (3,))
    m.subgraph([(kind, [a], [b], None)], [a], [b])
v = np.array([1, 2, 3], np.float32)
record("if", m, [[np.array(True), v], [np.array(False), v]])

m = Model()
i, x = T("i32", ()), T("f32", (3,))
io, xo = T("i32", ()), T("f32", (3,))
m.subgraph([("WHILE", [i, x], [io, xo], ("WhileOptions", {"condSubgraphIndex": 1, "bodySubgraphIndex": 2}))], [i, x], [io, xo])
a, b, r = T("i32", ()), T("f32", (3,)), T("bool", ())
m.subgraph([("LESS", [a, i32(5)], [r], None)], [a, b], [r])
a, b, a2, b2 = T("i32", ()), T("f32", (3,)), T("i32", ()), T("f32", (3,))
m.subgraph([("ADD", [a, i32(1)], [a2], ("AddOptions", act(0))), ("MUL", [b, const("f32", 2.0)], [b2], ("MulOptions", act(0)))], [a, b], [a2, b2])
record("while", m, [[np.array(0, np.int32), v], [np.array(7, np.int32), v]])

m = Model()
x, h, old, new = T("f32", (3,)), T("resource", (1,)), T("f32", (3,)), T("f32", (3,))
handle = ("VarHandleOptions", {"container": "", "sharedName": "memory"})
m.subgraph([("CALL_ONCE", [], [], ("CallOnceOptions", {"initSubgraphIndex": 1})),
            ("VAR_HANDLE", [], [h], handle), ("READ_VARIABLE", [h], [old], None), ("ADD", [old, x], [new], ("AddOptions", act(0))),
            ("ASSIGN_VARIABLE", [h, new], [], None)], [x], [new])
h2 = T("resource", (1,))
m.subgraph([("VAR_HANDLE", [], [h2], handle), ("ASSIGN_VARIABLE", [h2, const("f32", [10, 20, 30])], [], None)], [], [])
record("resource_variable", m, [[v], [v], [v]])

# Of one step, and of both directions.
lstm("lstm_step_f32", "LSTM")
lstm("lstm_step_full", "LSTM", peephole=True, norm=True, outputs=3, clip=0.5)
lstm("lstm_step_cifg", "LSTM", cifg=True)
lstm("lstm_step_hybrid", "LSTM", dtype="hybrid", peephole=True, outputs=3)
lstm("lstm_step_i8", "LSTM", dtype="i8")


def matrix(name, shape, dtype="f32"):
    q = None if dtype == "f32" else (0.01, 0)
    return weights(name, dtype, shape, q, low=None if q else -0.6, high=None if q else 0.6)


def vector(name, units):
    return weights(name, "f32", (units,), low=-0.5, high=0.5)


def memory(*shape):
    return T("f32", shape, variable=True)


for dtype in ("f32", "i8"):
    name = f"rnn_step_{dtype}"
    op(name, "RNN", [T("f32", (2, 4), low=-1, high=1), matrix(name, (5, 4), dtype), matrix(name + "r", (5, 5), dtype), vector(name + "b", 5), memory(2, 5)],
       [T("f32", (2, 5))], ("RNNOptions", {"fusedActivationFunction": 4}), runs=3)
for merge in (False, True):
    for time_major in (False, True):
        around = (3, 2) if time_major else (2, 3)
        both = f"{'merged' if merge else 'apart'}{'_time' if time_major else ''}"

        name = f"bidirectional_rnn_{both}"
        way = lambda label, units: [matrix(name + label, (units, 4)), matrix(name + label + "r", (units, units)), vector(name + label + "b", units), memory(2, units)]
        ys = [T("f32", (*around, 8))] if merge else [T("f32", (*around, 5)), T("f32", (*around, 3))]
        op(name, "BIDIRECTIONAL_SEQUENCE_RNN", [T("f32", (*around, 4), low=-1, high=1), *way("f", 5), *way("b", 3), None, None, None], ys,
           ("BidirectionalSequenceRNNOptions", {"timeMajor": time_major, "fusedActivationFunction": 4, "mergeOutputs": merge}), runs=2)

        name = f"bidirectional_lstm_{both}"
        def way(label, units, out, peephole):
            gates = lambda what, make: [make(f"{name}{label}{what}{g}") for g in range(4)]
            return [*gates("w", lambda n: matrix(n, (units, 4))), *gates("r", lambda n: matrix(n, (units, out))),
                    *[vector(f"{name}{label}p{g}", units) if peephole else None for g in range(3)], *gates("b", lambda n: vector(n, units)),
                    matrix(name + label + "p", (out, units)) if out != units else None, None]
        # LiteRT overwrites its own results where a merged output has the batch first.
        if merge and not time_major:
            continue
        out = 3 if merge else 5
        ys = [T("f32", (*around, 2 * out))] if merge else [T("f32", (*around, out)) for _ in range(2)]
        op(name, "BIDIRECTIONAL_SEQUENCE_LSTM",
           [T("f32", (*around, 4), low=-1, high=1), *way("f", 5, out, True), *way("b", 5, out, False), memory(2, out), memory(2, 5), memory(2, out), memory(2, 5), *[None] * 9], ys,
           ("BidirectionalSequenceLSTMOptions", {"fusedActivationFunction": 4, "cellClip": 0.4, "projClip": 0.0, "mergeOutputs": merge, "timeMajor": time_major}), runs=2)

# State in the bodies of control flow, and what runs once.


def handle(name="memory"):
    h = T("resource", (1,))
    return h, ("VAR_HANDLE", [], [h], ("VarHandleOptions", {"container": "", "sharedName": name}))


ADD = ("AddOptions", act(0))
MUL = ("MulOptions", act(0))
IF = ("IfOptions", {"thenSubgraphIndex": 1, "elseSubgraphIndex": 2})
WHILE = ("WhileOptions", {"condSubgraphIndex": 1, "bodySubgraphIndex": 2})
row = lambda: T("f32", (3,))


def once(index):
    return ("CALL_ONCE", [], [], ("CallOnceOptions", {"initSubgraphIndex": index}))


def initial(m, values, name="memory"):
    h, node = handle(name)
    m.subgraph([node, ("ASSIGN_VARIABLE", [h, const("f32", values)], [], None)], [], [])


def accumulate(h, a, node):
    """Adds `a` to the variable; its old and its new content."""
    old, new = row(), row()
    return new, [node, ("READ_VARIABLE", [h], [old], None), ("ADD", [old, a], [new], ADD), ("ASSIGN_VARIABLE", [h, new], [], None)]


# One branch changes a variable, the other reads another one.
m = Model()
c, x, y, z = T("bool", ()), row(), row(), row()
h, node = handle()
m.subgraph([once(3), once(4), ("IF", [c, x], [y], IF), node, ("READ_VARIABLE", [h], [z], None)], [c, x], [y, z])
h, node = handle()
a = row()
new, nodes = accumulate(h, a, node)
m.subgraph(nodes, [a], [new])
h, node = handle("other")
a, b, old = row(), row(), row()
m.subgraph([node, ("READ_VARIABLE", [h], [old], None), ("MUL", [old, a], [b], MUL)], [a], [b])
initial(m, [10, 20, 30])
initial(m, [-1, 0.5, 2], "other")
yes, no = np.array(True), np.array(False)
record("if_variable", m, [[yes, v], [no, v], [yes, v], [no, v], [yes, v]])

# The handle goes round the loop; the condition reads the variable.
m = Model()
x, h, y, h_out, z = row(), T("resource", (1,)), row(), T("resource", (1,)), row()
h, node = handle()
m.subgraph([once(3), node, ("WHILE", [h, x], [h_out, y], WHILE), ("READ_VARIABLE", [h_out], [z], None)], [x], [y, z])
h, a, old, total, r = T("resource", (1,)), row(), row(), T("f32", ()), T("bool", ())
m.subgraph([("READ_VARIABLE", [h], [old], None), ("SUM", [old, i32([0])], [total], ("ReducerOptions", {"keepDims": False})),
            ("LESS", [total, const("f32", 40.0)], [r], None)], [h, a], [r])
h, a, b = T("resource", (1,)), row(), row()
new, nodes = accumulate(h, a, None)
m.subgraph([*nodes[1:], ("ADD", [a, const("f32", 1.0)], [b], ADD)], [h, a], [h, b])
initial(m, [1, 2, 3])
record("while_variable", m, [[v], [v], [-v], [v]])

# A branch within a loop changes a variable.
m = Model()
i, x, io, y, z = T("i32", ()), row(), T("i32", ()), row(), row()
h, node = handle()
m.subgraph([once(5), ("WHILE", [i, x], [io, y], WHILE), node, ("READ_VARIABLE", [h], [z], None)], [i, x], [y, z])
i, a, r = T("i32", ()), row(), T("bool", ())
m.subgraph([("LESS", [i, i32(6)], [r], None)], [i, a], [r])
i, a, j, k, b, r = T("i32", ()), row(), T("i32", ()), T("i32", ()), row(), T("bool", ())
m.subgraph([("FLOOR_MOD", [i, i32(2)], [k], None), ("EQUAL", [k, i32(0)], [r], None),
            ("IF", [r, a], [b], ("IfOptions", {"thenSubgraphIndex": 3, "elseSubgraphIndex": 4})), ("ADD", [i, i32(1)], [j], ADD)], [i, a], [j, b])
h, node = handle()
a = row()
new, nodes = accumulate(h, a, node)
m.subgraph(nodes, [a], [new])
a, b = row(), row()
m.subgraph([("MUL", [a, const("f32", 0.5)], [b], MUL)], [a], [b])
initial(m, [1, 1, 1])
record("while_if_variable", m, [[np.array(0, np.int32), v], [np.array(3, np.int32), v], [np.array(9, np.int32), v]])

# A recurrent net in a branch keeps its memory.
m = Model()
shape = lambda n: T("f32", (2, n), low=-1, high=1)
c, x, y = T("bool", ()), shape(4), shape(5)
m.subgraph([("IF", [c, x], [y], IF)], [c, x], [y])
for label in "ab":
    a, b = shape(4), shape(5)
    name = f"if_rnn_{label}"
    m.subgraph([("RNN", [a, matrix(name, (5, 4)), matrix(name + "r", (5, 5)), vector(name + "b", 5), memory(2, 5)], [b],
                 ("RNNOptions", {"fusedActivationFunction": 4}))], [a], [b])
rng = np.random.default_rng(seed("if_rnn"))
record("if_rnn", m, [[flag, rnd(rng, "f32", (2, 4), -1, 1)] for flag in (yes, no, yes, yes, no)])

# And so it does in a loop.
m = Model()
i, x, io, y = T("i32", ()), shape(5), T("i32", ()), shape(5)
m.subgraph([("WHILE", [i, x], [io, y], WHILE)], [i, x], [y])
i, a, r = T("i32", ()), shape(5), T("bool", ())
m.subgraph([("LESS", [i, i32(3)], [r], None)], [i, a], [r])
i, a, j, b = T("i32", ()), shape(5), T("i32", ()), shape(5)
name = "while_rnn"
m.subgraph([("RNN", [a, matrix(name, (5, 5)), matrix(name + "r", (5, 5)), vector(name + "b", 5), memory(2, 5)], [b],
             ("RNNOptions", {"fusedActivationFunction": 4})), ("ADD", [i, i32(1)], [j], ADD)], [i, a], [j, b])
record(name, m, [[np.array(n, np.int32), rnd(rng, "f32", (2, 5), -1, 1)] for n in (0, 1, 2)])

# What runs once computes, also from what ran once before it.
m = Model()
x, y, z = row(), row(), row()
(h, node), (g, other) = handle(), handle("other")
p, q = row(), row()
m.subgraph([once(1), once(2), once(1), node, other, ("READ_VARIABLE", [h], [p], None), ("READ_VARIABLE", [g], [q], None),
            ("ADD", [p, x], [y], ADD), ("MUL", [q, x], [z], MUL), ("ASSIGN_VARIABLE", [h, y], [], None)], [x], [y, z])
h, node = handle()
a, b = row(), row()
m.subgraph([node, ("FILL", [i32([3]), const("f32", 2.5)], [a], None), ("MUL", [a, const("f32", [1, 2, 3])], [b], MUL), ("ASSIGN_VARIABLE", [h, b], [], None)], [], [])
(h, node), (g, other) = handle(), handle("other")
a, b = row(), row()
m.subgraph([node, other, ("READ_VARIABLE", [h], [a], None), ("NEG", [a], [b], None), ("ASSIGN_VARIABLE", [g, b], [], None)], [], [])
record("call_once_computed", m, [[v], [v], [v]])

# LSTMs of the basic kernel type, their memory inputs or variables.
for dtype in ("f32", "u8"):
    for variable in (False, True):
        u8 = dtype == "u8"
        name = f"lstm_basic_{dtype}_{'variable' if variable else 'input'}"
        unit, state_q, cell_type = ((1 / 128, 128), (2**-11, 0), "i16") if u8 else (None, None, "f32")
        vector_of = lambda n, **how: T(dtype, (2, n), unit, **how)
        wq, bq = ((0.012, 120), (0.012 / 128, 0)) if u8 else (None, None)
        w = weights(name, dtype, (20, 9), wq, low=None if u8 else -0.7, high=None if u8 else 0.7)
        b = weights(name + "b", "i32" if u8 else "f32", (20,), bq, low=-900 if u8 else -0.5, high=900 if u8 else 0.5)
        op(name, "LSTM", [vector_of(4), vector_of(5, variable=variable), w, b, T(cell_type, (2, 5), state_q, variable=variable)],
           [vector_of(5), T(cell_type, (2, 5), state_q), vector_of(9), T(cell_type, (2, 20), (2**-12, 0) if u8 else None)],
           ("LSTMOptions", {"fusedActivationFunction": 4, "kernelType": 1}), runs=3)

# Both directions with weights of 8 bits.
for asym in (False, True):
    name = f"bidirectional_lstm_hybrid_{asym}"
    way = lambda label: [*[matrix(f"{name}{label}w{g}", (5, 4), "i8") for g in range(4)], *[matrix(f"{name}{label}r{g}", (5, 5), "i8") for g in range(4)],
                         None, None, None, *[vector(f"{name}{label}b{g}", 5) for g in range(4)], None, None]
    op(name, "BIDIRECTIONAL_SEQUENCE_LSTM",
       [T("f32", (3, 2, 4), low=-1, high=1), *way("f"), *way("b"), *[memory(2, 5) for _ in range(4)], *[None] * 9], [T("f32", (3, 2, 5)) for _ in range(2)],
       ("BidirectionalSequenceLSTMOptions", {"fusedActivationFunction": 4, "timeMajor": True, "asymmetricQuantizeInputs": asym}), runs=2)

# LiteRT reads the slopes of 16-bit activations as bytes.
op("prelu_i16", "PRELU", [T("i16", (4, 6), (0.0011, 0)), weights("prelu_i16", "i8", (1, 6), (0.01, 0))], [T("i16", (4, 6), (0.0017, 0))])
