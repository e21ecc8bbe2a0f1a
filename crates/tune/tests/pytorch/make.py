"""Writes what PyTorch computes when it trains two small models, for tests/pytorch.rs.

    python make.py     (needs torch, transformers and onnx)

distil.npz: scores of a student and of a teacher, hidden values of both and a projection between them,
with the loss of a distillation and its gradients. optimisers.npz: three tensors, random gradients for twenty steps, and what each optimiser makes of them.
llama.npz: the random Llama of crates/lm/tests/hf/llama on two sequences. mobilenet.onnx and
mobilenet.npz: a MobileNetV2 (arXiv 1801.04381, table 2) of a tenth of the width, on random images, its
batch normalisation by the batch. That is computed in double precision: in single, twenty steps of
PyTorch itself differ by hundredths from those in double. Both archives have the batch; gradient/NAME,
the gradients before the first step; trained/NAME, what is trained after the last of twenty of AdamW; and
the loss of every step. Names are those of Kinglet's graphs.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
import transformers
from onnx import TensorProto, helper, numpy_helper
from torch import nn

HERE = Path(__file__).parent
LLAMA = HERE / "../../../lm/tests/hf/llama"
STEPS = 20


class Lion(torch.optim.Optimizer):
    """As the paper says (arXiv 2302.06675, algorithm 2)."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                update = (beta1 * m + (1 - beta1) * p.grad).sign()
                p.sub_(group["lr"] * (update + group["weight_decay"] * p))
                m.mul_(beta2).add_(p.grad, alpha=1 - beta2)


def optimisers():
    makers = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
        "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
        "adam_w": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        "lion": lambda p: Lion(p, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1),
        "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05, weight_decay=0.1),
    }
    random = np.random.default_rng(3)
    shapes = [(5, 3), (7,), (2, 3, 4)]
    start = [random.standard_normal(s).astype(np.float32) for s in shapes]
    steps = [random.standard_normal((STEPS, *s)).astype(np.float32) for s in shapes]
    out = {f"start/{i}": p for i, p in enumerate(start)}
    out |= {f"gradients/{i}": g for i, g in enumerate(steps)}
    for clip in [None, 4.0]:
        for name, make in makers.items():
            params = [nn.Parameter(torch.tensor(p)) for p in start]
            optimiser = make(params)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda t: min(1, (t + 1) / 5))
            for t in range(STEPS):
                for p, g in zip(params, steps):
                    p.grad = torch.tensor(g[t])
                if clip:
                    nn.utils.clip_grad_norm_(params, clip)
                optimiser.step()
                schedule.step()
            for i, p in enumerate(params):
                out[f"{name}{'_clipped' if clip else ''}/{i}"] = p.detach().numpy()
    np.savez_compressed(HERE / "optimisers.npz", **out)


def distil():
    random = np.random.default_rng(8)
    rows, classes, own, theirs = 6, 11, 3, 5
    floats = lambda *dims: random.standard_normal(dims).astype(np.float32)
    out = {
        "scores": 3 * floats(rows, classes), "teacher": 3 * floats(rows, classes),
        "hidden": floats(rows, own), "wanted": floats(rows, theirs),
        "projection": floats(theirs, own), "targets": np.int32([3, 0, -100, 10, 7, -100]),
    }
    weight, temperature, features = 0.3, 2.5, 0.7
    trained = {name: torch.tensor(out[name], requires_grad=True)
               for name in ["scores", "hidden", "projection"]}
    teacher, targets = torch.tensor(out["teacher"]), torch.tensor(out["targets"]).long()
    counts = targets != -100
    hard = F.cross_entropy(trained["scores"], targets, ignore_index=-100)
    soft = F.kl_div(F.log_softmax(trained["scores"][counts] / temperature, dim=1),
                    F.log_softmax(teacher[counts] / temperature, dim=1),
                    reduction="batchmean", log_target=True)
    off = F.mse_loss(trained["hidden"][counts] @ trained["projection"].T,
                     torch.tensor(out["wanted"])[counts])
    loss = (1 - weight) * hard + weight * temperature**2 * soft + features * off
    loss.backward()
    out |= {f"gradient/{name}": p.grad.numpy() for name, p in trained.items()}
    numbers = {"loss": loss.item(), "weight": weight, "temperature": temperature, "features": features}
    out |= {name: np.float32(number) for name, number in numbers.items()}
    np.savez_compressed(HERE / "distil.npz", **out)


def train(out, named, loss_of, optimiser):
    losses = []
    for step in range(STEPS):
        optimiser.zero_grad()
        loss = loss_of()
        loss.backward()
        if step == 0:
            for name, p in named.items():
                out[f"gradient/{name}"] = p.grad.float().numpy().copy()
        optimiser.step()
        losses.append(loss.item())
    out["loss"] = np.float32(losses)
    for name, p in named.items():
        out[f"trained/{name}"] = p.detach().float().numpy()
    print(losses[0], losses[-1])


def llama():
    parts = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}

    def name(theirs):
        theirs = theirs.removesuffix(".weight")
        if theirs in whole:
            return f"{whole[theirs]}.weight"
        _, _, layer, part = theirs.split(".", 3)
        return f"blk.{layer}.{parts[part]}.weight"

    random = np.random.default_rng(11)
    lengths = [9, 6]
    tokens = [random.integers(0, 96, n) for n in lengths]
    targets = [np.append(t[1:], -100) for t in tokens]
    # A prompt that is not learned.
    targets[1][:2] = -100
    out = {
        "tokens": np.concatenate(tokens).astype(np.int32),
        "targets": np.concatenate(targets).astype(np.int32),
        "lengths": np.int32(lengths),
    }

    model = transformers.LlamaForCausalLM.from_pretrained(LLAMA, dtype=torch.float32)
    named = {name(n): p for n, p in model.named_parameters()}
    batch = [torch.tensor(t)[None] for t in tokens]
    labels = torch.tensor(np.concatenate(targets))

    def loss():
        logits = torch.cat([model(t).logits[0] for t in batch])
        return F.cross_entropy(logits, labels, ignore_index=-100)

    train(out, named, loss, torch.optim.AdamW(named.values(), lr=2e-3, weight_decay=0.1))
    np.savez_compressed(HERE / "llama.npz", **out)


class MobileNet(nn.Module):
    """Remembers what it does, to be written as an ONNX graph."""

    STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1)]
    # Epsilon is a number that singles hold too.
    CLASSES, HEAD, EPSILON, MOMENTUM = 7, 48, 2.0**-10, 0.9

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict()
        self.plan = []
        width = self.unit("stem", 3, 8, 3, 2)
        for i, (t, c, n, s) in enumerate(self.STAGES):
            c = max(8, int(c * 0.1 + 4) // 8 * 8)
            for j in range(n):
                before, name = width, f"b{i}_{j}"
                self.plan.append(("begin",))
                if t > 1:
                    width = self.unit(f"{name}_up", width, width * t, 1, 1)
                self.unit(f"{name}_deep", width, width, 3, s if j == 0 else 1, groups=width)
                width = self.unit(f"{name}_down", width, c, 1, 1, active=False)
                self.plan.append(("add",) if before == width and (s == 1 or j > 0) else ("end",))
        width = self.unit("head", width, self.HEAD, 1, 1)
        self.layers["classes"] = nn.Linear(width, self.CLASSES)

    def unit(self, name, i, o, kernel, stride, groups=1, active=True):
        self.layers[name] = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.layers[f"{name}_norm"] = nn.BatchNorm2d(o, eps=self.EPSILON, momentum=1 - self.MOMENTUM)
        self.plan.append(("unit", name, active))
        return o

    def forward(self, x):
        kept = []
        for what, *more in self.plan:
            if what == "begin":
                kept.append(x)
            elif what == "unit":
                name, active = more
                x = self.layers[f"{name}_norm"](self.layers[name](x))
                x = F.relu6(x) if active else x
            else:
                before = kept.pop()
                x = x + before if what == "add" else x
        return self.layers["classes"](x.mean((2, 3)))

    def onnx(self, shape):
        nodes, weights = [], []

        def constant(name, value):
            value = value.detach().numpy().astype(np.float32)
            weights.append(numpy_helper.from_array(value, name))
            return name

        def node(kind, inputs, outputs, **attributes):
            nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
            return outputs[0]

        constant("zero", torch.tensor(0.0))
        constant("six", torch.tensor(6.0))
        x, kept = "x", []
        for what, *more in self.plan:
            if what == "begin":
                kept.append(x)
            elif what == "unit":
                name, active = more
                conv, norm = self.layers[name], self.layers[f"{name}_norm"]
                weight = constant(f"{name}.weight", conv.weight)
                x = node("Conv", [x, weight], [f"{name}.conv"], strides=conv.stride,
                         pads=conv.padding * 2, group=conv.groups)
                vectors = [constant(f"{name}_norm.{part}", getattr(norm, part))
                           for part in ["weight", "bias", "running_mean", "running_var"]]
                outputs = [f"{name}.normed", f"{name}.mean", f"{name}.var"]
                x = node("BatchNormalization", [x, *vectors], outputs, epsilon=self.EPSILON,
                         momentum=self.MOMENTUM, training_mode=1)
                if active:
                    x = node("Clip", [x, "zero", "six"], [f"{name}.active"])
            else:
                before = kept.pop()
                x = node("Add", [x, before], [f"{x}.sum"]) if what == "add" else x
        x = node("GlobalAveragePool", [x], ["pooled"])
        x = node("Flatten", [x], ["features"])
        last = self.layers["classes"]
        weight, bias = constant("classes.weight", last.weight), constant("classes.bias", last.bias)
        x = node("Gemm", [x, weight, bias], ["logits"], transB=1)
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes, "mobilenet_v2", [value("x", TensorProto.FLOAT, shape)],
            [value(x, TensorProto.FLOAT, [shape[0], self.CLASSES])], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def mobilenet():
    torch.manual_seed(5)
    x = torch.randn(6, 3, 32, 32)
    targets = torch.tensor([0, 3, 6, 1, 2, 5])
    model = MobileNet()
    for layer in model.layers.values():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.7, 1.3)
            nn.init.uniform_(layer.bias, -0.2, 0.4)
    onnx.save(model.onnx(x.shape), HERE / "mobilenet.onnx")
    named = {n.removeprefix("layers."): p for n, p in model.named_parameters()}
    out = {"x": x.numpy(), "targets": targets.numpy()}
    model, x = model.double(), x.double()
    train(out, named, lambda: F.cross_entropy(model(x), targets),
          torch.optim.AdamW(named.values(), lr=2.0**-10))
    np.savez_compressed(HERE / "mobilenet.npz", **out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    distil()
    optimisers()
    llama()
    mobilenet()
